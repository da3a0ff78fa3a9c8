package kafka

import "math/bits"

// MaxWindow is the most offsets that a window spans.
const MaxWindow = 1 << 17

// CrowdedWindow is the most offsets that a window spans while 1,000 or more of them are not done.
const CrowdedWindow = maxBitmapSpan

// Window tracks, for one partition, which of the offsets that were handed out are done. Everything below its watermark
// is done: that is the offset to commit. What is done beyond it travels in the commit's metadata.
//
// It spans the offsets from the watermark to the newest one taken, and never spans more than its metadata can describe
// (Encode): at most 131,072 offsets while fewer than 1,000 of them are not done, else at most 23,936. Offsets between two
// taken ones that were never handed out are gaps (transaction markers, compaction, aborted records) and count as done.
//
// It is pure data: no clock, no lock. Its owner serializes the calls.
type Window struct {
	limit int64

	// base ≤ head ≤ end. Below base everything is done. [base, head) has been handed out in this assignment (or is a
	// gap). [head, end) was handed out in an earlier one, whose completions the metadata brought along.
	base, head, end int64
	// restored is where what the metadata told ends.
	restored int64
	// open counts the offsets in [base, end) that are not done.
	open    int64
	started bool
	// ring holds a bit for each offset in [base, end): set is done. All other bits are zero. Its size is a power of two,
	// so that an offset's place is its low bits.
	ring []uint64
}

// Taken is what Take decided.
type Taken int

const (
	// TakenNow means that the offset is to be worked on, and Done told when it is.
	TakenNow Taken = iota
	// TakenDone means that it was done before, by an earlier owner of the partition.
	TakenDone
	// TakenStale means that it was handed out already.
	TakenStale
	// TakenFull means that the window has no room for it until earlier ones are done.
	TakenFull
)

// NewWindow makes a window that spans at most limit offsets (MaxWindow when limit is not between 1 and it). It begins at
// the first offset taken.
func NewWindow(limit int) *Window {
	if limit <= 0 || limit > MaxWindow {
		limit = MaxWindow
	}
	return &Window{limit: int64(limit), ring: make([]uint64, 16)}
}

// Restore begins the window at a committed offset, with what the commit's metadata says is done beyond it. It reports
// false when the metadata is not empty and not ours or damaged: nothing beyond the offset is taken for done then, which
// repeats work and loses none.
func (w *Window) Restore(committed int64, metadata string) bool {
	w.Reset(committed)
	set, ok := decodeSet(committed, metadata)
	if !ok {
		return metadata == ""
	}
	w.grow(set.span)
	w.end, w.restored, w.open = committed+set.span, committed+set.span, set.span
	at := committed
	for i, run := range set.runs {
		if i%2 == 1 {
			for o := at; o < at+run; o++ {
				w.set(o)
			}
			w.open -= run
		}
		at += run
	}
	return true
}

// Reset forgets everything and begins at the offset.
func (w *Window) Reset(offset int64) {
	clear(w.ring)
	w.base, w.head, w.end, w.restored, w.open, w.started = offset, offset, offset, offset, 0, true
}

// Started tells whether the window has begun.
func (w *Window) Started() bool { return w.started }

// Take asks to hand out an offset. Offsets come in growing order; one that was taken before is stale.
func (w *Window) Take(offset int64) Taken {
	if !w.started {
		w.Reset(offset)
	}
	if offset < w.head {
		return TakenStale
	}
	// The broker went from head to offset, so what lies between does not exist, whatever an earlier owner thought.
	for o := w.head; o < min(offset, w.end); o++ {
		if !w.isSet(o) {
			w.set(o)
			w.open--
		}
	}
	w.head = min(offset, w.end)
	w.advance()

	if offset < w.end {
		done := w.isSet(offset)
		w.head = offset + 1
		w.advance()
		if done {
			return TakenDone
		}
		return TakenNow
	}
	if w.base == w.end { // nothing is open: a gap of any length can be jumped
		w.base, w.head, w.end = offset, offset, offset
	}
	if !w.fits(offset) {
		return TakenFull
	}
	w.grow(offset + 1 - w.base)
	for o := w.end; o < offset; o++ {
		w.set(o)
	}
	w.head, w.end = offset+1, offset+1
	w.open++
	w.advance()
	return TakenNow
}

