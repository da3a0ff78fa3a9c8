package dispatcher

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// inBatches is a subscription's batch policy. An hour is never waited for.
func inBatches(n int, wait time.Duration) func(*subscription.Subscription) {
	return func(s *subscription.Subscription) {
		s.Batch = &subscription.Batch{MaxEvents: n, MaxWait: subscription.Duration(wait)}
	}
}

// arrayOf is the body of a batch.
func arrayOf(all []*event.Delivery) string {
	var bodies []string
	for _, d := range all {
		bodies = append(bodies, string(d.Body))
	}
	return "[" + strings.Join(bodies, ",") + "]"
}

func idOf(all []*event.Delivery) string {
	var ids []string
	for _, d := range all {
		ids = append(ids, d.ID)
	}
	return event.BatchID(ids...)
}

// checkBatch checks that a request is the batch of those deliveries, by the library of Standard Webhooks.
func checkBatch(t *testing.T, got *hooktest.Request, all []*event.Delivery, attempt int) {
	t.Helper()
	library, err := standardwebhooks.NewWebhook(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := library.Verify(got.Body, got.Header); err != nil {
		t.Error(err)
	}
	if string(got.Body) != arrayOf(all) || !json.Valid(got.Body) {
		t.Errorf("body: %s\nwant  %s", got.Body, arrayOf(all))
	}
	_, named := got.Header["X-Event-Id"]
	if got.ID != idOf(all) || got.Attempt != attempt || named || got.Header.Get("content-type") != typeJSON {
		t.Errorf("%s attempt %d, want %s attempt %d: %v", got.ID, got.Attempt, idOf(all), attempt, got.Header)
	}
}

// S1-12, S3-20, S3-22: by count, then by time; signed as a whole, written down for each.
func TestSendsBatches(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Body: "thanks"}))
	r.feed(subscribed(t, "sub_1", hook.URL(), inBatches(3, 50*time.Millisecond)))
	r.start()
	sent := r.deliver("sub_1", 8, nil)
	waitFor(t, hook, 3)
	r.done()
	got := hook.Requests()
	slices.SortFunc(got, func(a, b *hooktest.Request) int { return strings.Compare(string(a.Body), string(b.Body)) })
	checkBatch(t, got[0], sent[:3], 1)
	checkBatch(t, got[1], sent[3:6], 1)
	checkBatch(t, got[2], sent[6:], 1)
	batches := map[string]string{}
	for i, d := range sent {
		batches[d.ID] = idOf(sent[i/3*3 : min(i/3*3+3, 8)])
	}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 8) {
		if a.Outcome != outcomeDelivered || a.BatchID == "" || a.BatchID != batches[a.DeliveryID] || string(a.ResponseBody) != "thanks" || a.RequestHeaders["Webhook-Id"] != a.BatchID {
			t.Errorf("%+v", a)
		}
		i := slices.IndexFunc(sent, func(d *event.Delivery) bool { return d.ID == a.DeliveryID })
		if a.EventID != sent[i].EventID || a.BodyTopic != topic.Lane("standard") || a.BodyOffset != int64(i) {
			t.Errorf("%+v", a)
		}
		delete(batches, a.DeliveryID)
	}
	if len(batches) != 0 {
		t.Errorf("no attempts of %v", batches)
	}
}

