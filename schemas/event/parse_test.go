package event

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFaults(t *testing.T) {
	deep := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
	for _, c := range []struct {
		name, in string
		want     []Fault
	}{
		{"nothing", `{}`, []Fault{{"/type", "is required"}}},
		{"not an object", `[{"type":"call.ended"}]`, []Fault{{"", "must be an object, is an array"}}},
		{"a number", `17`, []Fault{{"", "must be an object, is a number"}}},
		{"unknown type", `{"type":"call.exploded"}`, []Fault{{"/type", "is not an event type of the catalogue"}}},
		{"type of a wrong type", `{"type":7}`, []Fault{{"/type", "must be a string, is a number"}, {"/type", "is required"}}},
		{"no call", `{"type":"call.ended"}`, []Fault{{"/call_id", "is required for call.ended"}}},
		{"an empty call", `{"type":"call.ended","call_id":""}`, []Fault{{"/call_id", "is required for call.ended"}}},
		{"every wrong type", `{"type":"call.ended","call_id":"c","id":1,"time":2,"source":[1],"sequence":"4","test":"no","attributes":{"a":1},"data":{
			"score":"85","duration_ms":"1","is_partial":1,"tags":"a","scorecard":[1],"started_at":7,"direction":true,"caller":7}}`,
			[]Fault{{"/id", "must be a string, is a number"}, {"/time", "must be a time (RFC 3339), is a number"}, {"/source", "must be a string, is an array"},
				{"/sequence", "must be a whole number, is a string"}, {"/test", "must be true or false, is a string"}, {"/attributes/a", "must be a string, is a number"},
				{"/data/score", "must be a number, is a string"}, {"/data/duration_ms", "must be a whole number, is a string"},
				{"/data/is_partial", "must be true or false, is a number"}, {"/data/tags", "must be an array of strings, is a string"},
				{"/data/scorecard", "must be an object, is an array"}, {"/data/started_at", "must be a time (RFC 3339), is a number"},
				{"/data/direction", "must be a string, is a boolean"}, {"/data/caller", "must be an object, is a number"}}},
		{"numbers", `{"type":"call.ended","call_id":"c","sequence":1.5,"data":{"duration_ms":9223372036854775808,"talk_ms":1e19,"score":1e400,"hold_ms":0.1e0}}`,
			[]Fault{{"/sequence", "must be a whole number"}, {"/data/duration_ms", "is beyond the range of 64 bits"}, {"/data/talk_ms", "is beyond the range of 64 bits"},
				{"/data/score", "is beyond the range of a double"}, {"/data/hold_ms", "must be a whole number"}}},
		{"times", `{"type":"call.ended","call_id":"c","time":"2026-02-29T00:00:00Z","data":{"started_at":"2026-01-20","ended_at":"2026-01-20 10:00:00Z","callback":{"window_start":"10:00"}}}`,
			[]Fault{{"/time", "must be a time (RFC 3339)"}, {"/data/started_at", "must be a time (RFC 3339)"}, {"/data/ended_at", "must be a time (RFC 3339)"}, {"/data/callback/window_start", "must be a time (RFC 3339)"}}},
		{"an element", `{"type":"call.ended","call_id":"c","data":{"tags":["a",null,{"b":1}]}}`,
			[]Fault{{"/data/tags/1", "must be a string, is null"}, {"/data/tags/2", "must be a string, is an object"}}},
		{"repeats", `{"type":"call.ended","type":"call.ended","call_id":"c","data":{"score":1,"score":null,"caller":{"name":"a","name":"b","x":1,"x":1},"caller":{},"y":{"z":1,"\u007a":2}},"w":1,"w":1,"data":{},"attributes":{"a":"1","a":"2"}}`,
			[]Fault{{"/type", "appears twice"}, {"/data/score", "appears twice"}, {"/data/caller/name", "appears twice"}, {"/data/caller/x", "appears twice"}, {"/data/caller", "appears twice"},
				{"/data/y/z", "appears twice"}, {"/w", "appears twice"}, {"/data", "appears twice"}, {"/attributes/a", "appears twice"}}},
		{"half surrogates", `{"type":"call.ended","call_id":"c","data":{"direction":"\ud800","x":["\udc00a"],"\ud800":1,"tags":["\ud800\ud800"]}}`,
			[]Fault{{"/data/direction", loneSurrogate}, {"/data/x/0", loneSurrogate}, {"/data/\ufffd", "has a name that " + loneSurrogate}, {"/data/tags/0", loneSurrogate}}},
		{"too deep", `{"type":"call.ended","call_id":"c","x":` + deep(64) + `,"data":{"y":` + deep(63) + `}}`,
			[]Fault{{"/x" + strings.Repeat("/0", 63), "nests deeper than 64"}, {"/data/y" + strings.Repeat("/0", 62), "nests deeper than 64"}}},
		{"names of the envelope", `{"type":"call.ended","call_id":"` + strings.Repeat("c", 257) + `","id":"a\nb","source":"a\u0085"}`,
			[]Fault{{"/id", "holds a control character"}, {"/source", "holds a control character"}, {"/call_id", "is longer than 256 bytes"}}},
		{"faults under an unknown type", `{"data":{"a":{"b":1,"b":2}},"type":"x"}`,
			[]Fault{{"/data/a/b", "appears twice"}, {"/type", "is not an event type of the catalogue"}}},
		{"pointers are escaped", `{"type":"call.ended","call_id":"c","a/b":{"~":{"":"\ud800"}}}`, []Fault{{"/a~1b/~0/", loneSurrogate}}},
		{"data before the type", `{"data":{"score":"x"},"call_id":"c","type":"call.ended"}`, []Fault{{"/data/score", "must be a number, is a string"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := Parse([]byte(c.in))
			var faults Faults
			if !errors.As(err, &faults) || e != nil {
				t.Fatalf("%v, %v", e, err)
			}
			left := append(Faults(nil), faults...)
		want:
			for _, w := range c.want {
				for i, f := range left {
					if f == w {
						left = append(left[:i], left[i+1:]...)
						continue want
					}
				}
				t.Errorf("no fault %+v", w)
			}
			if len(left) > 0 {
				t.Errorf("also %+v", []Fault(left))
			}
		})
	}
}

func TestFaultsAreBounded(t *testing.T) {
	_, err := Parse([]byte(`{"type":"call.ended","call_id":"c","data":{"tags":[` + strings.Repeat("1,", 5000) + `1]}}`))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) > maxFaults+1 {
		t.Errorf("%d faults, %v", len(faults), err)
	}
}

