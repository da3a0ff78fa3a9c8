package producer

import (
	"bytes"
	"encoding/base64"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/callstream/callstream/schemas/event"
)

// A CloudEvent is turned into the JSON form of one of our events, which is then parsed like any other, so that there is
// one set of rules. What faults point at is translated back.
//
// CloudEvents attributes become: id, source, type, time → the same; subject → call_id; the extensions agentid →
// agent_id, tenant, sequence (digits), test (true or false), traceparent → the same; dataschema and any other
// extension → an entry of attributes. datacontenttype says that data is JSON, and is dropped: it always is.

// cloudEvent is one event in the JSON form of ours, with what the parser doesn't take from there.
type cloudEvent struct {
	json       []byte
	attributes []event.Attribute
	// encoded says that data came in data_base64, where a pointer can't lead into it.
	encoded bool
}

// member is an attribute of a CloudEvent: its name, its value as text, and the place that a fault about it names.
type member struct {
	name string
	text string
	kind byte // of the JSON value: '"', '0', 't', 'f'
	at   string
}

// structured reads an event of the structured mode (JSON format, CloudEvents 1.0.2). It returns either the event or its
// faults; a *jsontext.SyntacticError when raw is no JSON.
func structured(raw []byte) (*cloudEvent, event.Faults, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true)) // twice is a fault, and has a place
	start, err := d.ReadToken()
	if err != nil {
		return nil, nil, err
	}
	if start.Kind() != '{' {
		// What follows must still be JSON, or the answer would depend on luck.
		if err := rest(raw); err != nil {
			return nil, nil, err
		}
		return nil, event.Faults{{Detail: "must be an object"}}, nil
	}
	var faults event.Faults
	var members []member
	var data []byte
	encoded := ""
	hasEncoded := false
	seen := map[string]bool{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, nil, err
		}
		key := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, nil, err
		}
		at := "/" + escape(key)
		if seen[key] {
			faults = append(faults, event.Fault{Pointer: at, Detail: "appears twice"})
			continue
		}
		seen[key] = true
		switch {
		case key == "data":
			if value.Kind() != 'n' {
				data = bytes.Clone(value)
			}
		case value.Kind() == 'n':
			// JSON null is the same as an absent attribute (JSON format, section 2.2).
		case key == "data_base64":
			if value.Kind() != '"' {
				faults = append(faults, event.Fault{Pointer: at, Detail: "must be a string"})
				continue
			}
			hasEncoded, encoded = true, text(value)
		case value.Kind() == '{' || value.Kind() == '[':
			faults = append(faults, event.Fault{Pointer: at, Detail: "must not be an object or an array"})
		default:
			members = append(members, member{name: key, text: text(value), kind: byte(value.Kind()), at: at})
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, nil, err
	}
	if err := end(d, raw); err != nil {
		return nil, nil, err
	}
	if hasEncoded {
		switch decoded, err := base64.StdEncoding.DecodeString(encoded); {
		case data != nil:
			faults = append(faults, event.Fault{Pointer: "/data_base64", Detail: "must not stand beside data"})
		case err != nil:
			faults = append(faults, event.Fault{Pointer: "/data_base64", Detail: "is not Base64"})
		case rest(decoded) != nil:
			faults = append(faults, event.Fault{Pointer: "/data_base64", Detail: "must hold JSON; binary data is not accepted"})
		default:
			data = decoded
		}
	}
	e, more := build(members, data)
	e.encoded = hasEncoded
	if faults = append(faults, more...); len(faults) > 0 {
		return nil, faults, nil
	}
	return e, nil, nil
}

