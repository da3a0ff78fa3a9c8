package history

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// redriven makes of an attempt the record that a dead letter was put back.
func redriven(a *event.Attempt, by string, letter int64) {
	a.Outcome, a.Reason, a.HTTPStatus, a.Redrive = StateQueued, ReasonRedriven, 0, by
	a.BodyTopic, a.BodyOffset = topic.DeadLetters, letter
}

// exhausted writes that a delivery died: the last attempt, and the letter, at a second.
func (w *world) exhausted(id, sub string, attempt, second int, redrive string) {
	w.tried(id, sub, second, func(a *event.Attempt) {
		a.Attempt, a.Outcome, a.Reason, a.HTTPStatus, a.ErrorClass, a.Redrive = attempt, StateDead, "exhausted", 503, "http_5xx", redrive
	})
	letter := &event.DeadLetter{Tenant: "acme", Reason: "exhausted", Detail: "the last attempt failed", SubscriptionID: sub, DeliveryID: w.delivery(id, sub), EventID: id,
		EventType: "call.ended", Source: "dialer", CallID: "c-1", Attempts: attempt, FirstFailedAt: w.at(second - 1), LastFailedAt: w.at(second), DeadAt: w.at(second),
		ErrorClass: "http_5xx", HTTPStatus: 503, Service: "dispatcher-0", SourceTopic: topic.Lane("standard"), SourcePartition: 2, SourceOffset: 40}
	if redrive != "" {
		letter.OriginalHeaders = map[string][]byte{kafka.HeaderRedrive: []byte(redrive)}
	}
	w.record(topic.DeadLetters, letter)
}

// P-08: every dead letter is a row that can be searched, also one that nobody could tell whose it is, and tells its redrive.
func TestDeadLettersAreSearched(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		w.exhausted("e1", "sub_1", 3, 10, "")
		w.exhausted("e2", "sub_2", 3, 20, "")
		w.record(topic.DeadLetters, &event.DeadLetter{Reason: "poison", Error: "not in the wire format", SourceTopic: topic.CallsEvents, Service: "filter", DeadAt: w.at(15)})
		w.record(topic.DeadLetters, &event.DeadLetter{Tenant: "other", Reason: "exhausted", DeliveryID: "msg_theirs", DeadAt: w.at(16), SourceTopic: topic.Lane("standard")})
		w.tried("e1", "sub_1", 30, func(a *event.Attempt) { redriven(a, "rdr_1", 0) })
		w.project(s, w.all()...)

		ids := func(tenants []string, f DeadFilter, after DeadCursor, limit int) []string {
			t.Helper()
			found, err := s.DeadLetters(t.Context(), tenants, f, after, limit)
			require.NoError(t, err)
			list := []string{}
			for _, l := range found {
				list = append(list, l.ID())
			}
			return list
		}
		acme, admin := []string{"acme"}, []string{"acme", ""}
		yes, no := true, false
		require.Equal(t, []string{"dlq_0_1", "dlq_0_2", "dlq_0_0"}, ids(admin, DeadFilter{}, DeadCursor{}, 10), "the newest first")
		require.Equal(t, []string{"dlq_0_1", "dlq_0_0"}, ids(acme, DeadFilter{}, DeadCursor{}, 10))
		require.Equal(t, []string{"dlq_0_1", "dlq_0_2"}, ids(admin, DeadFilter{}, DeadCursor{}, 2))
		require.Equal(t, []string{"dlq_0_0"}, ids(admin, DeadFilter{}, DeadCursor{w.at(15), "dlq_0_2"}, 2))
		for want, f := range map[string]DeadFilter{
			"dlq_0_0": {SubscriptionID: "sub_1", EventID: "e1", CallID: "c-1", Type: "call.ended", Reason: "exhausted", ErrorClass: "http_5xx", HTTPStatus: 503, Service: "dispatcher-0",
				Since: w.at(10), Until: w.at(11), DeliveryID: w.delivery("e1", "sub_1"), Redriven: &yes},
			"dlq_0_1": {Redriven: &no},
		} {
			require.Equal(t, []string{want}, ids(acme, f, DeadCursor{}, 10))
		}
		for _, f := range []DeadFilter{{SubscriptionID: "sub_3"}, {EventID: "e3"}, {CallID: "c-2"}, {Type: "call.started"}, {Reason: "poison"}, {ErrorClass: "timeout"}, {HTTPStatus: 500},
			{Service: "filter"}, {Since: w.at(21)}, {Until: w.at(10)}, {DeliveryID: "msg_theirs"}} {
			require.Empty(t, ids(acme, f, DeadCursor{}, 10), "%+v", f)
		}
		found, err := s.DeadLettersOf(t.Context(), acme, []string{"dlq_0_0", "dlq_0_2", "dlq_0_3", "dlq_7_7"})
		require.NoError(t, err)
		require.Len(t, found, 1, "neither another tenant's, nor one of nobody, nor none")
		require.Equal(t, &DeadLetter{Tenant: "acme", Reason: "exhausted", Detail: "the last attempt failed", SubscriptionID: "sub_1", DeliveryID: w.delivery("e1", "sub_1"), EventID: "e1",
			Source: "dialer", Type: "call.ended", CallID: "c-1", Attempts: 3, FirstFailedAt: w.at(9), LastFailedAt: w.at(10), DeadAt: w.at(10), ErrorClass: "http_5xx", HTTPStatus: 503,
			Service: "dispatcher-0", Original: kafka.Place{Topic: topic.Lane("standard"), Partition: 2, Offset: 40}, RedrivenAt: w.at(30), RedrivenBy: "rdr_1"}, found[0])

		// Another letter at the place, since the topic was made anew, was not redriven.
		w.logs[topic.DeadLetters] = nil
		w.exhausted("e3", "sub_1", 3, 100, "")
		w.project(s, w.logs[topic.DeadLetters]...)
		require.Contains(t, ids(acme, DeadFilter{EventID: "e3", Redriven: &no}, DeadCursor{}, 10), "dlq_0_0")
		n, err := s.delete(t.Context(), "history_dead_letters", "dead_at", storage.Micros(w.at(50)), 100, nil)
		require.NoError(t, err)
		require.EqualValues(t, 3, n, "and old ones go")
	})
}

