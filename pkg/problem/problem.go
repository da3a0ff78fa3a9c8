// Package problem is the one shape of error answers: RFC 9457 problem documents that name every fault with its place.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

// ContentType is the media type of a problem document (RFC 9457, section 3).
const ContentType = "application/problem+json"

// Fault is one thing that is wrong with a request.
type Fault struct {
	// Detail says what is wrong, for a person.
	Detail string `json:"detail"`
	// Pointer is the place in the body: a JSON pointer as a URI fragment, "#/2/data/score". "#" is the whole body.
	// It is empty for faults outside the body.
	Pointer string `json:"pointer,omitempty"`
	// Line is the line of an NDJSON body that the fault is in, from 1; 0 elsewhere.
	Line int `json:"line,omitempty"`
}

// Problem is a problem document. The zero Type stands for "about:blank": the status says what it is.
type Problem struct {
	Type     string
	Title    string
	Status   int
	Detail   string
	Instance string
	Errors   []Fault
	// RetryAfter, if positive, is sent as the header Retry-After, in whole seconds rounded up.
	RetryAfter time.Duration
	// Header holds further response headers, WWW-Authenticate for one. May be nil.
	Header http.Header
	// Extensions are further members of the document, by name. They can't replace the members above.
	Extensions map[string]any
}

// New makes a problem whose title is the status's text.
func New(status int, detail string, faults ...Fault) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail, Errors: faults}
}

// Error lets a Problem be returned as an error.
func (p *Problem) Error() string {
	s := strconv.Itoa(p.Status) + " " + p.Title
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	for _, f := range p.Errors {
		s += "; " + f.Detail
		if f.Pointer != "" {
			s += " at " + f.Pointer
		}
	}
	return s
}

// With sets an extension member and returns p.
func (p *Problem) With(name string, value any) *Problem {
	if p.Extensions == nil {
		p.Extensions = map[string]any{}
	}
	p.Extensions[name] = value
	return p
}

// MarshalJSON writes the document: type, title, status, detail, instance, errors, then the extensions by name.
func (p *Problem) MarshalJSON() ([]byte, error) {
	typ := p.Type
	if typ == "" {
		typ = "about:blank"
	}
	head, err := json.Marshal(struct {
		Type     string  `json:"type"`
		Title    string  `json:"title,omitempty"`
		Status   int     `json:"status"`
		Detail   string  `json:"detail,omitempty"`
		Instance string  `json:"instance,omitempty"`
		Errors   []Fault `json:"errors,omitempty"`
	}{typ, p.Title, p.Status, p.Detail, p.Instance, p.Errors})
	if err != nil {
		return nil, err
	}
	ext := map[string]any{}
	for name, v := range p.Extensions {
		switch name {
		case "type", "title", "status", "detail", "instance", "errors":
		default:
			ext[name] = v
		}
	}
	if len(ext) == 0 {
		return head, nil
	}
	tail, err := json.Marshal(ext)
	if err != nil {
		return nil, err
	}
	return append(append(head[:len(head)-1], ','), tail[1:]...), nil
}

// UnmarshalJSON reads a document; members that aren't the standard's become Extensions.
func (p *Problem) UnmarshalJSON(raw []byte) error {
	var head struct {
		Type, Title, Detail, Instance string
		Status                        int
		Errors                        []Fault
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return err
	}
	for _, name := range []string{"type", "title", "status", "detail", "instance", "errors"} {
		delete(all, name)
	}
	if len(all) == 0 {
		all = nil
	}
	*p = Problem{Type: head.Type, Title: head.Title, Status: head.Status, Detail: head.Detail, Instance: head.Instance,
		Errors: head.Errors, Extensions: all}
	return nil
}

// Write answers a request with the problem.
func Write(w http.ResponseWriter, p *Problem) {
	body, err := json.Marshal(p)
	if err != nil {
		// An extension that can't be written must not turn a 4xx into nothing.
		body = []byte(`{"type":"about:blank","status":` + strconv.Itoa(p.Status) + `}`)
	}
	h := w.Header()
	for name, values := range p.Header {
		h[name] = values
	}
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}

// Pointer turns an RFC 6901 pointer ("/data/score") into the URI fragment that Fault.Pointer holds ("#/data/score").
func Pointer(pointer string) string {
	const hex = "0123456789ABCDEF"
	plain := true
	for i := range len(pointer) {
		if !fragment(pointer[i]) {
			plain = false
			break
		}
	}
	if plain && utf8.ValidString(pointer) {
		return "#" + pointer
	}
	out := []byte{'#'}
	for i := range len(pointer) {
		c := pointer[i]
		if fragment(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

// fragment says which bytes a URI fragment may hold as they are (RFC 3986, section 3.5).
func fragment(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '-', '.', '_', '~', '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@', '/', '?':
		return true
	}
	return false
}
