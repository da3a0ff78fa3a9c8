package dispatcher

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

func withFallback(t *testing.T, r *rig, primary, fallback string) {
	t.Helper()
	r.feed(subscribed(t, "sub_1", primary, func(s *subscription.Subscription) {
		s.FallbackURL = fallback
		s.Auth = subscription.Auth{Type: subscription.AuthBearer, Token: subscription.NewHidden("hush")}
		s.Request.Routes = map[string]string{"*": primary + "/routed"}
	}))
}

// S1-11: what the endpoint had all its attempts of goes to the fallback: the same bytes and id, signed, without auth, by a
// schedule of its own.
func TestTheFallbackGetsWhatIsExhausted(t *testing.T) {
	r := newRig(t, nil)
	primary := receiver(t, hooktest.Always(hooktest.Answer{Status: 503}))
	fallback := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 500}, hooktest.Answer{Status: 500}, hooktest.Answer{}))
	withFallback(t, r, primary.URL(), fallback.URL()+"/spare")
	r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	waitFor(t, fallback, 3)
	r.done()
	if primary.Total() != 3 || fallback.Total() != 3 {
		t.Errorf("%d and %d requests, want 3 of each", primary.Total(), fallback.Total())
	}
	for i, got := range slices.Concat(primary.Requests(), fallback.Requests()) {
		path, auth, header := "/routed", "Bearer hush", ""
		if i >= 3 {
			path, auth, header = "/spare", "", "true"
		}
		if got.ID != d.ID || got.Attempt != i+1 || !bytes.Equal(got.Body, d.Body) || got.Fault != nil || got.Path != path {
			t.Errorf("request %d: %s attempt %d at %s: %s, signature: %v", i+1, got.ID, got.Attempt, got.Path, got.Body, got.Fault)
		}
		if got.Header.Get("authorization") != auth || got.Header.Get("webhook-fallback") != header {
			t.Errorf("request %d: authorization %q, webhook-fallback %q", i+1, got.Header.Get("authorization"), got.Header.Get("webhook-fallback"))
		}
	}
	attempts := map[int]*event.Attempt{}
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 6) {
		attempts[a.Attempt] = a
	}
	for n, want := range map[int][3]string{
		1: {viaPrimary, outcomeRetry, "http_5xx"}, 2: {viaPrimary, outcomeRetry, "http_5xx"}, 3: {viaPrimary, outcomeRetry, reasonFallback},
		4: {viaFallback, outcomeRetry, "http_5xx"}, 5: {viaFallback, outcomeRetry, "http_5xx"}, 6: {viaFallback, outcomeDelivered, ""},
	} {
		if a := attempts[n]; a == nil || [3]string{a.Via, a.Outcome, a.Reason} != want {
			t.Errorf("attempt %d: %+v, want %v", n, a, want)
		}
	}
	if n := len(r.read(topic.DeadLetters).records()); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// S1-11: a fallback that fails as well ends in one dead letter, and in one event that tells of it. Its 410 is no word of the
// subscription's endpoint.
func TestADeliveryIsDeadAfterItsFallback(t *testing.T) {
	for _, c := range []struct {
		status, attempts int
		reason           string
	}{{500, 6, reasonExhausted}, {410, 4, reasonGone}, {404, 4, reasonRejected}} {
		t.Run(c.reason, func(t *testing.T) {
			r := newRig(t, nil)
			primary := receiver(t, hooktest.Always(hooktest.Answer{Status: 503}))
			fallback := receiver(t, hooktest.Always(hooktest.Answer{Status: c.status}))
			withFallback(t, r, primary.URL(), fallback.URL())
			r.start()
			r.deliver("sub_1", 1, nil)
			l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]
			if l.Reason != c.reason || l.Attempts != c.attempts || l.HTTPStatus != c.status || string(l.OriginalHeaders[kafka.HeaderVia]) != viaFallback {
				t.Errorf("dead letter: %+v", l)
			}
			r.done()
			exhausted := 0
			if c.reason == reasonExhausted {
				exhausted = 1
			}
			if events, signals := len(r.read(topic.OwnEvents).wait(exhausted)), len(r.read(topic.Signals).records()); events != exhausted || signals != 0 {
				t.Errorf("%d: %d events and %d signals", c.status, events, signals)
			}
			hold := r.deliver("sub_1", 1, nil)[0]
			waitFor(t, primary, 4)
			if got := primary.Requests()[3].ID; got != hold.ID {
				t.Errorf("after %d, the endpoint got %s", c.status, got)
			}
		})
	}
}

