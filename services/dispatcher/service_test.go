package dispatcher

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/twmb/franz-go/pkg/kgo"
)

func receiver(t testing.TB, answer func(*hooktest.Request) hooktest.Answer) *hooktest.Receiver {
	t.Helper()
	return hooktest.Start(t, hooktest.Options{Secrets: []string{testSecret}, Answer: answer})
}

func patiently(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t testing.TB, hook *hooktest.Receiver, n int) {
	t.Helper()
	if err := hook.WaitFor(patiently(t), n); err != nil {
		t.Fatal(err)
	}
}

// gate returns a channel that open, or the end of the test, closes.
func gate(t testing.TB) (closed chan struct{}, open func()) {
	closed = make(chan struct{})
	open = sync.OnceFunc(func() { close(closed) })
	t.Cleanup(open)
	return closed, open
}

// P-10, S0-22, S1-08, S3-13: the library of Standard Webhooks takes what is sent.
func TestDeliversSignedAndRecordsTheAttempt(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 202, Body: "thanks", Header: map[string]string{"X-Seen": "yes"}}))
	r.feed(subscribed(t, "sub_1", hook.URL()+"/hooks", func(s *subscription.Subscription) {
		s.Request.Headers = map[string]string{"X-Team": "crm"}
		s.Auth = subscription.Auth{Type: subscription.AuthBearer, Token: subscription.NewHidden("hush")}
	}))
	r.start()
	sent := r.deliver("sub_1", 3, nil)
	waitFor(t, hook, 3)
	library, err := standardwebhooks.NewWebhook(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{}
	for _, d := range sent {
		bodies[d.ID] = string(d.Body)
	}
	for _, got := range hook.Requests() {
		if err := library.Verify(got.Body, got.Header); err != nil {
			t.Error(err)
		}
		if string(got.Body) != bodies[got.ID] || got.Method != "POST" || got.Path != "/hooks" || got.Attempt != 1 {
			t.Errorf("%s %s attempt %d of %s: %s", got.Method, got.Path, got.Attempt, got.ID, got.Body)
		}
		for name, want := range map[string]string{
			"content-type": "application/json", "user-agent": "callstream/test", "x-team": "crm", "authorization": "Bearer hush",
		} {
			if v := got.Header.Get(name); v != want {
				t.Errorf("%s is %q, want %q", name, v, want)
			}
		}
		if tp := got.Header.Get("traceparent"); !strings.HasPrefix(tp, "00-0af7651916cd43dd8448eb211c80319c-") {
			t.Errorf("traceparent is %q: not the delivery's trace", tp)
		}
	}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 3) {
		if a.Outcome != outcomeDelivered || a.Attempt != 1 || a.HTTPStatus != 202 || string(a.ResponseBody) != "thanks" || a.ResponseHeaders["X-Seen"] != "yes" {
			t.Errorf("attempt: %+v", a)
		}
		if a.RequestHeaders["Authorization"] != "***" || a.RequestHeaders["X-Team"] != "crm" || a.RequestHeaders["Webhook-Id"] != a.DeliveryID {
			t.Errorf("request headers: %v", a.RequestHeaders)
		}
		if a.BodyTopic != topic.Lane("standard") || a.URL != hook.URL()+"/hooks" || a.Via != "primary" || a.DurationMicros <= 0 || a.RequestBytes != int64(len(bodies[a.DeliveryID])) || a.EventType != "call.ended" {
			t.Errorf("attempt: %+v", a)
		}
	}
	r.done()
}

func TestRetriesUntilDelivered(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 503, Body: "busy"}, hooktest.Answer{Reset: true}, hooktest.Answer{}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	waitFor(t, hook, 3)
	for i, got := range hook.Requests() {
		if got.ID != d.ID || got.Attempt != i+1 || !bytes.Equal(got.Body, d.Body) || got.Fault != nil {
			t.Errorf("request %d: %s attempt %d: %s, signature: %v", i, got.ID, got.Attempt, got.Body, got.Fault)
		}
	}
	attempts := map[int]*event.Attempt{}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 3) {
		attempts[a.Attempt] = a
	}
	if a := attempts[1]; a.Outcome != outcomeRetry || a.Reason != "http_5xx" || a.HTTPStatus != 503 || string(a.ResponseBody) != "busy" || a.NextAttemptAt.Before(a.StartedAt.Add(20*time.Millisecond)) {
		t.Errorf("first: %+v", a)
	}
	if a := attempts[2]; a.Outcome != outcomeRetry || a.ErrorClass != "reset" || a.Error == "" || a.NextAttemptAt.Before(a.StartedAt.Add(60*time.Millisecond)) || a.BodyTopic != topic.RetryTier(20*time.Millisecond) {
		t.Errorf("second: %+v", a)
	}
	if a := attempts[3]; a.Outcome != outcomeDelivered || a.BodyTopic != topic.RetryTier(60*time.Millisecond) {
		t.Errorf("third: %+v", a)
	}
	for i := 1; i < 3; i++ {
		if !attempts[i+1].StartedAt.After(attempts[i].NextAttemptAt.Add(-2 * time.Millisecond)) {
			t.Errorf("attempt %d began at %v, due at %v", i+1, attempts[i+1].StartedAt, attempts[i].NextAttemptAt)
		}
	}
	r.done()
}

