package kafka

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// MaxMetadata is the most bytes of commit metadata that we write. Brokers refuse more than offset.metadata.max.bytes,
// 4,096 by default; the embedded broker doesn't check, so we do.
const MaxMetadata = 4000

// The metadata is "cs1.", and in base64 (URL alphabet, no padding): one byte for the kind, the payload, and the CRC-32C,
// big-endian, of all that with the committed offset before it. The offset is in the checksum because a set only means
// something beyond the offset that it was committed with.
//
//	kind 0: a bitmap from the committed offset on, lowest bit first; set is done
//	kind 1: unsigned varints, the lengths of alternating runs, not done first; each but the first at least 1
//
// Whichever is shorter is written. A reader that finds anything else takes the set for empty.
const (
	metadataPrefix = "cs1."
	kindBitmap     = 0
	kindRuns       = 1

	maxRaw     = (MaxMetadata - len(metadataPrefix)) * 3 / 4
	maxPayload = maxRaw - 1 - crc32.Size

	// maxBitmapSpan is the span that a bitmap can always describe.
	maxBitmapSpan = maxPayload * 8
	// maxOpenInRuns is how many open offsets run lengths can always describe, however the done ones lie between them. With
	// n open offsets there are at most n open runs, of at most n bytes together, and n+1 runs of done ones, of 2 bytes
	// each but for those of 16,384 offsets and more, of which MaxWindow has room for 8. So it takes at most
	// n + 2(n+1) + 8 bytes, and one for an empty first run.
	maxOpenInRuns = (maxPayload - 11) / 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var metadataEncoding = base64.RawURLEncoding

// doneSet is what metadata tells: runs of alternately open and done offsets from the committed one on.
type doneSet struct {
	runs []int64
	span int64 // their sum
}

// encodeSet writes the runs (open first, ending with a done one) in at most MaxMetadata bytes. Runs that would not fit
// are left out from the end, which repeats their work after a crash; a Window never lets it come to that.
func encodeSet(committed int64, runs []int64) string {
	if len(runs) < 2 {
		return ""
	}
	var span int64
	asRuns := make([]byte, 1, 64)
	asRuns[0] = kindRuns
	fitting := 0 // the length after the last done run that fits
	for i, n := range runs {
		span += n
		if len(asRuns) <= 1+maxPayload {
			asRuns = binary.AppendUvarint(asRuns, uint64(n))
			if i%2 == 1 && len(asRuns) <= 1+maxPayload {
				fitting = len(asRuns)
			}
		}
	}
	raw := asRuns[:fitting]
	complete := len(asRuns) == fitting
	if size := (span + 7) / 8; size <= int64(maxPayload) && (!complete || int(size) < fitting-1) {
		raw = make([]byte, 1+size, 1+size+crc32.Size)
		raw[0] = kindBitmap
		var at int64
		for i, n := range runs {
			if i%2 == 1 {
				for o := at; o < at+n; o++ {
					raw[1+o/8] |= 1 << (o % 8)
				}
			}
			at += n
		}
	}
	if len(raw) == 0 {
		return ""
	}
	raw = binary.BigEndian.AppendUint32(raw, checksum(committed, raw))
	return metadataPrefix + metadataEncoding.EncodeToString(raw)
}

func checksum(committed int64, raw []byte) uint32 {
	var offset [8]byte
	binary.BigEndian.PutUint64(offset[:], uint64(committed))
	return crc32.Update(crc32.Checksum(offset[:], castagnoli), castagnoli, raw)
}

// decodeSet reads metadata. Anything that encodeSet would not have written is refused whole: a set that is wrong by one
// bit would skip a record.
func decodeSet(committed int64, metadata string) (doneSet, bool) {
	text, ok := strings.CutPrefix(metadata, metadataPrefix)
	if !ok || len(metadata) > MaxMetadata {
		return doneSet{}, false
	}
	raw, err := metadataEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 1+1+crc32.Size || strings.ContainsAny(text, "\r\n") {
		return doneSet{}, false
	}
	body, sum := raw[:len(raw)-crc32.Size], binary.BigEndian.Uint32(raw[len(raw)-crc32.Size:])
	if checksum(committed, body) != sum {
		return doneSet{}, false
	}
	var runs []int64
	switch payload := body[1:]; body[0] {
	case kindBitmap:
		runs, ok = bitmapRuns(payload)
	case kindRuns:
		runs, ok = varintRuns(payload)
	default:
		return doneSet{}, false
	}
	if !ok || len(runs)%2 != 0 {
		return doneSet{}, false
	}
	var span int64
	for i, n := range runs {
		if n < 0 || n > MaxWindow || (n == 0 && i > 0) {
			return doneSet{}, false
		}
		span += n
	}
	if span > MaxWindow {
		return doneSet{}, false
	}
	return doneSet{runs: runs, span: span}, true
}

func bitmapRuns(bitmap []byte) ([]int64, bool) {
	if len(bitmap) == 0 || bitmap[len(bitmap)-1] == 0 {
		return nil, false
	}
	var runs []int64
	var run int64
	done := false
	for i := range int64(len(bitmap)) * 8 {
		if set := bitmap[i/8]&(1<<(i%8)) != 0; set != done {
			runs = append(runs, run)
			run, done = 0, set
		}
		run++
	}
	if done {
		runs = append(runs, run)
	}
	return runs, true
}

func varintRuns(payload []byte) ([]int64, bool) {
	var runs []int64
	for len(payload) > 0 {
		n, size := binary.Uvarint(payload)
		if size <= 0 || n > MaxWindow {
			return nil, false
		}
		runs = append(runs, int64(n))
		payload = payload[size:]
	}
	return runs, true
}
