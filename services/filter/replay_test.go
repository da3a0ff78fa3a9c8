package filter_test

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/filter"
	"github.com/callstream/callstream/subscription"
)

// What was skipped while a subscription was paused is sent by a replay: rendered by the version in force now, under the id
// that it would have had, and past its time to live.
//
// P-06, P-07: nothing that was skipped is lost.
func TestAReplaySendsWhatWasSkipped(t *testing.T) {
	parallel(t)
	r := newRig(t)
	sub := &subscription.Subscription{ID: "sub_1", Events: []string{"call.*"}, State: subscription.StatePaused,
		TTL: subscription.TTL{Default: subscription.Duration(time.Millisecond)}}
	r.subscribe(sub)
	r.start()
	first := r.eventRecord(`{"id":"evt_1","type":"call.ended","call_id":"c-1","source":"dialer","data":{"duration_ms":1}}`)
	repeat := r.eventRecord(`{"id":"evt_1","type":"call.ended","call_id":"c-1","source":"dialer","data":{"duration_ms":1}}`)
	unwanted := r.eventRecord(`{"id":"evt_2","type":"call.ended","call_id":"c-1","data":{"duration_ms":2}}`)
	started := r.eventRecord(`{"id":"evt_3","type":"call.started","call_id":"c-1"}`)
	r.publish(first, repeat, unwanted, started)
	assert.Equal(t, "duplicate", r.decision("evt_1", "sub_1").Reason)
	assert.Equal(t, "paused", r.decision("evt_2", "sub_1").Reason)
	require.Empty(t, r.deliveries())

	sub.State, sub.Events, sub.Filter = subscription.StateActive, []string{"call.ended"}, "event.data.duration_ms < 2"
	sub.Payload.Profile = subscription.ProfilePostCall
	r.subscribe(sub)
	r.replay(event.Replay{ID: "rpl_1", SubscriptionID: "sub_1"}, repeat, unwanted, started)

	deliveries := r.deliveries()
	require.Len(t, deliveries, 1)
	d := deliveries[0]
	assert.Equal(t, event.DeliveryID("acme", "dialer", "evt_1", "sub_1"), d.ID)
	assert.Equal(t, "rpl_1", d.ReplayID)
	assert.EqualValues(t, 2, d.SubscriptionVersion)
	assert.Equal(t, `{"callId":"c-1"}`, string(d.Body), "rendered anew")
	assert.True(t, d.ExpiresAt.IsZero(), "a replay does not expire")
	assert.Equal(t, []any{repeat.Topic, repeat.Partition, repeat.Offset}, []any{d.EventTopic, d.EventPartition, d.EventOffset})

	got := map[string]string{}
	for _, decision := range r.decisions() {
		if decision.ReplayID != "" {
			require.Equal(t, "rpl_1", decision.ReplayID)
			require.Len(t, decision.Decisions, 1)
			entry := decision.Decisions[0]
			assert.EqualValues(t, 2, entry.SubscriptionVersion)
			got[decision.EventID] = entry.Outcome + " " + entry.Reason
		}
	}
	assert.Equal(t, map[string]string{"evt_1": "queued ", "evt_2": "skipped filtered", "evt_3": "skipped type"}, got)
	assert.Empty(t, r.dead())
}

