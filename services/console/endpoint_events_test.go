package console

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/stretchr/testify/require"
)

// ownEvents are callstream's own events as they stand on their topic.
func (h *harness) ownEvents() []*event.Event {
	h.t.Helper()
	var list []*event.Event
	for _, r := range h.feeds.records(topic.OwnEvents) {
		e, err := h.codec.DecodeEvent(context.WithoutCancel(h.t.Context()), topic.OwnEvents, r.value)
		require.NoError(h.t, err)
		require.Equal(h.t, string(e.Key()), r.key)
		require.Equal(h.t, kafka.EventHeaders(e.Type, e.ID, e.Source, e.Tenant, e.Traceparent), r.headers)
		require.Empty(h.t, r.database, "it is no feed's")
		list = append(list, e)
	}
	return list
}

// told waits for a number of own events, and returns the newest as its type and its data without the subscription's id.
func (h *harness) told(n int, id string) (eventType, data string) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return len(h.ownEvents()) >= n }, 20*time.Second, 5*time.Millisecond)
	list := h.ownEvents()
	require.Len(h.t, list, n)
	e := list[n-1]
	require.Equal(h.t, "callstream", e.Source)
	require.Equal(h.t, "default/"+id, string(e.Key()))
	require.NotEmpty(h.t, e.Traceparent)
	require.False(h.t, e.IngestedAt.IsZero(), "time to live runs from it")
	members := e.Map()["data"].(map[string]any) //nolint:forcetypeassert // of an event
	require.Equal(h.t, id, members["subscription_id"])
	delete(members, "subscription_id")
	raw, err := json.Marshal(members)
	require.NoError(h.t, err)
	return e.Type, string(raw)
}

func gone(id string, version int64) event.Signal {
	return event.Signal{Kind: signalDisable, Tenant: "default", SubscriptionID: id, SubscriptionVersion: version, Reason: "gone",
		Detail: "the endpoint answered 410 Gone", HTTPStatus: http.StatusGone, EventType: "call.ended", At: time.Now()}
}

// P-13: what becomes of an endpoint is an event of callstream's own: verified, disabled, recovered, each told once for each
// change, in their order.
func TestEndpointsAreToldOf(t *testing.T) {
	h := start(t)
	path, _ := h.verified(endpoint(t, obliging), "")
	id := path[len("/v1/subscriptions/"):]
	told := func(n int, eventType, data string) {
		t.Helper()
		is, has := h.told(n, id)
		require.Equal(t, eventType, is)
		require.JSONEq(t, data, has)
	}
	signal := func(s event.Signal, outcome string) {
		t.Helper()
		is, err := h.svc.applySignal(t.Context(), s)
		require.NoError(t, err)
		require.Equal(t, outcome, is)
	}
	told(1, "endpoint.verified", `{"subscription_version":2,"reason":"challenge"}`)

	// What changes no state is not told: asked again, paused, changed, signed by another key.
	h.do("POST", path+"/verify", "").is(200)
	h.do("POST", path+"/pause", "").is(200)
	h.do("POST", path+"/activate", "").is(200)
	h.do("PATCH", path, `{"name":"x"}`).is(200)
	h.do("POST", path+"/rotate-secret", "").is(200)

	signal(gone(id, 6), "applied")
	told(2, "endpoint.disabled", `{"subscription_version":7,"reason":"gone","error":"the endpoint answered 410 Gone","http_status":410}`)
	signal(gone(id, 6), "stale") // read twice
	h.do("POST", path+"/activate", "").is(200)
	told(3, "endpoint.recovered", `{"subscription_version":8,"reason":"activated"}`)
	signal(gone(id, 8), "applied")
	told(4, "endpoint.disabled", `{"subscription_version":9,"reason":"gone","error":"the endpoint answered 410 Gone","http_status":410}`)
	h.do("POST", path+"/verify", "").is(200)
	told(6, "endpoint.recovered", `{"subscription_version":10,"reason":"verified"}`)
	var types []string
	ids := map[string]bool{}
	for _, e := range h.ownEvents() {
		types, ids[e.ID] = append(types, e.Type), true
	}
	require.Equal(t, []string{"endpoint.verified", "endpoint.disabled", "endpoint.recovered", "endpoint.disabled",
		"endpoint.verified", "endpoint.recovered"}, types)
	require.Len(t, ids, len(types))

	// A new origin is verified while the old one serves.
	h.do("PATCH", path, `{"url":"`+endpoint(t, obliging)+`"}`).is(200)
	h.do("POST", path+"/verify", "").is(200)
	told(7, "endpoint.verified", `{"subscription_version":12,"reason":"challenge"}`)
}

