package filter_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/filter"
	"github.com/callstream/callstream/subscription"
)

// S0-08, S0-19, S0-26: the events that a subscription names, with their identity, as they came.
func TestAnEventBecomesADeliveryAndADecision(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"call.*"}, Spread: 4, TTL: subscription.TTL{Default: subscription.Duration(time.Hour)}})
	r.subscribe(&subscription.Subscription{ID: "sub_other", Tenant: "other", Events: []string{"*"}})
	r.start()
	record := r.eventRecord(`{"id":"evt_1","type":"call.ended","call_id":"c-77","agent_id":"a-9","source":"dialer","sequence":4,
		"data":{"duration_ms":1500,"theirs":{"b":1,"a":2}}}`)
	r.publish(record, r.eventRecord(`{"id":"evt_2","type":"sms.sent","data":{"message_id":"m-1"}}`))

	records := r.read(topic.Lane("standard"))
	require.Len(t, records, 1)
	deliveries := r.deliveries()
	d := deliveries[0]
	id := event.DeliveryID("acme", "dialer", "evt_1", "sub_1")
	assert.Equal(t, id, d.ID)
	assert.Equal(t, []string{"acme", "sub_1", "evt_1", "call.ended", "dialer", "c-77", "a-9", "POST", "application/json", "standard", traceparent},
		[]string{d.Tenant, d.SubscriptionID, d.EventID, d.EventType, d.Source, d.CallID, d.AgentID, d.Method, d.ContentType, d.Lane, d.Traceparent})
	assert.EqualValues(t, 1, d.SubscriptionVersion)
	assert.EqualValues(t, 4, *d.Sequence)
	assert.Equal(t, time.Hour, d.ExpiresAt.Sub(d.AcceptedAt))
	assert.Equal(t, topic.CallsEvents, d.EventTopic)
	assert.Equal(t, record.Partition, d.EventPartition)
	assert.Equal(t, record.Offset, d.EventOffset)
	assert.Regexp(t, `^\{"type":"call.ended","timestamp":"[^"]+","id":"evt_1","tenant":"acme","source":"dialer","call_id":"c-77","agent_id":"a-9","sequence":4,`+
		`"data":\{"duration_ms":1500,"theirs":\{"b":1,"a":2\}\}\}$`, string(d.Body))

	rec := records[0]
	assert.Equal(t, "sub_1", string(rec.Key))
	assert.Equal(t, topic.PartitionFor("sub_1", "c-77", 4, partitions), rec.Partition)
	for header, want := range map[string]string{
		kafka.HeaderTenant: "acme", kafka.HeaderType: "call.ended", kafka.HeaderID: "evt_1", kafka.HeaderSource: "dialer",
		kafka.HeaderTraceparent: traceparent, kafka.HeaderSubscription: "sub_1", kafka.HeaderSubscriptionVersion: "1",
		kafka.HeaderDelivery: id, kafka.HeaderAcceptedAt: fmt.Sprint(d.AcceptedAt.UnixMicro()),
	} {
		assert.Equal(t, want, kafka.Header(rec, header), header)
	}

	decisions := r.decisions()
	require.Len(t, decisions, 1, "none for the event that nobody of its tenant asked for")
	assert.Equal(t, []event.DecisionEntry{{SubscriptionID: "sub_1", SubscriptionVersion: 1, Outcome: "queued", DeliveryID: id}}, decisions[0].Decisions)
	assert.Equal(t, record.Offset, decisions[0].EventOffset)
	assert.Equal(t, "c-77", decisions[0].CallID)
	assert.Empty(t, r.dead())
}

