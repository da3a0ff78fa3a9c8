package subscription

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/schemas/event"
)

const callEnded = `{"id":"evt_1","type":"call.ended","call_id":"c-1","time":"2026-01-20T10:00:00.123Z","tenant":"acme","data":{
	"score":85,"duration_ms":120000,"disposition":"qualified","caller":{"phone_number":"+1-555","name":"Zoë <b>"},"tags":["b","a"],
	"crm":{"z":1,"a":[{"n":85.0},{"n":1e21},{"n":0.1}],"nothing":null,"yes":true}}}`

func body(t *testing.T, template, event string) (string, error) {
	t.Helper()
	c, err := CompileTemplate(template)
	require.NoError(t, err, template)
	out, err := c.AppendJSON([]byte("before:"), accepted(t, event, now))
	require.True(t, strings.HasPrefix(string(out), "before:"))
	return strings.TrimPrefix(string(out), "before:"), err
}

// S1-14: a template maps fields to whatever the endpoint calls them; names are sorted, numbers print as events print them.
func TestTemplates(t *testing.T) {
	for template, want := range map[string]string{
		`event.data.score`: `85`,
		`event.data.crm`:   `{"a":[{"n":85},{"n":1e+21},{"n":0.1}],"nothing":null,"yes":true,"z":1}`,
		`{"lead": event.data.caller.name, "id": event.id, "at": event.time}`:                `{"at":"2026-01-20T10:00:00.123Z","id":"evt_1","lead":"Zoë <b>"}`,
		`{"min": event.data.duration_ms / 60000, "half": event.data.score / 2.0}`:           `{"half":42.5,"min":2}`,
		`[event.data.tags, event.data.disposition == "lost", null, 1u, b"ab", -0.0, 1e300]`: `[["b","a"],false,null,1,"YWI=",-0,1e+300]`,
		`{1: "a", true: "b"}`:                                                                                    `{"1":"a","true":"b"}`,
		`event.data.tags.map(t, {"tag": t.upperAscii()})`:                                                        `[{"tag":"B"},{"tag":"A"}]`,
		`event.data.caller.phone_number.replace("-", "").substring(1)`:                                           `"1555"`,
		`event.data.tags.join(", ") + "/" + "a,b".split(",")[1].trim()`:                                          `"b, a/b"`,
		`base64.encode(b"x") + string(base64.decode("eA=="))`:                                                    `"eA==x"`,
		`{"campaign": event.data.?campaign.orValue("none"), ?"agent": event.?agent_id, ?"call": event.?call_id}`: `{"call":"c-1","campaign":"none"}`,
		`has(event.data.campaign) ? event.data.campaign : null`:                                                  `null`,
		`optional.none()`:                                           `null`,
		`timestamp(event.time) + duration("1h")`:                    `"2026-01-20T11:00:00.123Z"`,
		`timestamp("2026-01-20T11:00:00Z") - timestamp(event.time)`: `"3599.877s"`,
		`"a".replace("a", "b", 0) + "aaa".replace("a", "b", 2)`:     `"abba"`,
	} {
		got, err := body(t, template, callEnded)
		require.NoError(t, err, template)
		assert.Equal(t, want, got, template)
		assert.True(t, json.Valid([]byte(got)), got)
	}
}

// What a template can't make is explained, and leaves nothing in the buffer.
func TestTemplatesThatMakeNothing(t *testing.T) {
	for template, want := range map[string]TemplateError{
		`{"x": event.data.campaign}`:    {ReasonMissingField, "data.campaign"},
		`event.agent_id`:                {ReasonMissingField, "agent_id"},
		`event.data.score / 0.0`:        {ReasonTemplateError, "the template yields a number that JSON has no form for: +Inf"},
		`{"a": type(event.data.score)}`: {ReasonTemplateError, "the template yields type, which JSON has no form for"},
		`{1: "a", "1": "b"}`:            {ReasonTemplateError, `the template yields an object with the name "1" twice`},
		`event.data.tags[7]`:            {ReasonTemplateError, "index out of bounds: 7"},
		`[1].map(x, event.data.tags.map(y, event.data.tags.map(z, [1,2,3,4,5,6,7,8,9].map(w, [1,2,3,4,5,6,7,8,9].map(v, [1,2,3,4,5,6,7,8,9].map(u, [1,2,3,4,5,6,7,8,9].map(s, [1,2,3,4,5,6,7,8,9].map(r, 1))))))))`: {ReasonTemplateError, "the template takes too long on this event"},
		`[event]` + strings.Repeat(".map(a, [a, a])", 15):    {ReasonTooLarge, "the template makes more than 3145728 bytes of this event"},
		`event.data.disposition + ` + strings.Repeat("x", 1): {},
	} {
		if want.Reason == "" {
			_, err := CompileTemplate(template)
			var bad *ExpressionError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, [2]int{1, 26}, [2]int{bad.Line, bad.Column})
			continue
		}
		got, err := body(t, template, callEnded)
		var failed *TemplateError
		require.ErrorAs(t, err, &failed, template)
		assert.Equal(t, want, *failed, template)
		assert.Empty(t, got)
	}
	_, err := CompileTemplate("type(event)")
	assert.ErrorContains(t, err, "JSON has no form")
}

// The same event makes the same bytes, whatever the order of Go's maps.
func TestATemplateMakesTheSameBytesEachTime(t *testing.T) {
	names := rapid.MapOf(rapid.StringMatching(`[a-z]{1,6}`), rapid.Int())
	c, err := CompileTemplate(`{"d": event.data, "e": event, "copy": event.data.free.map(k, k),
		"literal": {"f": 1, 2: 1, "b": 1, true: 1, "a": 1, "e": 1, "c": 1}.map(k, string(k))}`)
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		free, err := json.Marshal(names.Draw(t, "members"))
		if err != nil {
			t.Fatal(err)
		}
		var first []byte
		for range 4 {
			e, err := event.Parse([]byte(`{"type":"call.ended","call_id":"c","data":{"free":` + string(free) + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.AppendJSON(nil, e)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = got
			}
			if string(got) != string(first) || !json.Valid(got) {
				t.Fatalf("%s, and then %s", first, got)
			}
		}
	})
}

// Whatever the template says and the event holds, the result is JSON or an explanation.
func FuzzTemplate(f *testing.F) {
	f.Add(`event`, []byte(callEnded))
	f.Add(`{"a": event.data.?x, 1: [b"x", 1.5, duration("1s")]}`, []byte(`{"type":"call.ended","call_id":"c","data":{"x":{"y":[1,"\u2028",null]}}}`))
	f.Add(`event.data.map(k, event.data[k])`, []byte(callEnded))
	f.Fuzz(func(t *testing.T, template string, raw []byte) {
		c, err := CompileTemplate(template)
		if err != nil {
			return
		}
		e, err := event.Parse(raw)
		if err != nil {
			return
		}
		out, err := c.AppendJSON(nil, e)
		if err == nil && !json.Valid(out) {
			t.Fatalf("%s of %s made %s", template, raw, out)
		}
		var explained *TemplateError
		if err != nil && (!assert.ErrorAs(t, err, &explained) || explained.Reason == "") {
			t.Fatal(err)
		}
	})
}

func BenchmarkTemplate(b *testing.B) {
	c, err := CompileTemplate(`{"lead": event.data.caller.name, "score": event.data.score, "call": event.call_id}`)
	require.NoError(b, err)
	e := accepted(b, callEnded, now)
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		if dst, err = c.AppendJSON(dst[:0], e); err != nil {
			b.Fatal(err)
		}
	}
}
