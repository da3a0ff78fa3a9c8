package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. It is written as a plain number or with a unit: 512KiB, 16MiB, 1GiB, 10MB.
type Bytes int64

// String writes the size with the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range units {
		if u.binary && b != 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

var units = []struct {
	name   string
	factor int64
	binary bool
}{
	{"TiB", 1 << 40, true}, {"GiB", 1 << 30, true}, {"MiB", 1 << 20, true}, {"KiB", 1 << 10, true},
	{"TB", 1e12, false}, {"GB", 1e9, false}, {"MB", 1e6, false}, {"KB", 1e3, false}, {"kB", 1e3, false}, {"B", 1, false},
}

// ParseBytes reads a size such as "16MiB".
func ParseBytes(s string) (Bytes, error) {
	text, factor := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if cut, ok := strings.CutSuffix(text, u.name); ok {
			text, factor = strings.TrimSpace(cut), u.factor
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return Bytes(n * factor), nil
}

// ParseDuration reads what time.ParseDuration does, and whole days: "7d".
func ParseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is not a duration", s)
		}
		if n > math.MaxInt64/int64(24*time.Hour) || n < math.MinInt64/int64(24*time.Hour) {
			return 0, fmt.Errorf("%q is too long", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(s)
}

// setting is one key with all the fields that it fills.
type setting struct {
	key     string
	field   reflect.StructField // the first that declares it: docs and type come from there
	targets []target
	where   string // the place of the value in force, for messages; empty for a default
	broken  bool   // a problem was reported: further checks would repeat it
}

type target struct {
	value    reflect.Value
	fallback string // default tag
	preset   bool
}

type settings struct {
	order []*setting
	byKey map[string]*setting
}

func (s *settings) keys() []string {
	keys := make([]string, 0, len(s.order)+1)
	for _, o := range s.order {
		keys = append(keys, o.key)
	}
	return keys
}

// nested says whether a field is a struct whose own fields are settings.
func nested(f reflect.StructField) bool {
	_, tagged := f.Tag.Lookup("config")
	return !tagged && f.Type.Kind() == reflect.Struct
}

func collect(v reflect.Value) (*settings, error) {
	set := &settings{byKey: map[string]*setting{}}
	if err := set.walk(v); err != nil {
		return nil, err
	}
	return set, nil
}

func (s *settings) walk(v reflect.Value) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if nested(f) {
			if err := s.walk(v.Field(i)); err != nil {
				return err
			}
			continue
		}
		key := f.Tag.Get("config")
		if key == "" || key == "-" {
			continue
		}
		if !supported(f.Type) {
			return fmt.Errorf("config: field %s of %s has the type %s, which no setting can have", f.Name, v.Type(), f.Type)
		}
		o := s.byKey[key]
		if o == nil {
			o = &setting{key: key, field: f}
			s.byKey[key] = o
			s.order = append(s.order, o)
		} else if o.field.Type != f.Type {
			return fmt.Errorf("config: %s is declared as %s and as %s", key, o.field.Type, f.Type)
		}
		o.targets = append(o.targets, target{value: v.Field(i), fallback: f.Tag.Get("default"), preset: !v.Field(i).IsZero()})
	}
	return nil
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func supported(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textType) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float64,
		reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Slice && supported(t.Elem())
	default:
		return false
	}
}

func (s *setting) isBool() bool  { return s.field.Type.Kind() == reflect.Bool }
func (s *setting) isSlice() bool { return s.field.Type.Kind() == reflect.Slice }
func (s *setting) secret() bool  { return s.field.Tag.Get("secret") == "true" }

func (s *setting) applyDefault(defaults map[string]string, errs *Errors) {
	for _, t := range s.targets {
		if t.preset {
			continue
		}
		text := t.fallback
		if v, ok := defaults[s.key]; ok {
			text = v
		}
		if text == "" {
			continue
		}
		if detail := parseInto(t.value, value{text: text}, s.secret()); detail != "" {
			errs.add(prefix+s.key, "its default is wrong: %s", detail)
			s.broken = true
		}
	}
}

func (s *setting) apply(v value, errs *Errors) {
	for _, t := range s.targets {
		if detail := parseInto(t.value, v, s.secret()); detail != "" {
			errs.add(v.where, "%s", detail)
			s.broken = true
			return
		}
	}
	s.where = v.where
	s.broken = false
}