func TestSyntaxErrors(t *testing.T) {
	for in, offset := range map[string]int64{
		``: 0, ` `: 1, `{`: 1, `{"type":"call.ended",}`: 21, `{"type" "call.ended"}`: 8, `{"a":01}`: 6, `{"a":1.}`: 7, `{"a":-}`: 6, `{"a":tru}`: 5,
		`{"a":"` + "\n" + `"}`: 6, `{"a":"\x"}`: 6, `{"a":"\u12g4"}`: 6, `{"a":[1 2]}`: 8, `{"a":1}{}`: 7, `{"a":"b`: 7, "{\"a\":\"\xff\"}": 6, "\xef\xbb\xbf{}": 0,
		`{a:1}`: 1, `{"a":1]`: 6, `nul`: 0, `{"data":[1,],"type":"x"}`: 11, `{"a":'b'}`: 5, `{"x":` + strings.Repeat("[", 100000): 5 + 100000,
		`{"type":"call.ended","call_id":"c","data":{"caller":{"x":[}}}`: 58, "{\"a\":1}\x00": 7,
	} {
		_, err := Parse([]byte(in))
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.40s: %v", in, err)
		} else if syntax.Offset != offset {
			t.Errorf("%.40s: %v, want byte %d", in, err, offset)
		}
	}
}

