package subscription

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sample() map[string]any {
	segments := make([]any, 300)
	for i := range segments {
		segments[i] = map[string]any{"speaker": "agent", "text": strings.Repeat("a", 200)}
	}
	return map[string]any{
		"id": "evt_1", "type": "call.ended", "tenant": "acme", "call_id": "c-1",
		"data": map[string]any{
			"disposition": "qualified", "score": 85.5, "duration": int64(120), "vip": true,
			"caller":   map[string]any{"phone_number": "+1-555", "name": "Ann"},
			"tags":     []any{"sales", "demo"},
			"segments": segments, "a/b": "odd",
		},
	}
}

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		expr           string
		matched        bool
		reason, detail string
	}{
		{"event.data.disposition == 'qualified'", true, "", ""},
		{"event.data.disposition == 'lost'", false, ReasonFiltered, ""},
		{"event.data.score > 80", true, "", ""}, // a double against an integer
		{"event.data.score >= 85.5 && event.data.duration < 200", true, "", ""},
		{"event.data.vip", true, "", ""},
		{"'sales' in event.data.tags", true, "", ""},
		{"event.data.caller.phone_number.startsWith('+1')", true, "", ""},
		{"event.data['a/b'] == 'odd'", true, "", ""},
		{"event.data.tags.exists(t, t == 'demo')", true, "", ""},
		{"has(event.data.campaign)", false, ReasonFiltered, ""},
		{"has(event.data.campaign) && event.data.campaign == 'x'", false, ReasonFiltered, ""},
		{"event.data.campaign == 'x' || event.data.vip", true, "", ""}, // an error that the other side outvotes
		{"event.data.campaign == 'x'", false, ReasonMissingField, "data.campaign"},
		{"event.agent_id == 'a'", false, ReasonMissingField, "agent_id"},
		{"event.data.caller.address.city == 'x'", false, ReasonMissingField, "data.caller.address"},
		{"event.data['campaign'] == 'x'", false, ReasonMissingField, "data.campaign"},
		{"event.data.segments.exists(s, s.sentiment == 'bad')", false, ReasonMissingField, "sentiment"},
		{"event.data.disposition > 5", false, ReasonFilterError, ""},
		{"event.data.disposition", false, ReasonFilterError, ""},
		{"event.data.tags[9] == 'x'", false, ReasonFilterError, ""},
		{"1 / (event.data.duration - 120) == 1", false, ReasonFilterError, ""},
		{"event.data.disposition.nothing == 1", false, ReasonFilterError, ""},
	} {
		f, err := CompileFilter(c.expr)
		require.NoError(t, err, c.expr)
		matched, reason, detail := f.match(sample())
		require.Equal(t, c.matched, matched, "%s: %s", c.expr, detail)
		require.Equal(t, c.reason, reason, "%s: %s", c.expr, detail)
		if c.reason == ReasonMissingField {
			require.Equal(t, c.detail, detail, c.expr)
		}
	}
}

func TestANilFilterMatches(t *testing.T) {
	matched, _, _ := (*Filter)(nil).Match(nil)
	require.True(t, matched)
}

func TestBadFiltersShowThePlace(t *testing.T) {
	for expr, place := range map[string][2]int{
		"event.data.x ==":                 {1, 16},
		"event.data.x == 1 &&\n  foo > 2": {2, 3},
		"events.data.x == 1":              {1, 1},
		"event.data.x.matches(5)":         {1, 21},
		"'text'":                          {1, 1},
		"1 + 1":                           {1, 1},
		"":                                {1, 1},
		"event.data.x == 'é' && y":        {1, 24},
		"event.data.x.matches('(')":       {1, 1},
	} {
		_, err := CompileFilter(expr)
		var bad *ExpressionError
		require.True(t, errors.As(err, &bad), "%q: %v", expr, err)
		require.Equal(t, place, [2]int{bad.Line, bad.Column}, "%q: %v", expr, err)
		require.NotContains(t, bad.Detail, "\n")
	}
}

// Whatever a filter says and whatever the event holds, it is refused when saved or ends at its budget.
func TestHostileFilters(t *testing.T) {
	nested := "true"
	for range 6 {
		nested = "event.data.segments.all(x, " + nested + ")"
	}
	for _, expr := range []string{
		nested,
		"event.data.segments.all(a, event.data.segments.all(b, a.text + b.text != 'x'))",
		"event.data.segments.map(a, event.data.segments.map(b, event.data.segments)).size() > 0",
		"event.data.segments.all(s, s.text.matches('(a|a|b)*(a|a|c)*(x+x+)+y'))",
		"event.data.segments.all(s, s.text.matches(s.text + '(a*)*' + s.text))",
		strings.Repeat("(", 5000) + "true" + strings.Repeat(")", 5000),
		strings.Repeat("!", 5000) + "true",
		"true" + strings.Repeat(" && true", 900),
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + " == []",
		"event" + strings.Repeat(".a", 3000) + " == 1",
		strings.Repeat("a", 100_000),
		"'" + strings.Repeat("x", 9000) + "' == ''",
		"event.data.x.matches('(((a{100}){100}){100})')",
		"\xff\xfe == 1",
		"event.data.x == '\x00'",
		"event.data.segments.filter(s, true).map(s, s.text + s.text + s.text).map(s, s + s + s).map(s, s + s + s).all(s, s.contains('b'))",
	} {
		f, err := CompileFilter(expr)
		if err != nil {
			continue
		}
		matched, reason, _ := f.match(sample())
		if !matched {
			require.NotEmpty(t, reason)
		}
	}
	for _, expr := range []string{nested, "event.data.segments.all(a, event.data.segments.all(b, a.text + b.text != 'x'))"} {
		f, err := CompileFilter(expr)
		require.NoError(t, err)
		matched, reason, detail := f.match(sample())
		require.False(t, matched)
		require.Equal(t, ReasonFilterError, reason)
		require.Equal(t, "the filter takes too long on this event", detail)
	}
}

func FuzzCompileFilter(f *testing.F) {
	f.Add("event.data.disposition == 'qualified'")
	f.Add("event.data.x.matches('(')")
	f.Fuzz(func(_ *testing.T, expr string) {
		filter, err := CompileFilter(expr)
		if err == nil {
			filter.match(sample())
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	f, err := CompileFilter("event.data.disposition == 'qualified' && event.data.score > 80")
	require.NoError(b, err)
	event := sample()
	b.ReportAllocs()
	for b.Loop() {
		f.match(event)
	}
}
