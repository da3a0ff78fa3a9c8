package producer

import "sync/atomic"

// budget bounds the bytes that all requests together hold: bodies, encoded records and what the client needs for them.
// It never waits: a request that gets nothing is refused, which tells its caller sooner than a queue would.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take adds n bytes to the held bytes of a request, or reports false. A request that is alone always gets what it asks
// for: one that is larger than the limit must pass some time.
func (b *budget) take(held *int64, n int64) bool {
	for {
		used := b.used.Load()
		if used+n > b.limit && used > *held {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			*held += n
			return true
		}
	}
}

// give returns everything that a request holds.
func (b *budget) give(held *int64) {
	b.used.Add(-*held)
	*held = 0
}
