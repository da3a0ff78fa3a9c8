package scope

import (
	"unicode"
	"unicode/utf8"
)

// view is a text as the patterns see it: digits of every script, full-width letters and signs, the dashes and spaces of
// typesetters and the escapes of URLs stand there as the plain ASCII that they are read as, and what has no width is gone.
type view struct {
	text string
	at   []int32 // where each byte, and the end, stands in the original; nil where they are the same
}

// normalize returns the view of a text.
func normalize(text string) view {
	out := make([]byte, 0, len(text))
	at := make([]int32, 0, len(text)+1)
	changed := false
	for i := 0; i < len(text); {
		c, n := text[i], 1
		plain := true
		switch {
		case c == '%':
			if d, ok := percent(text[i:]); ok && ' ' <= d && d < 0x7f {
				c, n, changed = d, 3, true
			}
		case c >= utf8.RuneSelf:
			var r rune
			r, n = utf8.DecodeRuneInString(text[i:])
			var visible bool
			if c, visible = ascii(r); !visible {
				i, changed = i+n, true
				continue
			}
			plain = c != 0
			changed = changed || plain
		}
		if plain {
			out, at = append(out, c), append(at, int32(i))
		} else {
			for j := range n {
				out, at = append(out, text[i+j]), append(at, int32(i))
			}
		}
		i += n
	}
	if !changed {
		return view{text: text}
	}
	return view{text: string(out), at: append(at, int32(len(text)))}
}

func percent(s string) (c byte, ok bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, lo := hex(s[1]), hex(s[2])
	return hi<<4 | lo, hi < 16 && lo < 16
}

// hex is the value of a hexadecimal digit, 255 for anything else.
func hex(c byte) byte {
	switch {
	case isDigit(c):
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 255
}

// ascii is the ASCII character that r is read as, 0 where there is none. visible is false for one that takes no room.
func ascii(r rune) (c byte, visible bool) {
	switch {
	case 0xFF01 <= r && r <= 0xFF5E: // full width
		return byte(r - 0xFF01 + '!'), true
	case unicode.Is(unicode.Nd, r):
		return '0' + digitValue(r), true
	case unicode.Is(unicode.Pd, r) || r == '\u2212': // a minus sign
		return '-', true
	case unicode.Is(unicode.Zs, r):
		return ' ', true
	case unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Variation_Selector, r) || r == '\u034f':
		return 0, false
	}
	return 0, true
}

// digitValue is the value of a decimal digit. Unicode has each script's ten in order, and their ranges begin with a zero.
func digitValue(r rune) byte {
	for _, x := range unicode.Nd.R16 {
		if rune(x.Lo) <= r && r <= rune(x.Hi) {
			return byte((r - rune(x.Lo)) % 10)
		}
	}
	for _, x := range unicode.Nd.R32 {
		if rune(x.Lo) <= r && r <= rune(x.Hi) {
			return byte((r - rune(x.Lo)) % 10)
		}
	}
	return 0
}
