package subscription

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/go-json-experiment/json/jsontext"
)

// maxFaults bounds how many faults of one document are reported.
const maxFaults = 100

// SyntaxError says that a document is not JSON (RFC 8259, unique names, valid UTF-8).
type SyntaxError struct {
	Offset int64 // bytes from the start
	Detail string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("not valid JSON at byte %d: %s", e.Offset, e.Detail)
}

// Faults are the reasons why a document is refused. It is never empty as an error.
type Faults []problem.Fault

func (f Faults) Error() string {
	var b strings.Builder
	for i, fault := range f {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.TrimPrefix(fault.Pointer, "#") + ": " + fault.Detail)
	}
	return b.String()
}

// pointer is a JSON pointer (RFC 6901).
type pointer string

func (p pointer) member(name string) pointer {
	return p + "/" + pointer(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
}

func (p pointer) index(i int) pointer { return p + "/" + pointer(strconv.Itoa(i)) }

// ParseObject reads a JSON object, strictly: one value, unique names, valid UTF-8. The error is a *SyntaxError, or
// Faults when the value is not an object.
func ParseObject(raw []byte) (map[string]any, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.ReadValue(); err != nil {
		return nil, syntaxError(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, &SyntaxError{Offset: dec.InputOffset(), Detail: "more follows after the value"}
	}
	std := json.NewDecoder(bytes.NewReader(raw))
	std.UseNumber()
	var v any
	if err := std.Decode(&v); err != nil {
		return nil, &SyntaxError{Offset: std.InputOffset(), Detail: "it does not parse"}
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, Faults{{Pointer: problem.Pointer(""), Detail: "want an object, not " + kindOf(v)}}
	}
	return object, nil
}

func syntaxError(err error) error {
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		detail := "it does not parse"
		if syntactic.Err != nil {
			detail = syntactic.Err.Error()
		}
		return &SyntaxError{Offset: syntactic.ByteOffset, Detail: detail}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &SyntaxError{Detail: "the document ends early"}
	}
	return &SyntaxError{Detail: err.Error()}
}

// decoder turns a tree of JSON values into the model and notes every fault on the way.
type decoder struct{ faults Faults }

// member is implemented by types that JSON holds in a form of their own.
type member interface {
	decode(dec *decoder, at pointer, v any)
}

// fault notes what is wrong at a place, the first thing only: what else is wrong there often follows from it.
func (d *decoder) fault(at pointer, detail string) {
	place := problem.Pointer(string(at))
	if len(d.faults) < maxFaults && !slices.ContainsFunc(d.faults, func(f problem.Fault) bool { return f.Pointer == place }) {
		d.faults = append(d.faults, problem.Fault{Pointer: place, Detail: detail})
	}
}

// sorted returns the faults by place, so that the same document is answered the same each time.
func (d *decoder) sorted() Faults {
	slices.SortStableFunc(d.faults, func(a, b problem.Fault) int { return strings.Compare(a.Pointer, b.Pointer) })
	return d.faults
}

func (d *decoder) faultf(at pointer, format string, args ...any) {
	d.fault(at, fmt.Sprintf(format, args...))
}

// value decodes v into dst. null means that the member is absent.
func (d *decoder) value(at pointer, v any, dst reflect.Value) {
	if v == nil {
		return
	}
	if m, ok := dst.Addr().Interface().(member); ok {
		m.decode(d, at, v)
		return
	}
	switch dst.Kind() {
	case reflect.Pointer:
		p := reflect.New(dst.Type().Elem())
		d.value(at, v, p.Elem())
		dst.Set(p)
	case reflect.Struct:
		d.object(at, v, dst)
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			d.fault(at, "want an array, not "+kindOf(v))
			return
		}
		out := reflect.MakeSlice(dst.Type(), len(list), len(list))
		for i, item := range list {
			if item == nil {
				d.fault(at.index(i), "null is no item here")
				continue
			}
			d.value(at.index(i), item, out.Index(i))
		}
		dst.Set(out)
	case reflect.Map:
		d.mapping(at, v, dst)
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			d.fault(at, "want a string, not "+kindOf(v))
			return
		}
		dst.SetString(s)
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			d.fault(at, "want true or false, not "+kindOf(v))
			return
		}
		dst.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, ok := integer(v)
		if !ok {
			d.fault(at, "want a whole number, not "+kindOf(v))
			return
		}
		dst.SetInt(n)
	case reflect.Interface:
		dst.Set(reflect.ValueOf(v))
	default:
		panic("subscription: no decoding for " + dst.Type().String())
	}
}

func (d *decoder) object(at pointer, v any, dst reflect.Value) {
	object, ok := v.(map[string]any)
	if !ok {
		d.fault(at, "want an object, not "+kindOf(v))
		return
	}
	fields := map[string]int{}
	for i := range dst.NumField() {
		name, _, _ := strings.Cut(dst.Type().Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = i
		}
	}
	for _, name := range sortedNames(object) {
		i, known := fields[name]
		if !known {
			d.fault(at.member(name), "there is no such member")
			continue
		}
		d.value(at.member(name), object[name], dst.Field(i))
	}
}

func (d *decoder) mapping(at pointer, v any, dst reflect.Value) {
	object, ok := v.(map[string]any)
	if !ok {
		d.fault(at, "want an object, not "+kindOf(v))
		return
	}
	out := reflect.MakeMapWithSize(dst.Type(), len(object))
	for _, name := range sortedNames(object) {
		if object[name] == nil {
			continue
		}
		item := reflect.New(dst.Type().Elem()).Elem()
		d.value(at.member(name), object[name], item)
		out.SetMapIndex(reflect.ValueOf(name), item)
	}
	dst.Set(out)
}

func sortedNames(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func integer(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil {
		return i, true
	}
	f, err := n.Float64()
	if err != nil || f != float64(int64(f)) || f > 1<<53 || f < -(1<<53) {
		return 0, false
	}
	return int64(f), true
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number:
		return "the number " + v.String()
	case []any:
		return "an array"
	}
	return "an object"
}
