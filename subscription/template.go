package subscription

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"

	"github.com/callstream/callstream/schemas/event"
)

// The reasons why a template makes no body of an event, besides ReasonMissingField.
const (
	ReasonTemplateError = "template_error"
	ReasonTooLarge      = "payload_too_large" // of any rendering
)

// MaxBody is the largest body that is sent, in bytes. A template is stopped at it: an expression that names the event a
// thousand times must not fill the memory before its size is seen.
const MaxBody = 3 << 20

// TemplateError says why a template makes no body of an event. Reason is ReasonMissingField, ReasonTemplateError or
// ReasonTooLarge, and Detail says more for a person; for a missing field it is the member's path.
type TemplateError struct{ Reason, Detail string }

func (e *TemplateError) Error() string {
	if e.Reason == ReasonMissingField {
		return "the event has no " + e.Detail
	}
	return e.Detail
}

// Template is a compiled CEL expression over event that yields a body. It is safe for concurrent use.
type Template struct{ expression }

// CompileTemplate compiles a CEL expression that yields any JSON value. A bad one is an *ExpressionError.
func CompileTemplate(source string) (*Template, error) {
	x, err := compileExpression(source)
	if err != nil {
		return nil, err
	}
	if x.yields.Kind() == types.TypeKind {
		return nil, &ExpressionError{Line: 1, Column: 1, Detail: "the expression yields " + x.yields.String() + ", which JSON has no form for"}
	}
	return &Template{*x}, nil
}

// Source returns the expression.
func (t *Template) Source() string { return t.source }

// AppendJSON appends the body that the template makes of an event, the same bytes each time: the names of an object are
// sorted, and numbers print as the events' own do, 85 for 85.0. The error is a *TemplateError; dst comes back as it was then.
func (t *Template) AppendJSON(dst []byte, e *event.Event) ([]byte, error) {
	members := e.Map()
	out, _, tooLong, err := t.evaluate(members, expressionCost)
	switch {
	case tooLong:
		return dst, &TemplateError{ReasonTemplateError, "the template takes too long on this event"}
	case err != nil:
		if name, missing := t.missing(members, err); missing {
			return dst, &TemplateError{ReasonMissingField, name}
		}
		return dst, &TemplateError{ReasonTemplateError, shorten(err.Error())}
	}
	w := templateWriter{out: dst, limit: len(dst) + MaxBody}
	if err := w.value(out); err != nil {
		return dst, err
	}
	return w.out, nil
}

// templateWriter prints CEL values as JSON.
type templateWriter struct {
	out   []byte
	limit int
}

func (w *templateWriter) value(v ref.Val) error {
	if len(w.out) > w.limit {
		return &TemplateError{ReasonTooLarge, fmt.Sprintf("the template makes more than %d bytes of this event", MaxBody)}
	}
	switch v := v.(type) {
	case types.Null:
		w.out = append(w.out, "null"...)
	case types.Bool:
		w.out = strconv.AppendBool(w.out, bool(v))
	case types.Int:
		w.out = strconv.AppendInt(w.out, int64(v), 10)
	case types.Uint:
		w.out = strconv.AppendUint(w.out, uint64(v), 10)
	case types.Double:
		return w.double(float64(v))
	case types.String:
		w.out = event.AppendString(w.out, string(v))
	case types.Bytes:
		w.out = append(base64.StdEncoding.AppendEncode(append(w.out, '"'), v), '"')
	case types.Timestamp:
		w.out = append(v.UTC().AppendFormat(append(w.out, '"'), time.RFC3339Nano), '"')
	case types.Duration:
		w.out = append(append(strconv.AppendFloat(append(w.out, '"'), v.Seconds(), 'f', -1, 64), 's'), '"')
	case *types.Optional:
		if !v.HasValue() {
			w.out = append(w.out, "null"...)
			return nil
		}
		return w.value(v.GetValue())
	case traits.Lister:
		return w.list(v)
	case traits.Mapper:
		return w.object(v)
	default:
		return &TemplateError{ReasonTemplateError, "the template yields " + v.Type().TypeName() + ", which JSON has no form for"}
	}
	return nil
}

// double prints as encoding/json and the events' own numbers do.
func (w *templateWriter) double(f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return &TemplateError{ReasonTemplateError, "the template yields a number that JSON has no form for: " + strconv.FormatFloat(f, 'g', -1, 64)}
	}
	raw, err := json.Marshal(f)
	w.out = append(w.out, raw...)
	return err
}

func (w *templateWriter) list(l traits.Lister) error {
	w.out = append(w.out, '[')
	for it, first := l.Iterator(), true; it.HasNext() == types.True; first = false {
		if !first {
			w.out = append(w.out, ',')
		}
		if err := w.value(it.Next()); err != nil {
			return err
		}
	}
	w.out = append(w.out, ']')
	return nil
}

// object goes by the order that maps have here (orderedMap): that of their names.
func (w *templateWriter) object(m traits.Mapper) error {
	w.out = append(w.out, '{')
	before := ""
	for it, first := m.Iterator(), true; it.HasNext() == types.True; first = false {
		key := it.Next()
		name, ok := key.ConvertToType(types.StringType).(types.String)
		switch {
		case !ok:
			return &TemplateError{ReasonTemplateError, "the template yields an object with a name that is no string: " + key.Type().TypeName()}
		case first:
		case string(name) == before:
			return &TemplateError{ReasonTemplateError, "the template yields an object with the name " + strconv.Quote(shorten(before)) + " twice"}
		default:
			w.out = append(w.out, ',')
		}
		before = string(name)
		w.out = append(event.AppendString(w.out, before), ':')
		if err := w.value(m.Get(key)); err != nil {
			return err
		}
	}
	w.out = append(w.out, '}')
	return nil
}
