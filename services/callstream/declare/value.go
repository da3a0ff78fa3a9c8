package declare

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"gopkg.in/yaml.v3"
)

// value is a JSON value that knows the line it stands on. Objects keep the order of their members.
type value struct {
	line    int
	scalar  any // nil, bool, string or json.Number; unless it is a list or an object
	list    []*value
	members []member
	kind    kind
}

type kind int

const (
	isScalar kind = iota
	isList
	isObject
)

type member struct {
	name  string
	line  int
	value *value
}

// member returns an object's member, nil when it has none of that name.
func (v *value) member(name string) *value {
	for _, m := range v.members {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

// null says that v stands for nothing, as an absent member does.
func (v *value) null() bool { return v == nil || v.kind == isScalar && v.scalar == nil }

// text returns the string that v is, if it is one.
func (v *value) text() (string, bool) {
	if v == nil || v.kind != isScalar {
		return "", false
	}
	s, ok := v.scalar.(string)
	return s, ok
}

// tree is v as encoding/json would have it.
func (v *value) tree() any {
	switch v.kind {
	case isList:
		out := make([]any, len(v.list))
		for i, item := range v.list {
			out[i] = item.tree()
		}
		return out
	case isObject:
		out := make(map[string]any, len(v.members))
		for _, m := range v.members {
			out[m.name] = m.value.tree()
		}
		return out
	}
	return v.scalar
}

// find follows a path as far as it goes. It returns the line of the last place that is there, and the path as people
// write it: request.headers["X.Y"], events[0].
func (v *value) find(path []string) (line int, shown string) {
	var b strings.Builder
	line = v.line
	at := v
	for _, name := range path {
		n, err := strconv.Atoi(name)
		isIndex := err == nil && (at == nil || at.kind == isList)
		switch {
		case isIndex:
			fmt.Fprintf(&b, "[%d]", n)
		case plainName(name):
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(name)
		default:
			fmt.Fprintf(&b, "[%q]", name)
		}
		var next *value
		switch {
		case at == nil:
		case isIndex && n >= 0 && n < len(at.list):
			next = at.list[n]
			line = next.line
		case at.kind == isObject:
			for _, m := range at.members {
				if m.name == name {
					next, line = m.value, m.line
				}
			}
		}
		at = next
	}
	return line, b.String()
}

func plainName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// syntaxError says that a file can't be read at all.
type syntaxError struct {
	line   int // 0 when it isn't known
	detail string
}

func (e *syntaxError) Error() string { return e.detail }

// maxValues bounds what a file may expand to: a few aliases of aliases make millions.
const maxValues = 1_000_000

// parse reads a file's documents: JSON where the text is that, else YAML.
func parse(raw []byte) ([]*value, error) {
	if text := bytes.TrimSpace(raw); len(text) > 0 && text[0] == '{' {
		// YAML takes most JSON, but not all of its escapes: what is JSON is read as JSON. What only looks like it, a
		// flow mapping, is YAML.
		v, err := parseJSON(raw)
		if err == nil {
			return []*value{v}, nil
		}
		if docs, yamlErr := parseYAML(raw); yamlErr == nil {
			return docs, nil
		}
		return nil, err
	}
	return parseYAML(raw)
}

func parseYAML(raw []byte) ([]*value, error) {
	var docs []*value
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	r := yamlReader{open: map[*yaml.Node]bool{}}
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, yamlSyntax(err)
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
			continue
		}
		v, err := r.value(doc.Content[0])
		if err != nil {
			return nil, err
		}
		docs = append(docs, v)
	}
}

// yamlSyntax finds the line in the library's text, "yaml: line 3: did not find …".
func yamlSyntax(err error) error {
	detail := strings.TrimPrefix(err.Error(), "yaml: ")
	out := &syntaxError{detail: detail}
	if rest, ok := strings.CutPrefix(detail, "line "); ok {
		if number, text, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				out.line, out.detail = n, text
			}
		}
	}
	out.detail = "it is not YAML: " + out.detail
	return out
}

// yamlReader turns nodes into values.
type yamlReader struct {
	open map[*yaml.Node]bool // the aliased nodes that are being read: one inside itself has no end
	seen int
}

func (r *yamlReader) value(n *yaml.Node) (*value, error) {
	if r.seen++; r.seen > maxValues {
		return nil, &syntaxError{n.Line, "its aliases expand to more values than a file can hold"}
	}
	switch n.Kind {
	case yaml.AliasNode:
		if r.open[n.Alias] {
			return nil, &syntaxError{n.Line, "the alias *" + n.Value + " is part of what it stands for"}
		}
		r.open[n.Alias] = true
		defer delete(r.open, n.Alias)
		return r.value(n.Alias)
	case yaml.SequenceNode:
		out := &value{line: n.Line, kind: isList}
		for _, item := range n.Content {
			v, err := r.value(item)
			if err != nil {
				return nil, err
			}
			out.list = append(out.list, v)
		}
		return out, nil
	case yaml.MappingNode:
		return r.object(n)
	}
	scalar, err := yamlScalar(n)
	return &value{line: n.Line, scalar: scalar}, err
}