// Every rule of "null and empty equal absent", at every level.
func TestEmptyEqualsAbsent(t *testing.T) {
	for _, empty := range []string{`null`, `""`, `[]`, `{}`, `[ ]`, "{\n}"} {
		in := `{"type":"call.ended","call_id":"c","id":_,"time":_,"tenant":_,"source":_,"agent_id":_,"sequence":_,"test":_,"traceparent":_,"attributes":_,
			"data":{"direction":_,"started_at":_,"duration_ms":_,"score":_,"is_partial":_,"tags":_,"scorecard":_,"caller":_,"analysis":{"summary":_,"score":_,"sentiment":_}}}`
		e, err := Parse([]byte(strings.ReplaceAll(in, ":_", ":"+empty)))
		if err != nil {
			t.Errorf("%s: %v", empty, err)
			continue
		}
		if got := string(e.AppendJSON(nil)); got != `{"type":"call.ended","call_id":"c","data":{}}` {
			t.Errorf("%s: %s", empty, got)
		}
		e, err = Parse([]byte(`{"type":"call.ended","call_id":"c","data":` + empty + `,"x":` + empty + `}`))
		if err != nil || string(e.AppendJSON(nil)) != `{"type":"call.ended","call_id":"c","data":{},"x":`+empty+`}` {
			t.Errorf("%s: %v", empty, err)
		}
	}
}

