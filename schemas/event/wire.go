package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// Avro's binary encoding, the few types that callstream's records use. Errors of the reader wrap ErrPoison.

// ErrPoison marks bytes that no retry will decode: not Avro, not of the schema they claim, of a schema that the registry
// does not know, or holding what JSON cannot. Such a record belongs in the dead-letter topic.
var ErrPoison = errors.New("record cannot be decoded")

func poison(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrPoison, fmt.Sprintf(format, args...))
}

func appendLong(b []byte, n int64) []byte {
	return binary.AppendUvarint(b, uint64(n)<<1^uint64(n>>63))
}

// appendInt writes an Avro int, which no reader takes when it needs more than 32 bits.
func appendInt(b []byte, n int64) []byte {
	return appendLong(b, min(max(n, math.MinInt32), math.MaxInt32))
}

// appendString replaces what isn't UTF-8, because a reader in another language may refuse the whole record for it.
func appendString(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	b = appendLong(b, int64(len(s)))
	return append(b, s...)
}

func appendBytes(b []byte, s []byte) []byte {
	b = appendLong(b, int64(len(s)))
	return append(b, s...)
}

func appendDouble(b []byte, f float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendMicros(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	return appendLong(b, t.UnixMicro())
}

func appendStrings(b []byte, list []string) []byte {
	if len(list) > 0 {
		b = appendLong(b, int64(len(list)))
		for _, s := range list {
			b = appendString(b, s)
		}
	}
	return append(b, 0)
}

// appendStringMap writes the keys in order, so that equal maps are equal bytes.
func appendStringMap(b []byte, m map[string]string) []byte {
	if len(m) > 0 {
		b = appendLong(b, int64(len(m)))
		for _, k := range sortedKeys(m) {
			b = appendString(b, k)
			b = appendString(b, m[k])
		}
	}
	return append(b, 0)
}

func appendBytesMap(b []byte, m map[string][]byte) []byte {
	if len(m) > 0 {
		b = appendLong(b, int64(len(m)))
		for _, k := range sortedKeys(m) {
			b = appendString(b, k)
			b = appendBytes(b, m[k])
		}
	}
	return append(b, 0)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func appendOptionalLong(b []byte, n *int64) []byte {
	if n == nil {
		return append(b, 0)
	}
	return appendLong(append(b, 2), *n)
}

// reader reads one Avro body. The first error sticks; everything read after it is zero.
type reader struct {
	b    []byte
	text string // a copy of b that the strings share; empty where each is copied by itself
	i    int
	err  error
}

// copyWhole is the size up to which one copy of a body is cheaper than one for each of its strings.
const copyWhole = 4096

func newReader(b []byte) reader {
	r := reader{b: b}
	if len(b) <= copyWhole {
		r.text = string(b)
	}
	return r
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = poison("byte %d: %s", r.i, what)
	}
	r.i = len(r.b)
}

func (r *reader) done() error {
	if r.err == nil && r.i != len(r.b) {
		r.fail("bytes left over")
	}
	return r.err
}

func (r *reader) long() int64 {
	if r.i < len(r.b) && r.b[r.i] < 0x80 { // most of them are one byte
		u := r.b[r.i]
		r.i++
		return int64(u>>1) ^ -int64(u&1)
	}
	u, n := binary.Uvarint(r.b[r.i:])
	if n <= 0 {
		r.fail("not a number")
		return 0
	}
	r.i += n
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) int() int64 {
	n := r.long()
	if n != int64(int32(n)) {
		r.fail("number beyond 32 bits")
		return 0
	}
	return n
}

// span returns the length-prefixed bytes that come next, as offsets.
func (r *reader) span() (lo, hi int) {
	n := r.long()
	if n < 0 || n > int64(len(r.b)-r.i) {
		r.fail("length beyond the record")
		return r.i, r.i
	}
	lo, hi = r.i, r.i+int(n)
	r.i = hi
	return lo, hi
}

func (r *reader) string() string {
	lo, hi := r.span()
	if lo == hi {
		return ""
	}
	var s string
	if r.text != "" {
		s = r.text[lo:hi]
	} else {
		s = string(r.b[lo:hi])
	}
	if !utf8.ValidString(s) {
		r.fail("string isn't UTF-8")
		return ""
	}
	return s
}

func (r *reader) bytes() []byte {
	lo, hi := r.span()
	if lo == hi {
		return nil
	}
	return r.b[lo:hi:hi]
}

func (r *reader) double() float64 {
	if len(r.b)-r.i < 8 {
		r.fail("double cut short")
		return 0
	}
	f := math.Float64frombits(binary.LittleEndian.Uint64(r.b[r.i:]))
	r.i += 8
	return f
}

func (r *reader) bool() bool {
	if r.i >= len(r.b) || r.b[r.i] > 1 {
		r.fail("not a boolean")
		return false
	}
	r.i++
	return r.b[r.i-1] == 1
}

func (r *reader) micros() time.Time {
	n := r.long()
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// some reads the branch of a union of null and a type, and reports whether a value follows.
func (r *reader) some() bool {
	if r.i < len(r.b) {
		switch r.b[r.i] {
		case 0:
			r.i++
			return false
		case 2:
			r.i++
			return true
		}
	}
	switch r.long() {
	case 0:
		return false
	case 1:
		return r.err == nil
	}
	r.fail("no such branch of a union")
	return false
}

func (r *reader) optionalLong() *int64 {
	if !r.some() {
		return nil
	}
	n := r.long()
	return &n
}

// block reads the head of an array's or map's block and returns its number of items; 0 ends the array. Every item takes
// at least a byte, which bounds what a lying count can cost.
func (r *reader) block() int {
	n := r.long()
	if n < 0 { // a block that says its size in bytes
		n = -n
		r.long()
	}
	if n < 0 || n > int64(len(r.b)-r.i) {
		r.fail("more items than bytes")
		return 0
	}
	return int(n)
}

func (r *reader) strings() []string {
	var list []string
	for n := r.block(); n > 0; n = r.block() {
		for range n {
			list = append(list, r.string())
		}
	}
	return list
}

func (r *reader) stringMap() map[string]string {
	var m map[string]string
	for n := r.block(); n > 0; n = r.block() {
		if m == nil {
			m = make(map[string]string, min(n, 64))
		}
		for range n {
			k := r.string()
			m[k] = r.string()
		}
	}
	return m
}

func (r *reader) bytesMap() map[string][]byte {
	var m map[string][]byte
	for n := r.block(); n > 0; n = r.block() {
		if m == nil {
			m = make(map[string][]byte, min(n, 64))
		}
		for range n {
			k := r.string()
			m[k] = r.bytes()
		}
	}
	return m
}
