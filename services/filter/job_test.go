package filter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// faulty is a codec with a fault of ours in it.
type faulty struct {
	codec
	decode, encode func()
}

func (c faulty) DecodeEventInto(ctx context.Context, e *event.Event, topic string, value []byte) error {
	if c.decode != nil {
		c.decode()
	}
	return c.codec.DecodeEventInto(ctx, e, topic, value)
}

func (c faulty) Encode(ctx context.Context, dst []byte, r event.Record) ([]byte, error) {
	if _, ok := r.(*event.Decision); ok && c.encode != nil {
		c.encode()
	}
	return c.codec.Encode(ctx, dst, r)
}

func nilDereference() {
	var s *subscription.Subscription
	_ = s.URL
}

// sorted are the records that follow from an event.
type sorted struct {
	deliveries []event.Delivery
	decisions  []event.Decision
	letters    []event.DeadLetter
}

func sortOut(t testing.TB, d *decider, records []kgo.Record) sorted {
	t.Helper()
	var all sorted
	for _, r := range records {
		switch r.Topic {
		case topic.Decisions:
			all.decisions = append(all.decisions, decodeAs[event.Decision](t, d, r))
		case topic.DeadLetters:
			all.letters = append(all.letters, decodeAs[event.DeadLetter](t, d, r))
		default:
			all.deliveries = append(all.deliveries, decodeAs[event.Delivery](t, d, r))
		}
	}
	return all
}

func decodeAs[T any, R interface {
	*T
	event.Record
}](t testing.TB, d *decider, r kgo.Record) T {
	t.Helper()
	var v T
	require.NoError(t, d.codec.Decode(t.Context(), r.Value, R(&v)))
	return v
}

// A fault of ours over one subscription is that subscription's dead letter. The others get the event, and the log has the
// stack.
func TestAFaultOverOneSubscriptionIsItsOwn(t *testing.T) {
	d := newDecider(t)
	core, logs := observer.New(zap.ErrorLevel)
	d.log = zap.New(core)
	for _, id := range []string{"sub_1", "sub_2", "sub_3"} {
		d.subscribe(t, &subscription.Subscription{ID: id, Tenant: "acme", Events: []string{"*"}})
	}
	second, ok := d.book.Get("sub_2")
	require.True(t, ok)
	second.Derived(func() any { return "no renderer" })
	r := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
	for range 2 {
		got := sortOut(t, d, collect(t, d, r))
		require.Len(t, got.deliveries, 2)
		assert.Equal(t, []string{"sub_1", "sub_3"}, []string{got.deliveries[0].SubscriptionID, got.deliveries[1].SubscriptionID})
		require.Len(t, got.letters, 1)
		assert.Equal(t, []string{deadInternal, "sub_2", event.DeliveryID("acme", "", "evt_1", "sub_2")},
			[]string{got.letters[0].Reason, got.letters[0].SubscriptionID, got.letters[0].DeliveryID})
		assert.Equal(t, r.Value, got.letters[0].OriginalValue)
		require.Len(t, got.decisions, 1)
		entries := got.decisions[0].Decisions
		require.Len(t, entries, 3)
		assert.Equal(t, [2]string{outcomeDead, deadInternal}, [2]string{entries[1].Outcome, entries[1].Reason})
		assert.Contains(t, entries[1].Detail, "callstream failed")
	}
	require.Equal(t, 2, logs.Len())
	fields := logs.All()[0].ContextMap()
	assert.Equal(t, "sub_2", fields["subscription"])
	assert.Contains(t, fields["stack"], "payload.For")
}

// A fault of ours over a whole event makes it a dead letter with its bytes, and leaves what was made of it before.
func TestAFaultOverAnEventIsADeadLetter(t *testing.T) {
	for name, c := range map[string]struct {
		codec      func(codec) codec
		deliveries int
	}{
		"decoding":      {func(c codec) codec { return faulty{codec: c, decode: nilDereference} }, 0},
		"the decisions": {func(c codec) codec { return faulty{codec: c, encode: nilDereference} }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecider(t)
			d.subscribe(t, &subscription.Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}})
			r := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
			sound := d.codec
			d.codec = c.codec(sound)
			records := collect(t, d, r)
			d.codec = sound
			got := sortOut(t, d, records)
			assert.Len(t, got.deliveries, c.deliveries)
			require.Len(t, got.letters, 1)
			letter := got.letters[0]
			assert.Equal(t, []string{deadInternal, "acme", "evt_1"}, []string{letter.Reason, letter.Tenant, letter.EventID})
			assert.Equal(t, r.Value, letter.OriginalValue)
			assert.Len(t, collect(t, d, r), 2, "the next record is handled")
		})
	}
}