// P-04, P-07, S2-11, S2-17, S4-02: states, filters and agents, each with its reason, its rule and the version that said so.
func TestWhatIsNotSentIsExplained(t *testing.T) {
	parallel(t)
	r := newRig(t)
	all := []string{"*"}
	r.subscribe(&subscription.Subscription{ID: "sub_pending", Events: all, State: subscription.StatePending})
	r.subscribe(&subscription.Subscription{ID: "sub_paused", Events: all, State: subscription.StatePaused})
	r.subscribe(&subscription.Subscription{ID: "sub_disabled", Events: all, State: subscription.StateDisabled, StateReason: "410 Gone"})
	r.subscribe(&subscription.Subscription{ID: "sub_filtered", Events: all, Filter: `event.data.disposition == "qualified"`})
	r.subscribe(&subscription.Subscription{ID: "sub_missing", Events: all, Filter: `event.data.score > 3.0`})
	r.subscribe(&subscription.Subscription{ID: "sub_wrong", Events: all, Filter: `event.data.disposition > 3`})
	r.subscribe(&subscription.Subscription{ID: "sub_matching", Events: all, Filter: `event.data.disposition.startsWith("no")`})
	r.subscribe(&subscription.Subscription{ID: "sub_agent", Events: all, Agents: []string{"a-1"}})
	r.subscribe(&subscription.Subscription{ID: "sub_other_agent", Events: all, Agents: []string{"a-2", "a-3"}})
	r.subscribe(&subscription.Subscription{ID: "sub_gone", Events: all})
	r.start()
	r.feed(subscription.Deleted("sub_gone", "acme", 100, 1))
	r.post(`{"id":"evt_1","type":"disposition.updated","call_id":"c-1","agent_id":"a-1","data":{"disposition":"not interested"}}`)

	for id, want := range map[string][3]string{
		"sub_pending": {"skipped", "pending", "its endpoint has not passed verification"}, "sub_paused": {"skipped", "paused", ""}, "sub_disabled": {"skipped", "disabled", "410 Gone"},
		"sub_filtered": {"skipped", "filtered", `event.data.disposition == "qualified"`}, "sub_missing": {"skipped", "missing_field", "data.score"},
		"sub_other_agent": {"skipped", "agent", "the subscription is for the agents a-2, a-3"},
		"sub_matching":    {"queued", "", ""}, "sub_agent": {"queued", "", ""},
	} {
		d := r.decision("evt_1", id)
		assert.Equal(t, want, [3]string{d.Outcome, d.Reason, d.Detail}, id)
		assert.NotZero(t, d.SubscriptionVersion)
	}
	wrong := r.decision("evt_1", "sub_wrong")
	assert.Equal(t, "filter_error", wrong.Reason)
	assert.NotEmpty(t, wrong.Detail)
	decisions := r.decisions()
	require.Len(t, decisions, 1)
	assert.Len(t, decisions[0].Decisions, 9, "the deleted one has none")
	var to []string
	for _, d := range r.deliveries() {
		to = append(to, d.SubscriptionID)
	}
	assert.ElementsMatch(t, []string{"sub_matching", "sub_agent"}, to)
}

// The time to live runs from acceptance, and may differ by type.
//
// P-09: a time to live by type.
func TestAnEventThatComesTooLateIsExpired(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}, TTL: subscription.TTL{
		Default: subscription.Duration(time.Hour), ByType: map[string]subscription.Duration{"call.ended": subscription.Duration(24 * time.Hour)}}})
	r.start()
	for _, typ := range []string{"call.ended", "call.started"} {
		late, err := event.Parse([]byte(`{"id":"evt_` + typ + `","type":"` + typ + `","call_id":"c-1"}`))
		require.NoError(t, err)
		late.Tenant, late.IngestedAt = "acme", time.Now().Add(-2*time.Hour)
		r.publish(r.direct(late))
	}
	assert.Equal(t, "queued", r.decision("evt_call.ended", "sub_1").Outcome)
	d := r.decision("evt_call.started", "sub_1")
	assert.Equal(t, []string{"skipped", "expired", "older than its time to live of 1h"}, []string{d.Outcome, d.Reason, d.Detail})
	assert.Len(t, r.deliveries(), 1)
}