func TestExhaustedEndsInTheDeadLetters(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 500, Body: "no"}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	// A delivery of an event of callstream's own is exhausted as well, and makes no further event.
	own := r.deliver("sub_1", 1, func(d *event.Delivery) {
		d.EventType, d.EventTopic = "delivery.exhausted", topic.OwnEvents
	})[0]
	letters := map[string]*event.DeadLetter{}
	for _, l := range decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 2) {
		letters[l.DeliveryID] = l
	}
	l := letters[d.ID]
	if l == nil || letters[own.ID] == nil {
		t.Fatalf("dead letters: %v", letters)
	}
	if l.Reason != reasonExhausted || l.Attempts != 3 || l.HTTPStatus != 500 || string(l.ResponseBody) != "no" || l.ErrorClass != "http_5xx" ||
		l.SourceTopic != topic.RetryTier(60*time.Millisecond) || l.FirstFailedAt.IsZero() || !l.LastFailedAt.After(l.FirstFailedAt) ||
		l.SubscriptionID != "sub_1" || l.SubscriptionVersion != 1 || l.EventID != d.EventID || l.Tenant != "acme" || l.Traceparent != d.Traceparent {
		t.Errorf("dead letter: %+v", l)
	}
	var original event.Delivery
	if err := r.codec.Decode(t.Context(), l.OriginalValue, &original); err != nil || original.ID != d.ID || !bytes.Equal(original.Body, d.Body) {
		t.Errorf("the original bytes are %q: %v", l.OriginalValue, err)
	}
	if string(l.OriginalKey) != "sub_1" || string(l.OriginalHeaders["delivery"]) != d.ID || string(l.OriginalHeaders["origin"]) == "" {
		t.Errorf("original key %q, headers %q", l.OriginalKey, l.OriginalHeaders)
	}
	r.done()
	records := r.read(topic.OwnEvents).wait(1)
	e, err := r.codec.DecodeEvent(t.Context(), topic.OwnEvents, records[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(e.AppendJSON(nil)); len(records) != 1 || e.Type != "delivery.exhausted" || !strings.Contains(got, d.ID) || !strings.Contains(got, `"attempts":3`) {
		t.Errorf("%d events: %s", len(records), got)
	}
	if hook.Total() != 6 {
		t.Errorf("%d requests, want 3 for each", hook.Total())
	}
}

func TestWhatIsNotRetriedIsDeadAtOnce(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, func(q *hooktest.Request) hooktest.Answer {
		switch q.Path {
		case "/bad":
			return hooktest.Answer{Status: 400}
		case "/moved":
			return hooktest.Answer{Status: 308, Header: map[string]string{"Location": "/elsewhere"}}
		}
		return hooktest.Answer{}
	})
	r.feed(subscribed(t, "sub_bad", hook.URL()+"/bad", nil))
	r.feed(subscribed(t, "sub_moved", hook.URL()+"/moved", nil))
	r.feed(subscribed(t, "sub_http", "ftp://example.com/", nil))
	r.start()
	want := map[string]string{}
	for sub, reason := range map[string]string{"sub_bad": reasonRejected, "sub_moved": reasonRedirect, "sub_http": reasonInvalid} {
		want[r.deliver(sub, 1, nil)[0].ID] = reason
	}
	for _, l := range decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 3) {
		if l.Reason != want[l.DeliveryID] || l.Attempts != 1 || l.Detail == "" {
			t.Errorf("%s: %s after %d attempts, want %s: %s", l.SubscriptionID, l.Reason, l.Attempts, want[l.DeliveryID], l.Detail)
		}
	}
	r.done()
	if hook.Total() != 2 {
		t.Errorf("%d requests, want 2", hook.Total())
	}
}

