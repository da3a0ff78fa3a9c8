package dispatcher

import (
	"time"

	"github.com/callstream/callstream/subscription"
)

// tokenLasts is how long after a token was taken its request may begin: what takes longer asks for another one.
const tokenLasts = 100 * time.Millisecond

// bucket holds a shard's tokens, of which each request takes one: its share of the subscription's rate_limit. In any time
// T it gives at most burst + rate × T. It is kept as the moment at which it would have been empty, so that filling it
// costs nothing, and in whole nanoseconds rounded to the safe side. The zero bucket limits nothing.
type bucket struct {
	interval time.Duration // in which one token comes; 0: no limit
	depth    time.Duration // in which it fills
	empty    time.Time     // what has come since, up to depth, is there
}

// newBucket is a bucket of one of spread shards, which was empty then. Where the burst is less than a token for each shard
// (which validation refuses) it is one token.
func newBucket(limit *subscription.RateLimit, spread int, empty time.Time) bucket {
	if limit == nil || limit.PerSecond <= 0 {
		return bucket{}
	}
	rate, spread64 := int64(limit.PerSecond), int64(max(spread, 1))
	burst := int64(limit.Burst)
	if burst <= 0 {
		burst = rate
	}
	interval := (int64(time.Second)*spread64 + rate - 1) / rate
	return bucket{interval: time.Duration(interval), depth: time.Duration(max(interval*burst/spread64, interval)), empty: empty}
}

// limits says whether there is a limit.
func (b *bucket) limits() bool { return b.interval > 0 }

// held is what is there, as the time in which it came.
func (b *bucket) held(now time.Time) time.Duration {
	return min(max(now.Sub(b.empty), 0), b.depth)
}

// full says that nothing more would come.
func (b *bucket) full(now time.Time) bool { return now.Sub(b.empty) >= b.depth }

// wait is how long it is until there is a token; 0 where there is one.
func (b *bucket) wait(now time.Time) time.Duration {
	return max(b.interval-now.Sub(b.empty), 0)
}

// take takes a token, which has to be there.
func (b *bucket) take(now time.Time) {
	b.empty = now.Add(b.interval - b.held(now))
}

// giveBack puts back a token that was not used, as far as there is room for it.
func (b *bucket) giveBack(now time.Time) {
	b.empty = now.Add(-min(b.held(now)+b.interval, b.depth))
}

// change takes over another limit, with as many tokens as there are; where there was no limit, it is as it comes.
func (b *bucket) change(to bucket, now time.Time) {
	if b.limits() && to.limits() {
		tokens := float64(b.held(now)) / float64(b.interval)
		to.empty = now.Add(-time.Duration(tokens * float64(to.interval)))
	}
	*b = to
}

// within is how many requests it allows in the time to come.
func (b *bucket) within(d time.Duration, now time.Time) int {
	return int((b.held(now) + d) / b.interval)
}
