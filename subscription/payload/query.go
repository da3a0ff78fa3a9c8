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
	query, err := queryValue(nil, nil, decode(body))
	if err != nil {
		return "", err
	}
	if x != nil {
		given := names{}
		eachPair(query, func(name, _ []byte) { given[string(name)] = struct{}{} })
		taken, _ := x.taken(nil, body)
		for i, m := range x.members {
			if taken[i] {
				continue
			}
			pairs, err := queryValue(nil, appendPercent(nil, m.name, unreserved), decode(m.value))
			if err != nil {
				return "", err
			}
			eachPair(pairs, func(name, pair []byte) {
				if !given.has(string(name)) {
					query = append(query, pair...)
				}
			})
		}
	}
	if len(query) > maxQuery {
		return "", ErrQueryTooLong
	}
	return strings.TrimPrefix(string(query), "&"), nil
}

func decode(raw []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true))
}

// eachPair calls each with the name of every pair of a query, and the pair with its ampersand.
func eachPair(query []byte, each func(name, pair []byte)) {
	for len(query) > 0 {
		n := bytes.IndexByte(query[1:], '&') + 1
		if n == 0 {
			n = len(query)
		}
		name, _, _ := bytes.Cut(query[1:n], []byte("="))
		each(name, query[:n])
		query = query[n:]
	}
}

// queryValue appends what the decoder reads next as pairs under a name, which is encoded already; each has an ampersand
// before it.
func queryValue(dst, name []byte, d *jsontext.Decoder) ([]byte, error) {
	switch d.PeekKind() {
	case '{':
		return queryObject(dst, name, d)
	case '[':
		raw, err := d.ReadValue()
		if err != nil {
			return dst, fmt.Errorf("read an array of the rendering: %w", err)
		}
		return queryArray(dst, name, raw)
	}
	raw, err := d.ReadValue()
	if err != nil {
		return dst, fmt.Errorf("read a value of the rendering: %w", err)
	}
	return queryPair(dst, name, raw), nil
}

func queryObject(dst, name []byte, d *jsontext.Decoder) ([]byte, error) {
	if _, err := d.ReadToken(); err != nil { // {
		return dst, fmt.Errorf("read an object of the rendering: %w", err)
	}
	empty := true
	for d.PeekKind() != '}' {
		raw, err := d.ReadValue()
		if err != nil {
			return dst, fmt.Errorf("read a name of the rendering: %w", err)
		}
		empty = false
		below := bytes.Clone(name)
		if name != nil {
			below = append(below, '.')
		} else {
			below = []byte{} // so that a name that is empty isn't the root
		}
		below = appendPercent(below, unescaped(raw), unreserved)
		if len(dst)+len(below) > maxQuery {
			return dst, ErrQueryTooLong
		}
		if dst, err = queryValue(dst, below, d); err != nil {
			return dst, err
		}
	}
	if _, err := d.ReadToken(); err != nil { // }
		return dst, fmt.Errorf("read an object of the rendering: %w", err)
	}
	if empty && name != nil {
		dst = queryPair(dst, name, []byte("{}"))
	}
	return dst, nil
}

func queryArray(dst, name []byte, raw jsontext.Value) ([]byte, error) {
	before := len(dst)
	d := decode(raw)
	if _, err := d.ReadToken(); err != nil { // [
		return dst, fmt.Errorf("read an array of the rendering: %w", err)
	}
	for {
		switch d.PeekKind() {
		case ']':
			if len(dst) > before {
				return dst, nil
			}
			return queryPair(dst, name, raw), nil // an empty one
		case '[', '{':
			return queryPair(dst[:before], name, raw), nil
		}
		element, err := d.ReadValue()
		if err != nil {
			return dst, fmt.Errorf("read an array of the rendering: %w", err)
		}
		if dst = queryPair(dst, name, element); len(dst) > maxQuery {
			return dst, ErrQueryTooLong
		}
	}
}

func queryPair(dst, name, raw []byte) []byte {
	dst = append(append(append(dst, '&'), name...), '=')
	if raw[0] == '"' {
		raw = unescaped(raw)
	}
	return appendPercent(dst, raw, unreserved)
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
