package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

type letterList = list[DeadLetterDocument]

func as202[T any](a answer) T {
	a.t.Helper()
	var out T
	require.NoError(a.t, json.Unmarshal(a.is(http.StatusAccepted).body, &out), "%s", a.body)
	return out
}

// dies writes the dead letter of a delivery as a dispatcher does, and returns the delivery's id.
func (h *harness) dies(sub, id string, change func(*event.DeadLetter)) string {
	h.t.Helper()
	delivery := event.DeliveryID("default", "api", id, sub)
	value, err := h.codec.Encode(h.t.Context(), nil, &event.Delivery{ID: delivery, Tenant: "default", SubscriptionID: sub, EventID: id, Lane: topic.DefaultLane, Method: "POST", ContentType: "application/json",
		Body: []byte(`{"of":"` + id + `"}`)})
	require.NoError(h.t, err)
	at := time.Now().UTC().Truncate(time.Microsecond)
	l := &event.DeadLetter{
		Tenant: "default", Reason: "exhausted", Detail: "attempt 3 was the last", SubscriptionID: sub, SubscriptionVersion: 1, DeliveryID: delivery, EventID: id, EventType: "call.ended", Source: "api",
		Attempts: 3, DeadAt: at, LastFailedAt: at, ErrorClass: "http_5xx", Error: "status 503", HTTPStatus: 503, ResponseBody: []byte("busy"), Service: "dispatcher-0",
		SourceTopic: "deliveries.retry.5s", SourceOffset: 7, OriginalKey: []byte(sub), OriginalValue: value,
		OriginalHeaders: map[string][]byte{kafka.HeaderTenant: []byte("default"), kafka.HeaderSubscription: []byte(sub), kafka.HeaderDelivery: []byte(delivery), kafka.HeaderAttempt: []byte("2"),
			kafka.HeaderDue: []byte("1"), kafka.HeaderEnqueued: []byte("1"), kafka.HeaderTier: []byte("5s"), kafka.HeaderParked: []byte("1"), kafka.HeaderVia: []byte("fallback"),
			kafka.HeaderOrder: []byte("c-1"), kafka.HeaderRank: []byte("4"), kafka.HeaderOrigin: []byte("deliveries.standard/0/1"), "their-own": []byte("kept")},
	}
	if change != nil {
		change(l)
	}
	h.produceRecord(topic.DeadLetters, l)
	return delivery
}

// active makes a subscription that gets deliveries.
func (h *harness) active(url string) string {
	h.t.Helper()
	id := h.create(`{"url":"` + url + `","events":["*"]}`).str("id")
	h.do("POST", "/v1/subscriptions/"+id+"/verify", "").is(http.StatusOK)
	return id
}

// ended waits until a redrive is done, and returns it.
func (h *harness) ended(id string) redriveDocument {
	h.t.Helper()
	var got redriveDocument
	require.Eventually(h.t, func() bool {
		got = as[redriveDocument](h.do("GET", "/v1/redrives/"+id, ""))
		return got.State == storage.RedriveDone
	}, 30*time.Second, 10*time.Millisecond)
	return got
}

// at reads a record.
func (h *harness) at(name string, offset int64) *kgo.Record {
	h.t.Helper()
	r, err := h.svc.deps.records.Record(h.t.Context(), kafka.Place{Topic: name, Offset: offset})
	require.NoError(h.t, err)
	return r
}

// end is how many records a topic has.
func (h *harness) end(name string) int64 {
	h.t.Helper()
	ends, err := kadm.NewClient(h.producer.Client()).ListEndOffsets(h.t.Context(), name)
	require.NoError(h.t, err)
	end, _ := ends.Lookup(name, 0)
	return end.Offset
}