// fits tells whether the offset can be taken so that every state that can follow still fits the metadata: completions
// shrink the span and the number of open offsets, and either bound is enough.
func (w *Window) fits(offset int64) bool { return offset+1-w.base <= w.Limit() }

// Limit is how many offsets the window may span as long as so many of them are open.
func (w *Window) Limit() int64 {
	if w.open < int64(maxOpenInRuns) {
		return w.limit
	}
	return min(w.limit, int64(maxBitmapSpan))
}

// Done marks an offset that was taken as done. It reports whether that was news.
func (w *Window) Done(offset int64) bool {
	if !w.started || offset < w.base || offset >= w.head || w.isSet(offset) {
		return false
	}
	w.set(offset)
	w.open--
	w.advance()
	return true
}

// Rewind takes the newest offset back as not handed out, because it comes again later.
func (w *Window) Rewind(offset int64) {
	if !w.started || offset != w.head-1 || offset < w.base || w.isSet(offset) {
		return
	}
	w.head = offset
	if w.end == offset+1 && w.restored <= offset {
		w.end = offset
		w.open--
	}
}

// Watermark is the offset to commit: everything below it is done.
func (w *Window) Watermark() int64 { return w.base }

// Next is the lowest offset that has not been handed out.
func (w *Window) Next() int64 { return w.head }

// Span is how many offsets the window holds, Open how many of them are not done.
func (w *Window) Span() int64 { return w.end - w.base }

// Open is how many offsets are not done.
func (w *Window) Open() int64 { return w.open }

// Metadata is the completed set beyond the watermark, to go with a commit of the watermark. It is empty when there is
// none, and at most MaxMetadata bytes of printable ASCII.
func (w *Window) Metadata() string {
	if w.open == w.end-w.base { // nothing in it is done
		return ""
	}
	return encodeSet(w.base, w.runs())
}

// runs are the lengths of the alternating runs of open and done offsets from the watermark on, open first, up to the
// last one done. The first may be 0.
func (w *Window) runs() []int64 {
	var runs []int64
	at, done := w.base, false
	for at < w.end {
		next := w.nextBit(at, !done)
		if next == w.end && !done {
			break // nothing done follows
		}
		runs = append(runs, next-at)
		at, done = next, !done
	}
	return runs
}

// nextBit is the first offset from at on whose state is the given one, or end.
func (w *Window) nextBit(at int64, done bool) int64 {
	mask := int64(len(w.ring)*64 - 1)
	for at < w.end {
		i := at & mask
		word := w.ring[i/64]
		if !done {
			word = ^word
		}
		word >>= uint(i % 64)
		if word != 0 {
			return min(at+int64(bits.TrailingZeros64(word)), w.end)
		}
		at += 64 - i%64
	}
	return w.end
}

// advance moves the watermark over what is done, and wipes the bits it leaves behind.
func (w *Window) advance() {
	if w.base == w.head || !w.isSet(w.base) {
		return
	}
	next := min(w.nextBit(w.base, false), w.head)
	mask := int64(len(w.ring)*64 - 1)
	for o := w.base; o < next; {
		i := o & mask
		if i%64 == 0 && next-o >= 64 {
			w.ring[i/64] = 0
			o += 64
			continue
		}
		w.ring[i/64] &^= 1 << uint(i%64)
		o++
	}
	w.base = next
}

func (w *Window) isSet(o int64) bool {
	i := o & int64(len(w.ring)*64-1)
	return w.ring[i/64]&(1<<uint(i%64)) != 0
}

func (w *Window) set(o int64) {
	i := o & int64(len(w.ring)*64-1)
	w.ring[i/64] |= 1 << uint(i%64)
}

// grow makes room for a span. Bits move, because an offset's place depends on the size.
func (w *Window) grow(span int64) {
	size := int64(len(w.ring) * 64)
	if span <= size {
		return
	}
	old, oldMask := w.ring, size-1
	for size < span {
		size *= 2
	}
	w.ring = make([]uint64, size/64)
	for o := w.base; o < w.end; o++ {
		if i := o & oldMask; old[i/64]&(1<<uint(i%64)) != 0 {
			w.set(o)
		}
	}
}
