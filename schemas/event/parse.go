package event

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Parse reads one event in JSON (the contract's section 4) and checks it against the catalogue. It fills in nothing: id,
// time, tenant and source stay empty where the input has none. Input that is not JSON in UTF-8 is a *SyntaxError; anything
// else that is wrong is in Faults, all of it, with its place: a declared member of the wrong type, an unknown type, a
// missing call_id, a name that appears twice, nesting beyond 64, half a surrogate pair. Null, "", [] and {} of a declared
// member equal its absence. The event keeps no reference to raw.
func Parse(raw []byte) (*Event, error) {
	e := &Event{values: make([]value, 0, usualFields)}
	var path [8]step
	p := parser{b: raw, s: string(raw), e: e, path: path[:0]}
	if !p.checkUTF8() {
		return nil, p.err
	}
	p.space()
	if p.i < len(p.s) && p.s[p.i] == '{' {
		p.root()
	} else {
		p.fault("must be an object, is " + p.named())
		p.skip(1)
	}
	p.end()
	if p.err == nil && !p.notObject {
		p.faults = e.checkEnvelope(p.faults)
		e.cached = nil
	}
	if err := p.result(); err != nil {
		return nil, err
	}
	return e, nil
}

// maxDepth is how deep objects and arrays may nest, the event itself being the first.
const maxDepth = 64

// parser is one pass over one JSON text. Positions are byte offsets; b and s hold the same bytes, b for loading eight at
// a time, s for cutting strings out. After a syntax error every method returns at once.
type parser struct {
	b []byte
	s string
	i int

	e         *Event
	t         *table // nil while the type is unknown: then data is only checked
	err       *SyntaxError
	faults    Faults
	path      []step
	seen      [5]uint64 // bits of declared members that were met, to find repeats
	notObject bool
}

// step is one member or element on the way from the root, for the pointers of faults.
type step struct {
	name  string
	index int // used where name is "" and inArray
	array bool
}

func (p *parser) push(name string) { p.path = append(p.path, step{name: name}) }
func (p *parser) pushIndex(i int)  { p.path = append(p.path, step{index: i, array: true}) }
func (p *parser) pop()             { p.path = p.path[:len(p.path)-1] }

func (p *parser) fault(what string) {
	if len(p.faults) < maxFaults {
		p.faultAt(p.pointer(), what)
	}
}

func (p *parser) faultAt(pointer, what string) {
	if len(p.faults) < maxFaults {
		p.faults = append(p.faults, Fault{pointer, what})
	}
	if pointer == "" {
		p.notObject = true
	}
}

func (p *parser) pointer() string {
	var b []byte
	for _, s := range p.path {
		if len(b)+len(s.name) > maxPointer {
			break
		}
		b = append(b, '/')
		if s.array {
			b = strconv.AppendInt(b, int64(s.index), 10)
		} else {
			b = append(b, escapePointer(s.name)...)
		}
	}
	return string(b)
}

func (p *parser) result() error {
	if p.err != nil {
		return p.err
	}
	if len(p.faults) > 0 {
		return p.faults
	}
	return nil
}

func (p *parser) checkUTF8() bool {
	if utf8.ValidString(p.s) {
		return true
	}
	for i := 0; i < len(p.s); {
		r, n := utf8.DecodeRuneInString(p.s[i:])
		if r == utf8.RuneError && n == 1 {
			p.i = i
			p.syntax("invalid UTF-8")
			return false
		}
		i += n
	}
	return true
}

// syntax records the first syntax error and moves to the end, where every loop stops.
func (p *parser) syntax(what string) {
	if p.err == nil {
		p.err = &SyntaxError{Offset: int64(p.i), Detail: what}
	}
	p.i = len(p.s)
}

func (p *parser) unexpected(where string) {
	if p.i >= len(p.s) {
		p.syntax("unexpected end " + where)
		return
	}
	r, _ := utf8.DecodeRuneInString(p.s[p.i:])
	p.syntax("unexpected " + strconv.QuoteRune(r) + " " + where)
}

func (p *parser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) end() {
	if p.err != nil {
		return
	}
	if p.space(); p.i < len(p.s) {
		p.unexpected("after the value")
	}
}

// named says what kind of value comes next, for faults.
func (p *parser) named() string {
	if p.i < len(p.s) {
		switch p.s[p.i] {
		case '{':
			return "an object"
		case '[':
			return "an array"
		case '"':
			return "a string"
		case 't', 'f':
			return "a boolean"
		case 'n':
			return "null"
		}
	}
	return "a number"
}

// string reads a string's bytes without the quotes, still escaped.
func (p *parser) string() (text string, escaped bool) {
	if p.i >= len(p.s) || p.s[p.i] != '"' {
		p.unexpected("where a string begins")
		return "", false
	}
	p.i++
	start := p.i
	b, i := p.b, p.i
	for {
		for len(b)-i >= 8 {
			if at := special(binary.LittleEndian.Uint64(b[i:])); at < 8 {
				i += at
				break
			}
			i += 8
		}
		if i >= len(b) {
			p.i = i
			p.unexpected("in a string")
			return "", false
		}
		switch c := b[i]; {
		case c == '"':
			p.i = i + 1
			return p.s[start:i], escaped
		case c == '\\':
			escaped = true
			n := escapeLength(p.s[i:])
			if n == 0 {
				p.i = i
				p.syntax("invalid escape in a string")
				return "", false
			}
			i += n
		case c < 0x20:
			p.i = i
			p.syntax("control character in a string")
			return "", false
		default:
			i++
		}
	}
}

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080
)

