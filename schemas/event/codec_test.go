package event

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/callstream/callstream/schemas/topic"
	hamba "github.com/hamba/avro/v2"
)

// registry is a schema registry in memory: equal schemas share an id, as in Confluent's.
type registry struct {
	mu    sync.Mutex
	ids   map[string]int
	texts []string
	asked int
	down  error
}

type notFound struct{}

func (notFound) Error() string  { return "404" }
func (notFound) NotFound() bool { return true }

func (r *registry) Register(_ context.Context, subject, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return 0, r.down
	}
	if r.ids == nil {
		r.ids = map[string]int{}
	}
	id, ok := r.ids[schema]
	if !ok {
		r.texts = append(r.texts, schema)
		id = len(r.texts)
		r.ids[schema] = id
	}
	return id, nil
}

func (r *registry) SchemaByID(_ context.Context, id int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.down != nil {
		return "", r.down
	}
	if id < 1 || id > len(r.texts) {
		return "", fmt.Errorf("get schema: %w", notFound{})
	}
	return r.texts[id-1], nil
}

const report = `{"type":"call.report","call_id":"c","id":"evt_1","tenant":"acme","source":"s","time":"2026-01-20T10:00:00Z","data":{"score":85,"caller":{"name":"John"},"crm":{"id":7}}}`

