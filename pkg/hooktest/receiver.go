package hooktest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/webhook"
)

// Request is a webhook that arrived.
type Request struct {
	N       int // from 1, in the order of arrival
	At      time.Time
	Method  string
	Path    string
	Query   url.Values
	Raw     string // the query string as it was sent, which is what a GET's signature is over
	Header  http.Header
	Body    []byte
	ID      string // webhook-id
	Attempt int    // webhook-attempt, 0 where absent
	Repeat  int    // how many requests with the same webhook-id arrived before
	Fault   error  // why the signature is wrong; nil where it is right or no secret is set
	Client  string // common name of the client certificate, where one was shown
	Remote  string // address and port that it came from: one connection's
}

// Answer is what the receiver does with a request. The zero Answer is an empty 200.
type Answer struct {
	Status int
	Header map[string]string
	Body   string
	// Delay passes before the answer.
	Delay time.Duration
	// Hang gives no answer until the sender gives up or the receiver closes.
	Hang bool
	// Reset ends the connection with a TCP reset instead of an answer.
	Reset bool
}

// Options say how a Receiver works; the zero value is good for most tests.
type Options struct {
	// Secrets verify each request's signature: "whsec_…", or "whpk_…" for ed25519.
	Secrets []string
	// Answer decides for each request; nil answers 200. It may be changed later with SetAnswer.
	Answer func(*Request) Answer
	// Cheap remembers nothing and only counts, for benchmarks: Answer, Secrets and everything about single requests is off.
	Cheap bool
	// IgnoreChallenges treats the verification handshakes as any other request.
	IgnoreChallenges bool
	// Allow decides which origin the CloudEvents handshake (OPTIONS) allows: the value of WebHook-Allowed-Origin for the one
	// that asks, "" for no such header. nil allows whoever asks.
	Allow func(origin string) string
	// TLS serves https with a test certificate.
	TLS bool
	// Clients are the authorities whose client certificates are asked for; who has none is not served. It needs TLS.
	Clients *x509.CertPool
}

// TB is the part of *testing.T and *testing.B that Start needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Receiver is an endpoint on a free loopback port.
type Receiver struct {
	opts   Options
	server *httptest.Server
	closed chan struct{}
	total  atomic.Int64

	mu         sync.Mutex
	answer     func(*Request) Answer
	secrets    []string
	requests   []*Request
	byID       map[string]int
	challenges []string
	origins    []string
	pending    int
	changed    chan struct{} // closed and replaced at each change
}

// Start starts a receiver that closes when the test ends.
func Start(tb TB, o Options) *Receiver {
	tb.Helper()
	r := New(o)
	tb.Cleanup(r.Close)
	return r
}

// New starts a receiver. It panics where no loopback port can be had, as httptest does.
func New(o Options) *Receiver {
	r := &Receiver{
		opts: o, closed: make(chan struct{}), answer: o.Answer, secrets: o.Secrets,
		byID: map[string]int{}, changed: make(chan struct{}),
	}
	r.server = httptest.NewUnstartedServer(r)
	r.server.EnableHTTP2 = true
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are often the point of a test
	if o.Clients != nil {
		r.server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: o.Clients}
	}
	if o.TLS {
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	return r
}

// URL is where the receiver listens: "http://127.0.0.1:port".
func (r *Receiver) URL() string { return r.server.URL }

// Server is the HTTP server underneath, for its certificate.
func (r *Receiver) Server() *httptest.Server { return r.server }

// Close ends what hangs, the connections and the server.
func (r *Receiver) Close() {
	r.mu.Lock()
	select {
	case <-r.closed:
		r.mu.Unlock()
		return
	default:
		close(r.closed)
	}
	r.mu.Unlock()
	r.server.CloseClientConnections()
	r.server.Close()
}

// SetAnswer changes what the requests from now on get.
func (r *Receiver) SetAnswer(answer func(*Request) Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// SetSecrets changes what the requests from now on are verified with.
func (r *Receiver) SetSecrets(secrets ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = secrets
}

// Always gives every request the same answer.
func Always(a Answer) func(*Request) Answer { return func(*Request) Answer { return a } }

// Sequence gives the first request of each webhook-id the first answer, its repeats the next ones, and the last
// answer from then on.
func Sequence(answers ...Answer) func(*Request) Answer {
	return func(r *Request) Answer { return answers[min(r.Repeat, len(answers)-1)] }
}

// ServeHTTP takes a webhook.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.opts.Cheap && req.ContentLength > 512 {
		_, _ = io.Copy(io.Discard, req.Body)
		r.count()
		w.WriteHeader(http.StatusOK)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if origin := req.Header.Get("WebHook-Request-Origin"); req.Method == http.MethodOptions && origin != "" && !r.opts.IgnoreChallenges {
		r.allow(w, origin)
		return
	}
	if challenge, ok := challengeOf(body); ok && !r.opts.IgnoreChallenges {
		r.mu.Lock()
		r.challenges = append(r.challenges, challenge)
		r.signal()
		r.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"challenge": challenge})
		return
	}
	if r.opts.Cheap {
		r.count()
		w.WriteHeader(http.StatusOK)
		return
	}
	answer := r.record(req, body)
	defer func() {
		r.mu.Lock()
		r.pending--
		r.signal()
		r.mu.Unlock()
	}()
	r.give(w, req, answer)
}