// P-08, S0-24: a redriven delivery waits again, and ends as delivered when it is and as dead when it fails again.
func TestARedriveBeginsAnew(t *testing.T) {
	onEach(t, func(t *testing.T, cfg storage.Config) {
		w, s := newWorld(t), open(t, cfg)
		e := w.happens("e1", 0)
		w.decided(e, "e1", 1, "", event.DecisionEntry{SubscriptionID: "sub_1", Outcome: StateQueued})
		state := func() []any {
			t.Helper()
			w.project(s, w.all()...)
			d, err := s.Delivery(t.Context(), "acme", w.delivery("e1", "sub_1"))
			require.NoError(t, err)
			return []any{d[0].State, d[0].Reason, d[0].Requests(), d[0].Redrive}
		}
		w.exhausted("e1", "sub_1", 3, 10, "")
		require.Equal(t, []any{StateDead, "exhausted", 1, ""}, state())
		w.tried("e1", "sub_1", 20, func(a *event.Attempt) { a.Attempt = 3; redriven(a, "rdr_1", 0) })
		require.Equal(t, []any{StateQueued, ReasonRedriven, 1, "rdr_1"}, state())
		w.tried("e1", "sub_1", 21, func(a *event.Attempt) {
			a.Attempt, a.Outcome, a.Reason, a.HTTPStatus, a.Redrive, a.NextAttemptAt = 4, "retry", "http_5xx", 503, "rdr_1", w.at(25)
		})
		require.Equal(t, []any{StateRetrying, "http_5xx", 2, "rdr_1"}, state())
		w.exhausted("e1", "sub_1", 5, 25, "rdr_1")
		require.Equal(t, []any{StateDead, "exhausted", 3, "rdr_1"}, state())
		w.tried("e1", "sub_1", 40, func(a *event.Attempt) { a.Attempt = 5; redriven(a, "rdr_2", 1) })
		require.Equal(t, []any{StateQueued, ReasonRedriven, 3, "rdr_2"}, state())
		w.tried("e1", "sub_1", 41, func(a *event.Attempt) { a.Attempt, a.Redrive = 6, "rdr_2" })
		require.Equal(t, []any{StateDelivered, "", 4, "rdr_2"}, state())
	})
}
