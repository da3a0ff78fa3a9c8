package catalog

import (
	"encoding/json"
	"strings"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// object is a JSON object whose members keep their order: a schema is read by people too.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b = append(append(event.AppendString(b, m.name), ':'), value...)
	}
	return append(b, '}'), nil
}

// JSONSchema returns the JSON Schema (2020-12) of the type's events as POST /v1/events takes them. It is made from the
// Avro schema of the type's topic. Members it does not name are allowed and delivered. It is a little stricter than the
// API, which also takes "", [] and {} for the absence of any declared member. The keyword x-pii says which kind of personal
// data a field holds.
func (t Type) JSONSchema() json.RawMessage {
	var properties object
	groups := map[string]*object{}
	for _, f := range event.Fields(t.Topic) {
		path := strings.Split(strings.TrimPrefix(f.Pointer, "/data/"), "/")
		if len(path) == 1 {
			properties = append(properties, member{path[0], fieldSchema(f)})
			continue
		}
		if groups[path[0]] == nil {
			groups[path[0]] = &object{}
			properties = append(properties, member{path[0], append(typed("object"), member{"properties", groups[path[0]]})})
		}
		*groups[path[0]] = append(*groups[path[0]], member{path[1], fieldSchema(f)})
	}
	name := func(doc string) object {
		return append(typed("string"), member{"maxLength", 256}, member{"description", doc})
	}
	callID := name("The call it belongs to.")
	required := []string{"type"}
	if t.Topic == topic.CallsEvents {
		required = append(required, "call_id")
		callID = object{{"type", "string"}, {"minLength", 1}, {"maxLength", 256}, {"description", "The call it belongs to."}}
	}
	schema := object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", "urn:callstream:event:" + t.Name},
		{"title", t.Title},
		{"description", t.Description},
		{"type", "object"},
		{"required", required},
		{"properties", object{
			{"id", name("Identifies the event together with tenant and source; made up where it is absent.")},
			{"type", object{{"const", t.Name}}},
			{"time", append(typed("string"), member{"format", "date-time"}, member{"description", "When it happened (RFC 3339); now where it is absent."})},
			{"tenant", name("The tenant it belongs to: that of the API key.")},
			{"source", name("The system that reports it.")},
			{"call_id", callID},
			{"agent_id", name("The agent it concerns, human or virtual.")},
			{"sequence", append(typed("integer"), member{"description", "Place of the event among those of its call."})},
			{"test", append(typed("boolean"), member{"description", "Whether it is a test and nothing really happened."})},
			{"traceparent", name("W3C trace context.")},
			{"attributes", append(typed("object"), member{"additionalProperties", typed("string")}, member{"description", "Free labels."})},
			{"data", append(typed("object"), member{"properties", properties})},
		}},
	}
	text, err := json.Marshal(schema)
	if err != nil {
		panic(err) // strings, numbers and booleans only
	}
	return text
}

func fieldSchema(f event.Field) object {
	var o object
	switch f.Kind {
	case event.KindTime:
		o = append(typed("string"), member{"format", "date-time"})
	case event.KindLong:
		o = typed("integer")
	case event.KindDouble:
		o = typed("number")
	case event.KindBool:
		o = typed("boolean")
	case event.KindStrings:
		o = append(typed("array"), member{"items", object{{"type", "string"}}})
	case event.KindObject:
		o = typed("object")
	default:
		o = typed("string")
	}
	o = append(o, member{"description", f.Doc})
	if f.PII != "" {
		o = append(o, member{"x-pii", f.PII})
	}
	return o
}

// typed allows null beside the type, because null equals absence.
func typed(name string) object { return object{{"type", []string{name, "null"}}} }
