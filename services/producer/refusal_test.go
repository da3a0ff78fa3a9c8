package producer_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/producer"
)

func gzipped(t testing.TB, body string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(body))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.String()
}

// TestBadInput sends every kind of bad request and looks that each is refused with the place of its fault, that nothing
// was produced by any, and that the service goes on.
func TestBadInput(t *testing.T) {
	const good = `{"type":"call.started","call_id":"c"}`
	const ce = "application/cloudevents+json"
	const batch = "application/cloudevents-batch+json"
	const lines = "application/x-ndjson"
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	fault := func(pointer, detail string) problem.Fault { return problem.Fault{Pointer: pointer, Detail: detail} }
	line := func(n int, f problem.Fault) problem.Fault { f.Line = n; return f }

	r := start(t, func(c *producer.Config) { c.MaxEvents = 50 })
	for _, c := range []struct {
		name, body string
		header     []string // pairs
		status     int
		faults     []problem.Fault // an empty detail matches any
		detail     string          // part of the document's detail
	}{
		{name: "empty body", body: "", status: 400, detail: "the body is empty"},
		{name: "white space", body: " \n", status: 400, detail: "the body is empty"},
		{name: "empty array", body: "[]", status: 422, faults: []problem.Fault{fault("#", "must not be empty")}},
		{name: "empty lines", body: "\n\n", header: []string{"Content-Type", lines}, status: 400, detail: "the body is empty"},
		{name: "cut off", body: `{"type":"call.started"`, status: 400, faults: []problem.Fault{fault("", "not JSON: unexpected end in an object at line 1, column 23")}},
		{name: "no JSON", body: `hello`, status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "two values", body: good + good, status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "trailing comma", body: `[` + good + `,]`, status: 400, faults: []problem.Fault{fault("", "a value is missing at line 1, column 40")}},
		{name: "no comma", body: `[` + good + good + `]`, status: 400, faults: []problem.Fault{fault("#/0", "")}},
		{name: "array cut off", body: `[` + good, status: 400, faults: []problem.Fault{fault("", "the array has no end at line 1, column 1")}},
		{name: "JSON fault in the second", body: "[" + good + ",\n {\"type\":nul}]", status: 400, faults: []problem.Fault{fault("#/1", "")}},
		{name: "invalid UTF-8", body: "{\"type\":\"call.started\",\"call_id\":\"\xff\"}", status: 400, faults: []problem.Fault{fault("", "not JSON: invalid UTF-8 at line 1, column 35")}},
		{name: "byte order mark", body: "\ufeff" + good, status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "UTF-16", body: "{\x00\"\x00", status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "control character", body: "{\"type\":\"call.started\",\"call_id\":\"\x01\"}", status: 400, faults: []problem.Fault{fault("", "")}},

		{name: "a string", body: `"call.started"`, status: 422, faults: []problem.Fault{fault("#", "must be an object, is a string")}},
		{name: "null in an array", body: `[` + good + `,null]`, status: 422, faults: []problem.Fault{fault("#/1", "must be an object, is null")}},
		{name: "no type", body: `{"call_id":"c"}`, status: 422, faults: []problem.Fault{fault("#/type", "is required")}},
		{name: "unknown type", body: `{"type":"call.exploded","call_id":"c"}`, status: 422, faults: []problem.Fault{fault("#/type", "is not an event type of the catalogue")}},
		{name: "no call id", body: `{"type":"call.started"}`, status: 422, faults: []problem.Fault{fault("#/call_id", "is required for call.started")}},
		{name: "wrong types, all of them", body: `[` + good + `,{"type":"quality.scored","call_id":"c","time":"yesterday","sequence":1.5,"test":"yes","data":{"score":"high","tags":"a","caller":[1]}}]`, status: 422,
			faults: []problem.Fault{fault("#/1/time", ""), fault("#/1/sequence", ""), fault("#/1/test", ""),
				fault("#/1/data/score", "must be a number, is a string"), fault("#/1/data/tags", ""), fault("#/1/data/caller", "")}},
		{name: "a long call id is no number", body: `{"type":"call.started","call_id":"` + strings.Repeat("x", 257) + `"}`, status: 422, faults: []problem.Fault{fault("#/call_id", "is longer than 256 bytes")}},
		{name: "control character in an id", body: `{"type":"call.started","call_id":"a\nb"}`, status: 422, faults: []problem.Fault{fault("#/call_id", "holds a control character")}},
		{name: "data is an array", body: `{"type":"call.started","call_id":"c","data":[1]}`, status: 422, faults: []problem.Fault{fault("#/data", "")}},
		{name: "a name twice", body: `{"type":"call.started","call_id":"c","call_id":"d"}`, status: 422, faults: []problem.Fault{fault("#/call_id", "")}},
		{name: "too deep", body: `{"type":"call.started","call_id":"c","data":` + deep + `}`, status: 422, faults: []problem.Fault{fault("#/data"+strings.Repeat("/a", 63), "")}},
		{name: "faults of several lines", body: good + "\n\n{\"type\":\"y\"}\n" + good + "\n{\"type\":\"x\",\"call_id\":\"c\"}", header: []string{"Content-Type", lines}, status: 422,
			faults: []problem.Fault{line(3, fault("#/type", "")), line(5, fault("#/type", "is not an event type of the catalogue"))}},
		{name: "JSON fault in a line", body: good + "\n{\"type\":\n{}", header: []string{"Content-Type", lines}, status: 400,
			faults: []problem.Fault{line(2, fault("", "not JSON: unexpected end where a value begins at line 2, column 9")), line(3, fault("#/type", ""))}},
		{name: "an array in a line", body: `[` + good + `]`, header: []string{"Content-Type", lines}, status: 422, faults: []problem.Fault{line(1, fault("#", "must be an object, is an array"))}},

		{name: "another tenant", body: `[` + good + `,{"type":"call.started","call_id":"c","tenant":"other"}]`, header: []string{"X-Tenant", "acme"}, status: 403,
			faults: []problem.Fault{fault("#/1/tenant", `must be "acme", the API key's tenant, or left out`)}},
		{name: "another tenant, in lines", body: good + "\n{\"type\":\"call.started\",\"call_id\":\"c\",\"tenant\":\"other\"}", header: []string{"Content-Type", lines}, status: 403, faults: []problem.Fault{line(2, fault("#/tenant", ""))}},
		{name: "another tenant and a wrong type", body: `[{"type":"x"},{"type":"call.started","call_id":"c","tenant":"other"}]`, status: 403, faults: []problem.Fault{fault("#/0/type", ""), fault("#/1/tenant", "")}},
		{name: "a strange host", body: good, header: []string{"Origin", "https://evil.example"}, status: 403, detail: "authentication is off"},

		{name: "no content type", body: good, header: []string{"Content-Type", ""}, status: 415, detail: "the header Content-Type is missing"},
		{name: "a form", body: good, header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, detail: "application/x-www-form-urlencoded is not accepted; send application/json, application/x-ndjson"},
		{name: "nonsense", body: good, header: []string{"Content-Type", ";;;"}, status: 415, detail: "can't be read"},
		{name: "Latin 1", body: good, header: []string{"Content-Type", "application/json; charset=iso-8859-1"}, status: 415, detail: `the charset "iso-8859-1" is not accepted`},
		{name: "CloudEvents in Avro", body: good, header: []string{"Content-Type", "application/cloudevents+avro"}, status: 415, detail: "only JSON"},
		{name: "brotli", body: good, header: []string{"Content-Encoding", "br"}, status: 415, detail: `the Content-Encoding "br" is not accepted; send gzip`},
		{name: "not gzip", body: good, header: []string{"Content-Encoding", "gzip"}, status: 400, detail: "not gzip"},
		{name: "gzip cut off", body: gzipped(t, good)[:20], header: []string{"Content-Encoding", "gzip"}, status: 400, detail: "cut off"},
		{name: "gzip damaged", body: func() string { b := []byte(gzipped(t, good)); b[len(b)-5] ^= 1; return string(b) }(), header: []string{"Content-Encoding", "gzip"}, status: 400, detail: "damaged"},
		{name: "a bomb", body: gzipped(t, strings.Repeat(" ", 17<<20)), header: []string{"Content-Encoding", "gzip"}, status: 413, detail: "over 16 MiB"},
		{name: "over 16 MiB", body: strings.Repeat(" ", 16<<20) + good, status: 413, detail: "over 16 MiB"},
		{name: "an event over 1 MiB", body: `[` + good + `,{"type":"transcript.ready","call_id":"c","data":{"transcript_text":"` + strings.Repeat("x", 1<<20) + `"}}]`, status: 413, faults: []problem.Fault{fault("#/1", "")}},
		{name: "too many events", body: "[" + strings.Repeat(good+",", 50) + good + "]", status: 413, detail: "a request may hold 50 events"},

		{name: "CloudEvent: nothing", body: "", header: []string{"Content-Type", ce}, status: 400, detail: "the body is empty"},
		{name: "CloudEvent: an array", body: `[]`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#", "must be an object")}},
		{name: "CloudEvent: no JSON", body: `{"specversion":`, header: []string{"Content-Type", ce}, status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "CloudEvent: two", body: `{} {}`, header: []string{"Content-Type", ce}, status: 400, faults: []problem.Fault{fault("", "there is more after the event at line 1, column 4")}},
		{name: "CloudEvent: nothing in it", body: `{}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{
			fault("#/specversion", "is required by CloudEvents"), fault("#/id", "is required by CloudEvents"), fault("#/source", "is required by CloudEvents"), fault("#/type", "is required by CloudEvents")}},
		{name: "CloudEvent: version", body: `{"specversion":"0.3","id":"1","source":"s","type":"call.started","subject":"c"}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/specversion", "must be 1.0, the only version understood")}},
		{name: "CloudEvent: no subject", body: `{"specversion":"1.0","id":"1","source":"s","type":"call.started"}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/subject", "is required for call.started")}},
		{name: "CloudEvent: bad attributes", body: `{"specversion":"1.0","id":"","source":1,"type":"call.started","subject":"c","time":"now","datacontenttype":"text/xml","dataschema":":","sequence":"x","test":"maybe","An-Ext":"1","ext":{}}`,
			header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/ext", "must not be an object or an array"), fault("#/id", "must not be empty"), fault("#/source", "must be a string"),
				fault("#/datacontenttype", ""), fault("#/dataschema", "must be a URI"), fault("#/sequence", "must be a whole number"), fault("#/test", ""), fault("#/An-Ext", "")}},
		{name: "CloudEvent: bad time", body: `{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c","time":"now"}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/time", "")}},
		{name: "CloudEvent: a name twice", body: `{"specversion":"1.0","id":"1","id":"2","source":"s","type":"call.started","subject":"c"}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/id", "appears twice")}},
		{name: "CloudEvent: wrong data", body: `{"specversion":"1.0","id":"1","source":"s","type":"quality.scored","subject":"c","data":{"score":"high"}}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/data/score", "")}},
		{name: "CloudEvent: binary data", body: `{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c","data_base64":"/9j/4A=="}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/data_base64", "must hold JSON; binary data is not accepted")}},
		{name: "CloudEvent: no Base64", body: `{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c","data_base64":"?"}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/data_base64", "is not Base64")}},
		{name: "CloudEvent: data twice", body: `{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c","data":{},"data_base64":"e30="}`, header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/data_base64", "must not stand beside data")}},
		{name: "CloudEvent: wrong encoded data", body: `{"specversion":"1.0","id":"1","source":"s","type":"quality.scored","subject":"c","data_base64":"` + base64.StdEncoding.EncodeToString([]byte(`{"score":"high"}`)) + `"}`,
			header: []string{"Content-Type", ce}, status: 422, faults: []problem.Fault{fault("#/data_base64", "")}},
		{name: "CloudEvent: another tenant", body: `{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c","tenant":"other"}`, header: []string{"Content-Type", ce}, status: 403, faults: []problem.Fault{fault("#/tenant", "")}},
		{name: "CloudEvents: no array", body: `{"specversion":"1.0"}`, header: []string{"Content-Type", batch}, status: 422, faults: []problem.Fault{fault("#", "must be an array")}},
		{name: "CloudEvents: empty", body: `[]`, header: []string{"Content-Type", batch}, status: 422, faults: []problem.Fault{fault("#", "must not be empty")}},
		{name: "CloudEvents: one is bad", body: `[{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c"},{"specversion":"1.0","id":"2","source":"s","type":"call.started"}]`,
			header: []string{"Content-Type", batch}, status: 422, faults: []problem.Fault{fault("#/1/subject", "")}},

		{name: "binary mode: nothing", body: "{}", header: []string{"Ce-Specversion", "1.0"}, status: 422, faults: []problem.Fault{
			fault("", "the header ce-id is required by CloudEvents"), fault("", "the header ce-source is required by CloudEvents"), fault("", "the header ce-type is required by CloudEvents")}},
		{name: "binary mode: wrong data", body: `{"score":"high"}`, header: []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "s", "Ce-Type", "quality.scored", "Ce-Subject", "c"}, status: 422, faults: []problem.Fault{fault("#/score", "must be a number, is a string")}},
		{name: "binary mode: no subject", body: `{}`, header: []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "s", "Ce-Type", "call.started"}, status: 422, faults: []problem.Fault{fault("", "the header ce-subject is required for call.started")}},
		{name: "binary mode: no JSON", body: `{`, header: []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "s", "Ce-Type", "call.started", "Ce-Subject", "c"}, status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "binary mode: smuggled members", body: `{},"tenant":"other"`, header: []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "s", "Ce-Type", "call.started", "Ce-Subject", "c"}, status: 400, faults: []problem.Fault{fault("", "")}},
		{name: "binary mode: XML", body: `<a/>`, header: []string{"Content-Type", "application/xml", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "s", "Ce-Type", "call.started"}, status: 415, detail: "must be JSON"},
		{name: "binary mode: no UTF-8", body: `{}`, header: []string{"Ce-Specversion", "1.0", "Ce-Id", "%ff", "Ce-Source", "s", "Ce-Type", "call.started", "Ce-Datacontenttype", "application/json"}, status: 422, faults: []problem.Fault{
			fault("", "the header ce-datacontenttype is not allowed: Content-Type says it"), fault("", "the header ce-id is not UTF-8"), fault("", "the header ce-id is required by CloudEvents")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := r.post(c.body, c.header...)
			require.Equal(t, c.status, a.status, string(a.body))
			p := a.problem(t)
			require.NotEmpty(t, p.Detail)
			require.Contains(t, p.Detail, c.detail)
			require.Len(t, p.Errors, len(c.faults), string(a.body))
			for i, want := range c.faults {
				got := p.Errors[i]
				require.NotEmpty(t, got.Detail)
				if want.Detail == "" {
					got.Detail = ""
				}
				require.Equal(t, want, got)
			}
		})
	}
	require.Zero(t, r.produced(), "nothing was produced by any of them")
	r.post(good).ids(t)
	require.Equal(t, int64(1), r.produced(), "and the service goes on")
}

