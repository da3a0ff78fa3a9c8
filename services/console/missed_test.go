package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
)

// skip writes an event and the decision that skipped it.
func (h *harness) skip(subscription, id, reason string) {
	h.t.Helper()
	now := time.Now()
	e := &event.Event{ID: id, Type: "call.ended", Tenant: "default", Source: "api", CallID: "c-1", Time: now, IngestedAt: now}
	offset := h.produceEvent(e)
	h.decide(subscription, e, offset, "skipped", reason, "", 3)
}

func (h *harness) decide(subscription string, e *event.Event, offset int64, outcome, reason, replay string, version int64) {
	h.t.Helper()
	h.produceRecord(topic.Decisions, &event.Decision{Tenant: e.Tenant, EventID: e.ID, EventType: e.Type, Source: e.Source, CallID: e.CallID, EventTime: e.Time, AcceptedAt: e.IngestedAt,
		EventTopic: topic.CallsEvents, EventOffset: offset, DecidedAt: time.Now(), ReplayID: replay,
		Decisions: []event.DecisionEntry{{SubscriptionID: subscription, SubscriptionVersion: version, Outcome: outcome, Reason: reason,
			DeliveryID: event.DeliveryID(e.Tenant, e.Source, e.ID, subscription)}}})
}

// replays reads the commands that were asked for, in order.
func (h *harness) replays() []event.Replay {
	h.t.Helper()
	reader, err := kafka.NewReader(h.cfg.Kafka, h.svc.log)
	require.NoError(h.t, err)
	defer reader.Close()
	ends, err := kadm.NewClient(h.producer.Client()).ListEndOffsets(h.t.Context(), topic.Replays)
	require.NoError(h.t, err)
	end, ok := ends.Lookup(topic.Replays, 0)
	require.True(h.t, ok)
	var out []event.Replay
	for i := range end.Offset {
		r, err := reader.Record(h.t.Context(), kafka.Place{Topic: topic.Replays, Offset: i})
		require.NoError(h.t, err)
		var command event.Replay
		require.NoError(h.t, h.codec.Decode(h.t.Context(), r.Value, &command))
		out = append(out, command)
	}
	return out
}

func (a answer) replay() startedReplay {
	a.t.Helper()
	var out struct{ Replay *startedReplay }
	require.NoError(a.t, json.Unmarshal(a.is(http.StatusOK).body, &out))
	require.NotNil(a.t, out.Replay, "%s", a.body)
	return *out.Replay
}

