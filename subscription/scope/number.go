package scope

import (
	"slices"
	"strings"
)

// A run is what a text has of digits with nothing but separators between them: "+1 (555) 123-4567", "4111 1111 1111
// 1111", also two numbers with only a space between. If one of the numbers in it is a secret, all of it is hidden: where
// one ends and the next begins can't be told.
type run struct {
	text   string
	groups []span // of digits
	plus   bool   // it begins with a plus sign
	lo     int    // where it begins, with the plus sign or parenthesis before it
}

// maxGap is how many separators may stand between two groups of digits, as in ") - ".
const maxGap = 4

// findNumbers adds the runs of a text that hold a phone number, a payment card or a social security number.
func (p *patterns) findNumbers(spans []span, name, text string) []span {
	var room [16]span
	asked, named := false, false // whether the text says that nine digits are a social security number
	for i := 0; i < len(text); {
		if !isDigit(text[i]) {
			i++
			continue
		}
		if end := notANumber(text, i); end > 0 {
			i = end
			continue
		}
		r := run{text: text, groups: room[:0], lo: i}
		for next := i; next >= 0; {
			end := next + 1
			for end < len(text) && isDigit(text[end]) {
				end++
			}
			r.groups = append(r.groups, span{next, end})
			i = end
			next = nextGroup(text, end)
		}
		r.opening()
		hidden := p.card && r.hasCard() || p.phone && r.hasPhone() || p.ssn && r.hasSSN()
		if !hidden && p.ssn && r.hasNine() {
			if !asked {
				asked, named = true, namesSSN(name) || namesSSN(text)
			}
			hidden = named
		}
		if hidden {
			spans = append(spans, span{r.lo, i})
		}
	}
	return spans
}

// findBrokenCards adds the runs that hold a payment card and go on over line breaks, which separate nothing but cards:
// numbers below each other make phone numbers too easily.
func findBrokenCards(spans []span, text string) []span {
	if !strings.ContainsAny(text, "\r\n") {
		return spans
	}
	p := patterns{card: true}
	return p.findNumbers(spans, "", strings.NewReplacer("\r", " ", "\n", " ").Replace(text))
}

// nextGroup is where the run goes on behind a group that ends at end, -1 where it doesn't.
func nextGroup(text string, end int) int {
	for i := end; i < len(text) && i <= end+maxGap; i++ {
		if isDigit(text[i]) {
			if notANumber(text, i) > 0 {
				return -1
			}
			return i
		}
		if strings.IndexByte(" \t-./()", text[i]) < 0 {
			return -1
		}
	}
	return -1
}

// opening finds what belongs to the first group: a plus sign, and a parenthesis that is closed within the run.
func (r *run) opening() {
	at := r.groups[0].lo
	closed := strings.IndexByte(r.text[at:r.groups[len(r.groups)-1].hi], ')') >= 0
	for i := at - 1; i >= 0 && i >= at-4; i-- {
		switch c := r.text[i]; {
		case c == '+' && !r.plus:
			r.plus, r.lo = true, i
		case c == '(' && closed:
			r.lo = i
		case c != ' ' || r.plus:
			return
		}
	}
}

// digits is the number of digits of the groups from a to b.
func (r *run) digits(a, b int) (n int) {
	for _, g := range r.groups[a:b] {
		n += g.hi - g.lo
	}
	return n
}

func (r *run) size(i int) int       { return r.groups[i].hi - r.groups[i].lo }
func (r *run) first(i int) byte     { return r.text[r.groups[i].lo] }
func (r *run) whole(i int) string   { return r.text[r.groups[i].lo:r.groups[i].hi] }
func (r *run) between(i int) string { return r.text[r.groups[i].hi:r.groups[i+1].lo] }

// open reports whether group i stands behind a parenthesis that closes after it.
func (r *run) open(i int) bool {
	return r.groups[i].lo > 0 && r.text[r.groups[i].lo-1] == '(' && r.groups[i].hi < len(r.text) && r.text[r.groups[i].hi] == ')'
}

// fraction reports whether group i stands behind another and a decimal point.
func (r *run) fraction(i int) bool { return i > 0 && r.between(i-1) == "." }

// glued reports whether group i is part of a word: a letter stands right before or behind it.
func (r *run) glued(i int) bool {
	g := r.groups[i]
	return g.lo > 0 && isLetter(r.text[g.lo-1]) || g.hi < len(r.text) && isLetter(r.text[g.hi])
}

