package producer

import (
	"bytes"
	"fmt"
)

// part is one event of a request's body, not yet parsed.
type part struct {
	raw []byte
	// offset is where raw begins in the body.
	offset int
	// index is the event's place in the array or among the lines, from 0.
	index int
	// line is the line of an NDJSON body, from 1; 0 for other bodies.
	line int
	// alone says that the body is this event, so that pointers carry no index.
	alone bool
}

// shapeError means that a body can't be taken apart: it is no JSON as a whole.
type shapeError struct {
	detail string
	offset int // -1 when there is no place to name
}

func (e *shapeError) Error() string { return e.detail }

// isSpace is JSON's notion of white space (RFC 8259, section 2).
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

func skipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

// split appends the events of a body of application/json to parts: the elements of an array, or the body itself. It finds
// boundaries only; that each part is valid JSON is for the parser to say, and valid elements between commas in brackets
// make a valid array. It stops after limit parts: one more tells the caller that there are too many.
func split(parts []part, body []byte, limit int) ([]part, error) {
	i := skipSpace(body, 0)
	if i == len(body) {
		return parts, &shapeError{detail: "the body is empty; it must hold an event or an array of events", offset: -1}
	}
	if body[i] != '[' {
		return append(parts, part{raw: body, alone: true}), nil
	}
	open := i
	i = skipSpace(body, i+1)
	if i < len(body) && body[i] == ']' {
		return parts, afterArray(body, i+1)
	}
	for index := 0; ; index++ {
		i = skipSpace(body, i)
		start := i
		var err error
		if i, err = element(body, i, open); err != nil {
			return parts, err
		}
		end := i
		for end > start && isSpace(body[end-1]) {
			end--
		}
		if end == start {
			return parts, &shapeError{detail: "a value is missing", offset: i}
		}
		parts = append(parts, part{raw: body[start:end], offset: start, index: index})
		if len(parts) > limit {
			return parts, nil
		}
		if body[i] == ']' {
			return parts, afterArray(body, i+1)
		}
		i++
	}
}

// element returns the place of the comma or bracket that ends the element of an array which begins at i.
func element(body []byte, i, open int) (int, error) {
	depth := 0
	for ; i < len(body); i++ {
		switch body[i] {
		case '"':
			end := stringEnd(body, i+1)
			if end < 0 {
				return 0, &shapeError{detail: "a string has no end", offset: i}
			}
			i = end
		case '[', '{':
			depth++
		case ']':
			if depth == 0 {
				return i, nil
			}
			depth--
		case '}':
			if depth == 0 {
				return 0, &shapeError{detail: "a } closes nothing", offset: i}
			}
			depth--
		case ',':
			if depth == 0 {
				return i, nil
			}
		}
	}
	return 0, &shapeError{detail: "the array has no end", offset: open}
}

// stringEnd returns the place of the quote that ends a string whose text begins at i, or -1.
func stringEnd(body []byte, i int) int {
	for {
		n := bytes.IndexByte(body[i:], '"')
		if n < 0 {
			return -1
		}
		slashes := 0
		for j := i + n - 1; j >= i && body[j] == '\\'; j-- {
			slashes++
		}
		i += n
		if slashes%2 == 0 {
			return i
		}
		i++
	}
}

func afterArray(body []byte, i int) error {
	if i = skipSpace(body, i); i < len(body) {
		return &shapeError{detail: "there is more after the array", offset: i}
	}
	return nil
}

// splitLines appends the events of an NDJSON body: one a line, blank lines left out. It stops after limit like split.
func splitLines(parts []part, body []byte, limit int) ([]part, error) {
	line, index := 0, 0
	for start := 0; start < len(body); {
		line++
		end := len(body)
		next := end
		if n := bytes.IndexByte(body[start:], '\n'); n >= 0 {
			end, next = start+n, start+n+1
		}
		from := skipSpace(body[:end], start)
		for end > from && isSpace(body[end-1]) {
			end--
		}
		if end > from {
			parts = append(parts, part{raw: body[from:end], offset: from, index: index, line: line})
			index++
			if len(parts) > limit {
				return parts, nil
			}
		}
		start = next
	}
	if len(parts) == 0 {
		return parts, &shapeError{detail: "the body is empty; it must hold one event a line", offset: -1}
	}
	return parts, nil
}

// position words an offset for people: line and column, both from 1, the column in bytes.
func position(body []byte, offset int) string {
	offset = min(max(offset, 0), len(body))
	line := 1 + bytes.Count(body[:offset], []byte{'\n'})
	column := offset - bytes.LastIndexByte(body[:offset], '\n')
	return fmt.Sprintf("line %d, column %d", line, column)
}