// An expression that runs away is stopped by its budget and explained, and holds up nobody: neither the others that want
// the event, nor the events behind it.
//
// P-04: filters have a budget.
func TestAnExpressionThatRunsAwayIsStopped(t *testing.T) {
	parallel(t)
	r := newRig(t)
	all := []string{"*"}
	filters := []string{
		`event.data.n.all(a, event.data.n.all(b, event.data.n.all(c, event.data.n.all(d, a + b + c + d > 0))))`,
		`event.data.text.matches("(a?){300}a{300}b")`,
		`event.data.n.all(a, event.data.text.matches("(x+x+)+y") || true)`,
		`event.data.n.map(a, event.data.n.map(b, event.data.n)) == event.data.n.map(a, event.data.n.map(b, event.data.n))`,
		`size(event.data.n.map(a, event.data.text + event.data.text)) == 0`,
	}
	for i, filter := range filters {
		r.subscribe(&subscription.Subscription{ID: fmt.Sprint("sub_", i), Events: all, Filter: filter})
	}
	r.subscribe(&subscription.Subscription{ID: "sub_template", Events: all, Payload: subscription.Payload{
		Profile: subscription.ProfileCustom, Template: `event.data.n.map(a, event.data.n.map(b, event.data.n.map(c, event.data.text)))`,
	}})
	r.subscribe(&subscription.Subscription{ID: "sub_missing", Events: all, Payload: subscription.Payload{
		Profile: subscription.ProfileCustom, Template: `{"x": event.data.score}`,
	}})
	r.subscribe(&subscription.Subscription{ID: "sub_zz_plain", Events: all})
	r.start()
	hostile := `{"id":"evt_hostile","type":"call.ended","call_id":"c-1","data":{"n":[` + strings.Repeat("1,", 999) + `1],"text":"` + strings.Repeat("a", 500_000) + `"}}`
	r.post(hostile, `{"id":"evt_behind","type":"call.ended","call_id":"c-1"}`)

	for i := range filters {
		d := r.decision("evt_hostile", fmt.Sprint("sub_", i))
		assert.Equal(t, [2]string{"skipped", "filter_error"}, [2]string{d.Outcome, d.Reason}, "%s: %s", filters[i], d.Detail)
		assert.NotEmpty(t, d.Detail)
	}
	for id, reason := range map[string]string{"sub_template": "template_error", "sub_missing": "missing_field"} {
		d := r.decision("evt_hostile", id)
		assert.Equal(t, [2]string{"dead", reason}, [2]string{d.Outcome, d.Reason}, d.Detail)
		assert.NotEmpty(t, d.Detail)
	}
	var plain []string
	for _, d := range r.deliveries() {
		if d.SubscriptionID == "sub_zz_plain" {
			plain = append(plain, d.EventID)
		}
	}
	assert.Equal(t, []string{"evt_hostile", "evt_behind"}, plain)
}

