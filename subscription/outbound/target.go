package outbound

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

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
	secrets     []string // headers whose values are masked
	requests    sync.Pool

	endpoint *endpoint
	fixed    bool     // the endpoint is what At was given, so routes don't count
	routed   sync.Map // of *endpoint by the URL that a route leads to: as many as there are routes
}

// endpoint is where a request goes.
type endpoint struct {
	url *url.URL
	// recorded is the URL as it may be recorded: the values of its query, in which some endpoints want a key, are masked.
	recorded string
}

func newEndpoint(raw string) (*endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("the URL does not parse") // the error of url.Parse repeats it
	}
	return &endpoint{url: u, recorded: recordedURL(u)}, nil
}

// Target opens the subscription's secrets and prepares its requests. The error is one of opening them, or of a URL that
// does not parse.
func (s *Sender) Target(sub *subscription.Subscription, box *secret.Box) (*Target, error) {
	to, err := newEndpoint(sub.URL)
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", sub.ID, err)
	}
	credentials, err := sub.Open(box)
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(sub.Request.Timeout)
	if timeout <= 0 {
		timeout = subscription.DefaultTimeout
	}
	t := &Target{
		sender: s, sub: sub, credentials: credentials, timeout: min(timeout, maxTimeout), client: s.client,
		secrets: sub.SecretHeaders(), endpoint: to,
	}
	t.requests.New = func() any { return t.newRequest() }
	return t, nil
}

// At returns a Target for another URL of the same subscription, whatever its routes: one that is to be verified. It
// lasts as long as t.
func (t *Target) At(raw string) (*Target, error) {
	to, err := newEndpoint(raw)
	if err != nil {
		return nil, fmt.Errorf("subscription %s: %w", t.sub.ID, err)
	}
	at := &Target{
		sender: t.sender, sub: t.sub, credentials: t.credentials, timeout: t.timeout, client: t.client, secrets: t.secrets,
		endpoint: to, fixed: true,
	}
	at.requests.New = func() any { return at.newRequest() }
	return at, nil
}

// Close closes the connections that are this Target's alone. Requests under way are not ended.
func (t *Target) Close() {}

// Host is the host that most of the subscription's events go to, for logs and traces.
func (t *Target) Host() string { return t.endpoint.url.Host }

// endpointOf is where events of a type go.
func (t *Target) endpointOf(eventType string) (*endpoint, error) {
	if t.fixed || len(t.sub.Request.Routes) == 0 {
		return t.endpoint, nil
	}
	return t.endpoint, nil
}

// masked says whether a header's value is a secret.
func (t *Target) masked(name string) bool {
	return name == "Authorization" || slices.Contains(t.secrets, name)
}

// mask stands for a secret's value.
const mask = "***"

// recordedURL is a URL with the values of its query masked.
func recordedURL(u *url.URL) string {
	if u.RawQuery == "" {
		return u.String()
	}
	without := *u
	without.RawQuery = maskQuery(u.RawQuery)
	return without.String()
}

// recordedHeader is a header as it may be recorded.
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
