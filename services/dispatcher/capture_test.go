package dispatcher

import (
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// S2-07, S2-08, S1-20: what an endpoint answers is on calls.responses before the delivery is done, checked against the shape
// that an agent's screen expects, and all answers of a call are in one partition in their order.
func TestCapturesAnswers(t *testing.T) {
	const good = `{"success":true,"contact":{"id":"1","fields":[{"title":"Name","value":"John Doe"}]}}`
	answers := map[string]hooktest.Answer{
		"good":    {Status: 200, Body: good},
		"bad":     {Status: 201, Body: `{"success":"yes"}`},
		"empty":   {Status: 204},
		"long":    {Status: 200, Body: `"` + strings.Repeat("x", 20<<10) + `"`},
		"refused": {Status: 400, Body: good},
		"no call": {Status: 200, Body: good},
		"case":    {Status: 200, Body: `{"caseId":"case-7"}`},
	}
	r := newRig(t, nil)
	hook := receiver(t, func(q *hooktest.Request) hooktest.Answer {
		return answers[strings.TrimPrefix(q.Header.Get("webhook-id"), "msg_")]
	})
	captured := func(s *subscription.Subscription) {
		s.CaptureResponse, s.Payload.Profile = true, subscription.ProfileDialer
	}
	r.feed(subscribed(t, "sub_1", hook.URL(), captured))
	r.feed(subscribed(t, "sub_2", hook.URL(), nil))
	r.start()
	send := func(sub, id string, change func(*event.Delivery)) {
		r.deliver(sub, 1, func(d *event.Delivery) {
			d.ID, d.EventType, d.CallID = "msg_"+id, "call.ringing", "c-7"
			if change != nil {
				change(d)
			}
		})
	}
	attempts := r.read(topic.Attempts)
	sent := 0
	for _, id := range []string{"good", "bad", "empty", "long", "refused"} { // one after the other: their order is looked at
		send("sub_1", id, nil)
		sent++
		attempts.wait(sent)
	}
	send("sub_1", "no call", func(d *event.Delivery) { d.CallID = "" })
	send("sub_1", "case", func(d *event.Delivery) { d.EventType = "call.ended" })
	send("sub_2", "good", nil)
	attempts.wait(sent + 3)
	r.done()

	log := r.read(topic.Responses)
	got := map[string]*event.Response{}
	for i, a := range decoded[event.Response](r, log, 5) {
		rec := log.wait(5)[i]
		if string(rec.Key) != "acme/c-7" || rec.Partition != log.wait(5)[0].Partition {
			t.Errorf("%s: key %q in partition %d", a.DeliveryID, rec.Key, rec.Partition)
		}
		if a.Tenant != "acme" || a.CallID != "c-7" || a.SubscriptionID != "sub_1" || a.EventID == "" || a.Attempt != 1 || time.Since(a.ReceivedAt) > testPatience {
			t.Errorf("%+v", a)
		}
		got[strings.TrimPrefix(a.DeliveryID, "msg_")] = a
	}
	for id, want := range map[string]event.Response{
		"good":  {HTTPStatus: 200, Valid: true, Body: []byte(good)},
		"bad":   {HTTPStatus: 201, Problem: "/success: want true or false", Body: []byte(`{"success":"yes"}`)},
		"empty": {HTTPStatus: 204, Problem: "it is empty"},
		"long":  {HTTPStatus: 200, Problem: "it is longer than 16 KiB, and was cut off", Truncated: true, Body: []byte(answers["long"].Body[:16<<10])},
		"case":  {HTTPStatus: 200, Valid: true, Body: []byte(`{"caseId":"case-7"}`)},
	} {
		a := got[id]
		if a == nil {
			t.Errorf("%s: not captured", id)
			continue
		}
		if a.HTTPStatus != want.HTTPStatus || a.Valid != want.Valid || a.Problem != want.Problem || a.Truncated != want.Truncated || string(a.Body) != string(want.Body) {
			t.Errorf("%s: %d %v %q %v %d bytes", id, a.HTTPStatus, a.Valid, a.Problem, a.Truncated, len(a.Body))
		}
	}
}

// A delivery waits for the record of its answer; one that the topic refuses is written without the body.
func TestAnAnswerThatDoesNotFitIsCapturedWithoutItsBody(t *testing.T) {
	r := newRig(t, func(_ *Config, topics []topic.Topic) {
		for i := range topics {
			if topics[i].Name == topic.Responses {
				topics[i].MaxBytes = 3000
			}
		}
	})
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 200, Body: noise(10_000)}))
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.CaptureResponse = true }))
	r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	a := decoded[event.Response](r, r.read(topic.Responses), 1)[0]
	if a.DeliveryID != d.ID || a.Valid || !a.Truncated || a.Problem == "" || len(a.Body) != 0 {
		t.Errorf("%+v", a)
	}
	r.done()
}
