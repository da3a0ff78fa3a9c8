package filter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
)

// memoryRegistry numbers the schemas that are registered.
type memoryRegistry struct{ schemas []string }

func (r *memoryRegistry) SchemaByID(_ context.Context, id int) (string, error) {
	if id < len(r.schemas) {
		return r.schemas[id], nil
	}
	return "", errors.New("no such schema")
}

func (r *memoryRegistry) Register(_ context.Context, _, schema string) (int, error) {
	r.schemas = append(r.schemas, schema)
	return len(r.schemas) - 1, nil
}

func newDecider(t testing.TB) *decider {
	t.Helper()
	codec := event.NewCodec(&memoryRegistry{})
	require.NoError(t, codec.Prepare(t.Context()))
	metrics, err := newMetrics(noopmetric.NewMeterProvider(), topic.Events(), func() int { return 0 })
	require.NoError(t, err)
	lanes := &lanes{log: zap.NewNop(), now: time.Now, list: func(context.Context) (map[string]lane, error) {
		return map[string]lane{"standard": {topic: "deliveries.standard", partitions: 8}}, nil
	}}
	require.NoError(t, lanes.load(t.Context()))
	return &decider{log: zap.NewNop(), codec: codec, book: subscription.NewBook(), lanes: lanes, metrics: metrics, now: time.Now}
}

func (d *decider) subscribe(t testing.TB, s *subscription.Subscription) {
	t.Helper()
	s.URL, s.Version = "https://crm.example.com/hooks", s.Version+1
	if s.State == "" {
		s.State = subscription.StateActive
	}
	record, err := s.Record(1)
	require.NoError(t, err)
	require.True(t, d.book.Apply(record))
}

func eventRecord(t testing.TB, d *decider, raw string) *kgo.Record {
	t.Helper()
	e, err := event.Parse([]byte(raw))
	require.NoError(t, err)
	e.Tenant, e.IngestedAt = "acme", time.UnixMicro(1_700_000_000_000_000)
	value, err := d.codec.(*event.Codec).EncodeEvent(t.Context(), nil, e)
	require.NoError(t, err)
	return &kgo.Record{
		Topic: e.Topic(), Key: e.Key(), Value: value, Timestamp: e.IngestedAt,
		Headers: []kgo.RecordHeader{
			kafka.StringHeader(kafka.HeaderType, e.Type), kafka.StringHeader(kafka.HeaderID, e.ID),
			kafka.StringHeader(kafka.HeaderSource, e.Source), kafka.StringHeader(kafka.HeaderTenant, e.Tenant),
		},
	}
}

// collect decides about a record and returns all records that follow from it.
func collect(t testing.TB, d *decider, r *kgo.Record) []kgo.Record {
	t.Helper()
	var all []kgo.Record
	out := &emission{batch: &batch{}, scratch: &scratch{}, flush: func(b *batch) *batch {
		all = append(all, b.records...)
		return &batch{}
	}}
	_, err := d.decide(t.Context(), r, newRepeats(10), out)
	require.NoError(t, err)
	return append(all, out.records...)
}

func TestOneRenderingServesAllThatShareIt(t *testing.T) {
	d := newDecider(t)
	for i := range 6 {
		s := &subscription.Subscription{ID: fmt.Sprintf("sub_%d", i), Tenant: "acme", Events: []string{"*"}}
		s.Payload.Profile = []string{"standard", "post-call"}[i%2]
		d.subscribe(t, s)
	}
	rendered := 0
	d.now = func() time.Time { // asked before and after each rendering, and once for the decision
		rendered++
		return time.UnixMicro(1)
	}
	records := collect(t, d, eventRecord(t, d, `{"id":"evt_1","type":"call.report","call_id":"c-1","data":{"recording_uri":"https://r"}}`))
	require.Len(t, records, 7)
	assert.Equal(t, 2*2+1, rendered)
	bodies := map[string]int{}
	for _, r := range records[:6] {
		var delivery event.Delivery
		require.NoError(t, d.codec.Decode(t.Context(), r.Value, &delivery))
		bodies[string(delivery.Body)]++
	}
	assert.Len(t, bodies, 2)
	assert.Equal(t, 3, bodies[`{"callId":"c-1","recordingUri":"https://r"}`])
}

