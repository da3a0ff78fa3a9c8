package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// hider hides texts and names that hold "secret", and the number 42.
type hider struct{}

func (hider) Text(_, text string) (string, bool) {
	return strings.ReplaceAll(text, "secret", Redacted), strings.Contains(text, "secret")
}

func (hider) Number(_, literal string, _ bool) bool { return literal == "42" }

func drop() *Rule { return &Rule{Drop: true} }

func keep() *Rule { return &Rule{} }

func members(pairs ...any) map[string]*Rule {
	m := map[string]*Rule{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1].(*Rule)
	}
	return m
}

// What an edit leaves alone keeps its bytes, white space and spelling included, and its order.
func TestEditOfRawJSON(t *testing.T) {
	without := &Rule{Members: members("x", drop())}
	only := &Rule{Sift: true, Members: members("x", keep())}
	deep := &Rule{Sift: true, Members: members("a", &Rule{Sift: true, Members: members("x", keep())})}
	for _, c := range []struct {
		raw   string
		rule  *Rule
		scrub Scrubber
		want  string // empty where nothing stays
	}{
		{`{ "a" : 1.50 , "x":2,"b":[ ] }`, without, nil, `{ "a" : 1.50,"b":[ ] }`},
		{`{ "x" : 1 , "b" : 2 }`, without, nil, `{ "b" : 2 }`},
		{`{"b":2, "x":{"y":[1]} }`, without, nil, `{"b":2 }`},
		{`{"x":1}`, without, nil, `{}`},
		{`[{"x":1},{"x":2, "y":"\u0041"}, 7]`, without, nil, `[{},{"y":"\u0041"}, 7]`},
		{`{"a":{"x":1}}`, without, nil, `{"a":{"x":1}}`},
		{`{"a":1,"x":"\/","b":2}`, only, nil, `{"x":"\/"}`},
		{`{"a":1,"b":2}`, only, nil, ``},
		{`[1,{"x":[1, 2]},[],{},{"b":0},"s",null,true,{"b":1,"x":3}]`, only, nil, `[{"x":[1, 2]},{"x":3}]`},
		{`"text"`, only, nil, ``},
		{`{"a":{"b":1},"c":{"x":1}}`, deep, nil, ``},
		{`{"a":[{"b":1},{"b":2,"x":1}],"c":2}`, deep, nil, `{"a":[{"x":1}]}`},
		{`{"a.x":1,"a.y":2,"a":{"x":3}}`, deep, nil, `{"a.x":1,"a":{"x":3}}`},
		{`{"a":1.0,"b":"t","c":[true,null,{"d":"e"}],"f":{}}`, &Rule{Redact: true}, nil,
			`{"a":"[redacted]","b":"[redacted]","c":["[redacted]",null,{"d":"[redacted]"}],"f":{}}`},
		{`{"a":"b","x":1}`, &Rule{Redact: true, Members: members("x", drop())}, nil, `{"a":"[redacted]"}`},
		{`{"a" :"a secret\u0021","b":"\u0073ecret","c":"\u0041", "n":42,"m":42.0}`, nil, hider{}, `{"a" :"a [redacted]!","b":"[redacted]","c":"\u0041", "n":"[redacted]","m":42.0}`},
		{`{"secret":1,"se\u0063ret":2,"[redacted] 2":3,"x secret":4}`, nil, hider{}, `{"[redacted]":1,"[redacted] 3":2,"[redacted] 2":3,"x [redacted]":4}`},
		{`{"secret":{"x":1,"secret":"secret"},"x":0}`, without, hider{}, `{"[redacted]":{"x":1,"[redacted]":"[redacted]"}}`},
		{`{"a":{"secret":"secret"},"x":{"k":"secret"}}`, only, hider{}, `{"x":{"k":"[redacted]"}}`},
		{`[["secret",["secret"]],"é"]`, nil, hider{}, `[["[redacted]",["[redacted]"]],"é"]`},
	} {
		got, kept, changed := editRaw(c.raw, "member", c.rule, c.scrub)
		if kept != (c.want != "") || kept && got != c.want {
			t.Errorf("%s:\ngot  %s (%v)\nwant %s", c.raw, got, kept, c.want)
		}
		if changed != (c.raw != c.want) {
			t.Errorf("%s: changed is %v", c.raw, changed)
		}
	}
}