// special returns the place of the first byte of eight that a JSON string cannot hold as it is: a quote, a backslash or
// a control character; 8 where there is none. A borrow can only mark bytes behind a marked one, so the first is right.
func special(x uint64) int {
	quote, backslash := x^(eachByte*'"'), x^(eachByte*'\\')
	found := (x-eachByte*0x20)&^x | (quote-eachByte)&^quote | (backslash-eachByte)&^backslash
	return bits.TrailingZeros64(found&highBits) / 8
}

func escapeLength(s string) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if _, ok := hex4(s); ok {
			return 6
		}
	}
	return 0
}

// hex4 reads the code unit of an escape \uXXXX.
func hex4(s string) (unit rune, ok bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	for _, c := range []byte(s[2:6]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		unit = unit<<4 | rune(c)
	}
	return unit, true
}

// unescape resolves the escapes of a string that the scanner has accepted. whole is false where half a surrogate pair
// stands alone: no UTF-8 can hold that, and to replace it would change the value.
func unescape(s string) (text string, whole bool) {
	out, whole := make([]byte, 0, len(s)), true
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			n := strings.IndexByte(s[i:], '\\')
			if n < 0 {
				n = len(s) - i
			}
			out = append(out, s[i:i+n]...)
			i += n
			continue
		}
		switch c := s[i+1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			unit, _ := hex4(s[i:])
			i += 6
			if 0xD800 <= unit && unit < 0xE000 {
				low, ok := hex4(s[i:])
				if unit < 0xDC00 && ok && 0xDC00 <= low && low < 0xE000 {
					unit = (unit-0xD800)<<10 | (low - 0xDC00) + 0x10000
					i += 6
				} else {
					unit, whole = utf8.RuneError, false
				}
			}
			out = utf8.AppendRune(out, unit)
			continue
		default:
			out = append(out, c)
		}
		i += 2
	}
	return string(out), whole
}

// text reads a string value.
func (p *parser) text() string {
	s, escaped := p.string()
	if !escaped {
		return s
	}
	s, whole := unescape(s)
	if !whole {
		p.fault(loneSurrogate)
	}
	return s
}

const loneSurrogate = "holds half of a surrogate pair"

// name reads a member's name and the colon behind it.
func (p *parser) name() string {
	s, escaped := p.string()
	if escaped {
		var whole bool
		if s, whole = unescape(s); !whole {
			p.push(s)
			p.fault("has a name that " + loneSurrogate)
			p.pop()
		}
	}
	if p.space(); p.i < len(p.s) && p.s[p.i] == ':' {
		p.i++
		p.space()
	} else if p.err == nil {
		p.unexpected("after a member's name")
	}
	return s
}

