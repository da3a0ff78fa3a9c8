package scope

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"unicode"
)

// Limits of regular expressions. Their work is bounded by the length of a text times the instructions that they compile
// to, all of a subscription's together.
const (
	maxExpression   = 1000 // bytes
	maxInstructions = 1000
)

// expression is a regular expression of a subscription.
type expression struct {
	re *regexp.Regexp
	// needs are bytes of which every match holds one; nil where there is no such set. Most values have none of them, and
	// are passed over without a search.
	needs *byteSet
}

// addExpression adds "/expression/".
func (p *patterns) addExpression(entry string) (detail string) {
	if len(entry) < 3 || entry[len(entry)-1] != '/' {
		return "want a regular expression between slashes; flags go inside, as in /(?i)secret/"
	}
	if len(entry) > maxExpression {
		return fmt.Sprintf("is longer than %d bytes", maxExpression)
	}
	text := entry[1 : len(entry)-1]
	re, err := regexp.Compile(text)
	if err != nil {
		return err.Error()
	}
	if re.MatchString("") {
		return "matches the empty text, so it would redact nothing or everything"
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return err.Error()
	}
	parsed = parsed.Simplify()
	program, err := syntax.Compile(parsed)
	if err != nil {
		return err.Error()
	}
	if p.instructions += len(program.Inst); p.instructions > maxInstructions {
		return "makes the expressions too expensive together; repetitions such as {1,500} count in full"
	}
	p.expressions = append(p.expressions, &expression{re: re, needs: needed(parsed)})
	return ""
}

// find adds what the expression matches.
func (x *expression) find(spans []span, text string) []span {
	if !x.possible(text) {
		return spans
	}
	for _, m := range x.re.FindAllStringIndex(text, -1) {
		if m[0] < m[1] {
			spans = append(spans, span{m[0], m[1]})
		}
	}
	return spans
}

func (x *expression) matches(text string) bool {
	return x.possible(text) && x.re.MatchString(text)
}

func (x *expression) possible(text string) bool {
	if x.needs == nil {
		return true
	}
	for i := range len(text) {
		if x.needs.has(text[i]) {
			return true
		}
	}
	return false
}

// byteSet is a set of bytes. Bytes beyond ASCII are in it or out of it together.
type byteSet struct {
	bits [2]uint64
	wide bool
	size int
}

func (s *byteSet) has(c byte) bool {
	if c >= 0x80 {
		return s.wide
	}
	return s.bits[c/64]&(1<<(c%64)) != 0
}

// add adds the runes from lo to hi as the bytes of their UTF-8.
func (s *byteSet) add(lo, hi rune) {
	for r := lo; r <= hi && r < 0x80; r++ {
		if !s.has(byte(r)) {
			s.bits[r/64] |= 1 << (r % 64)
			s.size++
		}
	}
	if hi >= 0x80 && !s.wide {
		s.wide = true
		s.size += 128
	}
}

// needed returns bytes of which every match of a simplified expression holds one, as few as it finds, or nil.
func needed(re *syntax.Regexp) *byteSet {
	switch re.Op {
	case syntax.OpLiteral:
		s := &byteSet{}
		r := re.Rune[0]
		if re.Flags&syntax.FoldCase == 0 {
			s.add(r, r)
			return s
		}
		for f := r; ; {
			s.add(f, f)
			if f = unicode.SimpleFold(f); f == r {
				return s
			}
		}
	case syntax.OpCharClass:
		s := &byteSet{}
		for i := 0; i < len(re.Rune); i += 2 {
			s.add(re.Rune[i], re.Rune[i+1])
		}
		return s
	case syntax.OpCapture, syntax.OpPlus:
		return needed(re.Sub[0])
	case syntax.OpConcat:
		var best *byteSet
		for _, sub := range re.Sub {
			if s := needed(sub); s != nil && (best == nil || s.size < best.size) {
				best = s
			}
		}
		return best
	case syntax.OpAlternate:
		all := &byteSet{}
		for _, sub := range re.Sub {
			s := needed(sub)
			if s == nil {
				return nil
			}
			for c := range rune(0x80) {
				if s.has(byte(c)) {
					all.add(c, c)
				}
			}
			if s.wide {
				all.add(0x80, 0x80)
			}
		}
		return all
	}
	return nil // what may be absent, and what any character is
}