// hasPhone knows these:
//
//	+1 (555) 123-4567, tel:+15551234567   a plus sign and 7 to 15 digits
//	(555) 123-4567, (11) 91234-5678       an area code in parentheses and 6 to 9 digits
//	555-123-4567, 1.555.123.4567          three, three and four digits
//	020 7946 0958, 06 12 34 56 78         a zero, 9 to 12 digits in groups; from two zeros up to 15
//	98765 43210, 555-1234567              ten digits in two groups
//	5551234567, 447700900123, 0612345678  digits alone: see isBarePhone
//
// A decimal point doesn't separate groups, unless there are more of them.
func (r *run) hasPhone() bool {
	n := len(r.groups)
	if r.plus && r.first(0) != '0' {
		decimal := n == 2 && r.between(0) == "." && r.size(1) < 8 // +1.5551234567 is how registries write
		for i := 1; i <= n && !decimal; i++ {
			if d := r.digits(0, i); d > 15 {
				break
			} else if d >= 7 {
				return true
			}
		}
	}
	for i := range n {
		switch size := r.size(i); {
		case i+2 < n && size == 3 && r.size(i+1) == 3 && r.size(i+2) == 4:
			return true
		case size <= 5 && r.open(i) && r.reaches(i+1, 6, 9):
			return true
		case r.glued(i):
		case !r.fraction(i) && (i+1 == n || !r.fraction(i+1)) && isBarePhone(r.whole(i)):
			return true
		case r.first(i) == '0' && (size >= 2 && size <= 6 || r.open(i)) && r.national(i):
			return true
		case i+1 < n && (size == 5 && r.size(i+1) == 5 && r.first(i) >= '6' || size == 3 && r.size(i+1) == 7 && r.first(i) >= '2') && !r.fraction(i+1):
			return true
		}
	}
	return false
}

// reaches reports whether groups from i have between low and high digits together.
func (r *run) reaches(i, low, high int) bool {
	for d := 0; i < len(r.groups); i++ {
		if d += r.size(i); d >= low {
			return d <= high
		}
	}
	return false
}

// national reports whether the groups from i, the first of which begins with a zero, are a number as it is dialled.
func (r *run) national(i int) bool {
	if i+2 < len(r.groups) && r.size(i) <= 2 && r.size(i+1) <= 2 && r.size(i+2) == 4 {
		return false // a date: 01/02/2026
	}
	most := 12
	if strings.HasPrefix(r.whole(i), "00") {
		most = 15
	}
	points := 0
	for d, j := r.size(i), i+1; j < len(r.groups); j++ {
		if d += r.size(j); d > most {
			return false
		}
		if r.fraction(j) {
			points++
		}
		if d >= 9 && (points == 0 || j-i >= 3) {
			return true
		}
	}
	return false
}

// isBarePhone tells a phone number that is digits alone: 10 to 15 that begin with 2 to 9, 11 that begin with 1, 10 or 11
// that begin with one zero, 11 to 15 that begin with two. Numbers of 10 and 13 digits that begin with 1 are times as
// computers count them, and 20260120100000 is one as people write it.
func isBarePhone(digits string) bool {
	n := len(digits)
	if n < 10 || n > 15 {
		return false
	}
	switch {
	case digits[0] == '1':
		return n == 11
	case digits[0] != '0':
		return n != 14 || !isCompactTime(digits)
	case digits[1] == '0':
		return n >= 11 && digits[2] != '0'
	}
	return n <= 11
}

func isCompactTime(s string) bool {
	return (s[:2] == "19" || s[:2] == "20") && inRange(s[4:6], 1, 12) && inRange(s[6:8], 1, 31) &&
		inRange(s[8:10], 0, 23) && inRange(s[10:12], 0, 59) && inRange(s[12:14], 0, 60)
}

func inRange(two string, low, high int) bool {
	n := int(two[0]-'0')*10 + int(two[1]-'0')
	return isDigit(two[0]) && isDigit(two[1]) && low <= n && n <= high
}

// maxCardGroups is how many groups a card is written in at most, unless a run is nothing but the card.
const maxCardGroups = 6

// hasCard looks for 13 to 19 digits that pass the test of payment cards: in one group, in up to six that follow each other,
// or in all of the run's groups, digit by digit even. The digits behind a decimal point are none, unless there are more
// points, as in 4111.1111.1111.1111.
func (r *run) hasCard() bool {
	n := len(r.groups)
	plain := n > maxCardGroups
	for i := range n {
		if !r.fraction(i) && isCard(r.whole(i)) && !r.inHash(i) {
			return true
		}
		points := 0
		for j := i + 1; j < n && j < i+maxCardGroups && r.digits(i, j+1) <= 19; j++ {
			if strings.ContainsAny(r.between(j-1), "/()") {
				break
			}
			if r.fraction(j) {
				points++
			}
			if (points == 0 || points >= 3) && isCard(r.joined(i, j+1)) {
				return true
			}
		}
		plain = plain && (i == 0 || !strings.ContainsAny(r.between(i-1), "./()"))
	}
	return plain && isCard(r.joined(0, n))
}

