package run

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 96 << 20: 400, 128 << 20: 300, 256 << 20: 150, 384 << 20: 100, 8 << 30: 100} {
		require.Equal(t, want, percentFor(live), live)
	}
}

func TestCollectFollowsTheHeap(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	percent := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	collect()
	require.EqualValues(t, gcPercent, percent())
	held := make([]byte, 300<<20)
	for _, tc := range []struct{ most, least uint64 }{{128, 100}, {gcPercent, gcPercent}} {
		require.Eventually(t, func() bool {
			runtime.GC()
			return percent() >= tc.least && percent() <= tc.most
		}, time.Minute, time.Millisecond)
		runtime.KeepAlive(held)
		held = nil
	}
}
