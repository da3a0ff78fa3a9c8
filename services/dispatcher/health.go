package dispatcher

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

const (
	// fewFailures are too few to say anything of an endpoint, however far apart they are.
	fewFailures = 5
	// failingFor is how long an endpoint has failed before that is told: what is over sooner is what retries are for.
	failingFor = 5 * time.Minute
)

// health knows since when endpoints have had nothing but failures. Every dispatcher that sends to one has to know: the
// partitions of a subscription may have several owners, one after the other or at once. So what has lasted is told by a
// signal, failing, which every dispatcher reads, and so is its end, recover. The console writes both into the
// subscription, which outlasts the signals' topic; until it has, the signals hold.
//
// What has not been told is known here alone, and forgotten with the partition: the clock begins a little later.
type health struct {
	limit time.Duration // failing for longer disables; 0 for never
	after time.Duration // failing for longer is told

	mu     sync.RWMutex
	all    map[string]*streak // by subscription
	failed atomic.Int64       // how many there are: a success of one that never failed takes no lock
}

func newHealth(limit time.Duration) *health {
	h := &health{limit: limit, after: failingFor, all: map[string]*streak{}}
	if limit > 0 {
		h.after = min(h.after, limit/10)
	}
	return h
}

// streak is what is known of one subscription. The two times that signals tell only grow, so that it makes no difference in
// which order they are read, and how often.
type streak struct {
	since time.Time // of the first failure seen here after the last success; zero for none
	times int       // that it failed since then

	told asOf // when failing was told, and for which version

	failing   time.Time // since when, as the newest signal says
	recovered time.Time // when, as the newest signal says
}

// asOf is what was said of a subscription's versions up to one, at a time.
type asOf struct {
	version int64
	at      time.Time
}

// covers says whether a version is meant. One that was made later is not, whatever its number: a database that was restored
// from a backup counts on from a lower one.
func (a asOf) covers(c *subscription.Compiled) bool {
	if c.Version > a.version {
		return false
	}
	return c.Subscription == nil || !c.Subscription.UpdatedAt.After(a.at)
}

// of is since when the subscription fails, and whether that has been told.
func (k *streak) of(c *subscription.Compiled) (since time.Time, told bool) {
	switch {
	case c.Subscription.FailingSince.After(k.recovered):
		return c.Subscription.FailingSince, true
	case k.failing.After(k.recovered):
		return k.failing, true
	}
	return k.since, false
}

// finding is what follows from a failure.
type finding int

const (
	nothing finding = iota
	tellFailing
	tellDisable
)

// fails takes a failure, and returns since when there has been nothing else.
func (h *health) fails(c *subscription.Compiled, at time.Time) (since time.Time, found finding) {
	at = at.Truncate(time.Microsecond) // as signals tell it
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.streakOf(c.ID)
	if !at.After(k.recovered) {
		return at, nothing // something succeeded meanwhile
	}
	k.times++
	if k.since.IsZero() {
		k.since = at
	}
	since, told := k.of(c)
	lasted := at.Sub(since)
	switch {
	case told && h.limit > 0 && lasted >= h.limit:
		return since, tellDisable
	case !told && k.times >= fewFailures && lasted >= h.after:
		if c.Subscription.Spread > 1 {
			since = at // what succeeded in its other partitions before is not known here
		}
		k.failing, k.told = since, asOf{c.Version, at}
		return since, tellFailing
	}
	return since, nothing
}

// succeeds takes a success. It says whether that is to be told, and since when it had failed.
func (h *health) succeeds(c *subscription.Compiled, at time.Time) (since time.Time, tell bool) {
	if c.Subscription.FailingSince.IsZero() && (h.failed.Load() == 0 || !h.has(c.ID)) {
		return time.Time{}, false
	}
	at = at.Truncate(time.Microsecond)
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.streakOf(c.ID)
	since, told := k.of(c)
	if since.After(at) {
		return since, false // the failures came later
	}
	k.since, k.times = time.Time{}, 0
	if told {
		k.recovered = at
	} else if k.recovered.IsZero() {
		h.drop(c.ID)
	}
	return since, told
}

