package event

import (
	"math"
	"strings"
)

// What the parser does with the members of an event: the envelope, the declared fields of data and of its groups, and
// everything else, which is kept raw.

// The bits of parser.seen: the fields, then the groups, then the envelope.
const (
	seenGroups   = maxFields
	seenEnvelope = maxFields + 64
)

// again reports whether a declared member was met before, and faults it then.
func (p *parser) again(bit int) bool {
	word, mask := bit/64, uint64(1)<<(bit%64)
	if p.seen[word]&mask != 0 {
		p.fault(repeated)
		return true
	}
	p.seen[word] |= mask
	return false
}

// root reads the event object. Data that comes before the type waits until the type is known.
func (p *parser) root() {
	e := p.e
	var undeclared nameSet
	dataAt := -1
	p.members(func(name string) {
		p.push(name)
		defer p.pop()
		bit := envelopeBit(name)
		if bit < 0 {
			p.keep(nodeRoot, name, &undeclared, 2)
			return
		}
		if p.again(seenEnvelope + bit) {
			p.skip(2)
			return
		}
		switch name {
		case "id":
			e.ID = p.stringMember()
		case "type":
			e.Type = p.stringMember()
			p.t = tableOf(e.Type)
			e.table = p.t
		case "tenant":
			e.Tenant = p.stringMember()
		case "source":
			e.Source = p.stringMember()
		case "call_id":
			e.CallID = p.stringMember()
		case "agent_id":
			e.AgentID = p.stringMember()
		case "traceparent":
			e.Traceparent = p.stringMember()
		case "time":
			p.timeMember()
		case "sequence":
			if literal, ok := p.numberMember(KindLong); ok {
				e.Sequence, e.HasSequence = p.long(literal)
			}
		case "test":
			e.Test, e.HasTest = p.boolMember()
		case "attributes":
			p.attributes()
		case "data":
			if p.t != nil {
				p.data(2)
			} else {
				dataAt = p.i
				p.skipRaw()
			}
		}
	})
	if dataAt >= 0 && p.err == nil {
		end := p.i
		p.i = dataAt
		p.push("data")
		p.data(2)
		p.pop()
		p.i = end
	}
}

func envelopeBit(name string) int {
	switch name {
	case "id":
		return 0
	case "type":
		return 1
	case "time":
		return 2
	case "tenant":
		return 3
	case "source":
		return 4
	case "call_id":
		return 5
	case "agent_id":
		return 6
	case "sequence":
		return 7
	case "test":
		return 8
	case "traceparent":
		return 9
	case "attributes":
		return 10
	case "data":
		return 11
	}
	return -1
}

// keep stores a member that isn't declared.
func (p *parser) keep(node int, name string, names *nameSet, depth int) {
	if !names.add(name) {
		p.fault(repeated)
		p.skip(depth)
		return
	}
	start := p.i
	p.skip(depth)
	if p.err == nil {
		p.e.extras = append(p.e.extras, extra{node, name, p.s[start:p.i]})
	}
}

// data reads the data object by the table of the event's type; where the type is unknown it is only checked.
func (p *parser) data(depth int) {
	switch {
	case p.t == nil:
		p.skip(depth)
	case p.i < len(p.s) && p.s[p.i] == '{':
		p.fields(nodeData, depth)
	default:
		p.wrong("an object", depth)
	}
}

// fields reads the members of data or of one of its groups.
func (p *parser) fields(node, depth int) {
	var undeclared nameSet
	p.members(func(name string) {
		p.push(name)
		switch f := p.t.find(node, name); {
		case f < 0:
			p.keep(node, name, &undeclared, depth+1)
		case f >= groupBase:
			switch g := f - groupBase; {
			case p.again(seenGroups + g):
				p.skip(depth + 1)
			case p.i < len(p.s) && p.s[p.i] == '{':
				p.fields(nodeGroup+g, depth+1)
			default:
				p.wrong("an object", depth+1)
			}
		case p.again(f):
			p.skip(depth + 1)
		default:
			p.field(f, depth+1)
		}
		p.pop()
	})
}

// wrong passes over a value that isn't of the declared type: a fault, unless it is null or empty and so absent.
func (p *parser) wrong(want string, depth int) {
	is, start := p.named(), p.i
	p.skip(depth)
	if p.err != nil || isEmpty(p.s[start:p.i]) {
		return
	}
	p.fault("must be " + want + ", is " + is)
}

