package history

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// P-07: whatever became of an event is one row with its reason; a repeat is explained beside what it repeats.
func TestRowsSayWhatBecameOfAnEvent(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		first := w.happens("e1", 0)
		w.decided(first, "e1", 1, "",
			event.DecisionEntry{SubscriptionID: "sub_sent", Outcome: StateQueued},
			event.DecisionEntry{SubscriptionID: "sub_retried", Outcome: StateQueued},
			event.DecisionEntry{SubscriptionID: "sub_dead", Outcome: StateQueued},
			event.DecisionEntry{SubscriptionID: "sub_waiting", Outcome: StateQueued},
			event.DecisionEntry{SubscriptionID: "sub_filtered", Outcome: StateSkipped, Reason: "filtered", Detail: "event.data.x == 1", SubscriptionVersion: 7},
			event.DecisionEntry{SubscriptionID: "sub_paused", Outcome: StateSkipped, Reason: "paused"},
			event.DecisionEntry{SubscriptionID: "sub_lost", Outcome: StateQueued})
		again := w.happens("e1", 60)
		w.decided(again, "e1", 61, "", event.DecisionEntry{SubscriptionID: "sub_sent", Outcome: StateSkipped, Reason: "duplicate"})
		w.tried("e1", "sub_sent", -5, nil) // by a dispatcher whose clock is behind the filter's
		w.tried("e1", "sub_retried", 2, func(a *event.Attempt) {
			a.Outcome, a.Reason, a.HTTPStatus, a.ErrorClass, a.NextAttemptAt = "retry", "http_5xx", 503, "http_5xx", w.at(7)
		})
		w.tried("e1", "sub_dead", 2, func(a *event.Attempt) {
			a.Outcome, a.Reason, a.HTTPStatus, a.ErrorClass = StateDead, "rejected", 404, "http_4xx"
		})
		w.record(topic.DeadLetters, &event.DeadLetter{Tenant: "acme", DeliveryID: w.delivery("e1", "sub_dead"), SubscriptionID: "sub_dead", SubscriptionVersion: 1, EventID: "e1",
			Reason: "rejected", Detail: "status 404 is not retried", DeadAt: w.at(3), SourceTopic: topic.Lane("standard"), Attempts: 1})
		w.record(topic.DeadLetters, &event.DeadLetter{Tenant: "acme", DeliveryID: w.delivery("e1", "sub_lost"), SubscriptionID: "sub_lost", EventID: "e1",
			Reason: "poison", DeadAt: w.at(3), SourceTopic: topic.Lane("standard")})
		// Never decided about: no id is known, or none that anyone wanted.
		poison := w.put(topic.CallsEvents, []byte("x"))
		w.record(topic.DeadLetters, &event.DeadLetter{Tenant: "acme", Reason: "poison", Detail: "not in the wire format", DeadAt: w.at(9),
			SourceTopic: poison.Topic, SourceOffset: poison.Offset, Service: "filter"})
		w.happens("e2", 5)
		w.project(s, w.all()...)

		list, err := s.Deliveries(t.Context(), "acme", Filter{}, Cursor{}, 100)
		require.NoError(t, err)
		got := map[string]string{}
		for _, d := range list {
			key := d.SubscriptionID
			if d.Occurrence != "" {
				key += " again"
			}
			got[key] = d.State + " " + d.Reason
		}
		require.Equal(t, map[string]string{"sub_sent": "delivered ", "sub_sent again": "skipped duplicate", "sub_retried": "retrying http_5xx", "sub_dead": "dead rejected",
			"sub_waiting": "queued ", "sub_filtered": "skipped filtered", "sub_paused": "skipped paused", "sub_lost": "dead poison"}, got)

		both, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_sent"))
		require.NoError(t, err)
		require.Len(t, both, 2)
		require.Equal(t, []Attempt{{Number: 1, StartedAt: w.at(-5)}}, both[0].Attempts)
		require.Equal(t, 30*time.Millisecond, both[0].Duration)
		require.Equal(t, "calls.events/0/1", both[1].Occurrence)
		dead, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_dead"))
		require.NoError(t, err)
		require.Equal(t, "status 404 is not retried", dead[0].Detail)
		require.Equal(t, 404, dead[0].HTTPStatus)
		rule, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_filtered"))
		require.NoError(t, err)
		require.Equal(t, "event.data.x == 1", rule[0].Detail)
		require.EqualValues(t, 7, rule[0].SubscriptionVersion)
		retried, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_retried"))
		require.NoError(t, err)
		require.Equal(t, w.at(7), retried[0].NextAttemptAt)

		call, err := s.Call(t.Context(), "acme", "c-1", 10)
		require.NoError(t, err)
		require.Len(t, call, 2, "the repeat is the same event")
		require.Equal(t, []string{"e1", "e2"}, []string{call[0].ID, call[1].ID})
		require.EqualValues(t, 0, call[0].Place.Offset, "an event is shown as it came first")
		buried, err := s.Events(t.Context(), "acme", event.PlaceID(poison.Topic, 0, poison.Offset))
		require.NoError(t, err)
		require.Equal(t, "poison", buried[0].DeadReason)

		for _, other := range []string{"other", ""} {
			list, err := s.Deliveries(t.Context(), other, Filter{}, Cursor{}, 100)
			require.NoError(t, err)
			require.Empty(t, list)
			none, err := s.Delivery(t.Context(), other, w.delivery("e1", "sub_sent"))
			require.NoError(t, err)
			require.Empty(t, none)
			events, err := s.Events(t.Context(), other, "e1")
			require.NoError(t, err)
			require.Empty(t, events)
		}
	})
}

