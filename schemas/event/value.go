package event

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Value is one value of an event, as Lookup found it.
type Value struct {
	event *Event
	kind  Kind
	v     value
	raw   string // JSON; stands for kind and v where it isn't empty
}

// AppendJSON appends the value as AppendJSON of the event prints it.
func (v Value) AppendJSON(dst []byte) []byte {
	if v.raw != "" {
		return append(dst, v.raw...)
	}
	return v.event.appendValue(dst, v.kind, v.v)
}

// String is the text of a string or time, and the JSON of anything else.
func (v Value) String() string {
	switch {
	case v.raw == "" && (v.kind == KindString || v.kind == KindTime):
		return v.v.s
	case v.raw != "" && v.raw[0] == '"':
		p := parser{b: []byte(v.raw), s: v.raw}
		return p.text()
	}
	return string(v.AppendJSON(nil))
}

// IsText reports whether the value is a string or a time, and so String its text.
func (v Value) IsText() bool {
	if v.raw != "" {
		return v.raw[0] == '"'
	}
	return v.kind == KindString || v.kind == KindTime
}

// Lookup finds a value by its path from the event's root, member names joined by dots, declared or not:
// "call_id", "data.caller.phone_number", "data.crm.account.id". Where a name itself holds dots the longest name wins that
// leads somewhere. It finds nothing that AppendJSON would not print.
func (e *Event) Lookup(path string) (Value, bool) {
	if rest, ok := strings.CutPrefix(path, "data."); ok {
		if v, ok := e.lookup(nodeData, rest); ok {
			return v, true
		}
	}
	if v, ok := e.lookup(nodeRoot, path); ok {
		return v, true
	}
	text := func(s string) (Value, bool) { return Value{event: e, v: value{s: s}}, s != "" }
	switch path {
	case "id":
		return text(e.ID)
	case "type":
		return text(e.Type)
	case "time":
		if s, ok := e.exactTime(); ok {
			return text(s)
		}
		if !e.Time.IsZero() {
			return text(string(appendTime(nil, e.Time.UnixMicro())))
		}
	case "tenant":
		return text(e.Tenant)
	case "source":
		return text(e.Source)
	case "call_id":
		return text(e.CallID)
	case "agent_id":
		return text(e.AgentID)
	case "traceparent":
		return text(e.Traceparent)
	case "sequence":
		return Value{event: e, kind: KindLong, v: value{n: uint64(e.Sequence)}}, e.hasSequence()
	case "test":
		return Value{event: e, kind: KindBool, v: value{n: boolBits(e.Test)}}, e.hasTest()
	case "data":
		return Value{raw: string(e.AppendData(nil))}, true
	case "attributes":
		if len(e.Attributes) > 0 {
			dst := []byte{'{'}
			for _, a := range e.Attributes {
				dst = append(appendQuoted(append(appendQuoted(dst, a.Name), ':'), a.Value), ',')
			}
			dst[len(dst)-1] = '}'
			return Value{raw: string(dst)}, true
		}
	}
	if name, ok := strings.CutPrefix(path, "attributes."); ok {
		for _, a := range e.Attributes {
			if a.Name == name {
				return Value{event: e, v: value{s: a.Value}}, true
			}
		}
	}
	return Value{}, false
}

// lookup finds a path below the root, data or a group, longest names first.
func (e *Event) lookup(node int, path string) (Value, bool) {
	t := e.fieldTable()
	for end := len(path); end >= 0; end = strings.LastIndexByte(path[:end], '.') {
		name, rest := path[:end], ""
		if end < len(path) {
			rest = path[end+1:]
		}
		whole := end == len(path)
		f := -1
		if t != nil && node != nodeRoot {
			f = t.find(node, name)
		}
		switch {
		case f >= groupBase && !whole:
			if v, ok := e.lookup(nodeGroup+f-groupBase, rest); ok {
				return v, true
			}
		case f >= groupBase:
			g := t.groups[f-groupBase]
			dst := e.appendFields([]byte{'{'}, t, g.lo, g.hi)
			if dst = e.appendExtras(dst, nodeGroup+f-groupBase); len(dst) > 1 {
				dst[len(dst)-1] = '}'
				return Value{raw: string(dst)}, true
			}
		case f >= 0 && e.index[f] != 0:
			v := Value{event: e, kind: t.fields[f].Kind, v: e.values[e.index[f]-1]}
			if whole {
				return v, true
			}
			if v.kind == KindObject {
				if raw, ok := lookupRaw(v.v.s, rest); ok {
					return Value{raw: raw}, true
				}
			}
		}
		for i := range e.extras {
			if x := &e.extras[i]; x.node == node && x.name == name {
				if whole {
					return Value{raw: x.raw}, true
				}
				if raw, ok := lookupRaw(x.raw, rest); ok {
					return Value{raw: raw}, true
				}
			}
		}
	}
	return Value{}, false
}