// P-13: an endpoint that has failed for a while shows it, one that takes a delivery again is told of once, and one that
// failed for too long is disabled, for everyone to see. No signal has its effect twice, nor after what came later.
func TestFailingEndpointsAreToldOf(t *testing.T) {
	h := start(t)
	path, _ := h.verified(endpoint(t, obliging), "")
	id := path[len("/v1/subscriptions/"):]
	h.told(1, id)
	since := time.Now().Add(-5 * time.Hour).UTC().Truncate(time.Microsecond)
	is := func(kind string, version int64, at time.Time, outcome string) {
		t.Helper()
		got, err := h.svc.applySignal(t.Context(), event.Signal{Kind: kind, Tenant: "default", SubscriptionID: id, SubscriptionVersion: version,
			Reason: "failing", Detail: "nothing but failures", EventType: "call.ended", HTTPStatus: 503, At: at})
		require.NoError(t, err)
		require.Equal(t, outcome, got, "%s of version %d", kind, version)
	}
	shows := func(state string, since any) {
		t.Helper()
		got := h.do("GET", path, "").object()
		require.Equal(t, state, got["state"])
		require.Equal(t, since, got["failing_since"])
	}
	is(signalFailing, 1, since, "stale") // verified since
	is(signalFailing, 2, since, "applied")
	is(signalFailing, 2, since, "stale")
	is(signalFailing, 3, since.Add(time.Minute), "stale") // another dispatcher noticed later
	shows("active", since.Format(time.RFC3339Nano))
	h.do("PATCH", path, `{"name":"x"}`).is(200)
	shows("active", since.Format(time.RFC3339Nano))
	is(signalRecover, 3, since.Add(-time.Second), "stale")
	is(signalRecover, 3, since.Add(time.Hour), "applied") // whatever was changed
	is(signalRecover, 3, since.Add(time.Hour), "stale")
	shows("active", nil)
	eventType, data := h.told(2, id)
	require.Equal(t, event.TypeRecovered, eventType)
	require.JSONEq(t, `{"subscription_version":5,"reason":"failing"}`, data)

	is(signalFailing, 5, since.Add(2*time.Hour), "applied")
	is(signalDisable, 5, since.Add(3*time.Hour), "stale")
	is(signalDisable, 6, since.Add(3*time.Hour), "applied")
	is(signalDisable, 6, since.Add(3*time.Hour), "stale")
	is(signalRecover, 3, since.Add(time.Hour), "stale") // read again
	shows("disabled", since.Add(2*time.Hour).Format(time.RFC3339Nano))
	require.Equal(t, "failing", h.do("GET", path, "").str("state_reason"))
	eventType, data = h.told(3, id)
	require.Equal(t, event.TypeDisabled, eventType)
	require.JSONEq(t, `{"subscription_version":7,"reason":"failing","error":"nothing but failures","http_status":503}`, data)
	h.do("POST", path+"/activate", "").is(200)
	shows("active", nil)
	eventType, _ = h.told(4, id)
	require.Equal(t, event.TypeRecovered, eventType)
	is(signalDisable, 6, since.Add(3*time.Hour), "stale")
	is(signalFailing, 5, since.Add(2*time.Hour), "stale")
}

// P-13: an endpoint that is gone for an event of our own is disabled like any other, and that makes no further event: two
// that are gone would otherwise tell each other of it.
func TestADeliveryOfAnOwnEventCausesNoOther(t *testing.T) {
	h := start(t)
	path, _ := h.verified(endpoint(t, obliging), "")
	id := path[len("/v1/subscriptions/"):]
	h.told(1, id)
	disabled := gone(id, 2)
	disabled.EventType = event.TypeDisabled
	outcome, err := h.svc.applySignal(t.Context(), disabled)
	require.NoError(t, err)
	require.Equal(t, "applied", outcome)
	require.Equal(t, "disabled", h.do("GET", path, "").str("state"))
	// What people do is no delivery's doing.
	h.do("POST", path+"/activate", "").is(200)
	eventType, _ := h.told(2, id)
	require.Equal(t, event.TypeRecovered, eventType)
}

// P-13: the event is in the change's own transaction. Whoever dies before it is written has it written by the next, and
// whoever dies after it writes the same event again, which its readers know by its id.
func TestEndpointEventsOutliveTheProcess(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.InForceTimeout = 10 * time.Millisecond })
	h.awaitReady()
	id := h.do("POST", "/v1/subscriptions", `{"url":"`+endpoint(t, obliging)+`","events":["*"]}`).str("id")
	h.await("the subscription", shows(id, 1, 1, false))
	onlyEvents := func(appended bool) func(string, feedRecord, bool) error {
		return func(name string, _ feedRecord, is bool) error {
			if name == topic.OwnEvents && is == appended {
				return errors.New("away")
			}
			return nil
		}
	}
	h.feeds.fail(onlyEvents(false))
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "")
	h.await("the change goes first", shows(id, 1, 2, false))
	h.stop()
	require.Empty(t, h.ownEvents())

	h.feeds.fail(onlyEvents(true))
	h.run()
	require.Eventually(t, func() bool { return len(h.ownEvents()) > 0 }, 20*time.Second, time.Millisecond)
	h.stop()
	before := len(h.ownEvents())
	h.feeds.fail(nil)
	h.run()
	require.Eventually(t, func() bool { return len(h.ownEvents()) == before+1 }, 20*time.Second, time.Millisecond)
	for _, e := range h.ownEvents() {
		require.Equal(t, h.ownEvents()[0].ID, e.ID)
		require.Equal(t, h.ownEvents()[0].IngestedAt, e.IngestedAt)
	}
}
