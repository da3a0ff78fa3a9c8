//go:build chaos

package chaos

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/test/progress"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// end is what became of an event for a subscription.
type end string

const (
	delivered end = "delivered" // the endpoint took it, and its signature was right
	dead      end = "dead"      // it is in deliveries.dlq
	skipped   end = "skipped"   // its reason is in deliveries.decisions or deliveries.attempts
)

// place is an event at a subscription.
type place struct{ event, subscription string }

// ledger holds what was promised, an id for each 202, against what came of it.
type ledger struct {
	t    testing.TB
	hook *hooktest.Receiver

	mu            sync.Mutex
	accepted      map[string]bool
	subscriptions map[string]string // id by path of its endpoint
	ends          map[place]end     // of the topics; what was delivered the receiver knows
	unanswered    int               // requests that failed, or were answered with 429 or 5xx
	secrets       []string
}

// answer is what each endpoint does: /good takes everything; /flaky refuses a third of all events at first; /picky refuses a
// tenth for good; /half has a filter, so that half of the events don't come.
func answer(r *hooktest.Request) hooktest.Answer {
	switch n := hashed(r.Header.Get("X-Event-Id")); {
	case r.Path == "/flaky" && r.Attempt == 1 && n%3 == 0:
		return hooktest.Answer{Status: http.StatusServiceUnavailable}
	case r.Path == "/picky" && n%10 == 0:
		return hooktest.Answer{Status: http.StatusBadRequest}
	}
	return hooktest.Answer{}
}

func hashed(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return h.Sum32()
}

var endpoints = []string{"/good", "/flaky", "/picky", "/half"}

// newLedger starts the receiver, and reads the topics that tell how deliveries ended.
func newLedger(t *testing.T, brokers []string, registryURL string) *ledger {
	t.Helper()
	l := &ledger{t: t, accepted: map[string]bool{}, subscriptions: map[string]string{}, ends: map[place]end{}}
	l.hook = hooktest.Start(t, hooktest.Options{Answer: answer})
	registry, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{registryURL}})
	require.NoError(t, err)
	codec := event.NewCodec(registry)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics(),
		kgo.ConsumeTopics(topic.DeadLetters, topic.Decisions, topic.Attempts), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				if err := l.read(ctx, codec, r); err != nil && ctx.Err() == nil {
					t.Errorf("%s/%d/%d: %v", r.Topic, r.Partition, r.Offset, err)
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); reader.Wait(); client.Close() })
	return l
}

// read takes note of an end. Its codec knows the schemas from the first records on: it may wait for a registry that is away.
func (l *ledger) read(ctx context.Context, codec *event.Codec, r *kgo.Record) error {
	note := func(id, subscription string, e end) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ends[place{id, subscription}] = e
	}
	switch r.Topic {
	case topic.DeadLetters:
		var d event.DeadLetter
		if err := codec.Decode(ctx, r.Value, &d); err != nil {
			return err
		}
		note(d.EventID, d.SubscriptionID, dead)
	case topic.Attempts:
		var a event.Attempt
		if err := codec.Decode(ctx, r.Value, &a); err != nil {
			return err
		}
		if a.Outcome == string(skipped) && a.Reason != "" {
			note(a.EventID, a.SubscriptionID, skipped)
		}
	case topic.Decisions:
		var d event.Decision
		if err := codec.Decode(ctx, r.Value, &d); err != nil {
			return err
		}
		for _, e := range d.Decisions {
			if e.Outcome == string(skipped) && e.Reason != "" {
				note(d.EventID, e.SubscriptionID, skipped)
			}
		}
	}
	return nil
}

// flow posts events until stop is closed, each again and again until it is accepted, as a client does that must not lose
// anything. It returns when every event that it began has its 202.
func (l *ledger) flow(w *world, name string, stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		id := fmt.Sprintf("%s-%d", name, n)
		l.post(w, id)
	}
}

// post posts events in one request until they are accepted.
func (l *ledger) post(w *world, ids ...string) {
	events := make([]any, len(ids))
	for i, id := range ids {
		events[i] = map[string]any{"id": id, "type": "call.ended", "call_id": "c-" + id, "data": map[string]any{"disposition": []string{"qualified", "lost"}[hashed(id)%2]}}
	}
	eventually(l.t, "events are accepted", func() error {
		status, body, err := w.send(w.producer()+"/v1/events", events)
		switch {
		case err == nil && status == http.StatusAccepted:
			l.mu.Lock()
			for _, id := range ids {
				l.accepted[id] = true
			}
			l.mu.Unlock()
			return nil
		case err == nil && status != http.StatusTooManyRequests && status < 500:
			l.t.Errorf("an event was refused: %d %s", status, body)
			return nil
		}
		l.mu.Lock()
		l.unanswered++
		l.mu.Unlock()
		return errors.Join(err, fmt.Errorf("%d %s", status, body))
	})
}

// count is how many events have been accepted.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// failures is how many requests failed, or were put off.
func (l *ledger) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unanswered
}

// repeats is what the endpoints got beyond one request for each attempt.
func (l *ledger) repeats() int { return len(progress.Repeated(l.hook.Requests())) }

// settle waits until every accepted event has come to an end at every subscription, and returns how many to which.
func (l *ledger) settle() (ends map[end]int) {
	l.t.Helper()
	eventually(l.t, "every accepted event has an end on record at every subscription", func() error {
		arrived := map[place]bool{}
		for _, r := range l.hook.Requests() {
			if r.Fault == nil && answer(r).Status == 0 {
				arrived[place{r.Header.Get("X-Event-Id"), l.subscriptions[r.Path]}] = true
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		ends = map[end]int{}
		missing := []string{}
		for id := range l.accepted {
			for path, subscription := range l.subscriptions {
				at := place{id, subscription}
				switch e, ok := l.ends[at]; {
				case arrived[at]:
					ends[delivered]++
				case ok:
					ends[e]++
				default:
					missing = append(missing, path+" "+id)
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d of %d are missing, among them %s", len(missing), len(l.accepted)*len(l.subscriptions), strings.Join(missing[:min(len(missing), 5)], ", "))
		}
		return nil
	})
	require.Empty(l.t, l.hook.Faults(), "signatures")
	return ends
}

// report settles and prints the figures of a fault, for the record.
func (l *ledger) report(fault string) (repeats int) {
	l.t.Helper()
	ends := l.settle()
	repeats = l.repeats()
	l.t.Logf("%s: %d events accepted (%d requests failed or were put off), %d delivered, %d dead, %d skipped, 0 missing, %d repeated",
		fault, l.count(), l.unanswered, ends[delivered], ends[dead], ends[skipped], repeats)
	for _, e := range []end{delivered, dead, skipped} {
		require.NotZero(l.t, ends[e], "the traffic has all ends, or the ledger would not notice that one is lost: none was %s", e)
	}
	return repeats
}
