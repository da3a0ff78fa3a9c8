package event

import (
	"math"
	"strconv"
	"strings"
)

// decimal is a JSON number without its spelling: digits without leading or trailing zeros, times ten to the exponent.
type decimal struct {
	negative bool
	digits   string // empty for zero
	exponent int64
}

// farExponent stands for every exponent beyond it; no number of a megabyte of digits comes back from there.
const farExponent = 1 << 40

// parseDecimal takes a literal that is a JSON number.
func parseDecimal(literal string) decimal {
	var d decimal
	literal, d.negative = strings.CutPrefix(literal, "-")
	mantissa, exponent := literal, ""
	if i := strings.IndexAny(literal, "eE"); i >= 0 {
		mantissa, exponent = literal[:i], literal[i+1:]
	}
	if exponent != "" {
		n, err := strconv.ParseInt(exponent, 10, 64)
		if err != nil || n > farExponent || n < -farExponent {
			n = farExponent
			if exponent[0] == '-' {
				n = -n
			}
		}
		d.exponent = n
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	d.exponent -= int64(len(fraction))
	d.digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(d.digits, "0")
	d.exponent += int64(len(d.digits) - len(trimmed))
	d.digits = trimmed
	if d.digits == "" {
		d.exponent = 0
	}
	return d
}

// WholeNumber returns the digits of a JSON number that is a whole one of at most 20 digits, however it is spelled: "85" for
// 85.0 and 0.85e2. A minus sign stays.
func WholeNumber(literal string) (digits string, ok bool) {
	d := parseDecimal(literal)
	if d.exponent < 0 || int64(len(d.digits))+d.exponent > 20 {
		return "", false
	}
	digits = d.digits + strings.Repeat("0", int(d.exponent))
	switch {
	case digits == "":
		return "0", true
	case d.negative:
		return "-" + digits, true
	}
	return digits, true
}

// parseLong reads any spelling of a whole number: 85, 85.0, 1e3. whole is false for one with a fraction, ok for one
// beyond 64 bits as well.
func parseLong(literal string) (n int64, whole, ok bool) {
	if len(literal) <= 18 {
		digits, negative := strings.CutPrefix(literal, "-")
		for i := range len(digits) {
			c := digits[i] - '0'
			if c > 9 {
				return parseLongDecimal(literal)
			}
			n = n*10 + int64(c)
		}
		if negative {
			n = -n
		}
		return n, true, true
	}
	return parseLongDecimal(literal)
}

func parseLongDecimal(literal string) (n int64, whole, ok bool) {
	d := parseDecimal(literal)
	if d.digits == "" {
		return 0, true, true
	}
	if d.exponent < 0 {
		return 0, false, false
	}
	if int64(len(d.digits))+d.exponent > 19 {
		return 0, true, false
	}
	text := d.digits + strings.Repeat("0", int(d.exponent))
	if d.negative {
		text = "-" + text
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, true, err == nil
}

// parseDouble returns the nearest double, whether its shortest spelling has the literal's value, and false for a literal
// beyond the range of doubles.
func parseDouble(literal string) (f float64, exact, ok bool) {
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil || math.IsInf(f, 0) {
		return 0, false, false
	}
	if len(literal) <= 15 && !strings.ContainsAny(literal, "eE") {
		return f, true, true // fifteen digits always survive
	}
	shortest := parseDecimal(strconv.FormatFloat(f, 'e', -1, 64))
	given := parseDecimal(literal)
	shortest.negative, given.negative = shortest.negative && shortest.digits != "", given.negative && given.digits != ""
	return f, shortest == given, true
}

// appendDoubleJSON prints a double as encoding/json does: 85, not 85.0; an exponent only below 1e-6 and from 1e21.
func appendDoubleJSON(dst []byte, f float64) []byte {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 && (f != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(dst, int64(f), 10)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	dst = strconv.AppendFloat(dst, f, format, -1, 64)
	if format == 'e' {
		if n := len(dst); n >= 4 && dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
			dst[n-2] = dst[n-1]
			dst = dst[:n-1]
		}
	}
	return dst
}