func (r *yamlReader) object(n *yaml.Node) (*value, error) {
	out := &value{line: n.Line, kind: isObject}
	var merged []member
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, content := n.Content[i], n.Content[i+1]
		v, err := r.value(content)
		if err != nil {
			return nil, err
		}
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!null":
			return nil, &syntaxError{key.Line, "a member's name must be a string"}
		case key.ShortTag() == "!!merge":
			more, err := mergedMembers(v)
			if err != nil {
				return nil, err
			}
			merged = append(merged, more...)
		case out.member(key.Value) != nil:
			return nil, &syntaxError{key.Line, fmt.Sprintf("the member %q is there twice", key.Value)}
		default:
			out.members = append(out.members, member{key.Value, key.Line, v})
		}
	}
	// What is written here goes before what is merged in, and earlier merges before later ones.
	for _, m := range merged {
		if out.member(m.name) == nil {
			out.members = append(out.members, m)
		}
	}
	return out, nil
}

// mergedMembers are those that `<<` brings in: an object's, or those of a list of objects.
func mergedMembers(v *value) ([]member, error) {
	list := []*value{v}
	if v.kind == isList {
		list = v.list
	}
	var out []member
	for _, object := range list {
		if object.kind != isObject {
			return nil, &syntaxError{object.line, "<< takes a mapping, or a list of mappings"}
		}
		out = append(out, object.members...)
	}
	return out, nil
}

// yamlScalar reads a scalar as JSON has it. Dates stay the strings that they were written as.
func yamlScalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			return nil, &syntaxError{n.Line, "not a boolean"}
		}
		return b, nil
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil
		}
		var number any
		if err := n.Decode(&number); err != nil {
			return nil, &syntaxError{n.Line, "not a number"}
		}
		raw, err := json.Marshal(number)
		if err != nil {
			return nil, &syntaxError{n.Line, n.Value + " is no number that JSON has"}
		}
		return json.Number(raw), nil
	case "!!str", "!!timestamp":
		return n.Value, nil
	}
	return nil, &syntaxError{n.Line, "the tag " + n.Tag + " has no meaning here"}
}

func parseJSON(raw []byte) (*value, error) {
	r := jsonReader{dec: jsontext.NewDecoder(bytes.NewReader(raw)), raw: raw}
	v, err := r.value()
	if err == nil {
		if _, after := r.dec.ReadToken(); !errors.Is(after, io.EOF) {
			err = errors.New("more follows after the object")
		}
	}
	if err == nil {
		return v, nil
	}
	out := &syntaxError{line: r.line(), detail: "it is not JSON: " + err.Error()}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) && syntactic.Err != nil {
		out.line = 1 + bytes.Count(raw[:syntactic.ByteOffset], []byte("\n"))
		out.detail = "it is not JSON: " + syntactic.Err.Error()
	}
	return nil, out
}

// jsonReader counts lines while it reads.
type jsonReader struct {
	dec     *jsontext.Decoder
	raw     []byte
	counted int64 // bytes in which lines are counted
	lines   int
}

func (r *jsonReader) line() int {
	at := r.dec.InputOffset()
	r.lines += bytes.Count(r.raw[r.counted:at], []byte("\n"))
	r.counted = at
	return r.lines + 1
}

func (r *jsonReader) value() (*value, error) {
	token, err := r.dec.ReadToken()
	if err != nil {
		return nil, err
	}
	// Read before anything else: a token is only valid until the next one.
	v := &value{}
	switch token.Kind() {
	case 't', 'f':
		v.scalar = token.Bool()
	case '"':
		v.scalar = token.String()
	case '0':
		v.scalar = json.Number(token.String())
	}
	v.line = r.line()
	switch token.Kind() {
	case '[':
		v.kind = isList
		for r.dec.PeekKind() != ']' {
			item, err := r.value()
			if err != nil {
				return nil, err
			}
			v.list = append(v.list, item)
		}
		_, err = r.dec.ReadToken()
	case '{':
		v.kind = isObject
		for r.dec.PeekKind() != '}' {
			name, err := r.value()
			if err != nil {
				return nil, err
			}
			item, err := r.value()
			if err != nil {
				return nil, err
			}
			text, _ := name.text()
			v.members = append(v.members, member{text, name.line, item})
		}
		_, err = r.dec.ReadToken()
	}
	return v, err
}