func TestAnEventWithThousandsOfSubscriptionsIsSentInParts(t *testing.T) {
	d := newDecider(t)
	const n = maxEntries + 10
	for i := range n {
		d.subscribe(t, &subscription.Subscription{ID: fmt.Sprintf("sub_%05d", i), Tenant: "acme", Events: []string{"*"}})
	}
	flushes := 0
	var all []kgo.Record
	out := &emission{batch: &batch{}, scratch: &scratch{}, flush: func(b *batch) *batch {
		flushes++
		assert.Less(t, len(b.buf), 2*flushBytes)
		all = append(all, b.records...)
		return &batch{}
	}}
	_, err := d.decide(t.Context(), eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1","data":{"notes":"`+strings.Repeat("x", 1000)+`"}}`), newRepeats(10), out)
	require.NoError(t, err)
	all = append(all, out.records...)
	assert.Greater(t, flushes, 3)
	decided, delivered := 0, 0
	for _, r := range all {
		if r.Topic == topic.Decisions {
			var decision event.Decision
			require.NoError(t, d.codec.Decode(t.Context(), r.Value, &decision))
			decided += len(decision.Decisions)
			continue
		}
		require.Equal(t, fmt.Sprintf("sub_%05d", delivered), string(r.Key), "values and keys of flushed batches stay as they were")
		delivered++
	}
	assert.Equal(t, n, delivered)
	assert.Equal(t, n, decided)
	assert.Len(t, all, n+2)
}

func TestAProfileOfANewerVersionIsADeadLetter(t *testing.T) {
	d := newDecider(t)
	d.subscribe(t, &subscription.Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}, Payload: subscription.Payload{Profile: "hologram"}})
	records := collect(t, d, eventRecord(t, d, `{"id":"evt_1","type":"call.ended","call_id":"c-1"}`))
	require.Len(t, records, 2)
	var letter event.DeadLetter
	require.NoError(t, d.codec.Decode(t.Context(), records[0].Value, &letter))
	assert.Equal(t, payload.ReasonRender, letter.Reason)
	assert.Contains(t, letter.Detail, "hologram")
}

func TestDecisionsAboutOtherAgentsAreBounded(t *testing.T) {
	d := newDecider(t)
	for i := range 3 * maxOtherAgents {
		d.subscribe(t, &subscription.Subscription{ID: fmt.Sprintf("sub_%05d", i), Tenant: "acme", Events: []string{"call.report"}, Agents: []string{fmt.Sprint("a-", i)}})
	}
	records := collect(t, d, eventRecord(t, d, `{"id":"evt_1","type":"call.report","call_id":"c-1","agent_id":"a-149"}`))
	require.Len(t, records, 2)
	var decision event.Decision
	require.NoError(t, d.codec.Decode(t.Context(), records[1].Value, &decision))
	assert.Len(t, decision.Decisions, maxOtherAgents+1)
	assert.Equal(t, "sub_00149", decision.Decisions[0].SubscriptionID)
}

func TestALaneWithoutATopicFallsBack(t *testing.T) {
	asked := 0
	now := time.UnixMicro(1)
	known := map[string]lane{"standard": {topic: "deliveries.standard", partitions: 8}}
	var failure error
	l := &lanes{log: zap.NewNop(), now: func() time.Time { return now }, list: func(context.Context) (map[string]lane, error) {
		asked++
		return known, failure
	}}
	require.NoError(t, l.load(t.Context()))
	for range 3 {
		name, partitions := l.find(t.Context(), "express")
		assert.Equal(t, "deliveries.standard 8", fmt.Sprint(name, " ", partitions))
	}
	assert.Equal(t, 2, asked, "not at every event")
	now, known, failure = now.Add(lookEvery), nil, errors.New("away")
	name, _ := l.find(t.Context(), "express")
	assert.Equal(t, "deliveries.standard", name)
	now, failure = now.Add(lookEvery), nil
	known = map[string]lane{"standard": {topic: "deliveries.standard", partitions: 8}, "express": {topic: "deliveries.express", partitions: 4}}
	name, partitions := l.find(t.Context(), "express")
	assert.Equal(t, "deliveries.express 4", fmt.Sprint(name, " ", partitions))
	known = map[string]lane{}
	assert.ErrorIs(t, l.load(t.Context()), errNoLane)
}

func TestOnlyDeliveryLanesAreLanes(t *testing.T) {
	for name, want := range map[string]bool{
		topic.Lane("standard"): true, topic.Lane("express"): true, topic.Slow: false, topic.Ordered: false, topic.RetryTier(5 * time.Second): false,
		topic.DeadLetters: false, topic.Decisions: false, topic.Attempts: false, topic.CallsEvents: false, topic.Lane(""): false,
	} {
		assert.Equal(t, want, isLane(name), name)
	}
}