func TestAChangeIsInForceOnceItIsApplied(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.start()
	r.post(`{"id":"evt_0","type":"call.ended","call_id":"c-1"}`)
	s := &subscription.Subscription{ID: "sub_1", Events: []string{"call.ended"}}
	r.subscribe(s)
	r.post(`{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
	s.Filter = `event.id == "evt_3"`
	r.subscribe(s)
	r.post(`{"id":"evt_2","type":"call.ended","call_id":"c-1"}`, `{"id":"evt_3","type":"call.ended","call_id":"c-1"}`)
	var got []string
	for _, d := range r.deliveries() {
		got = append(got, fmt.Sprintf("%s v%d", d.EventID, d.SubscriptionVersion))
	}
	assert.Equal(t, []string{"evt_1 v1", "evt_3 v2"}, got)
}

// Elsewhere than in one process a change is in force within a second of its record on the feed.
func TestAChangeIsInForceWithinASecond(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.start()
	service := r.service
	r.service = nil // nobody waits for the filter to apply what is on the feed, but the test
	for i := range 5 {
		sub := &subscription.Subscription{ID: fmt.Sprint("sub_", i), Events: []string{"call.ended"}}
		written := time.Now()
		r.subscribe(sub)
		require.NoError(t, service.WaitApplied(t.Context(), int64(i+1)))
		assert.Less(t, time.Since(written), time.Second)
		r.post(fmt.Sprintf(`{"id":"evt_%d","type":"call.ended","call_id":"c-1"}`, i))
		assert.Equal(t, "queued", r.decision(fmt.Sprint("evt_", i), sub.ID).Outcome)
	}
}

// What the filter knows is on the feed: a filter that starts anew, after changes and events that nobody was there for,
// decides as one that saw them happen.
//
// P-17: no manual step after a restart.
func TestARestartChangesNothing(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.start()
	subs := map[string]*subscription.Subscription{}
	for i := range 40 {
		s := &subscription.Subscription{ID: fmt.Sprintf("sub_%02d", i), Events: []string{"*"}}
		subs[s.ID] = s
		r.subscribe(s)
	}
	for i := range 40 { // every one changes, some twice
		s := subs[fmt.Sprintf("sub_%02d", i)]
		switch i % 5 {
		case 0:
			s.State = subscription.StatePaused
		case 1:
			s.Filter = "event.data.duration_ms > 10"
		case 2:
			s.Agents = []string{"a-2"}
		case 3:
			s.State = subscription.StatePaused
			r.subscribe(s)
			s.State = subscription.StateActive
		case 4:
			r.version++
			r.feed(subscription.Deleted(s.ID, "acme", r.version, 1))
			continue
		}
		r.subscribe(s)
	}
	decided := func(event string) map[string]string {
		all := map[string]string{}
		for _, d := range r.decisions() {
			for _, entry := range d.Decisions {
				if d.EventID == event {
					all[entry.SubscriptionID] = fmt.Sprint(entry.SubscriptionVersion, " ", entry.Outcome, " ", entry.Reason)
				}
			}
		}
		return all
	}
	const body = `"type":"call.ended","call_id":"c-1","agent_id":"a-1","data":{"duration_ms":5}}`
	r.post(`{"id":"evt_live",` + body)
	want := decided("evt_live")
	require.Len(t, want, 32)

	r.stop()
	require.NoError(t, r.producer.ProduceSync(t.Context(), r.eventRecord(`{"id":"evt_meanwhile",`+body)))
	r.start()
	r.post(`{"id":"evt_after",` + body)
	assert.Equal(t, want, decided("evt_meanwhile"))
	assert.Equal(t, want, decided("evt_after"))
}

// P-16: Avro straight to the topics.
func TestDirectAvroWithoutHeaders(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.subscribe(&subscription.Subscription{ID: "sub_2", Tenant: "other", Events: []string{"*"}})
	r.start()
	whole := &event.Event{ID: "evt_1", Type: "call.ended", Tenant: "other", Source: "warehouse", CallID: "c-1", Time: time.Now().UTC()}
	require.NoError(t, whole.SetData([]byte(`{"duration_ms": 3}`)))
	anonymous := r.direct(&event.Event{Type: "call.ended", Tenant: "acme", CallID: "c-1"})
	again := r.direct(&event.Event{Type: "call.ended", Tenant: "acme", CallID: "c-1"})
	partial := r.direct(&event.Event{Type: "call.ended", Tenant: "acme", CallID: "c-9"})
	partial.Headers = []kgo.RecordHeader{kafka.StringHeader(kafka.HeaderID, "evt_h"), kafka.StringHeader(kafka.HeaderTenant, "acme")}
	r.publish(r.direct(whole), anonymous, again, partial)

	byID := map[string]event.Delivery{}
	var made []string
	for _, d := range r.deliveries() {
		byID[d.EventID] = d
		if d.EventID != "evt_1" && d.EventID != "evt_h" {
			made = append(made, d.EventID)
		}
	}
	require.Len(t, byID, 4)
	assert.Equal(t, "sub_2", byID["evt_1"].SubscriptionID, "the tenant is the value's")
	assert.Contains(t, string(byID["evt_1"].Body), `"data":{"duration_ms":3}`)
	assert.Contains(t, byID, "evt_h", "a header may say what the value leaves out")
	require.Len(t, made, 2, "two records without ids are two events")
	for _, id := range made {
		d := byID[id]
		assert.Regexp(t, `^evt_[a-z2-7]{26}$`, id)
		assert.Contains(t, string(d.Body), `"id":"`+id+`"`)
		assert.False(t, d.AcceptedAt.IsZero(), "the record's time stands in")
		assert.Equal(t, d.AcceptedAt, d.EventTime)
	}
	assert.Empty(t, r.dead())
}

func TestBadRecordsAreDeadAndStopNothing(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.subscribe(&subscription.Subscription{ID: "sub_2", Tenant: "other", Events: []string{"*"}})
	r.start()
	good := func(id string) *kgo.Record {
		return r.eventRecord(`{"id":"` + id + `","type":"call.ended","call_id":"c-1","source":"dialer"}`)
	}
	with := func(header, value string) *kgo.Record {
		rec := good("evt_" + header)
		kafka.SetHeader(rec, kafka.StringHeader(header, value))
		return rec
	}
	key := good("x").Key
	truncated := good("evt_cut")
	truncated.Value = truncated.Value[:len(truncated.Value)-3]
	unknownSchema := good("evt_schema")
	binary.BigEndian.PutUint32(unknownSchema.Value[1:], 9999)
	wrongTopic := r.eventRecord(`{"id":"evt_wrong","type":"sms.sent"}`)
	wrongTopic.Topic, wrongTopic.Key = topic.CallsEvents, key
	system := r.direct(&event.Event{ID: "evt_type", Type: "system.maintenance", Tenant: "acme"})
	system.Value = []byte(strings.Replace(string(system.Value), "system.maintenance", "system.maintenancy", 1))
	control := r.direct(&event.Event{ID: "evt\r\nx: y", Type: "call.ended", Tenant: "acme", CallID: "c-1"})
	r.publish(
		with(kafka.HeaderTenant, "other"), with(kafka.HeaderType, "call.failed"), with(kafka.HeaderID, "evt_forged"), with(kafka.HeaderSource, "forged"),
		&kgo.Record{Topic: topic.CallsEvents, Key: key, Value: []byte("not Avro")},
		&kgo.Record{Topic: topic.CallsEvents, Key: key},
		truncated, unknownSchema, wrongTopic, system, control,
		r.direct(&event.Event{ID: "evt_nobody", Type: "call.ended", CallID: "c-1"}),
		r.direct(&event.Event{ID: "evt_no_call", Type: "call.ended", Tenant: "acme"}),
		good("evt_after"),
	)
	deliveries := r.deliveries()
	require.Len(t, deliveries, 1, "only the good one, and nothing for the forged tenant")
	assert.Equal(t, "evt_after", deliveries[0].EventID)
	reasons := map[string]int{}
	for _, d := range r.dead() {
		reasons[d.Reason]++
		assert.Equal(t, "filter", d.Service)
		assert.NotEmpty(t, d.Detail)
		assert.NotEmpty(t, d.SourceTopic)
		assert.Empty(t, d.DeliveryID)
		switch d.Reason {
		case "header_mismatch":
			assert.Equal(t, "call.ended", d.EventType, "the value's, not the header's")
			assert.NotEmpty(t, d.OriginalHeaders[kafka.HeaderTenant])
		case "poison":
			assert.Error(t, r.codec.Decode(t.Context(), d.OriginalValue, &event.Delivery{}))
		}
	}
	assert.Equal(t, map[string]int{"header_mismatch": 4, "poison": 5, "unknown_type": 1, "no_tenant": 1, "invalid_event": 2}, reasons)
}

func TestThePoisonedRecordIsKeptRaw(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.start()
	rec := &kgo.Record{Topic: topic.AgentsEvents, Key: []byte("k\xff"), Value: []byte{0, 0, 0, 1, 2, 255},
		Headers: []kgo.RecordHeader{{Key: kafka.HeaderTenant, Value: []byte("acme")}, {Key: "x", Value: []byte{0xff, 0}}}}
	r.publish(rec)
	dead := r.dead()
	require.Len(t, dead, 1)
	assert.Equal(t, rec.Key, dead[0].OriginalKey)
	assert.Equal(t, rec.Value, dead[0].OriginalValue)
	assert.Equal(t, map[string][]byte{kafka.HeaderTenant: []byte("acme"), "x": {0xff, 0}}, dead[0].OriginalHeaders)
	assert.Equal(t, "acme", dead[0].Tenant)
	assert.Equal(t, []any{topic.AgentsEvents, rec.Partition, rec.Offset}, []any{dead[0].SourceTopic, dead[0].SourcePartition, dead[0].SourceOffset})
	assert.Equal(t, "poison", kafka.Header(r.read(topic.DeadLetters)[0], "reason"))
}

// A registry that can't be asked is no proof against a record: its partition waits, the others go on.
func TestAnUnreachableRegistryIsWaitedFor(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.start()
	// The schema of another writer, which the filter has not met: ours with another text about it.
	schema, err := event.SchemaText(topic.CallEventSchema)
	require.NoError(t, err)
	id, err := r.registry.Register(t.Context(), "another-value", strings.Replace(schema, `"doc"`, `"note":"of another writer","doc"`, 1))
	require.NoError(t, err)
	rec := r.eventRecord(`{"id":"evt_foreign","type":"call.ended","call_id":"c-1"}`)
	binary.BigEndian.PutUint32(rec.Value[1:], uint32(id))
	r.registry.away.Store(true)
	require.NoError(t, r.producer.ProduceSync(t.Context(), rec))
	r.eventually("the registry is asked again", func() error {
		if n := r.registry.asked.Load(); n < 3 {
			return fmt.Errorf("asked %d times", n)
		}
		return nil
	})
	require.NoError(t, r.producer.ProduceSync(t.Context(), r.eventRecord(`{"id":"evt_sms","type":"sms.sent"}`)))
	r.eventually("another partition goes on", func() error {
		if n := len(r.deliveries()); n != 1 {
			return fmt.Errorf("%d deliveries", n)
		}
		return nil
	})
	assert.Empty(t, r.dead())
	r.registry.away.Store(false)
	r.settled()
	assert.Len(t, r.deliveries(), 2)
	assert.Empty(t, r.dead())
}

// S0-23: an event is delivered once under its id.
func TestARepeatIsDeliveredOnceAlsoAcrossARestart(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.start()
	one := `{"id":"evt_1","type":"call.ended","call_id":"c-1","source":"dialer"}`
	r.post(one, one, `{"id":"evt_1","type":"call.ended","call_id":"c-1","source":"another"}`)
	assert.Len(t, r.deliveries(), 2, "another source is another event")
	assert.Equal(t, 1, r.duplicates())

	r.stop()
	r.start()
	r.post(one)
	assert.Len(t, r.deliveries(), 2)
	assert.Equal(t, 2, r.duplicates())

	old := r.eventRecord(`{"id":"evt_old","type":"call.ended","call_id":"c-1"}`)
	later := *old
	old.Timestamp = time.Now().Add(-11 * time.Minute)
	r.publish(old, &later)
	assert.Len(t, r.deliveries(), 4, "eleven minutes apart")
}

func (r *rig) duplicates() int {
	n := 0
	for _, d := range r.decisions() {
		for _, entry := range d.Decisions {
			if entry.Reason == "duplicate" && entry.Outcome == "skipped" && strings.Contains(entry.Detail, "offset") {
				n++
			}
		}
	}
	return n
}

// Other teams may write in transactions: what was rolled back never happened, and the markers between the records end
// neither reading nor reading back.
func TestRolledBackEventsNeverHappened(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.start()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.target.Brokers...), kgo.TransactionalID("warehouse"))
	require.NoError(t, err)
	defer client.Close()
	for id, end := range map[string]kgo.TransactionEndTry{"evt_kept": kgo.TryCommit, "evt_gone": kgo.TryAbort} {
		require.NoError(t, client.BeginTransaction())
		require.NoError(t, client.ProduceSync(t.Context(), r.eventRecord(`{"id":"`+id+`","type":"call.ended","call_id":"c-1"}`)).FirstErr())
		require.NoError(t, client.EndTransaction(t.Context(), end))
	}
	one := func(want int) func() error {
		return func() error {
			if n := len(r.deliveries()); n != want {
				return fmt.Errorf("%d deliveries", n)
			}
			return nil
		}
	}
	r.eventually("the committed event is delivered", one(1))
	r.stop()
	r.start()
	r.post(`{"id":"evt_kept","type":"call.ended","call_id":"c-1"}`, `{"id":"evt_gone","type":"call.ended","call_id":"c-1"}`)
	assert.Equal(t, 1, r.duplicates(), "of the one that was committed")
	assert.Len(t, r.deliveries(), 2)
}

// A start reads back only so much; beyond it a repeat goes out again, under the same id.
func TestTheMemoryOfARestartIsBounded(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.change = func(cfg *filter.Config) { cfg.RecallEvents = 5 }
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.start()
	one := func(i int) string {
		return fmt.Sprintf(`{"id":"evt_%d","type":"call.ended","call_id":"c-1","source":"dialer"}`, i)
	}
	var events []string
	for i := range 10 {
		events = append(events, one(i))
	}
	r.post(events...)
	r.stop()
	r.start()
	r.post(one(0), one(9))
	assert.Equal(t, 1, r.duplicates(), "of the last five")
	deliveries := r.deliveries()
	require.Len(t, deliveries, 11)
	assert.Equal(t, deliveries[0].ID, deliveries[10].ID)
}

func TestAMendedEventIsNoRepeatOfTheBadOne(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.start()
	bad := r.direct(&event.Event{ID: "evt_1", Type: "call.ended", Tenant: "acme"}) // lacks its call
	good := r.direct(&event.Event{ID: "evt_1", Type: "call.ended", Tenant: "acme", CallID: "c-1"})
	good.Key = bad.Key
	r.publish(bad, good, good)
	assert.Len(t, r.dead(), 1)
	assert.Len(t, r.deliveries(), 1)
	assert.Equal(t, 1, r.duplicates())
}

// What a crash leaves uncommitted is made again, in the same bytes and under the same ids.
func TestRereadingMakesTheSameDeliveries(t *testing.T) {
	parallel(t)
	r := newRig(t)
	for i := range 3 {
		r.subscribe(&subscription.Subscription{ID: fmt.Sprintf("sub_%d", i), Events: []string{"*"}, TTL: subscription.TTL{Default: subscription.Duration(time.Hour)}})
	}
	r.start()
	var events []string
	for i := range 20 {
		events = append(events, fmt.Sprintf(`{"id":"evt_%d","type":"call.ended","call_id":"c-%d","data":{"duration_ms":%d,"x":{"b":1,"a":2}}}`, i%15, i%5, i))
	}
	r.post(events...)
	r.publish(r.direct(&event.Event{Type: "call.ended", Tenant: "acme", CallID: "c-1"}))
	first := r.read(topic.Lane("standard"))
	require.Len(t, first, 3*16)

	r.stop()
	r.forget()
	r.start()
	r.settled()
	all := r.read(topic.Lane("standard"))
	require.Len(t, all, 2*3*16)
	seen := map[string]*kgo.Record{}
	for _, rec := range first {
		seen[kafka.Header(rec, kafka.HeaderDelivery)] = rec
	}
	for _, rec := range all {
		before := seen[kafka.Header(rec, kafka.HeaderDelivery)]
		require.NotNil(t, before)
		assert.Equal(t, before.Value, rec.Value)
		assert.Equal(t, before.Headers, rec.Headers)
		assert.Equal(t, before.Partition, rec.Partition)
	}
}

// forget takes the group's commits back to the beginning, as if the filter had died before the first.
func (r *rig) forget() {
	r.t.Helper()
	ctx := r.t.Context()
	committed, err := r.adm.FetchOffsets(ctx, filter.Group)
	require.NoError(r.t, err)
	offsets := kadm.Offsets{}
	for _, o := range committed.Offsets() {
		for _, p := range o {
			offsets.AddOffset(p.Topic, p.Partition, 0, -1)
		}
	}
	require.NoError(r.t, r.adm.CommitAllOffsets(ctx, filter.Group, offsets))
}

func TestARenderingOverTheLimitIsDead(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.subscribe(&subscription.Subscription{ID: "sub_post", Events: []string{"*"}, Payload: subscription.Payload{Profile: "post-call"}})
	r.start()
	// Control characters take one byte in Avro and six in JSON.
	e := &event.Event{ID: "evt_big", Type: "call.ended", Tenant: "acme", CallID: "c-1", Source: "dialer"}
	require.NoError(t, e.SetData([]byte(`{"transcript_text":"`+strings.Repeat(`\u0001`, 600_000)+`"}`)))
	rec := r.direct(e)
	require.Less(t, len(rec.Value), 1<<20)
	r.publish(rec)

	assert.Equal(t, "payload_too_large", r.decision("evt_big", "sub_1").Reason)
	assert.Equal(t, "dead", r.decision("evt_big", "sub_1").Outcome)
	assert.Equal(t, "queued", r.decision("evt_big", "sub_post").Outcome, "its rendering is small")
	dead := r.dead()
	require.Len(t, dead, 1)
	assert.Equal(t, event.DeliveryID("acme", "dialer", "evt_big", "sub_1"), dead[0].DeliveryID)
	assert.Equal(t, "sub_1", dead[0].SubscriptionID)
	assert.Equal(t, rec.Value, dead[0].OriginalValue)
	require.Len(t, r.deliveries(), 1)
}

func TestOwnEventsAreRoutedLikeAnyOther(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"delivery.exhausted"}})
	r.start()
	r.post(`{"id":"evt_1","type":"delivery.exhausted","data":{"subscription_id":"sub_9"}}`)
	deliveries := r.deliveries()
	require.Len(t, deliveries, 1)
	assert.Equal(t, topic.OwnEvents, deliveries[0].EventTopic, "by this the dispatcher knows not to make another event of it")
}

func TestTheDeliveriesOfACallKeepTheirOrder(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.start()
	const n = 300
	records := make([]*kgo.Record, n)
	for i := range n {
		records[i] = r.eventRecord(fmt.Sprintf(`{"id":"evt_%03d","type":"call.ended","call_id":"c-%d"}`, i, i%4))
	}
	require.NoError(t, r.producer.ProduceSync(t.Context(), records...))
	r.settled()
	last := map[string]string{}
	deliveries := r.deliveries()
	require.Len(t, deliveries, n)
	for _, d := range deliveries {
		assert.Less(t, last[d.CallID], d.EventID)
		last[d.CallID] = d.EventID
	}
}

// P-02: deliveries that are to keep the order of their call say which call, and their event's place in it. Replays come late
// on purpose, and messages belong to no call's events.
func TestDeliveriesInOrderSayTheirPlace(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.subscribe(&subscription.Subscription{ID: "sub_ordered", Events: []string{"*"}, Ordering: subscription.OrderingPerCall})
	r.subscribe(&subscription.Subscription{ID: "sub_plain", Events: []string{"*"}})
	r.start()
	first := r.eventRecord(`{"id":"evt_1","type":"call.started","call_id":"c-1"}`)
	second := r.eventRecord(`{"id":"evt_2","type":"call.ended","call_id":"c-1"}`)
	r.publish(first, second, r.eventRecord(`{"id":"evt_3","type":"sms.sent","call_id":"c-1","data":{"message_id":"m-1"}}`))
	r.replay(event.Replay{ID: "rpl_1", SubscriptionID: "sub_ordered"}, first)

	got := map[string][]string{}
	for _, rec := range r.read(topic.Lane("standard")) {
		sub := kafka.Header(rec, kafka.HeaderSubscription)
		got[sub] = append(got[sub], kafka.Header(rec, kafka.HeaderID)+" "+kafka.Header(rec, kafka.HeaderOrder)+" "+kafka.Header(rec, kafka.HeaderRank))
	}
	assert.ElementsMatch(t, []string{fmt.Sprint("evt_1 c-1 ", first.Offset), fmt.Sprint("evt_2 c-1 ", second.Offset), "evt_3  ", "evt_1  "}, got["sub_ordered"])
	assert.ElementsMatch(t, []string{"evt_1  ", "evt_2  ", "evt_3  "}, got["sub_plain"])
}

func TestTheFeedIsReadBeforeTheFirstEvent(t *testing.T) {
	parallel(t)
	r := newRig(t)
	var records []*kgo.Record
	for i := range 50 {
		records = append(records, r.eventRecord(fmt.Sprintf(`{"id":"evt_%d","type":"call.ended","call_id":"c-%d"}`, i, i)))
	}
	require.NoError(t, r.producer.ProduceSync(t.Context(), records...))
	for i := range 500 {
		r.subscribe(&subscription.Subscription{ID: fmt.Sprintf("sub_%d", i), Tenant: "other", Events: []string{"*"}})
	}
	r.subscribe(&subscription.Subscription{ID: "sub_last", Events: []string{"*"}})
	r.start()
	r.settled()
	assert.Len(t, r.deliveries(), 50)
}

func TestWhatIsCounted(t *testing.T) {
	parallel(t)
	r := newRig(t)
	var err error
	r.tel, err = telemetry.New(telemetry.Config{LogLevel: "error"}, "filter", "test")
	require.NoError(t, err)
	defer r.tel.Close()
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"*"}})
	r.subscribe(&subscription.Subscription{ID: "sub_2", Events: []string{"*"}, State: subscription.StatePaused})
	r.start()
	r.post(`{"id":"evt_1","type":"call.ended","call_id":"c-1"}`, `{"id":"evt_1","type":"call.ended","call_id":"c-1"}`)
	r.publish(&kgo.Record{Topic: topic.CallsEvents, Value: []byte("x")})
	w := httptest.NewRecorder()
	r.tel.MetricsHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	for _, line := range []string{
		`callstream_filter_events_total{topic="calls.events"} 3`,
		`callstream_filter_decisions_total{outcome="queued",reason=""} 1`,
		`callstream_filter_decisions_total{outcome="skipped",reason="paused"} 1`,
		`callstream_filter_decisions_total{outcome="skipped",reason="duplicate"} 2`,
		`callstream_filter_dead_letters_total{reason="poison"} 1`,
		`callstream_filter_render_duration_seconds_count 1`,
		`callstream_filter_subscriptions 2`,
	} {
		assert.Contains(t, w.Body.String(), line+"\n")
	}
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "callstream_") {
			assert.NotContains(t, line, "acme")
		}
	}
}

// A service never needs another one up to start: it waits, says for what, and ends when told to.
func TestItWaitsForKafkaAndTheRegistry(t *testing.T) {
	parallel(t)
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := l.Addr().String()
	require.NoError(t, l.Close())
	reg, err := kafka.NewRegistry(kafka.RegistryConfig{URLs: []string{"http://" + nobody}})
	require.NoError(t, err)
	var cfg filter.Config
	require.NoError(t, config.Load(&cfg, config.Source{Args: []string{"--kafka-brokers=" + nobody}}))
	service, err := filter.New(cfg, filter.Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(reg)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	r := &rig{t: t}
	r.eventually("it says what it waits for", func() error {
		if err := service.Ready(); err == nil || !errors.Is(err, event.ErrRegistry) {
			return fmt.Errorf("ready says %w", err)
		}
		return nil
	})
	cancel()
	require.NoError(t, <-ended)
}

func TestReadyTellsWhatIsWaitedFor(t *testing.T) {
	parallel(t)
	r := newRig(t)
	r.start()
	require.NoError(t, r.service.Ready())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.service.WaitApplied(ctx, 10_000), context.Canceled)
}
