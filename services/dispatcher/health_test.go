package dispatcher

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"pgregory.net/rapid"
)

// epoch is when the tests of health begin.
var epoch = time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC)

func compiledAt(version int64, change func(*subscription.Subscription)) *subscription.Compiled {
	s := &subscription.Subscription{ID: "sub_1", URL: "https://a.example", State: subscription.StateActive, Spread: 1, Version: version, UpdatedAt: epoch.Add(-time.Hour)}
	if change != nil {
		change(s)
	}
	return &subscription.Compiled{ID: s.ID, Version: version, Subscription: s}
}

// P-13: only failures, enough of them, for long enough, up to now.
func TestFiveFailingDays(t *testing.T) {
	const limit = 5 * 24 * time.Hour
	c := compiledAt(1, nil)
	for name, days := range map[string]struct {
		failures []time.Duration // after the first
		success  time.Duration   // 0 for none
		want     finding         // of the last failure
	}{
		"an hour":                    {[]time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute, time.Hour}, 0, tellFailing},
		"too few":                    {[]time.Duration{time.Hour, limit, 2 * limit}, 0, nothing},
		"few, for five days":         {[]time.Duration{time.Second, 2 * time.Second, 3 * time.Second, limit}, 0, tellFailing},
		"few, and one more":          {[]time.Duration{time.Second, 2 * time.Second, 3 * time.Second, limit, limit + time.Second}, 0, tellDisable},
		"five days":                  {[]time.Duration{time.Minute, 2 * time.Minute, time.Hour, 2 * time.Hour, limit}, 0, tellDisable},
		"nearly":                     {[]time.Duration{time.Minute, 2 * time.Minute, time.Hour, 2 * time.Hour, limit - time.Second}, 0, nothing},
		"a success in between":       {[]time.Duration{time.Minute, 2 * time.Minute, time.Hour, 2 * time.Hour, limit}, limit / 2, nothing},
		"traffic only at both ends":  {[]time.Duration{time.Second, 2 * time.Second, 3 * time.Second, time.Hour, 40 * limit}, 0, tellDisable},
		"a success before the first": {[]time.Duration{time.Minute, 2 * time.Minute, time.Hour, 2 * time.Hour, limit}, -time.Second, tellDisable},
	} {
		h := newHealth(limit)
		var last finding
		h.fails(c, epoch)
		succeeded := false
		for _, after := range days.failures {
			if days.success != 0 && !succeeded && days.success < after {
				h.succeeds(c, epoch.Add(days.success))
				succeeded = true
			}
			_, last = h.fails(c, epoch.Add(after))
		}
		if last != days.want {
			t.Errorf("%s: the last failure came to %d, want %d", name, last, days.want)
		}
	}
	h := newHealth(0)
	for hour := range 10_000 {
		if _, found := h.fails(c, epoch.Add(time.Duration(hour)*time.Hour)); found == tellDisable {
			t.Fatal("it was disabled without a limit")
		}
	}
}

// P-13: the clock begins anew when the subscription is verified, whatever that was for, and not when anything else is changed.
func TestAVerificationBeginsTheStreakAnew(t *testing.T) {
	const limit = 5 * 24 * time.Hour
	for name, change := range map[string]struct {
		before, after func(*subscription.Subscription)
		anew          bool
	}{
		"the same endpoint": {func(s *subscription.Subscription) { s.FailingSince = epoch }, nil, true},
		"a fallback": {func(s *subscription.Subscription) { s.PendingFallbackURL = "https://b.example" },
			func(s *subscription.Subscription) { s.FallbackURL = "https://b.example" }, true},
		"auth":           {func(s *subscription.Subscription) { s.PendingAuth = &subscription.Auth{} }, nil, true},
		"another name":   {nil, func(s *subscription.Subscription) { s.Name = "other" }, false},
		"a renamed one":  {func(s *subscription.Subscription) { s.FailingSince = epoch }, func(s *subscription.Subscription) { s.FailingSince = epoch }, false},
		"one that waits": {nil, func(s *subscription.Subscription) { s.PendingFallbackURL = "https://b.example" }, false},
	} {
		h := newHealth(limit)
		before, after := compiledAt(2, change.before), compiledAt(3, change.after)
		for i := range 4 { // too few to be told of
			h.fails(before, epoch.Add(time.Duration(i)*time.Hour))
		}
		h.changes(before, after)
		h.fails(after, epoch.Add(limit-time.Hour))
		since, _ := h.fails(after, epoch.Add(limit))
		if got := !since.Equal(epoch); got != change.anew {
			t.Errorf("%s: failing since %v", name, since)
		}
	}
	// Nor is it when the one before ended with a success.
	h := newHealth(limit)
	before := compiledAt(2, func(s *subscription.Subscription) { s.FailingSince = epoch })
	h.fails(before, epoch)
	h.succeeds(before, epoch.Add(time.Hour))
	h.fails(before, epoch.Add(2*time.Hour))
	h.changes(before, compiledAt(3, nil))
	if since, _ := h.fails(compiledAt(3, nil), epoch.Add(3*time.Hour)); !since.Equal(epoch.Add(2 * time.Hour)) {
		t.Errorf("after a success it fails since %v", since)
	}
}

