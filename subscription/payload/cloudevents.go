package payload

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/callstream/callstream/schemas/event"
)

// CloudEvents 1.0. Its attributes are those that the API takes an event from: id, source, type, time; subject is the call;
// the extensions tenant, agentid, sequence, test and traceparent; and the event's own attributes, where CloudEvents allows
// them. data is the event's data, with what can't be an attribute merged in: other attributes of the event, its root's
// undeclared members, and extra.

// ContentTypeCloudEvents is the content type of the profile cloudevents.
const ContentTypeCloudEvents = "application/cloudevents+json"

// maxExtensions bounds what an event's own attributes take of a request's headers, in bytes; endpoints accept 8 KiB of
// headers or more. Attributes beyond it go into data.
const maxExtensions = 4 << 10

// defaultSource stands where an event has no source, which CloudEvents requires.
const defaultSource = "callstream"

// appendCloudEvent appends the event in CloudEvents' JSON format.
func appendCloudEvent(dst []byte, e *event.Event, x *extra) []byte {
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = event.AppendString(dst, e.ID)
	dst = append(dst, `,"source":"`...)
	dst = appendReference(dst, e.Source)
	dst = append(dst, `","type":`...)
	dst = event.AppendString(dst, e.Type)
	dst = appendMember(dst, `,"subject":`, e.CallID)
	if !e.Time.IsZero() {
		dst = append(dst, `,"time":`...)
		dst = e.AppendTime(dst)
	}
	dst = append(dst, `,"datacontenttype":"application/json"`...)
	dst = appendMember(dst, `,"tenant":`, e.Tenant)
	dst = appendMember(dst, `,"agentid":`, e.AgentID)
	if e.HasSequence || e.Sequence != 0 {
		dst = append(dst, `,"sequence":"`...)
		dst = strconv.AppendInt(dst, e.Sequence, 10)
		dst = append(dst, '"')
	}
	if e.HasTest || e.Test {
		dst = append(dst, `,"test":`...)
		dst = strconv.AppendBool(dst, e.Test)
	}
	dst = appendMember(dst, `,"traceparent":`, e.Traceparent)
	room := maxExtensions
	for _, a := range e.Attributes {
		if extension(a, &room) {
			dst = event.AppendString(append(dst, ','), a.Name)
			dst = append(dst, ':')
			dst = event.AppendString(dst, a.Value)
		}
	}
	dst = append(dst, `,"data":`...)
	dst = appendCloudData(dst, e, x)
	return append(dst, '}')
}

// cloudHeaders are the attributes as the HTTP binding's binary mode has them.
func cloudHeaders(e *event.Event) map[string]string {
	h := make(map[string]string, 12)
	set := func(header, value string) {
		for i := range len(value) {
			if !headerByte(value[i]) {
				value = string(appendPercent(nil, value, headerByte))
				break
			}
		}
		if value != "" {
			h[header] = value
		}
	}
	set("ce-specversion", "1.0")
	set("ce-id", e.ID)
	set("ce-source", string(appendReference(nil, e.Source)))
	set("ce-type", e.Type)
	set("ce-subject", e.CallID)
	if t, ok := e.Lookup("time"); ok {
		set("ce-time", t.String())
	}
	set("ce-tenant", e.Tenant)
	set("ce-agentid", e.AgentID)
	if e.HasSequence || e.Sequence != 0 {
		set("ce-sequence", strconv.FormatInt(e.Sequence, 10))
	}
	if e.HasTest || e.Test {
		set("ce-test", strconv.FormatBool(e.Test))
	}
	set("ce-traceparent", e.Traceparent)
	room := maxExtensions
	for _, a := range e.Attributes {
		if extension(a, &room) {
			set("ce-"+a.Name, a.Value)
		}
	}
	return h
}

// headerByte says which bytes stand in a header as they are (HTTP binding, section 3.1.3.2).
func headerByte(c byte) bool { return '!' <= c && c <= '~' && c != '"' && c != '%' }

