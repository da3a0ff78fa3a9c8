package callstream

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// latencies counts durations in buckets that are at most 1/16 wide of their value, from a microsecond to hours. Its size
// is fixed however many it counts, and it may be used by many goroutines.
type latencies struct {
	buckets [64 * 16]atomic.Int64
	most    atomic.Int64
}

func (l *latencies) add(d time.Duration) {
	us := max(1, d.Microseconds())
	l.buckets[bucket(us)].Add(1)
	for {
		most := l.most.Load()
		if us <= most || l.most.CompareAndSwap(most, us) {
			return
		}
	}
}

// bucket numbers the values below 16 by themselves, and 16 buckets for each power of two above.
func bucket(us int64) int {
	if us < 16 {
		return int(us)
	}
	shift := bits.Len64(uint64(us)) - 5
	return (shift+1)*16 + int(us>>shift) - 16
}

// upper is the greatest value of a bucket.
func upper(bucket int) int64 {
	if bucket < 16 {
		return int64(bucket)
	}
	shift := bucket/16 - 1
	return (int64(bucket%16)+17)<<shift - 1
}

// quantile returns the duration that a share of q was not above; 0 when nothing was counted.
func (l *latencies) quantile(q float64) time.Duration {
	total := int64(0)
	for i := range l.buckets {
		total += l.buckets[i].Load()
	}
	if total == 0 {
		return 0
	}
	rank := max(1, int64(q*float64(total)+0.999999))
	seen := int64(0)
	for i := range l.buckets {
		if seen += l.buckets[i].Load(); seen >= rank {
			return time.Duration(min(upper(i), l.most.Load())) * time.Microsecond
		}
	}
	return l.max()
}

func (l *latencies) max() time.Duration { return time.Duration(l.most.Load()) * time.Microsecond }
