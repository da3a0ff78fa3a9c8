package dispatcher

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"pgregory.net/rapid"
)

// naiveFrequency remembers everything for ever and counts every window.
type naiveFrequency struct {
	rule subscription.Frequency
	let  map[string][]*event.Delivery
}

func (f *naiveFrequency) ask(d *event.Delivery) bool {
	key := map[string]string{"call": "call:" + d.CallID, "agent": "agent:" + d.AgentID, "subscription": "all"}[f.rule.Per]
	if key == "call:" || key == "agent:" {
		return true
	}
	if slices.ContainsFunc(f.let[key], func(o *event.Delivery) bool { return o.ID == d.ID }) {
		return true
	}
	all := append(slices.Clone(f.let[key]), d)
	for _, first := range all {
		n := 0
		for _, o := range all {
			if since := o.AcceptedAt.Sub(first.AcceptedAt); since >= 0 && since < time.Duration(f.rule.Window) {
				n++
			}
		}
		if n > f.rule.Max {
			return false
		}
	}
	f.let[key] = all
	return true
}

// S1-02: whatever comes when and in whichever order, live or as a backlog, no window has more than max of a call, and
// nothing is suppressed that would have had room.
func TestFrequencyIsTheNaiveOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		window := time.Duration(rapid.IntRange(1, 20).Draw(t, "window")) * time.Second
		rule := subscription.Frequency{
			Per: rapid.SampledFrom([]string{"call", "agent", "subscription"}).Draw(t, "per"),
			Max: rapid.IntRange(1, 4).Draw(t, "max"), Window: subscription.Duration(window),
		}
		type asked struct {
			*event.Delivery
			at time.Time
		}
		start := time.Date(2026, 1, 20, 10, 0, 0, 0, time.UTC)
		outage := time.Duration(rapid.IntRange(0, 100).Draw(t, "outage")) * window
		var all []asked
		for i := range rapid.IntRange(1, 120).Draw(t, "events") {
			d := &event.Delivery{
				ID: fmt.Sprint("msg_", i), CallID: rapid.SampledFrom([]string{"", "c-1", "c-2"}).Draw(t, "call"),
				AgentID:    rapid.SampledFrom([]string{"", "a-1", "a-2"}).Draw(t, "agent"),
				AcceptedAt: start.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "accepted")) * time.Second / 2),
			}
			late := time.Duration(rapid.IntRange(0, 1000).Draw(t, "late")) * window / 1000
			all = append(all, asked{d, d.AcceptedAt.Add(outage + late)})
			if rapid.IntRange(0, 5).Draw(t, "repeated") == 0 {
				all = append(all, asked{d, d.AcceptedAt.Add(outage + window)})
			}
		}
		slices.SortStableFunc(all, func(a, b asked) int { return a.at.Compare(b.at) })
		f, naive := newFrequency(rule), &naiveFrequency{rule: rule, let: map[string][]*event.Delivery{}}
		for _, a := range all {
			if got, want := f.ask(a.Delivery, a.at), naive.ask(a.Delivery); got != want {
				t.Fatalf("%s of %v at %v: %t, want %t", a.ID, a.AcceptedAt, a.at, got, want)
			}
		}
		if !f.empty(start.Add(outage + 1000*window)) {
			t.Fatal("it remembers what nobody asks for any more")
		}
		if f.marks != 0 || f.order.Len() != 0 {
			t.Fatalf("%d marks, %d keys left", f.marks, f.order.Len())
		}
	})
}

func TestFrequencyForgetsTheOldestCallBeyondItsBound(t *testing.T) {
	now := time.Now()
	f := newFrequency(subscription.Frequency{Per: "call", Max: 1, Window: subscription.Duration(24 * time.Hour)})
	ask := func(call, id string) bool {
		return f.ask(&event.Delivery{ID: id, CallID: call, AcceptedAt: now}, now)
	}
	for i := range mostMarks + 1 {
		if call := fmt.Sprint("c-", i); !ask(call, "first of "+call) {
			t.Fatal("the first of a call was suppressed")
		}
	}
	if len(f.keys) != mostMarks {
		t.Errorf("%d calls are remembered", len(f.keys))
	}
	if ask("c-1", "second") {
		t.Error("a call that is remembered got a second event")
	}
	if !ask("c-0", "second") {
		t.Error("a call that is forgotten was suppressed")
	}
}

// S1-02: through the dispatcher: the first of a call in the order of the topic goes out, again and again until it is
// delivered; the others are skipped and explained. Replays, redrives and retries pass.
func TestFrequencySkipsFurtherEvents(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 503}, hooktest.Answer{Status: 503}, hooktest.Answer{}))
	limited := func(perCall *subscription.Frequency, version int64) func(*subscription.Subscription) {
		return func(s *subscription.Subscription) { s.Frequency, s.Version = perCall, version }
	}
	rule := &subscription.Frequency{Per: "call", Max: 1, Window: subscription.Duration(time.Hour)}
	r.feed(subscribed(t, "sub_1", hook.URL(), limited(rule, 1)))
	s := r.start()
	sent := r.deliver("sub_1", 40, func(d *event.Delivery) { d.CallID = fmt.Sprint("c-", r.serial%2) })
	log := r.read(topic.Attempts)
	skipped := map[string]int{}
	for _, a := range decoded[event.Attempt](r, log, 38+2*3) {
		switch {
		case a.Outcome == outcomeSkipped && a.Reason == "frequency" && a.Attempt == 0:
			skipped[a.DeliveryID]++
		case a.DeliveryID != sent[0].ID && a.DeliveryID != sent[1].ID:
			t.Errorf("%s %s of %s attempt %d", a.Outcome, a.Reason, a.DeliveryID, a.Attempt)
		}
	}
	if len(skipped) != 38 {
		t.Errorf("%d are skipped", len(skipped))
	}
	r.done()

	// The same delivery again is what it was; what was asked for passes by; another rule begins anew.
	hook.SetAnswer(hooktest.Always(hooktest.Answer{}))
	before := hook.Total()
	replay := r.delivery("sub_1", func(d *event.Delivery) { d.CallID, d.ReplayID = "c-0", "rpl_1" })
	redriven := r.record(r.delivery("sub_1", func(d *event.Delivery) { d.CallID = "c-0" }))
	redriven.Headers = append(redriven.Headers, kafka.StringHeader(kafka.HeaderRedrive, "manual"))
	r.produce(r.record(sent[0]), r.record(sent[2]), r.record(replay), redriven)
	waitFor(t, hook, before+3)
	r.done()
	if hook.Total() != before+3 {
		t.Errorf("%d requests, want the repeat, the replay and the redrive", hook.Total()-before)
	}
	rule.Max = 2
	if err := s.WaitApplied(patiently(t), r.feed(subscribed(t, "sub_1", hook.URL(), limited(rule, 2)))); err != nil {
		t.Fatal(err)
	}
	r.deliver("sub_1", 3, func(d *event.Delivery) { d.CallID = "c-0" })
	r.done()
	if hook.Total() != before+5 {
		t.Errorf("%d requests after the rule changed, want 2", hook.Total()-before-3)
	}
}
