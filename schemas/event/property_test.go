package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	"pgregory.net/rapid"
)

// The promise: any JSON event that Parse takes comes out of JSON → Avro → JSON with the same values, undeclared members
// included, nested ones too, however they are named.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := drawEvent(t)
		e, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		roundTrip(t, raw, e)
	})
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// roundTrip compares an event with its input before and after Avro, and every way to read it with every other.
func roundTrip(t failer, raw []byte, e *Event) {
	t.Helper()
	want := meaning(t, raw)
	first := e.AppendJSON(nil)
	if got := meaning(t, first); !reflect.DeepEqual(got, want) {
		t.Fatalf("printed\n%s\nfrom\n%s", first, raw)
	}
	body := e.AppendAvro(nil)
	back, err := readEvent(e.table, body)
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if second := back.AppendJSON(nil); !bytes.Equal(first, second) {
		t.Fatalf("after Avro\n%s\nbefore\n%s", second, first)
	}
	if again := back.AppendAvro(nil); !bytes.Equal(body, again) {
		t.Fatalf("Avro again\n%q\nfirst\n%q", again, body)
	}
	third, err := Parse(first)
	if err != nil {
		t.Fatalf("our own output: %v: %s", err, first)
	}
	if again := third.AppendJSON(nil); !bytes.Equal(first, again) {
		t.Fatalf("printed again\n%s\nfirst\n%s", again, first)
	}
	var decoded any
	if err := json.Unmarshal(first, &decoded); err != nil {
		t.Fatalf("%v: %s", err, first)
	}
	m := back.Map()
	if _, printed := decoded.(map[string]any)["test"]; !printed {
		decoded.(map[string]any)["test"] = false
	}
	if !sameValues(m, decoded) {
		t.Fatalf("map\n%v\nJSON\n%v", m, decoded)
	}
	for name, value := range decoded.(map[string]any) {
		if name == "test" || strings.Contains(name, ".") {
			continue
		}
		lookUp(t, back, name, value)
	}
	for name, value := range decoded.(map[string]any)["data"].(map[string]any) {
		if !strings.Contains(name, ".") {
			lookUp(t, back, "data."+name, value)
			if group, ok := value.(map[string]any); ok {
				for inner, value := range group {
					if !strings.Contains(inner, ".") && !clash(decoded.(map[string]any), name+"."+inner) {
						lookUp(t, back, "data."+name+"."+inner, value)
					}
				}
			}
		}
	}
}

// clash reports whether a dotted path is a member's name as well, which then wins.
func clash(root map[string]any, path string) bool {
	_, inData := root["data"].(map[string]any)[path]
	return inData
}

func lookUp(t failer, e *Event, path string, want any) {
	v, ok := e.Lookup(path)
	if !ok {
		t.Fatalf("Lookup(%q) finds nothing of %v", path, want)
	}
	var got any
	if err := json.Unmarshal(v.AppendJSON(nil), &got); err != nil || !sameValues(got, want) {
		t.Fatalf("Lookup(%q) = %s, want %v (%v)", path, v.AppendJSON(nil), want, err)
	}
	if s, isString := want.(string); isString && v.String() != s {
		t.Fatalf("Lookup(%q).String() = %q", path, v.String())
	}
}

func sameValues(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k := range a {
			if _, ok := b[k]; !ok || !sameValues(a[k], b[k]) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameValues)
	case int64:
		f, ok := b.(float64)
		return ok && float64(a) == f
	}
	return a == b
}

// meaning is what an event says: its JSON with every number as a fraction and every declared member that is null or empty
// left out. Times of the envelope are instants.
func meaning(t failer, raw []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	table := tableOf(v["type"].(string))
	for name, value := range v {
		if envelopeBit(name) >= 0 && absent(value) {
			delete(v, name)
		}
	}
	if attributes, ok := v["attributes"].(map[string]any); ok {
		for name, value := range attributes {
			if value == nil {
				delete(attributes, name)
			}
		}
		if len(attributes) == 0 {
			delete(v, "attributes")
		}
	}
	if text, ok := v["time"].(string); ok {
		at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(text))
		if err == nil {
			v["time"] = at.UTC().String()
		}
	}
	data, _ := v["data"].(map[string]any)
	for name, value := range data {
		switch f := table.find(nodeData, name); {
		case f >= groupBase:
			group, _ := value.(map[string]any)
			for inner, value := range group {
				if g := table.find(nodeGroup+f-groupBase, inner); g >= 0 && absent(value) {
					delete(group, inner)
				}
			}
			if len(group) == 0 {
				delete(data, name)
			}
		case f >= 0 && absent(value):
			delete(data, name)
		}
	}
	if len(data) == 0 {
		v["data"] = map[string]any{}
	}
	return fractions(v)
}