// The version that a replay was asked under may not have come here yet.
func TestAReplayWaitsForTheSubscriptionsNewestVersion(t *testing.T) {
	parallel(t)
	r := newRig(t)
	sub := &subscription.Subscription{ID: "sub_1", Events: []string{"*"}, State: subscription.StatePaused}
	r.subscribe(sub)
	r.start()
	rec := r.eventRecord(`{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
	r.publish(rec)
	for i := range 10 {
		sub.State, sub.Version = subscription.StateActive, sub.Version+1
		record, err := sub.Record(1)
		require.NoError(t, err)
		value, err := r.codec.Encode(t.Context(), nil, record)
		require.NoError(t, err)
		require.NoError(t, r.producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Subscriptions, Key: []byte(record.ID), Value: value}))
		r.replay(event.Replay{ID: fmt.Sprint("rpl_", i), SubscriptionID: "sub_1"}, rec)
		deliveries := r.deliveries()
		require.Len(t, deliveries, i+1)
		require.Equal(t, sub.Version, deliveries[i].SubscriptionVersion)
	}
}

func TestAReplayForNobodySendsNothing(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_gone", Events: []string{"*"}, State: subscription.StatePaused})
	r.subscribe(&subscription.Subscription{ID: "sub_paused", Events: []string{"*"}, State: subscription.StatePaused})
	r.subscribe(&subscription.Subscription{ID: "sub_theirs", Tenant: "other", Events: []string{"*"}})
	r.start()
	rec := r.eventRecord(`{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
	theirs := r.eventRecord(`{"id":"evt_theirs","tenant":"other","type":"call.ended","call_id":"c-1"}`)
	r.publish(rec, theirs)
	sent := len(r.deliveries())
	r.feed(subscription.Deleted("sub_gone", "acme", 100, 1))
	r.feed(&event.SubscriptionRecord{ID: "sub_broken", Tenant: "acme", Version: 101, Epoch: 1, Spec: "{"})
	for _, id := range []string{"sub_gone", "sub_unknown", "sub_theirs", "sub_paused", "sub_broken"} {
		r.replay(event.Replay{ID: "rpl_" + id, SubscriptionID: id}, rec, theirs)
	}
	assert.Len(t, r.deliveries(), sent, "nothing new")
	want := map[string]string{"rpl_sub_gone": "skipped deleted", "rpl_sub_unknown": "skipped deleted", "rpl_sub_theirs": "skipped deleted", "rpl_sub_paused": "skipped paused",
		"rpl_sub_broken": "skipped unreadable"}
	got := map[string]string{}
	for _, d := range r.decisions() {
		if d.ReplayID != "" {
			assert.Equal(t, "evt_1", d.EventID, "another tenant's event is nobody's to replay")
			got[d.ReplayID] = d.Decisions[0].Outcome + " " + d.Decisions[0].Reason
			assert.Equal(t, "rpl_"+d.Decisions[0].SubscriptionID, d.ReplayID)
		}
	}
	assert.Equal(t, want, got)
}

func TestAReplayPassesByWhatTheLogLacks(t *testing.T) {
	parallel(t)
	r := newRig(t)
	var err error
	r.tel, err = telemetry.New(telemetry.Config{LogLevel: "error"}, "filter", "test")
	require.NoError(t, err)
	defer r.tel.Close()
	sub := &subscription.Subscription{ID: "sub_1", Events: []string{"*"}, State: subscription.StatePaused}
	r.subscribe(sub)
	r.start()
	gone := r.eventRecord(`{"id":"evt_gone","type":"call.ended","call_id":"c-1"}`)
	kept := r.eventRecord(`{"id":"evt_kept","type":"call.ended","call_id":"c-1"}`)
	poison := &kgo.Record{Topic: topic.CallsEvents, Key: kept.Key, Value: []byte("not Avro")}
	r.publish(gone, kept, poison)
	_, err = r.adm.DeleteRecords(t.Context(), kadm.Offsets{gone.Topic: {gone.Partition: kadm.Offset{Topic: gone.Topic, Partition: gone.Partition, At: gone.Offset + 1}}})
	require.NoError(t, err)
	sub.State = subscription.StateActive
	r.subscribe(sub)
	beyond := *kept
	beyond.Offset += 1000
	foreign := *kept
	foreign.Topic = topic.Subscriptions
	another := event.ReplayEvent{Topic: kept.Topic, Partition: kept.Partition, Offset: kept.Offset, ID: "evt_another"}
	others := another // of another source
	others.ID, others.Source = "evt_kept", "pbx"
	// Commands that can't be done stop none behind them.
	require.NoError(t, r.producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Replays, Value: []byte("not Avro")}))
	r.askReplay(event.Replay{ID: "rpl_empty", SubscriptionID: "sub_1"})
	r.replay(event.Replay{ID: "rpl_1", SubscriptionID: "sub_1", Events: []event.ReplayEvent{another, others}}, gone, kept, poison, &beyond, &foreign)

	deliveries := r.deliveries()
	require.Len(t, deliveries, 1, "a log that was cut or made anew has other events at the places")
	assert.Equal(t, "evt_kept", deliveries[0].EventID)
	dead := r.dead()
	require.Len(t, dead, 2, "of the event when it first came, and of the command")
	for _, letter := range dead {
		assert.Equal(t, "poison", letter.Reason)
	}
	w := httptest.NewRecorder()
	r.tel.MetricsHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for outcome, n := range map[string]int{"queued": 1, "gone": 4, "unreadable": 2} {
		assert.Contains(t, w.Body.String(), fmt.Sprintf("callstream_filter_replayed_events_total{outcome=%q} %d\n", outcome, n))
	}
}

// A filter that ends in the middle of a replay leaves it to the next one, which does it again from its beginning: every
// event is sent, in the order of its call, and what goes out twice has the same webhook-id.
func TestAReplayThatIsCutShortIsDoneAgain(t *testing.T) {
	parallel(t)
	r := newRig(t)
	sub := &subscription.Subscription{ID: "sub_1", Events: []string{"*"}, State: subscription.StatePaused}
	r.subscribe(sub)
	r.start()
	const n = 60
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = r.eventRecord(fmt.Sprintf(`{"id":"evt_%02d","type":"call.ended","call_id":"c-%d"}`, i, i%4))
	}
	r.publish(records...)
	r.stop()
	sub.State = subscription.StateActive
	r.service = nil // nobody to wait for
	r.subscribe(sub)

	r.change = func(cfg *filter.Config) { cfg.ReplayRate = 40 }
	r.start()
	r.askReplay(event.Replay{ID: "rpl_1", SubscriptionID: "sub_1"}, records...)
	r.eventually("the replay is under way", func() error {
		if n := len(r.deliveries()); n < 5 {
			return fmt.Errorf("%d deliveries", n)
		}
		return nil
	})
	r.stop()
	before := len(r.deliveries())
	require.Less(t, before, n, "cut short")

	r.change = nil
	r.start()
	r.committed(filter.ReplayGroup, topic.Replays)
	deliveries := r.deliveries()
	assert.Len(t, deliveries, before+n)
	ids := map[string]string{}
	last := map[string]string{}
	for _, d := range deliveries[before:] {
		assert.Less(t, last[d.CallID], d.EventID, "in the order of the log")
		last[d.CallID] = d.EventID
		ids[d.EventID] = d.ID
	}
	assert.Len(t, ids, n, "every event is sent")
	for _, d := range deliveries[:before] {
		assert.Equal(t, ids[d.EventID], d.ID, "a repeat has the same id")
		assert.Equal(t, "rpl_1", d.ReplayID)
	}
}

// Who missed much holds up nobody else: tenants take turns, and a tenant's commands come in their order.
func TestReplaysOfTenantsTakeTurns(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.start()
	mine := make([]*kgo.Record, 100)
	for i := range mine {
		mine[i] = r.eventRecord(fmt.Sprintf(`{"id":"evt_%02d","type":"call.ended","call_id":"c-1"}`, i))
	}
	theirs := r.eventRecord(`{"id":"evt_theirs","tenant":"other","type":"call.ended","call_id":"c-1"}`)
	r.publish(append(mine, theirs)...)
	r.stop()
	r.service = nil // nobody to wait for
	r.subscribe(&subscription.Subscription{ID: "sub_much", Events: []string{"*"}})
	r.subscribe(&subscription.Subscription{ID: "sub_little", Tenant: "other", Events: []string{"*"}})
	for from := 0; from < len(mine); from += 50 {
		r.askReplay(event.Replay{ID: fmt.Sprintf("rpl_%02d", from), SubscriptionID: "sub_much"}, mine[from:from+50]...)
	}
	r.askReplay(event.Replay{ID: "rpl_theirs", Tenant: "other", SubscriptionID: "sub_little"}, theirs)
	r.change = func(cfg *filter.Config) { cfg.ReplayRate = 100 }
	r.start()
	r.committed(filter.ReplayGroup, topic.Replays)

	var ids, replays []string
	var decided []time.Time
	var turn time.Time
	for _, d := range r.decisions() {
		if d.ReplayID == "rpl_theirs" {
			turn = d.DecidedAt
			continue
		}
		ids, replays, decided = append(ids, d.EventID), append(replays, d.ReplayID), append(decided, d.DecidedAt)
	}
	require.Len(t, ids, len(mine))
	assert.IsIncreasing(t, ids)
	assert.IsNonDecreasing(t, replays)
	assert.False(t, turn.IsZero())
	assert.True(t, turn.Before(decided[49]), "the other tenant had to wait for a whole command")
}