// S1-12: a batch that failed is sent again as it was, under its id, by itself, also when the policy has ended; then each
// member is dead for itself, and a redrive sends it alone.
func TestAFailedBatchIsFrozen(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 503, Body: strings.Repeat("x", 10_000)}))
	r.feed(subscribed(t, "sub_1", hook.URL(), inBatches(3, time.Hour)))
	s := r.start()
	lost := r.deliver("sub_1", 3, func(d *event.Delivery) { d.CallID, d.AgentID = fmt.Sprint("c-", r.serial), "a-1" })
	waitFor(t, hook, 3)
	for i, got := range hook.Requests() {
		checkBatch(t, got, lost, i+1)
	}
	letters := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 3)
	for i, l := range letters {
		d := lost[i]
		var own event.Delivery
		if err := r.codec.Decode(t.Context(), l.OriginalValue, &own); err != nil {
			t.Fatal(err)
		}
		if l.DeliveryID != d.ID || l.EventID != d.EventID || l.CallID != d.CallID || l.Attempts != 3 || l.Reason != reasonExhausted || l.HTTPStatus != 503 {
			t.Errorf("letter: %+v", l)
		}
		if string(l.OriginalHeaders[kafka.HeaderDelivery]) != d.ID || string(l.OriginalHeaders[kafka.HeaderID]) != d.EventID || string(l.OriginalHeaders[kafka.HeaderAttempt]) != "2" {
			t.Errorf("headers: %s", l.OriginalHeaders)
		}
		if own.ID != d.ID || string(own.Body) != string(d.Body) || own.CallID != d.CallID || own.AgentID != "a-1" || len(own.Members) != 0 || !own.AcceptedAt.Equal(d.AcceptedAt.Truncate(time.Microsecond)) {
			t.Errorf("original: %+v", own)
		}
	}
	outcomes := map[string]string{}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 9) {
		outcomes[a.DeliveryID] += a.Outcome + " "
		if a.BatchID != idOf(lost) || len(a.ResponseBody) != 16<<10/3 || !a.ResponseTruncated {
			t.Errorf("%+v", a)
		}
	}
	for _, d := range lost {
		if outcomes[d.ID] != "retry retry dead " {
			t.Errorf("%s: %s", d.ID, outcomes[d.ID])
		}
	}
	if n := len(r.read(topic.OwnEvents).wait(3)); n != 3 {
		t.Errorf("%d events of exhausted deliveries", n)
	}
	r.done()

	hook.SetAnswer(hooktest.Always(hooktest.Answer{}))
	again := &kgo.Record{Topic: topic.Lane("standard"), Partition: 0, Key: letters[1].OriginalKey, Value: letters[1].OriginalValue}
	for name, value := range letters[1].OriginalHeaders {
		again.Headers = append(again.Headers, kgo.RecordHeader{Key: name, Value: value})
	}
	again.Headers = slices.DeleteFunc(again.Headers, func(h kgo.RecordHeader) bool { return h.Key == kafka.HeaderAttempt })
	again.Headers = append(again.Headers, kafka.IntHeader(kafka.HeaderAttempt, 3), kafka.IntHeader(kafka.HeaderScheduleFrom, 3), kafka.StringHeader(kafka.HeaderRedrive, "rdr_1"))
	r.produce(again)
	waitFor(t, hook, 4)
	checkBatch(t, hook.Requests()[3], lost[1:2], 4)
	if got := hook.Requests()[3].ID; got != lost[1].ID {
		t.Errorf("a batch of one has the id %s, not its member's", got)
	}
	r.done()

	// The policy ends while a batch waits for its retry.
	release, open := gate(t)
	hook.SetAnswer(func(got *hooktest.Request) hooktest.Answer {
		if got.Attempt == 1 {
			<-release
			return hooktest.Answer{Status: 500}
		}
		return hooktest.Answer{}
	})
	late := r.deliver("sub_1", 3, nil)
	waitFor(t, hook, 5)
	if err := s.WaitApplied(patiently(t), r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.Version = 2 }))); err != nil {
		t.Fatal(err)
	}
	open()
	waitFor(t, hook, 6)
	checkBatch(t, hook.Requests()[5], late, 2)
	r.done()
}

// S1-12: who is not to be sent is left out, with an outcome of its own; what was rendered for another form goes alone.
func TestBatchesLeaveOut(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) {
		inBatches(6, time.Hour)(s)
		s.Frequency = &subscription.Frequency{Per: "call", Max: 1, Window: subscription.Duration(time.Hour)}
	}))
	r.start()
	i := 0
	all := r.deliver("sub_1", 6, func(d *event.Delivery) {
		d.CallID = fmt.Sprint("c-", i)
		switch i++; i {
		case 1:
			d.ExpiresAt = d.AcceptedAt.Add(-time.Second)
		case 3:
			d.CallID = "c-1" // as the second
		case 4:
			d.ContentType, d.Headers = "application/json", map[string]string{"ce-id": "x"}
		}
	})
	waitFor(t, hook, 2)
	for _, got := range hook.Requests() {
		if got.ID == all[3].ID {
			if string(got.Body) != string(all[3].Body) || got.Header.Get("Ce-Id") != "x" {
				t.Errorf("alone: %s", got.Body)
			}
			continue
		}
		checkBatch(t, got, []*event.Delivery{all[1], all[4], all[5]}, 1)
	}
	reasons := map[string]string{}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 6) {
		reasons[a.DeliveryID] = strings.TrimSpace(a.Outcome + " " + a.Reason)
	}
	for i, want := range []string{"skipped expired", "delivered", "skipped frequency", "delivered", "delivered", "delivered"} {
		if reasons[all[i].ID] != want {
			t.Errorf("%d is %s, want %s", i, reasons[all[i].ID], want)
		}
	}
	r.done()
}