// P-13: in whatever order signals are read, and how often, the same is known.
func TestSignalsOfHealthCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *event.Signal {
			return &event.Signal{SubscriptionID: "sub_1", SubscriptionVersion: 3, Kind: rapid.SampledFrom([]string{signalFailing, signalRecover}).Draw(t, "kind"),
				At: epoch.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "at")) * time.Minute)}
		}), 1, 10).Draw(t, "log")
		again := rapid.Permutation(slices.Concat(log, log[:rapid.IntRange(0, len(log)).Draw(t, "repeated")])).Draw(t, "order")
		known := func(log []*event.Signal) (since time.Time, told bool) {
			h := newHealth(time.Hour)
			for _, signal := range log {
				h.reads(signal, epoch.Add(time.Hour))
			}
			return h.all["sub_1"].of(compiledAt(3, nil))
		}
		since, told := known(log)
		if s, again := known(again); s != since || again != told {
			t.Fatalf("since %v, %v; then %v, %v", since, told, s, again)
		}
	})
}

// oneConsole is what the console makes of signals: what the property below takes it for.
type oneConsole struct {
	c       *subscription.Compiled
	pending []*event.Signal
}

func (m *oneConsole) change(now time.Time, edit func(*subscription.Subscription) bool) bool {
	next := m.c.Subscription.Clone()
	if !edit(next) {
		return false
	}
	next.Version, next.UpdatedAt = m.c.Version+1, now
	m.c = &subscription.Compiled{ID: m.c.ID, Version: next.Version, Subscription: next}
	return true
}

func (m *oneConsole) apply(now time.Time) bool {
	signal := m.pending[0]
	m.pending = m.pending[1:]
	return m.change(now, func(s *subscription.Subscription) bool {
		switch {
		case signal.Kind == signalRecover:
			return s.Recover(signal.At)
		case signal.SubscriptionVersion != s.Version:
			return false
		case signal.Kind == signalFailing:
			return s.Fail(signal.At)
		}
		return s.Disable(signal.Reason)
	})
}

