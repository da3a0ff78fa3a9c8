package kafka

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// windowModel is a partition, its group's commits, and one owner after another. done is what was truly acknowledged,
// over all owners: a commit may never claim more.
type windowModel struct {
	log    map[int64]bool // offsets that hold a record; the others are gaps
	end    int64
	done   map[int64]bool
	window *Window
	taken  map[int64]bool // by this owner and not done
	next   int64          // what the broker hands out next

	committed int64 // -1 for none
	metadata  string
	limit     int
}

func (m *windowModel) own() {
	m.window = NewWindow(m.limit)
	m.taken = make(map[int64]bool)
	m.next = 0
	if m.committed >= 0 {
		m.window.Restore(m.committed, m.metadata)
		m.next = m.committed
	}
}

// records are the offsets from from on that hold records.
func (m *windowModel) following(from int64) (int64, bool) {
	for o := from; o < m.end; o++ {
		if m.log[o] {
			return o, true
		}
	}
	return 0, false
}

func (m *windowModel) check(t *rapid.T) {
	w := m.window
	if !w.Started() {
		return
	}
	for o := range m.log {
		if o < w.Watermark() && !m.done[o] {
			t.Fatalf("the watermark %d is beyond offset %d, which is not done", w.Watermark(), o)
		}
	}
	meta := w.Metadata()
	if len(meta) > MaxMetadata || !utf8.ValidString(meta) || strings.ContainsFunc(meta, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Fatalf("the metadata is not %d bytes of printable ASCII: %d bytes %q", MaxMetadata, len(meta), meta)
	}
	// What a successor would take for done, and what it would be missing.
	next := NewWindow(m.limit)
	if !next.Restore(w.Watermark(), meta) {
		t.Fatalf("own metadata is refused: %q", meta)
	}
	for o := range m.log {
		if o < w.Watermark() {
			continue
		}
		claimed := o < next.end && next.isSet(o)
		if claimed && !m.done[o] {
			t.Fatalf("the metadata says that offset %d is done, and it is not", o)
		}
		known := o < w.head && m.done[o] && !m.taken[o]
		if known && o < w.end && w.isSet(o) && !claimed {
			t.Fatalf("offset %d is done, and the metadata does not say so: it would be repeated", o)
		}
	}
	var open int64
	for o := w.base; o < w.end; o++ {
		if !w.isSet(o) {
			open++
		}
	}
	if open != w.open {
		t.Fatalf("%d offsets are open, counted are %d", open, w.open)
	}
}

// No sequence of receiving, acknowledging, committing, losing the partition, crashing and taking it over skips an offset
// that was not acknowledged, and none repeats one whose acknowledgement was committed.
func TestWindowNeverSkips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &windowModel{log: map[int64]bool{}, done: map[int64]bool{}, committed: -1,
			limit: rapid.SampledFrom([]int{1, 3, 64, 500, 0}).Draw(t, "limit")}
		m.own()
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"append": func(t *rapid.T) {
				for range rapid.IntRange(1, 80).Draw(t, "records") {
					m.end += rapid.SampledFrom([]int64{0, 0, 0, 0, 1, 2, 70, 3000}).Draw(t, "gap")
					m.log[m.end] = true
					m.end++
				}
			},
			"receive": func(t *rapid.T) {
				for range rapid.IntRange(1, 60).Draw(t, "n") {
					o, ok := m.following(m.next)
					if !ok {
						return
					}
					before := m.done[o]
					switch m.window.Take(o) {
					case TakenNow:
						if m.taken[o] {
							t.Fatalf("offset %d is handed out twice to one owner", o)
						}
						m.taken[o] = true
					case TakenDone:
						if !before {
							t.Fatalf("offset %d is left out, and was never done", o)
						}
					case TakenFull:
						if len(m.taken) == 0 {
							t.Fatalf("the window is full with nothing in flight")
						}
						return
					case TakenStale:
						t.Fatalf("offset %d is called stale on its first receipt", o)
					}
					m.next = o + 1
				}
			},
			"acknowledge": func(t *rapid.T) {
				for range rapid.IntRange(1, 60).Draw(t, "n") {
					if len(m.taken) == 0 {
						return
					}
					o := rapid.SampledFrom(sortedKeys(m.taken)).Draw(t, "offset")
					if !m.window.Done(o) || m.window.Done(o) {
						t.Fatalf("offset %d: the first completion counts and the second doesn't", o)
					}
					delete(m.taken, o)
					m.done[o] = true
				}
			},
			"defer": func(t *rapid.T) {
				o := m.window.Next() - 1
				if m.window.Started() && m.taken[o] {
					m.window.Rewind(o)
					delete(m.taken, o)
					m.next = o
				}
			},
			"commit": func(*rapid.T) {
				if m.window.Started() {
					m.committed, m.metadata = m.window.Watermark(), m.window.Metadata()
				}
			},
			// A crash, and a rebalance whose last commit failed: what was taken is in doubt, and the next owner has the last commit.
			"crash": func(*rapid.T) { m.own() },
			"crash with damaged metadata": func(t *rapid.T) {
				if m.metadata == "" {
					return
				}
				b := []byte(m.metadata)
				i := rapid.IntRange(0, len(b)-1).Draw(t, "byte")
				b[i] ^= byte(rapid.IntRange(1, 127).Draw(t, "flip"))
				good := m.metadata
				m.metadata = string(b)
				m.own()
				m.metadata = good
			},
			"late result": func(t *rapid.T) {
				// Completions of offsets that this owner was never given.
				o := rapid.Int64Range(-5, m.end+5).Draw(t, "offset")
				inWindow := m.window.Started() && o < m.window.Next() && o >= m.window.Watermark()
				if !m.taken[o] && !inWindow && m.window.Done(o) {
					t.Fatalf("offset %d was not handed out, and its completion counts", o)
				}
			},
		})
	})
}