// check applies the tags required, oneof, min and max to the value in force.
func (s *setting) check(errs *Errors) {
	if s.broken {
		return
	}
	where := s.where
	if where == "" {
		where = prefix + s.key
	}
	tag := s.field.Tag
	for _, t := range s.targets {
		if t.value.IsZero() {
			if tag.Get("required") == "true" {
				errs.add(where, "it is required: %s. Set %s%s, %s in the file, or --%s",
					tag.Get("doc"), prefix, s.key, strings.ToLower(s.key), flagName(s.key))
				return
			}
		}
		if allowed := tag.Get("oneof"); allowed != "" {
			list := strings.Split(allowed, ",")
			for _, item := range items(t.value) {
				if text := fmt.Sprint(item.Interface()); !slices.Contains(list, text) {
					detail := "it must be one of " + strings.Join(named(list), ", ")
					if !s.secret() {
						detail = fmt.Sprintf("%q is not allowed; ", text) + detail
					}
					errs.add(where, "%s", detail)
					return
				}
			}
		}
		for _, bound := range []string{"min", "max"} {
			limit := tag.Get(bound)
			if limit == "" {
				continue
			}
			for _, item := range items(t.value) {
				edge := reflect.New(item.Type()).Elem()
				if detail := parseInto(edge, value{text: limit}, false); detail != "" {
					errs.add(where, "its tag %s is wrong: %s", bound, detail)
					return
				}
				if bound == "min" && less(item, edge) {
					errs.add(where, "%v is too small; the least is %s", item.Interface(), limit)
					return
				}
				if bound == "max" && less(edge, item) {
					errs.add(where, "%v is too big; the most is %s", item.Interface(), limit)
					return
				}
			}
		}
	}
}

// named lists values for people, who can't see an empty one.
func named(list []string) []string {
	out := slices.Clone(list)
	for i := range out {
		if out[i] == "" {
			out[i] = "(empty)"
		}
	}
	return out
}

func items(v reflect.Value) []reflect.Value {
	if v.Kind() != reflect.Slice {
		return []reflect.Value{v}
	}
	list := make([]reflect.Value, v.Len())
	for i := range list {
		list[i] = v.Index(i)
	}
	return list
}

func less(a, b reflect.Value) bool {
	switch {
	case a.CanInt():
		return a.Int() < b.Int()
	case a.CanUint():
		return a.Uint() < b.Uint()
	case a.CanFloat():
		return a.Float() < b.Float()
	default:
		return false
	}
}

// parseInto sets v and returns "", or says what is wrong and what to write instead.
func parseInto(v reflect.Value, in value, secret bool) string {
	if v.Kind() == reflect.Slice && !v.Addr().Type().Implements(textType) {
		parts := in.list
		if !in.seq {
			parts = strings.Split(in.text, ",")
		}
		out := reflect.MakeSlice(v.Type(), 0, len(parts))
		for _, part := range parts {
			part = strings.TrimSpace(part)
			if part == "" {
				continue
			}
			item := reflect.New(v.Type().Elem()).Elem()
			if detail := parseInto(item, value{text: part}, secret); detail != "" {
				return detail
			}
			out = reflect.Append(out, item)
		}
		if out.Len() == 0 {
			out = reflect.Zero(v.Type())
		}
		v.Set(out)
		return ""
	}
	if in.seq {
		return "it takes one value, not a list"
	}
	shown := strconv.Quote(in.text)
	if secret {
		shown = "the value"
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(in.text)); err != nil {
			if secret {
				return "the value is not accepted"
			}
			return err.Error()
		}
		return ""
	}
	switch v.Type() {
	case durationType:
		d, err := ParseDuration(in.text)
		if err != nil {
			return shown + " is not a duration; write one such as 500ms, 10s, 2m, 6h or 7d"
		}
		v.SetInt(int64(d))
		return ""
	case bytesType:
		b, err := ParseBytes(in.text)
		if err != nil {
			return shown + " is not a size; write one such as 65536, 512KiB or 16MiB"
		}
		v.SetInt(int64(b))
		return ""
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(in.text)
	case reflect.Bool:
		switch strings.ToLower(in.text) {
		case "true", "yes", "on", "1":
			v.SetBool(true)
		case "false", "no", "off", "0":
			v.SetBool(false)
		default:
			return shown + " is neither true nor false"
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(in.text, 10, v.Type().Bits())
		if err != nil {
			return shown + " is not a whole number" + outOfRange(err)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(in.text, 10, v.Type().Bits())
		if err != nil {
			return shown + " is not a whole number from 0" + outOfRange(err)
		}
		v.SetUint(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(in.text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return shown + " is not a number"
		}
		v.SetFloat(f)
	default:
		return "it has a type that no setting can have"
	}
	return ""
}

func outOfRange(err error) string {
	if strings.Contains(err.Error(), strconv.ErrRange.Error()) {
		return " that fits"
	}
	return ""
}
