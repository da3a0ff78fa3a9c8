package event

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	hamba "github.com/hamba/avro/v2"
	"pgregory.net/rapid"
)

// A stock Avro library reads what our own codec writes, field by field, and ours reads what it writes.
func TestRecordsAgreeWithStockAvro(t *testing.T) {
	for _, name := range sortedKeys(schemaFiles()) {
		if newRecord(name) == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			schema := stockSchema(t, name)
			rapid.Check(t, func(t *rapid.T) {
				r := newRecord(name)
				fill(t, reflect.ValueOf(r).Elem())
				body := r.AppendAvro(nil)
				if again := r.AppendAvro(nil); !bytes.Equal(body, again) {
					t.Fatalf("equal records, other bytes")
				}
				var generic map[string]any
				if err := stock().Unmarshal(schema, body, &generic); err != nil {
					t.Fatal(err)
				}
				for i, f := range schema.Fields() {
					want := reflect.ValueOf(r).Elem().Field(i).Interface()
					if got := generic[f.Name()]; !sameColumn(got, want) {
						t.Fatalf("%s is %v (%T), we wrote %v", f.Name(), got, got, want)
					}
				}
				theirs, err := stock().Marshal(schema, generic)
				if err != nil {
					t.Fatal(err)
				}
				back := newRecord(name)
				if err := back.ReadAvro(theirs); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(r, back) {
					t.Fatalf("theirs\n%+v\nours\n%+v", back, r)
				}
			})
		})
	}
}

func TestEventsAgreeWithStockAvro(t *testing.T) {
	schemas := map[string]*hamba.RecordSchema{}
	for _, table := range tables {
		schemas[table.topic] = stockSchema(t, table.schema)
	}
	rapid.Check(t, func(t *rapid.T) {
		e, err := Parse(drawEvent(t))
		if err != nil {
			t.Fatal(err)
		}
		e.IngestedAt = hold(rapid.Int64Range(1, 1<<50).Draw(t, "ingested"))
		schema := schemas[e.Topic()]
		var generic map[string]any
		if err := stock().Unmarshal(schema, e.AppendAvro(nil), &generic); err != nil {
			t.Fatal(err)
		}
		for column, want := range map[string]string{"id": e.ID, "type": e.Type, "tenant": e.Tenant, "source": e.Source, "call_id": e.CallID, "agent_id": e.AgentID, "traceparent": e.Traceparent} {
			if got, _ := generic[column].(string); got != want {
				t.Fatalf("%s is %v, want %q", column, generic[column], want)
			}
		}
		for column, want := range map[string]time.Time{"time": e.Time, "ingested_at": e.IngestedAt} {
			if got, _ := generic[column].(time.Time); !got.Equal(want) {
				t.Fatalf("%s is %v, want %v", column, generic[column], want)
			}
		}
		table := e.fieldTable()
		for f := range table.fields {
			got, at := generic[table.fields[f].Column], e.index[f]
			if at == 0 {
				if list, _ := got.([]any); len(list) > 0 || list == nil && got != nil {
					t.Fatalf("%s is %v, want null", table.fields[f].Column, got)
				}
				continue
			}
			v := e.values[at-1]
			var want any = v.s
			switch table.fields[f].Kind {
			case KindLong:
				want = int64(v.n)
			case KindDouble:
				want = math.Float64frombits(v.n)
			case KindBool:
				want = v.n == 1
			case KindStrings:
				want = e.lists[v.n]
			}
			if !sameColumn(got, want) {
				t.Fatalf("%s is %v, want %v", table.fields[f].Column, got, want)
			}
		}
		theirs, err := stock().Marshal(schema, generic)
		if err != nil {
			t.Fatal(err)
		}
		back, err := readEvent(table, theirs)
		if err != nil {
			t.Fatal(err)
		}
		// A Go map has lost the order of the attributes.
		order := func(a, b Attribute) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) }
		slices.SortFunc(back.Attributes, order)
		slices.SortFunc(e.Attributes, order)
		if got, want := back.AppendJSON(nil), e.AppendJSON(nil); !bytes.Equal(got, want) {
			t.Fatalf("theirs\n%s\nours\n%s", got, want)
		}
	})
}

func stock() hamba.API {
	return hamba.Config{MaxByteSliceSize: -1}.Freeze()
}

func stockSchema(t *testing.T, name string) *hamba.RecordSchema {
	t.Helper()
	text, err := SchemaText(name)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := parseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	return schema.(*hamba.RecordSchema)
}

func sameColumn(got, want any) bool {
	switch want := want.(type) {
	case time.Time:
		at, ok := got.(time.Time)
		return ok && (at.Equal(want) || want.IsZero() && at.UnixMicro() == 0)
	case []byte:
		b, ok := got.([]byte)
		return ok && bytes.Equal(b, want)
	case float64:
		f, ok := got.(float64)
		return ok && math.Float64bits(f) == math.Float64bits(want)
	case *int64:
		if want == nil {
			return got == nil
		}
		return got == *want
	}
	return fmt.Sprint(got) == fmt.Sprint(want) || reflect.ValueOf(want).Kind() == reflect.Slice && reflect.ValueOf(want).Type().Elem().Kind() == reflect.Struct
}

// fill sets every field of a record at random; zero as often as the wire has to tell it from something.
func fill(t *rapid.T, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if rapid.IntRange(0, 4).Draw(t, "empty") == 0 {
			continue
		}
		switch f.Interface().(type) {
		case string:
			f.SetString(rapid.String().Draw(t, "string"))
		case bool:
			f.SetBool(rapid.Bool().Draw(t, "bool"))
		case int, int32:
			f.SetInt(int64(rapid.Int32().Draw(t, "int")))
		case int64:
			f.SetInt(rapid.Int64().Draw(t, "long"))
		case float64:
			f.SetFloat(rapid.Float64().Draw(t, "double"))
		case *int64:
			n := rapid.Int64().Draw(t, "long")
			f.Set(reflect.ValueOf(&n))
		case time.Time:
			f.Set(reflect.ValueOf(hold(rapid.Int64Range(1, 1<<52).Draw(t, "time"))))
		case []byte:
			if b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"); len(b) > 0 {
				f.SetBytes(b)
			}
		case []string:
			if list := rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "list"); len(list) > 0 {
				f.Set(reflect.ValueOf(list))
			}
		case map[string]string:
			if m := rapid.MapOfN(rapid.String(), rapid.String(), 0, 4).Draw(t, "map"); len(m) > 0 {
				f.Set(reflect.ValueOf(m))
			}
		case map[string][]byte:
			if m := rapid.MapOfN(rapid.String(), rapid.SliceOfN(rapid.Byte(), 1, 9), 0, 4).Draw(t, "map"); len(m) > 0 {
				f.Set(reflect.ValueOf(m))
			}
		default:
			list := reflect.MakeSlice(f.Type(), rapid.IntRange(1, 3).Draw(t, "items"), 3)
			for j := range list.Len() {
				fill(t, list.Index(j))
			}
			f.Set(list)
		}
	}
}