// P-08, S3-15: a dead letter is found by everything that it is searched by, and shown with the original record.
func TestDeadLettersAreSeen(t *testing.T) {
	h := startOnKafka(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	h.key = h.keyFor("default", auth.ScopeAdmin)
	delivery := h.dies("sub_1", "evt_1", nil)
	h.dies("sub_1", "evt_2", func(l *event.DeadLetter) { l.Reason, l.HTTPStatus, l.ErrorClass = "rejected", 404, "http_4xx" })
	e := &event.Event{ID: "evt_3", Type: "call.ended", Tenant: "default", Source: "api", CallID: "c-1", Time: time.Now(), IngestedAt: time.Now()}
	raw, err := h.codec.EncodeEvent(t.Context(), nil, e)
	require.NoError(t, err)
	h.produceRecord(topic.DeadLetters, &event.DeadLetter{Tenant: "default", Reason: "render_failed", SubscriptionID: "sub_1", DeliveryID: "msg_3", EventID: "evt_3", EventType: e.Type, CallID: "c-1", DeadAt: time.Now(),
		Service: "filter", SourceTopic: topic.CallsEvents, OriginalValue: raw})
	// Whose it is a header says, and the value otherwise; and nobody.
	h.produceRecord(topic.DeadLetters, &event.DeadLetter{Tenant: "default", Reason: "header_mismatch", DeadAt: time.Now(), Service: "filter", SourceTopic: topic.CallsEvents,
		OriginalHeaders: map[string][]byte{kafka.HeaderTenant: []byte("default")}, OriginalValue: func() []byte {
			theirs := *e
			theirs.Tenant = "victim"
			raw, err := h.codec.EncodeEvent(t.Context(), nil, &theirs)
			require.NoError(t, err)
			return raw
		}()})
	h.produceRecord(topic.DeadLetters, &event.DeadLetter{Reason: "poison", Detail: "not in the wire format", DeadAt: time.Now(), Service: "filter", SourceTopic: topic.CallsEvents, OriginalValue: []byte("a secret")})
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))

	list := func(query string) (ids []string) {
		t.Helper()
		for _, l := range as[list[DeadLetterDocument]](h.do("GET", "/v1/dlq?"+query, "")).Items {
			ids = append(ids, l.ID)
		}
		return ids
	}
	require.Equal(t, []string{"dlq_0_4", "dlq_0_3", "dlq_0_2", "dlq_0_1", "dlq_0_0"}, list(""))
	require.Equal(t, []string{"dlq_0_0"}, list("subscription_id=sub_1&event_id=evt_1&type=call.ended&reason=exhausted&http_status=503&error_class=http_5xx&service=dispatcher-0&redriven=false&since=2026-01-01T00:00:00Z"))
	require.Equal(t, []string{"dlq_0_2"}, list("call_id=c-1"))
	require.Empty(t, list("until=2020-01-01T00:00:00Z"))
	require.Empty(t, list("redriven=true"))
	first := as[letterList](h.do("GET", "/v1/dlq?limit=2", ""))
	require.Equal(t, []string{"dlq_0_2", "dlq_0_1"}, list("limit=2&cursor="+*first.NextCursor))
	for query, status := range map[string]int{"redriven=maybe": 422, "http_status=7": 422, "cursor=odd": 400, "state=dead": 422} {
		h.do("GET", "/v1/dlq?"+query, "").problem(status)
	}

	one := as[deadLetterDetails](h.do("GET", "/v1/dlq/dlq_0_0", ""))
	require.Equal(t, []any{"exhausted", delivery, 3, 503, "status 503", "deliveries.retry.5s/0/7", "deliveries.dlq/0/0", ""},
		[]any{one.Reason, one.DeliveryID, one.Attempts, one.HTTPStatus, one.Error, one.Original, one.Record, one.Note})
	require.Equal(t, `{"of":"evt_1"}`, *one.Request.Body)
	require.Equal(t, "busy", *one.Response.Body)
	require.Equal(t, "kept", one.Headers["their-own"])
	unrendered := as[deadLetterDetails](h.do("GET", "/v1/dlq/dlq_0_2", ""))
	require.Contains(t, string(unrendered.Event), `"evt_3"`)
	mismatch := h.do("GET", "/v1/dlq/dlq_0_3", "")
	require.Equal(t, notePoison, as[deadLetterDetails](mismatch).Note)
	require.NotContains(t, string(mismatch.body), "victim")
	require.NotEmpty(t, as[deadLetterDetails](mismatch).NotRedrivable)
	poison := h.do("GET", "/v1/dlq/dlq_0_4", "")
	require.Equal(t, "not in the wire format", as[deadLetterDetails](poison).Detail)
	require.NotContains(t, string(poison.body), "a secret", "what may be anybody's is not shown")

	h.key = h.keyFor("default", auth.ScopeDeliveriesRead)
	h.do("GET", "/v1/dlq/dlq_0_4", "").problem(http.StatusNotFound)
	require.Len(t, list(""), 4)
	h.key = h.keyFor("other", auth.ScopeAdmin)
	h.do("GET", "/v1/dlq/dlq_0_0", "").problem(http.StatusNotFound)
	require.Equal(t, []string{"dlq_0_4"}, list(""))

	h.key = h.keyFor("default", auth.ScopeDeliveriesRead)
	var upTo kadm.Offsets
	upTo.AddOffset(topic.DeadLetters, 0, 1, -1)
	_, err = kadm.NewClient(h.producer.Client()).DeleteRecords(t.Context(), upTo)
	require.NoError(t, err)
	gone := as[deadLetterDetails](h.do("GET", "/v1/dlq/dlq_0_0", ""))
	require.Equal(t, []any{noteGone, "exhausted"}, []any{gone.Note, gone.Reason})
	require.Nil(t, gone.Request)
}

