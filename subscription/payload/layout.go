package payload

import (
	"strings"

	"github.com/callstream/callstream/schemas/event"
)

// layout arranges the declared fields of one event topic under a profile's names. It is a list of steps, so that
// rendering is one pass without recursion.
type layout struct {
	topic string
	steps []step
	names names // of the members at the top
}

type step struct {
	kind   stepKind
	key    string // `"name":`, for an object `"name":{`
	field  int    // number of the field in event.Fields
	parent string // of the undeclared members
	own    names  // the object's own names, which undeclared members must not take
}

type stepKind uint8

const (
	stepField stepKind = iota
	stepOpen
	stepClose
	stepUndeclared
)

// maxNesting is how deep the objects of a table nest.
const maxNesting = 4

// newLayout reads a look-up table, words with space between them:
//
//	name           the field with this column
//	name=column    the field, under another name
//	name{ … }      an object
//	+parent        here the undeclared members of parent come along: data, or a group of data
//
// Columns that the topic lacks are passed over, so that one table serves several topics. reserved are names at the top
// that the table doesn't know of.
func newLayout(topic, table string, reserved ...string) *layout {
	columns := map[string]int{}
	for i, f := range event.Fields(topic) {
		columns[f.Column] = i
	}
	l := &layout{topic: topic, names: namesOf(reserved...)}
	open := []names{l.names}
	for _, word := range strings.Fields(table) {
		own := open[len(open)-1]
		name, isObject := strings.CutSuffix(word, "{")
		switch {
		case isObject:
			own[name] = struct{}{}
			open = append(open, names{})
			l.steps = append(l.steps, step{kind: stepOpen, key: `"` + name + `":{`})
		case word == "}":
			open = open[:len(open)-1]
			l.steps = append(l.steps, step{kind: stepClose})
		case word[0] == '+':
			l.steps = append(l.steps, step{kind: stepUndeclared, parent: word[1:], own: own})
		default:
			name, column, renamed := strings.Cut(word, "=")
			if !renamed {
				column = name
			}
			if field, ok := columns[column]; ok {
				own[name] = struct{}{}
				l.steps = append(l.steps, step{kind: stepField, key: `"` + name + `":`, field: field})
			}
		}
	}
	return l
}

// append appends the members, each with a comma behind it. Objects with nothing in them are left out.
func (l *layout) append(dst []byte, e *event.Event) []byte {
	var before, inside [maxNesting]int
	depth := 0
	for i := range l.steps {
		switch s := &l.steps[i]; s.kind {
		case stepField:
			dst = e.AppendField(dst, s.key, s.field)
		case stepOpen:
			before[depth] = len(dst)
			dst = append(dst, s.key...)
			inside[depth] = len(dst)
			depth++
		case stepClose:
			depth--
			if len(dst) == inside[depth] {
				dst = dst[:before[depth]]
				continue
			}
			dst[len(dst)-1] = '}' // in place of the last comma
			dst = append(dst, ',')
		case stepUndeclared:
			dst = appendUndeclared(dst, e, s.parent, s.own)
		}
	}
	return dst
}