// fromHeaders reads an event of the binary mode: attributes in ce- headers, the body is the data (HTTP binding 1.0.2,
// section 3.1). The media type of the body was checked before.
func fromHeaders(h http.Header, body []byte) (*cloudEvent, event.Faults) {
	var members []member
	var faults event.Faults
	var names []string
	for name := range h {
		if strings.HasPrefix(name, "Ce-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		key := strings.ToLower(name[3:])
		value := headerText(h[name][0])
		switch {
		case len(h[name]) > 1:
			faults = append(faults, event.Fault{Detail: "the header ce-" + key + " is given more than once"})
		case !utf8.ValidString(value):
			faults = append(faults, event.Fault{Detail: "the header ce-" + key + " is not UTF-8"})
		case key == "datacontenttype":
			faults = append(faults, event.Fault{Detail: "the header ce-datacontenttype is not allowed: Content-Type says it"})
		default:
			members = append(members, member{name: key, text: value, kind: '"', at: "ce-" + key})
		}
	}
	data := bytes.TrimSpace(body)
	if len(data) == 0 {
		data = nil
	}
	e, more := build(members, data)
	return e, append(faults, more...)
}

// headerText undoes the quoting and the percent-encoding of a header's value (HTTP binding, section 3.1.3.2). A percent
// sign that begins no escape stands for itself: some SDKs, the Go one among them, send values as they are.
func headerText(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		var b strings.Builder
		for i := 1; i < len(s)-1; i++ {
			if s[i] == '\\' && i+1 < len(s)-1 {
				i++
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(n))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// build writes the JSON form of our event.
func build(members []member, data []byte) (*cloudEvent, event.Faults) {
	e := &cloudEvent{}
	var faults event.Faults
	fault := func(m member, detail string) {
		if strings.HasPrefix(m.at, "/") {
			faults = append(faults, event.Fault{Pointer: m.at, Detail: detail})
		} else {
			faults = append(faults, event.Fault{Detail: "the header " + m.at + " " + detail})
		}
	}
	b := []byte{'{'}
	add := func(name string, value []byte) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, '"', ':')
		b = append(b, value...)
	}
	given := map[string]bool{}
	for _, m := range members {
		given[m.name] = true
		switch m.name {
		case "id", "source", "type", "subject", "time", "specversion", "dataschema", "datacontenttype":
			if m.kind != '"' {
				fault(m, "must be a string")
				continue
			}
			if m.text == "" {
				fault(m, "must not be empty")
				continue
			}
		}
		switch m.name {
		case "specversion":
			if m.text != "1.0" {
				fault(m, "must be 1.0, the only version understood")
			}
		case "id", "source", "type", "time":
			add(m.name, quote(m.text))
		case "subject":
			add("call_id", quote(m.text))
		case "datacontenttype":
			if !jsonType(m.text) {
				fault(m, "must be application/json or end in +json: only JSON data is accepted")
			}
		case "dataschema":
			if _, err := url.Parse(m.text); err != nil {
				fault(m, "must be a URI")
				continue
			}
			e.attributes = append(e.attributes, event.Attribute{Name: m.name, Value: m.text})
		case "tenant":
			add("tenant", quote(m.text))
		case "agentid":
			add("agent_id", quote(m.text))
		case "sequence":
			n, err := strconv.ParseInt(m.text, 10, 64)
			if err != nil {
				fault(m, "must be a whole number")
				continue
			}
			add("sequence", strconv.AppendInt(nil, n, 10))
		case "test":
			if m.text != "true" && m.text != "false" {
				fault(m, "must be true or false")
				continue
			}
			add("test", []byte(m.text))
		case "traceparent":
			add("traceparent", quote(m.text))
		default:
			if !extensionName(m.name) {
				fault(m, "must be named in lowercase letters and digits, as a CloudEvents attribute")
				continue
			}
			e.attributes = append(e.attributes, event.Attribute{Name: m.name, Value: m.text})
		}
	}
	for _, name := range []string{"specversion", "id", "source", "type"} {
		if given[name] {
			continue
		}
		if len(members) > 0 && !strings.HasPrefix(members[0].at, "/") {
			faults = append(faults, event.Fault{Detail: "the header ce-" + name + " is required by CloudEvents"})
		} else {
			faults = append(faults, event.Fault{Pointer: "/" + name, Detail: "is required by CloudEvents"})
		}
	}
	if data != nil {
		add("data", data)
	}
	e.json = append(b, '}')
	return e, faults
}

// pointer translates a fault's place in the JSON form of our event into one in the structured CloudEvent.
func (e *cloudEvent) pointer(p string) string {
	switch {
	case p == "/call_id":
		return "/subject"
	case p == "/agent_id":
		return "/agentid"
	case e.encoded && (p == "/data" || strings.HasPrefix(p, "/data/")):
		return "/data_base64"
	}
	return p
}

// binaryFault translates a fault into binary mode: pointers lead into the body, which is the data; for an attribute the
// header is named.
func binaryFault(f event.Fault) event.Fault {
	if p, ok := strings.CutPrefix(f.Pointer, "/data"); ok && (p == "" || p[0] == '/') {
		return event.Fault{Pointer: p, Detail: f.Detail}
	}
	name := strings.TrimPrefix(f.Pointer, "/")
	switch name {
	case "call_id":
		name = "subject"
	case "agent_id":
		name = "agentid"
	}
	return event.Fault{Pointer: headerPointer, Detail: "the header ce-" + name + " " + f.Detail}
}

// headerPointer marks a fault that is in a header, where no pointer into the body leads.
const headerPointer = "\x00header"

// jsonType says whether a media type is one of JSON.
func jsonType(contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") {
		return false
	}
	return media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
}

// extensionName is CloudEvents' naming convention (section 3.1 of the specification).
func extensionName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// text is a scalar's value as text: a string's content, or the literal itself.
func text(v jsontext.Value) string {
	if v.Kind() != '"' {
		return string(v)
	}
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return "" // can't be: the decoder has read it
	}
	return string(b)
}

func quote(s string) []byte {
	b, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		return []byte(`""`) // can't be: invalid UTF-8 was refused before
	}
	return b
}

// escape makes a name a reference token of a JSON pointer (RFC 6901, section 4).
func escape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}

// end reports what follows the value that d has read.
func end(d *jsontext.Decoder, raw []byte) error {
	if i := skipSpace(raw, int(d.InputOffset())); i < len(raw) {
		return &shapeError{detail: "there is more after the event", offset: i}
	}
	return nil
}

// rest says what keeps raw from being one JSON value.
func rest(raw []byte) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true))
	if err := d.SkipValue(); err != nil {
		return err
	}
	return end(d, raw)
}
