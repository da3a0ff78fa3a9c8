package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// http1 sends requests over HTTP/1.1 without net/http's Transport, which gives every connection two goroutines of its own
// and passes each request and answer between three: about half of the CPU of a small POST. Here the caller's goroutine
// writes and reads by itself, and a deadline on the connection replaces the contexts and timers. Answers are parsed by
// net/http's own http.ReadResponse.
type http1 struct {
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	tls       *tls.Config
	perHost   int
	total     int
	maxHeader int64
	crowded   func() bool // somebody waits for a connection to be closed

	mu    sync.Mutex
	idle  map[string][]*h1Conn // by origin, the one used last at the end
	count int
	// All that are idle, as a list by when they were used.
	oldest, newest *h1Conn

	reaper *time.Timer
	closed bool
}

const (
	idleTimeout = 90 * time.Second
	// checkAfter is how long a connection may have been idle and still be used without looking whether the other side has
	// closed it.
	checkAfter = 100 * time.Millisecond
	// besidesAbove is the size of a request from which on it is written beside the reading of its answer.
	besidesAbove = 64 << 10
	// writeGrace is how much longer a request may be written whose answer has come whole: an endpoint that has read it all
	// keeps its connection.
	writeGrace = 50 * time.Millisecond
)

var (
	errHeaderTooLarge = errors.New("the answer's headers are too large")
	errStale          = errors.New("the connection was closed while it was idle")
)

// h1Conn is a connection that serves one request at a time.
type h1Conn struct {
	net.Conn
	origin    string
	reader    *bufio.Reader
	left      int64 // of what may be read before the end of the headers
	broken    error // why reading ended
	out       []byte
	asked     http.Request  // what ReadResponse needs to know of the request
	connect   time.Duration // what opening it took
	idleSince time.Time
	reused    bool

	older, newer *h1Conn // while it is idle
}

// Read bounds what is read into the headers.
func (c *h1Conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		c.broken = errHeaderTooLarge
		return 0, c.broken
	}
	n, err := c.Conn.Read(p)
	c.left -= int64(n)
	c.broken = err
	return n, err
}

// exchange sends a request and reads its answer, all before the deadline.
func (h *http1) exchange(ctx context.Context, r *Request, deadline time.Time, buf []byte) (Answer, error) {
	origin := r.URL.Scheme + "://" + r.URL.Host
	start := time.Now()
	for {
		conn, err := h.get(ctx, r, origin, deadline)
		if err != nil {
			return Answer{}, err
		}
		sent, connect := time.Now(), conn.connect
		if conn.reused {
			connect = 0
		}
		a, keep, err := conn.exchange(ctx, r, deadline, h.maxHeader, buf)
		if keep {
			h.put(conn)
		} else {
			// Closing TLS would first write a farewell, for which an endpoint that reads nothing makes it wait for seconds.
			_ = beneath(conn.Conn).Close()
		}
		if errors.Is(err, errStale) && ctx.Err() == nil {
			// Not a byte of the answer came and the request could not be written whole, so the endpoint cannot have
			// taken it: what was closed is the idle connection, and another one is no second attempt.
			continue
		}
		if a.Status != 0 {
			a.FirstByte += sent.Sub(start) // so that it counts from the same moment as with net/http
		}
		a.Connect = connect
		return a, err
	}
}

// get returns an idle connection, or a new one.
func (h *http1) get(ctx context.Context, r *Request, origin string, deadline time.Time) (*h1Conn, error) {
	now := time.Now()
	for {
		h.mu.Lock()
		list := h.idle[origin]
		if len(list) == 0 {
			h.mu.Unlock()
			break
		}
		conn := list[len(list)-1]
		list[len(list)-1] = nil
		h.idle[origin] = list[:len(list)-1]
		h.unlink(conn)
		h.mu.Unlock()
		idle := now.Sub(conn.idleSince)
		if idle < checkAfter || idle < idleTimeout && stillOpen(conn.Conn) {
			conn.reused = true
			return conn, nil
		}
		_ = beneath(conn.Conn).Close()
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	port := r.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[r.URL.Scheme]
	}
	raw, err := h.dial(ctx, "tcp", net.JoinHostPort(r.URL.Hostname(), port))
	if err != nil {
		return nil, err
	}
	if r.URL.Scheme == "https" {
		cfg := h.tls.Clone()
		cfg.ServerName = r.URL.Hostname()
		cfg.NextProtos = []string{"http/1.1"}
		secure := tls.Client(raw, cfg)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, &Error{classify(err), "connect", err}
		}
		raw = secure
	}
	conn := &h1Conn{Conn: raw, origin: origin, connect: time.Since(now)}
	conn.reader = bufio.NewReaderSize(conn, 4<<10)
	return conn, nil
}