// P-08, S0-25: dead letters that a filter chooses are put back as they were, each once; what can't be is explained before.
func TestARedrivePutsDeliveriesBack(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	url := endpoint(t, obliging)
	sub, paused := h.active(url), h.active(url)
	h.do("POST", "/v1/subscriptions/"+paused+"/pause", "").is(http.StatusOK)
	first := h.dies(sub, "evt_1", nil)
	h.dies(paused, "evt_2", nil)
	h.dies("sub_deleted", "evt_3", nil)
	e, at := h.happened(`{"id":"evt_4","type":"call.ended","time":"2026-01-20T10:00:00Z","call_id":"c-1","data":{"duration_ms":1}}`)
	unrendered := func(l *event.DeadLetter) {
		l.Reason, l.Attempts, l.SourceTopic, l.SourceOffset, l.OriginalValue, l.OriginalHeaders = "render_failed", 0, topic.CallsEvents, at, nil, nil
	}
	h.dies(sub, e.ID, unrendered)
	h.dies(sub, "evt_5", func(l *event.DeadLetter) { unrendered(l); l.SourceOffset = 99 })
	h.produceRecord(topic.DeadLetters, &event.DeadLetter{Tenant: "default", Reason: "invalid_event", EventID: "evt_6", DeadAt: time.Now(), SourceTopic: topic.CallsEvents})
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	require.Equal(t, "dead", h.do("GET", "/v1/deliveries/"+first, "").str("state"))

	lane := topic.Lane(topic.DefaultLane)
	asked := as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{},"dry_run":true}`))
	beforehand := map[string]int{"subscription_paused": 1, "subscription_deleted": 1, "no_delivery": 1}
	require.Equal(t, []any{"", "dry_run", 6, 3, 3, beforehand}, []any{asked.ID, asked.State, asked.Total, asked.Skipped, asked.Left, asked.Reasons})
	require.Len(t, asked.Explained, 3)
	require.Zero(t, h.end(lane))
	asked = as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{},"rate":1000}`))
	require.Equal(t, []any{"running", 6, 3, beforehand}, []any{asked.State, asked.Total, asked.Skipped, asked.Reasons})
	done := h.ended(asked.ID)
	require.Equal(t, []int{6, 2, 1, 3, 0}, []int{done.Total, done.Done, done.Failed, done.Skipped, done.Left})
	require.Equal(t, 1, done.Reasons["gone"])
	require.JSONEq(t, `{"filter":{}}`, string(done.Request))

	require.EqualValues(t, 1, h.end(lane))
	back := h.at(lane, 0)
	headers := map[string]string{}
	for _, header := range back.Headers {
		headers[header.Key] = string(header.Value)
	}
	require.Equal(t, map[string]string{kafka.HeaderTenant: "default", kafka.HeaderSubscription: sub, kafka.HeaderDelivery: first, kafka.HeaderOrigin: "deliveries.standard/0/1", "their-own": "kept",
		kafka.HeaderAttempt: "3", kafka.HeaderScheduleFrom: "3", kafka.HeaderRedrive: asked.ID}, headers)
	require.Equal(t, sub, string(back.Key))
	var d event.Delivery
	require.NoError(t, h.codec.Decode(t.Context(), back.Value, &d))
	require.Equal(t, []string{first, `{"of":"evt_1"}`}, []string{d.ID, string(d.Body)})
	require.Eventually(t, func() bool { return h.end(topic.Replays) == 1 }, 20*time.Second, 5*time.Millisecond)
	var command event.Replay
	require.NoError(t, h.codec.Decode(t.Context(), h.at(topic.Replays, 0).Value, &command))
	require.Equal(t, []any{sub, "start", "redrive", []event.ReplayEvent{{Topic: topic.CallsEvents, Offset: at, ID: "evt_4", Source: "api"}}},
		[]any{command.SubscriptionID, command.Command, command.Reason, command.Events})

	// Again is nothing, whether the history knows of it already or not; by id it is.
	require.Zero(t, as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{"event_id":"evt_1"}}`)).Left)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	got := as[deliveryDetails](h.do("GET", "/v1/deliveries/"+first, ""))
	require.Equal(t, []string{"queued", "redriven", asked.ID}, []string{got.State, got.Reason, got.RedriveID})
	require.Equal(t, asked.ID, h.do("GET", "/v1/dlq/dlq_0_0", "").str("redriven_by"))
	require.Len(t, as[letterList](h.do("GET", "/v1/dlq?redriven=true", "")).Items, 2)
	again := as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"ids":["dlq_0_0","dlq_0_0","dlq_7_7"]}`))
	require.Equal(t, []any{1, map[string]int{"unknown": 1}}, []any{again.Total, again.Reasons})
	h.ended(again.ID)
	require.EqualValues(t, 2, h.end(lane))
	require.Len(t, as[list[redriveDocument]](h.do("GET", "/v1/redrives", "")).Items, 3)
	h.do("POST", "/v1/dlq:redrive", `{"ids":["dlq_7_7"]}`).problem(http.StatusNotFound)
	require.NotEmpty(t, h.audited("kind=redrive&id="+asked.ID).Items)
	require.Equal(t, "done", h.do("POST", "/v1/redrives/"+asked.ID+"/cancel", "").is(200).str("state"), "what has ended stays so")
	for body, places := range map[string][]string{
		`{}`: {"#"}, `{"ids":["a"],"filter":{}}`: {"#"}, `{"ids":[]}`: {"#/ids"}, `{"filter":{"since":"yesterday","odd":1,"redriven":"yes","http_status":"x"},"rate":0,"more":1}`: {
			"#/more", "#/filter/http_status", "#/filter/odd", "#/filter/redriven", "#/filter/since", "#/rate"},
		`{"filter":[]}`: {"#/filter"}, `{"ids":[1]}`: {"#/ids"}, `{"filter":{},"dry_run":null}`: {"#/dry_run"},
	} {
		var at []string
		for _, f := range h.do("POST", "/v1/dlq:redrive", body).problem(422).Errors {
			at = append(at, f.Pointer)
		}
		require.Equal(t, places, at, body)
	}
}