// allow answers the handshake of the CloudEvents webhook specification, section 4.
func (r *Receiver) allow(w http.ResponseWriter, origin string) {
	r.mu.Lock()
	r.origins = append(r.origins, origin)
	r.signal()
	r.mu.Unlock()
	allowed := origin
	if r.opts.Allow != nil {
		allowed = r.opts.Allow(origin)
	}
	if allowed != "" {
		w.Header().Set("WebHook-Allowed-Origin", allowed)
	}
	w.Header().Set("Allow", "POST, GET")
	w.WriteHeader(http.StatusOK)
}

func (r *Receiver) record(req *http.Request, body []byte) Answer {
	one := &Request{
		At: time.Now(), Method: req.Method, Path: req.URL.Path, Query: req.URL.Query(), Raw: req.URL.RawQuery,
		Header: req.Header.Clone(), Body: body, ID: req.Header.Get("webhook-id"), Remote: req.RemoteAddr,
	}
	if req.TLS != nil && len(req.TLS.PeerCertificates) > 0 {
		one.Client = req.TLS.PeerCertificates[0].Subject.CommonName
	}
	one.Attempt, _ = strconv.Atoi(req.Header.Get("webhook-attempt"))
	r.mu.Lock()
	if len(r.secrets) > 0 {
		one.Fault = verify(one, r.secrets)
	}
	one.Repeat = r.byID[one.ID]
	r.byID[one.ID]++
	r.requests = append(r.requests, one)
	one.N = len(r.requests)
	r.pending++
	r.total.Add(1)
	decide := r.answer
	r.signal()
	r.mu.Unlock()
	if decide == nil {
		return Answer{}
	}
	return decide(one)
}

func (r *Receiver) give(w http.ResponseWriter, req *http.Request, a Answer) {
	var after <-chan time.Time
	if a.Delay > 0 {
		timer := time.NewTimer(a.Delay)
		defer timer.Stop()
		after = timer.C
	}
	if a.Hang || a.Delay > 0 {
		select {
		case <-after:
		case <-req.Context().Done():
			return
		case <-r.closed:
		}
	}
	if a.Reset || a.Hang {
		abort(w, a.Reset)
		return
	}
	for k, v := range a.Header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(max(a.Status, http.StatusOK))
	_, _ = io.WriteString(w, a.Body)
}

// abort ends the connection without an answer.
func abort(w http.ResponseWriter, reset bool) {
	if hijacker, ok := w.(http.Hijacker); ok {
		if conn, _, err := hijacker.Hijack(); err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok && reset {
				_ = tcp.SetLinger(0)
			}
			_ = conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

func challengeOf(body []byte) (string, bool) {
	if len(body) > 4096 || !bytes.Contains(body, []byte(`"endpoint.verification"`)) {
		return "", false
	}
	var c struct {
		Type      string `json:"type"`
		Challenge string `json:"challenge"`
	}
	if err := json.Unmarshal(body, &c); err != nil || c.Type != "endpoint.verification" {
		return "", false
	}
	return c.Challenge, true
}

// count is the cheap way; it wakes waiters only now and then, and they look again by themselves.
func (r *Receiver) count() {
	r.total.Add(1)
}

// signal wakes those who wait; the lock is held.
func (r *Receiver) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Total is the number of requests so far, challenges not counted.
func (r *Receiver) Total() int { return int(r.total.Load()) }

// Requests returns what arrived so far, in order.
func (r *Receiver) Requests() []*Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Challenges returns the challenges that were answered.
func (r *Receiver) Challenges() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.challenges)
}

// Origins returns the origins that the CloudEvents handshake was made for.
func (r *Receiver) Origins() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.origins)
}

// Counts returns how often each webhook-id arrived.
func (r *Receiver) Counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]int, len(r.byID))
	for id, n := range r.byID {
		out[id] = n
	}
	return out
}

// Unique is the number of different webhook-ids.
func (r *Receiver) Unique() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byID)
}

// Repeats is the number of requests whose webhook-id had arrived before.
func (r *Receiver) Repeats() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests) - len(r.byID)
}

// Pending is the number of requests that have no answer yet.
func (r *Receiver) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pending
}

// Faults returns the requests whose signature is wrong.
func (r *Receiver) Faults() []*Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*Request
	for _, one := range r.requests {
		if one.Fault != nil {
			out = append(out, one)
		}
	}
	return out
}

// Wait returns when cond holds, or with an error when ctx ends first. cond is asked after each change and must not wait
// itself.
func (r *Receiver) Wait(ctx context.Context, cond func() bool) error {
	// The cheap mode doesn't signal, so look at intervals as well.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for webhooks, %d requests with %d ids so far: %w", r.Total(), r.Unique(), ctx.Err())
		}
	}
}

// WaitFor returns when at least n requests have arrived.
func (r *Receiver) WaitFor(ctx context.Context, n int) error {
	return r.Wait(ctx, func() bool { return r.Total() >= n })
}

// WaitUnique returns when at least n different webhook-ids have arrived.
func (r *Receiver) WaitUnique(ctx context.Context, n int) error {
	return r.Wait(ctx, func() bool { return r.Unique() >= n })
}

// verify says what is wrong with a request's signature: over its body, or where it has none, being a GET, over its query.
func verify(r *Request, secrets []string) error {
	v, err := webhook.NewVerifier(secrets...)
	if err != nil {
		return err
	}
	signed := r.Body
	if r.Method == http.MethodGet {
		signed = []byte(r.Raw)
	}
	return v.Verify(r.Header, signed, r.At)
}