func TestManyFaultsAreCounted(t *testing.T) {
	r := start(t, nil)
	a := r.post("[" + strings.Repeat("{},", 4999) + "{}]")
	require.Equal(t, http.StatusUnprocessableEntity, a.status)
	p := a.problem(t)
	require.Len(t, p.Errors, 1000)
	require.Contains(t, p.Detail, "(5000 faults, of which the first 1000 are listed)")
	require.Less(t, len(a.body), 100_000)
	require.Zero(t, r.produced())
}

func TestBodiesUpToTheLimits(t *testing.T) {
	r := start(t, nil)
	const good = `{"type":"call.started","call_id":"c"}`
	r.post(gzipped(t, good), "Content-Encoding", "gzip").ids(t)
	r.post(strings.Repeat(" ", 16<<20-len(good)) + good).ids(t)
	r.post(gzipped(t, strings.Repeat(" ", 16<<20-len(good))+good), "Content-Encoding", "gzip").ids(t)
	// Chunked: nobody says how long it will be.
	r.send(struct{ *strings.Reader }{strings.NewReader(good)}, nil).ids(t)
	require.Equal(t, http.StatusRequestEntityTooLarge, r.send(struct{ *strings.Reader }{strings.NewReader(strings.Repeat(" ", 16<<20) + good)}, nil).status)

	// The largest event: its text and the little around it take 1 MiB in Avro.
	text := strings.Repeat("x", 1<<20-300)
	r.post(`{"type":"transcript.ready","call_id":"c","data":{"transcript_text":"` + text + `"}}`).ids(t)
	require.Equal(t, int64(5), r.produced())
	got := r.read(topic.CallsEvents)
	require.Contains(t, string(got[len(got)-1].AppendData(nil)), text)
}

func TestAThousandEventsInARequest(t *testing.T) {
	r := start(t, nil)
	var b strings.Builder
	for i := range 1000 {
		b.WriteString(`{"id":"e` + strconv.Itoa(i) + `","type":"call.started","call_id":"c` + strconv.Itoa(i%7) + `"}` + "\n")
	}
	ids := r.post(b.String(), "Content-Type", "application/x-ndjson").ids(t)
	require.Len(t, ids, 1000)
	require.Equal(t, "e999", ids[999])
	require.Equal(t, int64(1000), r.produced())
}