// P-08: a redrive that is cancelled leaves the rest, and the console that comes next goes on with one that was cut short.
func TestARedriveIsCancelledAndGoesOn(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	sub := h.active(endpoint(t, obliging))
	const n = 40
	for i := range n {
		h.dies(sub, fmt.Sprintf("evt_%d", i), nil)
	}
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	slow := as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{},"rate":1}`)).ID
	lane := topic.Lane(topic.DefaultLane)
	require.Eventually(t, func() bool { return h.end(lane) > 0 }, 20*time.Second, 5*time.Millisecond)
	both := as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{}}`))
	require.Equal(t, "done", both.State)
	require.Equal(t, n, both.Reasons["under_way"]+both.Reasons["redriven"])
	cancelled := as[redriveDocument](h.do("POST", "/v1/redrives/"+slow+"/cancel", `{}`))
	require.Equal(t, "cancelled", cancelled.State)
	require.Positive(t, cancelled.Left)
	letters := []*kgo.Record{}
	for offset := range int64(n) {
		letters = append(letters, h.at(topic.DeadLetters, offset))
	}
	h.stop()
	before := h.end(lane)

	// It is stored, and nobody has begun with it.
	store, err := storage.Open(t.Context(), h.cfg.storage(nil))
	require.NoError(t, err)
	items := []storage.RedriveItem{}
	for offset := range int64(n) {
		var l event.DeadLetter
		require.NoError(t, h.codec.Decode(t.Context(), letters[offset].Value, &l))
		items = append(items, storage.RedriveItem{Offset: offset, DeadAt: l.DeadAt, State: storage.ItemWaiting})
	}
	r := storage.Redrive{ID: "rdr_cut", Tenant: "default", Request: json.RawMessage(`{}`), Rate: 10_000, RequestedBy: "key_1"}
	require.NoError(t, store.CreateRedrive(t.Context(), &r, items, false, storage.Change{Actor: "key_1", Action: "redriven"}))
	store.Close()
	h.run()
	require.Equal(t, n, h.ended("rdr_cut").Done)
	require.Equal(t, before+n, h.end(lane))
}