// Members that waited over a change of routes go where the version in force now sends each of them.
func TestABatchFollowsItsRoutes(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), inBatches(3, time.Hour)))
	run := r.start()
	of := func(eventType string) *event.Delivery {
		return r.deliver("sub_1", 1, func(d *event.Delivery) { d.EventType = eventType })[0]
	}
	started, ended := []*event.Delivery{of("call.started")}, []*event.Delivery{of("call.ended")}
	until(t, "both wait", func() bool { return run.scheduler.load().waiting == 2 })
	offset := r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) {
		inBatches(3, time.Hour)(s)
		s.Version, s.Request.Routes = 2, map[string]string{"call.ended": "/ended"}
	}))
	if err := run.WaitApplied(patiently(t), offset); err != nil {
		t.Fatal(err)
	}
	started = append(started, of("call.started"))
	waitFor(t, hook, 1)
	ended = append(ended, of("call.ended"), of("call.ended"))
	waitFor(t, hook, 2)
	for i, want := range []struct {
		path string
		of   []*event.Delivery
	}{{"/", started}, {"/ended", ended}} {
		got := hook.Requests()[i]
		if got.Path != want.path {
			t.Errorf("request %d went to %s, want %s", i, got.Path, want.path)
		}
		checkBatch(t, got, want.of, 1)
	}
	r.done()
}

// S1-12: a frozen batch whose routes part meanwhile stays whole, and goes where its first event is sent.
func TestAFrozenBatchGoesWithItsFirst(t *testing.T) {
	r := newRig(t, nil)
	release, open := gate(t)
	hook := receiver(t, func(got *hooktest.Request) hooktest.Answer {
		if got.Attempt == 1 {
			<-release
			return hooktest.Answer{Status: 500}
		}
		return hooktest.Answer{}
	})
	r.feed(subscribed(t, "sub_1", hook.URL(), inBatches(2, time.Hour)))
	run := r.start()
	types := []string{"call.started", "call.ended"}
	all := r.deliver("sub_1", 2, func(d *event.Delivery) { d.EventType, types = types[0], types[1:] })
	waitFor(t, hook, 1)
	offset := r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) {
		inBatches(2, time.Hour)(s)
		s.Version, s.Request.Routes = 2, map[string]string{"call.started": "/started", "call.ended": "/ended"}
	}))
	if err := run.WaitApplied(patiently(t), offset); err != nil {
		t.Fatal(err)
	}
	open()
	waitFor(t, hook, 2)
	got := hook.Requests()[1]
	if got.Path != "/started" {
		t.Errorf("it went to %s", got.Path)
	}
	checkBatch(t, got, all, 2)
	r.done()
}

