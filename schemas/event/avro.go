package event

import (
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// AppendAvro appends the event's Avro body, without the wire header.
func (e *Event) AppendAvro(dst []byte) []byte {
	dst = appendOptional(dst, e.ID)
	dst = appendString(dst, e.Type)
	dst = appendOptionalTime(dst, e.Time)
	dst = appendOptionalTime(dst, e.IngestedAt)
	dst = appendString(dst, e.Tenant)
	dst = appendOptional(dst, e.Source)
	dst = appendOptional(dst, e.CallID)
	dst = appendOptional(dst, e.AgentID)
	if e.hasSequence() {
		dst = appendLong(append(dst, 2), e.Sequence)
	} else {
		dst = append(dst, 0)
	}
	if e.hasTest() {
		dst = appendBool(append(dst, 2), e.Test)
	} else {
		dst = append(dst, 0)
	}
	dst = appendOptional(dst, e.Traceparent)
	if len(e.Attributes) > 0 {
		dst = appendLong(dst, int64(len(e.Attributes)))
		for _, a := range e.Attributes {
			dst = appendString(dst, a.Name)
			dst = appendString(dst, a.Value)
		}
	}
	dst = append(dst, 0)
	dst = e.appendExtraJSON(dst)
	t := e.fieldTable()
	if t == nil {
		return dst
	}
	for f := range t.fields {
		at, kind := e.index[f], t.fields[f].Kind
		if at == 0 {
			dst = append(dst, 0) // null, or no items
			continue
		}
		v := &e.values[at-1]
		switch kind {
		case KindLong:
			dst = appendLong(append(dst, 2), int64(v.n))
		case KindDouble:
			dst = binary.LittleEndian.AppendUint64(append(dst, 2), v.n)
		case KindBool:
			dst = append(dst, 2, byte(v.n))
		case KindStrings:
			dst = appendStrings(dst, e.lists[v.n])
		default:
			dst = appendString(append(dst, 2), v.s)
		}
	}
	return dst
}

func appendOptional(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, 0)
	}
	return appendString(append(dst, 2), s)
}

func appendOptionalTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, 0)
	}
	return appendLong(append(dst, 2), t.UnixMicro())
}

// appendExtraJSON appends the column extra_json: undeclared members in the order they came, then exact spellings.
func (e *Event) appendExtraJSON(dst []byte) []byte {
	base := len(dst)
	dst = append(dst, 2)
	start := len(dst)
	dst = append(dst, '{')
	member := func(pointer, raw string) {
		dst = appendQuoted(dst, pointer)
		dst = append(dst, ':')
		dst = append(dst, raw...)
		dst = append(dst, ',')
	}
	t := e.fieldTable()
	for i := range e.extras {
		member(e.extraPointer(&e.extras[i]), e.extras[i].raw)
	}
	if text, ok := e.exactTime(); ok {
		member("/time", string(appendQuoted(nil, text)))
	}
	if t != nil && len(e.values) > 0 {
		for f := range t.fields {
			if at := e.index[f]; at != 0 && t.fields[f].Kind == KindDouble && e.values[at-1].s != "" {
				member(t.fields[f].Pointer, e.values[at-1].s)
			}
		}
	}
	if len(dst) == start+1 {
		return append(dst[:base], 0)
	}
	dst[len(dst)-1] = '}'
	// The length goes in front, and is known only now.
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(dst)-start)<<1)
	dst = append(dst, length[:n]...)
	copy(dst[start+n:], dst[start:])
	copy(dst[start:], length[:n])
	return dst
}

// readIdentity reads the columns that open every event record.
func (e *Event) readIdentity(r *reader) {
	if r.some() {
		e.ID = r.string()
	}
	e.Type = r.string()
	e.Time = r.optionalTime()
	e.IngestedAt = r.optionalTime()
	e.Tenant = r.string()
	if r.some() {
		e.Source = r.string()
	}
}

// optionalTime reads a nullable time. The zero time.Time stands for null, so the one microsecond that is it becomes null.
func (r *reader) optionalTime() time.Time {
	if !r.some() {
		return time.Time{}
	}
	return hold(r.long())
}

// readEvent reads a body that was written with the schema of the table. It refuses what could not be told in JSON.
func readEvent(t *table, body []byte) (*Event, error) {
	e := &Event{}
	if err := e.read(t, body); err != nil {
		return nil, err
	}
	return e, nil
}