// S0-25: what was skipped and is replayed takes the replay's outcome, and no attempt of before shows through it.
func TestAReplayBeginsAnew(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		e := w.happens("e1", 0)
		w.decided(e, "e1", 1, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		w.tried("e1", "sub_1", 2, func(a *event.Attempt) { a.Attempt, a.Outcome, a.Reason, a.HTTPStatus = 0, StateSkipped, "paused", 0 })
		w.project(s, w.all()...)
		missed, err := s.Missed(t.Context(), "acme", "sub_1", Cursor{}, 10)
		require.NoError(t, err)
		require.Len(t, missed, 1)
		require.Equal(t, topic.CallsEvents, missed[0].Place.Topic)
		rest, err := s.Missed(t.Context(), "acme", "sub_1", missed[0].Cursor(), 10)
		require.NoError(t, err)
		require.Empty(t, rest)

		w.decided(e, "e1", 1, "rpl_1", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		w.project(s, w.all()...)
		d, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_1"))
		require.NoError(t, err)
		require.Equal(t, []string{StateQueued, "rpl_1"}, []string{d[0].State, d[0].ReplayID})
		missed, err = s.Missed(t.Context(), "acme", "sub_1", Cursor{}, 10)
		require.NoError(t, err)
		require.Empty(t, missed, "what was replayed is no longer missed")

		w.tried("e1", "sub_1", 90, func(a *event.Attempt) { a.ReplayID = "rpl_1" })
		w.project(s, w.all()...)
		d, err = s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_1"))
		require.NoError(t, err)
		require.Equal(t, StateDelivered, d[0].State)
		require.Equal(t, 1, d[0].Requests())
		require.Len(t, d[0].Attempts, 2)
	})
}

// What the endpoint took it has: a replay that finds the event filtered or the subscription paused does not undo it.
func TestAReplayDoesNotUndoADelivery(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		e := w.happens("e1", 0)
		w.decided(e, "e1", 1, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		w.tried("e1", "sub_1", 2, nil)
		w.decided(e, "e1", 60, "rpl_1", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateSkipped, Reason: "paused"})
		w.tried("e1", "sub_1", 61, func(a *event.Attempt) {
			a.Attempt, a.Outcome, a.Reason, a.HTTPStatus, a.ReplayID = 0, StateSkipped, "paused", 0, "rpl_2"
		})
		w.project(s, w.all()...)
		d, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_1"))
		require.NoError(t, err)
		require.Equal(t, []string{StateDelivered, ""}, []string{d[0].State, d[0].Reason})
		missed, err := s.Missed(t.Context(), "acme", "sub_1", Cursor{}, 10)
		require.NoError(t, err)
		require.Empty(t, missed)
	})
}