// joined is the digits of the groups from a to b, empty where they are too few or too many for a card.
func (r *run) joined(a, b int) string {
	if n := r.digits(a, b); n < 13 || n > 19 {
		return ""
	}
	var digits []byte
	for _, g := range r.groups[a:b] {
		digits = append(digits, r.text[g.lo:g.hi]...)
	}
	return string(digits)
}

// inHash reports whether group i is part of a hash or a random id in hexadecimal, of the usual lengths.
func (r *run) inHash(i int) bool {
	if !r.glued(i) {
		return false
	}
	lo, hi := r.groups[i].lo, r.groups[i].hi
	for lo > 0 && isAlphanumeric(r.text[lo-1]) {
		lo--
	}
	for hi < len(r.text) && isAlphanumeric(r.text[hi]) {
		hi++
	}
	switch hi - lo {
	case 24, 32, 40, 64:
		return allHex(r.text[lo:hi])
	}
	return false
}

func allHex(s string) bool {
	for i := range len(s) {
		if hex(s[i]) == 255 {
			return false
		}
	}
	return true
}

// isCard tests 13 to 19 digits by Luhn's sum. Cards don't begin with 0, and with 1 only those of 15 digits: that leaves
// out times in milli-, micro- and nanoseconds and most ids that are made of them.
func isCard(digits string) bool {
	n := len(digits)
	if n < 13 || n > 19 || digits[0] == '0' || digits[0] == '1' && n != 15 {
		return false
	}
	sum := 0
	for i := range n {
		d := int(digits[n-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

// hasSSN looks for three, two and four digits.
func (r *run) hasSSN() bool {
	for i := 0; i+2 < len(r.groups); i++ {
		if r.size(i) == 3 && r.size(i+1) == 2 && r.size(i+2) == 4 {
			return true
		}
	}
	return false
}

// hasNine looks for nine digits in one group, which are a social security number where something says so.
func (r *run) hasNine() bool {
	return slices.ContainsFunc(r.groups, func(g span) bool { return g.hi-g.lo == 9 })
}

// namesSSN reports whether a text or a member's name speaks of social security numbers.
func namesSSN(text string) bool { return containsFold(text, "ssn") || containsFold(text, "social") }

// containsFold looks for a word of lower-case letters, whatever the case of the text.
func containsFold(text, word string) bool {
	for i := 0; i+len(word) <= len(text); i++ {
		if text[i]|0x20 == word[0] && strings.EqualFold(text[i:i+len(word)], word) {
			return true
		}
	}
	return false
}

// notANumber returns the end of a date, a time or a UUID that has its first digit at i, 0 where there is none.
func notANumber(text string, i int) int {
	if end := timeEnd(text, i); end > 0 {
		return end
	}
	return uuidEnd(text, i)
}

// timeEnd passes over a date such as 2026-01-20 and the time behind it, with its fraction and offset.
func timeEnd(s string, i int) int {
	if len(s)-i < 10 || s[i+4] != '-' || s[i+7] != '-' || s[i:i+2] != "19" && s[i:i+2] != "20" || !isDigit(s[i+2]) || !isDigit(s[i+3]) ||
		!inRange(s[i+5:i+7], 1, 12) || !inRange(s[i+8:i+10], 1, 31) {
		return 0
	}
	i += 10
	digitAt := func(i int) bool { return i < len(s) && isDigit(s[i]) }
	clock := func(i int) bool {
		return len(s)-i >= 6 && s[i+3] == ':' && inRange(s[i+1:i+3], 0, 23) && inRange(s[i+4:i+6], 0, 59)
	}
	if i < len(s) && (s[i]|0x20 == 't' || s[i] == ' ') && clock(i) {
		i += 6
		if len(s)-i >= 3 && s[i] == ':' && inRange(s[i+1:i+3], 0, 60) {
			i += 3
			if i < len(s) && s[i] == '.' && digitAt(i+1) {
				for i++; digitAt(i); i++ {
				}
			}
		}
		if i < len(s) && (s[i] == '+' || s[i] == '-') && clock(i) {
			i += 6
		}
	}
	if digitAt(i) {
		return 0
	}
	return i
}

// uuidEnd passes over a UUID.
func uuidEnd(s string, i int) int {
	lo := i
	for lo > 0 && i-lo < 8 && hex(s[lo-1]) < 16 {
		lo--
	}
	for _, before := range [...]int{0, 9, 14, 19, 24} {
		if u := lo - before; u >= 0 && isUUID(s[u:]) && (u == 0 || !isAlphanumeric(s[u-1])) {
			return u + 36
		}
	}
	return 0
}

// isUUID reports whether s begins with a UUID.
func isUUID(s string) bool {
	if len(s) < 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' || len(s) > 36 && isAlphanumeric(s[36]) {
		return false
	}
	return allHex(s[:8]) && allHex(s[9:13]) && allHex(s[14:18]) && allHex(s[19:23]) && allHex(s[24:36])
}
