package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// happened writes an event of the tenant default.
func (h *harness) happened(raw string) (*event.Event, int64) {
	h.t.Helper()
	e, err := event.Parse([]byte(raw))
	require.NoError(h.t, err)
	e.Tenant, e.Source, e.IngestedAt = "default", "api", e.Time
	return e, h.produceEvent(e)
}

// keepingAll keeps events of any age.
func keepingAll(c *Config, _ *Deps) { c.HistoryRetention = 50 * 365 * 24 * time.Hour }

func as[T any](a answer) T {
	a.t.Helper()
	var out T
	require.NoError(a.t, json.Unmarshal(a.is(http.StatusOK).body, &out), "%s", a.body)
	return out
}

// S3-16, S3-18, P-07: an event answers what became of it for every subscription, a delivery shows every request and
// response, and a call its events in order.
func TestWhatBecameOfAnEvent(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	h.do("GET", "/v1/events/evt_1", "").problem(http.StatusNotFound)
	h.do("GET", "/v1/calls/c-1", "").problem(http.StatusNotFound)

	e, at := h.happened(`{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00.5Z","call_id":"c-1","agent_id":"a-9","sequence":4,"vendor":{"x":1.50},
		"data":{"duration_ms":42000,"custom":"<b>"}}`)
	id := event.DeliveryID("default", "api", "evt_1", "sub_sent")
	h.produceRecord(topic.Lane(topic.DefaultLane), &event.Delivery{ID: id, Tenant: "default", Body: []byte(`{"sent":true}`)})
	h.produceRecord(topic.Attempts, &event.Attempt{DeliveryID: id, Tenant: "default", SubscriptionID: "sub_sent", SubscriptionVersion: 3, EventID: "evt_1", EventType: e.Type, Source: "api", CallID: "c-1",
		Attempt: 1, Via: "primary", Outcome: "retry", Reason: "http_5xx", ErrorClass: "http_5xx", StartedAt: e.Time.Add(time.Second), DurationMicros: 1500, Method: "POST", URL: "https://crm.example.com/hooks",
		RequestHeaders: map[string]string{"authorization": "(masked)"}, BodyTopic: topic.Lane(topic.DefaultLane), HTTPStatus: 503, ResponseBody: []byte("later\xff"), AcceptedAt: e.Time,
		NextAttemptAt: e.Time.Add(6 * time.Second)})
	h.decide("sub_sent", e, at, "queued", "", "", 3)
	// It was parked in a tier meanwhile, from where its record has been taken.
	h.produceRecord(topic.Attempts, &event.Attempt{DeliveryID: id, Tenant: "default", SubscriptionID: "sub_sent", SubscriptionVersion: 4, EventID: "evt_1", EventType: e.Type, Source: "api", CallID: "c-1",
		Attempt: 2, Via: "primary", Outcome: "delivered", StartedAt: e.Time.Add(6 * time.Second), DurationMicros: 2500, Method: "POST", URL: "https://crm.example.com/hooks",
		BodyTopic: "deliveries.retry.5s", BodyOffset: 99, HTTPStatus: 200, ResponseBody: []byte("thanks"), AcceptedAt: e.Time})
	h.produceRecord(topic.Decisions, &event.Decision{Tenant: "default", EventID: "evt_1", EventType: e.Type, Source: "api", CallID: "c-1", EventTime: e.Time, AcceptedAt: e.Time, EventTopic: topic.CallsEvents, EventOffset: at,
		DecidedAt: e.Time, Decisions: []event.DecisionEntry{{SubscriptionID: "sub_filtered", SubscriptionVersion: 9, Outcome: "skipped", Reason: "filtered", Detail: "event.data.duration_ms > 60000"}}})
	h.happened(`{"id":"evt_0","type":"call.started","time":"2026-01-20T09:59:00Z","call_id":"c-1","data":{}}`)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))

	got := as[eventDetails](h.do("GET", "/v1/events/evt_1", ""))
	require.JSONEq(t, `{"duration_ms":42000,"custom":"<b>"}`, string(got.Data))
	require.JSONEq(t, `{"x":1.50}`, string(got.Members["vendor"]))
	require.Len(t, got.Members, 1)
	require.Equal(t, []string{"call.ended", "a-9", "c-1", "calls.events/0/0", ""}, []string{got.Type, got.AgentID, got.CallID, got.Record, got.Note})
	require.EqualValues(t, 4, *got.Sequence)
	became := map[string]string{}
	for _, d := range got.Deliveries {
		became[d.SubscriptionID] = fmt.Sprint(d.State, " ", d.Reason, " ", d.Detail, " v", d.SubscriptionVersion)
	}
	require.Equal(t, map[string]string{"sub_sent": "delivered   v4", "sub_filtered": "skipped filtered event.data.duration_ms > 60000 v9"}, became)

	one := as[deliveryDetails](h.do("GET", "/v1/deliveries/"+id, ""))
	require.Equal(t, 2, one.Attempts)
	require.Len(t, one.AttemptLog, 2)
	first, second := one.AttemptLog[0], one.AttemptLog[1]
	require.Equal(t, map[string]string{"authorization": "(masked)"}, first.Request.Headers)
	require.Equal(t, `{"sent":true}`, *first.Request.Body)
	require.Equal(t, `{"sent":true}`, *second.Request.Body, "the bytes of one rendering are the same on every attempt")
	require.Equal(t, "bGF0ZXL/", *first.Response.BodyBase64)
	require.Equal(t, e.Time.Add(6*time.Second), *first.NextAttemptAt)
	require.Equal(t, []any{"delivered", 200, "thanks", 2.5}, []any{second.Outcome, second.Response.Status, *second.Response.Body, second.DurationMS})

	call := as[callTimeline](h.do("GET", "/v1/calls/c-1", ""))
	require.Len(t, call.Events, 2)
	require.Equal(t, []string{"evt_0", "evt_1"}, []string{call.Events[0].ID, call.Events[1].ID})
	require.Empty(t, call.Events[0].Deliveries)
	require.Len(t, call.Events[1].Deliveries, 2)

	require.Len(t, as[list[DeliveryDocument]](h.do("GET", "/v1/deliveries?state=delivered&http_status=200&call_id=c-1&since=2026-01-20T10:00:00Z&type=call.ended", "")).Items, 1)
	require.Empty(t, as[list[DeliveryDocument]](h.do("GET", "/v1/deliveries?reason=paused", "")).Items)
	page := as[list[DeliveryDocument]](h.do("GET", "/v1/deliveries?event_id=evt_1&limit=1", ""))
	next := as[list[DeliveryDocument]](h.do("GET", "/v1/deliveries?event_id=evt_1&limit=1&cursor="+*page.NextCursor, ""))
	require.Nil(t, next.NextCursor)
	require.NotEqual(t, page.Items[0].ID, next.Items[0].ID)
	for query, status := range map[string]int{"state=odd": 422, "http_status=7": 422, "since=yesterday": 422, "cursor=odd": 400, "limit=501": 422, "what=1": 422} {
		h.do("GET", "/v1/deliveries?"+query, "").problem(status)
	}

	// What belongs to another tenant is a 404, or not in the list.
	for _, path := range []string{"/v1/events/evt_1", "/v1/deliveries/" + id, "/v1/calls/c-1"} {
		h.do("GET", path, "", "X-Tenant", "other").problem(http.StatusNotFound)
	}
	require.Empty(t, as[list[DeliveryDocument]](h.do("GET", "/v1/deliveries", "", "X-Tenant", "other")).Items)
}