// Attempts are made by dispatchers whose clocks differ: whatever they say, and in whatever order the records come, the row
// says how the attempts ended, and shows the last request.
func TestAttemptsUnderAnyClocks(t *testing.T) {
	cfg := storage.Config{DataDir: t.TempDir()}
	s := open(t, cfg)
	rapid.Check(t, func(rt *rapid.T) {
		require.NoError(t, Rebuild(t.Context(), cfg))
		w := newWorld(t)
		clock := func() int { return rapid.IntRange(-100, 100).Draw(rt, "clock") }
		w.decided(w.happens("e1", 0), "e1", clock(), "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		retries := rapid.IntRange(0, 4).Draw(rt, "retries")
		for n := range retries {
			w.tried("e1", "sub_1", clock(), func(a *event.Attempt) {
				a.Attempt, a.Outcome, a.Reason, a.HTTPStatus, a.NextAttemptAt = n+1, "retry", "http_5xx", 500+n, w.at(1000)
			})
		}
		end := rapid.SampledFrom([]string{StateDelivered, StateDead, StateSkipped, StateRetrying}).Draw(rt, "end")
		wantStatus := 499 + retries
		switch end {
		case StateSkipped: // says no number: nothing was sent
			w.tried("e1", "sub_1", clock(), func(a *event.Attempt) { a.Attempt, a.Outcome, a.Reason, a.HTTPStatus = 0, end, "paused", 0 })
			if retries == 0 {
				wantStatus = 0
			}
		case StateRetrying:
			wantStatus = 599
			w.tried("e1", "sub_1", clock(), func(a *event.Attempt) {
				a.Attempt, a.Outcome, a.Reason, a.HTTPStatus = retries+1, "retry", "http_5xx", wantStatus
			})
		default:
			wantStatus = 299
			w.tried("e1", "sub_1", clock(), func(a *event.Attempt) {
				a.Attempt, a.Outcome, a.Reason, a.HTTPStatus = retries+1, end, "because", wantStatus
			})
		}
		for _, part := range [][]*kgo.Record{rapid.Permutation(w.all()).Draw(rt, "order"), rapid.Permutation(w.all()).Draw(rt, "repeats")} {
			w.project(s, part...)
			d, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_1"))
			require.NoError(t, err)
			if d[0].State != end || d[0].HTTPStatus != wantStatus {
				rt.Fatalf("%s with status %d, want %s with %d", d[0].State, d[0].HTTPStatus, end, wantStatus)
			}
			for i, a := range d[0].Attempts {
				if a.Number != 0 && a.Number != i+1 {
					rt.Fatalf("attempt %d stands at %d", a.Number, i)
				}
			}
		}
	})
}

// P-07: what was missed can be replayed for as long as its row is there, whatever became of the event's own row; and what
// has no place any more is still in the list, to be counted.
func TestMissedNeedsNoEventRow(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		w.happens("e0", 0)
		e := w.happens("e1", 1)
		w.decided(e, "e1", 2, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateSkipped, Reason: "paused"})
		w.tried("e2", "sub_1", 3, func(a *event.Attempt) { a.Attempt, a.Outcome, a.Reason, a.HTTPStatus = 0, StateSkipped, "paused", 0 }) // its decision is gone
		w.project(s, w.all()...)
		_, err := s.delete(t.Context(), "history_events", "accepted_at", storage.Micros(w.at(1000)), 100, nil)
		require.NoError(t, err)
		missed, err := s.Missed(t.Context(), "acme", "sub_1", Cursor{}, 10)
		require.NoError(t, err)
		places := map[string]kafka.Place{}
		for _, m := range missed {
			places[m.EventID] = m.Place
		}
		require.Equal(t, map[string]kafka.Place{"e1": {Topic: topic.CallsEvents, Offset: e.Offset}, "e2": {}}, places)
	})
}

// S0-30, S1-18: any order of the topics' records, with repeats and restarts at any point, ends in the same rows.
func TestAnyOrderEndsInTheSameRows(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		s := open(t, cfg)
		over := func() { require.NoError(t, Rebuild(t.Context(), cfg)) }
		rapid.Check(t, func(rt *rapid.T) {
			w := newWorld(t)
			arbitrary(rt, w)
			over()
			w.project(s, w.all()...)
			want := dump(t, s)
			over()
			as, err := s.claim(t.Context(), "test")
			require.NoError(t, err)
			left := rapid.Permutation(w.all()).Draw(rt, "order")
			var done []*kgo.Record
			for len(left) > 0 {
				n := rapid.IntRange(1, len(left)).Draw(rt, "batch")
				part := left[:n:n]
				left = left[n:]
				done = append(done, part...)
				// A crash between the write to Kafka and the commit has records come again, some from long before.
				for range rapid.IntRange(0, 5).Draw(rt, "repeats") {
					part = append(part, rapid.SampledFrom(done).Draw(rt, "repeat"))
				}
				if rapid.Bool().Draw(rt, "restart") {
					as, err = s.claim(t.Context(), "test")
					require.NoError(t, err)
				}
				w.projectAs(s, as, part...)
			}
			if got := dump(t, s); got != want {
				rt.Fatalf("in another order the rows are\n%s\nnot\n%s", got, want)
			}
		})
	})
}