// number reads a number's literal.
func (p *parser) number() string {
	start, s := p.i, p.s
	i := start
	digits := func() bool {
		from := i
		for i < len(s) && s[i]-'0' <= 9 {
			i++
		}
		return i > from
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	ok := true
	if i < len(s) && s[i] == '0' {
		i++
	} else {
		ok = digits()
	}
	if ok && i < len(s) && s[i] == '.' {
		i++
		ok = digits()
	}
	if ok && i < len(s) && s[i]|0x20 == 'e' {
		if i++; i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		ok = digits()
	}
	if p.i = i; !ok {
		p.unexpected("in a number")
		return "0"
	}
	return s[start:i]
}

func (p *parser) literal(word string) {
	if len(p.s)-p.i >= len(word) && p.s[p.i:p.i+len(word)] == word {
		p.i += len(word)
		return
	}
	p.unexpected("where a value begins")
}

// members reads an object: each is called with the name of a member, at its value, which it must consume.
func (p *parser) members(each func(name string)) {
	p.i++ // {
	if p.space(); p.i < len(p.s) && p.s[p.i] == '}' {
		p.i++
		return
	}
	for {
		name := p.name()
		if p.err != nil {
			return
		}
		each(name)
		if p.space(); p.i < len(p.s) && p.s[p.i] == ',' {
			p.i++
			p.space()
			continue
		}
		if p.i < len(p.s) && p.s[p.i] == '}' {
			p.i++
		} else if p.err == nil {
			p.unexpected("in an object")
		}
		return
	}
}

// elements reads an array: each is called at every element, which it must consume.
func (p *parser) elements(each func(i int)) {
	p.i++ // [
	if p.space(); p.i < len(p.s) && p.s[p.i] == ']' {
		p.i++
		return
	}
	for n := 0; ; n++ {
		each(n)
		if p.space(); p.i < len(p.s) && p.s[p.i] == ',' {
			p.i++
			p.space()
			continue
		}
		if p.i < len(p.s) && p.s[p.i] == ']' {
			p.i++
		} else if p.err == nil {
			p.unexpected("in an array")
		}
		return
	}
}

// skip checks a value that isn't declared, at this depth, and passes over it.
func (p *parser) skip(depth int) {
	if p.i >= len(p.s) {
		p.unexpected("where a value begins")
		return
	}
	switch c := p.s[p.i]; c {
	case '{', '[':
		if depth > maxDepth {
			p.fault("nests deeper than " + strconv.Itoa(maxDepth))
			p.skipRaw()
			return
		}
		if c == '[' {
			p.elements(func(i int) {
				p.pushIndex(i)
				p.skip(depth + 1)
				p.pop()
			})
			return
		}
		var names nameSet
		p.members(func(name string) {
			p.push(name)
			if !names.add(name) {
				p.fault(repeated)
			}
			p.skip(depth + 1)
			p.pop()
		})
	case '"':
		if s, escaped := p.string(); escaped {
			if _, whole := unescape(s); !whole {
				p.fault(loneSurrogate)
			}
		}
	case 't':
		p.literal("true")
	case 'f':
		p.literal("false")
	case 'n':
		p.literal("null")
	default:
		p.number()
	}
}

const repeated = "appears twice"

// skipRaw passes over a value of any depth without recursion, and checks its syntax only.
func (p *parser) skipRaw() {
	var open []byte
	for p.err == nil {
		if p.i >= len(p.s) {
			p.unexpected("where a value begins")
			return
		}
		switch c := p.s[p.i]; c {
		case '{', '[':
			p.i++
			if p.space(); p.i < len(p.s) && p.s[p.i] == c+2 { // } and ] come two after { and [
				p.i++
				break
			}
			if open = append(open, c+2); c == '{' {
				p.rawName()
			}
			continue
		case '"':
			p.string()
		case 't':
			p.literal("true")
		case 'f':
			p.literal("false")
		case 'n':
			p.literal("null")
		default:
			p.number()
		}
		for {
			if len(open) == 0 || p.err != nil {
				return
			}
			p.space()
			if p.i >= len(p.s) {
				p.unexpected("in an object or array")
				return
			}
			last := open[len(open)-1]
			if p.s[p.i] == last {
				p.i++
				open = open[:len(open)-1]
				continue
			}
			if p.s[p.i] != ',' {
				p.unexpected("in an object or array")
				return
			}
			p.i++
			if p.space(); last == '}' {
				p.rawName()
			}
			break
		}
	}
}

func (p *parser) rawName() {
	p.string()
	if p.space(); p.i < len(p.s) && p.s[p.i] == ':' {
		p.i++
		p.space()
	} else if p.err == nil {
		p.unexpected("after a member's name")
	}
}

// nameSet finds repeated names; few of them need no map.
type nameSet struct {
	few  [12]string
	n    int
	many map[string]struct{}
}

// add reports whether the name is new.
func (s *nameSet) add(name string) bool {
	if s.many != nil {
		if _, known := s.many[name]; known {
			return false
		}
		s.many[name] = struct{}{}
		return true
	}
	for i := range s.n {
		if s.few[i] == name {
			return false
		}
	}
	if s.n < len(s.few) {
		s.few[s.n] = name
		s.n++
		return true
	}
	s.many = make(map[string]struct{}, 4*len(s.few))
	for _, known := range s.few {
		s.many[known] = struct{}{}
	}
	s.many[name] = struct{}{}
	return true
}
