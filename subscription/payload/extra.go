package payload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/callstream/callstream/schemas/event"
)

// extra are the subscription's own members, which are merged into what an event says and never replace any of it.
type extra struct {
	members []extraMember // by name
	byName  map[string]int
}

type extraMember struct {
	name  string
	value []byte // JSON
}

// newExtra returns nil where there is nothing to merge.
func newExtra(from map[string]any) (*extra, error) {
	if len(from) == 0 {
		return nil, nil
	}
	x := &extra{byName: make(map[string]int, len(from))}
	for name := range from {
		x.members = append(x.members, extraMember{name: name})
	}
	slices.SortFunc(x.members, func(a, b extraMember) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	for i := range x.members {
		m := &x.members[i]
		x.byName[m.name] = i
		var value bytes.Buffer
		enc := json.NewEncoder(&value)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(from[m.name]); err != nil {
			return nil, fmt.Errorf("write the extra member %q as JSON: %w", m.name, err)
		}
		m.value = bytes.TrimSuffix(value.Bytes(), []byte("\n"))
	}
	return x, nil
}

// merge adds the members to the JSON object that stands in dst from there on, but for those whose names it has. A body
// that is no object, which only the profile custom makes, stays as it is.
func (x *extra) merge(dst []byte, from int) []byte {
	if x == nil || len(dst) == from || dst[from] != '{' {
		return dst
	}
	var room [64]bool
	taken, empty := x.taken(room[:0], dst[from:])
	dst = dst[:len(dst)-1] // the brace
	for i := range x.members {
		if taken[i] {
			continue
		}
		if !empty {
			dst = append(dst, ',')
		}
		empty = false
		dst = event.AppendString(dst, x.members[i].name)
		dst = append(dst, ':')
		dst = append(dst, x.members[i].value...)
	}
	return append(dst, '}')
}

// taken says which of the names an object has, and whether it has any at all.
func (x *extra) taken(room []bool, object []byte) (taken []bool, empty bool) {
	taken = slices.Grow(room, len(x.members))[:len(x.members)]
	clear(taken)
	empty = true
	eachName(object, func(name []byte) {
		empty = false
		if i, ok := x.byName[string(name)]; ok {
			taken[i] = true
		}
	})
	return taken, empty
}
