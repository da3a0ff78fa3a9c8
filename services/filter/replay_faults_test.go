package filter

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// brokenLog is a log of which only some records can be read.
type brokenLog struct {
	recordReader
	records map[int64]*kgo.Record
}

func (l *brokenLog) Records(_ context.Context, places []kafka.Place, each func(i int, r *kgo.Record, err error)) {
	for i, at := range places {
		r, err := l.records[at.Offset], error(nil)
		if r == nil {
			err = fmt.Errorf("read %s: %w", at, kafka.ErrUnreadable)
		}
		each(i, r, err)
	}
}

// Records that can't be read, as after damage or without the right to, are waited for once, explained, and passed by.
func TestAReplayPassesByWhatCannotBeRead(t *testing.T) {
	d := newDecider(t)
	d.subscribe(t, &subscription.Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}})
	good := eventRecord(t, d, `{"id":"evt_good","type":"call.ended","call_id":"c-1"}`)
	good.Offset = 2
	command := &event.Replay{ID: "rpl_1", Tenant: "acme", SubscriptionID: "sub_1", Events: []event.ReplayEvent{
		{Topic: topic.CallsEvents, Offset: 1, ID: "evt_bad", Source: "dialer"},
		{Topic: topic.CallsEvents, Offset: 2, ID: "evt_good"},
		{Topic: topic.CallsEvents, Offset: 3, ID: "evt_worse"},
		{Topic: topic.CallsEvents, Offset: 4}, // of an older command: nobody knows what it is
	}}
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, func(string, int) error { return nil })
		p := newReplayer(d, newOutbox(t, b), &brokenLog{records: map[int64]*kgo.Record{2: good}}, nil, 1000)
		r := p.open(t.Context(), &kgo.Record{}, command)
		started, tries := time.Now(), 0
		for r.do(t.Context()) != nil {
			require.Less(t, time.Since(started), time.Hour, "it waits for ever")
			require.Empty(t, b.taken, "the events behind it keep their order")
			tries++
			require.NoError(t, run.Again(t.Context(), tries))
		}
		assert.InDelta(t, unreadablePatience, time.Since(started), float64(10*time.Second))
		assert.Greater(t, tries, 10)
		assert.Equal(t, map[string]int{"queued": 1, "unreadable": 3}, r.counts)

		reasons := map[string]string{}
		for _, value := range b.taken {
			var decision event.Decision
			if d.codec.Decode(t.Context(), []byte(value), &decision) == nil && decision.ReplayID == "rpl_1" {
				require.Len(t, decision.Decisions, 1)
				entry := decision.Decisions[0]
				assert.Equal(t, "sub_1", entry.SubscriptionID)
				assert.Equal(t, "acme", decision.Tenant)
				reasons[decision.Source+" "+decision.EventID] = entry.Outcome + " " + entry.Reason
			}
		}
		assert.Equal(t, map[string]string{"dialer evt_bad": "skipped unreadable", " evt_good": "queued ", " evt_worse": "skipped unreadable"}, reasons)
	})
}

// undecodable is a codec with a fault of ours in it.
type undecodable struct{ codec }

func (undecodable) DecodeEventInto(context.Context, *event.Event, string, []byte) error {
	panic("a fault")
}

// A fault of ours while an event is replayed leaves its dead letter and a decision: nobody asks for the event again.
func TestAFaultInAReplayLeavesADeadLetter(t *testing.T) {
	d := newDecider(t)
	d.log = zap.NewNop()
	c := &subscription.Compiled{ID: "sub_1", Tenant: "acme", Version: 3}
	mine := eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1","source":"dialer"}`)
	real := d.codec
	d.codec = undecodable{real}
	out := &emission{batch: &batch{}, scratch: &scratch{}}
	outcome, err := d.again(t.Context(), mine, &event.Replay{ID: "rpl_1", Tenant: "acme"}, &event.ReplayEvent{}, c, out)
	require.NoError(t, err)
	assert.Equal(t, "dead", outcome)
	require.Len(t, out.records, 2)
	var letter event.DeadLetter
	require.NoError(t, real.Decode(t.Context(), out.records[0].Value, &letter))
	id := event.DeliveryID("acme", "dialer", "evt_1", "sub_1")
	assert.Equal(t, []string{"internal_error", "acme", "sub_1", "evt_1", id}, []string{letter.Reason, letter.Tenant, letter.SubscriptionID, letter.EventID, letter.DeliveryID})
	assert.Equal(t, mine.Value, letter.OriginalValue)
	var decision event.Decision
	require.NoError(t, real.Decode(t.Context(), out.records[1].Value, &decision))
	assert.Equal(t, "rpl_1", decision.ReplayID)
	require.Len(t, decision.Decisions, 1)
	assert.Equal(t, "dead internal_error "+id, decision.Decisions[0].Outcome+" "+decision.Decisions[0].Reason+" "+decision.Decisions[0].DeliveryID)
}