func absent(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func fractions(v any) any {
	switch v := v.(type) {
	case json.Number:
		d := parseDecimal(string(v))
		if d.exponent > 1000 || d.exponent < -1000 {
			return fmt.Sprint(d)
		}
		r, _ := new(big.Rat).SetString(string(v))
		return r.String()
	case map[string]any:
		for k := range v {
			v[k] = fractions(v[k])
		}
	case []any:
		for i := range v {
			v[i] = fractions(v[i])
		}
	}
	return v
}

// drawEvent draws an event that Parse takes, with every trick in names, numbers and spelling.
func drawEvent(t *rapid.T) []byte {
	var b bytes.Buffer
	typ := rapid.SampledFrom(allTypes()).Draw(t, "type")
	table := tableOf(typ)
	var members []string
	add := func(name, value string) { members = append(members, quote(t, name)+space(t)+":"+space(t)+value) }
	maybe := func(what string) bool { return rapid.Bool().Draw(t, what) }
	add("type", quote(t, typ))
	short := rapid.StringMatching(`[a-zA-Z0-9 _/~."é日-]{1,20}`)
	if table.topic == topic.CallsEvents || maybe("call_id") {
		add("call_id", quote(t, short.Draw(t, "call")))
	}
	for _, name := range []string{"id", "tenant", "source", "agent_id", "traceparent"} {
		if maybe(name) {
			add(name, rapid.OneOf(rapid.Just("null"), rapid.Just(`""`), rapid.Custom(func(t *rapid.T) string { return quote(t, short.Draw(t, "s")) })).Draw(t, name))
		}
	}
	if maybe("time") {
		add("time", quote(t, drawTime(t)))
	}
	if maybe("sequence") {
		add("sequence", drawLong(t))
	}
	if maybe("test") {
		add("test", rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "test"))
	}
	if maybe("attributes") {
		add("attributes", drawObject(t, func(string) string {
			return rapid.OneOf(rapid.Just("null"), rapid.Custom(func(t *rapid.T) string { return quote(t, drawText(t)) })).Draw(t, "attribute")
		}, nil))
	}
	if maybe("data") {
		add("data", drawFields(t, table, nodeData))
	}
	for _, name := range drawNames(t, func(name string) bool { return envelopeBit(name) < 0 }) {
		add(name, drawJSON(t, 3))
	}
	members = rapid.Permutation(members).Draw(t, "order")
	fmt.Fprintf(&b, "%s{%s%s%s}%s", space(t), space(t), strings.Join(members, ","), space(t), space(t))
	return b.Bytes()
}

func allTypes() []string {
	var all []string
	for _, name := range topic.Events() {
		all = append(all, Types(name)...)
	}
	return all
}

func drawFields(t *rapid.T, table *table, node int) string {
	var members []string
	for f := range table.fields {
		field := &table.fields[f]
		if field.node != node || rapid.IntRange(0, 5).Draw(t, "present") > 0 {
			continue
		}
		value := rapid.SampledFrom([]string{"null", `""`, "[]", "{ }"}).Draw(t, "empty")
		if rapid.IntRange(0, 4).Draw(t, "full") > 0 {
			switch field.Kind {
			case KindString:
				value = quote(t, drawText(t))
			case KindTime:
				value = quote(t, drawTime(t))
			case KindLong:
				value = drawLong(t)
			case KindDouble:
				value = drawDouble(t)
			case KindBool:
				value = rapid.SampledFrom([]string{"true", "false"}).Draw(t, "bool")
			case KindStrings:
				value = "[" + strings.Join(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return quote(t, drawText(t)) }), 0, 4).Draw(t, "list"), ", ") + "]"
			case KindObject:
				value = drawObject(t, func(string) string { return drawJSON(t, 2) }, nil)
			}
		}
		members = append(members, quote(t, field.name)+":"+space(t)+value)
	}
	if node == nodeData {
		for g := range table.groups {
			if rapid.Bool().Draw(t, "group") {
				members = append(members, quote(t, table.groups[g].name)+":"+drawFields(t, table, nodeGroup+g))
			}
		}
	}
	for _, name := range drawNames(t, func(name string) bool { return table.find(node, name) < 0 }) {
		members = append(members, quote(t, name)+":"+drawJSON(t, 3))
	}
	return "{" + strings.Join(rapid.Permutation(members).Draw(t, "order"), space(t)+",") + "}"
}