// What Kafka's retention took is missing with a note; what the rows tell is still there.
func TestHistoryOutlivesTheRecords(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	e, at := h.happened(`{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00Z","call_id":"c-1","data":{"duration_ms":1}}`)
	id := event.DeliveryID("default", "api", "evt_1", "sub_1")
	h.decide("sub_1", e, at, "queued", "", "", 1)
	h.produceRecord(topic.Attempts, &event.Attempt{DeliveryID: id, Tenant: "default", SubscriptionID: "sub_1", EventID: "evt_1", EventType: e.Type, Source: "api", CallID: "c-1",
		Attempt: 1, Outcome: "delivered", StartedAt: e.Time, HTTPStatus: 200, AcceptedAt: e.Time, BodyTopic: topic.Lane(topic.DefaultLane)})
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	require.Equal(t, noteGone, as[deliveryDetails](h.do("GET", "/v1/deliveries/"+id, "")).AttemptLog[0].Request.Note, "the body is gone, the rest is not")

	var upTo kadm.Offsets
	upTo.AddOffset(topic.CallsEvents, 0, 1, -1)
	upTo.AddOffset(topic.Attempts, 0, 1, -1)
	_, err := kadm.NewClient(h.producer.Client()).DeleteRecords(t.Context(), upTo)
	require.NoError(t, err)
	got := as[eventDetails](h.do("GET", "/v1/events/evt_1", ""))
	require.Equal(t, []string{noteGone, "call.ended", "c-1"}, []string{got.Note, got.Type, got.CallID})
	require.Nil(t, got.Data)
	require.Equal(t, "delivered", got.Deliveries[0].State)
	one := as[deliveryDetails](h.do("GET", "/v1/deliveries/"+id, ""))
	require.Equal(t, noteGone, one.AttemptLog[0].Note)
	require.Equal(t, 1, one.AttemptLog[0].Number)
}

// A place that holds another record by now, because the topic was made anew, shows nobody else's data.
func TestAPointerNeverShowsAnotherRecord(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	e, at := h.happened(`{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00Z","call_id":"c-1","data":{"duration_ms":1}}`)

	// Rows of another tenant that point to the same records.
	h.produceRecord(topic.Decisions, &event.Decision{Tenant: "other", EventID: "evt_1", EventType: "call.ended", EventTopic: topic.CallsEvents, EventOffset: at, AcceptedAt: e.Time,
		Decisions: []event.DecisionEntry{{SubscriptionID: "sub_1", Outcome: "queued"}}})
	h.produceRecord(topic.Lane(topic.DefaultLane), &event.Delivery{ID: "msg_theirs", Tenant: "default", Body: []byte("theirs")})
	h.produceRecord(topic.Attempts, &event.Attempt{DeliveryID: "msg_ours", Tenant: "other", SubscriptionID: "sub_1", EventID: "evt_1", Attempt: 1, Outcome: "delivered", StartedAt: e.Time, HTTPStatus: 200,
		BodyTopic: topic.Lane(topic.DefaultLane)})
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	got := as[eventDetails](h.do("GET", "/v1/events/evt_1", "", "X-Tenant", "other"))
	require.Equal(t, noteAnother, got.Note)
	require.Nil(t, got.Data)
	one := h.do("GET", "/v1/deliveries/msg_ours", "", "X-Tenant", "other")
	require.Equal(t, noteAnother, as[deliveryDetails](one).AttemptLog[0].Request.Note)
	require.False(t, strings.Contains(string(one.body), "theirs"))
}