// P-07: what was skipped while a subscription was paused or disabled is asked for again when somebody wants it, each event
// once, however often it is asked; what retention took is counted.
func TestWhatWasMissedIsSentOnce(t *testing.T) {
	h := startOnKafka(t)
	path, _ := h.verified(endpoint(t, obliging), "")
	id := strings.TrimPrefix(path, "/v1/subscriptions/")
	h.do("POST", path+"/pause", "").is(200)
	const all, lost = 1203, 2
	for i := range all {
		h.skip(id, fmt.Sprintf("evt_%d", i), []string{"paused", "disabled"}[i%2])
	}
	for reason := range map[string]bool{"filtered": true, "expired": true, "duplicate": true, "pending": true} {
		h.skip(id, "evt_"+reason, reason)
	}
	h.skip("sub_another", "evt_other", "paused")
	start := kadm.Offsets{}
	start.Add(kadm.Offset{Topic: topic.CallsEvents, At: lost})
	_, err := kadm.NewClient(h.producer.Client()).DeleteRecords(t.Context(), start)
	require.NoError(t, err)

	require.NotContains(t, h.do("POST", path+"/activate", "").is(200).object(), "replay", "unless it is asked for")
	require.Empty(t, h.replays())
	first := h.do("POST", path+"/activate", `{"replay_missed":true}`).replay()
	require.Equal(t, all-lost, first.Events)
	require.Equal(t, lost, first.Lost)
	require.True(t, strings.HasPrefix(first.ID, "rpl_"))
	commands := h.replays()
	require.Len(t, commands, 2, "1,000 events each")
	offsets := map[int64]bool{}
	for _, c := range commands {
		require.Equal(t, first.ID, c.ID)
		require.Equal(t, "default", c.Tenant)
		require.Equal(t, id, c.SubscriptionID)
		require.Equal(t, "start", c.Command)
		require.LessOrEqual(t, len(c.Events), 1000)
		for _, e := range c.Events {
			require.Equal(t, topic.CallsEvents, e.Topic)
			require.Equal(t, fmt.Sprintf("evt_%d api", e.Offset), e.ID+" "+e.Source, "what the place may hold no longer")
			require.False(t, offsets[e.Offset], "offset %d twice", e.Offset)
			offsets[e.Offset] = true
		}
	}
	require.Len(t, offsets, all-lost)
	for i := int64(lost); i < all; i++ {
		require.True(t, offsets[i])
	}

	again := h.do("POST", path+"/activate", `{"replay_missed":true}`).replay()
	require.Equal(t, startedReplay{Lost: lost}, again)
	require.Len(t, h.replays(), 2)

	// One that the replay found paused again is missed once more.
	e := &event.Event{ID: "evt_7", Type: "call.ended", Tenant: "default", Source: "api", CallID: "c-1", Time: time.Now(), IngestedAt: time.Now()}
	h.decide(id, e, 7, "skipped", "paused", first.ID, 4)
	third := h.do("POST", path+"/activate", `{"replay_missed":true}`).replay()
	require.Equal(t, 1, third.Events)
	require.Greater(t, third.ID, first.ID, "the ids of replays grow")
	require.Equal(t, []event.ReplayEvent{{Topic: topic.CallsEvents, Offset: 7, ID: "evt_7", Source: "api"}}, h.replays()[2].Events)

	audit := h.audited("action=replayed&id=" + id)
	require.Len(t, audit.Items, 3)
	require.Contains(t, string(audit.Items[0].Detail), third.ID)

	// A subscription that missed nothing.
	other, _ := h.verified(endpoint(t, obliging), "")
	require.Equal(t, startedReplay{}, h.do("POST", other+"/activate", `{"replay_missed":true}`).replay())
}

// P-07: services that run by themselves go on skipping for a moment after the activation is on the feed: what they skip then
// is sent as well.
func TestWhatIsSkippedUntilAnActivationIsAppliedIsSent(t *testing.T) {
	h := startOnKafka(t)
	path, _ := h.verified(endpoint(t, obliging), "")
	id := strings.TrimPrefix(path, "/v1/subscriptions/")
	h.do("POST", path+"/pause", "").is(200)
	h.skip(id, "evt_before", "paused")
	activated := make(chan answer, 1)
	go func() { activated <- h.do("POST", path+"/activate", `{"replay_missed":true}`) }()
	require.Eventually(t, func() bool {
		records := h.subscriptions()
		last := records[len(records)-1]
		return last.ID == id && last.Version == 4
	}, 10*time.Second, time.Millisecond)
	h.skip(id, "evt_after", "paused")
	require.Equal(t, 2, (<-activated).replay().Events)
}

// P-07: what the history had to delete of a subscription's missed deliveries is told.
func TestWhatWasForgottenIsLost(t *testing.T) {
	const kept = 1000
	h := startOnKafka(t, func(c *Config, _ *Deps) { c.HistoryMaxDeliveries = kept })
	path, _ := h.verified(endpoint(t, obliging), "")
	id := strings.TrimPrefix(path, "/v1/subscriptions/")
	h.do("POST", path+"/pause", "").is(200)
	const missed = 3
	for i := range missed {
		h.skip(id, fmt.Sprintf("evt_%d", i), "paused")
	}
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	// Others fill the history.
	now := time.Now()
	other := event.Decision{Tenant: "other", EventID: "evt_busy", EventType: "call.ended", AcceptedAt: now, DecidedAt: now, EventTopic: topic.CallsEvents}
	for i := range 4 * kept {
		other.Decisions = append(other.Decisions, event.DecisionEntry{SubscriptionID: fmt.Sprintf("sub_%d", i), Outcome: "queued"})
	}
	h.produceRecord(topic.Decisions, &other)
	require.Eventually(t, func() bool {
		n, err := h.svc.history.Forgotten(t.Context(), "default", id)
		require.NoError(t, err)
		return n == missed
	}, 30*time.Second, 20*time.Millisecond)
	require.Equal(t, startedReplay{Lost: missed}, h.do("POST", path+"/activate", `{"replay_missed":true}`).replay())
}