func TestGoneDisablesAtOnceAndAfterARestart(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 410}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	first := r.start()
	r.deliver("sub_1", 1, nil)
	if l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]; l.Reason != reasonGone {
		t.Errorf("dead letter: %+v", l)
	}
	signals := decoded[event.Signal](r, r.read(topic.Signals), 1)
	if s := signals[0]; s.Kind != "disable" || s.SubscriptionID != "sub_1" || s.SubscriptionVersion != 1 || s.Tenant != "acme" || s.Reason != reasonGone ||
		s.HTTPStatus != 410 || s.EventType == "" {
		t.Errorf("signal: %+v", s)
	}
	r.deliver("sub_1", 1, nil)
	r.done()
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := r.start()
	r.deliver("sub_1", 1, nil)
	skipped := 0
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 3) {
		if a.Outcome == outcomeSkipped && a.Reason == reasonDisabled && a.Attempt == 0 {
			skipped++
		}
	}
	if skipped != 2 || hook.Total() != 1 {
		t.Errorf("%d skipped after %d requests, want 2 after 1", skipped, hook.Total())
	}
	// A newer version is what counts from then on.
	hook.SetAnswer(hooktest.Always(hooktest.Answer{}))
	offset := r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.Version = 3 }))
	if err := second.WaitApplied(patiently(t), offset); err != nil {
		t.Fatal(err)
	}
	if c, ok := second.book.Get("sub_1"); !ok || c.Version != 3 {
		t.Errorf("the feed is applied up to %d without version 3", offset)
	}
	r.deliver("sub_1", 1, func(d *event.Delivery) { d.SubscriptionVersion = 3 })
	waitFor(t, hook, 2)
	r.done()
}

// A restored database counts on from a lower version than the one that was disabled: what was changed since is sent.
func TestGoneEndsWithAChangeInARestoredDatabase(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 410}, hooktest.Answer{}))
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.Version = 9 }))
	first := r.start()
	r.deliver("sub_1", 1, func(d *event.Delivery) { d.SubscriptionVersion = 9 })
	r.read(topic.Signals).wait(1)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	change := func(updated time.Time, epoch int64) {
		rec := subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.Version, s.UpdatedAt = 3, updated })
		rec.Epoch = epoch
		r.feed(rec)
	}
	change(time.Now().Add(-time.Hour), 2)
	second := r.start()
	attempts := r.read(topic.Attempts)
	r.deliver("sub_1", 1, nil)
	if a := decoded[event.Attempt](r, attempts, 2)[1]; a.Reason != reasonDisabled {
		t.Errorf("as it was before the signal: %+v", a)
	}
	change(time.Now().Add(time.Second), 3)
	until(t, "the change is applied", func() bool { c, _ := second.book.Get("sub_1"); return c.Epoch == 3 })
	r.deliver("sub_1", 1, nil)
	waitFor(t, hook, 2)
	r.done()
}

// How old an event is says nothing about how long its delivery has been unsendable.
func TestAnOldDeliveryIsNotGivenUpAtOnce(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	r.deliver("sub_later", 1, func(d *event.Delivery) { d.AcceptedAt = time.Now().Add(-48 * time.Hour) })
	r.read(topic.Slow).wait(1)
}

// What is not sent any more is explained by the reason: the state of its subscription, or its age.
func TestSkipsSayWhy(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	state := func(id string, state subscription.State) {
		r.feed(subscribed(t, id, hook.URL(), func(s *subscription.Subscription) { s.State = state }))
	}
	state("sub_paused", subscription.StatePaused)
	state("sub_pending", subscription.StatePending)
	state("sub_disabled", subscription.StateDisabled)
	state("sub_active", subscription.StateActive)
	r.feed(subscription.Deleted("sub_deleted", "acme", 2, 1))
	r.start()
	want := map[string]string{}
	for sub, reason := range map[string]string{
		"sub_paused": reasonPaused, "sub_pending": reasonPending, "sub_disabled": reasonDisabled, "sub_deleted": reasonDeleted, "sub_active": reasonExpired,
	} {
		d := r.deliver(sub, 1, func(d *event.Delivery) { d.ExpiresAt = time.Now().Add(-time.Second) })[0]
		want[d.ID] = reason
	}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), len(want)) {
		if a.Outcome != outcomeSkipped || a.Reason != want[a.DeliveryID] || a.Attempt != 0 {
			t.Errorf("%s: %s %s, want skipped %s", a.SubscriptionID, a.Outcome, a.Reason, want[a.DeliveryID])
		}
	}
	r.done()
	if hook.Total() != 0 {
		t.Errorf("%d requests", hook.Total())
	}
	// What is replayed is asked for now, however old it is.
	r.deliver("sub_active", 1, func(d *event.Delivery) { d.ExpiresAt, d.ReplayID = time.Now().Add(-time.Second), "rpl_1" })
	waitFor(t, hook, 1)
	if got := hook.Requests()[0].Header.Get("webhook-replay"); got != "rpl_1" {
		t.Errorf("webhook-replay is %q", got)
	}
}

