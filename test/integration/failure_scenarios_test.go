package integration

import (
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// S1-11: what an endpoint fails at for good goes to an alternative one, and the history shows where each attempt went.
func fallsBack(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	primary := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 503})})
	spare := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": primary.URL(), "fallback_url": spare.URL() + "/spare", "events": []string{"call.*"},
		"auth":  object{"type": "bearer", "token": "for-the-primary"},
		"retry": object{"schedule": []string{"200ms"}, "max_attempts": 2}})
	tn.post(ended("fb", object{"id": "fb-1"}))
	got := await(t, spare, 1)[0]
	verify(t, sub.Secret, got)
	assert.Equal(t, "/spare", got.Path)
	assert.Equal(t, "true", got.Header.Get("Webhook-Fallback"))
	assert.Empty(t, got.Header.Get("Authorization"))
	assert.Equal(t, 3, got.Attempt)
	tried := await(t, primary, 2)
	assert.Equal(t, tried[0].ID, got.ID)
	assert.Equal(t, string(tried[0].Body), string(got.Body))
	assert.Equal(t, "Bearer for-the-primary", tried[0].Header.Get("Authorization"))

	delivered := tn.awaitDelivery("fb-1", sub.ID, "delivered", "")
	assert.Equal(t, "fallback", delivered.Via)
	one := decode[struct {
		Log []struct{ Via, Reason string } `json:"attempt_log"`
	}](t, tn.must(200, http.MethodGet, "/v1/deliveries/"+delivered.ID, nil)).Log
	require.Len(t, one, 3)
	assert.Equal(t, []string{"primary", "primary", "fallback"}, []string{one[0].Via, one[1].Via, one[2].Via})
	assert.Equal(t, "fallback", one[1].Reason)
	stats := decode[struct{ Via map[string]int }](t, tn.must(200, http.MethodGet, "/v1/subscriptions/"+sub.ID+"/stats", nil))
	assert.Equal(t, map[string]int{"fallback": 1}, stats.Via)
	assert.Equal(t, 2, primary.Total())
}

// P-13: an endpoint that fails for as long as the setting says is disabled, everyone who watches is told, and what was
// skipped is sent when somebody activates it. One that takes a delivery again in time is told of as well.
func TestFailingDisables(t *testing.T) {
	p := startPipeline(t, settings{shape: together, env: map[string]string{"CALLSTREAM_DISABLE_AFTER": "10s"}})
	tn := p.tenant("failing")
	watch := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": watch.URL(), "events": []string{"endpoint.*"}})
	down := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 503})})
	shaky := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		if r.Attempt < 15 {
			return hooktest.Answer{Reset: true}
		}
		return hooktest.Answer{}
	}})
	often := object{"schedule": []string{"100ms"}, "max_attempts": 100}
	failing := tn.subscribe(object{"url": down.URL(), "events": []string{"call.*"}, "retry": object{"schedule": []string{"500ms"}, "max_attempts": 100}})
	recovers := tn.subscribe(object{"url": shaky.URL(), "events": []string{"call.*"}, "retry": often})
	tn.post(ended("f", object{"id": "f-1"}))

	awaitTold(t, watch, recovers.ID, "endpoint.recovered", "delivered")
	tn.awaitDelivery("f-1", recovers.ID, "delivered", "")
	health := func(id string) (state, reason, since string) {
		one := decode[struct {
			State  string
			Reason string `json:"state_reason"`
			Since  string `json:"failing_since"`
		}](t, tn.must(200, http.MethodGet, "/v1/subscriptions/"+id, nil))
		return one.State, one.Reason, one.Since
	}
	state, _, since := health(recovers.ID)
	require.Equal(t, []string{"active", ""}, []string{state, since})

	awaitTold(t, watch, failing.ID, "endpoint.disabled", "failing")
	tn.awaitDelivery("f-1", failing.ID, "skipped", "disabled")
	state, reason, since := health(failing.ID)
	require.Equal(t, []string{"disabled", "failing"}, []string{state, reason})
	require.NotEmpty(t, since)
	tn.post(ended("f", object{"id": "f-2"}))
	tn.awaitDelivery("f-2", failing.ID, "skipped", "disabled")

	down.SetAnswer(nil)
	before := down.Total()
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+failing.ID+"/activate", object{"replay_missed": true})
	awaitTold(t, watch, failing.ID, "endpoint.recovered", "activated")
	for _, id := range []string{"f-1", "f-2"} {
		tn.awaitDelivery(id, failing.ID, "delivered", "")
	}
	require.Equal(t, before+2, down.Total())
	_, _, since = health(failing.ID)
	require.Empty(t, since)
}

// P-09: what is tried again and when is what the endpoint and the subscription ask for.
func retriesAsAsked(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	until := make(chan time.Time, 1)
	hook := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		if r.Path == "/notfound" {
			return hooktest.Answer{Status: 404}
		}
		switch {
		case r.Path == "/broken" || r.Path == "/late":
			return hooktest.Answer{Status: 500}
		case r.Attempt == 1:
			date := time.Now().Add(2 * time.Second).Truncate(time.Second)
			until <- date
			return hooktest.Answer{Status: 503, Header: map[string]string{"Retry-After": date.UTC().Format(http.TimeFormat)}}
		case r.Attempt == 2:
			return hooktest.Answer{Status: 425}
		case r.Attempt == 3:
			return hooktest.Answer{Status: 408}
		}
		return hooktest.Answer{}
	}})
	subscribe := func(path string, more object) created {
		document := object{"url": hook.URL() + path, "events": []string{"call.*"}}
		maps.Copy(document, more)
		return tn.subscribe(document)
	}
	quick := func(attempts int, on ...string) object {
		retry := object{"schedule": []string{"100ms"}, "max_attempts": attempts}
		if len(on) > 0 {
			retry["retry_on"] = on
		}
		return object{"retry": retry}
	}
	asked := subscribe("/asked", quick(4)) // the last delay repeats
	notFound := subscribe("/notfound", quick(3, "404"))
	broken := subscribe("/broken", quick(3, "404"))
	late := subscribe("/late", object{"retry": object{"schedule": []string{"1h"}}, "ttl": object{"call.ended": "1m"}})
	tn.post(ended("asked", object{"id": "ra-1"}))

	tn.awaitDelivery("ra-1", asked.ID, "delivered", "")
	tn.awaitDelivery("ra-1", notFound.ID, "dead", "exhausted")
	tn.awaitDelivery("ra-1", broken.ID, "dead", "rejected")
	tn.awaitDelivery("ra-1", late.ID, "skipped", "expired") // an hour before it would have been tried again
	at := map[string][]time.Time{}
	for _, r := range hook.Requests() {
		at[r.Path] = append(at[r.Path], r.At)
	}
	require.Len(t, at["/asked"], 4)
	assert.False(t, at["/asked"][1].Before(<-until), "Retry-After as a date")
	assert.Len(t, at["/notfound"], 3)
	assert.Len(t, at["/broken"], 1)
	assert.Len(t, at["/late"], 1)
}
