package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/topic"
)

// problemDocument is an RFC 9457 answer.
type problemDocument struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Errors []struct {
		Pointer string `json:"pointer"`
		Detail  string `json:"detail"`
	} `json:"errors"`
}

// isProblem checks an answer for a 4xx problem document that says something.
func isProblem(t *testing.T, what string, r reply, status int) problemDocument {
	t.Helper()
	require.Equal(t, status, r.status, "%s: %s", what, r)
	assert.Equal(t, "application/problem+json", r.header.Get("Content-Type"), what)
	doc := decode[problemDocument](t, r)
	assert.Equal(t, r.status, doc.Status, what)
	assert.NotEmpty(t, doc.Title, what)
	return doc
}

func refusesBadInput(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	deep := strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200)
	for _, c := range []struct {
		what, contentType, body string
		status                  int
		pointer                 string
	}{
		{"malformed JSON", "application/json", `{"type":"call.ended"`, 400, ""},
		{"no JSON at all", "application/json", `hello`, 400, ""},
		{"nothing", "application/json", ``, 400, ""},
		{"invalid UTF-8", "application/json", "{\"type\":\"call.ended\",\"call_id\":\"\xff\"}", 400, ""},
		{"two values", "application/json", `{"type":"call.ended","call_id":"a"}{"type":"call.ended","call_id":"a"}`, 400, ""},
		{"a number", "application/json", `7`, 422, ""},
		{"no type", "application/json", `{"call_id":"a"}`, 422, "#/type"},
		{"unknown type", "application/json", `{"type":"call.exploded","call_id":"a"}`, 422, "#/type"},
		{"no call_id", "application/json", `{"type":"call.ended"}`, 422, "#/call_id"},
		{"wrong type of a field", "application/json", `{"type":"call.ended","call_id":"a","data":{"duration_ms":"long"}}`, 422, "#/data/duration_ms"},
		{"wrong type of a group", "application/json", `{"type":"call.ended","call_id":"a","data":{"caller":"Bob"}}`, 422, "#/data/caller"},
		{"wrong type of data", "application/json", `{"type":"call.ended","call_id":"a","data":7}`, 422, "#/data"},
		{"bad time", "application/json", `{"type":"call.ended","call_id":"a","time":"yesterday"}`, 422, "#/time"},
		{"too deep", "application/json", `{"type":"call.ended","call_id":"a","data":{"x":` + deep + `}}`, 422, ""},
		{"a name twice", "application/json", `{"type":"call.ended","call_id":"a","call_id":"b"}`, 422, "#/call_id"},
		{"one bad of three", "application/json", `[{"type":"call.ended","call_id":"a"},{"type":"call.ended","call_id":"b"},{"type":"call.ended"}]`, 422, "#/2/call_id"},
		{"NDJSON with a bad line", "application/x-ndjson", "{\"type\":\"call.ended\",\"call_id\":\"a\"}\n{oops\n", 400, ""},
		{"an unknown content type", "text/csv", `a,b`, 415, ""},
		{"a CloudEvent without its attributes", "application/cloudevents+json", `{"specversion":"1.0","type":"call.ended"}`, 422, ""},
		{"an event over 1 MiB", "application/json", `{"type":"call.ended","call_id":"a","data":{"x":"` + strings.Repeat("x", 1<<20) + `"}}`, 413, ""},
		{"a request over 16 MiB", "application/json", "[" + strings.Repeat(`{"type":"call.ended","call_id":"a","data":{"x":"`+strings.Repeat("x", 500<<10)+`"}},`, 40) + `{}]`, 413, ""},
	} {
		r, err := tn.try(http.MethodPost, "/v1/events", c.body, http.Header{"Content-Type": {c.contentType}})
		require.NoError(t, err, c.what)
		doc := isProblem(t, c.what, r, c.status)
		if c.pointer != "" {
			var places []string
			for _, e := range doc.Errors {
				places = append(places, e.Pointer)
			}
			assert.Contains(t, places, c.pointer, c.what)
		}
	}
	r, err := request(t.Context(), http.MethodPost, p.base(http.MethodPost, "/v1/events")+"/v1/events", http.Header{"Content-Type": {"application/json"}}, strings.NewReader(`{}`))
	require.NoError(t, err)
	isProblem(t, "no key", r, http.StatusUnauthorized)
	for _, name := range topic.Events() {
		for _, rec := range p.records(name) {
			assert.False(t, strings.HasPrefix(string(rec.Key), tn.name+"/"), "%s %d/%d: a refused request left a record behind", name, rec.Partition, rec.Offset)
		}
	}
}

func refusesBadSubscriptions(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	good := func(more object) object {
		o := object{"url": "https://example.com/hooks", "events": []string{"call.*"}}
		for k, v := range more {
			if v == nil {
				delete(o, k)
				continue
			}
			o[k] = v
		}
		return o
	}
	for _, c := range []struct {
		what    string
		body    any
		status  int
		pointer string
	}{
		{"malformed", `{"url":`, 400, ""},
		{"no url", good(object{"url": nil}), 422, "#/url"},
		{"no events", good(object{"events": nil}), 422, "#/events"},
		{"a relative url", good(object{"url": "/hooks"}), 422, "#/url"},
		{"another scheme", good(object{"url": "ftp://example.com"}), 422, "#/url"},
		{"a password in the url", good(object{"url": "https://u:p@example.com"}), 422, "#/url"},
		{"an unknown pattern", good(object{"events": []string{"call.*", "calls.exploded"}}), 422, "#/events/1"},
		{"a filter that doesn't parse", good(object{"filter": "event.type =="}), 422, "#/filter"},
		{"a filter that isn't a condition", good(object{"filter": "size(event.type)"}), 422, "#/filter"},
		{"an unknown member", good(object{"colour": "red"}), 422, "#/colour"},
		{"an unknown profile", good(object{"payload": object{"profile": "xml"}}), 422, "#/payload/profile"},
		{"a timeout above 30 s", good(object{"request": object{"timeout": "31s"}}), 422, "#/request/timeout"},
		{"a forbidden header", good(object{"request": object{"headers": object{"Host": "x"}}}), 422, ""},
		{"a retry that isn't one", good(object{"retry": object{"schedule": []string{"soon"}}}), 422, "#/retry/schedule/0"},
		{"wrong types all over", `{"url":7,"events":"call.*","agents":{},"filter":[]}`, 422, ""},
	} {
		r := tn.do(http.MethodPost, "/v1/subscriptions", c.body)
		doc := isProblem(t, c.what, r, c.status)
		if c.pointer != "" {
			var places []string
			for _, e := range doc.Errors {
				places = append(places, e.Pointer)
			}
			assert.Contains(t, places, c.pointer, "%s: %s", c.what, r)
		}
	}
	list := decode[struct {
		Items []created `json:"items"`
	}](t, tn.must(200, http.MethodGet, "/v1/subscriptions", nil))
	require.Empty(t, list.Items, "nothing is half done")
	for i := range 3 {
		tn.must(201, http.MethodPost, "/v1/subscriptions", good(object{"name": fmt.Sprint(i)}))
	}
	newest := decode[struct {
		Items []created `json:"items"`
	}](t, tn.must(200, http.MethodGet, "/v1/subscriptions?limit=2", nil)).Items
	require.Len(t, newest, 2)
	r, err := tn.try(http.MethodPatch, "/v1/subscriptions/"+newest[0].ID, object{"name": "new"}, http.Header{"If-Match": {`"999"`}})
	require.NoError(t, err)
	isProblem(t, "a stale version", r, http.StatusPreconditionFailed)
}
