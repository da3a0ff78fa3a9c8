package scope

import (
	"slices"
	"strings"

	"github.com/callstream/callstream/schemas/event"
)

// patterns finds secrets in text.
type patterns struct {
	phone, email, card, ssn bool
	expressions             []*expression
	instructions            int // of all expressions
}

func (p *patterns) empty() bool {
	return !p.phone && !p.email && !p.card && !p.ssn && len(p.expressions) == 0
}

// span is a part of a text, in bytes.
type span struct{ lo, hi int }

// scrubber applies patterns to one event.
type scrubber struct {
	*patterns
	left int // what the expressions may still cost
}

func (p *patterns) scrubber() *scrubber { return &scrubber{patterns: p, left: maxWork} }

// Text returns the text with what the patterns find in it replaced.
func (p *scrubber) Text(name, text string) (string, bool) {
	var room [8]span
	spans := room[:0]
	if p.phone || p.email || p.card || p.ssn {
		spans = p.known(spans, name, text)
	}
	for _, x := range p.expressions {
		var affordable bool
		if spans, affordable = x.find(spans, text, &p.left); !affordable {
			return event.Redacted, true
		}
	}
	if len(spans) == 0 {
		return text, false
	}
	slices.SortFunc(spans, func(a, b span) int { return a.lo - b.lo })
	var b strings.Builder
	at := 0
	for i := 0; i < len(spans); {
		hidden := spans[i]
		for i++; i < len(spans) && spans[i].lo < hidden.hi; i++ {
			hidden.hi = max(hidden.hi, spans[i].hi)
		}
		b.WriteString(text[at:hidden.lo])
		b.WriteString(event.Redacted)
		at = hidden.hi
	}
	b.WriteString(text[at:])
	return b.String(), true
}

// known adds what the named patterns find.
func (p *patterns) known(spans []span, name, text string) []span {
	has := bytesOf(text)
	if has&(hasDigit|hasAt|hasPercent|hasWide) == 0 {
		return spans
	}
	v := view{text: text}
	if has&(hasPercent|hasWide) != 0 {
		if v = normalize(text); v.at != nil {
			has = bytesOf(v.text)
		}
	}
	from := len(spans)
	if has&hasAt != 0 && p.email {
		spans = findEmails(spans, v.text)
	}
	if has&hasDigit != 0 && (p.phone || p.card || p.ssn) {
		spans = p.findNumbers(spans, name, v.text)
		if p.card {
			spans = findBrokenCards(spans, v.text)
		}
	}
	if v.at != nil {
		for i := from; i < len(spans); i++ {
			spans[i] = span{int(v.at[spans[i].lo]), int(v.at[spans[i].hi])}
		}
	}
	return spans
}

// Number reports whether a number is a secret. Of a number that the catalogue declares, a duration or a cost, it is not
// asked whether it could be a phone number or a social security number: too many are.
func (p *scrubber) Number(name, literal string, declared bool) bool {
	digits := literal
	if digits[0] == '-' {
		digits = digits[1:]
	}
	if strings.Trim(digits, "0123456789") != "" { // a fraction or an exponent
		whole, ok := event.WholeNumber(literal)
		if !ok {
			whole = ""
		}
		digits = strings.TrimPrefix(whole, "-")
	}
	switch {
	case p.card && isCard(digits),
		!declared && p.phone && isBarePhone(digits),
		!declared && p.ssn && len(digits) == 9 && (namesSSN(name)):
		return true
	}
	for _, x := range p.expressions {
		for _, text := range [...]string{literal, digits} {
			if found, affordable := x.find(nil, text, &p.left); len(found) > 0 || !affordable {
				return true
			}
			if digits == literal {
				break
			}
		}
	}
	return false
}

// What a text holds.
const (
	hasDigit = 1 << iota
	hasAt
	hasPercent
	hasWide // bytes beyond ASCII
)

// kinds tells what a byte makes a text hold.
var kinds = func() (k [256]uint8) {
	for c := range k {
		switch {
		case '0' <= c && c <= '9':
			k[c] = hasDigit
		case c == '@':
			k[c] = hasAt
		case c == '%':
			k[c] = hasPercent
		case c >= 0x80:
			k[c] = hasWide
		}
	}
	return k
}()

// bytesOf tells what a text holds. Most texts are letters and spaces: eight bytes at a time are passed over if none of them
// is beyond ASCII, a percent sign, or from '0' to '@'.
func bytesOf(text string) (has uint8) {
	const (
		each = 0x0101010101010101
		high = 0x8080808080808080
	)
	i := 0
	for ; len(text)-i >= 8; i += 8 {
		x := uint64(text[i]) | uint64(text[i+1])<<8 | uint64(text[i+2])<<16 | uint64(text[i+3])<<24 |
			uint64(text[i+4])<<32 | uint64(text[i+5])<<40 | uint64(text[i+6])<<48 | uint64(text[i+7])<<56
		low, sign := x&^high, x^each*'%'
		if (x|(low+each*(0x80-'0'))&^(low+each*(0x80-'A'))|(sign-each)&^sign)&high == 0 {
			continue
		}
		for j := range 8 {
			has |= kinds[text[i+j]]
		}
	}
	for ; i < len(text); i++ {
		has |= kinds[text[i]]
	}
	return has
}