// A delivery that was made under a version that this dispatcher hasn't read yet waits for it.
func TestTheNewestVersionDecides(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.start()
	for v := range int64(20) {
		r.feed(subscribed(t, "sub_1", fmt.Sprintf("%s/v%d", hook.URL(), v+1), func(s *subscription.Subscription) { s.Version = v + 1 }))
		r.deliver("sub_1", 1, func(d *event.Delivery) { d.SubscriptionVersion = v + 1 })
	}
	waitFor(t, hook, 20)
	r.done()
	for _, q := range hook.Requests() {
		var made, used int
		if _, err := fmt.Sscanf(string(q.Body)+q.Path, `{"n":%d}/v%d`, &made, &used); err != nil || used < made {
			t.Errorf("a delivery made under version %d went to %s: %v", made, q.Path, err)
		}
	}
}

func TestPoisonStopsNothing(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	r.start()
	d := r.delivery("sub_1", nil)
	at := r.record(d)
	unknown := append([]byte{0, 0, 0, 99, 99}, "unknown schema"...)
	short := r.encode(d)
	r.produce(
		&kgo.Record{Topic: at.Topic, Partition: at.Partition, Key: []byte("sub_1"), Value: []byte("not Avro"), Headers: at.Headers},
		&kgo.Record{Topic: at.Topic, Partition: at.Partition, Value: unknown},
		&kgo.Record{Topic: at.Topic, Partition: at.Partition, Key: []byte("sub_1"), Value: short[:len(short)-3]},
		&kgo.Record{Topic: at.Topic, Partition: at.Partition, Key: []byte("sub_1")},
		at,
	)
	waitFor(t, hook, 1)
	values := map[string]bool{"not Avro": false, string(unknown): false, string(short[:len(short)-3]): false, "": false}
	for _, l := range decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 4) {
		if l.Reason != reasonPoison || l.SourceTopic != at.Topic || l.Detail == "" {
			t.Errorf("dead letter: %+v", l)
		}
		values[string(l.OriginalValue)] = true
	}
	for v, seen := range values {
		if !seen {
			t.Errorf("no dead letter holds %q", v)
		}
	}
	r.done()
}

// noise is text that doesn't compress.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(32 + r.IntN(95))
	}
	return string(b)
}

func TestADeadLetterThatDoesNotFitPointsToTheBytes(t *testing.T) {
	r := newRig(t, func(_ *Config, topics []topic.Topic) {
		for i := range topics {
			if topics[i].Name == topic.DeadLetters || topics[i].Name == topic.Attempts {
				topics[i].MaxBytes = 3000
			}
		}
	})
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 400, Body: noise(8000)}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	r.start()
	d := r.deliver("sub_1", 1, func(d *event.Delivery) { d.Body = []byte(noise(100_000)) })[0]
	l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]
	if l.DeliveryID != d.ID || len(l.OriginalValue) != 0 || l.SourceTopic != topic.Lane("standard") || l.Reason != reasonRejected {
		t.Errorf("dead letter of %s: %s with %d bytes of %s", l.DeliveryID, l.Reason, len(l.OriginalValue), l.SourceTopic)
	}
	a := decoded[event.Attempt](r, r.read(topic.Attempts), 1)[0]
	if a.DeliveryID != d.ID || len(a.ResponseBody) != 0 || !a.ResponseTruncated || a.HTTPStatus != 400 {
		t.Errorf("attempt of %s: status %d with %d bytes, truncated: %v", a.DeliveryID, a.HTTPStatus, len(a.ResponseBody), a.ResponseTruncated)
	}
	r.done()
}

