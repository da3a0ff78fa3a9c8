package scope

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// Limits of regular expressions.
const (
	maxExpression   = 1000 // bytes
	maxInstructions = 1000 // that all of a subscription's compile to
	// maxWork bounds what they may cost for one event, as the worst case: bytes that are looked at, times instructions. The
	// longest that this takes is some tens of milliseconds. What lies beyond is hidden without a search.
	maxWork = 4 << 20
)

// expression is a regular expression of a subscription.
type expression struct {
	re *regexp.Regexp
	// needs are bytes of which every match holds one; nil where there is no such set. Most values have none of them, and
	// are passed over without a search.
	needs             *byteSet
	size              int      // in instructions
	shortest, longest int      // lengths of matches, in bytes
	eats              *byteSet // the bytes that a match can hold
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
	x := &expression{re: re, needs: needed(parsed), size: len(program.Inst), eats: eaten(&byteSet{}, parsed)}
	x.shortest, x.longest = lengths(parsed)
	p.expressions = append(p.expressions, x)
	return ""
}

// find adds what the expression matches, and takes its cost from left. It returns false where that does not suffice.
func (x *expression) find(spans []span, text string, left *int) ([]span, bool) {
	if !x.possible(text) {
		return spans, true
	}
	// The searches look at the whole text together, and each beyond its match as far as a longer one could go.
	first := len(text) * x.size
	if *left < first {
		return spans, false
	}
	each := x.size * max(1, x.reach(text))
	allowed := (*left - first) / each
	matches := x.re.FindAllStringIndex(text, allowed+1)
	if len(matches) > allowed {
		return spans, false
	}
	*left -= first + len(matches)*each
	for _, m := range matches {
		if m[0] < m[1] {
			spans = append(spans, span{m[0], m[1]})
		}
	}
	return spans, true
}

// reach returns how far a match in the text can go at most.
func (x *expression) reach(text string) int {
	if x.longest < len(text) {
		return x.longest
	}
	most, n := 0, 0
	for i := range len(text) {
		if n++; !x.eats.in[text[i]] {
			n = 0
		}
		most = max(most, n)
	}
	return most
}

func (x *expression) possible(text string) bool {
	if x.needs == nil || len(text) < x.shortest {
		return len(text) >= x.shortest
	}
	for i := range len(text) {
		if x.needs.in[text[i]] {
			return true
		}
	}
	return false
}

// byteSet is a set of bytes. Bytes beyond ASCII are in it or out of it together.
type byteSet struct {
	in   [256]bool
	size int
}

// add adds the runes from lo to hi as the bytes of their UTF-8.
func (s *byteSet) add(lo, hi rune) {
	if hi >= utf8.RuneSelf {
		hi = 0xff
		lo = min(lo, utf8.RuneSelf)
	}
	for c := lo; c <= hi; c++ {
		if !s.in[c] {
			s.in[c] = true
			s.size++
		}
	}
}

// needed returns bytes of which every match of a simplified expression holds one, as few as it finds, or nil.
func needed(re *syntax.Regexp) *byteSet {
	switch re.Op {
	case syntax.OpLiteral:
		return eaten(&byteSet{}, &syntax.Regexp{Op: re.Op, Flags: re.Flags, Rune: re.Rune[:1]})
	case syntax.OpCharClass:
		return eaten(&byteSet{}, re)
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
			for c, in := range s.in {
				if in {
					all.add(rune(c), rune(c))
				}
			}
		}
		return all
	}
	return nil // what may be absent, and what any character is
}

// eaten adds the bytes that a match can hold.
func eaten(s *byteSet, re *syntax.Regexp) *byteSet {
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			s.add(r, r)
			for f := unicode.SimpleFold(r); re.Flags&syntax.FoldCase != 0 && f != r; f = unicode.SimpleFold(f) {
				s.add(f, f)
			}
		}
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			s.add(re.Rune[i], re.Rune[i+1])
		}
	case syntax.OpAnyChar:
		s.add(0, unicode.MaxRune)
	case syntax.OpAnyCharNotNL:
		s.add(0, '\n'-1)
		s.add('\n'+1, unicode.MaxRune)
	}
	for _, sub := range re.Sub {
		eaten(s, sub)
	}
	return s
}

// endless is the length of matches that have no longest.
const endless = 1 << 30

// lengths returns the lengths of the shortest and the longest match of a simplified expression, in bytes.
func lengths(re *syntax.Regexp) (shortest, longest int) {
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune), utf8.UTFMax * len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, utf8.UTFMax
	case syntax.OpStar:
		return 0, endless
	case syntax.OpPlus:
		shortest, _ = lengths(re.Sub[0])
		return shortest, endless
	case syntax.OpQuest:
		_, longest = lengths(re.Sub[0])
		return 0, longest
	case syntax.OpAlternate:
		shortest = endless
		for _, sub := range re.Sub {
			low, high := lengths(sub)
			shortest, longest = min(shortest, low), max(longest, high)
		}
		return shortest, longest
	}
	for _, sub := range re.Sub {
		low, high := lengths(sub)
		shortest, longest = shortest+low, min(longest+high, endless)
	}
	return shortest, longest
}
