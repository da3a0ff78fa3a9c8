// Package gen writes the Go code that mirrors the Avro schemas: structs with their codec for the pipeline's records, and
// the tables that drive the codec of events. It refuses schemas that break the rules of the wire contract.
package gen

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// record is one .avsc file, as far as the generator needs it.
type record struct {
	Type      string   `json:"type"`
	Name      string   `json:"name"`
	Namespace string   `json:"namespace"`
	Doc       string   `json:"doc"`
	Topic     string   `json:"topic"` // event records only
	Types     []string `json:"types"` // event records only: the event types of the topic
	Fields    []field  `json:"fields"`

	file string
}

type field struct {
	Name     string          `json:"name"`
	Type     json.RawMessage `json:"type"`
	Default  json.RawMessage `json:"default"`
	Doc      string          `json:"doc"`
	PII      string          `json:"pii"`
	JSON     string          `json:"json"`      // JSON pointer under data; "/" and the name where absent
	JSONType string          `json:"json_type"` // time or object, for strings that hold one
	Go       string          `json:"go"`        // Go type of an int field, or of the items of an array of records

	kind  string  // see kindOf
	items *record // of an array of records
}

func load(files fs.FS) ([]record, error) {
	names, err := fs.Glob(files, "*.avsc")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var records []record
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		r := record{file: name}
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// check enforces what the contract asks of every record: documented fields, defaults that make any version readable by
// any other, unions of null and a scalar only, and one namespace.
func (r *record) check() error {
	if r.Type != "record" || r.Namespace != "callstream" || r.Doc == "" {
		return fmt.Errorf("must be a documented record in the namespace callstream")
	}
	for i := range r.Fields {
		f := &r.Fields[i]
		if f.Doc == "" {
			return fmt.Errorf("field %s has no doc", f.Name)
		}
		for class := range strings.FieldsSeq(f.PII) {
			if !slices.Contains([]string{"phone", "email", "name", "address", "speech", "payment"}, class) {
				return fmt.Errorf("field %s: unknown pii %q", f.Name, class)
			}
		}
		if err := f.resolve(); err != nil {
			return fmt.Errorf("field %s: %w", f.Name, err)
		}
		required := r.Topic != "" && (f.Name == "type" || f.Name == "tenant")
		if f.Default == nil && !required {
			return fmt.Errorf("field %s has no default", f.Name)
		}
	}
	if r.Topic != "" {
		return r.checkEvent()
	}
	return nil
}

// resolve names the field's kind and checks that its default is the empty value of that kind.
func (f *field) resolve() error {
	var parsed any
	if err := json.Unmarshal(f.Type, &parsed); err != nil {
		return err
	}
	if m, ok := parsed.(map[string]any); ok && m["type"] == "array" {
		if _, ok := m["items"].(map[string]any); ok {
			var array struct{ Items record }
			if err := json.Unmarshal(f.Type, &array); err != nil {
				return err
			}
			for i := range array.Items.Fields {
				if err := array.Items.Fields[i].resolve(); err != nil {
					return fmt.Errorf("%s: %w", array.Items.Fields[i].Name, err)
				}
			}
			if f.Go == "" {
				return fmt.Errorf("an array of records needs the property go")
			}
			f.kind, f.items = "records", &array.Items
			return nil
		}
	}
	canonical, err := json.Marshal(parsed) // sorted keys, no spaces
	if err != nil {
		return err
	}
	kinds := map[string][2]string{ // type: kind, default
		`"string"`:           {"string", `""`},
		`"bytes"`:            {"bytes", `""`},
		`"long"`:             {"long", `0`},
		`"int"`:              {"int", `0`},
		`"double"`:           {"double", `0`},
		`"boolean"`:          {"boolean", `false`},
		`["null","string"]`:  {"?string", `null`},
		`["null","long"]`:    {"?long", `null`},
		`["null","double"]`:  {"?double", `null`},
		`["null","boolean"]`: {"?boolean", `null`},
		`["null",{"logicalType":"timestamp-micros","type":"long"}]`: {"?micros", `null`},
		`{"logicalType":"timestamp-micros","type":"long"}`:          {"micros", `0`},
		`{"items":"string","type":"array"}`:                         {"strings", `[]`},
		`{"type":"map","values":"string"}`:                          {"map", `{}`},
		`{"type":"map","values":"bytes"}`:                           {"mapbytes", `{}`},
	}
	k, ok := kinds[string(canonical)]
	if !ok {
		return fmt.Errorf("type %s isn't used on the wire", canonical)
	}
	f.kind = k[0]
	if f.Default != nil && string(f.Default) != k[1] {
		return fmt.Errorf("default %s, must be %s", f.Default, k[1])
	}
	return nil
}

// envelope is what the event codec reads and writes by hand, so it must open every event record in this order. The
// identity comes first: it can be read without the rest.
var envelope = []string{"id ?string", "type string", "time ?micros", "ingested_at ?micros", "tenant string", "source ?string", "call_id ?string",
	"agent_id ?string", "sequence ?long", "test ?boolean", "traceparent ?string", "attributes map", "extra_json ?string"}

// maxFields is the size of the index that an event keeps of its fields.
const maxFields = 160

func (r *record) checkEvent() error {
	if len(r.Types) == 0 {
		return fmt.Errorf("no types")
	}
	if len(r.Fields) < len(envelope) {
		return fmt.Errorf("no envelope")
	}
	for i, want := range envelope {
		if got := r.Fields[i].Name + " " + r.Fields[i].kind; got != want {
			return fmt.Errorf("field %d is %q, the envelope has %q", i, got, want)
		}
	}
	if len(r.Fields)-len(envelope) > maxFields {
		return fmt.Errorf("more than %d fields", maxFields)
	}
	pointers, groups, last := map[string]bool{}, map[string]bool{}, ""
	for i := range r.Fields[len(envelope):] {
		f := &r.Fields[len(envelope)+i]
		if f.JSON == "" {
			f.JSON = "/" + f.Name
		}
		if pointers[f.JSON] || !strings.HasPrefix(f.JSON, "/") || strings.ContainsAny(f.JSON, `~"\`) {
			return fmt.Errorf("field %s: bad or repeated pointer %q", f.Name, f.JSON)
		}
		pointers[f.JSON] = true
		group, _, nested := strings.Cut(f.JSON[1:], "/")
		if !nested {
			group = ""
		}
		if strings.Count(f.JSON, "/") > 2 {
			return fmt.Errorf("field %s: groups nest once", f.Name)
		}
		if group != last && groups[group] && group != "" {
			return fmt.Errorf("field %s: the fields of group %s must stand together", f.Name, group)
		}
		groups[group], last = true, group
		switch {
		case f.JSONType != "" && (f.kind != "?string" || f.JSONType != "time" && f.JSONType != "object"):
			return fmt.Errorf("field %s: json_type %q", f.Name, f.JSONType)
		case !slices.Contains([]string{"?string", "?long", "?double", "?boolean", "strings"}, f.kind):
			return fmt.Errorf("field %s: events hold no %s", f.Name, f.kind)
		}
	}
	for group := range groups {
		if pointers["/"+group] {
			return fmt.Errorf("%s is both a field and a group", group)
		}
	}
	return nil
}
