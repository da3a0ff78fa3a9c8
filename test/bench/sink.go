package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// verdict is what an endpoint does with a request.
type verdict int

const (
	take verdict = iota
	fail         // answer 503
	hang         // answer nothing until the sender gives up
)

// sink is every endpoint of a measurement, on one listener: endpoint n is the path /n. Events are numbered, and their ids are
// "<run>-<number>", so that it knows when each was sent.
type sink struct {
	addr   string
	server *http.Server
	total  atomic.Int64 // requests taken, repeats counted
	sent   []atomic.Int64

	mu     sync.Mutex
	behave func(endpoint, event, attempt int) verdict // nil takes everything
	run    string
	seen   []map[int]bool    // by endpoint, the events that it has
	after  [][]time.Duration // by endpoint, from the POST to the request's first byte here
	repeat int
}

// newSink serves endpoints for events with numbers below most.
func newSink(endpoints, most int) (*sink, error) { return newSinkOn("127.0.0.1:0", endpoints, most) }

func newSinkOn(addr string, endpoints, most int) (*sink, error) {
	l, err := net.Listen("tcp", addr) //nolint:noctx // a listener of the measurement's own
	if err != nil {
		return nil, err
	}
	s := &sink{addr: l.Addr().String(), sent: make([]atomic.Int64, most), seen: make([]map[int]bool, endpoints), after: make([][]time.Duration, endpoints)}
	for i := range s.seen {
		s.seen[i] = map[int]bool{}
	}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *sink) close() { _ = s.server.Close() }

// url is where endpoint n is.
func (s *sink) url(n int) string { return "http://" + s.addr + "/" + strconv.Itoa(n) }

// urlOn is where endpoint n is on another host name or address of this machine.
func (s *sink) urlOn(host string, n int) string {
	_, port, _ := net.SplitHostPort(s.addr)
	return "http://" + net.JoinHostPort(host, port) + "/" + strconv.Itoa(n)
}

// ServeHTTP takes a delivery, or answers the handshake that every endpoint must pass.
func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now().UnixNano()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if len(body) < 1024 && bytes.Contains(body, []byte(`"endpoint.verification"`)) {
		var c struct {
			Challenge string `json:"challenge"`
		}
		if json.Unmarshal(body, &c) == nil {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(c)
		}
		return
	}
	run, number, _ := strings.Cut(r.Header.Get("X-Event-Id"), "-")
	n, err1 := strconv.Atoi(number)
	endpoint, err2 := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err1 != nil || err2 != nil || n >= len(s.sent) || endpoint >= len(s.seen) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	behave := s.behave
	s.mu.Unlock()
	if behave != nil {
		attempt, _ := strconv.Atoi(r.Header.Get("Webhook-Attempt"))
		switch behave(endpoint, n, attempt) {
		case hang:
			<-r.Context().Done()
			return
		case fail:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case take:
		}
	}
	s.mu.Lock()
	switch {
	case run != s.run: // of an earlier measurement
	case s.seen[endpoint][n]:
		s.repeat++
	default:
		s.seen[endpoint][n] = true
		s.after[endpoint] = append(s.after[endpoint], time.Duration(now-s.sent[n].Load()))
	}
	s.mu.Unlock()
	s.total.Add(1)
}

// begin forgets what was measured; from now on only events of this run count. behave decides for each request: which
// endpoint, which event, which attempt; nil takes everything.
func (s *sink) begin(run string, behave func(endpoint, event, attempt int) verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.behave, s.repeat = run, behave, 0
	for i := range s.seen {
		clear(s.seen[i])
		s.after[i] = nil
	}
}

// have is how many different events the endpoints from first on have.
func (s *sink) have(first int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, seen := range s.seen[first:] {
		n += len(seen)
	}
	return n
}

// repeats are the requests for events that their endpoint had.
func (s *sink) repeats() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repeat
}

// latencies are those of the endpoints from first on.
func (s *sink) latencies(first int) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []time.Duration
	for _, a := range s.after[first:] {
		all = append(all, a...)
	}
	return all
}
