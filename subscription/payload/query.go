package payload

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// A GET request has no body: the members of the profile's JSON go into the query, in its order. Names of nested members
// are joined by dots; an array of scalars is its name repeated, any other array is JSON text. Strings are their text, and
// numbers, true, false and null what they are in JSON.

// maxQuery is the longest query string, in bytes: no endpoint reads a longer one, most read 8 KiB.
const maxQuery = 64 << 10

// Why a rendering can't be the query of a GET request.
var (
	ErrQueryTooLong = fmt.Errorf("the query string would be longer than %d bytes: use POST, or leave members out", maxQuery)
	ErrNoObject     = errors.New("the rendering is no JSON object, so it has no members for the query of a GET request")
)

// queryOf makes the query string of a body, with the members of extra that the body lacks behind its own. A name that
// extra would repeat stays the body's alone.
func queryOf(body []byte, x *extra) (string, error) {
	if len(body) == 0 || body[0] != '{' {
		return "", ErrNoObject
	}
	var q query
	if err := q.value(decode(body), true); err != nil {
		return "", err
	}
	if x != nil {
		given := names{}
		eachPair(q.pairs, func(name, _ []byte) { given[string(name)] = struct{}{} })
		taken, _ := x.taken(nil, body)
		for i, m := range x.members {
			if taken[i] {
				continue
			}
			more := query{name: appendPercent(nil, m.name, unreserved)}
			if err := more.value(decode(m.value), false); err != nil {
				return "", err
			}
			eachPair(more.pairs, func(name, pair []byte) {
				if !given.has(string(name)) {
					q.pairs = append(q.pairs, pair...)
				}
			})
		}
	}
	if len(q.pairs) > maxQuery+1 {
		return "", ErrQueryTooLong
	}
	return strings.TrimPrefix(string(q.pairs), "&"), nil
}

func decode(raw []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true))
}

// eachPair calls each with the name of every pair of a query, and the pair with its ampersand.
func eachPair(pairs []byte, each func(name, pair []byte)) {
	for len(pairs) > 0 {
		n := bytes.IndexByte(pairs[1:], '&') + 1
		if n == 0 {
			n = len(pairs)
		}
		name, _, _ := bytes.Cut(pairs[1:n], []byte("="))
		each(name, pairs[:n])
		pairs = pairs[n:]
	}
}

// query is a query string as it grows.
type query struct {
	pairs []byte // each with an ampersand before it
	name  []byte // of the value that is read next, encoded; empty at the top
}

// value adds what the decoder reads next. top says that it is the object whose members need no name before theirs.
func (q *query) value(d *jsontext.Decoder, top bool) error {
	if d.PeekKind() == '{' {
		return q.object(d, top)
	}
	raw, err := d.ReadValue()
	switch {
	case err != nil:
		return fmt.Errorf("read a value of the rendering: %w", err)
	case raw[0] == '[':
		return q.array(raw)
	}
	return q.pair(raw)
}

func (q *query) object(d *jsontext.Decoder, top bool) error {
	if _, err := d.ReadToken(); err != nil { // {
		return fmt.Errorf("read an object of the rendering: %w", err)
	}
	empty, outer := true, len(q.name)
	for d.PeekKind() != '}' {
		name, err := d.ReadValue()
		if err != nil {
			return fmt.Errorf("read a name of the rendering: %w", err)
		}
		if !top {
			q.name = append(q.name, '.')
		}
		q.name = appendPercent(q.name, unescaped(name), unreserved)
		if len(q.name) > maxQuery {
			return ErrQueryTooLong
		}
		if err := q.value(d, false); err != nil {
			return err
		}
		empty, q.name = false, q.name[:outer]
	}
	if _, err := d.ReadToken(); err != nil { // }
		return fmt.Errorf("read an object of the rendering: %w", err)
	}
	if empty && !top {
		return q.pair([]byte("{}"))
	}
	return nil
}

// array adds a pair for each element, or one with the array's JSON if they aren't all scalars, or if there are none.
func (q *query) array(raw jsontext.Value) error {
	before := len(q.pairs)
	d := decode(raw)
	if _, err := d.ReadToken(); err != nil { // [
		return fmt.Errorf("read an array of the rendering: %w", err)
	}
	for {
		switch d.PeekKind() {
		case ']':
			if len(q.pairs) > before {
				return nil
			}
			return q.pair(raw)
		case '[', '{':
			q.pairs = q.pairs[:before]
			return q.pair(raw)
		}
		element, err := d.ReadValue()
		if err != nil {
			return fmt.Errorf("read an array of the rendering: %w", err)
		}
		if err := q.pair(element); err != nil {
			return err
		}
	}
}

// pair adds a value under the name.
func (q *query) pair(raw []byte) error {
	q.pairs = append(append(append(q.pairs, '&'), q.name...), '=')
	if raw[0] == '"' {
		raw = unescaped(raw)
	}
	if q.pairs = appendPercent(q.pairs, raw, unreserved); len(q.pairs) > maxQuery+1 {
		return ErrQueryTooLong
	}
	return nil
}

// appendPercent appends text with every byte encoded that isn't kept (RFC 3986, section 2.1).
func appendPercent[T []byte | string](dst []byte, text T, kept func(byte) bool) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(text) {
		if c := text[i]; kept(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// unreserved are the bytes that RFC 3986, section 2.3, lets stand anywhere.
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