// exchange sends the request and reads the answer; keep says that the connection is good for another one.
func (c *h1Conn) exchange(ctx context.Context, r *Request, deadline time.Time, maxHeader int64, buf []byte) (a Answer, keep bool, err error) {
	start := time.Now()
	if err := c.SetDeadline(deadline); err != nil {
		return a, false, &Error{classify(err), "request", err}
	}
	// A deadline in the past ends the write or read below when the caller gives up.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			keep = false
			if err == nil && a.Err == nil {
				return // the answer was complete before
			}
		}
		if ctx.Err() != nil && err != nil {
			err = &Error{classify(ctx.Err()), "request", ctx.Err()}
		}
	}()
	if c.out, err = r.append(c.out[:0]); err != nil {
		return a, true, &Error{ClassInvalid, "request", err}
	}
	writeErr := error(nil)
	var writing chan error // while a large request is being written
	if len(c.out) <= besidesAbove {
		_, writeErr = c.Write(c.out)
	} else {
		// It may not fit into what is buffered on the way, so an endpoint that answers before it has read it, or instead,
		// would be heard only after it had been written whole.
		writing = make(chan error, 1)
		out := c.out
		go func() {
			_, err := c.Write(out)
			writing <- err
		}()
	}
	if cap(c.out) > besidesAbove {
		c.out = nil // a rare large body must not stay with every connection
	}
	if writeErr != nil && errors.Is(writeErr, errDeadline) {
		return a, false, &Error{ClassTimeout, "request", writeErr}
	}
	// settled ends the writing once the answer is there or none will come; what the endpoint has read it has read.
	settled := func() error {
		if writing != nil {
			_ = c.SetWriteDeadline(time.Now().Add(writeGrace))
			writeErr, writing = <-writing, nil
		}
		return writeErr
	}
	// An endpoint may answer before it has read everything and close; so look for an answer also after a failed write.
	c.left = maxHeader
	c.asked.Method = r.Method
	var resp *http.Response
	for {
		if _, err := c.reader.Peek(1); err != nil && resp == nil {
			if class := classify(err); class == ClassTimeout || settled() == nil || !c.reused {
				return a, false, &Error{class, "request", err}
			}
			return a, false, errStale
		}
		if writing == nil && writeErr == nil && (r.Method == http.MethodPost || r.Method == http.MethodGet) {
			arrived, _ := c.reader.Peek(c.reader.Buffered())
			if size, status, header, length := simpleHead(arrived); size > 0 {
				_, _ = c.reader.Discard(size)
				c.left = 1 << 62
				a.Status, a.Header, a.FirstByte = status, header, time.Since(start)
				return c.simpleBody(ctx, a, length, buf)
			}
		}
		// Closing the body would read an endless one to its end; the connection is closed instead.
		resp, err = http.ReadResponse(c.reader, &c.asked) //nolint:bodyclose // see above
		if err != nil {
			if c.broken != nil {
				err = c.broken // ReadResponse takes a line that was cut off for a whole one, and complains of that
			}
			return a, false, &Error{classify(err), "request", err}
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	c.left = 1 << 62
	a.Status, a.Header, a.FirstByte = resp.StatusCode, resp.Header, time.Since(start)
	var whole bool
	a.Body, a.Truncated, whole, err = readBody(resp, buf)
	if err != nil {
		// The status has come, so this is an answer.
		a.Err, err = &Error{classify(err), "read", err}, nil
		if ctx.Err() != nil {
			a.Err = &Error{classify(ctx.Err()), "read", ctx.Err()}
		}
		return a, false, nil
	}
	keep = whole && settled() == nil && !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols && c.reader.Buffered() == 0
	return a, keep, nil
}

// simpleBody reads a body of known length.
func (c *h1Conn) simpleBody(ctx context.Context, a Answer, length int, buf []byte) (Answer, bool, error) {
	n, err := io.ReadFull(c.reader, buf[:min(length, len(buf))])
	a.Body, a.Truncated = buf[:n], length > len(buf)
	rest := length - n
	if err == nil && rest > 0 && rest <= drainLimit {
		_, err = c.reader.Discard(rest)
		rest = 0
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		a.Err = &Error{classify(err), "read", err}
		return a, false, nil
	}
	return a, rest == 0 && c.reader.Buffered() == 0, nil
}

// readBody reads up to len(buf) bytes of the body, and over drainLimit more; whole says that its end was reached.
func readBody(resp *http.Response, buf []byte) (body []byte, truncated, whole bool, err error) {
	if resp.Body == http.NoBody {
		return buf[:0], false, true, nil
	}
	n := 0
	for n < len(buf) {
		m, err := resp.Body.Read(buf[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return buf[:n], false, true, nil
		}
		if err != nil {
			return buf[:n], false, false, err
		}
	}
	rest, err := io.CopyN(io.Discard, resp.Body, drainLimit)
	if errors.Is(err, io.EOF) {
		return buf[:n], rest > 0, true, nil
	}
	return buf[:n], rest > 0, false, err
}

// append writes the request as it goes over the wire.
func (r *Request) append(b []byte) ([]byte, error) {
	b, err := r.head(b)
	return append(b, r.Body...), err
}

// head writes all but the body. Its error says that the request can't be sent as it is, and names no value, which could be a
// secret.
func (r *Request) head(b []byte) ([]byte, error) {
	if !validToken(r.Method) {
		return b, fmt.Errorf("the method %q is not one", r.Method)
	}
	target := r.URL.RequestURI()
	if !validTarget(target) || !validTarget(r.URL.Host) {
		// What a parser let through may have been changed since, and a character too many would make it two requests.
		return b, errors.New("the URL has characters that none can have")
	}
	b = append(append(append(b, r.Method...), ' '), target...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), r.URL.Host...), "\r\n"...)
	for name, values := range r.Header {
		if !validToken(name) {
			return b, fmt.Errorf("the header name %q is not one", name)
		}
		for _, value := range values {
			if !validValue(value) {
				return b, fmt.Errorf("the value of the header %s has characters that none can have", name)
			}
			b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
		}
	}
	if len(r.Body) > 0 || r.Method != http.MethodGet && r.Method != http.MethodHead {
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, int64(len(r.Body)), 10), "\r\n"...)
	}
	return append(b, "\r\n"...), nil
}

func validToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '!', c == '#', c == '$', c == '%', c == '&', c == '\'', c == '*', c == '+', c == '-', c == '.', c == '^', c == '_', c == '`', c == '|', c == '~':
		default:
			return false
		}
	}
	return s != ""
}

// validTarget says whether s has no white space and no control characters, which would end it in a request.
func validTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// beneath is the connection under all TLS: to the endpoint, and to a proxy, maybe.
func beneath(c net.Conn) net.Conn {
	for {
		secure, ok := c.(*tls.Conn)
		if !ok {
			return c
		}
		c = secure.NetConn()
	}
}

// put keeps a connection for the next request to its origin. Where there are too many it takes the place of the one that was
// used the longest ago.
func (h *http1) put(c *h1Conn) {
	c.idleSince = time.Now()
	h.mu.Lock()
	list := h.idle[c.origin]
	if h.closed || len(list) >= h.perHost || h.crowded() {
		h.mu.Unlock()
		_ = beneath(c.Conn).Close()
		return
	}
	var old *h1Conn
	if h.count >= h.total {
		old = h.takeOldest()
		list = h.idle[c.origin] // it may have been of this origin
	}
	h.idle[c.origin] = append(list, c)
	h.link(c)
	if h.reaper == nil {
		h.reaper = time.AfterFunc(idleTimeout, h.reap)
	}
	h.mu.Unlock()
	if old != nil {
		_ = beneath(old.Conn).Close()
	}
}

func (h *http1) link(c *h1Conn) {
	c.older = h.newest
	if h.newest != nil {
		h.newest.newer = c
	} else {
		h.oldest = c
	}
	h.newest = c
	h.count++
}

func (h *http1) unlink(c *h1Conn) {
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		h.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		h.newest = c.older
	}
	c.older, c.newer = nil, nil
	h.count--
}

// takeOldest takes out the connection that was used the longest ago, nil where none is idle.
func (h *http1) takeOldest() *h1Conn {
	c := h.oldest
	if c == nil {
		return nil
	}
	h.unlink(c)
	// Those of one origin are in the order of their use as well.
	if list := slices.Delete(h.idle[c.origin], 0, 1); len(list) > 0 {
		h.idle[c.origin] = list
	} else {
		delete(h.idle, c.origin)
	}
	return c
}

// closeOldest closes the connection that was used the longest ago; false where none is idle.
func (h *http1) closeOldest() bool {
	h.mu.Lock()
	c := h.takeOldest()
	h.mu.Unlock()
	if c == nil {
		return false
	}
	_ = beneath(c.Conn).Close()
	return true
}

// reap closes what has been idle for too long, and forgets the origins that nothing is idle of.
func (h *http1) reap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reaper = nil
	for old := time.Now().Add(-idleTimeout); h.oldest != nil && h.oldest.idleSince.Before(old); {
		_ = beneath(h.takeOldest().Conn).Close()
	}
	for origin, list := range h.idle {
		if len(list) == 0 {
			delete(h.idle, origin)
		}
	}
	if h.count > 0 && !h.closed {
		h.reaper = time.AfterFunc(idleTimeout/3, h.reap)
	}
}

func (h *http1) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.reaper != nil {
		h.reaper.Stop()
		h.reaper = nil
	}
	for c := h.takeOldest(); c != nil; c = h.takeOldest() {
		_ = beneath(c.Conn).Close()
	}
}