// A batch has events of one route and one replay; CloudEvents have a content type of their own.
func TestBatchesAreOfAKind(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) {
		inBatches(2, time.Hour)(s)
		s.Request.Routes = map[string]string{"call.started": hook.URL() + "/started"}
	}))
	r.start()
	all := r.deliver("sub_1", 2, func(d *event.Delivery) { d.ContentType = "application/cloudevents+json; charset=utf-8" })
	waitFor(t, hook, 1)
	if got := hook.Requests()[0]; got.Header.Get("content-type") != typeCloudEventsBatch || string(got.Body) != arrayOf(all) {
		t.Errorf("%s: %s", got.Header.Get("content-type"), got.Body)
	}
	var records []*kgo.Record
	var kinds [3][]*event.Delivery
	for i := range 6 {
		d := r.delivery("sub_1", func(d *event.Delivery) {
			switch i % 3 {
			case 1:
				d.EventType = "call.started"
			case 2:
				d.ReplayID = "rpl_1"
			}
		})
		record := r.record(d)
		if d.ReplayID != "" {
			record.Headers = append(record.Headers, kafka.StringHeader(kafka.HeaderReplay, d.ReplayID))
		}
		kinds[i%3], records = append(kinds[i%3], d), append(records, record)
	}
	r.produce(records...)
	waitFor(t, hook, 4)
	for _, got := range hook.Requests()[1:] {
		switch {
		case got.Path == "/started":
			checkBatch(t, got, kinds[1], 1)
		case got.Header.Get("webhook-replay") == "rpl_1":
			checkBatch(t, got, kinds[2], 1)
		default:
			checkBatch(t, got, kinds[0], 1)
		}
	}
	r.done()
}

// P-01: what waits for its batch when the dispatcher ends goes to the next one; and a refusal is final for every member.
func TestWaitingBatchesAreNotLost(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 410}))
	r.feed(subscribed(t, "sub_1", hook.URL(), inBatches(4, time.Hour)))
	first := r.start()
	all := r.deliver("sub_1", 3, nil)
	until(t, "three wait", func() bool { return first.scheduler.load().waiting == 3 })
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if hook.Total() != 0 {
		t.Fatal("a batch that waits was sent at the end")
	}
	r.start()
	all = append(all, r.deliver("sub_1", 1, nil)...)
	waitFor(t, hook, 1)
	checkBatch(t, hook.Requests()[0], all, 1)
	for i, l := range decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 4) {
		if l.DeliveryID != all[i].ID || l.Reason != reasonGone || l.SourceTopic != topic.Lane("standard") || l.SourceOffset != int64(i) {
			t.Errorf("letter: %+v", l)
		}
	}
	if n := len(r.read(topic.Signals).wait(1)); n != 1 {
		t.Errorf("%d signals", n)
	}
	r.done()
}

// P-01: a batch that its retry tier refuses as too large is a dead letter of each member.
func TestABatchThatFitsNoTier(t *testing.T) {
	r := newRig(t, func(c *Config, topics []topic.Topic) {
		for i := range topics {
			if topics[i].Name == topic.RetryTier(c.RetrySchedule[0]) {
				topics[i].MaxBytes = 2000
			}
		}
	})
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 500}))
	r.feed(subscribed(t, "sub_1", hook.URL(), inBatches(3, time.Hour)))
	r.start()
	all := r.deliver("sub_1", 3, func(d *event.Delivery) { d.Body = []byte(noise(3000)) })
	got := map[string]bool{}
	for _, l := range decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 3) {
		got[l.DeliveryID] = l.Reason == reasonTooLarge && len(l.OriginalValue) > 1000
	}
	for _, d := range all {
		if !got[d.ID] {
			t.Errorf("no letter of %s", d.ID)
		}
	}
	r.done()
}

// S1-12: the rate limit counts requests.
func TestABatchTakesOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		var at []time.Duration
		start := time.Now()
		s := testScheduler(1, 100, nil)
		s.newWork = func() func(*job) {
			return func(j *job) {
				if !s.maySend(j) {
					t.Error("no token")
				}
				sizes, at = append(sizes, j.jobs()), append(at, time.Since(start))
			}
		}
		sh := s.shardOf(shardKey{subscription: "a"}, limits{
			inFlight: 1, rate: &subscription.RateLimit{PerSecond: 1}, spread: 1,
			batch: &subscription.Batch{MaxEvents: 3, MaxWait: subscription.Duration(time.Hour)},
		})
		for range 9 {
			if s.submit(t.Context(), &job{shard: sh, joins: true, size: 10}, 0) != admitted {
				t.Error("no room")
			}
		}
		time.Sleep(time.Minute)
		s.stop()
		if !slices.Equal(sizes, []int{3, 3, 3}) || !slices.Equal(at, []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}) {
			t.Errorf("%v at %v", sizes, at)
		}
	})
}