// S3-19: an event of the past is tested and previewed as it was.
func TestAnEventOfThePastIsTested(t *testing.T) {
	h := startOnKafka(t)
	receiver := hooktest.Start(t, hooktest.Options{})
	path, _ := h.verified(receiver.URL(), `,"ttl":"1h"`)
	id := strings.TrimPrefix(path, "/v1/subscriptions/")
	old := time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Millisecond)
	e, err := event.Parse([]byte(`{"id":"evt_past","type":"call.ended","call_id":"c-9","source":"dialer","data":{"mine":{"z":1,"a":[2]}}}`))
	require.NoError(t, err)
	e.Tenant, e.Time, e.IngestedAt = "default", old, old
	offset := h.produceEvent(e)
	h.decide(id, e, offset, "queued", "", "", 2)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))

	r := h.do("POST", path+"/test", `{"event_id":"evt_past"}`).test()
	require.True(t, r.Delivered)
	require.Equal(t, "evt_past", r.Event.ID)
	require.Equal(t, "expired", r.Reason, "and it says that it is too old to be sent today")
	require.Contains(t, r.Request.Body, `"mine":{"z":1,"a":[2]}`)
	require.Contains(t, r.Request.Body, `"test":true`)
	p := h.do("POST", "/v1/subscriptions:preview", `{"subscription_id":"`+id+`","event_id":"evt_past"}`).preview()
	require.Equal(t, "expired", p.Reason)
	p = h.do("POST", "/v1/subscriptions:preview", `{"subscription":{"url":"https://x.example","events":["*"]},"event_id":"evt_past"}`).preview()
	require.True(t, p.WouldSend)
	require.NotContains(t, p.Request.Body, `"test"`)

	// S3-16, S3-18: figures of the subscription.
	stats := h.do("GET", path+"/stats?window=1d", "").is(200).object()
	require.EqualValues(t, 1, stats["deliveries"].(map[string]any)["queued"])
	require.EqualValues(t, 1, stats["backlog"].(map[string]any)["standard"])
	require.Equal(t, "24h", stats["window"])
	require.EqualValues(t, 0, h.do("GET", path+"/stats?window=1h", "").is(200).object()["deliveries"].(map[string]any)["queued"])
	for _, bad := range []string{"1s", "31d", "soon", "-1h"} {
		h.do("GET", path+"/stats?window="+bad, "").problem(422)
	}
}

// A place in the log that holds another tenant's event by now gives nothing of it away.
func TestAPlaceThatIsAnothersIsNotTested(t *testing.T) {
	h := startOnKafka(t)
	e, err := event.Parse([]byte(`{"id":"evt_1","type":"call.ended","call_id":"c-9","source":"api","data":{"mine":"planted"}}`))
	require.NoError(t, err)
	e.Tenant, e.Time, e.IngestedAt = "default", time.Now(), time.Now()
	offset := h.produceEvent(e)
	theirs := *e
	theirs.Tenant = "other"
	h.decide("sub_1", &theirs, offset, "queued", "", "", 1)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	answer := h.do("POST", "/v1/subscriptions:preview", `{"subscription":{"url":"https://x.example","events":["*"]},"event_id":"evt_1"}`, "X-Tenant", "other")
	answer.problem(http.StatusNotFound)
	require.NotContains(t, string(answer.body), "planted")
}