func TestCanonicalJSON(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"order", `{"zz":1,"data":{"yy":2,"analysis":{"score":1,"ww":0},"tags":["t"],"caller":{"vv":{},"city":"c","name":"n"},"score":2,"direction":"in"},"test":false,"sequence":0,"agent_id":"a",
			"call_id":"c","source":"s","tenant":"t","time":"2026-01-20T10:00:00.120Z","type":"call.ended","id":"i","attributes":{"b":"1","a":""},"traceparent":"00-1"}`,
			`{"id":"i","type":"call.ended","time":"2026-01-20T10:00:00.12Z","tenant":"t","source":"s","call_id":"c","agent_id":"a","sequence":0,"test":false,"traceparent":"00-1","attributes":{"b":"1","a":""},` +
				`"data":{"direction":"in","score":2,"tags":["t"],"caller":{"name":"n","city":"c","vv":{}},"analysis":{"score":1,"ww":0},"yy":2},"zz":1}`},
		{"numbers", `{"type":"call.ended","call_id":"c","sequence":4e0,"data":{"duration_ms":1.20e3,"talk_ms":-9223372036854775808,"score":85.50,"transcript_confidence":1e-7,"intent_confidence":0.1000000000000000055511151231257827,"analysis":{"score":85.0}}}`,
			`{"type":"call.ended","call_id":"c","sequence":4,"data":{"duration_ms":1200,"talk_ms":-9223372036854775808,"transcript_confidence":1e-7,"score":85.5,"intent_confidence":0.1000000000000000055511151231257827,"analysis":{"score":85}}}`},
		{"strings", `{"type":"call.ended","call_id":"c","data":{"notes":"<b>&\u0041\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t\u0001\u2028"}}`,
			`{"type":"call.ended","call_id":"c","data":{"notes":"<b>&Aé😀\"\\/\b\f\n\r\t\u0001` + "\u2028" + `"}}`},
		{"raw stays", `{"type":"call.ended","call_id":"c","data":{"fields":{ "b" : 1.0, "a":"\u0041" },"crm":[ 1.10 , "\u0041" ]}}`,
			`{"type":"call.ended","call_id":"c","data":{"fields":{ "b" : 1.0, "a":"\u0041" },"crm":[ 1.10 , "\u0041" ]}}`},
		{"times", `{"type":"call.ended","call_id":"c","time":"2026-01-20t12:00:00.5+02:00","data":{"started_at":"2026-01-20T10:00:00.1234567891+05:30"}}`,
			`{"type":"call.ended","time":"2026-01-20T10:00:00.5Z","call_id":"c","data":{"started_at":"2026-01-20T10:00:00.1234567891+05:30"}}`},
		{"exact time", `{"type":"call.ended","call_id":"c","time":"2026-01-20T10:00:00.1234567891+05:30"}`,
			`{"type":"call.ended","time":"2026-01-20T10:00:00.1234567891+05:30","call_id":"c","data":{}}`},
		{"leap second", `{"type":"call.ended","call_id":"c","time":"2016-12-31T23:59:60Z"}`, `{"type":"call.ended","time":"2016-12-31T23:59:60Z","call_id":"c","data":{}}`},
		{"column names are no declared members", `{"type":"delivery.exhausted","data":{"type":"call.ended","event_type":7,"caller_name":1}}`,
			`{"type":"delivery.exhausted","data":{"type":"call.ended","event_type":7,"caller_name":1}}`},
		{"ours alone", `{"type":"sms.sent","ingested_at":7,"extra_json":[1],"data":{"caller":{"name":1}}}`,
			`{"type":"sms.sent","data":{"caller":{"name":1}},"ingested_at":7,"extra_json":[1]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(e.AppendJSON(nil)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			back, err := readEvent(e.table, e.AppendAvro(nil))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(back.AppendJSON(nil)); got != c.want {
				t.Errorf("after Avro\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// The program sets what the input lacks; a spelling of the old time must not outlive it.
func TestChangedTimeWins(t *testing.T) {
	e, err := Parse([]byte(`{"type":"call.ended","call_id":"c","time":"2026-01-20T10:00:00.1234567Z"}`))
	if err != nil {
		t.Fatal(err)
	}
	e.Time = hold(0)
	back, err := readEvent(e.table, e.AppendAvro(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(back.AppendJSON(nil)); got != `{"type":"call.ended","time":"1970-01-01T00:00:00Z","call_id":"c","data":{}}` {
		t.Error(got)
	}
}

func TestSetData(t *testing.T) {
	e := &Event{Type: "call.ended", Tenant: "acme", CallID: "c"}
	if err := e.SetData([]byte(`{"score":85,"x":{"y":1}}`)); err != nil {
		t.Fatal(err)
	}
	if got := string(e.AppendData(nil)); got != `{"score":85,"x":{"y":1}}` {
		t.Error(got)
	}
	err := e.SetData([]byte(`{"score":"85","x":1,"x":2}`))
	if err == nil || err.Error() != "event: /data/score must be a number, is a string (and 1 more)" || string(e.AppendData(nil)) != `{}` {
		t.Error(err, string(e.AppendData(nil)))
	}
	var syntax *SyntaxError
	if err := e.SetData([]byte(`{"score":`)); !errors.As(err, &syntax) {
		t.Error(err)
	}
	for _, absent := range []string{`{}`, `null`} {
		if err := e.SetData([]byte(absent)); err != nil {
			t.Error(err)
		}
	}
	if err := (&Event{Type: "nope"}).SetData([]byte(`{}`)); err == nil {
		t.Error("data of an unknown type was taken")
	}
}

func TestElements(t *testing.T) {
	got, err := Elements([]byte(` [ {"a":[1,2]} , 7,"x" ] `))
	if err != nil || len(got) != 3 || string(got[0]) != `{"a":[1,2]}` || string(got[1]) != `7` || string(got[2]) != `"x"` {
		t.Errorf("%q %v", got, err)
	}
	if got, err := Elements([]byte(`[]`)); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	for _, bad := range []string{``, `{}`, `[1`, `[1,]`, `[1]2`, `[,]`, "[\"\xff\"]"} {
		if _, err := Elements([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Our scanner against the standard library's: both call the same inputs JSON.
func FuzzParse(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Parse(raw)
		var syntax *SyntaxError
		isJSON := json.Valid(raw) && utf8.Valid(raw)
		if errors.As(err, &syntax) == isJSON && len(raw) < 10000 {
			t.Fatalf("%v, and encoding/json says valid=%v", err, isJSON)
		}
		if syntax != nil && (syntax.Offset < 0 || syntax.Offset > int64(len(raw))) {
			t.Fatalf("offset %d of %d", syntax.Offset, len(raw))
		}
		if err != nil {
			return
		}
		roundTrip(t, raw, e)
	})
}

var seeds = []string{
	`{"type":"call.ended","call_id":"c","id":"i","time":"2026-01-20T10:00:00.123456789Z","sequence":4,"test":true,"attributes":{"a":"b"},"data":{"direction":"inbound","duration_ms":85.0,"score":1.12345678901234567890,"tags":["a","b"],"caller":{"name":"J","x/y":1},"analysis":{"sentiment":{"a":[1,{"b":null}]}},"~":{"":0}},"/":"\ud83d\ude00"}`,
	`{"data":{"caller_phone_number":"x","caller":{"phone_number":"+1","":null}},"type":"call.report","call_id":"c"}`,
	`{"type":"sms.sent","data":{"message_id":"m","segments":1e0}}`,
	`{"type":"call.ended","call_id":"c","data":{"score":-0.0,"transcript_confidence":5e-324,"intent_confidence":123456789012345678901234567890}}`,
	`{"type":"call.ended","call_id":"c","data":{"a":[[[[[]]]]],"b":"\u0000\"\\"}}`,
}
