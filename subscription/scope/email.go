package scope

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// findEmails adds the e-mail addresses of a text: something before the @ and a domain with a dot behind it. What stands
// before is taken as far as it can belong to an address, but for / = ? &, which in practice belong to a URL around it.
func findEmails(spans []span, text string) []span {
	for from := 0; ; {
		i := strings.IndexByte(text[from:], '@')
		if i < 0 {
			return spans
		}
		i += from
		lo := i
		for lo > from {
			n := 1
			if !inLocal(text[lo-1]) {
				if n = letterBefore(text[from:lo]); n == 0 {
					break
				}
			}
			lo -= n
		}
		if lo == i && i > from && text[i-1] == '"' { // "a name"@example.com
			if open := strings.LastIndexByte(text[from:i-1], '"'); open >= 0 {
				lo = from + open
			}
		}
		hi := i + 1
		for hi < len(text) {
			n := 1
			if !inDomain(text[hi]) {
				if n = letterBehind(text[hi:]); n == 0 {
					break
				}
			}
			hi += n
		}
		for hi > i+1 && (text[hi-1] == '.' || text[hi-1] == '-') {
			hi--
		}
		from = i + 1
		if lo < i && isDomain(text[i+1:hi]) {
			spans = append(spans, span{lo, hi})
			from = hi
		}
	}
}

func inLocal(c byte) bool { return isAlphanumeric(c) || strings.IndexByte("._%+-'~#$!*^`{|}", c) >= 0 }

func inDomain(c byte) bool { return isAlphanumeric(c) || c == '.' || c == '-' }

// letterBefore is the length of the letter beyond ASCII that s ends with, 0 where it ends with anything else.
func letterBefore(s string) int {
	r, n := utf8.DecodeLastRuneInString(s)
	return n * letter(r)
}

// letterBehind is the length of the letter beyond ASCII that s begins with, 0 where it begins with anything else.
func letterBehind(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	return n * letter(r)
}

func letter(r rune) int {
	if r >= utf8.RuneSelf && r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsMark(r)) {
		return 1
	}
	return 0
}

// isDomain wants a dot, and behind the last one a name that isn't a number: of a version or an address.
func isDomain(s string) bool {
	dot := strings.LastIndexByte(s, '.')
	if dot < 1 || len(s)-dot < 3 {
		return false
	}
	return strings.Trim(s[dot+1:], "0123456789") != ""
}

func isDigit(c byte) bool  { return c-'0' <= 9 }
func isLetter(c byte) bool { return c|0x20-'a' <= 'z'-'a' }

func isAlphanumeric(c byte) bool { return isDigit(c) || isLetter(c) }