// read is readEvent into an event whose memory is used again.
func (e *Event) read(t *table, body []byte) error {
	values := e.values[:0]
	if cap(values) < usualFields {
		values = make([]value, 0, usualFields)
	}
	*e = Event{table: t, values: values}
	r := reader{b: body, text: string(body)}
	e.readIdentity(&r)
	if r.some() {
		e.CallID = r.string()
	}
	if r.some() {
		e.AgentID = r.string()
	}
	if r.some() {
		e.Sequence, e.HasSequence = r.long(), true
	}
	if r.some() {
		e.Test, e.HasTest = r.bool(), true
	}
	if r.some() {
		e.Traceparent = r.string()
	}
	var names nameSet
	for n := r.block(); n > 0; n = r.block() {
		for range n {
			name := r.string()
			value := r.string()
			if r.err == nil && !names.add(name) {
				r.fail("attribute " + name + " twice")
			}
			e.Attributes = append(e.Attributes, Attribute{name, value})
			if r.err != nil {
				return r.err
			}
		}
	}
	var extraJSON string
	if r.some() {
		extraJSON = r.string()
	}
	for f := range t.fields {
		kind := t.fields[f].Kind
		if kind == KindStrings {
			if list := r.strings(); len(list) > 0 {
				e.lists = append(e.lists, list)
				e.set(f, value{n: uint64(len(e.lists) - 1)})
			}
			continue
		}
		if !r.some() {
			continue
		}
		switch kind {
		case KindLong:
			e.set(f, value{n: uint64(r.long())})
		case KindDouble:
			n := r.double()
			if math.IsNaN(n) || math.IsInf(n, 0) {
				r.fail(t.fields[f].Column + " is no number that JSON has")
			}
			e.set(f, value{n: math.Float64bits(n)})
		case KindBool:
			e.set(f, value{n: boolBits(r.bool())})
		case KindObject:
			if s := r.string(); s != "" {
				if !isObject(s) {
					r.fail(t.fields[f].Column + " isn't a JSON object")
				} else if !isEmpty(s) {
					e.set(f, value{s: s})
				}
			}
		default:
			if s := r.string(); s != "" {
				e.set(f, value{s: s})
			}
		}
		if r.err != nil {
			return r.err
		}
	}
	if err := r.done(); err != nil {
		return err
	}
	if extraJSON != "" {
		if err := e.readExtraJSON(extraJSON); err != nil {
			return err
		}
	}
	for _, moment := range [...]time.Time{e.Time, e.IngestedAt} {
		if y := moment.Year(); (y < 0 || y > 9999) && e.timeText == "" {
			return poison("a time in the year %d", y)
		}
	}
	return nil
}

// isObject reports whether text is a JSON object that Parse would take.
func isObject(text string) bool {
	p := parser{b: []byte(text), s: text}
	p.space()
	if p.i >= len(text) || text[p.i] != '{' {
		return false
	}
	p.skip(3)
	p.end()
	return p.result() == nil && text[0] == '{' && text[len(text)-1] == '}'
}

// readExtraJSON puts the members of the column extra_json back where they were. A member that this version of the schema
// declares although its writer's did not becomes that field if it fits. What would put two values in one place, or a value
// where none can be, is poison: only a writer that is not callstream can have made it.
func (e *Event) readExtraJSON(text string) error {
	p := parser{b: []byte(text), s: text, e: e, t: e.table}
	p.space()
	if p.i >= len(text) || text[p.i] != '{' {
		return poison("extra_json isn't a JSON object")
	}
	var pointers nameSet
	var misplaced string
	bad := false
	var groups newGroups
	p.members(func(pointer string) {
		start := p.i
		// From the root of the event a member is at depth 2, 3 or 4; its pointer counts its slashes.
		if p.skip(1 + strings.Count(pointer, "/")); p.err != nil || bad {
			return
		}
		if !pointers.add(pointer) || !e.place(pointer, p.s[start:p.i], &groups) {
			misplaced, bad = pointer, true
		}
	})
	p.end()
	if err := p.result(); err != nil {
		return poison("extra_json: %v", err)
	}
	groups.finish(e)
	if !bad {
		misplaced, bad = e.collision()
	}
	if bad {
		return poison("extra_json: %q is no place for an undeclared member", misplaced)
	}
	return nil
}

