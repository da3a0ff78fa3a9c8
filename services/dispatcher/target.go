package dispatcher

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/secret"
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
	signer *signer
	body   body

	id, timestamp, signature, attempt, eventID, traceparent, contentType []string
}

type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

func newRequest(custom map[string]string, credentials subscription.Credentials, userAgent string) *request {
	q := &request{header: make(http.Header, 12+len(custom)), signer: newSigner(credentials.Signing)}
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
	q.signature[0] = q.signer.sign(d.ID, q.timestamp[0], d.Body)
	for name, value := range d.Headers {
		q.header[http.CanonicalHeaderKey(name)] = []string{value}
	}
}

// httpRequest returns the request as net/http wants it.
func (q *request) httpRequest(ctx context.Context, t *target, d *event.Delivery) *http.Request {
	u := t.url
	if d.Query != "" {
		with := *u
		if with.RawQuery != "" {
			with.RawQuery += "&"
		}
		with.RawQuery += d.Query
		u = &with
	}
	method := d.Method
	if method == "" {
		method = http.MethodPost
	}
	r := &http.Request{
		Method: method, URL: u, Host: u.Host, Header: q.header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if len(d.Body) > 0 {
		q.body.Reset(d.Body)
		payload := d.Body
		r.Body = &q.body
		r.ContentLength = int64(len(payload))
		// A kept connection that the endpoint has closed meanwhile is replaced by the transport, which then needs the
		// body again, while the failed write may still be reading the first one.
		r.GetBody = func() (io.ReadCloser, error) {
			again := &body{}
			again.Reset(payload)
			return again, nil
		}
	}
	return r.WithContext(ctx)
}

// reusable says whether the request's parts may serve again: nothing of net/http may still be reading them, which only a
// complete answer proves.
func (q *request) reusable(d *event.Delivery) bool { return len(d.Headers) == 0 }

// masked writes the headers as they may be recorded.
func (t *target) masked(dst map[string]string, h http.Header) {
	clear(dst)
	for name, values := range h {
		switch {
		case len(values) == 0:
		case slices.Contains(t.secrets, name):
			dst[name] = "***"
		default:
			dst[name] = values[0]
		}
	}
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
	header    http.Header
	body      []byte // in the worker's buffer
	truncated bool
	started   time.Time
	firstByte time.Duration
	took      time.Duration
}

// send makes one request within the target's timeout and reads its answer into buf.
func (t *target) send(ctx context.Context, client *egress.Client, d *event.Delivery, q *request, buf []byte) answer {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	a := answer{started: time.Now()}
	resp, err := client.RoundTrip(q.httpRequest(ctx, t, d))
	a.firstByte = time.Since(a.started)
	if err != nil {
		a.err, a.took = err, a.firstByte
		return a
	}
	n, truncated, err := egress.ReadBody(resp, buf)
	a.took = time.Since(a.started)
	a.status, a.header, a.body, a.truncated, a.err = resp.StatusCode, resp.Header, buf[:n], truncated, err
	if value := resp.Header.Get("Retry-After"); value != "" {
		a.retryAfter = parseRetryAfter(value, a.started.Add(a.took))
	}
	return a
}
