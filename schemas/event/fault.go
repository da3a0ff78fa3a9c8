package event

import (
	"fmt"
	"strconv"
	"strings"
)

// Fault is one thing that is wrong with an event.
type Fault struct {
	Pointer string // where: a JSON pointer (RFC 6901) from the event's root, such as /data/score
	Detail  string // what, to follow the pointer in a sentence: "must be a number, is a string"
}

// Faults is everything that is wrong with an event which is JSON. Over HTTP it is a 422. Parse returns at most 100.
type Faults []Fault

// Error names the first fault and counts the others.
func (f Faults) Error() string {
	if len(f) == 0 {
		return "event: no faults"
	}
	text := "event: " + f[0].Pointer + " " + f[0].Detail
	if len(f) > 1 {
		text += " (and " + strconv.Itoa(len(f)-1) + " more)"
	}
	return text
}

// maxFaults bounds what a hostile event can make us say about it.
const maxFaults = 100

// maxPointer bounds the pointer of a fault, for the same reason; behind it the nearest member around the fault is named.
const maxPointer = 1024

// SyntaxError says that the input is not JSON in UTF-8. Over HTTP it is a 400.
type SyntaxError struct {
	Offset int64 // in bytes from the start of the input
	Detail string
}

// Error names the offset and what was found there.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not JSON: %s at byte %d", e.Detail, e.Offset)
}

// escapePointer writes a member's name as a segment of a JSON pointer.
func escapePointer(name string) string {
	if strings.IndexByte(name, '~') < 0 && strings.IndexByte(name, '/') < 0 {
		return name
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// unescapePointer is the reverse; ok is false for a tilde that escapes nothing.
func unescapePointer(segment string) (name string, ok bool) {
	if strings.IndexByte(segment, '~') < 0 {
		return segment, true
	}
	b := make([]byte, 0, len(segment))
	for i := 0; i < len(segment); i++ {
		if segment[i] != '~' {
			b = append(b, segment[i])
			continue
		}
		if i++; i == len(segment) || segment[i] != '0' && segment[i] != '1' {
			return "", false
		}
		b = append(b, "~/"[segment[i]-'0'])
	}
	return string(b), true
}