// P-08: one delivery is sent again, in the way that its state asks for.
func TestOneDeliveryIsRetried(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	sub := h.active(endpoint(t, obliging))
	lane := topic.Lane(topic.DefaultLane)
	e, at := h.happened(`{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00Z","call_id":"c-1","data":{"duration_ms":1}}`)
	id := event.DeliveryID("default", "api", "evt_1", sub)
	retry := func() retried {
		t.Helper()
		require.NoError(t, h.svc.project.CaughtUp(t.Context()))
		return as202[retried](h.do("POST", "/v1/deliveries/"+id+"/retry", ""))
	}
	h.do("POST", "/v1/deliveries/"+id+"/retry", "").problem(http.StatusNotFound)
	h.decide(sub, e, at, "queued", "", "", 1)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	h.do("POST", "/v1/deliveries/"+id+"/retry", "").problem(http.StatusConflict) // its first attempt comes anyway

	h.produceRecord(lane, &event.Delivery{ID: id, Tenant: "default", SubscriptionID: sub, EventID: "evt_1", Body: []byte("sent")})
	attempt := event.Attempt{DeliveryID: id, Tenant: "default", SubscriptionID: sub, SubscriptionVersion: 1, EventID: "evt_1", EventType: e.Type, Source: "api", CallID: "c-1", Attempt: 1, Outcome: "retry",
		Reason: "http_5xx", StartedAt: time.Now(), HTTPStatus: 503, BodyTopic: lane, AcceptedAt: e.Time}
	h.produceRecord(topic.Attempts, &attempt)
	// Asked by several at once, and again when the history has it: it is sent once.
	var answers [4]answer
	var asking sync.WaitGroup
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	for i := range answers {
		asking.Go(func() { answers[i] = h.do("POST", "/v1/deliveries/"+id+"/retry", "") })
	}
	asking.Wait()
	slices.SortFunc(answers[:], func(a, b answer) int { return a.status - b.status })
	now := as202[retried](answers[0])
	require.Equal(t, "attempt", now.Action)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	for _, refused := range append(answers[1:], h.do("POST", "/v1/deliveries/"+id+"/retry", "")) {
		require.Contains(t, refused.problem(http.StatusConflict).Detail, now.RedriveID)
	}
	require.EqualValues(t, 2, h.end(lane))
	back := h.at(lane, 1)
	require.Equal(t, []string{"1", "1", now.RedriveID}, []string{kafka.Header(back, kafka.HeaderAttempt), kafka.Header(back, kafka.HeaderScheduleFrom), kafka.Header(back, kafka.HeaderRedrive)})
	require.Equal(t, []string{lane + "/0/0", ""}, []string{kafka.Header(back, kafka.HeaderOrigin), kafka.Header(back, kafka.HeaderOvertakes)})
	require.Equal(t, h.at(lane, 0).Value, back.Value)
	require.NotEmpty(t, h.audited("kind=redrive&id="+now.RedriveID).Items)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	require.Equal(t, "redriven", h.do("GET", "/v1/deliveries/"+id, "").str("reason"))

	attempt.Attempt, attempt.Outcome, attempt.Reason, attempt.Redrive = 2, "dead", "exhausted", now.RedriveID
	h.produceRecord(topic.Attempts, &attempt)
	h.dies(sub, "evt_1", func(l *event.DeadLetter) { l.OriginalHeaders[kafka.HeaderRedrive] = []byte(now.RedriveID) })
	dead := retry()
	require.Equal(t, "redrive", dead.Action)
	h.ended(dead.RedriveID)
	h.do("POST", "/v1/deliveries/"+id+"/retry", "").problem(http.StatusConflict) // whether the history has it or not
	require.EqualValues(t, 3, h.end(lane))
	require.Equal(t, now.RedriveID, kafka.Header(h.at(lane, 2), kafka.HeaderOvertakes))

	attempt.Attempt, attempt.Outcome, attempt.Reason, attempt.Redrive = 3, "delivered", "", dead.RedriveID
	h.produceRecord(topic.Attempts, &attempt)
	anew := retry()
	require.Equal(t, "replay", anew.Action)
	require.Eventually(t, func() bool { return h.end(topic.Replays) == 1 }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, "delivered", h.do("GET", "/v1/deliveries/"+id, "").str("state"))
	require.Equal(t, "replay", retry().Action, "as often as somebody asks")

	// What a replay has queued waits for its first attempt, whatever was attempted before.
	missed, at := h.happened(`{"id":"evt_2","type":"call.ended","time":"2026-01-20T10:00:00Z","call_id":"c-1","data":{"duration_ms":1}}`)
	waits := event.DeliveryID("default", "api", "evt_2", sub)
	h.decide(sub, missed, at, "queued", "", "", 1)
	attempt.DeliveryID, attempt.EventID, attempt.Attempt, attempt.Outcome, attempt.Reason, attempt.Redrive = waits, "evt_2", 1, "retry", "http_5xx", ""
	h.produceRecord(topic.Attempts, &attempt)
	attempt.Attempt, attempt.Outcome, attempt.Reason = 0, "skipped", "paused"
	h.produceRecord(topic.Attempts, &attempt)
	h.decide(sub, missed, at, "queued", "", "rpl_"+ulid.Make().String(), 1)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	require.Equal(t, "queued", h.do("GET", "/v1/deliveries/"+waits, "").str("state"))
	require.Contains(t, h.do("POST", "/v1/deliveries/"+waits+"/retry", "").problem(http.StatusConflict).Detail, "first attempt")

	h.do("POST", "/v1/subscriptions/"+sub+"/pause", "").is(http.StatusOK)
	problem := h.do("POST", "/v1/deliveries/"+id+"/retry", "").problem(http.StatusConflict)
	require.True(t, strings.Contains(problem.Detail, "paused"), problem.Detail)
	h.do("POST", "/v1/deliveries/"+id+"/retry", "", "X-Tenant", "other").problem(http.StatusNotFound)
	require.Equal(t, history.DeadLetterID(0, 0), as[letterList](h.do("GET", "/v1/dlq", "")).Items[0].ID)
}