// What an endpoint refuses is dead at once, fallback or not; 410 disables as it does without one.
func TestARefusalDoesNotGoToTheFallback(t *testing.T) {
	r := newRig(t, nil)
	primary, fallback := receiver(t, nil), receiver(t, nil)
	withFallback(t, r, primary.URL(), fallback.URL())
	r.start()
	log := r.read(topic.DeadLetters)
	for i, refusal := range []struct {
		status int
		reason string
	}{{400, reasonRejected}, {302, reasonRedirect}, {410, reasonGone}} {
		primary.SetAnswer(hooktest.Always(hooktest.Answer{Status: refusal.status}))
		r.deliver("sub_1", 1, nil)
		if l := decoded[event.DeadLetter](r, log, i+1)[i]; l.Reason != refusal.reason {
			t.Errorf("%d: %s, %s", refusal.status, l.Reason, l.Detail)
		}
	}
	if s := decoded[event.Signal](r, r.read(topic.Signals), 1)[0]; s.Kind != signalDisable || s.Reason != reasonGone {
		t.Errorf("signal: %+v", s)
	}
	r.done()
	if fallback.Total() != 0 {
		t.Errorf("the fallback got %d requests", fallback.Total())
	}
}

// A fallback that was taken away serves nobody, and one that is not verified yet doesn't either.
func TestAFallbackThatIsNoMore(t *testing.T) {
	r := newRig(t, nil)
	primary, pending := receiver(t, hooktest.Always(hooktest.Answer{Status: 503})), receiver(t, nil)
	release, open := gate(t)
	fallback := receiver(t, func(*hooktest.Request) hooktest.Answer { <-release; return hooktest.Answer{Status: 503} })
	withFallback(t, r, primary.URL(), fallback.URL())
	run := r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	waitFor(t, fallback, 1)
	offset := r.feed(subscribed(t, "sub_1", primary.URL(), func(s *subscription.Subscription) {
		s.Version, s.PendingFallbackURL = 2, pending.URL()
	}))
	if err := run.WaitApplied(patiently(t), offset); err != nil {
		t.Fatal(err)
	}
	open()
	l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 1)[0]
	if l.DeliveryID != d.ID || l.Reason != reasonExhausted || l.Attempts != 4 || l.Detail != errNoFallback.Error() {
		t.Errorf("dead letter: %+v", l)
	}
	r.read(topic.OwnEvents).wait(1)
	r.deliver("sub_1", 1, nil)
	if l := decoded[event.DeadLetter](r, r.read(topic.DeadLetters), 2)[1]; l.Attempts != 3 {
		t.Errorf("dead letter: %+v", l)
	}
	r.done()
	if fallback.Total() != 1 || pending.Total() != 0 {
		t.Errorf("%d requests to the fallback, %d to one that is not verified", fallback.Total(), pending.Total())
	}
}

// P-09: what would expire before its next attempt is known to be so at once, is not dead, and goes to the fallback where
// there is one.
func TestWhatWouldExpireDoesNotWaitForIt(t *testing.T) {
	day := []time.Duration{20 * time.Millisecond, 60 * time.Millisecond}
	r := newRig(t, nil)
	primary, fallback := receiver(t, hooktest.Always(hooktest.Answer{Status: 429, Header: map[string]string{"Retry-After": "7200"}})), receiver(t, nil)
	r.feed(subscribed(t, "sub_without", primary.URL(), nil))
	withFallback(t, r, primary.URL(), fallback.URL())
	r.start()
	hour := func(d *event.Delivery) { d.ExpiresAt = time.Now().Add(time.Hour) }
	without, with := r.deliver("sub_without", 1, hour)[0], r.deliver("sub_1", 1, hour)[0]
	waitFor(t, fallback, 1)
	for _, a := range decoded[event.Attempt](r, r.read(topic.Attempts), 3) {
		want := map[string][3]string{
			without.ID + viaPrimary: {outcomeSkipped, reasonExpired}, with.ID + viaPrimary: {outcomeRetry, reasonFallback}, with.ID + viaFallback: {outcomeDelivered},
		}[a.DeliveryID+a.Via]
		if [3]string{a.Outcome, a.Reason} != want || a.Attempt == 0 || a.Outcome == outcomeSkipped && (a.HTTPStatus != 429 || !a.NextAttemptAt.IsZero()) {
			t.Errorf("attempt: %+v, want %v", a, want)
		}
	}
	r.done()
	if n := len(r.read(topic.DeadLetters).records()); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	// Within its time it waits, and an event that is replayed does in any case.
	sub := &subscription.Subscription{}
	now := time.Now()
	retry := judge(result{status: 503}, 1, sub.Retry, day)
	for _, d := range []*event.Delivery{{}, {ExpiresAt: now.Add(time.Second)}, {ExpiresAt: now.Add(-time.Second), ReplayID: "rpl_1"}} {
		if v := retry.next(&job{}, d, sub, now, 0); v.outcome != outcomeRetry || v.due.Before(now.Add(day[0])) || v.fallback {
			t.Errorf("%+v: %+v", d, v)
		}
	}
}
