package filter

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestARepeatIsALaterOffsetWithinTenMinutes(t *testing.T) {
	start := time.UnixMilli(1_700_000_000_000)
	key := newEventKey("acme", "dialer", "evt_1")
	r := newRepeats(100)

	_, repeat := r.see(key, 10, start)
	assert.False(t, repeat, "the first")
	_, repeat = r.see(key, 10, start)
	assert.False(t, repeat, "the same record, read again after a crash")
	first, repeat := r.see(key, 11, start.Add(10*time.Minute))
	assert.True(t, repeat, "a later record, ten minutes on")
	assert.EqualValues(t, 10, first)
	_, repeat = r.see(key, 10, start)
	assert.False(t, repeat, "the first again, although its repeat is known")
	_, repeat = r.see(key, 12, start.Add(19*time.Minute))
	assert.True(t, repeat, "nine minutes after the repeat")
	_, repeat = r.see(key, 13, start.Add(30*time.Minute))
	assert.False(t, repeat, "eleven minutes after the last")
}

func TestIdentitiesDoNotRunIntoEachOther(t *testing.T) {
	assert.NotEqual(t, newEventKey("a", "bc", "d"), newEventKey("ab", "c", "d"))
	assert.NotEqual(t, newEventKey("a", "", "d"), newEventKey("a", "d", ""))
	assert.Equal(t, newEventKey("a", "b", "c"), newEventKey("a", "b", "c"))
}

func TestTheMemoryOfRepeatsIsBounded(t *testing.T) {
	r := newRepeats(50)
	start := time.UnixMilli(1_700_000_000_000)
	for i := range 10_000 {
		_, repeat := r.see(newEventKey("t", "s", fmt.Sprint(i)), int64(i), start.Add(time.Duration(i)*time.Millisecond))
		require.False(t, repeat)
		require.LessOrEqual(t, len(r.seen), 50)
		require.LessOrEqual(t, r.size(), 100)
	}
	_, repeat := r.see(newEventKey("t", "s", "9999"), 10_000, start.Add(10*time.Second))
	assert.True(t, repeat, "the newest are kept")
	for i := range 10_000 { // one identity over and over must not grow the queue either
		r.see(newEventKey("t", "s", "x"), int64(20_000+i), start.Add(10*time.Second))
		require.LessOrEqual(t, r.size(), 100)
	}
	assert.LessOrEqual(t, cap(r.queue), 1<<13)
}

// What is a repeat depends on the log alone: whoever reads on from any offset, after a look at the ten minutes before it,
// comes to the same answers as whoever read everything.
func TestRereadingTheLogGivesTheSameAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type record struct {
			key eventKey
			at  time.Time
		}
		at := time.UnixMilli(1_700_000_000_000)
		var log []record
		for range rapid.IntRange(1, 60).Draw(t, "records") {
			at = at.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "gap")) * time.Second)
			log = append(log, record{key: newEventKey("t", "s", fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "id"))), at: at})
		}
		answers := make([]bool, len(log))
		whole := newRepeats(1000)
		for offset, rec := range log {
			_, answers[offset] = whole.see(rec.key, int64(offset), rec.at)
			naive := false
			for earlier := range offset {
				naive = naive || log[earlier].key == rec.key && rec.at.Sub(log[earlier].at) <= repeatWindow
			}
			if naive != answers[offset] {
				t.Fatalf("offset %d: repeat = %v, a scan of the log says %v", offset, answers[offset], naive)
			}
		}
		from := rapid.IntRange(0, len(log)-1).Draw(t, "crash")
		known := rapid.IntRange(from, len(log)-1).Draw(t, "read ahead")
		again := newRepeats(1000)
		for offset := range known {
			if log[from].at.Sub(log[offset].at) <= repeatWindow {
				again.recall(log[offset].key, int64(offset), log[offset].at, int64(from))
			}
		}
		for offset := from; offset < len(log); offset++ {
			if _, repeat := again.see(log[offset].key, int64(offset), log[offset].at); repeat != answers[offset] {
				t.Fatalf("offset %d after a restart at %d: repeat = %v, before %v", offset, from, repeat, answers[offset])
			}
		}
	})
}
