package catalog_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestEveryTypeOfTheSchemasIsDescribed(t *testing.T) {
	var want, got []string
	for _, name := range topic.Events() {
		want = append(want, event.Types(name)...)
	}
	for _, typ := range catalog.Types() {
		got = append(got, typ.Name)
		if typ.Title == "" || typ.Description == "" || typ.Topic == "" {
			t.Errorf("%s lacks a title, a description or a topic", typ.Name)
		}
	}
	if !slices.Equal(want, got) {
		t.Errorf("described are\n%v, the schemas have\n%v", got, want)
	}
}

func TestSamples(t *testing.T) {
	for _, typ := range catalog.Types() {
		t.Run(typ.Name, func(t *testing.T) {
			e, err := event.Parse(typ.Sample)
			if err != nil {
				t.Fatal(err)
			}
			if e.Type != typ.Name || e.Topic() != typ.Topic {
				t.Errorf("the sample is a %s of %s", e.Type, e.Topic())
			}
			e.Tenant = "acme"
			if faults := e.Check(); len(faults) > 0 {
				t.Error(faults)
			}
			if extra := e.Undeclared(); len(extra) > 0 {
				t.Errorf("the sample has members that the schema doesn't declare: %v", extra)
			}
			schema := compile(t, typ)
			sample, err := jsonschema.UnmarshalJSON(bytes.NewReader(typ.Sample))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(sample); err != nil {
				t.Error(err)
			}
			e.Sequence, e.HasSequence = 1, true
			printed, err := jsonschema.UnmarshalJSON(bytes.NewReader(e.AppendJSON(nil)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(printed); err != nil {
				t.Error(err)
			}
		})
	}
}

// What Parse refuses the JSON Schema must refuse too, or clients learn of it only in production.
func TestSchemaRefusesWhatParseRefuses(t *testing.T) {
	typ, _ := catalog.Lookup("call.report")
	schema := compile(t, typ)
	for _, text := range []string{
		`{"type":"call.report"}`,
		`{"type":"call.report","call_id":""}`,
		`{"type":"nope","call_id":"c"}`,
		`{"type":"call.report","call_id":"c","data":{"score":"85"}}`,
		`{"type":"call.report","call_id":"c","data":{"duration_ms":1.5}}`,
		`{"type":"call.report","call_id":"c","data":{"tags":["a",1]}}`,
		`{"type":"call.report","call_id":"c","data":{"caller":{"age":42}}}`,
		`{"type":"call.report","call_id":"c","data":{"started_at":"yesterday"}}`,
		`{"type":"call.report","call_id":"c","data":{"analysis":{"sentiment":1}}}`,
		`{"type":"call.report","call_id":"c","data":7}`,
	} {
		if _, err := event.Parse([]byte(text)); err == nil {
			t.Errorf("Parse takes %s", text)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(v) == nil {
			t.Errorf("the JSON Schema takes %s", text)
		}
	}
	for _, text := range []string{
		`{"type":"call.report","call_id":"c"}`,
		`{"type":"call.report","call_id":"c","data":null,"x":{"y":[1]}}`,
		`{"type":"call.report","call_id":"c","data":{"caller":{"name":null,"more":1},"duration_ms":85.0}}`,
	} {
		if _, err := event.Parse([]byte(text)); err != nil {
			t.Errorf("Parse: %s: %v", text, err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("JSON Schema: %s: %v", text, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, typ string
		match        bool
	}{
		{"*", "call.ended", true}, {"call.*", "call.ended", true}, {"call.ended", "call.ended", true},
		{"call.*", "calls.ended", false}, {"call*", "call.ended", false}, {"call.", "call.ended", false}, {"call.e*", "call.ended", false},
		{"chat.*", "call.ended", false}, {"", "call.ended", false}, {"*.ended", "call.ended", false},
	} {
		if got := catalog.Match(c.pattern, c.typ); got != c.match {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.typ, got)
		}
	}
	for _, pattern := range []string{"*", "call.*", "knowledge_base.*", "call.ended", "alert.raised"} {
		if err := catalog.ValidPattern(pattern); err != nil {
			t.Error(err)
		}
	}
	for _, pattern := range []string{"", "call", "call.", "call.nope", "nope.*", "call*", ".*", "**", "call.*.*", "Call.*", " call.*"} {
		if catalog.ValidPattern(pattern) == nil {
			t.Errorf("%q is taken as a pattern", pattern)
		}
	}
}

func compile(t *testing.T, typ catalog.Type) *jsonschema.Schema {
	t.Helper()
	var text any
	if err := json.Unmarshal(typ.JSONSchema(), &text); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:schema", text); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("urn:schema")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
