package dispatcher

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// maxTimeout bounds one attempt, whatever a subscription says.
const maxTimeout = 30 * time.Second

// subscriptionState is what a shard knows of its subscription.
type subscriptionState struct {
	target  atomic.Pointer[target]
	checked atomic.Int64 // newest version that a delivery carried and the feed was read to its end for
}

// target is one version of a subscription, made ready to be sent to. It is immutable but for its pool.
type target struct {
	compiled *subscription.Compiled
	sub      *subscription.Subscription
	url      *url.URL
	urlText  string
	timeout  time.Duration
	secrets  []string // headers whose values are masked
	requests sync.Pool
}

// newTarget opens the subscription's secrets and prepares its requests.
func newTarget(c *subscription.Compiled, box *secret.Box, userAgent string) (*target, error) {
	sub := c.Subscription
	u, err := url.Parse(sub.URL)
	if err != nil {
		return nil, fmt.Errorf("parse the URL of subscription %s: %w", c.ID, err)
	}
	credentials, err := sub.Open(box)
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(sub.Request.Timeout)
	if timeout <= 0 {
		timeout = subscription.DefaultTimeout
	}
	t := &target{
		compiled: c, sub: sub, url: u, urlText: u.String(), timeout: min(timeout, maxTimeout), secrets: sub.SecretHeaders(),
	}
	t.requests.New = func() any {
		return newRequest(sub.Request.Headers, credentials, userAgent)
	}
	return t, nil
}

// request is the part of an HTTP request that is used again for the next one to the same target. Each header that
// changes has one slot, which stands in the header map and is written in place.
type request struct {
	header http.Header
	signer *webhook.Signer
	out    egress.Request
	// recorded is the header as it may be recorded; exact says that only what changes each time has to be set.
	recorded map[string]string
	exact    bool

	id, timestamp, signature, attempt, eventID, traceparent, contentType []string
}

func newRequest(custom map[string]string, credentials subscription.Credentials, userAgent string) *request {
	q := &request{header: make(http.Header, 12+len(custom)), signer: webhook.NewSigner(credentials.Signing), recorded: map[string]string{}}
	for name, value := range custom {
		q.header.Set(name, value)
	}
	credentials.Authorize(q.header)
	slot := func(name string) []string {
		s := []string{""}
		q.header[name] = s
		return s
	}
	slot("User-Agent")[0] = userAgent
	q.id, q.timestamp, q.attempt = slot("Webhook-Id"), slot("Webhook-Timestamp"), slot("Webhook-Attempt")
	q.eventID, q.traceparent, q.contentType = slot("X-Event-Id"), slot("Traceparent"), slot("Content-Type")
	q.signature = []string{""}
	if len(credentials.Signing) > 0 {
		q.header["Webhook-Signature"] = q.signature
	}
	return q
}

// fill writes one delivery into the headers. What doesn't change from one attempt to the next is the delivery's, what does
// is the caller's.
func (q *request) fill(d *event.Delivery, attempt int, traceparent string, now time.Time) {
	q.id[0], q.eventID[0], q.traceparent[0] = d.ID, d.EventID, traceparent
	q.timestamp[0], q.attempt[0] = strconv.FormatInt(now.Unix(), 10), strconv.Itoa(attempt)
	q.contentType[0] = d.ContentType
	if d.ContentType == "" {
		q.contentType[0] = "application/json"
	}
	if traceparent == "" {
		delete(q.header, "Traceparent")
	} else {
		q.header["Traceparent"] = q.traceparent
	}
	if d.ReplayID != "" {
		q.header["Webhook-Replay"] = []string{d.ReplayID}
	} else {
		delete(q.header, "Webhook-Replay")
	}
	q.signature[0] = q.signer.Sign(d.ID, q.timestamp[0], d.Body)
	for name, value := range d.Headers {
		q.header[http.CanonicalHeaderKey(name)] = []string{value}
	}
}

// request returns what is sent.
func (q *request) request(t *target, d *event.Delivery) *egress.Request {
	q.out.URL, q.out.Method, q.out.Header, q.out.Body = t.url, d.Method, q.header, d.Body
	if d.Method == "" {
		q.out.Method = http.MethodPost
	}
	if d.Query != "" {
		with := *t.url
		if with.RawQuery != "" {
			with.RawQuery += "&"
		}
		with.RawQuery += d.Query
		q.out.URL = &with
	}
	return &q.out
}

// reusable says whether the request's parts may serve again after an answer has come: not where the delivery brought headers
// of its own.
func (q *request) reusable(d *event.Delivery) bool { return len(d.Headers) == 0 }

// record returns the headers as they may be recorded: secrets masked. The map is the request's and lasts until its next use.
func (q *request) record(t *target) map[string]string {
	if q.exact && q.traceparent[0] != "" && q.header["Webhook-Replay"] == nil {
		q.recorded["Webhook-Id"], q.recorded["Webhook-Timestamp"], q.recorded["Webhook-Attempt"] = q.id[0], q.timestamp[0], q.attempt[0]
		q.recorded["X-Event-Id"], q.recorded["Traceparent"], q.recorded["Content-Type"] = q.eventID[0], q.traceparent[0], q.contentType[0]
		if q.signature[0] != "" {
			q.recorded["Webhook-Signature"] = q.signature[0]
		}
		return q.recorded
	}
	clear(q.recorded)
	for name, values := range q.header {
		if slices.Contains(t.secrets, name) {
			q.recorded[name] = "***"
		} else {
			q.recorded[name] = values[0]
		}
	}
	q.exact = q.traceparent[0] != "" && q.header["Webhook-Replay"] == nil
	return q.recorded
}

// Bounds of what is recorded of an answer's headers; its body is bounded by keptBody.
const (
	keptHeaders     = 64
	keptHeaderBytes = 8 << 10
	keptBody        = 16 << 10
)

// recorded writes an answer's headers, up to a bound.
func recorded(dst map[string]string, h http.Header) {
	clear(dst)
	size := 0
	for name, values := range h {
		if len(values) == 0 || len(dst) >= keptHeaders {
			continue
		}
		value := values[0]
		for _, more := range values[1:] {
			value += ", " + more
		}
		if size += len(name) + len(value); size > keptHeaderBytes {
			return
		}
		dst[name] = value
	}
}

// answer is what came back of a request.
type answer struct {
	result
	egress.Answer
	started time.Time
	took    time.Duration
}

// send makes one request within the target's timeout and reads its answer into buf.
func (t *target) send(ctx context.Context, client *egress.Client, d *event.Delivery, q *request, buf []byte) answer {
	a := answer{started: time.Now()}
	got, err := client.Exchange(ctx, q.request(t, d), t.timeout, buf)
	a.took = time.Since(a.started)
	if err != nil {
		a.err = err
		return a
	}
	a.Answer, a.status, a.err = got, got.Status, got.Err
	if value := got.Header.Get("Retry-After"); value != "" {
		a.retryAfter = parseRetryAfter(value, a.started.Add(a.took))
	}
	return a
}
