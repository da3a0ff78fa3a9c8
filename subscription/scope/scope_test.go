package scope_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription/payload"
	"github.com/callstream/callstream/subscription/scope"
)

func compile(t testing.TB, r scope.Rules) *scope.Scope {
	t.Helper()
	s, faults := scope.Compile(r)
	require.Empty(t, faults)
	return s
}

func parse(t testing.TB, raw string) *event.Event {
	t.Helper()
	e, err := event.Parse([]byte(raw))
	require.NoError(t, err)
	return e
}

// apply is what the rules make of an event with the envelope of these tests and the members given.
func apply(t *testing.T, r scope.Rules, members string) string {
	t.Helper()
	const envelope = `{"id":"evt_1","type":"call.report","time":"2026-01-20T10:00:00Z","tenant":"acme","source":"pbx","call_id":"c-1","agent_id":"a-1","sequence":4,"test":false,`
	e := parse(t, envelope+members+"}")
	before := string(e.AppendJSON(nil))
	out := string(compile(t, r).Apply(e).AppendJSON(nil))
	assert.Equal(t, before, string(e.AppendJSON(nil)), "the event itself stays")
	return strings.TrimSuffix(strings.TrimPrefix(out, envelope), "}")
}

// S0-18, S1-06, P-05: a subscription gets the members that it includes and does not exclude, in the order and the bytes
// that they have.
func TestIncludeAndExclude(t *testing.T) {
	const members = `"attributes":{"region":"eu","trunk":"t1"},` +
		`"data":{"participants":["+15551234567","Ann"],"duration_ms":1200,"fields":{"po":"77","ssn":"078-05-1120","deep":{"a":1.50,"b":[{"x":1,"y":"\u0041"},{"x":2},7]}},` +
		`"caller":{"name":"Ann","phone_number":"+15551234567","crm_id":"k1"},"analysis":{"score":85},"crm":{"account":"a","owner":{"id":7}},"crm.account":"b","legs":[{"id":1,"phone":"x"},{"phone":"y"},"z"]},` +
		`"vendor":{"node":"n3"},"shard":7`
	for _, c := range []struct {
		name             string
		include, exclude []string
		want             string
	}{
		{"nothing asked for", nil, nil, members},
		{"members that the event lacks", nil, []string{"data.queue", "data.caller.email", "data.fields.po.x", "other", "data.crm.x.y"}, members},
		{"one field", []string{"data.duration_ms"}, nil, `"data":{"duration_ms":1200}`},
		{"the identity is always there", []string{"id"}, nil, `"data":{}`},
		{"a group", []string{"data.caller"}, nil, `"data":{"caller":{"name":"Ann","phone_number":"+15551234567","crm_id":"k1"}}`},
		{"a group but for one", []string{"data.caller.*"}, []string{"data.caller.phone_number"}, `"data":{"caller":{"name":"Ann","crm_id":"k1"}}`},
		{"undeclared in a group", []string{"data.caller.crm_id"}, nil, `"data":{"caller":{"crm_id":"k1"}}`},
		{"an undeclared object, by path and by a name with a dot", []string{"data.crm.account"}, nil, `"data":{"crm":{"account":"a"},"crm.account":"b"}`},
		{"deep in a declared object", []string{"data.fields.deep.b.y"}, nil, `"data":{"fields":{"deep":{"b":[{"y":"\u0041"}]}}}`},
		{"through arrays", []string{"data.legs.phone"}, nil, `"data":{"legs":[{"phone":"x"},{"phone":"y"}]}`},
		{"below a scalar there is nothing", []string{"data.duration_ms.x", "data.participants.phone", "data.fields.po.x"}, nil, `"data":{}`},
		{"undeclared at the root", []string{"vendor.node"}, nil, `"data":{},"vendor":{"node":"n3"}`},
		{"an attribute", []string{"attributes.region", "shard"}, nil, `"attributes":{"region":"eu"},"data":{},"shard":7`},
		{"everything of data", []string{"data"}, []string{"data.fields", "data.participants", "data.caller", "data.analysis", "data.legs"}, `"data":{"duration_ms":1200,"crm":{"account":"a","owner":{"id":7}},"crm.account":"b"}`},
		{"exclude wins", []string{"data.crm.account"}, []string{"data.crm"}, `"data":{}`},
		{"exclude alone", nil, []string{"data.participants", "data.caller", "data.analysis", "data.fields", "data.legs", "attributes.trunk", "vendor", "data.crm.owner.id"},
			`"attributes":{"region":"eu"},"data":{"duration_ms":1200,"crm":{"account":"a","owner":{}},"crm.account":"b"},"shard":7`},
		{"arrays element by element", []string{"data.legs"}, []string{"data.legs.phone"}, `"data":{"legs":[{"id":1},{},"z"]}`},
		{"inside a declared object", []string{"data.fields"}, []string{"data.fields.ssn", "data.fields.deep.b.x"}, `"data":{"fields":{"po":"77","deep":{"a":1.50,"b":[{"y":"\u0041"},{},7]}}}`},
		{"no data at all", nil, []string{"data", "attributes", "vendor", "shard"}, `"data":{}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, apply(t, scope.Rules{Include: c.include, Exclude: c.exclude}, members))
		})
	}
}

// S1-06: of the envelope only source, call_id, agent_id, traceparent and attributes can be left out.
func TestEnvelopeWithoutItsReferences(t *testing.T) {
	e := parse(t, `{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00.0000001Z","tenant":"acme","source":"pbx","call_id":"c-1","agent_id":"a-1","sequence":0,"test":true,"traceparent":"00-1","attributes":{"a":"b"},"data":{"status":"done"}}`)
	out := compile(t, scope.Rules{Exclude: []string{"source", "call_id", "agent_id", "traceparent", "attributes"}}).Apply(e)
	assert.Equal(t, `{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00.0000001Z","tenant":"acme","sequence":0,"test":true,"data":{"status":"done"}}`, string(out.AppendJSON(nil)))
	included := compile(t, scope.Rules{Include: []string{"data.status"}}).Apply(e)
	assert.Equal(t, "c-1", included.CallID, "include does not list what belongs to the envelope")
}

// S0-11, S0-17: the transcript as a whole, a snippet of it, or its reference alone.
func TestTranscripts(t *testing.T) {
	const uri = `"transcript_uri":"https://t.test/1"`
	for _, c := range []struct {
		name, data, want string
		rules            scope.Rules
	}{
		{"full", `"transcript_text":"Hello there",` + uri, `"transcript_text":"Hello there",` + uri, scope.Rules{Transcript: "full"}},
		{"none", `"transcript_text":"Hello there","transcript_snippet":"Hello",` + uri, uri, scope.Rules{Transcript: "none"}},
		{"the snippet that came", `"transcript_text":"Hello there","transcript_snippet":"there",` + uri, `"transcript_snippet":"there",` + uri, scope.Rules{Transcript: "snippet"}},
		{"a snippet that is made", `"transcript_text":" Hello there ",` + uri, `"transcript_snippet":"Hello there",` + uri, scope.Rules{Transcript: "snippet"}},
		{"cut behind a word", `"transcript_text":"` + strings.Repeat("wörter ", 40) + `"`, `"transcript_snippet":"` + strings.TrimSpace(strings.Repeat("wörter ", 28)) + `…"`, scope.Rules{Transcript: "snippet"}},
		{"a script without spaces", `"transcript_text":"` + strings.Repeat("話", 300) + `"`, `"transcript_snippet":"` + strings.Repeat("話", 200) + `…"`, scope.Rules{Transcript: "snippet"}},
		{"a number on the cut", `"transcript_text":"` + strings.Repeat("x ", 95) + `+1 555 123 4567 and more of it"`, `"transcript_snippet":"` + strings.Repeat("x ", 95) + `[redacted]…"`, scope.Rules{Transcript: "snippet", Redact: []string{"phone"}}},
		{"speech is hidden whole", `"transcript_text":"Hello there"`, `"transcript_snippet":"[redacted]"`, scope.Rules{Transcript: "snippet", Redact: []string{"speech"}}},
		{"no transcript, no snippet", `"status":"done"`, `"status":"done"`, scope.Rules{Transcript: "snippet"}},
		{"a text that was excluded makes none", `"transcript_text":"Hello there"`, ``, scope.Rules{Transcript: "snippet", Exclude: []string{"data.transcript_text"}}},
		{"nor an excluded snippet", `"transcript_text":"Hello there"`, ``, scope.Rules{Transcript: "snippet", Exclude: []string{"data.transcript_snippet"}}},
		{"nor where neither is included", `"transcript_text":"Hello there","status":"done"`, `"status":"done"`, scope.Rules{Transcript: "snippet", Include: []string{"data.status"}}},
		{"it stands for the text", `"transcript_text":"Hello there","status":"done"`, `"transcript_snippet":"Hello there"`, scope.Rules{Transcript: "snippet", Include: []string{"data.transcript_text"}}},
		{"or is included itself", `"transcript_text":"Hello there","status":"done"`, `"transcript_snippet":"Hello there"`, scope.Rules{Transcript: "snippet", Include: []string{"data.transcript_snippet"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, `"data":{`+c.want+`}`, apply(t, c.rules, `"data":{`+c.data+`}`))
		})
	}
	// Where the type declares neither, both are members like any other.
	e := parse(t, `{"type":"chat.ended","data":{"transcript_text":"Hello there"}}`)
	assert.Equal(t, `{"type":"chat.ended","data":{"transcript_snippet":"Hello there"}}`, string(compile(t, scope.Rules{Transcript: "snippet"}).Apply(e).AppendJSON(nil)))
	e = parse(t, `{"type":"chat.ended","data":{"transcript_text":["Hello there"]}}`)
	assert.Equal(t, `{"type":"chat.ended","data":{}}`, string(compile(t, scope.Rules{Transcript: "snippet"}).Apply(e).AppendJSON(nil)))
}

// S0-27, P-05: every declared field of a class is hidden whole; what is an object or array stays one.
func TestRedactionByClass(t *testing.T) {
	const members = `"data":{"from_number":"anonymous","from_name":"Ann","participants":["anonymous","Ann"],"agent_name":"Dana","notes":"n","fields":{"a":{"b":[1,true,null,"x"]},"c":{}},` +
		`"caller":{"name":"Ann","phone_number":"none","email":"none","address":"1 Main St","pincode":"12345","city":"Bonn","age":"40"},"analysis":{"summary":"s","mood":"good"},"note":"free"}`
	for class, want := range map[string]string{
		"phone": `"data":{"from_number":"[redacted]","from_name":"Ann","participants":["[redacted]","[redacted]"],"agent_name":"Dana","notes":"n","fields":{"a":{"b":[1,true,null,"x"]},"c":{}},` +
			`"caller":{"name":"Ann","phone_number":"[redacted]","email":"none","address":"1 Main St","pincode":"12345","city":"Bonn","age":"40"},"analysis":{"summary":"s","mood":"good"},"note":"free"}`,
		"name": `"data":{"from_number":"anonymous","from_name":"[redacted]","participants":["[redacted]","[redacted]"],"agent_name":"Dana","notes":"n","fields":{"a":{"b":[1,true,null,"x"]},"c":{}},` +
			`"caller":{"name":"[redacted]","phone_number":"none","email":"none","address":"1 Main St","pincode":"12345","city":"Bonn","age":"[redacted]"},"analysis":{"summary":"s","mood":"good"},"note":"free"}`,
		"email": `"data":{"from_number":"anonymous","from_name":"Ann","participants":["anonymous","Ann"],"agent_name":"Dana","notes":"n","fields":{"a":{"b":[1,true,null,"x"]},"c":{}},` +
			`"caller":{"name":"Ann","phone_number":"none","email":"[redacted]","address":"1 Main St","pincode":"12345","city":"Bonn","age":"40"},"analysis":{"summary":"s","mood":"good"},"note":"free"}`,
		"address": `"data":{"from_number":"anonymous","from_name":"Ann","participants":["anonymous","Ann"],"agent_name":"Dana","notes":"n","fields":{"a":{"b":[1,true,null,"x"]},"c":{}},` +
			`"caller":{"name":"Ann","phone_number":"none","email":"none","address":"[redacted]","pincode":"[redacted]","city":"Bonn","age":"40"},"analysis":{"summary":"s","mood":"good"},"note":"free"}`,
		"speech": `"data":{"from_number":"anonymous","from_name":"Ann","participants":["anonymous","Ann"],"agent_name":"Dana","notes":"[redacted]","fields":{"a":{"b":["[redacted]","[redacted]",null,"[redacted]"]},"c":{}},` +
			`"caller":{"name":"Ann","phone_number":"none","email":"none","address":"1 Main St","pincode":"12345","city":"Bonn","age":"40"},"analysis":{"summary":"[redacted]","mood":"good"},"note":"free"}`,
		"payment": members,
	} {
		assert.Equal(t, want, apply(t, scope.Rules{Redact: []string{class}}, members), class)
	}
}

// S0-27, S1-06: the rules meet: what is left of a field that is hidden is hidden.
func TestRedactionOfWhatIsLeft(t *testing.T) {
	const members = `"data":{"fields":{"a":{"b":1,"c":2},"d":3}}`
	assert.Equal(t, `"data":{"fields":{"a":{"c":"[redacted]"},"d":"[redacted]"}}`, apply(t, scope.Rules{Redact: []string{"speech"}, Exclude: []string{"data.fields.a.b"}}, members))
	assert.Equal(t, `"data":{"fields":{"a":{"b":"[redacted]"}}}`, apply(t, scope.Rules{Redact: []string{"speech"}, Include: []string{"data.fields.a.b"}}, members))
}

// S0-27: a field that the catalogue declares is hidden also where it came with another type, or as a path in a name.
func TestRedactionOfDeclaredPathsOutOfPlace(t *testing.T) {
	assert.Equal(t, `"data":{"caller.name":"[redacted]"}`, apply(t, scope.Rules{Redact: []string{"name"}}, `"data":{"caller.name":"Ann"}`))
	codec := event.NewCodec(&registry{})
	e := parse(t, `{"type":"sms.sent","tenant":"acme","data":{"body":"b"}}`)
	value, err := codec.EncodeEvent(t.Context(), nil, e)
	require.NoError(t, err)
	back, err := codec.DecodeEvent(t.Context(), e.Topic(), value)
	require.NoError(t, err)
	out := compile(t, scope.Rules{Redact: []string{"speech"}}).Apply(back)
	assert.Contains(t, string(out.AppendJSON(nil)), `"body":"[redacted]"`)
}

// S0-27: patterns reach attributes, undeclared members anywhere, names and numbers, through every escape.
func TestRedactionByPattern(t *testing.T) {
	all := scope.Rules{Redact: []string{"phone", "email", "payment", "ssn", `/\bAB\d{6}\b/`}}
	assert.Equal(t, `"attributes":{"[redacted]":"x","call":"to [redacted]"},`+
		`"data":{"queue":"[redacted]","started_at":"2026-01-20T10:00:00.123Z","duration_ms":5551234567,"tags":["vip","[redacted]"],"fields":{"po":"[redacted]","n":[85.50,"[redacted]"]},`+
		`"caller":{"city":"Bonn [redacted]","[redacted]":1},"crm":{"x":{"[redacted]":["ok","is [redacted]"],"[redacted] 2":0}},"pin":"[redacted]","ids":["550e8400-e29b-41d4-a716-446655440000",1768903200123],"cost_micros":"[redacted]"},`+
		`"vendor":"[redacted]","seen":"2026-01-20"`,
		apply(t, all, `"attributes":{"+15551234567":"x","call":"to ann@example.com"},`+
			`"data":{"queue":"AB123456","started_at":"2026-01-20T10:00:00.123Z","duration_ms":5551234567,"tags":["vip","\u0034111 1111 1111 1111"],"fields":{"po":"078-05-1120","n":[85.50,4.111111111111111e15]},`+
			`"caller":{"city":"Bonn \u002b1 555 123 4567","ann\u0040example.com":1},"crm":{"x":{"+1 555 123 4567":["ok","is 4111\u002d1111\u002d1111\u002d1111"],"+1 555 123 4568":0}},"pin":"(555) 123-4567","ids":["550e8400-e29b-41d4-a716-446655440000",1768903200123],`+
			`"cost_micros":4111111111111111},"vendor":"ann@example.com","seen":"2026-01-20"`))
}

// S0-26: without rules, and where no rule finds anything, the event is the same one.
func TestWhatNoRuleConcernsIsTheSameEvent(t *testing.T) {
	e := parse(t, `{"id":"evt_+15551234567","type":"call.ended","call_id":"1111111111.11111","attributes":{"a":"b"},"data":{"status":"done","duration_ms":372360,"crm":{"n":1.0}},"x":[ 1 ]}`)
	s, faults := scope.Compile(scope.Rules{})
	assert.Empty(t, faults)
	assert.Nil(t, s)
	assert.Same(t, e, s.Apply(e))
	assert.Nil(t, compile(t, scope.Rules{Transcript: "full"}))
	for _, r := range []scope.Rules{
		{Exclude: []string{"data.caller", "data.crm.x", "vendor"}}, {Transcript: "none"}, {Transcript: "snippet"},
		{Redact: []string{"phone", "email", "name", "address", "speech", "payment", "card", "ssn", "/nothing/"}}, {Include: []string{"data", "attributes", "x"}},
	} {
		assert.Same(t, e, compile(t, r).Apply(e), "%v", r)
	}
}

// S0-18, P-05: what is wrong with the rules is told with its place.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		rules  scope.Rules
		member string
		index  int
		detail string
	}{
		{scope.Rules{Exclude: []string{"data.queue", "id"}}, "exclude", 1, "identifies the event"},
		{scope.Rules{Exclude: []string{"time"}}, "exclude", 0, "identifies the event"},
		{scope.Rules{Exclude: []string{"tenant"}}, "exclude", 0, "identifies the event"},
		{scope.Rules{Exclude: []string{"test.*"}}, "exclude", 0, "identifies the event"},
		{scope.Rules{Exclude: []string{"call_id.x"}}, "exclude", 0, "no members"},
		{scope.Rules{Include: []string{""}}, "include", 0, "empty"},
		{scope.Rules{Include: []string{"data..x"}}, "include", 0, "empty name"},
		{scope.Rules{Include: []string{"data."}}, "include", 0, "empty name"},
		{scope.Rules{Include: []string{"*"}}, "include", 0, "*"},
		{scope.Rules{Include: []string{"data.*.x"}}, "include", 0, "*"},
		{scope.Rules{Include: []string{"/data/x"}}, "include", 0, "dots"},
		{scope.Rules{Include: []string{"data.\x00"}}, "include", 0, "control"},
		{scope.Rules{Include: []string{strings.Repeat("x", 513)}}, "include", 0, "long"},
		{scope.Rules{Exclude: []string{"transcript_text"}}, "exclude", 0, "want data.transcript_text"},
		{scope.Rules{Exclude: []string{"caller"}}, "exclude", 0, "want data.caller"},
		{scope.Rules{Include: make([]string, 201)}, "include", -1, "200"},
		{scope.Rules{Transcript: "half"}, "transcript", -1, "snippet"},
		{scope.Rules{Redact: []string{"phone", "phones"}}, "redact", 1, "speech"},
		{scope.Rules{Redact: []string{""}}, "redact", 0, "want"},
		{scope.Rules{Redact: []string{"/x"}}, "redact", 0, "slashes"},
		{scope.Rules{Redact: []string{"/x/i"}}, "redact", 0, "(?i)"},
		{scope.Rules{Redact: []string{"//"}}, "redact", 0, "slashes"},
		{scope.Rules{Redact: []string{"/(/"}}, "redact", 0, "missing closing"},
		{scope.Rules{Redact: []string{`/\d*/`}}, "redact", 0, "empty text"},
		{scope.Rules{Redact: []string{`/(?=x)/`}}, "redact", 0, "invalid"},
		{scope.Rules{Redact: []string{`/[a-z]{1,300}x/`, `/[a-z]{1,300}y/`}}, "redact", 1, "expensive"},
	} {
		s, faults := scope.Compile(c.rules)
		assert.Nil(t, s)
		if assert.Len(t, faults, 1, "%v", c.rules) {
			assert.Equal(t, c.member, faults[0].Member)
			assert.Equal(t, c.index, faults[0].Index)
			assert.Contains(t, faults[0].Detail, c.detail)
		}
	}
	_, faults := scope.Compile(scope.Rules{Include: []string{"", "data", "."}, Exclude: []string{"id"}, Transcript: "x", Redact: []string{"x"}})
	assert.Len(t, faults, 5, "all at once")
}

// S0-26: subscriptions without rules pay nothing for those with some.
func TestNoRulesCostNothing(t *testing.T) {
	e := parse(t, `{"type":"call.ended","call_id":"c-1","data":{"notes":"call +15551234567"}}`)
	assert.Zero(t, testing.AllocsPerRun(100, func() { (*scope.Scope)(nil).Apply(e) }))
}

var benchEvent = `{"id":"evt_01KFD4QZ8M0000000000523645","type":"transcript.ready","time":"2026-01-20T10:06:12.480Z","source":"dialer-eu","call_id":"c-7f3a91","agent_id":"a-204","sequence":5,
"data":{"direction":"inbound","from_number":"+1-555-123-4567","to_number":"+1-555-010-2000","session_id":"s-51c0","leg_id":"leg-1","status":"completed","agent_name":"Dana Reyes","participants":["+1-555-123-4567","Dana Reyes"],
"started_at":"2026-01-20T10:00:00.120Z","answered_at":"2026-01-20T10:00:27.903Z","ended_at":"2026-01-20T10:06:12.480Z","duration_ms":372360,"talk_ms":331200,"hold_ms":13377,"cost_micros":84200,"currency":"USD",
"transcript_text":"` + strings.Repeat("Agent: Good morning, this is Dana.\\nCaller: Hi, I would like to see a demo of the product. ", 11) + `","transcript_confidence":0.96,"language":"en-US","intents":["demo_request"],"intent_confidence":0.91,
"crm":{"account":{"id":"001D000000IRFmaIAH","owner":"u-17"},"tags":["a","b"]},"pbx_node":"n3","priority_boost":1.5,"caller":{"name":"John Smith","phone_number":"+1-555-123-4567","email":"john.smith@example.com","city":"New York"},
"analysis":{"summary":"Customer called to schedule a product demo","score":85,"sentiment":{"overall":"positive","score":0.82}}}}`

// An event of 2 KB, two thirds of it transcript.
func BenchmarkApply(b *testing.B) {
	e := parse(b, benchEvent)
	for _, c := range []struct {
		name  string
		rules scope.Rules
	}{
		{"nil", scope.Rules{}},
		{"exclude", scope.Rules{Exclude: []string{"data.transcript_text", "data.crm.account"}}},
		{"include", scope.Rules{Include: []string{"data.duration_ms", "data.status", "data.crm.account.id", "data.caller.name"}}},
		{"snippet", scope.Rules{Transcript: "snippet"}},
		{"classes", scope.Rules{Redact: []string{"name", "address"}}},
		{"patterns", scope.Rules{Redact: []string{"phone", "email", "payment", "ssn"}}},
		{"expression", scope.Rules{Redact: []string{`/\b[A-Z]{2}\d{6}\b/`}}},
		{"everything", scope.Rules{Exclude: []string{"data.crm"}, Transcript: "snippet", Redact: []string{"phone", "email", "name", "address", "payment", "ssn", `/\b[A-Z]{2}\d{6}\b/`}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := compile(b, c.rules)
			b.ReportAllocs()
			for b.Loop() {
				s.Apply(e)
			}
		})
	}
}

// What the scope adds to a rendering.
func BenchmarkAppendStandard(b *testing.B) {
	e := parse(b, benchEvent)
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		dst = payload.AppendStandard(dst[:0], e)
	}
}