func sortedKeys(m map[int64]bool) []int64 {
	keys := make([]int64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	for i := 1; i < len(keys); i++ {
		for j := i; j > 0 && keys[j] < keys[j-1]; j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

// The worst patterns that a full window can hold still fit the metadata whole.
func TestWindowMetadataAlwaysFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := NewWindow(0)
		w.Reset(rapid.Int64Range(0, 1<<60).Draw(t, "start"))
		stride := rapid.Int64Range(1, 200).Draw(t, "stride")
		keep := w.Next() // the first stays open, and holds the watermark
		fill := func(complete func(o int64) bool) {
			for o := w.Next(); w.Take(o) == TakenNow; o++ {
				if o != keep && complete(o) {
					w.Done(o)
				}
			}
		}
		fill(func(o int64) bool { return (o-keep)%stride != 0 })
		fill(func(o int64) bool { return rapid.Bool().Draw(t, "done") || o%2 == 0 })
		for o := w.Watermark() + 1; o < w.Next(); o += rapid.Int64Range(1, 500).Draw(t, "step") {
			w.Done(o)
		}
		back := NewWindow(0)
		require.True(t, back.Restore(w.Watermark(), w.Metadata()))
		require.LessOrEqual(t, len(w.Metadata()), MaxMetadata)
		for o := w.Watermark(); o < w.Next(); o++ {
			if w.isSet(o) && (o >= back.end || !back.isSet(o)) {
				t.Fatalf("offset %d of %d..%d is done and is not in the metadata (stride %d, open %d)", o, w.Watermark(), w.Next(), stride, w.Open())
			}
		}
	})
}

func TestWindowBounds(t *testing.T) {
	t.Parallel()
	t.Run("all open", func(t *testing.T) {
		w := NewWindow(0)
		n := int64(0)
		for ; w.Take(n) == TakenNow; n++ {
		}
		require.EqualValues(t, maxBitmapSpan, n)
		require.EqualValues(t, maxBitmapSpan, w.Limit())
	})
	t.Run("one open", func(t *testing.T) {
		w := NewWindow(0)
		n := int64(0)
		for ; w.Take(n) == TakenNow; n++ {
			if n > 0 {
				w.Done(n)
			}
		}
		require.EqualValues(t, MaxWindow, n)
		require.Equal(t, TakenFull, w.Take(n))
		require.True(t, w.Done(0))
		require.EqualValues(t, n, w.Watermark())
		require.Empty(t, w.Metadata())
		require.Equal(t, TakenNow, w.Take(n))
	})
	t.Run("a gap of any length is jumped when nothing is open", func(t *testing.T) {
		w := NewWindow(10)
		require.Equal(t, TakenNow, w.Take(5))
		require.Equal(t, TakenFull, w.Take(1<<40))
		w.Done(5)
		require.Equal(t, TakenNow, w.Take(1<<40))
		require.EqualValues(t, 1<<40, w.Watermark())
	})
}

func TestDecodeSetRefuses(t *testing.T) {
	t.Parallel()
	good := encodeSet(100, []int64{1, 2, 3, 4})
	_, ok := decodeSet(100, good)
	require.True(t, ok)
	for name, meta := range map[string]string{
		"nothing": "", "a member id": "callstream-7c1e1c2e-9a55-4f26-8a4e-9ce0b8a4a0a3", "another version": "cs2." + good[4:],
		"cut": good[:len(good)-1], "longer": good + "A", "a line break": good[:8] + "\n" + good[8:], "not base64": "cs1.!!!!",
	} {
		_, ok := decodeSet(100, meta)
		require.False(t, ok, name)
	}
	_, ok = decodeSet(101, good)
	require.False(t, ok, "committed with another offset")
}

// Whatever is in the metadata, decoding doesn't fail hard, and what it accepts is what was encoded.
func FuzzDecodeSet(f *testing.F) {
	f.Add(int64(0), "")
	f.Add(int64(100), encodeSet(100, []int64{1, 2, 3, 4}))
	f.Add(int64(7), encodeSet(7, []int64{0, 5000, 1, 70000}))
	f.Add(int64(1), "cs1.AAAAAAAAAA")
	f.Fuzz(func(t *testing.T, committed int64, metadata string) {
		if committed < 0 {
			return
		}
		set, ok := decodeSet(committed, metadata)
		w := NewWindow(0)
		if w.Restore(committed, metadata) != (ok || metadata == "") {
			t.Fatal("Restore and decodeSet disagree")
		}
		if !ok {
			if w.Span() != 0 {
				t.Fatal("something was restored from bad metadata")
			}
			return
		}
		again, ok := decodeSet(committed, encodeSet(committed, set.runs))
		require.True(t, ok)
		require.Equal(t, set, again)
	})
}

func BenchmarkWindow(b *testing.B) {
	w := NewWindow(0)
	for i := range int64(b.N) {
		w.Take(i)
		if i >= 256 {
			w.Done((i - 256) ^ 1) // a little out of order
		}
		if i%1000 == 0 {
			_ = w.Metadata()
		}
	}
}
