package dispatcher

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// jitter spreads retries that failed together: up to this share of the delay is added. It is added, never taken
	// away, because a record that is due a little before its tier's delay would have to go round the next smaller tier
	// several times.
	jitter = 0.1

	// maxRetryAfter bounds what an endpoint may ask for; a longer Retry-After counts as this.
	maxRetryAfter = 24 * time.Hour

	// nearlyDue is how long a record may hold up those behind it in its tier instead of hopping to another one.
	nearlyDue = 250 * time.Millisecond

	// clockSkew is how much longer than its delay a record may stay at the head of its tier. One that would stay longer was
	// stamped by a clock that was ahead of ours.
	clockSkew = time.Second
)

// tiers are the delays of the retry topics, ascending.
type tiers []time.Duration

func newTiers(delays []time.Duration) tiers {
	t := tiers(slices.Clone(delays))
	slices.Sort(t)
	return slices.Compact(t)
}

// choose returns the tier for a record that is due in remaining: the largest delay that is not above it, else the
// smallest.
func (t tiers) choose(remaining time.Duration) time.Duration {
	best := t[0]
	for _, d := range t {
		if d <= remaining {
			best = d
		}
	}
	return best
}

// aside returns the tier, and how long in all, for a delivery that is parked for about that long. It stays in one tier, and
// in the smallest for up to its delay more, so that what is parked together doesn't come back together, and each time costs
// at most two writes. random is in [0, 1).
func (t tiers) aside(about time.Duration, random float64) (tier, delay time.Duration) {
	tier = t.choose(about)
	if tier > about { // it is the smallest, which lets records go when they are due
		return tier, withJitter(about, random)
	}
	return tier, tier + time.Duration(float64(min(t[0], tier))*random)
}

// leaves is when a record that entered a tier at enqueued leaves it. In every tier but the smallest this is the tier's
// delay later, the same for all, so that the head of the topic is always the next to leave. A record of the smallest
// tier may be due earlier: then it leaves at its time if it is the head, and after the head's at the latest.
func leaves(enqueued, due time.Time, tier time.Duration) time.Time {
	at := enqueued.Add(tier)
	if due.Before(at) {
		return due
	}
	return at
}

// withJitter lengthens a delay by up to a tenth; random is in [0, 1).
func withJitter(delay time.Duration, random float64) time.Duration {
	return delay + time.Duration(float64(delay)*jitter*random)
}

// dueAfter is when a delivery that failed now is tried again: its schedule's delay with jitter, or later where the
// endpoint asked for that.
func dueAfter(now time.Time, delay, retryAfter time.Duration) time.Time {
	return now.Add(max(withJitter(delay, rand.Float64()), min(retryAfter, maxRetryAfter)))
}

// parkDelay is how long a delivery waits that found no room parked times before: 5 s, doubled each time up to 5 min. It
// is no attempt, so nothing runs out; the growth keeps an endpoint's backlog from going round ever faster.
func parkDelay(parked int) time.Duration {
	const first, most = 5 * time.Second, 5 * time.Minute
	if parked >= 6 {
		return most
	}
	return min(first<<max(parked, 0), most)
}

// parseRetryAfter reads a Retry-After of RFC 9110, section 10.2.3: seconds or an HTTP date. 0 means absent, past or
// malformed.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		if seconds < 0 {
			return 0
		}
		return time.Duration(min(seconds, int64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
