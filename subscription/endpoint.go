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

	"github.com/callstream/callstream/schemas/catalog"
)

// Limits of what a request to an endpoint is made of.
const (
	maxURL         = 2048
	maxRoutes      = 100
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

// isPath says whether a route is a path below the subscription's URL, and no URL of its own.
func isPath(route string) bool { return strings.HasPrefix(route, "/") }

// RouteFor returns the URL that events of a type are sent to: the route of the exact type, of its family ("call.*") or of
// "*", whichever is there first, else URL. A route that is a path continues URL's path, and URL's query stays behind it.
func (s *Subscription) RouteFor(eventType string) string {
	if len(s.Request.Routes) == 0 {
		return s.URL
	}
	route, ok := s.Request.Routes[eventType]
	if !ok {
		family, _, _ := strings.Cut(eventType, ".")
		if route, ok = s.Request.Routes[family+".*"]; !ok {
			route = s.Request.Routes["*"]
		}
	}
	switch {
	case route == "":
		return s.URL
	case !isPath(route):
		return route
	}
	base, query, has := strings.Cut(s.URL, "?")
	base = strings.TrimSuffix(base, "/") + route
	if !has {
		return base
	}
	return base + "?" + query
}

// validateCertified refuses plain http where a certificate is to be shown: there is nobody to show it to.
func (s *Subscription) validateCertified(dec *decoder) {
	if s.Auth.Type != AuthMTLS {
		return
	}
	const detail = "auth.type mtls needs https"
	plain := func(to string) bool { return strings.HasPrefix(Origin(to), "http:") }
	if plain(s.URL) {
		dec.fault("/url", detail)
	}
	for pattern, to := range s.Request.Routes {
		if !isPath(to) && plain(to) {
			dec.fault(pointer("/request/routes").member(pattern), detail)
		}
	}
}

func validateRoutes(dec *decoder, at pointer, routes map[string]string, rules Rules) {
	if len(routes) > maxRoutes {
		dec.faultf(at, "more than %d", maxRoutes)
		return
	}
	for pattern, route := range routes {
		if err := catalog.ValidPattern(pattern); err != nil {
			dec.fault(at.member(pattern), "no event type: "+err.Error())
			continue
		}
		if !isPath(route) {
			if detail := checkURL(route, rules); detail != "" {
				dec.fault(at.member(pattern), "want a path (\"/started\") or a URL: "+detail)
			}
			continue
		}
		if detail := pathFault(route); detail != "" {
			dec.fault(at.member(pattern), detail)
		}
	}
}

// pathFault returns why a route that begins with a slash is no path to append to a URL, or "".
func pathFault(route string) string {
	switch u, err := url.Parse(route); {
	case len(route) > maxURL:
		return "longer than " + strconv.Itoa(maxURL) + " bytes"
	case err != nil || strings.HasPrefix(route, "//") || !utf8.ValidString(route) || hasControl(route) || strings.ContainsAny(route, " \\"):
		return "not a path"
	case strings.ContainsAny(route, "?#"):
		return "a path alone: a query belongs to url, or to a route that is a whole URL"
	case slices.Contains(strings.Split(u.Path, "/"), "..") || slices.Contains(strings.Split(u.Path, "/"), "."):
		return "no . or .. in a path: what it means depends on who reads it"
	}
	return ""
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