// place puts one member of extra_json where its pointer says.
func (e *Event) place(pointer, raw string, groups *newGroups) bool {
	segments := strings.Split(pointer, "/")
	if len(segments) < 2 || len(segments) > 4 || segments[0] != "" {
		return false
	}
	for i := range segments {
		var ok bool
		if segments[i], ok = unescapePointer(segments[i]); !ok {
			return false
		}
	}
	last := segments[len(segments)-1]
	if len(segments) == 2 {
		switch {
		case last == "time":
			return e.placeTime(raw)
		case envelopeBit(last) >= 0:
			return false
		}
		e.extras = append(e.extras, extra{nodeRoot, last, raw})
		return true
	}
	if segments[1] != "data" {
		return false
	}
	t, node := e.table, nodeData
	if len(segments) == 4 {
		g := t.find(nodeData, segments[2])
		if g < groupBase {
			if g >= 0 {
				return false
			}
			groups.place(e, segments[2], last, raw)
			return true
		}
		node = nodeGroup + g - groupBase
	}
	switch f := t.find(node, last); {
	case f < 0:
		e.extras = append(e.extras, extra{node, last, raw})
		return true
	case f >= groupBase:
		return e.adopt(raw, func(p *parser) { p.fields(node+1+f-groupBase, 3) }) || e.keepRaw(node, last, raw)
	case e.index[f] == 0:
		return e.adopt(raw, func(p *parser) { p.field(f, 2+node) }) && e.index[f] != 0 || e.keepRaw(node, last, raw)
	case t.fields[f].Kind == KindDouble:
		p := parser{b: []byte(raw), s: raw, e: e}
		if !isNumber(raw[0]) || p.number() != raw {
			return false
		}
		v := &e.values[e.index[f]-1]
		n, exact, ok := parseDouble(raw)
		if !ok || exact || n != math.Float64frombits(v.n) {
			return false
		}
		v.s = raw
		return true
	}
	return false
}

func (e *Event) keepRaw(node int, name, raw string) bool {
	e.extras = append(e.extras, extra{node, name, raw})
	return true
}

// newGroups are groups that this version of the schema doesn't declare.
type newGroups struct {
	at     map[string]int
	raw    [][]byte
	extras []int
}

// place takes a member of a group that only a newer writer declares: the group becomes an undeclared member here.
// Its members are collected first, because a group may have as many of them as a record has room for.
func (n *newGroups) place(e *Event, group, name, raw string) {
	at, known := n.at[group]
	if !known {
		if n.at == nil {
			n.at = map[string]int{}
		}
		at = len(n.raw)
		n.at[group] = at
		n.raw = append(n.raw, []byte{'{'})
		// Its place among the others is that of its first member; finish fills it in.
		n.extras = append(n.extras, len(e.extras))
		e.extras = append(e.extras, extra{node: nodeData, name: group})
	}
	if len(n.raw[at]) > 1 {
		n.raw[at] = append(n.raw[at], ',')
	}
	n.raw[at] = append(append(appendQuoted(n.raw[at], name), ':'), raw...)
}

func (n *newGroups) finish(e *Event) {
	for i, raw := range n.raw {
		e.extras[n.extras[i]].raw = string(append(raw, '}'))
	}
}

func (e *Event) placeTime(raw string) bool {
	if raw[0] != '"' || e.Time.IsZero() {
		return false
	}
	p := parser{b: []byte(raw), s: raw}
	text := p.text()
	micros, exact, ok := parseTime(text)
	if !ok || exact || micros != e.Time.UnixMicro() {
		return false
	}
	e.timeText = text
	return true
}

// adopt parses a raw member into the fields that declare it by now, all of it or nothing.
func (e *Event) adopt(raw string, read func(p *parser)) bool {
	before, values, lists, extras := e.index, len(e.values), len(e.lists), len(e.extras)
	p := parser{b: []byte(raw), s: raw, e: e, t: e.table}
	for f, at := range before {
		if at != 0 {
			p.seen[f/64] |= 1 << (f % 64)
		}
	}
	if read(&p); p.result() == nil {
		return true
	}
	e.index, e.values, e.lists, e.extras = before, e.values[:values], e.lists[:lists], e.extras[:extras]
	return false
}

// collision finds an undeclared member that has the place of a declared one, or of another.
func (e *Event) collision() (name string, found bool) {
	type place struct {
		node int
		name string
	}
	seen := make(map[place]bool, len(e.extras))
	groups := false
	for _, x := range e.extras {
		at := place{x.node, x.name}
		if seen[at] {
			return x.name, true
		}
		seen[at] = true
		groups = groups || x.node == nodeData && e.table.find(nodeData, x.name) >= groupBase
	}
	if !groups {
		return "", false
	}
	for g := range e.table.groups {
		if !seen[place{nodeData, e.table.groups[g].name}] {
			continue
		}
		for f := e.table.groups[g].lo; f < e.table.groups[g].hi; f++ {
			if e.index[f] != 0 {
				return e.table.groups[g].name, true
			}
		}
		for _, x := range e.extras {
			if x.node == nodeGroup+g {
				return e.table.groups[g].name, true
			}
		}
	}
	return "", false
}
