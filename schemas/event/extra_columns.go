package event

import (
	"encoding/json"
	"strings"

	hamba "github.com/hamba/avro/v2"
)

// Columns that a writer's schema has and ours has not come from a platform that added its own, or from a newer version
// of callstream during an upgrade. Avro's resolution would drop them. An event keeps members that it does not declare, so
// they become such members, through the column extra_json.

// extraColumn is a column of a writer's event record that ours lacks.
type extraColumn struct {
	name    string
	pointer string // where the member goes: what the column's "json" says, else its name, under /data
	object  bool   // the string holds a JSON object
	union   bool
}

// extraColumns returns the columns of theirs that ours lacks, if ours is the record of an event.
func extraColumns(ours, theirs hamba.Schema) []extraColumn {
	mine, ok := ours.(*hamba.RecordSchema)
	if !ok || tableOfSchema(mine.FullName()) == nil {
		return nil
	}
	written, ok := theirs.(*hamba.RecordSchema)
	if !ok {
		return nil
	}
	known := map[string]bool{}
	for _, f := range mine.Fields() {
		known[f.Name()] = true
	}
	var extra []extraColumn
	for _, f := range written.Fields() {
		if known[f.Name()] {
			continue
		}
		c := extraColumn{name: f.Name(), pointer: "/data/" + f.Name()}
		if p, ok := f.Prop("json").(string); ok && strings.HasPrefix(p, "/") {
			c.pointer = "/data" + p
		}
		c.object = f.Prop("json_type") == "object"
		_, c.union = f.Type().(*hamba.UnionSchema)
		extra = append(extra, c)
	}
	return extra
}

// tableOfSchema returns the table of the event record of that full name, nil if there is none.
func tableOfSchema(name string) *table {
	for i := range tables {
		if tables[i].schema == name {
			return tables[i]
		}
	}
	return nil
}

// keepExtra adds the extra columns of a record as written to extra_json of the record as resolved, and reports whether
// there were any. Null and empty equal absent, as everywhere.
func keepExtra(columns []extraColumn, resolved, written any) bool {
	to, ok := resolved.(map[string]any)
	if !ok {
		return false
	}
	from, ok := written.(map[string]any)
	if !ok {
		return false
	}
	text, _ := unwrap(to["extra_json"]).(string)
	if text == "" {
		text = "{}"
	}
	var there map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &there) != nil || there == nil {
		return false // poison, which is for readEvent to say
	}
	added := false
	for _, c := range columns {
		value := from[c.name]
		if c.union {
			value = unwrap(value)
		}
		raw, ok := c.raw(value)
		if _, taken := there[c.pointer]; taken || !ok {
			continue
		}
		pointer, err := json.Marshal(c.pointer)
		if err != nil {
			continue
		}
		head := strings.TrimRight(text, " \t\r\n")
		head = head[:len(head)-1]
		if len(there) > 0 {
			head += ","
		}
		text = head + string(pointer) + ":" + raw + "}"
		there[c.pointer], added = json.RawMessage(raw), true
	}
	if added {
		to["extra_json"] = text
	}
	return added
}

// raw is the column's value as JSON; false for one that equals absence, or that JSON can't hold.
func (c *extraColumn) raw(value any) (string, bool) {
	if text, ok := value.(string); ok && c.object && isObject(text) {
		return text, text != "{}"
	}
	raw, err := json.Marshal(value)
	switch text := string(raw); text {
	case "null", `""`, "[]", "{}":
		return "", false
	default:
		return text, err == nil
	}
}

// unwrap returns the value of a union, which the library gives with the name of its type where it knows no Go type.
func unwrap(value any) any {
	if m, ok := value.(map[string]any); ok && len(m) == 1 {
		for _, v := range m {
			return v
		}
	}
	return value
}