// Every way to read an edited event tells the same, it stays what it is on the wire, and the event that it was made of
// does not change.
func TestEditedEventsAreEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := drawEvent(t)
		e, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		before := e.AppendJSON(nil)
		edit := NewEdit(func(string) *Rule {
			return &Rule{Members: members("source", drop(), "data", drawRule(t, 2), "attributes", drawRule(t, 1))}
		})
		edited := edit.Apply(e, rapid.SampledFrom([]Scrubber{nil, hider{}, always{}}).Draw(t, "scrub"))
		if after := e.AppendJSON(nil); !bytes.Equal(before, after) {
			t.Fatalf("the event was\n%s\nand is\n%s", before, after)
		}
		first := edited.AppendJSON(nil)
		if !json.Valid(first) {
			t.Fatalf("not JSON: %s", first)
		}
		back, err := readEvent(edited.table, edited.AppendAvro(nil))
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		if second := back.AppendJSON(nil); meaningless(first) != meaningless(second) {
			t.Fatalf("after Avro\n%s\nbefore\n%s", second, first)
		}
		var decoded map[string]any
		if err := json.Unmarshal(first, &decoded); err != nil {
			t.Fatal(err)
		}
		if _, printed := decoded["test"]; !printed {
			decoded["test"] = false
		}
		if !sameValues(edited.Map(), decoded) {
			t.Fatalf("map\n%v\nJSON\n%s", edited.Map(), first)
		}
		for _, name := range []string{"id", "type", "time", "tenant", "sequence", "test"} {
			was, _ := e.Lookup(name)
			is, _ := edited.Lookup(name)
			if was.String() != is.String() {
				t.Fatalf("%s was %s and is %s", name, was, is)
			}
		}
		if edited.Source != "" {
			t.Fatalf("the source stays: %s", first)
		}
	})
}

// always hides every text and number.
type always struct{}

func (always) Text(string, string) (string, bool) { return Redacted, true }

func (always) Number(string, string, bool) bool { return true }

// meaningless is an event's JSON with its members in order: an undeclared group may come back from the wire elsewhere.
func meaningless(raw []byte) string {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return ""
	}
	sorted, _ := json.Marshal(v)
	return string(sorted)
}

func drawRule(t *rapid.T, depth int) *Rule {
	r := &Rule{Drop: rapid.IntRange(0, 9).Draw(t, "drop") == 0, Redact: rapid.IntRange(0, 3).Draw(t, "redact") == 0, Sift: rapid.IntRange(0, 2).Draw(t, "sift") == 0}
	if depth == 0 {
		return r
	}
	r.Members = map[string]*Rule{}
	names := []string{"caller", "analysis", "transfer", "score", "fields", "participants", "duration_ms", "started_at", "is_partial", "tags", "name", "mood", "a/b", "__proto__", "", "caller.name", "a", "status"}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 8, rapid.ID).Draw(t, "names") {
		r.Members[name] = drawRule(t, depth-1)
	}
	return r
}

func TestSetText(t *testing.T) {
	e, err := Parse([]byte(`{"type":"chat.ended","data":{"body":"b","score":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	e.Map()
	e.SetText("body", "c")
	e.SetText("status", "done")
	e.SetText("mood", "a \"good\" one")
	e.SetText("duration_ms", "not a number")
	const want = `{"type":"chat.ended","data":{"body":"c","status":"done","score":1,"mood":"a \"good\" one"}}`
	if got := string(e.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if e.Map()["data"].(map[string]any)["body"] != "c" {
		t.Error("the map is the old one")
	}
}

func TestWholeNumber(t *testing.T) {
	for literal, want := range map[string]string{"85": "85", "85.0": "85", "0.85e2": "85", "-1E3": "-1000", "0": "0", "-0.0": "0", "0e9999999999999999999": "0", "12345678901234567890": "12345678901234567890",
		"85.5": "", "1e-3": "", "1e20": "", "1e999999999999999999999": "", "123456789012345678901": ""} {
		if got, ok := WholeNumber(literal); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", literal, got, ok)
		}
	}
}