// arbitrary fills a world with what could happen to a few events, and with what could not but for a fault.
func arbitrary(rt *rapid.T, w *world) {
	ids, subs := []string{"e1", "e2", "e3"}, []string{"sub_1", "sub_2"}
	second := func() int { return rapid.IntRange(0, 20).Draw(rt, "second") }
	replay := func() string { return rapid.SampledFrom([]string{"", "", "rpl_1", "rpl_2"}).Draw(rt, "replay") }
	redrive := func() string { return rapid.SampledFrom([]string{"", "", "rdr_11", "rdr_22"}).Draw(rt, "redrive") }
	records := []*kgo.Record{w.happens("e1", second())}
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		id, sub := rapid.SampledFrom(ids).Draw(rt, "event"), rapid.SampledFrom(subs).Draw(rt, "subscription")
		switch rapid.IntRange(0, 6).Draw(rt, "kind") {
		case 0:
			records = append(records, w.happens(id, second()))
		case 1, 2:
			var entries []event.DecisionEntry
			for _, sub := range subs {
				entry := rapid.SampledFrom([]event.DecisionEntry{
					{Outcome: StateQueued}, {Outcome: StateSkipped, Reason: "paused"}, {Outcome: StateSkipped, Reason: "filtered", Detail: "a rule"},
					{Outcome: StateSkipped, Reason: "duplicate"}, {Outcome: StateDead, Reason: "render_failed"},
				}).Draw(rt, "entry")
				entry.SubscriptionID, entry.SubscriptionVersion = sub, rapid.Int64Range(1, 3).Draw(rt, "version")
				entries = append(entries, entry)
			}
			w.decided(rapid.SampledFrom(records).Draw(rt, "of"), id, second(), replay(), entries...)
		case 3, 4:
			w.tried(id, sub, second(), func(a *event.Attempt) {
				a.Attempt, a.ReplayID = rapid.IntRange(0, 3).Draw(rt, "attempt"), replay()
				a.Redrive = redrive()
				a.Outcome = rapid.SampledFrom([]string{StateDelivered, "retry", StateDead, StateSkipped}).Draw(rt, "outcome")
				a.HTTPStatus = rapid.SampledFrom([]int{0, 200, 404, 503}).Draw(rt, "status")
			})
		case 5:
			letter := &event.DeadLetter{Tenant: "acme", EventID: id, Reason: rapid.SampledFrom([]string{"poison", "exhausted"}).Draw(rt, "reason"), DeadAt: w.at(second()), SourceTopic: topic.CallsEvents}
			if rapid.Bool().Draw(rt, "of a delivery") {
				letter.DeliveryID, letter.SubscriptionID = w.delivery(id, sub), sub
				letter.OriginalHeaders = map[string][]byte{kafka.HeaderRedrive: []byte(redrive())}
			}
			if rapid.Bool().Draw(rt, "of nobody") {
				letter.Tenant = ""
			}
			w.record(topic.DeadLetters, letter)
		case 6:
			w.tried(id, sub, second(), func(a *event.Attempt) {
				redriven(a, "rdr_11", int64(rapid.IntRange(0, 3).Draw(rt, "letter")))
			})
		}
	}
}

// Text that a database would refuse must not hold up what comes after it.
func TestHostileTextIsKept(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		long := string(make([]byte, 5000)) + "\xff"
		w.record(topic.Attempts, &event.Attempt{DeliveryID: "d\x00" + long, Tenant: "acme", SubscriptionID: long, EventID: long, EventType: long, CallID: long, Source: long,
			Outcome: StateDead, Reason: long, Attempt: 1, ErrorClass: long, Via: long})
		w.record(topic.Decisions, &event.Decision{Tenant: "acme", EventID: long, Source: long, CallID: long, EventTopic: long, EventType: long,
			Decisions: []event.DecisionEntry{{SubscriptionID: long, Outcome: StateSkipped, Reason: "duplicate", Detail: long}}})
		w.record(topic.DeadLetters, &event.DeadLetter{Tenant: long, EventID: long, Reason: long, Detail: long, SourceTopic: topic.CallsEvents, CallID: long})
		w.put(topic.Attempts, []byte("no record"))
		w.project(s, w.all()...)
		list, err := s.Deliveries(t.Context(), "acme", Filter{EventID: long}, Cursor{}, 10)
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.LessOrEqual(t, len(list[0].SubscriptionID), 3*longestName)
	})
}