// P-09, S1-12: of a batch that waits for its next attempt, asking for one member sends the batch as it is, so that the copy
// that is parked is known to be overtaken, and once, whichever members are asked for.
func TestAMemberOfABatchIsRetriedWithIt(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	sub := h.active(endpoint(t, obliging))
	tier := topic.RetryTier(5 * time.Second)
	one, other := event.DeliveryID("default", "api", "evt_1", sub), event.DeliveryID("default", "api", "evt_2", sub)
	batch := &event.Delivery{
		ID: event.BatchID(one, other), Tenant: "default", SubscriptionID: sub, Body: []byte(`[1,2]`),
		Members: []event.DeliveryMember{
			{ID: one, EventID: "evt_1", BodyStart: 1, BodyLength: 1, Test: true},
			{ID: other, EventID: "evt_2", BodyStart: 3, BodyLength: 1},
		},
	}
	h.produceRecord(tier, batch)
	// One whose batch was sent for the first time: its own record is what was read.
	third, lane := event.DeliveryID("default", "api", "evt_3", sub), topic.Lane(topic.DefaultLane)
	h.produceRecord(lane, &event.Delivery{ID: third, Tenant: "default", SubscriptionID: sub, EventID: "evt_3", Body: []byte("3")})
	h.produceRecord(topic.Attempts, &event.Attempt{
		DeliveryID: third, Tenant: "default", SubscriptionID: sub, SubscriptionVersion: 1, EventID: "evt_3", EventType: "call.ended", Source: "api", Attempt: 1,
		Outcome: "retry", Reason: "http_5xx", StartedAt: time.Now(), HTTPStatus: 503, BodyTopic: lane, BatchID: event.BatchID(third),
	})
	for id, name := range map[string]string{one: "evt_1", other: "evt_2"} {
		h.produceRecord(topic.Attempts, &event.Attempt{
			DeliveryID: id, Tenant: "default", SubscriptionID: sub, SubscriptionVersion: 1, EventID: name, EventType: "call.ended", Source: "api", Attempt: 1,
			Outcome: "retry", Reason: "http_5xx", StartedAt: time.Now(), HTTPStatus: 503, BodyTopic: tier, BatchID: batch.ID,
		})
	}
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	require.Contains(t, h.do("POST", "/v1/deliveries/"+third+"/retry", "").problem(http.StatusConflict).Detail, event.BatchID(third))
	require.EqualValues(t, 1, h.end(lane))
	// What can't be put back may be asked for again.
	h.takesUpTo(lane, 100)
	h.do("POST", "/v1/deliveries/"+one+"/retry", "").problem(http.StatusConflict)
	h.takesUpTo(lane, 1<<20)
	now := as202[retried](h.do("POST", "/v1/deliveries/"+other+"/retry", ""))
	require.Equal(t, "attempt", now.Action)
	back := h.at(lane, 1)
	require.Equal(t, h.at(tier, 0).Value, back.Value)
	require.Equal(t, now.RedriveID, kafka.Header(back, kafka.HeaderRedrive))
	for range 2 { // before the history has it, and after that
		require.Contains(t, h.do("POST", "/v1/deliveries/"+one+"/retry", "").problem(http.StatusConflict).Detail, now.RedriveID)
		require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	}
	for id, name := range map[string]string{one: "evt_1", other: "evt_2"} {
		got := as[deliveryDetails](h.do("GET", "/v1/deliveries/"+id, ""))
		require.Equal(t, []string{"queued", "redriven", now.RedriveID, name}, []string{got.State, got.Reason, got.RedriveID, got.EventID})
	}

	// When the attempt has failed each of them may be asked for. Nobody is asked to try again what was sent, and only not told.
	h.produceRecord(lane, batch)
	for id, name := range map[string]string{one: "evt_1", other: "evt_2"} {
		h.produceRecord(topic.Attempts, &event.Attempt{
			DeliveryID: id, Tenant: "default", SubscriptionID: sub, SubscriptionVersion: 1, EventID: name, EventType: "call.ended", Source: "api", Attempt: 2,
			Outcome: "retry", Reason: "http_5xx", StartedAt: time.Now(), HTTPStatus: 503, BodyTopic: lane, BodyOffset: 2, BatchID: batch.ID, Redrive: now.RedriveID,
		})
	}
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	h.takesUpTo(topic.Attempts, 100)
	require.Equal(t, "attempt", as202[retried](h.do("POST", "/v1/deliveries/"+one+"/retry", "")).Action)
	h.do("POST", "/v1/deliveries/"+other+"/retry", "").problem(http.StatusConflict)
	require.EqualValues(t, 4, h.end(lane))
}