// isEmpty reports whether a JSON value is null, "", [] or {}.
func isEmpty(raw string) bool {
	if raw == "null" || raw == `""` {
		return true
	}
	if raw[0] != '[' && raw[0] != '{' {
		return false
	}
	return strings.Trim(raw[1:len(raw)-1], " \t\r\n") == ""
}

// field reads the value of a declared field.
func (p *parser) field(f, depth int) {
	var c byte
	if p.i < len(p.s) {
		c = p.s[p.i]
	}
	kind := p.t.fields[f].Kind
	switch {
	case kind == KindString && c == '"':
		if s := p.text(); s != "" {
			p.e.set(f, value{s: s})
		}
	case kind == KindTime && c == '"':
		s := p.text()
		if s == "" || p.err != nil {
			return
		}
		if _, _, ok := parseTime(s); !ok {
			p.fault("must be " + KindTime.String())
			return
		}
		p.e.set(f, value{s: s})
	case kind == KindLong && isNumber(c):
		if n, ok := p.long(p.number()); ok {
			p.e.set(f, value{n: uint64(n)})
		}
	case kind == KindDouble && isNumber(c):
		literal := p.number()
		n, exact, ok := parseDouble(literal)
		if !ok {
			p.fault("is beyond the range of a double")
			return
		}
		if exact {
			literal = ""
		}
		p.e.set(f, value{n: math.Float64bits(n), s: literal})
	case kind == KindBool && (c == 't' || c == 'f'):
		v, _ := p.boolMember()
		p.e.set(f, value{n: boolBits(v)})
	case kind == KindStrings && c == '[':
		var list []string
		p.elements(func(i int) {
			p.pushIndex(i)
			if p.i < len(p.s) && p.s[p.i] == '"' {
				list = append(list, p.text())
			} else {
				is := p.named()
				p.skip(depth + 1)
				p.fault("must be a string, is " + is)
			}
			p.pop()
		})
		if len(list) > 0 {
			p.e.lists = append(p.e.lists, list)
			p.e.set(f, value{n: uint64(len(p.e.lists) - 1)})
		}
	case kind == KindObject && c == '{':
		start := p.i
		p.skip(depth)
		if p.err == nil && !isEmpty(p.s[start:p.i]) {
			p.e.set(f, value{s: p.s[start:p.i]})
		}
	default:
		p.wrong(kind.String(), depth)
	}
}

func isNumber(c byte) bool { return c == '-' || c-'0' <= 9 }

func boolBits(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

func (p *parser) long(literal string) (int64, bool) {
	n, whole, ok := parseLong(literal)
	switch {
	case !whole:
		p.fault("must be a whole number")
	case !ok:
		p.fault("is beyond the range of 64 bits")
	}
	return n, ok
}

func (p *parser) stringMember() string {
	if p.i < len(p.s) && p.s[p.i] == '"' {
		return p.text()
	}
	p.wrong("a string", 2)
	return ""
}

func (p *parser) numberMember(kind Kind) (literal string, ok bool) {
	if p.i < len(p.s) && isNumber(p.s[p.i]) {
		return p.number(), true
	}
	p.wrong(kind.String(), 2)
	return "", false
}

func (p *parser) boolMember() (v, ok bool) {
	if p.i < len(p.s) {
		switch p.s[p.i] {
		case 't':
			p.literal("true")
			return true, true
		case 'f':
			p.literal("false")
			return false, true
		}
	}
	p.wrong(KindBool.String(), 2)
	return false, false
}

func (p *parser) timeMember() {
	if p.i >= len(p.s) || p.s[p.i] != '"' {
		p.wrong(KindTime.String(), 2)
		return
	}
	s := p.text()
	if s == "" || p.err != nil {
		return
	}
	micros, exact, ok := parseTime(s)
	if !ok {
		p.fault("must be " + KindTime.String())
		return
	}
	if p.e.Time = hold(micros); !exact {
		p.e.timeText = s
	}
}

func (p *parser) attributes() {
	if p.i >= len(p.s) || p.s[p.i] != '{' {
		p.wrong("an object of strings", 2)
		return
	}
	var names nameSet
	p.members(func(name string) {
		p.push(name)
		if !names.add(name) {
			p.fault(repeated)
		}
		if p.i < len(p.s) && p.s[p.i] == '"' {
			p.e.Attributes = append(p.e.Attributes, Attribute{name, p.text()})
		} else {
			is := p.named()
			if p.skip(3); is != "null" {
				p.fault("must be a string, is " + is)
			}
		}
		p.pop()
	})
}
