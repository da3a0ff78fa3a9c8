package subscription

import (
	"crypto/rand"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what a request to an endpoint is made of.
const (
	maxURL         = 2048
	maxHeaders     = 50
	maxHeaderName  = 256
	maxHeaderValue = 4096
	maxHeaderBytes = 16 << 10
)

// checkURL returns why raw can't be an endpoint, or "".
func checkURL(raw string, rules Rules) string {
	switch {
	case raw == "":
		return "it is required"
	case len(raw) > maxURL:
		return "longer than " + strconv.Itoa(maxURL) + " bytes"
	case !utf8.ValidString(raw) || hasControl(raw) || strings.ContainsAny(raw, " \\"):
		return "not a URL: it has spaces, backslashes or control characters"
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" {
		return "not a URL"
	}
	switch {
	case u.Scheme == "http" && !rules.AllowHTTP:
		return "want https: plain http is allowed only where CALLSTREAM_ALLOW_HTTP_ENDPOINTS is set"
	case u.Scheme != "https" && u.Scheme != "http":
		return "want an https URL"
	case u.Hostname() == "":
		return "it has no host"
	case u.User != nil:
		return "no user name or password in a URL: use auth"
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return "no fragment in an endpoint's URL: it is never sent"
	case !validHost(u):
		return "not a valid host name or address"
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return "not a valid port"
		}
	}
	return ""
}

func validHost(u *url.URL) bool {
	host := u.Hostname()
	if strings.HasPrefix(u.Host, "[") {
		return net.ParseIP(host) != nil // zones name interfaces of this machine
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, r := range label {
			// Letters beyond ASCII have a form of their own in DNS (punycode); without it nothing resolves.
			if r > unicode.MaxASCII || (!unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_') {
				return false
			}
		}
	}
	return true
}

// Origin returns scheme, host and port of a URL that passed validation, in one spelling.
func Origin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), port)
}

// reservedHeaders are set by callstream or by HTTP itself. A customer's value would break the framing, the signature's
// meaning or the trace.
func reservedHeaders() []string {
	return []string{"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive",
		"upgrade", "te", "trailer", "expect", "user-agent", "accept-encoding", "traceparent", "tracestate", "x-event-id", "date", "http2-settings"}
}

// headerNameFault returns why name can't be a header of a delivery, or "".
func headerNameFault(name string) string {
	lower := strings.ToLower(name)
	switch {
	case name == "" || len(name) > maxHeaderName || strings.ContainsFunc(name, func(r rune) bool { return !tokenRune(r) }):
		return "not a header name"
	case lower == "authorization" || lower == "cookie":
		return "headers are not secret at rest: use auth"
	case slices.Contains(reservedHeaders(), lower), strings.HasPrefix(lower, "webhook-"), strings.HasPrefix(lower, "proxy-"),
		strings.HasPrefix(lower, "ce-"), strings.HasPrefix(lower, "x-callstream-"):
		return "callstream sets this header itself"
	}
	return ""
}

func tokenRune(r rune) bool {
	return r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
}

// validHeaderValue says whether v is a field value of RFC 9110 that arrives as it was written.
func validHeaderValue(v string) bool {
	return v == strings.TrimSpace(v) && !strings.ContainsFunc(v, func(r rune) bool { return (r < 32 && r != '\t') || r > 126 })
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func validateHeaders(dec *decoder, at pointer, headers map[string]string) {
	if len(headers) > maxHeaders {
		dec.faultf(at, "more than %d headers", maxHeaders)
		return
	}
	total := 0
	seen := map[string]bool{}
	for name, value := range headers {
		total += len(name) + len(value)
		if detail := headerNameFault(name); detail != "" {
			dec.fault(at.member(name), detail)
		}
		if seen[strings.ToLower(name)] {
			dec.fault(at.member(name), "given twice, in another spelling")
		}
		seen[strings.ToLower(name)] = true
		if len(value) > maxHeaderValue || !validHeaderValue(value) {
			dec.faultf(at.member(name), "want up to %d printable ASCII characters", maxHeaderValue)
		}
	}
	if total > maxHeaderBytes {
		dec.faultf(at, "more than %d bytes of headers", maxHeaderBytes)
	}
}

func randomBytes(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}
