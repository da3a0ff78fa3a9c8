package scope

import (
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func compiled(t testing.TB, entries ...string) *scrubber {
	t.Helper()
	h := redaction{}
	for _, entry := range entries {
		require.Empty(t, h.add(entry), entry)
	}
	return h.patterns.scrubber()
}

// S0-27: what the pattern phone finds in text, and what it leaves alone.
func TestPhoneNumbersInText(t *testing.T) {
	p := compiled(t, "phone")
	for text, want := range map[string]string{
		"+1 (555) 123-4567":             "[redacted]",
		"tel:+15551234567":              "tel:[redacted]",
		"call +1-555-010-2000 now":      "call [redacted] now",
		"(+44) 20 7946 0958.":           "[redacted].",
		"+49 (0) 30 / 90 18 20":         "[redacted]",
		"+1.5551234567":                 "[redacted]",
		"(555) 123-4567":                "[redacted]",
		"555-123-4567, or 555.123.4568": "[redacted], or [redacted]",
		"1 800 555 1234":                "[redacted]",
		"555 123 4567 555 987 6543":     "[redacted]",
		"5551234567":                    "[redacted]",
		"15551234567":                   "[redacted]",
		"447700900123":                  "[redacted]",
		"0044 20 7946 0958":             "[redacted]",
		"020 7946 0958":                 "[redacted]",
		"06 12 34 56 78":                "[redacted]",
		"06.12.34.56.78":                "[redacted]",
		"0612345678":                    "[redacted]",
		"030/901820":                    "[redacted]",
		"98765 43210":                   "[redacted]",
		"(11) 91234-5678":               "[redacted]",
		"555-1234567":                   "[redacted]",
		"电话13812345678。":                "电话[redacted]。",
		"＋１（５５５）１２３－４５６７":                      "[redacted]",
		"٠٥٥٥ ١٢٣ ٤٥٦٧":                        "[redacted]",
		"+1\u2011555\u2011123\u20114567":       "[redacted]",
		"+1\u00a0555\u00a0123\u00a04567":       "[redacted]",
		"555\u200b123\u200b4567":               "[redacted]",
		"https://x.test/c?to=%2B15551234567":   "https://x.test/c?to=[redacted]",
		"https://x.test/c?to=555%20123%204567": "https://x.test/c?to=[redacted]",
		"wa.me/15551234567?text=hi":            "wa.me/[redacted]?text=hi",
		"sip:+15551234567@pbx.test":            "sip:[redacted]@pbx.test",
		"2026-01-20T10:00:00Z 555-123-4567":    "2026-01-20T10:00:00Z [redacted]",
		"+1 555 123 4567 2026-01-20T10:00:00Z": "[redacted] 2026-01-20T10:00:00Z",
		"phone_5551234567":                     "phone_[redacted]",
	} {
		got, changed := p.Text("", text)
		assert.Equal(t, want, got, text)
		assert.True(t, changed, text)
	}
	for _, text := range []string{
		"2026-01-20T10:00:00.123Z", "2026-01-20 10:00:00.123456789+05:30", "2026-01-20T10:00:00+1030", "2026-01-20",
		"20260120100000", "01/20/2026 10:30", "05.06.2026 1030", "10:00:27.903", "1768903200", "1768903200123", "1768903200.12345",
		"1111111111.11111", "2222222222.11111", "0.5551234567", "85.5551234567", "+5.25", "0.123456789",
		"550e8400-e29b-41d4-a716-446655440000", "12345678-1234-1234-1234-123456789012", "abcdefab-cdef-4abc-8def-446655440000",
		"evt_01KFD4QZ8M0000000000523645", "001D000000IRFmaIAH", "4bf92f3577b34da6a3ce929d0e0e4736", "c5551234567x",
		"192.168.100.200", "192.168.100.200:8080", "10.0.0.1", "1.2.3", "40.7128, -74.0060", "51.5074456 -0.1277583",
		"order 4471-22981", "1,000,000,000", "372360", "85", "c-77", "0000012345", "100 200 300", "50% of 20",
		"", "[redacted]", "no digits at all", "Zürich hält 3 Räder",
	} {
		got, changed := p.Text("", text)
		assert.Equal(t, text, got)
		assert.False(t, changed, text)
	}
}

// S0-27: payment cards by Luhn's sum.
func TestCardsInText(t *testing.T) {
	p := compiled(t, "card")
	for text, want := range map[string]string{
		"4111111111111111":                         "[redacted]",
		"4111 1111 1111 1111":                      "[redacted]",
		"4111-1111-1111-1111":                      "[redacted]",
		"4111 - 1111 - 1111 - 1111":                "[redacted]",
		"4111.1111.1111.1111":                      "[redacted]",
		"3782 822463 10005":                        "[redacted]",
		"378282246310005":                          "[redacted]",
		"6304000000000000000":                      "[redacted]",
		"4222222222222":                            "[redacted]",
		"4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1":          "[redacted]",
		"41111 11111 111111":                       "[redacted]",
		"my card is 4111 1111 1111 1111 exp 12/27": "my card is [redacted] exp 12/27",
		"12 4111 1111 1111 1111 999":               "[redacted]",
		"x4111111111111111y":                       "x[redacted]y",
		"4111111111111111.00":                      "[redacted]",
		"４１１１１１１１１１１１１１１１":                         "[redacted]",
		"4111\n1111\n1111\r\n1111":                 "[redacted]",
		"a 4111 1111\n1111 1111\nb":                "a [redacted]\nb",
		"4111\u200b1111\u200b1111\u200b1111":       "[redacted]",
		`{"card":"4111111111111111"}`:              `{"card":"[redacted]"}`,
	} {
		got, changed := p.Text("", text)
		assert.Equal(t, want, got, text)
		assert.True(t, changed, text)
	}
	for _, text := range []string{
		"4111111111111112", "4111 1111 1111 1112", "0.4111111111111111", "1768903200123456", "1000000000000000008", "0000000000000000",
		"2026-01-20 - 2026-01-27", "12345678-4111-1111-1111-111111111111", "abcdefabcdefabcd4111111111111111", "+1 555 123 4567",
	} {
		got, _ := p.Text("", text)
		assert.Equal(t, text, got)
	}
}

// S0-27: social security numbers.
func TestSocialSecurityNumbersInText(t *testing.T) {
	p := compiled(t, "ssn")
	for text, want := range map[string]string{
		"078-05-1120":               "[redacted]",
		"it is 078 05 1120.":        "it is [redacted].",
		"078‑05‑1120":               "[redacted]",
		"my SSN is 078051120":       "my SSN is [redacted]",
		"Social Security 078051120": "Social Security [redacted]",
	} {
		got, _ := p.Text("", text)
		assert.Equal(t, want, got, text)
	}
	got, _ := p.Text("Ssn", "078051120")
	assert.Equal(t, "[redacted]", got)
	for _, text := range []string{"078051120", "2026-01-20", "12-34-5678", "555-123-4567"} {
		got, _ := p.Text("id", text)
		assert.Equal(t, text, got)
	}
}

// S0-27: e-mail addresses.
func TestAddressesInText(t *testing.T) {
	p := compiled(t, "email")
	for text, want := range map[string]string{
		"john.smith+crm@mail.example.com":              "[redacted]",
		"Write to john@example.com.":                   "Write to [redacted].",
		"<john@example.com>, jane@example.org":         "<[redacted]>, [redacted]",
		"mailto:john@example.com?subject=hi":           "mailto:[redacted]?subject=hi",
		"https://x.test/?email=john%40example.com&a=1": "https://x.test/?email=[redacted]&a=1",
		"josé@exämple.com":                             "[redacted]",
		`"John Smith"@example.com`:                     "[redacted]",
		"ｊｏｈｎ＠ｅｘａｍｐｌｅ．ｃｏｍ":                             "[redacted]",
		"o'brien@example.co.uk":                        "[redacted]",
		"写信给 john@example.com。谢谢":                      "写信给 [redacted]。谢谢",
		"用户@例子.公司":                                     "[redacted]",
		"a@b@example.com":                              "a@[redacted]",
	} {
		got, _ := p.Text("", text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"@john", "meet @ 10.30", "john@localhost", "left-pad@1.3.0", "a @ b.com", "@", "100% sure", "x@.com"} {
		got, _ := p.Text("", text)
		assert.Equal(t, text, got)
	}
}

// S0-27: numbers in JSON, however they are spelled.
func TestNumbersThatAreSecrets(t *testing.T) {
	p := compiled(t, "phone", "card", "ssn", `/^99\d{3}$/`)
	for _, literal := range []string{"4111111111111111", "4111111111111111.0", "4.111111111111111e15", "411111111111111.1E1", "-4111111111111111", "5551234567", "15551234567", "447700900123", "99123", "99123.0"} {
		assert.True(t, p.Number("n", literal, false), literal)
	}
	for _, literal := range []string{"0", "85", "85.5", "4111111111111112", "1768903200", "1768903200123", "1768903200123456", "0.4111111111111111", "372360", "1e400", "-0", "078051120", "1E-400", "2e307"} {
		assert.False(t, p.Number("n", literal, false), literal)
	}
	assert.True(t, p.Number("ssn", "123456789", false))
	// Declared numbers are durations, costs and scores: only what is surely a secret is one there.
	assert.True(t, p.Number("cost_micros", "4111111111111111", true))
	assert.True(t, p.Number("cost_micros", "99123", true))
	assert.False(t, p.Number("cost_micros", "5551234567", true))
}

// S0-27: a subscription's own expressions.
func TestExpressions(t *testing.T) {
	p := compiled(t, `/\b[A-Z]{2}\d{6}\b/`, `/(?i)secret\s+\w+/`, `/one two/`, `/two three/`)
	for text, want := range map[string]string{
		"policy AB123456, AB1234567":   "policy [redacted], AB1234567",
		"the SECRET word":              "the [redacted]",
		"secret AB123456 secret thing": "[redacted] [redacted]",
		"nothing":                      "nothing",
		"one two three one two three":  "[redacted] [redacted]",
		"two three":                    "[redacted]",
	} {
		got, _ := p.Text("", text)
		assert.Equal(t, want, got, text)
	}
}

// An expression that runs away is stopped: what it would cost too much to search is hidden.
func TestExpressionsHaveABudget(t *testing.T) {
	for _, c := range []struct{ entry, text, want string }{
		{`/(a|b)*\d{300}/`, strings.Repeat("1", 1<<17), "[redacted]"},                                            // each byte begins 300 attempts
		{`/x.*y|x/`, strings.Repeat("x", 1<<15), "[redacted]"},                                                   // each match looks to the end for a longer one
		{`/x.*y|x/`, "x 1 x", "[redacted] 1 [redacted]"},                                                         //
		{`/(?i)[a-z]+ing\b/`, strings.Repeat("going home. ", 1<<12), strings.Repeat("[redacted] home. ", 1<<12)}, // many, but none goes far
		{`/\d{300}/`, strings.Repeat("home ", 1<<16), strings.Repeat("home ", 1<<16)},                            // nothing that it could begin with
	} {
		p := compiled(t, c.entry)
		p.left = 2 << 20
		got, _ := p.Text("", c.text)
		if got != c.want {
			t.Errorf("%s: %.50s…", c.entry, got)
		}
	}
	p := compiled(t, `/\d{300}/`)
	costly, _ := p.Text("", strings.Repeat("7 ", 10_000)) // three hundred instructions for each byte
	assert.Equal(t, "[redacted]", costly, "one rendering takes some tens of milliseconds at the most")
	p = compiled(t, `/\d{300}/`)
	p.left = 800 * p.expressions[0].size
	text := strings.Repeat("7", 80) + strings.Repeat("y", 300)
	first, _ := p.Text("", text)
	second, _ := p.Text("", text)
	third, _ := p.Text("", text)
	assert.Equal(t, []string{text, text, "[redacted]"}, []string{first, second, third}, "an event's texts share the budget")
	assert.True(t, p.Number("n", strings.Repeat("7", 310), true), "and so do its numbers")
}

func TestLengthsOfMatches(t *testing.T) {
	for pattern, want := range map[string][2]int{
		`abc`: {3, 12}, `a|bcd`: {1, 12}, `a?b`: {1, 8}, `a+b`: {2, endless}, `(a*|b)c`: {1, endless}, `\ba{3}$`: {3, 12}, `[x-z]{2,4}.`: {3, 20}, `(?:)|ab`: {0, 8},
	} {
		parsed, err := syntax.Parse(pattern, syntax.Perl)
		require.NoError(t, err)
		shortest, longest := lengths(parsed.Simplify())
		assert.Equal(t, want, [2]int{shortest, longest}, pattern)
	}
}

// The quick test before a search never says no where the expression would have matched.
func TestNeededBytes(t *testing.T) {
	for pattern, c := range map[string]struct{ needs, lacks string }{
		`\b\d{16}\b`:      {"7", "text"},
		`abc|[0-9]`:       {"xa", "xyz"},
		`(?i)k`:           {"\u212a", "x"},
		`a*b+c?`:          {"b", "a"},
		`(x|y){2,3}z?`:    {"y", "z"},
		`é`:               {"ü", "e"},
		`[^a]`:            {"b", "a"},
		`foo.*[@%]`:       {"f", "@"},
		`(?:\d{3}-){2}\d`: {"-", "12"},
	} {
		x := compiled(t, "/"+pattern+"/").expressions[0]
		assert.True(t, x.possible(strings.Repeat(c.needs, 20)), pattern)
		assert.False(t, x.possible(strings.Repeat(c.lacks, 20)), pattern)
		assert.False(t, x.possible(""), pattern)
	}
	for _, pattern := range []string{`.+`, `a|.`, `(?s).`} {
		assert.True(t, compiled(t, "/"+pattern+"/").expressions[0].possible("q"), pattern)
	}
}

// The look at eight bytes at a time misses nothing.
func TestBytesOf(t *testing.T) {
	for c := range 256 {
		for at := range 19 {
			text := []byte("letters, and more.\n")
			text[at] = byte(c)
			want := uint8(0)
			for _, b := range text {
				want |= kinds[b]
			}
			assert.Equal(t, want, bytesOf(string(text)), "%q", text)
		}
	}
}
