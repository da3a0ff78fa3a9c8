package run

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// gcPercent lets the heap grow to five times what lives in it before it is collected. The pipeline's live heap is small,
	// so this costs tens of megabytes and gives a quarter more throughput.
	gcPercent = 400
	// gcHeadroom is how much it may grow by at most, in bytes: from there on a collection that comes later saves little.
	gcHeadroom = 384 << 20
	// gcLeast is the percentage below which collections would cost more than the memory is worth. What bounds the heap then is
	// the memory limit.
	gcLeast = 100
)

// percentFor is the garbage collector's percentage for a heap in which so many bytes live.
func percentFor(live uint64) int {
	return int(min(max(gcHeadroom*100/max(live, 1), gcLeast), gcPercent))
}

// collect has the garbage collector keep to gcPercent and gcHeadroom from now on: its percentage is set anew after each
// collection.
func collect() {
	percent := gcPercent
	debug.SetGCPercent(percent)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	// A finalizer runs once after the collection that found its object dead, which is the next one, always.
	type sentinel [64]byte
	var collected func(*sentinel)
	collected = func(*sentinel) {
		metrics.Read(live)
		// Setting it stops the world for a moment: not for a few percent.
		if to := percentFor(live[0].Value.Uint64()); to-percent > percent/10 || percent-to > percent/10 {
			percent = to
			debug.SetGCPercent(percent)
		}
		runtime.SetFinalizer(new(sentinel), collected)
	}
	runtime.SetFinalizer(new(sentinel), collected)
}