// reads takes a signal, of this dispatcher or another.
func (h *health) reads(signal *event.Signal, written time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.streakOf(signal.SubscriptionID)
	switch signal.Kind {
	case signalFailing:
		if signal.At.After(k.failing) {
			k.failing = signal.At
			k.told = asOf{signal.SubscriptionVersion, written}
		}
	case signalRecover:
		if signal.At.After(k.recovered) {
			k.recovered = signal.At
		}
		if !k.since.After(signal.At) {
			k.since, k.times = time.Time{}, 0
		}
	}
}

// changes takes a newer version of a subscription; before is nil where none was known. Whoever verifies, activates or moves
// an endpoint has it begin anew.
func (h *health) changes(before, c *subscription.Compiled) {
	if !h.has(c.ID) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.all[c.ID]
	switch {
	case k == nil || k.told.covers(c): // nothing that was said is about an earlier one
	case c.Deleted || c.Subscription == nil || !c.Subscription.Live():
		h.drop(c.ID)
	case before != nil && (before.Subscription == nil || !before.Subscription.Live() || !before.Subscription.SameEndpoints(c.Subscription)):
		h.drop(c.ID)
	case !c.Subscription.FailingSince.IsZero():
	case before != nil && k.begunAnew(before.Subscription, c.Subscription):
		h.drop(c.ID)
	case before == nil:
		h.drop(c.ID) // what the signals told of an older version
	case k.failing.After(k.recovered):
		// It was told for another version, which the console did not record: to be told again.
		k.failing = time.Time{}
	case k.since.IsZero():
		h.drop(c.ID)
	}
}

// begunAnew says whether a version without failing_since, of the same endpoints, is there because somebody verified or activated
// the subscription: no success has taken that out of the one before, or what waited for the verification is in force.
func (k *streak) begunAnew(before, s *subscription.Subscription) bool {
	return before.FailingSince.After(k.recovered) || before.PendingAuth != nil && s.PendingAuth == nil ||
		before.PendingFallbackURL != "" && before.PendingFallbackURL == s.FallbackURL
}

// forget drops what is known here alone: with a partition lost, somebody else sees what succeeds in it.
func (h *health) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, k := range h.all {
		if k.since, k.times = (time.Time{}), 0; k.failing.IsZero() && k.recovered.IsZero() {
			h.drop(id)
		}
	}
}

func (h *health) has(id string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.all[id] != nil
}

// streakOf returns a subscription's streak; the lock is held.
func (h *health) streakOf(id string) *streak {
	k := h.all[id]
	if k == nil {
		k = &streak{}
		h.all[id] = k
		h.failed.Add(1)
	}
	return k
}

// drop forgets a subscription; the lock is held.
func (h *health) drop(id string) {
	delete(h.all, id)
	h.failed.Add(-1)
}

// examine takes what came of an attempt at the endpoint, and tells what follows from that. What comes of the fallback says
// nothing of the endpoint, and who is gone has said so himself.
func (w *worker) examine(f *follow, j *job, t *target, v verdict, now time.Time) {
	s, d, c := w.s, &w.delivery, t.compiled
	if j.fallback || v.disable {
		return
	}
	if v.outcome == outcomeDelivered {
		if since, tell := s.health.succeeds(c, now); tell {
			s.signal(f, d, c.Version, &event.Signal{Kind: signalRecover, At: now, Reason: outcomeDelivered, HTTPStatus: w.attempt.HTTPStatus,
				Detail: "a delivery succeeded; before that there were only failures since " + since.UTC().Format(time.RFC3339)})
		}
		return
	}
	if newest, ok := s.book.Get(c.ID); ok && newest != c {
		return // it was changed while the request was under way
	}
	since, found := s.health.fails(c, now)
	if found == nothing {
		return
	}
	signal := &event.Signal{Reason: subscription.ReasonFailing, HTTPStatus: w.attempt.HTTPStatus,
		Detail: fmt.Sprintf("nothing but failures since %s, the last one: %s", since.UTC().Format(time.RFC3339), w.attempt.ErrorClass)}
	if found == tellDisable {
		signal.Kind, signal.At = signalDisable, now
		s.disable(f, d, c.Version, signal)
		return
	}
	signal.Kind, signal.At = signalFailing, since
	s.signal(f, d, c.Version, signal)
}