// appendCloudData appends the data and what is merged into it.
func appendCloudData(dst []byte, e *event.Event, x *extra) []byte {
	from := len(dst)
	dst = e.AppendData(dst)
	rest, inRoot := false, false
	room := maxExtensions
	for _, a := range e.Attributes {
		rest = !extension(a, &room) || rest
	}
	e.EachUndeclared("", func(string, string) { inRoot = true })
	if rest || inRoot {
		own := names{}
		own.addMembers(dst[from:])
		if dst[len(dst)-1] = ','; len(dst)-from == 2 { // {, has nothing before the comma
			dst = dst[:len(dst)-1]
		}
		if rest {
			name := "attributes"
			for own.has(name) {
				name += "_"
			}
			own[name] = struct{}{}
			dst = append(event.AppendString(dst, name), ':', '{')
			room = maxExtensions
			for _, a := range e.Attributes {
				if !extension(a, &room) {
					dst = append(event.AppendString(dst, a.Name), ':')
					dst = append(event.AppendString(dst, a.Value), ',')
				}
			}
			dst[len(dst)-1] = '}'
			dst = append(dst, ',')
		}
		dst = appendUndeclared(dst, e, "", own)
		dst[len(dst)-1] = '}' // in place of the last comma
	}
	return x.merge(dst, from)
}

// extension says whether an attribute of the event can be an extension attribute: CloudEvents allows its name and its
// value, the profile doesn't use the name itself, and it fits into the room left for all of them, which it takes.
func extension(a event.Attribute, room *int) bool {
	for i := range len(a.Name) {
		if c := a.Name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	if a.Name == "" || a.Value == "" || slices.Contains(cloudAttributes[:], a.Name) || strings.ContainsFunc(a.Value, notInCloudEvents) {
		return false
	}
	if a.Name == "dataschema" {
		if u, err := url.Parse(a.Value); err != nil || !u.IsAbs() {
			return false
		}
	}
	size := len("ce-: \r\n") + len(a.Name)
	for i := range len(a.Value) {
		if size++; !headerByte(a.Value[i]) {
			size += 2
		}
	}
	if size > *room {
		return false
	}
	*room -= size
	return true
}

// cloudAttributes are the names that the profile uses itself. It is read-only.
var cloudAttributes = [...]string{
	"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "tenant", "agentid", "sequence", "test", "traceparent",
}

// notInCloudEvents says which characters a String of CloudEvents must not hold: controls and noncharacters.
func notInCloudEvents(r rune) bool {
	return r < 0x20 || 0x7f <= r && r <= 0x9f || r&0xfffe == 0xfffe || 0xfdd0 <= r && r <= 0xfdef || r == utf8.RuneError
}

// appendReference appends a source as a URI reference (RFC 3986): what can't stand in one is percent-encoded, and so is a
// colon that would end a scheme but does not. What it appends needs no escapes in JSON.
func appendReference(dst []byte, source string) []byte {
	if source == "" {
		return append(dst, defaultSource...)
	}
	first := strings.IndexAny(source, ":/?#")
	inFirst := first >= 0 && source[first] == ':' && !isScheme(source[:first])
	fragment := false
	for i := range len(source) {
		c := source[i]
		keep := unreserved(c) || strings.IndexByte("/?@!$&'()*+,;=", c) >= 0
		switch c {
		case ':':
			keep = !inFirst
		case '%':
			keep = i+2 < len(source) && isHex(source[i+1]) && isHex(source[i+2])
		case '#':
			keep, fragment, inFirst = !fragment, true, false
		case '/', '?':
			inFirst = false
		}
		if keep {
			dst = append(dst, c)
		} else {
			dst = appendPercent(dst, source[i:i+1], unreserved)
		}
	}
	return dst
}

// isScheme is the rule of RFC 3986, section 3.1.
func isScheme(s string) bool {
	for i := range len(s) {
		letter := 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z'
		if !letter && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return s != ""
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }
