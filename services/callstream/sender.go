package callstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/services/callstream/traffic"
)

// eventsPath is where the API takes events.
const eventsPath = "/v1/events"

// sender posts events until they are accepted.
type sender struct {
	client   *apiClient
	retryFor time.Duration
	ledger   *ledger

	accepted, refused, unknown, requests, retries atomic.Int64
	latencies                                     latencies

	mu       sync.Mutex
	problems []string
}

// maxProblems is how many refusals the summary shows.
const maxProblems = 3

// send posts events in one request. What may pass by itself is tried again with the same events, whose ids make that
// safe. An event that is refused is counted; an error means that the run can't go on.
func (s *sender) send(ctx context.Context, events []traffic.Event) error {
	body := requestBody(events)
	deadline := time.Now().Add(s.retryFor)
	backoff := 100 * time.Millisecond
	for {
		begun := time.Now()
		err := s.post(ctx, body)
		if err == nil {
			s.latencies.add(time.Since(begun))
			s.accepted.Add(int64(len(events)))
			if s.ledger != nil {
				return s.ledger.add(events)
			}
			return nil
		}
		if ctx.Err() != nil {
			s.unknown.Add(int64(len(events)))
			return ctx.Err()
		}
		wait := backoff/2 + rand.N(backoff)
		var p *problem.Problem
		if errors.As(err, &p) {
			switch {
			case p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden || p.Status == http.StatusNotFound:
				s.refused.Add(int64(len(events)))
				return p // every other request would end the same way
			case p.Status == http.StatusTooManyRequests || p.Status == http.StatusRequestTimeout || p.Status >= 500:
				wait = max(wait, min(p.RetryAfter, 30*time.Second))
			default:
				s.refuse(p, len(events))
				return nil
			}
		} else if !errors.Is(err, errUnreachable) {
			return err
		}
		if time.Now().Add(wait).After(deadline) {
			s.unknown.Add(int64(len(events)))
			return fmt.Errorf("nothing was accepted for %s: %w", s.retryFor, err)
		}
		s.retries.Add(1)
		if err := run.Sleep(ctx, wait); err != nil {
			s.unknown.Add(int64(len(events)))
			return err
		}
		backoff = min(2*backoff, 5*time.Second)
	}
}

// post sends the body once. Anything but 202 is an error.
func (s *sender) post(ctx context.Context, body []byte) error {
	s.requests.Add(1)
	req, err := s.client.request(ctx, http.MethodPost, eventsPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := s.client.http.Do(req)
	if err != nil {
		return s.client.unreachable(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer)) // read to its end, so that the connection is used again
	if err != nil {
		return s.client.unreachable(err)
	}
	if res.StatusCode != http.StatusAccepted {
		return answerProblem(res, raw)
	}
	return nil
}

func (s *sender) refuse(p *problem.Problem, events int) {
	s.refused.Add(int64(events))
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.problems) < maxProblems {
		s.problems = append(s.problems, oneLine(p.Error()))
	}
}

// requestBody is one event as it is, or several as an array.
func requestBody(events []traffic.Event) []byte {
	if len(events) == 1 {
		return events[0].JSON
	}
	n := 2
	for _, e := range events {
		n += len(e.JSON) + 1
	}
	b := append(make([]byte, 0, n), '[')
	for i, e := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e.JSON...)
	}
	return append(b, ']')
}