// takesUpTo makes a topic refuse larger records.
func (h *harness) takesUpTo(name string, bytes int) {
	h.t.Helper()
	answers, err := kadm.NewClient(h.producer.Client()).AlterTopicConfigs(h.t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: kadm.StringPtr(strconv.Itoa(bytes))}}, name)
	require.NoError(h.t, err)
	for _, a := range answers {
		require.NoError(h.t, a.Err)
	}
}

// P-08: while the history can't be told, what was put back is not put back again, and of what is not put back it is told
// nothing.
func TestARedriveIsSentOnceAndTold(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	sub, lane := h.active(endpoint(t, obliging)), topic.Lane(topic.DefaultLane)
	h.dies(sub, "evt_1", nil)
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	h.takesUpTo(topic.Attempts, 100)
	asked := as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{}}`))
	require.Eventually(t, func() bool { return strings.Count(h.logs.String(), "a redrive has to wait") > 1 }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, 1, as[redriveDocument](h.do("GET", "/v1/redrives/"+asked.ID, "")).Left)
	h.takesUpTo(topic.Attempts, 1<<20)
	require.Equal(t, 1, h.ended(asked.ID).Done)
	require.EqualValues(t, 1, h.end(lane))
	require.EqualValues(t, 1, h.end(topic.Attempts))

	h.takesUpTo(lane, 100)
	asked = as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"ids":["dlq_0_0"]}`))
	done := h.ended(asked.ID)
	require.Equal(t, []any{1, map[string]int{"too_large": 1}}, []any{done.Failed, done.Reasons})
	require.EqualValues(t, 1, h.end(topic.Attempts))
}

// P-08: letters that can't be read for now don't hold up those behind them.
func TestARedrivePassesByWhatCannotBeRead(t *testing.T) {
	h := startOnKafka(t, keepingAll)
	sub := h.active(endpoint(t, obliging))
	for i := range 2 {
		h.dies(sub, fmt.Sprintf("evt_%d", i), func(l *event.DeadLetter) {
			l.OriginalValue = []byte{0, 0, 0, 0, 99, 1} // the registry does not answer for that schema
		})
	}
	for i := range 3 {
		h.dies(sub, fmt.Sprintf("evt_%d", 2+i), nil)
	}
	require.NoError(t, h.svc.project.CaughtUp(t.Context()))
	asked := as202[redriveDocument](h.do("POST", "/v1/dlq:redrive", `{"filter":{},"rate":20}`))
	require.Eventually(t, func() bool { return as[redriveDocument](h.do("GET", "/v1/redrives/"+asked.ID, "")).Done == 3 }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, 2, as[redriveDocument](h.do("GET", "/v1/redrives/"+asked.ID, "")).Left)
}