// P-13: whatever happens in which order (successes and failures at two dispatchers, restarts, a console that is slow, people who
// rename, move and activate), nothing is disabled for failing within the limit after a success, or after it began anew.
func TestNothingThatSucceedsIsDisabled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 10 * time.Hour
		console := &oneConsole{c: compiledAt(1, func(s *subscription.Subscription) { s.Spread = 2 })}
		var log []*event.Signal
		var wrote []time.Time
		now, begun := epoch, epoch
		restart := func() (*health, *subscription.Compiled) {
			h := newHealth(limit)
			for _, i := range rapid.Permutation(indices(len(log))).Draw(t, "signals") {
				if (asOf{log[i].SubscriptionVersion, wrote[i]}).covers(console.c) || !console.c.Subscription.FailingSince.IsZero() {
					h.reads(log[i], wrote[i])
				}
			}
			return h, console.c
		}
		owners := []*health{newHealth(limit), newHealth(limit)}
		publish := func(before *subscription.Compiled) {
			for _, h := range owners {
				h.changes(before, console.c)
			}
		}
		say := func(kind string, at time.Time) {
			signal := &event.Signal{Kind: kind, SubscriptionID: "sub_1", SubscriptionVersion: console.c.Version, At: at, Reason: subscription.ReasonFailing}
			log, wrote = append(log, signal), append(wrote, now)
			console.pending = append(console.pending, signal)
			for _, h := range owners {
				h.reads(signal, now)
			}
		}
		for range rapid.IntRange(10, 120).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 180).Draw(t, "minutes")) * time.Minute)
			i := rapid.IntRange(0, 1).Draw(t, "owner")
			before := console.c
			switch what := rapid.SampledFrom([]string{"fail", "fail", "fail", "fail", "fail", "fail", "succeed", "console", "console", "restart", "rename", "move", "activate"}).Draw(t, "what"); what {
			case "fail":
				if !console.c.Subscription.Live() {
					continue
				}
				since, found := owners[i].fails(console.c, now)
				switch found {
				case tellFailing:
					say(signalFailing, since)
				case tellDisable:
					if now.Sub(begun) < limit {
						t.Fatalf("disabled at %v, since %v, begun anew at %v", now, since, begun)
					}
					say(signalDisable, now)
				case nothing:
				}
			case "succeed":
				if !console.c.Subscription.Live() {
					continue
				}
				begun = now
				if _, tell := owners[i].succeeds(console.c, now); tell {
					say(signalRecover, now)
				}
			case "console":
				if len(console.pending) > 0 && console.apply(now) {
					publish(before)
				}
			case "restart":
				owners[i], _ = restart()
			default:
				changed := console.change(now, func(s *subscription.Subscription) bool {
					switch what {
					case "move":
						s.URL, s.FailingSince = fmt.Sprintf("https://%d.example", s.Version), time.Time{}
					case "activate":
						if s.Live() {
							return false
						}
						return s.Resume() == nil
					}
					return true
				})
				if changed {
					if what != "rename" {
						begun = now
					}
					publish(before)
				}
			}
		}
	})
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// P-13: an endpoint that fails for longer than the setting is disabled at once, here and after a restart, and the fallback's
// success doesn't keep it.
func TestFailingForLongDisables(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.DisableAfter = 300 * time.Millisecond })
	hook, spare := receiver(t, hooktest.Always(hooktest.Answer{Status: 503})), receiver(t, nil)
	withFallback(t, r, hook.URL(), spare.URL())
	first := r.start()
	log := r.read(topic.Signals)
	var last *event.Signal
	until(t, "it is disabled", func() bool {
		if signals := decoded[event.Signal](r, log, len(log.records())); len(signals) > 0 && signals[len(signals)-1].Kind == signalDisable {
			last = signals[len(signals)-1]
			return true
		}
		r.deliver("sub_1", 1, nil)
		return false
	})
	signals := decoded[event.Signal](r, log, 2)
	if s := signals[0]; s.Kind != signalFailing || s.SubscriptionVersion != 1 || s.Tenant != "acme" || !last.At.After(s.At.Add(300*time.Millisecond-1)) {
		t.Errorf("it has failed since: %+v; %+v", s, last)
	}
	if last.Reason != subscription.ReasonFailing || last.HTTPStatus != 503 || last.SubscriptionID != "sub_1" || last.EventType == "" || last.Detail == "" {
		t.Errorf("signal: %+v", last)
	}
	r.done()
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	before := hook.Total()
	r.start()
	d := r.deliver("sub_1", 1, nil)[0]
	attempts := r.read(topic.Attempts)
	until(t, "it is skipped", func() bool {
		return slices.ContainsFunc(decoded[event.Attempt](r, attempts, len(attempts.records())), func(a *event.Attempt) bool {
			return a.DeliveryID == d.ID && a.Outcome == outcomeSkipped && a.Reason == reasonDisabled
		})
	})
	if hook.Total() != before {
		t.Errorf("%d requests after that", hook.Total()-before)
	}
}

// P-13: since when an endpoint fails is known after a restart, and a success is told to all, once.
func TestFailingIsKnownAfterARestart(t *testing.T) {
	r := newRig(t, func(c *Config, _ []topic.Topic) { c.DisableAfter = time.Hour })
	hook := receiver(t, hooktest.Always(hooktest.Answer{Status: 500}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	r.produce(r.signalRecord(&event.Signal{Kind: signalFailing, Tenant: "acme", SubscriptionID: "sub_1", SubscriptionVersion: 1, At: time.Now().Add(-50 * time.Minute)}))
	first := r.start()
	r.deliver("sub_1", 1, nil)
	r.done()
	log := r.read(topic.Signals)
	log.wait(1)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	hook.SetAnswer(nil)
	second := r.start()
	r.deliver("sub_1", 5, nil)
	r.done()
	signals := decoded[event.Signal](r, log, 2)
	if s := signals[1]; len(signals) != 2 || s.Kind != signalRecover || s.SubscriptionVersion != 1 || s.Tenant != "acme" {
		t.Fatalf("signals: %+v", signals)
	}
	until(t, "what is told is read", func() bool {
		second.health.mu.RLock()
		defer second.health.mu.RUnlock()
		return second.health.all["sub_1"].recovered.Equal(signals[1].At)
	})
	// The console's record of it, which the signals' topic outlived, says the same.
	offset := r.feed(subscribed(t, "sub_1", hook.URL(), func(s *subscription.Subscription) { s.Version, s.FailingSince = 2, signals[0].At }))
	if err := second.WaitApplied(patiently(t), offset); err != nil {
		t.Fatal(err)
	}
	hook.SetAnswer(hooktest.Always(hooktest.Answer{Status: 400}))
	r.deliver("sub_1", 1, nil)
	r.done()
	if n := len(log.records()); n != 2 {
		t.Errorf("%d signals", n)
	}
}
