package filter

import (
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// repeatWindow is how long an event's identity is remembered, by the records' timestamps: a repeat within ten
// minutes is accepted and delivered once.
const repeatWindow = 10 * time.Minute

// eventKey stands for an event's identity (tenant, source, id). 128 bits: two identities of one partition's memory share a
// key about once in 10^28 events.
type eventKey [16]byte

// newEventKey hashes the parts with their lengths, so that no two identities have the same bytes.
func newEventKey(tenant, source, id string) eventKey {
	var buf [256]byte
	b := buf[:0]
	for _, part := range [...]string{tenant, source, id} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	var key eventKey
	// Two seeds make 128 bits of a fast hash. Whoever could forge a collision can write the tenant's events anyway, and
	// would only keep one of their own from being delivered.
	binary.LittleEndian.PutUint64(key[:8], xxhash.Sum64(b))
	var second xxhash.Digest
	second.ResetWithSeed(0x9e3779b97f4a7c15)
	_, _ = second.Write(b)
	binary.LittleEndian.PutUint64(key[8:], second.Sum64())
	return key
}

// sighting is one identity in a partition's memory.
type sighting struct {
	first int64 // offset of the first record with it in an unbroken chain of repeats
	last  int64 // latest timestamp of such a record, ms since the epoch
}

// repeats remembers which events one partition held in the last ten minutes. A record is a repeat when a record at a lower
// offset has its identity and a timestamp within ten minutes of it: that depends on the log alone, so a reread after a crash comes
// to the same answer. The memory holds at most limit identities and forgets the oldest beyond it: then a repeat is sent
// again under the same webhook-id. It is used by one goroutine at a time.
type repeats struct {
	limit int
	seen  map[eventKey]sighting
	queue []queued // in order of arrival, from head on
	head  int

	// Records below known were seen when the memory was rebuilt and may come again. What they repeat is kept here,
	// because the memory has moved on since.
	known    int64
	answered map[int64]int64
}

// queued says that an identity was seen at a time; it is stale when the identity was seen again later.
type queued struct {
	key eventKey
	at  int64
}

func newRepeats(limit int) *repeats {
	return &repeats{limit: limit, seen: make(map[eventKey]sighting)}
}

// notice is see for an event record. An id that was made from the record's place is no other record's.
func (r *repeats) notice(id identity, record *kgo.Record) (first int64, repeat bool) {
	if id.made {
		return 0, false
	}
	return r.see(newEventKey(id.Tenant, id.Source, id.ID), record.Offset, record.Timestamp)
}

// recall notes a record while the memory is rebuilt, in the order of offsets. Records from committed on are about to be
// handed out again, but for those that completed out of order before: these are why recall goes beyond committed.
func (r *repeats) recall(key eventKey, offset int64, at time.Time, committed int64) {
	first, repeat := r.note(key, offset, at)
	if repeat && offset >= committed {
		if r.answered == nil {
			r.answered = make(map[int64]int64)
		}
		r.answered[offset] = first
	}
	r.known = offset + 1
}

// see notes a record and returns the offset of the earlier record that it repeats.
func (r *repeats) see(key eventKey, offset int64, at time.Time) (first int64, repeat bool) {
	if offset < r.known {
		first, repeat = r.answered[offset]
		return first, repeat
	}
	r.answered = nil
	return r.note(key, offset, at)
}

func (r *repeats) note(key eventKey, offset int64, at time.Time) (first int64, repeat bool) {
	now := at.UnixMilli()
	r.forget(now)
	s, known := r.seen[key]
	if known && max(now-s.last, s.last-now) > repeatWindow.Milliseconds() {
		known = false
	}
	switch {
	case !known:
		s = sighting{first: offset, last: now}
	case offset > s.first:
		first, repeat = s.first, true
	}
	s.last = max(s.last, now)
	r.seen[key] = s
	r.push(queued{key: key, at: s.last})
	return first, repeat
}

// forget drops what is older than the window and what is over the limit.
func (r *repeats) forget(now int64) {
	for r.head < len(r.queue) {
		q := r.queue[r.head]
		if now-q.at <= repeatWindow.Milliseconds() && len(r.seen) < r.limit && r.size() < 2*r.limit {
			return
		}
		r.head++
		if s, ok := r.seen[q.key]; ok && s.last == q.at {
			delete(r.seen, q.key)
		}
	}
}

func (r *repeats) size() int { return len(r.queue) - r.head }

func (r *repeats) push(q queued) {
	if r.head > 1024 && r.head > len(r.queue)/2 {
		n := copy(r.queue, r.queue[r.head:])
		r.queue, r.head = r.queue[:n], 0
	}
	r.queue = append(r.queue, q)
}
