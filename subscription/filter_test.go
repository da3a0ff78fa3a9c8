package subscription

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
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
			"transfer": map[string]any{"mode": "warm", "recipient": "Priya"},
			"tags":     []any{"sales", "demo"},
			"segments": segments, "a/b": "odd",
		},
	}
}

// S0-06, S1-01, S2-17, P-04: rules on any field, with the reason where they don't match.
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
		{"event.type == 'call.ended' && event.data.disposition == 'qualified'", true, "", ""},
		{"event.data.transfer.mode == 'warm' && event.data.transfer.recipient != ''", true, "", ""},
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
		matched, reason, detail := f.match(sample(), nil)
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
		"event.data.x.matches('(')":       {1, 21},
		"event.type == 'a' &&\n event.data.x.matches(event.data.y)":         {2, 22},
		"event.type == 'a' &&\n  timestamp('noon') < timestamp(event.time)": {2, 12},
	} {
		_, err := CompileFilter(expr)
		var bad *ExpressionError
		require.True(t, errors.As(err, &bad), "%q: %v", expr, err)
		require.Equal(t, place, [2]int{bad.Line, bad.Column}, "%q: %v", expr, err)
		require.NotContains(t, bad.Detail, "\n")
	}
}

// hostile are expressions that would take minutes, or all memory, without a bound.
func hostile() []string {
	every := func(inside string) string { return "event.data.segments.all(x, " + inside + ")" }
	// Nine times in tens.
	grown := func(step string) string { return "[[1]]" + strings.Repeat(".map(a, "+step+")", 9) + "[0]" }
	const lists, maps, sum = "[a, a, a, a, a, a, a, a, a, a]", "{0: a, 1: a, 2: a, 3: a, 4: a, 5: a, 6: a, 7: a, 8: a, 9: a}", "a + a + a + a + a + a + a + a + a + a"
	nested := "true"
	for range 6 {
		nested = every(nested)
	}
	return []string{
		nested,
		"event.data.segments.all(a, event.data.segments.all(b, a.text + b.text != 'x'))",
		"event.data.segments.map(a, event.data.segments.map(b, event.data.segments)).size() > 0",
		"event.data.segments.filter(s, true).map(s, s.text + s.text + s.text).map(s, s + s + s).map(s, s + s + s).all(s, s.contains('b'))",
		// Nested lists that hold the same one ten times: a billion steps in a single comparison.
		grown(lists) + " == " + grown(lists),
		grown(lists) + " != " + grown(lists),
		"[" + grown(lists) + "] == [" + grown(lists) + "]",
		"optional.of(" + grown(maps) + ") == optional.of(" + grown(maps) + ")",
		grown(lists) + " in [" + grown(lists) + "]",
		every(every("x in event.data.segments")),
		every("event.data == event.data"),
		// Lists and texts that grow tenfold.
		"2 in " + grown(sum),
		grown(sum) + ".exists(x, x > 1)",
		"[event.data.long]" + strings.Repeat(".map(a, "+sum+")", 9) + "[0].size() > 1",
		"[['']]" + strings.Repeat(".map(a, "+sum+")", 9) + "[0].join() == ''",
		"event.data.long.replace('', event.data.long) == ''",
		"event.data.long.split('').join(event.data.long) == ''",
		// Patterns.
		"event.data.long.matches('(a|aa)*b')",
		every("event.data.long.matches('(a?){200}(a{200})*b')"),
		// A little, very often, on a long text.
		every(every("size(event.data.long) > 5")),
		every(every("bytes(event.data.long) != b''")),
		every(every("string(event.data.long) != ''")),
		every(every("event.data.long < event.data.long + 'a'")),
		every(every("event.data.long.lowerAscii() != ''")),
		every(every("event.data.long.substring(5, 6) == 'a'")),
		every(every("timestamp('2026-01-20T10:00:00Z').getHours('America/New_York') < 24")),
	}
}

// refused are expressions that are no filters at all.
func refused() []string {
	return []string{
		strings.Repeat("(", 5000) + "true" + strings.Repeat(")", 5000),
		"[[1]]" + strings.Repeat(".map(a, [a])", 40) + " == []", // seconds for the checker alone
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + " == []",
		"event" + strings.Repeat(".a", 3000) + " == 1",
		strings.Repeat("a", 100_000),
		"'" + strings.Repeat("x", 9000) + "' == ''",
		"event.data.x.matches('(((a{100}){100}){100})')",
		"event.data.x.matches('(a?){2000}')",
		"event.data.x.matches(event.data.y)",
		"event.data.x.matches(event.data.y + '(a*)*')",
		"'%s'.format([event]) == ''",
		"event.data.x.indexOf(event.data.y) == 1",
		"\xff\xfe == 1",
	}
}

func longSample() map[string]any {
	s := sample()
	s["data"].(map[string]any)["long"] = strings.Repeat("a", 1<<20)
	thousands := make([]any, 3000)
	for i := range thousands {
		thousands[i] = map[string]any{"speaker": "agent", "text": strings.Repeat("a", 200)}
	}
	thousands[2999].(map[string]any)["speaker"] = "caller"
	s["data"].(map[string]any)["thousands"] = thousands
	return s
}

