package outbound

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/subscription"
)

// maxTimeout bounds one attempt, whatever a subscription says.
const maxTimeout = 30 * time.Second

// Target is one version of a subscription, made ready to be sent to: its secrets are open. It is safe for concurrent use.
type Target struct {
	sender      *Sender
	sub         *subscription.Subscription
	credentials subscription.Credentials
	timeout     time.Duration
	client      *egress.Client
	own         bool     // the client is this subscription's alone
	tokens      *tokens  // nil without OAuth2
	secrets     []string // headers whose values are masked
	echoes      echoes   // their values
	requests    sync.Pool

	endpoint *endpoint
	fixed    bool     // the endpoint is what At was given: routes don't count
	fallback bool     // it is the fallback's, which gets none of the primary's authentication
	routed   sync.Map // of *endpoint by the URL that a route leads to: as many as there are routes
}

// endpoint is where a request goes.
type endpoint struct {
	url      *url.URL
	recorded string // the URL as it may be recorded
}

func newEndpoint(raw string) (*endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("the URL does not parse") // the error of url.Parse repeats it
	}
	u.RawQuery = asciiOnly(u.RawQuery)
	return &endpoint{url: u, recorded: recordedURL(u)}, nil
}

// asciiOnly percent-encodes the bytes of a query that have no place in a URL as they are (RFC 3986). What is encoded
// already stays as it is.
func asciiOnly(query string) string {
	if !strings.ContainsFunc(query, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return query
	}
	var out strings.Builder
	for i := range len(query) {
		if c := query[i]; c >= utf8.RuneSelf {
			fmt.Fprintf(&out, "%%%02X", c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

// Target opens the subscription's secrets and prepares its requests. It serves one version of the subscription, until
// Expired, and is closed after that. The error is one of opening the secrets, or of a URL that does not parse.
func (s *Sender) Target(sub *subscription.Subscription, box *secret.Box) (*Target, error) {
	t, err := s.target(sub, box, sub.URL)
	if err != nil {
		return nil, err
	}
	if grant, ok := t.credentials.OAuth2(); ok {
		if t.tokens, err = newTokens(s, grant); err != nil {
			return nil, fmt.Errorf("subscription %s: %w", sub.ID, err)
		}
	}
	if certificate, ok := t.credentials.Certificate(); ok {
		idle := s.opts.Egress.MaxIdlePerHost
		if n := sub.MaxInFlight; n > 0 && n < idle {
			idle = n
		}
		t.client, t.own = s.client.WithCertificate(certificate, idle), true
	}
	t.prepare()
	return t, nil
}

// Fallback is Target for the subscription's fallback_url, which must not be empty: whatever the routes, and without any of the
// authentication that is meant for the others.
func (s *Sender) Fallback(sub *subscription.Subscription, box *secret.Box) (*Target, error) {
	t, err := s.target(sub, box, sub.FallbackURL)
	if err != nil {
		return nil, err
	}
	t.fixed, t.fallback = true, true
	t.prepare()
	return t, nil
}

// target opens the secrets and makes what every Target has.
func (s *Sender) target(sub *subscription.Subscription, box *secret.Box, raw string) (*Target, error) {
	credentials, err := sub.Open(box, s.opts.Now())
	if err != nil {
		return nil, err
	}
	to, err := newEndpoint(raw)
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", sub.ID, err)
	}
	timeout := time.Duration(sub.Request.Timeout)
	if timeout <= 0 {
		timeout = subscription.DefaultTimeout
	}
	return &Target{
		sender: s, sub: sub, credentials: credentials, timeout: min(timeout, maxTimeout), client: s.client, secrets: sub.SecretHeaders(), endpoint: to,
	}, nil
}

// At returns a Target for one more URL of the same subscription, whatever its routes: one that is to be verified, or its
// fallback, which gets none of the authentication that is meant for the others. It shares connections and tokens with t,
// and closing either closes both.
func (t *Target) At(raw string) (*Target, error) {
	to, err := newEndpoint(raw)
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", t.sub.ID, err)
	}
	at := &Target{
		sender: t.sender, sub: t.sub, credentials: t.credentials, timeout: t.timeout, client: t.client, own: t.own, tokens: t.tokens,
		secrets: t.secrets, endpoint: to, fixed: true,
	}
	if raw != t.sub.URL && raw != t.sub.PendingURL && (raw == t.sub.FallbackURL || raw == t.sub.PendingFallbackURL) {
		at.fallback, at.client, at.own, at.tokens = true, t.sender.client, false, nil
	}
	at.prepare()
	return at, nil
}

func (t *Target) prepare() {
	t.requests.New = func() any { return t.newRequest() }
	t.echoes = echoesOf(t.newRequest().header, t.masked)
}

// Expired says that the Target must be replaced by a new one, although the subscription's version is the same: a signing
// key has ended.
func (t *Target) Expired() bool {
	end := t.credentials.Expires()
	return !end.IsZero() && !t.sender.opts.Now().Before(end)
}

// Close closes the connections that are this subscription's alone. Requests that are under way are not ended, and leave no
// connection behind.
func (t *Target) Close() {
	if t.own {
		t.client.Close()
	}
}

// Host is where events of a type go, for logs and traces: "example.com:8443".
func (t *Target) Host(eventType string) string {
	if to, err := t.endpointOf(eventType); err == nil {
		return to.url.Host
	}
	return ""
}

// endpointOf is where events of a type go.
func (t *Target) endpointOf(eventType string) (*endpoint, error) {
	if t.fixed || len(t.sub.Request.Routes) == 0 {
		return t.endpoint, nil
	}
	raw := t.sub.RouteFor(eventType)
	if known, ok := t.routed.Load(raw); ok {
		return known.(*endpoint), nil
	}
	to, err := newEndpoint(raw)
	if err != nil {
		return nil, fmt.Errorf("the route of %s: %w", eventType, err)
	}
	t.routed.Store(raw, to)
	return to, nil
}

// masked says whether a header's value is a secret.
func (t *Target) masked(name string) bool { return slices.Contains(t.secrets, name) }

// recordedHeader is a header as it may be shown.
func (t *Target) recordedHeader(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if t.masked(name) {
			out[name] = []string{mask}
		} else {
			out[name] = slices.Clone(values)
		}
	}
	return out
}
