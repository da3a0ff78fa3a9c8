package payload

import (
	"bytes"
	"maps"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/callstream/callstream/schemas/event"
)

// names are those of an object's members.
type names map[string]struct{}

func namesOf(list ...string) names {
	n := make(names, len(list))
	for _, name := range list {
		n[name] = struct{}{}
	}
	return n
}

func (n names) has(name string) bool {
	_, ok := n[name]
	return ok
}

// addMembers adds the names of a JSON object's members.
func (n names) addMembers(object []byte) {
	eachName(object, func(name []byte) { n[string(name)] = struct{}{} })
}

// eachName calls each with the name of every member of a JSON object, which must be valid. What isn't an object has none.
func eachName(object []byte, each func(name []byte)) {
	depth, atName := 0, false
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '{':
			depth++
			atName = depth == 1
		case '[':
			depth++
		case '}', ']':
			depth--
		case ',':
			atName = depth == 1 && object[0] == '{'
		case '"':
			start := i
			i += stringLength(object[i:]) - 1
			if atName {
				each(unescaped(object[start : i+1]))
				atName = false
			}
		}
	}
}

// stringLength is the length of the JSON string that b begins with, quotes included.
func stringLength(b []byte) int {
	for i := 1; i < len(b); i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			break
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
	return len(b)
}

// unescaped is the text of a JSON string.
func unescaped(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, quoted) // an error means half a surrogate pair, which the parser of events refuses
	return text
}

// appendUndeclared appends the members below parent that the catalogue does not declare, each with a comma behind it.
// One whose name the object has already, or keeps for itself, comes under its name with "_" behind it, so that both are
// delivered.
func appendUndeclared(dst []byte, e *event.Event, parent string, own names) []byte {
	var taken names // made for the first that must be renamed
	e.EachUndeclared(parent, func(name, raw string) {
		if own.has(name) {
			if taken == nil {
				taken = maps.Clone(own)
				e.EachUndeclared(parent, func(other, _ string) { taken[other] = struct{}{} })
			}
			for taken.has(name) {
				name += "_"
			}
			taken[name] = struct{}{}
		}
		dst = event.AppendString(dst, name)
		dst = append(dst, ':')
		dst = append(dst, raw...)
		dst = append(dst, ',')
	})
	return dst
}
