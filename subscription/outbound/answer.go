package outbound

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/schemas/event"
)

// MaxBody is how much of an answer's body is kept, in bytes.
const MaxBody = 16 << 10

// Bounds of what is recorded of an answer's headers.
const (
	keptHeaders     = 64
	keptHeaderBytes = 8 << 10
)

// Answer is what came of a request. Header and Err may hold secrets that the endpoint sent back; what RecordHeader,
// ErrorText and the other members give does not.
type Answer struct {
	// Method and URL are those of the request; the values of the URL's query are masked, and what the delivery added to
	// it is left out.
	Method, URL string
	// Status of the answer; 0 where none came.
	Status int
	// Header of the answer, as it came: RecordHeader says what may be recorded of it.
	Header http.Header
	// Body is in the attempt's buffer; Truncated says that it was longer.
	Body      []byte
	Truncated bool
	// Started is when the request began; it took Took to the end of the body, FirstByte to the answer's headers, and
	// Connect of that to open a connection (0 where one was there).
	Started                  time.Time
	Took, Connect, FirstByte time.Duration
	// Err says why no answer came, or, beside a status, why its body could not be read to its end. It is an *egress.Error,
	// of ClassOAuth2 where there was no access token to make the request with.
	Err error
	// TokenRefused says that the endpoint did not take the access token (401), which says nothing about the delivery: the
	// next attempt has another one.
	TokenRefused bool

	target  *Target
	request *request
	echoes  echoes
}

// errTokenLate is why a request is not made although there is a token for it by now.
var errTokenLate = errors.New("the token endpoint took so long that too little time was left for the request; the next attempt has its token")

// leastTime is what has to be left of a timeout for a request to be made: cut shorter, it would end as the endpoint's
// timeout, which it isn't.
func leastTime(timeout time.Duration) time.Duration { return min(time.Second, timeout/4) }

// Send makes one request for a delivery, to where its type is routed, and reads the answer, all within the
// subscription's timeout or until ctx ends. Waiting for an access token counts; where that takes nearly all of the time,
// no request is made.
func (t *Target) Send(ctx context.Context, d *event.Delivery, o Attempt) Answer {
	a := Answer{target: t, echoes: t.echoes, Started: time.Now()}
	to, err := t.endpointOf(d.EventType)
	if err != nil {
		a.Err = &egress.Error{Class: egress.ClassInvalid, Op: "request", Err: err}
		return a
	}
	timeout, token := t.timeout, ""
	if t.tokens != nil {
		began := t.sender.opts.Now()
		token, a.Err = t.tokens.get(ctx, timeout)
		a.Took = t.sender.opts.Now().Sub(began)
		if timeout -= a.Took; a.Err == nil && timeout < leastTime(t.timeout) {
			a.Err = tokenError(errTokenLate)
		}
	}
	q := t.requests.Get().(*request)
	q.fill(t, to, d, o, token)
	a.request, a.Method, a.URL = q, q.out.Method, to.recorded
	if a.Err != nil {
		return a
	}
	a.echoes = a.echoes.and(token)
	buf := o.Buffer
	if buf == nil {
		buf = make([]byte, MaxBody)
	}
	a.Started = time.Now()
	got, err := t.client.Exchange(ctx, &q.out, timeout, buf)
	a.Took = time.Since(a.Started)
	if err != nil {
		a.Err = err
		return a
	}
	a.Status, a.Header, a.Body, a.Truncated, a.Err = got.Status, got.Header, got.Body, got.Truncated, got.Err
	a.FirstByte, a.Connect = got.FirstByte, got.Connect
	a.echoes.body(a.Body)
	if t.tokens != nil {
		if a.TokenRefused = a.Status == http.StatusUnauthorized; a.TokenRefused {
			t.tokens.refuse(token)
		} else {
			t.tokens.accept()
		}
	}
	return a
}

// RequestHeader returns the headers that were sent, secrets masked. The map lasts until Release.
func (a *Answer) RequestHeader() map[string]string {
	if a.request == nil {
		return nil
	}
	return a.request.record(a.target)
}

// Release gives the parts of the request back for the next one. It need not be called, and nothing that the Answer
// returned about its request may be used after it.
func (a *Answer) Release() {
	// Without an answer the request may still be on its way out.
	if a.request != nil && a.Status != 0 {
		a.request.forget()
		a.target.requests.Put(a.request)
	}
	a.request = nil
}

// RecordHeader writes the answer's headers to dst, up to a bound.
func (a *Answer) RecordHeader(dst map[string]string) {
	clear(dst)
	size := 0
	for name, values := range a.Header {
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
		dst[name] = a.echoes.text(value)
	}
}

// ErrorText is what may be recorded of Err, "" for none. An error may repeat what an endpoint sent, whatever and however
// much that was.
func (a *Answer) ErrorText() string {
	if a.Err == nil {
		return ""
	}
	const longest = 500
	text := a.echoes.text(a.Err.Error())
	text = text[:min(len(text), longest)]
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// Prepared is a request as Send would make it, to be shown: the values of secret headers are masked.
type Prepared struct {
	Method string
	URL    string
	Header http.Header
	Body   []byte
}

// Prepare returns the request that Send would make, and makes none. An error says that the delivery's URL does not parse.
func (t *Target) Prepare(d *event.Delivery, o Attempt) (Prepared, error) {
	to, err := t.endpointOf(d.EventType)
	if err != nil {
		return Prepared{}, err
	}
	q := t.newRequest()
	q.fill(t, to, d, o, mask)
	return Prepared{Method: q.out.Method, URL: q.out.URL.String(), Header: t.recordedHeader(q.header), Body: q.out.Body}, nil
}