func TestDrainFinishesWhatIsInFlight(t *testing.T) {
	r := newRig(t, nil)
	release, open := gate(t)
	hook := receiver(t, func(*hooktest.Request) hooktest.Answer { <-release; return hooktest.Answer{} })
	r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.MaxInFlight = 2 }))
	first := r.start()
	all := r.deliver("sub_1", 10, nil)
	waitFor(t, hook, 2)
	stopped := make(chan error, 1)
	go func() { stopped <- first.stop() }()
	until(t, "the loop drains", func() bool { return first.loop.Load().Ready() != nil })
	open()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if hook.Total() != 2 {
		t.Errorf("%d requests after the stop, want the 2 in flight", hook.Total())
	}
	if n := len(r.read(topic.Attempts).wait(2)); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
	r.start()
	if err := hook.WaitUnique(patiently(t), len(all)); err != nil {
		t.Fatal(err)
	}
	r.done()
	if hook.Repeats() != 0 {
		t.Errorf("%d repeats: what was finished in the drain was not committed", hook.Repeats())
	}
}

// What was in flight at a crash is sent again under the same webhook-id.
func TestWhatIsCutInFlightIsSentAgain(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.DrainTimeout = 20 * time.Millisecond })
	hook := receiver(t, hooktest.Always(hooktest.Answer{Hang: true}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	first := r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	waitFor(t, hook, 1)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	hook.SetAnswer(nil)
	r.start()
	waitFor(t, hook, 2)
	r.done()
	if n := hook.Counts()[d.ID]; n != 2 {
		t.Errorf("%s arrived %d times, want twice", d.ID, n)
	}
	attempts := decoded[event.Attempt](r, r.read(topic.Attempts), 1)
	if len(attempts) != 1 || attempts[0].Attempt != 1 {
		t.Errorf("attempts: %+v", attempts)
	}
}

// One endpoint hangs, in the same partition as a good one. Its deliveries are parked, not counted as attempts, and
// arrive when it answers again.
func TestAHangingEndpointIsParked(t *testing.T) {
	r := newRig(t, nil)
	var hanging string
	for i := 0; hanging == ""; i++ {
		if id := fmt.Sprintf("sub_hanging_%d", i); topic.PartitionFor(id, "", 1, r.partitions) == topic.PartitionFor("sub_good", "", 1, r.partitions) {
			hanging = id
		}
	}
	release, open := gate(t)
	bad := receiver(t, func(*hooktest.Request) hooktest.Answer { <-release; return hooktest.Answer{} })
	good := receiver(t, nil)
	r.feed(subscribed(t, hanging, bad.URL(), func(s *subscription.Subscription) { s.MaxInFlight = 2 }))
	r.feed(subscribed(t, "sub_good", good.URL(), nil))
	run := r.start()
	r.deliver(hanging, 2, nil)
	waitFor(t, bad, 2)
	until(t, "the endpoint counts as stalled", func() bool {
		run.scheduler.mu.Lock()
		defer run.scheduler.mu.Unlock()
		for sh := range run.scheduler.owners[hanging] {
			return sh.stalled(time.Now())
		}
		return false
	})
	for range 20 {
		r.deliver(hanging, 10, nil)
		r.deliver("sub_good", 10, nil)
	}
	waitFor(t, good, 200)
	if bad.Total() != 2 {
		t.Errorf("the hanging endpoint has %d requests, want its 2 in flight", bad.Total())
	}
	r.read(topic.Slow).wait(50)
	open()
	if err := bad.WaitUnique(patiently(t), 202); err != nil {
		t.Fatal(err)
	}
	r.done()
	if bad.Repeats() != 0 || good.Repeats() != 0 {
		t.Errorf("%d and %d repeats", bad.Repeats(), good.Repeats())
	}
	for _, q := range bad.Requests() {
		if q.Attempt != 1 || q.Fault != nil {
			t.Errorf("%s arrived as attempt %d: %v", q.ID, q.Attempt, q.Fault)
		}
	}
}

func TestTwoDispatchersShareThePartitions(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 500}, hooktest.Answer{}))
	for i := range 8 {
		r.feed(subscribed(t, fmt.Sprintf("sub_%d", i), hook.URL(), nil))
	}
	first := r.start()
	for i := range 8 {
		r.deliver(fmt.Sprintf("sub_%d", i), 20, nil)
	}
	r.start()
	for i := range 8 {
		r.deliver(fmt.Sprintf("sub_%d", i), 20, nil)
	}
	if err := hook.Wait(patiently(t), func() bool { return hook.Unique() == 320 && hook.Total() >= 640 }); err != nil {
		t.Fatal(err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		r.deliver(fmt.Sprintf("sub_%d", i), 5, nil)
	}
	if err := hook.Wait(patiently(t), func() bool { return hook.Unique() == 360 && hook.Total() >= 720 }); err != nil {
		t.Fatal(err)
	}
	r.done()
}
