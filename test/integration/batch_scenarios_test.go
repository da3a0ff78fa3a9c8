package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// deliveriesOf returns what the history tells of a subscription's deliveries, by event, once there are n in that state.
func deliveriesOf(t *testing.T, tn tenant, sub, state string, n int) map[string]delivery {
	t.Helper()
	found := map[string]delivery{}
	eventually(t, fmt.Sprintf("%d are %s", n, state), func() error {
		clear(found)
		query := url.Values{"subscription_id": {sub}, "state": {state}, "limit": {"500"}}
		for _, d := range decode[struct{ Items []delivery }](t, tn.must(200, http.MethodGet, "/v1/deliveries?"+query.Encode(), nil)).Items {
			found[d.EventID] = d
		}
		if len(found) != n {
			return fmt.Errorf("it is %d", len(found))
		}
		return nil
	})
	return found
}

// S1-02: the first event of each call goes out, the others are skipped and explained.
func limitsFrequency(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "frequency": object{"per": "call", "max": 1, "window": "10m"}})
	var events []object
	for i := range 12 {
		events = append(events, ended(fmt.Sprint("fq-", i%2), object{"id": fmt.Sprint("fq-event-", i)}))
	}
	tn.post(events)
	skipped := deliveriesOf(t, tn, sub.ID, "skipped", 10)
	for id, d := range skipped {
		assert.Equal(t, "frequency", d.Reason, id)
	}
	sent := deliveriesOf(t, tn, sub.ID, "delivered", 2)
	require.Contains(t, sent, "fq-event-0")
	require.Contains(t, sent, "fq-event-1")
	assert.Equal(t, 2, hook.Total())
}

// idsIn are the ids of the events of a batch, in its order.
func idsIn(t *testing.T, r *hooktest.Request) []string {
	t.Helper()
	var items []struct{ ID string }
	require.NoError(t, json.Unmarshal(r.Body, &items), string(r.Body))
	var ids []string
	for _, item := range items {
		ids = append(ids, item.ID)
	}
	return ids
}

// S1-12, S3-20, S3-22: full batches at once, the rest after max_wait, in the order of the events; one request for many,
// signed as a whole, and each event with a history of its own.
func sendsBatches(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "batch": object{"max_events": 4, "max_wait": "300ms"}})
	cloud := hooktest.Start(t, hooktest.Options{})
	tn.subscribe(object{"url": cloud.URL(), "events": []string{"call.*"}, "payload": object{"profile": "cloudevents"}, "batch": object{"max_events": 5, "max_wait": "1m"}})
	var events []object
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint("batch-", i))
		events = append(events, ended("batched", object{"id": want[i]}))
	}
	tn.post(events)
	first := map[string]*hooktest.Request{}
	for _, r := range await(t, hook, 3) {
		verify(t, sub.Secret, r)
		assert.Equal(t, "application/json", r.Header.Get("Content-Type"))
		assert.Empty(t, r.Header.Values("X-Event-Id"))
		assert.NotEmpty(t, r.Header.Get("Traceparent"))
		first[idsIn(t, r)[0]] = r
	}
	for i, n := range map[int]int{0: 4, 4: 4, 8: 2} {
		r := first[want[i]]
		require.NotNil(t, r, "a batch from %d on", i)
		assert.Equal(t, want[i:i+n], idsIn(t, r))
	}
	for _, d := range deliveriesOf(t, tn, sub.ID, "delivered", 10) {
		details := decode[struct {
			Log []struct {
				BatchID string `json:"batch_id"`
				Request struct{ Body string }
			} `json:"attempt_log"`
		}](t, tn.must(200, http.MethodGet, "/v1/deliveries/"+d.ID, nil))
		require.Len(t, details.Log, 1)
		var item struct{ ID string }
		require.NoError(t, json.Unmarshal([]byte(details.Log[0].Request.Body), &item))
		assert.Equal(t, d.EventID, item.ID, "the history shows its part of the body")
		assert.NotEmpty(t, details.Log[0].BatchID)
	}
	assert.Equal(t, 3, hook.Total())
	for _, r := range await(t, cloud, 2) {
		assert.Equal(t, "application/cloudevents-batch+json", r.Header.Get("Content-Type"))
		assert.Len(t, idsIn(t, r), 5)
	}
}

// S1-12: a batch that failed comes again with the same bytes under the same id, with nobody else in it; in the end each
// event is dead for itself.
func freezesBatches(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 500, Body: "broken"})})
	told := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "batch": object{"max_events": 3, "max_wait": "1m"},
		"retry": object{"schedule": []string{"200ms", "500ms"}, "max_attempts": 3}})
	tn.subscribe(object{"url": told.URL(), "events": []string{"delivery.exhausted"}})
	tn.post([]object{ended("f", object{"id": "fz-0"}), ended("f", object{"id": "fz-1"}), ended("f", object{"id": "fz-2"})})
	got := await(t, hook, 3)
	for i, r := range got {
		verify(t, sub.Secret, r)
		assert.Equal(t, i+1, r.Attempt)
		assert.Equal(t, got[0].ID, r.ID)
		assert.Equal(t, string(got[0].Body), string(r.Body))
	}
	assert.Equal(t, []string{"fz-0", "fz-1", "fz-2"}, idsIn(t, got[0]))
	letters := map[string]int{}
	for _, l := range awaitDead(t, p, tn.name, 3) {
		assert.Equal(t, "exhausted", l.Reason)
		assert.NotEqual(t, got[0].ID, l.DeliveryID)
		letters[l.EventID] = l.Attempts
	}
	assert.Equal(t, map[string]int{"fz-0": 3, "fz-1": 3, "fz-2": 3}, letters)
	for id, d := range deliveriesOf(t, tn, sub.ID, "dead", 3) {
		assert.EqualValues(t, 3, d.Attempts, id)
	}
	await(t, told, 3)

	hook.SetAnswer(hooktest.Sequence(hooktest.Answer{Status: 503}, hooktest.Answer{}))
	tn.post([]object{ended("f", object{"id": "fz-3"}), ended("f", object{"id": "fz-4"}), ended("f", object{"id": "fz-5"})})
	eventually(t, "the batch is delivered", func() error {
		if hook.Total() < 5 {
			return errors.New("it was not sent twice")
		}
		return nil
	})
	again := hook.Requests()[3:5]
	assert.Equal(t, string(again[0].Body), string(again[1].Body))
	assert.Equal(t, again[0].ID, again[1].ID)
	for id, d := range deliveriesOf(t, tn, sub.ID, "delivered", 3) {
		assert.EqualValues(t, 2, d.Attempts, id)
	}
}
