package event

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
)

// DeliveryID is the webhook-id of an event for a subscription, the same on every attempt, redrive and replay: "msg_" and
// 128 bits of SHA-256 over the four parts, each behind its length, in lower-case base32.
func DeliveryID(tenant, source, eventID, subscriptionID string) string {
	var buf [512]byte
	b := buf[:0]
	for _, part := range [...]string{tenant, source, eventID, subscriptionID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return shortHash("msg_", b)
}

// PlaceID is the id of an event whose record has none: "evt_" and a hash of the record's place, the same at every reading.
func PlaceID(topic string, partition int32, offset int64) string {
	b := binary.AppendUvarint(nil, uint64(len(topic)))
	b = append(b, topic...)
	b = binary.BigEndian.AppendUint32(b, uint32(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(offset))
	return shortHash("evt_", b)
}

// shortHash returns the prefix, of four bytes, and 128 bits of a hash of b.
func shortHash(prefix string, b []byte) string {
	sum := sha256.Sum256(b)
	var out [4 + 26]byte
	idEncoding.Encode(out[copy(out[:], prefix):], sum[:16])
	return string(out[:])
}

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
