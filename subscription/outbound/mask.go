package outbound

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// mask stands for a secret's value.
const mask = "***"

// shortestMasked is the length from which on a secret is looked for in what an endpoint says. A shorter one would be found
// in any text.
const shortestMasked = 6

// echoes are secrets as an endpoint may send them back: quite a few answer with the headers that they got, and what they
// answer is recorded.
type echoes []string

// echoesOf returns what an endpoint learns from a request's secret headers.
func echoesOf(h http.Header, secret func(name string) bool) echoes {
	var all echoes
	add := func(s string) { all = all.and(s) }
	for name, values := range h {
		if len(values) == 0 || !secret(name) {
			continue
		}
		scheme, value, ok := strings.Cut(values[0], " ")
		if !ok || name != "Authorization" {
			add(values[0])
			continue
		}
		add(value)
		if scheme != "Basic" {
			continue
		}
		if pair, err := base64.StdEncoding.DecodeString(value); err == nil {
			_, password, _ := strings.Cut(string(pair), ":")
			add(password)
		}
	}
	return all
}

// and returns e with one more secret, as it was sent and as JSON and URLs spell it.
func (e echoes) and(secret string) echoes {
	if len(secret) < shortestMasked {
		return e
	}
	e = append(slices.Clip(e), secret)
	for _, spelling := range spellings(secret) {
		if !slices.Contains(e, spelling) {
			e = append(e, spelling)
		}
	}
	return e
}

// spellings are those of a secret in what usual libraries write: JSON with and without an escaped slash and the characters
// of HTML, and the percent-encodings, with either case of digits.
func spellings(secret string) []string {
	encode := func(html bool) string {
		var b strings.Builder
		encoder := json.NewEncoder(&b)
		encoder.SetEscapeHTML(html)
		if encoder.Encode(secret) != nil {
			return secret
		}
		return b.String()[1 : b.Len()-len("\"\n")]
	}
	plain, html := encode(false), encode(true)
	query, path := url.QueryEscape(secret), url.PathEscape(secret)
	strict := strings.ReplaceAll(query, "+", "%20")
	all := []string{plain, html, query, path, strict}
	for _, text := range []string{plain, html} {
		all = append(all, strings.ReplaceAll(text, "/", `\/`))
	}
	for _, text := range []string{query, path, strict} {
		all = append(all, lowerHex(text))
	}
	return all
}

// lowerHex writes the digits of percent-encoded bytes in lower case.
func lowerHex(s string) string {
	b := []byte(s)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '%' {
			copy(b[i+1:], bytes.ToLower(b[i+1:i+3]))
		}
	}
	return string(b)
}

// body masks in place, with as many characters: what is shown of an answer keeps its length.
func (e echoes) body(b []byte) {
	for _, secret := range e {
		for rest := b; ; {
			i := bytes.Index(rest, []byte(secret))
			if i < 0 {
				break
			}
			for j := range len(secret) {
				rest[i+j] = '*'
			}
			rest = rest[i+len(secret):]
		}
	}
}

// text masks a copy.
func (e echoes) text(s string) string {
	for _, secret := range e {
		s = strings.ReplaceAll(s, secret, mask)
	}
	return s
}

// recordedURL is a URL with the values of its query masked, in which some endpoints want a key.
func recordedURL(u *url.URL) string {
	if u.RawQuery == "" {
		return u.String()
	}
	pairs := strings.Split(u.RawQuery, "&")
	for i, pair := range pairs {
		if name, _, ok := strings.Cut(pair, "="); ok {
			pairs[i] = name + "=" + mask
		} else if pair != "" {
			pairs[i] = mask
		}
	}
	masked := *u
	masked.RawQuery = strings.Join(pairs, "&")
	return masked.String()
}
