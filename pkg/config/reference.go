package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Entry describes one setting, for reference tables and help texts.
type Entry struct {
	Key      string // "HTTP_ADDR"
	Variable string // "CALLSTREAM_HTTP_ADDR"
	Flag     string // "--http-addr"
	YAML     string // "http_addr"
	Type     string // "text", "number", "duration", "list of durations", …
	Default  string
	Doc      string
	Required bool
	Secret   bool
	OneOf    []string
}

// Reference lists the settings of dst, a pointer to a Config struct, in the order of declaration.
func Reference(dst any) ([]Entry, error) {
	root := reflect.ValueOf(dst)
	if root.Kind() != reflect.Pointer || root.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: Reference wants a pointer to a struct, not %T", dst)
	}
	set, err := collect(root.Elem())
	if err != nil {
		return nil, err
	}
	return set.entries(), nil
}

func (s *settings) entries() []Entry {
	var list []Entry
	for _, o := range s.order {
		tag := o.field.Tag
		e := Entry{
			Key: o.key, Variable: prefix + o.key, Flag: "--" + flagName(o.key), YAML: strings.ToLower(o.key),
			Type: typeName(o.field.Type), Default: tag.Get("default"), Doc: tag.Get("doc"),
			Required: tag.Get("required") == "true", Secret: o.secret(),
		}
		if t := o.targets[0]; t.preset && !e.Secret {
			e.Default = show(t.value)
		}
		if v := tag.Get("oneof"); v != "" {
			e.OneOf = strings.Split(v, ",")
		}
		list = append(list, e)
	}
	return list
}

// Markdown writes entries as the table of the configuration reference.
func Markdown(entries []Entry) string {
	var b strings.Builder
	b.WriteString("| variable | type | default | meaning |\n|---|---|---|---|\n")
	for _, e := range entries {
		fallback := "`" + e.Default + "`"
		switch {
		case e.Required:
			fallback = "required"
		case e.Default == "":
			fallback = ""
		}
		doc := e.Doc
		if len(e.OneOf) > 0 {
			doc += " (" + strings.Join(named(e.OneOf), ", ") + ")"
		}
		if e.Secret {
			doc += " (secret)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Variable, e.Type, fallback, strings.ReplaceAll(doc, "|", "\\|"))
	}
	return b.String()
}

func usage(entries []Entry) string {
	var b strings.Builder
	b.WriteString("Settings, as flags; each is also a variable (--http-addr is CALLSTREAM_HTTP_ADDR) and a key of the YAML\n" +
		"file that --config or CALLSTREAM_CONFIG names (http_addr). Flags go over variables, variables over the file.\n\n")
	for _, e := range entries {
		fmt.Fprintf(&b, "  %s", e.Flag)
		switch {
		case e.Required:
			b.WriteString("  (required)")
		case e.Default != "":
			fmt.Fprintf(&b, "  (default %s)", e.Default)
		}
		fmt.Fprintf(&b, "\n        %s", e.Doc)
		if len(e.OneOf) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(named(e.OneOf), ", "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func flagName(key string) string { return strings.ToLower(strings.ReplaceAll(key, "_", "-")) }

func show(v reflect.Value) string {
	if v.Kind() == reflect.Slice {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v.Interface())
}

func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t == bytesType:
		return "size"
	case t.Kind() == reflect.Slice:
		return "list of " + typeName(t.Elem()) + "s"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String, reflect.PointerTo(t).Implements(textType):
		return "text"
	default:
		return "number"
	}
}

// nearest returns the known key that word most likely meant, or "".
func nearest(word string, known []string) string {
	best, bestAt := "", 3
	for _, k := range known {
		limit := 2
		if len(k) <= 5 {
			limit = 1 // in a short word two changes make another word
		}
		if d := distance(word, k); d <= limit && d < bestAt {
			best, bestAt = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours between a and b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 || len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return 64
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
