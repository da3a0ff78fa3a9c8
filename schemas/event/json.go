package event

import (
	"encoding/binary"
	"math"
	"strconv"
)

// AppendJSON appends the whole event in its canonical JSON: the envelope in the order of the contract, then data, declared
// fields in the order of the schema and undeclared members behind them in the order they came, then undeclared members of
// the root. Absent members are omitted, but data is always there. Characters of HTML are not escaped.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	str := func(key, value string) {
		if value != "" {
			dst = append(dst, key...)
			dst = appendQuoted(dst, value)
			dst = append(dst, ',')
		}
	}
	str(`"id":`, e.ID)
	str(`"type":`, e.Type)
	if text, ok := e.exactTime(); ok {
		str(`"time":`, text)
	} else if !e.Time.IsZero() {
		dst = append(dst, `"time":"`...)
		dst = appendTime(dst, e.Time.UnixMicro())
		dst = append(dst, '"', ',')
	}
	str(`"tenant":`, e.Tenant)
	str(`"source":`, e.Source)
	str(`"call_id":`, e.CallID)
	str(`"agent_id":`, e.AgentID)
	if e.hasSequence() {
		dst = append(dst, `"sequence":`...)
		dst = strconv.AppendInt(dst, e.Sequence, 10)
		dst = append(dst, ',')
	}
	if e.hasTest() {
		dst = append(dst, `"test":`...)
		dst = strconv.AppendBool(dst, e.Test)
		dst = append(dst, ',')
	}
	str(`"traceparent":`, e.Traceparent)
	if len(e.Attributes) > 0 {
		dst = append(dst, `"attributes":{`...)
		for i, a := range e.Attributes {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendQuoted(dst, a.Name)
			dst = append(dst, ':')
			dst = appendQuoted(dst, a.Value)
		}
		dst = append(dst, '}', ',')
	}
	dst = append(dst, `"data":`...)
	dst = e.AppendData(dst)
	dst = append(dst, ',')
	dst = e.appendExtras(dst, nodeRoot)
	dst[len(dst)-1] = '}' // in place of the last comma
	return dst
}

func (e *Event) hasSequence() bool { return e.HasSequence || e.Sequence != 0 }
func (e *Event) hasTest() bool     { return e.HasTest || e.Test }

// exactTime returns the spelling of the event's time, where it says more than the column and nobody has changed the time.
func (e *Event) exactTime() (string, bool) {
	if e.timeText == "" {
		return "", false
	}
	micros, _, _ := parseTime(e.timeText)
	return e.timeText, micros == e.Time.UnixMicro()
}

// AppendData appends the data object alone, in the order of AppendJSON; {} where the event has none.
func (e *Event) AppendData(dst []byte) []byte {
	dst = append(dst, '{')
	start := len(dst)
	if t := e.fieldTable(); t != nil && (len(e.values) > 0 || len(e.extras) > 0) {
		for f, g := 0, 0; f < len(t.fields); {
			if g < len(t.groups) && t.groups[g].lo == f {
				open := len(dst)
				dst = append(dst, t.groups[g].key...)
				dst = append(dst, '{')
				inside := len(dst)
				dst = e.appendFields(dst, t, f, t.groups[g].hi)
				dst = e.appendExtras(dst, nodeGroup+g)
				if len(dst) == inside {
					dst = dst[:open]
				} else {
					dst[len(dst)-1] = '}'
					dst = append(dst, ',')
				}
				f = t.groups[g].hi
				g++
				continue
			}
			next := len(t.fields)
			if g < len(t.groups) {
				next = t.groups[g].lo
			}
			dst = e.appendFields(dst, t, f, next)
			f = next
		}
		dst = e.appendExtras(dst, nodeData)
	}
	if len(dst) == start {
		return append(dst, '}')
	}
	dst[len(dst)-1] = '}'
	return dst
}

// appendFields appends the present fields of [lo, hi), each with a comma behind it.
func (e *Event) appendFields(dst []byte, t *table, lo, hi int) []byte {
	for f := lo; f < hi; f++ {
		if at := e.index[f]; at != 0 {
			dst = append(dst, t.fields[f].key...)
			dst = e.appendValue(dst, t.fields[f].Kind, e.values[at-1])
			dst = append(dst, ',')
		}
	}
	return dst
}

func (e *Event) appendExtras(dst []byte, node int) []byte {
	for i := range e.extras {
		if x := &e.extras[i]; x.node == node {
			dst = appendQuoted(dst, x.name)
			dst = append(dst, ':')
			dst = append(dst, x.raw...)
			dst = append(dst, ',')
		}
	}
	return dst
}

func (e *Event) appendValue(dst []byte, kind Kind, v value) []byte {
	switch kind {
	case KindLong:
		return strconv.AppendInt(dst, int64(v.n), 10)
	case KindDouble:
		if v.s != "" {
			return append(dst, v.s...)
		}
		return appendDoubleJSON(dst, math.Float64frombits(v.n))
	case KindBool:
		return strconv.AppendBool(dst, v.n == 1)
	case KindObject:
		return append(dst, v.s...)
	case KindStrings:
		dst = append(dst, '[')
		for i, s := range e.lists[v.n] {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendQuoted(dst, s)
		}
		return append(dst, ']')
	}
	return appendQuoted(dst, v.s)
}

// appendQuoted appends a JSON string. It copies first and looks for characters to escape in the copy, eight at a time,
// because most strings have none.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := len(dst)
	dst = append(dst, s...)
	i := start
	for ; len(dst)-i >= 8; i += 8 {
		if at := special(binary.LittleEndian.Uint64(dst[i:])); at < 8 {
			return appendEscaped(dst[:i+at], s[i+at-start:])
		}
	}
	for ; i < len(dst); i++ {
		if c := dst[i]; c < 0x20 || c == '"' || c == '\\' {
			return appendEscaped(dst[:i], s[i-start:])
		}
	}
	return append(dst, '"')
}

func appendEscaped(dst []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= 0x20:
			dst = append(dst, c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c == '\b':
			dst = append(dst, '\\', 'b')
		case c == '\f':
			dst = append(dst, '\\', 'f')
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(dst, '"')
}