// lookupRaw finds a path in raw JSON.
func lookupRaw(raw, path string) (found string, ok bool) {
	p := parser{b: []byte(raw), s: raw}
	if p.space(); p.i >= len(raw) || raw[p.i] != '{' {
		return "", false
	}
	best := -1
	p.members(func(name string) {
		start := p.i
		p.skipRaw()
		rest, below := strings.CutPrefix(path, name)
		if !below || p.err != nil || len(name) <= best {
			return
		}
		if rest == "" {
			found, ok, best = raw[start:p.i], true, len(name)
		} else if rest[0] == '.' {
			if inner, yes := lookupRaw(raw[start:p.i], rest[1:]); yes {
				found, ok, best = inner, true, len(name)
			}
		}
	})
	return found, ok
}

// Map returns the event as CEL sees it, in the shape of AppendJSON but for one thing: test is always there. Declared
// fields have the type that they are declared with: whole numbers int64, other numbers float64 even where they are whole,
// so that a filter's arithmetic doesn't depend on the sender's spelling. In what isn't declared a number without fraction
// and exponent is an int64 where it fits, any other a float64. Arrays are []any, objects map[string]any. The map is built
// once and must not be changed.
func (e *Event) Map() map[string]any {
	if e.cached != nil {
		return e.cached
	}
	m := map[string]any{"test": e.Test}
	for _, s := range [...]struct{ name, value string }{{"id", e.ID}, {"type", e.Type}, {"tenant", e.Tenant}, {"source", e.Source},
		{"call_id", e.CallID}, {"agent_id", e.AgentID}, {"traceparent", e.Traceparent}} {
		if s.value != "" {
			m[s.name] = s.value
		}
	}
	if v, ok := e.Lookup("time"); ok {
		m["time"] = v.String()
	}
	if e.hasSequence() {
		m["sequence"] = e.Sequence
	}
	if len(e.Attributes) > 0 {
		attributes := make(map[string]any, len(e.Attributes))
		for _, a := range e.Attributes {
			attributes[a.Name] = a.Value
		}
		m["attributes"] = attributes
	}
	data := map[string]any{}
	nodes := []map[string]any{m, data}
	if t := e.fieldTable(); t != nil {
		for range t.groups {
			nodes = append(nodes, nil)
		}
		node := func(n int) map[string]any {
			if nodes[n] == nil {
				nodes[n] = map[string]any{}
				data[t.groups[n-nodeGroup].name] = nodes[n]
			}
			return nodes[n]
		}
		for f := range t.fields {
			if at := e.index[f]; at != 0 {
				node(t.fields[f].node)[t.fields[f].name] = e.goValue(t.fields[f].Kind, e.values[at-1])
			}
		}
		for i := range e.extras {
			x := &e.extras[i]
			node(x.node)[x.name] = rawValue(x.raw)
		}
	}
	m["data"] = data
	e.cached = m
	return m
}

func (e *Event) goValue(kind Kind, v value) any {
	switch kind {
	case KindLong:
		return int64(v.n)
	case KindDouble:
		return math.Float64frombits(v.n)
	case KindBool:
		return v.n == 1
	case KindObject:
		return rawValue(v.s)
	case KindStrings:
		list := make([]any, len(e.lists[v.n]))
		for i, s := range e.lists[v.n] {
			list[i] = s
		}
		return list
	}
	return v.s
}

// rawValue turns JSON that was checked before into Go values.
func rawValue(raw string) any {
	p := parser{b: []byte(raw), s: raw}
	p.space()
	return p.value()
}

func (p *parser) value() any {
	if p.i >= len(p.s) {
		return nil
	}
	switch p.s[p.i] {
	case '{':
		m := map[string]any{}
		p.members(func(name string) { m[name] = p.value() })
		return m
	case '[':
		list := []any{}
		p.elements(func(int) { list = append(list, p.value()) })
		return list
	case '"':
		return p.text()
	case 't':
		p.literal("true")
		return true
	case 'f':
		p.literal("false")
		return false
	case 'n':
		p.literal("null")
		return nil
	}
	literal := p.number()
	if !strings.ContainsAny(literal, ".eE") {
		if n, err := strconv.ParseInt(literal, 10, 64); err == nil {
			return n
		}
	}
	f, _ := strconv.ParseFloat(literal, 64) // beyond its range the nearest is an infinity, and compares right
	return f
}

// Elements splits a JSON array into its elements, in place, and checks the syntax of the whole. Its error is a
// *SyntaxError, also for JSON that isn't an array. A batch of events is parsed element by element, so that the faults of
// each are told.
func Elements(raw []byte) ([][]byte, error) {
	p := parser{b: raw, s: string(raw)}
	if !utf8.Valid(raw) {
		p.checkUTF8()
		return nil, p.err
	}
	if p.space(); p.i >= len(raw) || raw[p.i] != '[' {
		p.unexpected("where an array begins")
		return nil, p.err
	}
	var elements [][]byte
	p.elements(func(int) {
		start := p.i
		p.skipRaw()
		elements = append(elements, raw[min(start, p.i):p.i:p.i])
	})
	p.end()
	if p.err != nil {
		return nil, p.err
	}
	return elements, nil
}
