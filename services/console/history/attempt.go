package history

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
)

// Attempt points to the record of one attempt on deliveries.attempts.
type Attempt struct {
	Partition int32
	Offset    int64
	// Number is the attempt's, from 1; 0 is the record of a decision not to send.
	Number    int
	StartedAt time.Time // whole microseconds
	ReplayID  string    // of the replay that it belongs to
}

// Place is where the record is.
func (a Attempt) Place() kafka.Place {
	return kafka.Place{Topic: topic.Attempts, Partition: a.Partition, Offset: a.Offset}
}

// compare orders attempts as they were made: by their numbers before their clocks, which were those of several machines.
func (a Attempt) compare(b Attempt) int {
	return cmp.Or(cmp.Compare(a.ReplayID, b.ReplayID), cmp.Compare(a.turn(), b.turn()), a.StartedAt.Compare(b.StartedAt),
		cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}

// turn is the attempt's number; a decision not to send comes after all attempts.
func (a Attempt) turn() int {
	if a.Number == 0 {
		return math.MaxInt
	}
	return a.Number
}

// maxAttempts bounds the pointers of one row: the newest are kept. Schedules allow for a tenth of it.
const maxAttempts = 1000

// union merges two ascending lists.
func union(a, b []Attempt) []Attempt {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0:
		return b
	}
	all := slices.Concat(a, b)
	slices.SortFunc(all, Attempt.compare)
	all = slices.Compact(all)
	return all[max(0, len(all)-maxAttempts):]
}

// sent is the newest attempt that was a request; false where there is none.
func sent(attempts []Attempt) (Attempt, bool) {
	for _, a := range slices.Backward(attempts) {
		if a.Number > 0 {
			return a, true
		}
	}
	return Attempt{}, false
}

// appendAttempts writes pointers as numbers of variable length, a dozen bytes each, and the replay where there is one.
func appendAttempts(dst []byte, attempts []Attempt) []byte {
	for _, a := range attempts {
		dst = binary.AppendUvarint(dst, uint64(a.Partition))
		dst = binary.AppendUvarint(dst, uint64(a.Offset))
		dst = binary.AppendUvarint(dst, uint64(a.Number))
		dst = binary.AppendVarint(dst, storage.Micros(a.StartedAt))
		dst = binary.AppendUvarint(dst, uint64(len(a.ReplayID)))
		dst = append(dst, a.ReplayID...)
	}
	return dst
}

var errAttempts = errors.New("the pointers to attempts don't decode")

func parseAttempts(raw []byte) ([]Attempt, error) {
	var attempts []Attempt
	for len(raw) > 0 {
		var n [3]uint64
		for i := range n {
			v, size := binary.Uvarint(raw)
			if size <= 0 {
				return nil, errAttempts
			}
			n[i], raw = v, raw[size:]
		}
		at, size := binary.Varint(raw)
		if size <= 0 {
			return nil, errAttempts
		}
		raw = raw[size:]
		length, size := binary.Uvarint(raw)
		if size <= 0 || length > uint64(len(raw)-size) {
			return nil, errAttempts
		}
		replay := string(raw[size : size+int(length)])
		raw = raw[size+int(length):]
		attempts = append(attempts, Attempt{Partition: int32(n[0]), Offset: int64(n[1]), Number: int(n[2]), StartedAt: storage.FromMicros(at), ReplayID: replay})
	}
	return attempts, nil
}
