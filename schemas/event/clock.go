package event

import "time"

// parseTime reads an RFC 3339 time: the nearest microsecond since 1970 UTC, and whether that is all there is to it. A leap
// second is the second after it, and a year that UTC moves out of 0000..9999 cannot be printed again: neither is exact.
func parseTime(s string) (micros int64, exact, ok bool) {
	if len(s) < len("2006-01-02T15:04:05Z") || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return 0, false, false
	}
	year, month, day := digits(s, 0, 4), digits(s, 5, 7), digits(s, 8, 10)
	hour, minute, second := digits(s, 11, 13), digits(s, 14, 16), digits(s, 17, 19)
	if year < 0 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60 {
		return 0, false, false
	}
	exact = second < 60
	i := 19
	var fraction int64
	if s[i] == '.' {
		start, scale := i+1, int64(100_000)
		for i++; i < len(s) && s[i]-'0' <= 9; i++ {
			d := int64(s[i] - '0')
			switch {
			case scale > 0:
				fraction += d * scale
				scale /= 10
			case i == start+6 && d >= 5:
				fraction++
				exact = false
			case d != 0:
				exact = false
			}
		}
		if i == start {
			return 0, false, false
		}
	}
	offset := 0
	switch rest := s[i:]; {
	case rest == "Z" || rest == "z":
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':':
		h, m := digits(rest, 1, 3), digits(rest, 4, 6)
		if h < 0 || h > 23 || m < 0 || m > 59 {
			return 0, false, false
		}
		if offset = h*3600 + m*60; rest[0] == '-' {
			offset = -offset
		}
	default:
		return 0, false, false
	}
	seconds := daysFrom1970(year, month, day)*86400 + int64(hour*3600+minute*60+second-offset)
	micros = seconds*1e6 + fraction
	if micros < minMicros || micros > maxMicros {
		exact = false
	}
	return micros, exact, true
}

// The years 0000 to 9999, all that RFC 3339 can say.
const (
	minMicros = -62167219200 * 1e6
	maxMicros = 253402300800*1e6 - 1
)

// digits reads s[lo:hi], all of it digits, or returns -1.
func digits(s string, lo, hi int) int {
	n := 0
	for _, c := range []byte(s[lo:hi]) {
		if c -= '0'; c > 9 {
			return -1
		}
		n = n*10 + int(c)
	}
	return n
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysFrom1970 counts days in the Gregorian calendar, with years that begin in March so that leap days come last.
func daysFrom1970(year, month, day int) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	era := year / 400
	if year < 0 {
		era = (year - 399) / 400
	}
	yoe := year - era*400
	doy := (153*(month-3)+2)/5 + day - 1
	return int64(era)*146097 + int64(yoe*365+yoe/4-yoe/100+doy) - 719468
}

// appendTime prints microseconds since 1970 in UTC as RFC 3339, with as many digits of a second as it takes.
func appendTime(dst []byte, micros int64) []byte {
	return time.UnixMicro(micros).UTC().AppendFormat(dst, time.RFC3339Nano)
}

// hold returns the time with the precision of its column, so that an event prints the same before and after the wire.
func hold(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