func TestCodec(t *testing.T) {
	ctx, r := t.Context(), &registry{}
	if err := NewCodec(r).Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	c := NewCodec(r)
	e, err := Parse([]byte(report))
	if err != nil {
		t.Fatal(err)
	}
	value, err := c.EncodeEvent(ctx, []byte("prefix"), e)
	if err != nil {
		t.Fatal(err)
	}
	value = bytes.TrimPrefix(value, []byte("prefix"))
	other := NewCodec(r)
	back, err := other.DecodeEvent(ctx, topic.CallsEvents, value)
	if err != nil {
		t.Fatal(err)
	}
	want := string(e.AppendJSON(nil))
	for i := range value {
		value[i] = 'x' // the event must not look at it any more
	}
	if got := string(back.AppendJSON(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	d := &Delivery{ID: "msg_1", Tenant: "acme", Headers: map[string]string{"a": "b"}, Body: []byte(`{}`), AcceptedAt: hold(17)}
	value, err = c.Encode(ctx, nil, d)
	if err != nil {
		t.Fatal(err)
	}
	var read Delivery
	if err := other.Decode(ctx, value, &read); err != nil || fmt.Sprint(read) != fmt.Sprint(*d) {
		t.Errorf("%+v, %v", read, err)
	}
	if err := other.Decode(ctx, value, &Attempt{}); !errors.Is(err, ErrPoison) {
		t.Errorf("a delivery was read as an attempt: %v", err)
	}
	asked := r.asked
	if err := other.Decode(ctx, value, &read); err != nil || r.asked != asked {
		t.Errorf("asked the registry again for a schema it knew (%v)", err)
	}
}

func TestPeekIdentity(t *testing.T) {
	ctx, r := t.Context(), &registry{}
	c := NewCodec(r)
	e, _ := Parse([]byte(report))
	value, err := c.EncodeEvent(ctx, nil, e)
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{"evt_1", "call.report", "acme", "s"}
	if got, err := c.PeekIdentity(ctx, topic.CallsEvents, value); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	id, err := r.Register(ctx, "x", foreignSchema)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.PeekIdentity(ctx, topic.CallsEvents, foreign(t, id, map[string]any{"type": "call.ended", "tenant": "acme", "call_id": "c", "source": "pbx"})); err != nil || got != (Identity{"", "call.ended", "acme", "pbx"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.PeekIdentity(ctx, topic.CallsEvents, value[:9]); !errors.Is(err, ErrPoison) {
		t.Error(err)
	}
}

// foreignSchema is what another team might produce with: our record's name, some of its fields in an order of its own, a
// field we don't have, and a narrower number.
const foreignSchema = `{"type":"record","name":"CallEvent","namespace":"callstream","fields":[
	{"name":"source","type":["null","string"],"default":null},
	{"name":"pbx_node","type":"string","default":""},
	{"name":"call_id","type":["null","string"],"default":null},
	{"name":"type","type":"string"},
	{"name":"tags","type":{"type":"array","items":"string"},"default":[]},
	{"name":"duration_ms","type":["null","int"],"default":null},
	{"name":"extra_json","type":["null","string"],"default":null},
	{"name":"time","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
	{"name":"tenant","type":"string"}]}`

func foreign(t *testing.T, id int, fields map[string]any) []byte {
	t.Helper()
	for name, empty := range map[string]any{"source": nil, "pbx_node": "", "call_id": nil, "tags": []string{}, "duration_ms": nil, "extra_json": nil, "time": nil} {
		if _, ok := fields[name]; !ok {
			fields[name] = empty
		}
	}
	schema, err := parseSchema(foreignSchema)
	if err != nil {
		t.Fatal(err)
	}
	body, err := hamba.Marshal(schema, fields)
	if err != nil {
		t.Fatal(err)
	}
	return append(appendHeader(nil, id), body...)
}

func TestDirectProducers(t *testing.T) {
	ctx, r := t.Context(), &registry{}
	id, err := r.Register(ctx, "x", foreignSchema)
	if err != nil {
		t.Fatal(err)
	}
	c := NewCodec(r)
	value := foreign(t, id, map[string]any{"type": "call.ended", "tenant": "acme", "call_id": "c-1", "source": "pbx", "pbx_node": "n3", "duration_ms": 1500, "tags": []string{"a", "b"},
		"time": hold(1768903200123456), "extra_json": `{"/data/crm":{"x":1.10},"/y":[]}`})
	e, err := c.DecodeEvent(ctx, topic.CallsEvents, value)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"call.ended","time":"2026-01-20T10:00:00.123456Z","tenant":"acme","source":"pbx","call_id":"c-1","data":{"duration_ms":1500,"tags":["a","b"],"crm":{"x":1.10},"pbx_node":"n3"},"y":[]}`
	if got := string(e.AppendJSON(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	large := foreign(t, id, map[string]any{"type": "call.ended", "tenant": "acme", "call_id": "c-1", "pbx_node": strings.Repeat("x", 1500_000), "source": "pbx"})
	if _, err := c.DecodeEvent(ctx, topic.CallsEvents, large); err != nil {
		t.Errorf("a string of 1.5 MB: %.200v", err)
	}
	for name, value := range map[string][]byte{"cut": value[:len(value)-3], "nothing": value[:5], "no header": value[:4], "magic": append([]byte{1}, value[1:]...),
		"id": append([]byte{0, 0, 0, 9, 9}, value[5:]...), "noise": append(append([]byte(nil), value[:5]...), bytes.Repeat([]byte{0xff}, 40)...)} {
		if _, err := c.DecodeEvent(ctx, topic.CallsEvents, value); !errors.Is(err, ErrPoison) || errors.Is(err, ErrRegistry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{`"string"`, `{"type":"record","name":"Other","fields":[]}`, `{"type":"record","name":"CallEvent","namespace":"callstream","fields":[{"name":"type","type":"string"}]}`, `not a schema`,
		strings.Replace(foreignSchema, `"name":"type","type":"string"`, `"name":"type","type":"long"`, 1)} {
		id, _ := r.Register(ctx, "x", text)
		if _, err := c.DecodeEvent(ctx, topic.CallsEvents, append(appendHeader(nil, id), value[5:]...)); !errors.Is(err, ErrPoison) {
			t.Errorf("%s: %v", text, err)
		}
	}
	r.down = errors.New("connection refused")
	if _, err := NewCodec(r).DecodeEvent(ctx, topic.CallsEvents, value); !errors.Is(err, ErrRegistry) || errors.Is(err, ErrPoison) {
		t.Error(err)
	}
	if _, err := NewCodec(r).EncodeEvent(ctx, nil, e); !errors.Is(err, ErrRegistry) {
		t.Error(err)
	}
	if err := NewCodec(r).Prepare(ctx); !errors.Is(err, ErrRegistry) {
		t.Error(err)
	}
	if _, err := c.DecodeEvent(ctx, topic.CallsEvents, value); err != nil {
		t.Errorf("a schema that is known needs no registry: %v", err)
	}
}

// What someone else may put into the columns, and what becomes of it.
func TestStrangeColumns(t *testing.T) {
	build := func(change func(m map[string]any)) []byte {
		schema := stockSchema(t, topic.CallEventSchema)
		m := map[string]any{"type": "call.report", "tenant": "acme", "attributes": map[string]any{}, "tags": []any{}, "intents": []any{}, "participants": []any{}}
		change(m)
		body, err := stock().Marshal(schema, m)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for _, c := range []struct {
		name string
		set  map[string]any
		want string // "" is poison
	}{
		{"empty strings are absent", map[string]any{"id": "", "direction": "", "fields": "", "extra_json": ""}, `"data":{}}`},
		{"an empty object is absent", map[string]any{"fields": "{ }"}, `"data":{}}`},
		{"not an object", map[string]any{"fields": "[1]"}, ``},
		{"broken JSON", map[string]any{"fields": `{"a":}`}, ``},
		{"two values", map[string]any{"fields": `{}{}`}, ``},
		{"a repeat in an object", map[string]any{"fields": `{"a":1,"a":2}`}, ``},
		{"not a number", map[string]any{"score": math.NaN()}, ``},
		{"infinite", map[string]any{"score": math.Inf(-1)}, ``},
		{"not UTF-8", map[string]any{"direction": "\xff"}, ``},
		{"the year 20000", map[string]any{"time": hold(569000000000 * 1e6)}, ``},
		{"not a time stays as it is", map[string]any{"started_at": "yesterday"}, `"data":{"started_at":"yesterday"}}`},
		{"extra isn't an object", map[string]any{"extra_json": `[]`}, ``},
		{"extra is broken", map[string]any{"extra_json": `{"/x":1`}, ``},
		{"extra repeats", map[string]any{"extra_json": `{"/x":1,"/x":2}`}, ``},
		{"a pointer to nowhere", map[string]any{"extra_json": `{"x":1}`}, ``},
		{"the root", map[string]any{"extra_json": `{"":1}`}, ``},
		{"the envelope", map[string]any{"extra_json": `{"/tenant":"other"}`}, ``},
		{"the data", map[string]any{"extra_json": `{"/data":{}}`}, ``},
		{"a bad escape", map[string]any{"extra_json": `{"/a~2":1}`}, ``},
		{"too deep a pointer", map[string]any{"extra_json": `{"/data/caller/x/y":1}`}, ``},
		{"a column that is there", map[string]any{"direction": "in", "extra_json": `{"/data/direction":"out"}`}, ``},
		{"an exact spelling", map[string]any{"score": 0.1, "extra_json": `{"/data/score":0.1000000000000000000001}`}, `"data":{"score":0.1000000000000000000001}}`},
		{"a spelling of another number", map[string]any{"score": 0.1, "extra_json": `{"/data/score":0.2000000000000000000001}`}, ``},
		{"a spelling that isn't one", map[string]any{"score": 0.1, "extra_json": `{"/data/score":"0.1"}`}, ``},
		{"an exact time", map[string]any{"time": hold(1), "extra_json": `{"/time":"1970-01-01T00:00:00.0000011Z"}`}, `"time":"1970-01-01T00:00:00.0000011Z"`},
		{"a spelling of another time", map[string]any{"time": hold(1), "extra_json": `{"/time":"1970-01-01T00:00:00.0000021Z"}`}, ``},
		{"members of a writer that doesn't know the field", map[string]any{"extra_json": `{"/data/score":85.0,"/data/caller/name":"J","/data/tags":["a"]}`}, `"data":{"score":85,"tags":["a"],"caller":{"name":"J"}}}`},
		{"a group of a writer that doesn't know it", map[string]any{"extra_json": `{"/data/caller":{"name":"J","x":{"y":1}}}`}, `"data":{"caller":{"name":"J","x":{"y":1}}}}`},
		{"one that doesn't fit the field stays", map[string]any{"extra_json": `{"/data/score":"85","/data/caller":[1]}`}, `"data":{"score":"85","caller":[1]}}`},
		{"an empty one stays", map[string]any{"extra_json": `{"/data/score":null}`}, `"data":{"score":null}}`},
		{"a group twice", map[string]any{"caller_name": "J", "extra_json": `{"/data/caller":{"name":"K"}}`}, ``},
		{"a group that isn't one, and is one", map[string]any{"caller_name": "J", "extra_json": `{"/data/caller":[1]}`}, ``},
		{"a group of a newer writer, and a member of its name", map[string]any{"extra_json": `{"/data/billing/x":1,"/data/billing":{"z":2}}`}, ``},
		{"a member twice in a group of a newer writer", map[string]any{"extra_json": `{"/data/billing/x":1,"/data/billing/x":2}`}, ``},
		{"a group of a newer writer", map[string]any{"extra_json": `{"/data/billing/x":1,"/data/billing/y~1":{"z":2}}`}, `"data":{"billing":{"x":1,"y/":{"z":2}}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := build(func(m map[string]any) {
				for k, v := range c.set {
					m[k] = v
				}
			})
			e, err := readEvent(tableOfTopic(topic.CallsEvents), body)
			if c.want == "" {
				if !errors.Is(err, ErrPoison) {
					t.Errorf("%v, %v", e, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := e.AppendJSON(nil)
			if !strings.Contains(string(got), c.want) || !json.Valid(got) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// Schemas and bodies that would keep the library busy for ever, fill the memory or overflow the stack.
func TestHostileWriters(t *testing.T) {
	ctx, r := t.Context(), &registry{}
	c := NewCodec(r)
	schema := func(junk string) string {
		return `{"type":"record","name":"CallEvent","namespace":"callstream","fields":[{"name":"type","type":"string"},{"name":"tenant","type":"string"},{"name":"junk","type":` + junk + `}]}`
	}
	doubling := `"null"`
	for i := range 40 {
		doubling = fmt.Sprintf(`{"type":"record","name":"R%d","fields":[{"name":"a","type":%s},{"name":"b","type":"R%d"}]}`, i, doubling, i-1)
		if i == 0 {
			doubling = `{"type":"record","name":"R0","fields":[]}`
		}
	}
	huge := appendLong(nil, 1<<60)
	for name, junk := range map[string]struct {
		schema string
		body   []byte
		ok     bool
	}{
		"sane":                      {`{"type":"array","items":"long"}`, []byte{4, 2, 2, 0}, true},
		"sane block with size":      {`{"type":"array","items":"string"}`, []byte{1, 4, 2, 'a', 0}, true},
		"sane enum, fixed and map":  {`{"type":"map","values":["null",{"type":"enum","name":"E","symbols":["A"]},{"type":"fixed","name":"F","size":2}]}`, []byte{4, 2, 'k', 2, 0, 2, 'l', 4, 9, 9, 0}, true},
		"nulls without end":         {`{"type":"array","items":"null"}`, append(huge, 0), false},
		"items without end":         {`{"type":"array","items":"long"}`, append(huge, 0), false},
		"the least number of items": {`{"type":"array","items":"null"}`, append(appendLong(nil, math.MinInt64), 2, 0), false},
		"nulls in nulls":            {`{"type":"array","items":{"type":"array","items":"null"}}`, append(bytes.Repeat(append(appendLong(nil, 1), append(appendLong(nil, 50_000), 0)...), 30_000), 0), false},
		"a block's false size":      {`{"type":"array","items":"string"}`, []byte{1, 6, 2, 'a', 0}, false},
		"a map without end":         {`{"type":"map","values":"null"}`, append(huge, 0), false},
		"no such branch":            {`["null","long"]`, []byte{8, 0}, false},
		"no such symbol":            {`{"type":"enum","name":"E","symbols":["A"]}`, []byte{8}, false},
		"a schema in itself":        {`["null",{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}]`, []byte{0}, false},
		"a schema that doubles":     {doubling, nil, false},
	} {
		id, err := r.Register(ctx, "x", schema(junk.schema))
		if err != nil {
			t.Fatal(err)
		}
		body := append(appendString(appendString(appendHeader(nil, id), "call.ended"), "acme"), junk.body...)
		e, err := c.DecodeEvent(ctx, topic.CallsEvents, body)
		if junk.ok && (err != nil || e.Type != "call.ended" || e.Tenant != "acme") {
			t.Errorf("%s: %v", name, err)
		}
		if !junk.ok && !errors.Is(err, ErrPoison) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		topic, in string
		want      []Fault
	}{
		{topic.CallsEvents, report, nil},
		{topic.SystemEvents, report, []Fault{{"/type", "belongs to the topic calls.events"}}},
	} {
		e, err := Parse([]byte(c.in))
		if err != nil {
			t.Fatal(err)
		}
		e.table = tableOfTopic(c.topic)
		if got := e.Check(); fmt.Sprint(got) != fmt.Sprint(Faults(c.want)) {
			t.Errorf("%v, want %v", got, c.want)
		}
	}
	e := &Event{Type: "nope", CallID: "a\n"}
	if got := fmt.Sprint([]Fault(e.Check())); got != "[{/tenant is required} {/type is not an event type of the catalogue} {/call_id holds a control character}]" {
		t.Error(got)
	}
}

func TestKeys(t *testing.T) {
	for in, want := range map[string]string{
		`{"type":"call.ended","call_id":"c","id":"i"}`:                              "/c",
		`{"type":"chat.started","id":"i","data":{"chat_id":"ch","message_id":"m"}}`: "/ch",
		`{"type":"sms.sent","id":"i","data":{"message_id":"m"}}`:                    "/m",
		`{"type":"sms.sent","id":"i"}`:                                              "/i",
		`{"type":"agent.status_changed","id":"i","agent_id":"a"}`:                   "/a",
		`{"type":"user.action","id":"i","data":{"resource_id":"r","user_id":"u"}}`:  "/r",
		`{"type":"endpoint.verified","id":"i","data":{"subscription_id":"sub"}}`:    "/sub",
		`{"type":"call.ended","call_id":"c","data":{"caller":{"message_id":"x"}}}`:  "/c",
	} {
		e, err := Parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		e.Tenant = "acme"
		if got := string(e.Key()); got != "acme"+want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestBatchID(t *testing.T) {
	seen := map[string]bool{}
	for _, members := range [][]string{{"msg_a"}, {"msg_a", "msg_b"}, {"msg_b", "msg_a"}, {"msg_amsg_b", ""}, {"msg_a", "msg_b", "msg_c"}} {
		id := BatchID(members...)
		if seen[id] || id != BatchID(members...) || !strings.HasPrefix(id, "msg_") || len(members) > 1 && len(id) != 30 {
			t.Errorf("%v: %s", members, id)
		}
		seen[id] = true
	}
	if BatchID("msg_a") != "msg_a" {
		t.Error("a batch of one has another id than its member")
	}
}

func TestMembersAreDeliveriesByThemselves(t *testing.T) {
	batch := Delivery{ID: "msg_x", Tenant: "acme", Method: "POST", ReplayID: "rpl_1", Body: []byte(`[1,22]`), Members: []DeliveryMember{
		{ID: "msg_a", EventID: "evt_a", BodyStart: 1, BodyLength: 1}, {ID: "msg_b", EventID: "evt_b", BodyStart: 3, BodyLength: 2},
		{ID: "msg_c", BodyStart: 3, BodyLength: math.MaxInt64}, {ID: "msg_d", BodyStart: -1, BodyLength: 2},
	}}
	for id, body := range map[string]string{"msg_a": "1", "msg_b": "22", "msg_c": "", "msg_d": "", "msg_x": "[1,22]"} {
		d, ok := batch.Of(id)
		if !ok || d.ID != id || string(d.Body) != body || d.Tenant != "acme" || d.ReplayID != "rpl_1" || id != "msg_x" && len(d.Members) > 0 {
			t.Errorf("%s: %+v", id, d)
		}
	}
	if _, ok := batch.Of("msg_y"); ok {
		t.Error("it has a member that it lacks")
	}
}

func TestDeliveryID(t *testing.T) {
	id := DeliveryID("acme", "s", "evt_1", "sub_1")
	if id != DeliveryID("acme", "s", "evt_1", "sub_1") || len(id) != 30 || !strings.HasPrefix(id, "msg_") || strings.ToLower(id) != id {
		t.Error(id)
	}
	for _, other := range []string{DeliveryID("acmes", "", "evt_1", "sub_1"), DeliveryID("acme", "sevt", "_1", "sub_1"), DeliveryID("", "acmes", "evt_1", "sub_1"), DeliveryID("acme", "s", "evt_1", "sub_2")} {
		if other == id {
			t.Error("parts run together")
		}
	}
}

func TestCompatible(t *testing.T) {
	v := func(fields string) string {
		return `{"type":"record","name":"A","namespace":"callstream","fields":[` + fields + `]}`
	}
	a, b := `{"name":"a","type":"string","default":""}`, `{"name":"b","type":["null","long"],"default":null}`
	for _, c := range []struct {
		name, next string
		old        []string
		ok         bool
	}{
		{"first", v(a), nil, true},
		{"same", v(a), []string{v(a)}, true},
		{"added with a default", v(a + "," + b), []string{v(a)}, true},
		{"removed that had one", v(a), []string{v(a + "," + b)}, true},
		{"added without", v(a + `,{"name":"c","type":"string"}`), []string{v(a)}, false},
		{"removed without", v(a), []string{v(a + `,{"name":"c","type":"string"}`)}, false},
		{"default dropped", v(`{"name":"a","type":"string"}`), []string{v(a), v(b)}, false},
		{"type changed", v(`{"name":"b","type":["null","string"],"default":null}`), []string{v(b)}, false},
		{"widened one way", v(`{"name":"b","type":"double","default":0}`), []string{v(`{"name":"b","type":"long","default":0}`)}, false},
		{"not with the oldest", v(a), []string{v(`{"name":"a","type":"long","default":0}`), v(b)}, false},
		{"renamed", strings.Replace(v(a), `"A"`, `"B"`, 1), []string{v(a)}, false},
		{"no schema", `{`, nil, false},
	} {
		if err := Compatible(c.next, c.old); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Records of a megabyte and more, built so that an algorithm that takes the square of their size would run into the test's
// time limit.
func TestHostileRecordsTakeLinearTime(t *testing.T) {
	many := func(n int, each string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, each, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	for name, build := range map[string]func(n int) string{
		"undeclared members":  func(n int) string { return `"data":{` + many(n, `"m%d":1,`) + `}` },
		"in a group":          func(n int) string { return `"data":{"caller":{` + many(n, `"m%d":1,`) + `}}` },
		"members of a member": func(n int) string { return `"x":{` + many(n, `"m%d":1,`) + `}` },
		"repeats":             func(n int) string { return `"x":{` + many(n, `"m":%d,`) + `}` },
		"wrong elements":      func(n int) string { return `"data":{"tags":[` + many(n, `%d,`) + `]}` },
		"elements":            func(n int) string { return `"data":{"tags":[` + many(n, `"%d",`) + `]}` },
		"attributes":          func(n int) string { return `"attributes":{` + many(n, `"m%d":"",`) + `}` },
		"depth":               func(n int) string { return `"x":` + strings.Repeat("[", 4*n) + strings.Repeat("]", 4*n) },
		"escapes":             func(n int) string { return `"x":"` + many(n, `\u00e9%d`) + `"` },
		"a long number": func(n int) string {
			return `"data":{"score":1.` + strings.Repeat("7", 8*n) + `,"duration_ms":1` + strings.Repeat("0", 8*n) + `e-` + fmt.Sprint(8*n) + `}`
		},
		"members before their type":  func(n int) string { return `"data":{` + many(n, `"m%d":[{}],`) + `},"z":1` },
		"repeats under a long name":  func(n int) string { return `"` + strings.Repeat("n", n) + `":{` + many(n, `"m":%d,`) + `}` },
		"nothing but open structure": func(n int) string { return `"x":` + strings.Repeat(`{"a":`, n) },
	} {
		t.Run(name, func(t *testing.T) {
			raw := []byte(`{"type":"call.ended","call_id":"c",` + build(100_000) + `}`)
			e, err := Parse(raw)
			if err != nil {
				return
			}
			if _, err := readEvent(e.table, e.AppendAvro(nil)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Each version that was ever released stays readable, both ways. After a change of a schema, bump its version:
// CALLSTREAM_UPDATE=1 go test ./event -run TestVersions
// A platform's own columns, and those of a newer callstream, are members that ours does not declare.
func TestColumnsThatOursLacks(t *testing.T) {
	ctx, r := t.Context(), &registry{}
	text, err := SchemaText("callstream.CallEvent")
	if err != nil {
		t.Fatal(err)
	}
	added := `,{"name":"crm_owner","type":["null","string"],"default":null},{"name":"mood","type":["null","double"],"default":null,"json":"/analysis/mood_index"},
		{"name":"vip","type":["null","boolean"],"default":null},{"name":"seat","type":["null","long"],"default":null},{"name":"rooms","type":{"type":"array","items":"string"},"default":[]},
		{"name":"labels","type":{"type":"map","values":"string"},"default":{}},{"name":"form","type":["null","string"],"default":null,"json_type":"object"},
		{"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},{"name":"caller","type":["null","string"],"default":null}]}`
	newer := strings.TrimSuffix(strings.TrimSpace(text), "}")
	newer = strings.TrimSuffix(strings.TrimSpace(newer), "]") + added
	id, err := r.Register(ctx, "x", newer)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := parseSchema(newer)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(columns map[string]any) string {
		record := map[string]any{"type": "call.ended", "tenant": "acme", "call_id": "c", "attributes": map[string]any{}, "tags": []any{}, "intents": []any{}, "participants": []any{}, "rooms": []any{}, "labels": map[string]any{}}
		for k, v := range columns {
			record[k] = v
		}
		body, err := stock().Marshal(schema, record)
		if err != nil {
			t.Fatal(err)
		}
		e, err := NewCodec(r).DecodeEvent(ctx, topic.CallsEvents, append(appendHeader(nil, id), body...))
		if err != nil {
			t.Fatal(err)
		}
		return string(e.AppendData(nil))
	}
	for _, c := range []struct {
		columns map[string]any
		want    string
	}{
		{nil, `{}`},
		{map[string]any{"score": 1.5}, `{"score":1.5}`},
		{map[string]any{"crm_owner": "zoe", "vip": false, "seat": int64(7), "rooms": []any{"a"}, "labels": map[string]any{"x": "1"}, "form": `{"b":1.0,"a":{}}`, "mood": 0.5},
			`{"analysis":{"mood_index":0.5},"crm_owner":"zoe","vip":false,"seat":7,"rooms":["a"],"labels":{"x":"1"},"form":{"b":1.0,"a":{}}}`},
		{map[string]any{"at": time.UnixMicro(1768903200123456).UTC()}, `{"at":"2026-01-20T10:00:00.123456Z"}`},
		{map[string]any{"crm_owner": "zoe", "extra_json": `{"/data/crm_owner":"max","/data/n":1}`}, `{"crm_owner":"max","n":1}`},
		{map[string]any{"crm_owner": "zoe", "extra_json": ` {"/data/n":1} `}, `{"n":1,"crm_owner":"zoe"}`},
		{map[string]any{"caller": "no object", "caller_name": "Ada"}, `{"caller":{"name":"Ada"}}`},
	} {
		got := decode(c.columns)
		var a, b any
		if json.Unmarshal([]byte(got), &a) != nil || json.Unmarshal([]byte(c.want), &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%v:\ngot  %s\nwant %s", c.columns, got, c.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, name := range sortedKeys(schemaFiles()) {
		t.Run(name, func(t *testing.T) {
			text, err := SchemaText(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join("testdata", "versions", name)
			r := &registry{}
			var bodies [][]byte
			for n := 1; ; n++ {
				schema, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.avsc", n)))
				if errors.Is(err, os.ErrNotExist) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				body, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.bin", n)))
				if err != nil {
					t.Fatal(err)
				}
				r.texts, bodies = append(r.texts, string(schema)), append(bodies, body)
			}
			if len(r.texts) == 0 || !sameSchema(t, r.texts[len(r.texts)-1], text) {
				if os.Getenv("CALLSTREAM_UPDATE") == "" {
					t.Fatal("the schema isn't the newest version: if the change is meant, run CALLSTREAM_UPDATE=1 go test ./event -run TestVersions")
				}
				writeVersion(t, dir, len(r.texts)+1, name, text)
				return
			}
			if err := Compatible(text, r.texts); err != nil {
				t.Error(err)
			}
			current := stockSchema(t, name)
			for i, body := range bodies {
				former, err := parseSchema(r.texts[i])
				if err != nil {
					t.Fatal(err)
				}
				var want, got map[string]any
				if err := stock().Unmarshal(former, body, &want); err != nil {
					t.Fatal(err)
				}
				if err := stock().Unmarshal(current, rewrite(t, NewCodec(r), name, append(appendHeader(nil, i+1), body...)), &got); err != nil {
					t.Fatal(err)
				}
				for column := range want {
					if _, ok := got[column]; ok && fmt.Sprint(got[column]) != fmt.Sprint(want[column]) {
						t.Errorf("version %d: %s is %v, was written as %v", i+1, column, got[column], want[column])
					}
				}
			}
		})
	}
}

// rewrite reads a record of any version and writes it with the present one.
func rewrite(t *testing.T, c *Codec, name string, value []byte) []byte {
	t.Helper()
	if r := newRecord(name); r != nil {
		if err := c.Decode(t.Context(), value, r); err != nil {
			t.Fatal(err)
		}
		return r.AppendAvro(nil)
	}
	for _, table := range tables {
		if table.schema == name {
			e, err := c.DecodeEvent(t.Context(), table.topic, value)
			if err != nil {
				t.Fatal(err)
			}
			return e.AppendAvro(nil)
		}
	}
	t.Fatalf("nothing reads %s", name)
	return nil
}

// sameSchema compares two schemas but for their docs.
func sameSchema(t *testing.T, a, b string) bool {
	t.Helper()
	var parsed [2]any
	for i, text := range []string{a, b} {
		if err := json.Unmarshal([]byte(text), &parsed[i]); err != nil {
			t.Fatal(err)
		}
		dropDocs(parsed[i])
	}
	return fmt.Sprint(parsed[0]) == fmt.Sprint(parsed[1])
}

func dropDocs(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, isText := v["doc"].(string); isText {
			delete(v, "doc")
		}
		for _, inner := range v {
			dropDocs(inner)
		}
	case []any:
		for _, inner := range v {
			dropDocs(inner)
		}
	}
}

// writeVersion writes a schema with a record of it in which every column has a value.
func writeVersion(t *testing.T, dir string, n int, name, text string) {
	t.Helper()
	schema := stockSchema(t, name)
	body, err := stock().Marshal(schema, sample(schema, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for ext, content := range map[string][]byte{"avsc": []byte(text), "bin": body} {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.%s", n, ext)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func sample(schema hamba.Schema, n int) any {
	switch s := schema.(type) {
	case *hamba.RecordSchema:
		m := map[string]any{}
		for i, f := range s.Fields() {
			switch m[f.Name()] = sample(f.Type(), n+i); {
			case f.Name() == "extra_json":
				m[f.Name()] = `{"/data/undeclared":{"a":[1,2.50]},"/x":null}`
			case f.Name() == "type" && len(s.Fields()) > 12:
				m[f.Name()] = "call.ended"
			case f.Prop("json_type") == "object":
				m[f.Name()] = `{"b":1,"a":2}`
			case f.Prop("json_type") == "time":
				m[f.Name()] = "2026-01-20T10:00:00.1234567+02:00"
			}
		}
		return m
	case *hamba.UnionSchema:
		return sample(s.Types()[1], n)
	case *hamba.ArraySchema:
		return []any{sample(s.Items(), n), sample(s.Items(), n+100)}
	case *hamba.MapSchema:
		return map[string]any{"k": sample(s.Values(), n)}
	case *hamba.PrimitiveSchema:
		switch s.Type() {
		case hamba.String:
			return fmt.Sprintf("text %d", n)
		case hamba.Bytes:
			return []byte{0, byte(n), 0xff}
		case hamba.Int:
			return n * 1000
		case hamba.Double:
			return float64(n) + 0.5
		case hamba.Boolean:
			return true
		case hamba.Long:
			if s.Logical() != nil {
				return hold(1768903200_000000 + int64(n))
			}
			return int64(n) << 33
		}
	}
	panic(schema.String())
}

func FuzzDecode(f *testing.F) {
	for i, table := range tables {
		f.Add(uint8(i), (&Event{Type: Types(table.topic)[0], CallID: "c", Tenant: "t"}).AppendAvro(nil))
	}
	for _, seed := range seeds {
		if e, err := Parse([]byte(seed)); err == nil {
			f.Add(uint8(0), e.AppendAvro(nil))
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		e, err := readEvent(tables[int(n)%len(tables)], body)
		if err != nil {
			if !errors.Is(err, ErrPoison) {
				t.Fatal(err)
			}
			return
		}
		text := e.AppendJSON(nil)
		if !json.Valid(text) {
			t.Fatalf("not JSON: %s", text)
		}
		back, err := readEvent(e.table, e.AppendAvro(nil))
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if again := back.AppendJSON(nil); !bytes.Equal(text, again) {
			t.Fatalf("%s\n%s", text, again)
		}
		e.Map()
		if faults := e.Check(); len(faults) > 0 && faults.Error() == "" {
			t.Fatal("faults without words")
		}
		e.Key()
	})
}

// An event whose memory is used again holds nothing of the one before.
func TestDecodingIntoAnEvent(t *testing.T) {
	ctx, c := t.Context(), NewCodec(&registry{})
	var used Event
	for _, raw := range []string{
		`{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00.5Z","tenant":"acme","source":"dialer","call_id":"c-1","agent_id":"a-9","sequence":4,"test":true,
			"attributes":{"a":"b"},"data":{"duration_ms":85,"tags":["x","y"],"caller":{"name":"Ada"},"theirs":{"b":1.0}},"more":[1]}`,
		`{"id":"evt_2","type":"call.ended","tenant":"acme","call_id":"c-2","data":{"caller":{"phone_number":"1"}}}`,
		`{"id":"evt_3","type":"sms.sent","tenant":"acme"}`,
	} {
		e, err := Parse([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		value, err := c.EncodeEvent(ctx, nil, e)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := c.DecodeEvent(ctx, e.Topic(), value)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.DecodeEventInto(ctx, &used, e.Topic(), value); err != nil {
			t.Fatal(err)
		}
		if got, want := string(used.AppendJSON(nil)), string(fresh.AppendJSON(nil)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got, want := fmt.Sprint(used.Map()), fmt.Sprint(fresh.Map()); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
