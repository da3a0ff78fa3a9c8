package producer

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/oklog/ulid/v2"
)

// newID makes the id of an event that came without one: "evt_" and a ULID of the time. Ids must be unique, not secret.
func newID(now time.Time) string {
	var id ulid.ULID
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint64(id[:8], ms<<16|rand.Uint64()>>48)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	return formatID(id)
}

// keyedID makes the id that the event at index of a request with an Idempotency-Key has, each time it is sent.
func keyedID(tenant, key string, index int) string {
	h := sha256.New()
	var n [8]byte
	for _, s := range []string{tenant, key} {
		// Lengths go first, or ("a", "bc") and ("ab", "c") would be the same.
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	binary.BigEndian.PutUint64(n[:], uint64(index))
	h.Write(n[:])
	return formatID(ulid.ULID(h.Sum(nil)[:16]))
}

func formatID(id ulid.ULID) string {
	b := make([]byte, 4+ulid.EncodedSize)
	copy(b, "evt_")
	_ = id.MarshalTextTo(b[4:]) // fails for a wrong length only
	return string(b)
}
