package egress

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"
)

// errDeadline is what a connection's own deadline reports.
var errDeadline = os.ErrDeadlineExceeded

// Request is what Exchange sends.
type Request struct {
	Method string
	URL    *url.URL
	// Header must not hold Host, Content-Length, Connection or Transfer-Encoding.
	Header http.Header
	Body   []byte
}

// Answer is what came back. Body is in the caller's buffer.
type Answer struct {
	Status    int
	Header    http.Header
	Body      []byte
	Truncated bool          // the body was longer than the buffer
	FirstByte time.Duration // until the answer's headers had come
	// Connect is how long it took to open a connection, 0 where one was there. Over HTTP/2 it is not known, and 0.
	Connect time.Duration
	// Err says that the body could not be read to its end; the status has come all the same. It is an *Error.
	Err error
}

// Exchange sends a request and reads the answer, its body into buf, all within timeout: what a webhook needs, and
// cheaper than net/http, because the caller's goroutine does all of it where the endpoint speaks HTTP/1.1. An endpoint
// that speaks HTTP/2 gets that. An error means that no answer came; it is an *Error. Once Exchange has returned, nothing
// reads the request's header and body any more, unless it returned an error.
func (c *Client) Exchange(ctx context.Context, r *Request, timeout time.Duration, buf []byte) (Answer, error) {
	if err := c.CheckURL(r.URL); err != nil {
		return Answer{}, err
	}
	if r.URL.Scheme == "http" || c.speaksHTTP1(r.URL.Host) {
		a, err := c.http1.exchange(ctx, r, time.Now().Add(timeout), buf)
		if err != nil && ClassOf(err) == ClassTLS {
			c.forgetHTTP1(r.URL.Host) // it may have come to speak something else
		}
		return a, err
	}
	if _, err := r.head(nil); err != nil { // the transport would refuse it too, but not say so in our classes
		return Answer{}, &Error{ClassInvalid, "request", err}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req := &http.Request{
		// The transport may be reading the header still when the answer of a hasty endpoint has come.
		Method: r.Method, URL: r.URL, Host: r.URL.Host, Header: r.Header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if req.Header == nil {
		req.Header = http.Header{} // the transport wants one
	}
	if len(r.Body) > 0 {
		req.ContentLength = int64(len(r.Body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
		req.Body = io.NopCloser(bytes.NewReader(r.Body))
	}
	start := time.Now()
	resp, err := c.roundTrip(req.WithContext(ctx))
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := Answer{Status: resp.StatusCode, Header: resp.Header, FirstByte: time.Since(start)}
	if a.Body, a.Truncated, _, err = readBody(resp, buf); err != nil {
		a.Err = &Error{classify(err), "read", err}
	}
	if resp.ProtoMajor == 1 {
		c.learnHTTP1(r.URL.Host)
	}
	return a, nil
}

// mostHosts bounds the memory of which https endpoints don't speak HTTP/2. When it is full it starts anew; nothing but
// the cheaper way is lost.
const mostHosts = 10_000

func (c *Client) speaksHTTP1(host string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.plain[host]
	return ok
}

func (c *Client) forgetHTTP1(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.plain, host)
}

func (c *Client) learnHTTP1(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.plain) >= mostHosts {
		clear(c.plain)
	}
	c.plain[host] = struct{}{}
}