// An expression that runs away is refused when it is saved, or stopped by its budget and explained: as a filter, and as a
// template. Without a bound most of these would not end while anybody waits.
func TestRunawayExpressionsAreStopped(t *testing.T) {
	for _, expr := range refused() {
		_, err := CompileFilter(expr)
		var bad *ExpressionError
		require.ErrorAs(t, err, &bad, "%.60s", expr)
		_, err = CompileTemplate(expr)
		require.ErrorAs(t, err, &bad, "%.60s", expr)
	}
	members := longSample()
	raw, err := json.Marshal(members)
	require.NoError(t, err)
	e, err := event.Parse(raw)
	require.NoError(t, err)
	for _, expr := range hostile() {
		f, err := CompileFilter(expr)
		require.NoError(t, err, "%.60s", expr)
		matched, reason, detail := f.match(members, nil)
		require.False(t, matched, "%.60s", expr)
		require.Equal(t, ReasonFilterError, reason, "%.60s", expr)
		require.Regexp(t, "takes too long|more than [0-9]+ (bytes|values)", detail, "%.60s", expr)

		template, err := CompileTemplate("[" + expr + "]")
		require.NoError(t, err, "%.60s", expr)
		_, err = template.AppendJSON(nil, e)
		var failed *TemplateError
		require.ErrorAs(t, err, &failed, "%.60s", expr)
		require.Regexp(t, "takes too long|more than [0-9]+ (bytes|values)", failed.Detail, "%.60s", expr)
	}
}

// A pattern on a long text is not even begun.
func TestAPatternThatWouldTakeTooLongIsNotRun(t *testing.T) {
	f, err := CompileFilter("event.data.long.matches('(a?){200}(a{200})*b')")
	require.NoError(t, err)
	_, reason, detail := f.match(longSample(), nil)
	require.Equal(t, ReasonFilterError, reason)
	require.Equal(t, "matches takes too long on a text of 1048576 bytes", detail)
	// Where the other side decides, it does not matter.
	f, err = CompileFilter("event.data.long.matches('(a?){200}(a{200})*b') || event.data.vip")
	require.NoError(t, err)
	matched, _, _ := f.match(longSample(), nil)
	require.True(t, matched)
}

// What an honest filter does on a large event stays within the budget.
func TestHonestFiltersAreNotStopped(t *testing.T) {
	for _, expr := range []string{
		"event.data.segments.exists(s, s.text.contains('refund') || s.speaker == 'agent')",
		"event.data.segments.filter(s, s.speaker == 'agent').size() == 300",
		"event.data.segments.all(s, s.text.matches('^a+$'))",
		"event.data.segments.all(s, !s.text.matches('(a|a|b)*(a|a|c)*(x+x+)+y'))",
		"size(event.data.long) > 1000",
		"event.data.long.startsWith('aaa')",
		"event.data.tags == ['sales', 'demo'] && 'demo' in event.data.tags",
		"event.data.segments[0] in event.data.segments",
		"event.data.disposition.lowerAscii() in ['qualified', 'won']",
		"event.data.?campaign.orValue('none') == 'none'",
		"event.data.thousands.exists(s, s.text.contains('refund') || s.speaker == 'caller')",
		"event.data.thousands.filter(s, s.speaker == 'caller').size() == 1",
		"event.data.segments.exists(s, s.text.lowerAscii().contains('aaa'))",
	} {
		f, err := CompileFilter(expr)
		require.NoError(t, err, expr)
		matched, reason, detail := f.match(longSample(), nil)
		require.True(t, matched, "%s: %s %s", expr, reason, detail)
	}
}

// S1-01: whatever the filter says and the event holds, there is an answer and a reason.
func FuzzFilter(f *testing.F) {
	f.Add("event.data.disposition == 'qualified'", []byte(callEnded))
	f.Add("event.data.x.matches('(')", []byte(callEnded))
	for _, expr := range append(hostile(), refused()...) {
		f.Add(expr, []byte(callEnded))
	}
	f.Fuzz(func(t *testing.T, expr string, raw []byte) {
		filter, err := CompileFilter(expr)
		if err != nil {
			var bad *ExpressionError
			require.ErrorAs(t, err, &bad)
			require.NotEmpty(t, bad.Detail)
			return
		}
		members := sample()
		if e, err := event.Parse(raw); err == nil {
			members = e.Map()
		}
		if matched, reason, detail := filter.match(members, nil); !matched {
			require.Contains(t, []string{ReasonFiltered, ReasonMissingField, ReasonFilterError}, reason)
			require.Equal(t, reason == ReasonFiltered, detail == "")
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	f, err := CompileFilter("event.data.disposition == 'qualified' && event.data.score > 80")
	require.NoError(b, err)
	event := sample()
	b.ReportAllocs()
	for b.Loop() {
		f.match(event, nil)
	}
}