// A reason that the metrics don't list is counted all the same: it must not be a fault over each event that has it.
func TestDecisionsAreCounted(t *testing.T) {
	tel, err := telemetry.New(telemetry.Config{LogLevel: "error"}, "filter", "test")
	require.NoError(t, err)
	defer tel.Close()
	m, err := newMetrics(tel.Meter, nil, func() int { return 0 })
	require.NoError(t, err)
	m.decided([]event.DecisionEntry{
		{Outcome: outcomeQueued}, {Outcome: outcomeQueued}, {Outcome: outcomeSkipped, Reason: "paused"}, {Outcome: outcomeQueued},
		{Outcome: outcomeSkipped, Reason: "of a newer version"},
	})
	m.deadLetter("of a newer version")
	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, line := range []string{
		`callstream_filter_decisions_total{outcome="queued",reason=""} 3`,
		`callstream_filter_decisions_total{outcome="skipped",reason="paused"} 1`,
		`callstream_filter_decisions_total{outcome="skipped",reason="other"} 1`,
		`callstream_filter_dead_letters_total{reason="other"} 1`,
	} {
		assert.Contains(t, w.Body.String(), line+"\n")
	}
}

func TestAnEventThatIsTooOldIsSkipped(t *testing.T) {
	d := newDecider(t)
	hour := subscription.TTL{Default: subscription.Duration(time.Hour)}
	d.subscribe(t, &subscription.Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}, TTL: hour})
	r := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
	accepted := r.Timestamp
	d.now = func() time.Time { return accepted.Add(time.Hour - time.Millisecond) }
	require.Len(t, sortOut(t, d, collect(t, d, r)).deliveries, 1)
	d.now = func() time.Time { return accepted.Add(time.Hour) }
	got := sortOut(t, d, collect(t, d, r))
	require.Empty(t, got.deliveries)
	entry := got.decisions[0].Decisions[0]
	assert.Equal(t, []string{outcomeSkipped, "expired"}, []string{entry.Outcome, entry.Reason})
	assert.Contains(t, entry.Detail, "1h")
	assert.EqualValues(t, 1, entry.SubscriptionVersion)
}

// However many renderings an event needs, few of its bodies are kept at once, and everybody gets their own.
func TestTheRenderingsOfAnEventTakeBoundedMemory(t *testing.T) {
	d := newDecider(t)
	const n, distinct = 3 * maxRenderings, maxRenderings + 50
	for i := range n {
		s := &subscription.Subscription{ID: fmt.Sprintf("sub_%05d", i), Tenant: "acme", Events: []string{"*"}}
		s.Payload.Extra = subscription.Extra{"mine": json.Number(fmt.Sprint(i % distinct))}
		d.subscribe(t, s)
	}
	r := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1","data":{"notes":"`+strings.Repeat("x", 100<<10)+`"}}`)
	delivered := 0
	out := &emission{batch: &batch{}, scratch: &scratch{}}
	take := func(b *batch) *batch {
		for _, r := range b.records {
			if r.Topic == topic.Decisions {
				continue
			}
			body := decodeAs[event.Delivery](t, d, r).Body
			require.True(t, bytes.HasSuffix(body, []byte(fmt.Sprintf(`,"mine":%d}`, delivered%distinct))), delivered)
			delivered++
		}
		assert.Less(t, cap(out.bodies), 2*maxScratch)
		return &batch{}
	}
	out.flush = take
	_, err := d.decide(t.Context(), r, newRepeats(10), out)
	require.NoError(t, err)
	take(out.batch)
	assert.Equal(t, n, delivered)
	assert.LessOrEqual(t, cap(out.scratch.again().bodies), flushBytes, "and nothing of it is kept for the next event")
}

// S2-15: what no query string holds is dead as too large, told before it is sent.
func TestAQueryThatIsTooLongIsADeadLetter(t *testing.T) {
	d := newDecider(t)
	s := &subscription.Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}, Payload: subscription.Payload{Profile: subscription.ProfileDialer}}
	s.Request.Method = "GET"
	d.subscribe(t, s)
	got := sortOut(t, d, collect(t, d, eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1","data":{"notes":"`+strings.Repeat("x", 64<<10)+`"}}`)))
	require.Empty(t, got.deliveries)
	require.Len(t, got.letters, 1)
	assert.Equal(t, subscription.ReasonTooLarge, got.letters[0].Reason)
	assert.Contains(t, got.letters[0].Detail, "use POST")
}