// drawNames draws hostile names of members, each once, that ok takes.
func drawNames(t *rapid.T, ok func(string) bool) []string {
	name := rapid.OneOf(
		rapid.SampledFrom([]string{"", "/", "~", "~0", "~1", "a/b", "data", "/data/score", "caller_phone_number", "caller", "caller.name", "analysis_score", "extra_json", "ingested_at", "event_type",
			"attributes", "id", "type", "__proto__", "0", "-", "\u0000", "\"", "\\", "é", "日本", "😀", "\u2028", "Score", "score ", "test", "time", "value", "null", "constructor", "a.b.c", "$ref"}),
		rapid.Custom(drawText))
	names := rapid.SliceOfNDistinct(name, 0, 4, rapid.ID).Draw(t, "names")
	return slices.DeleteFunc(names, func(n string) bool { return !ok(n) })
}

func drawObject(t *rapid.T, value func(string) string, names []string) string {
	var members []string
	for _, name := range append(names, drawNames(t, func(string) bool { return true })...) {
		members = append(members, quote(t, name)+":"+value(name))
	}
	return "{" + space(t) + strings.Join(members, ","+space(t)) + "}"
}

func drawJSON(t *rapid.T, depth int) string {
	kinds := []string{"null", "true", "false", "number", "string"}
	if depth > 0 {
		kinds = append(kinds, "array", "object", "object")
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); kind {
	case "number":
		return drawDouble(t)
	case "string":
		return quote(t, drawText(t))
	case "array":
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			items = append(items, drawJSON(t, depth-1))
		}
		return "[" + strings.Join(items, space(t)+",") + space(t) + "]"
	case "object":
		return drawObject(t, func(string) string { return drawJSON(t, depth-1) }, nil)
	default:
		return kind
	}
}

func drawText(t *rapid.T) string {
	return rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z \n"\\/<>&\t]{0,40}`), rapid.SampledFrom([]string{"", "null", "{}", "é😀\u2028", "\x00", strings.Repeat("long ", 300)})).Draw(t, "text")
}

func drawLong(t *rapid.T) string {
	n := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-100, 100000)).Draw(t, "long")
	switch rapid.IntRange(0, 3).Draw(t, "spelling") {
	case 1:
		return fmt.Sprintf("%d.000", n)
	case 2:
		if n != 0 {
			return fmt.Sprintf("%d0e-1", n)
		}
	case 3:
		if n%100 == 0 {
			return fmt.Sprintf("%de+2", n/100)
		}
	}
	return fmt.Sprint(n)
}

func drawDouble(t *rapid.T) string {
	switch rapid.IntRange(0, 4).Draw(t, "spelling") {
	case 0:
		return drawLong(t)
	case 1:
		return string(appendDoubleJSON(nil, rapid.Float64().Draw(t, "double")))
	case 2:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})\.[0-9]{1,30}`).Draw(t, "digits")
	case 3:
		return rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,10})?[eE][+-]?[0-9]{1,2}`).Draw(t, "exponent")
	default:
		return rapid.SampledFrom([]string{"0", "-0", "-0.0", "1e308", "5e-324", "1e-400", "9007199254740993", "0.1", "1E2", "123456789012345678901234567890"}).Draw(t, "double")
	}
}

func drawTime(t *rapid.T) string {
	at := time.Unix(rapid.Int64Range(-62100000000, 253400000000).Draw(t, "seconds"), 0).UTC().Format("2006-01-02T15:04:05")
	fraction := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`\.[0-9]{1,9}`)).Draw(t, "fraction")
	zone := rapid.SampledFrom([]string{"Z", "z", "+00:00", "-00:00", "+05:30", "-11:00", "+14:00"}).Draw(t, "zone")
	if rapid.Bool().Draw(t, "lower") {
		at = strings.Replace(at, "T", "t", 1)
	}
	return at + fraction + zone
}

func space(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\r\n"}).Draw(t, "space")
}

// quote spells a string in JSON, some of its characters escaped although they needn't be.
func quote(t *rapid.T, s string) string {
	s = strings.ToValidUTF8(s, "?")
	if rapid.IntRange(0, 3).Draw(t, "escapes") > 0 {
		return string(appendQuoted(nil, s))
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r >= 0x10000:
			fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		case r == '/':
			b.WriteString(`\/`)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
