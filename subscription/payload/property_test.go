package payload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// checkRenderings holds for every event: in each profile its rendering is valid JSON without a repeated name, or a query
// that net/url reads; it is the same bytes every time and after the event's way through its topic; and extra adds members
// without changing any.
func checkRenderings(t require.TestingT, renderers []*Renderer, e *event.Event, extra subscription.Extra) {
	back := throughAvro(t, event.NewCodec(&registry{}), e)
	merged, err := newExtra(extra)
	require.NoError(t, err)
	for _, plain := range renderers {
		profile := plain.profile
		without, err := plain.Render(e)
		require.NoError(t, err)
		require.NoError(t, validJSON(without.Body), "%s: %s", profile, without.Body)

		dirty := bytes.Repeat([]byte(`"{`), len(without.Body))
		_, again, err := plain.Append(dirty[:3], back)
		require.NoError(t, err)
		require.Equal(t, string(without.Body), string(again.Body), profile)
		require.Equal(t, without.Headers, again.Headers, profile)
		for name, value := range without.Headers {
			require.NotContains(t, name+value, "\n", profile)
			require.False(t, strings.ContainsFunc(name+value, func(r rune) bool { return r <= ' ' || r > '~' }), "%s: %q: %q", profile, name, value)
		}

		more := *plain
		more.extra = merged
		with, err := more.Render(e)
		require.NoError(t, err)
		require.NoError(t, validJSON(with.Body), "%s: %s", profile, with.Body)
		checkMerged(t, profile, without.Body, with.Body, extra)

		get := more
		get.query = true
		query, err := get.Render(e)
		if errors.Is(err, ErrQueryTooLong) {
			continue
		}
		require.NoError(t, err)
		_, err = url.ParseQuery(query.Query)
		require.NoError(t, err)
		again, err = get.Render(back)
		require.NoError(t, err)
		require.Equal(t, query.Query, again.Query, profile)
	}
}

// checkMerged says whether with is without and members of extra that it lacked.
func checkMerged(t require.TestingT, profile string, without, with []byte, extra subscription.Extra) {
	before, after := rawMembers(t, without), rawMembers(t, with)
	if profile == subscription.ProfileCloudEvents {
		before, after = rawMembers(t, before["data"]), rawMembers(t, after["data"])
	}
	for name, raw := range before {
		require.Equal(t, string(raw), string(after[name]), "%s: extra changed %q", profile, name)
		delete(after, name)
	}
	for name := range after {
		require.Contains(t, extra, name, profile)
	}
	for name, v := range extra {
		if _, taken := before[name]; !taken {
			require.Contains(t, after, name, "%s: extra is lost", profile)
			raw, err := json.Marshal(v)
			require.NoError(t, err)
			require.JSONEq(t, string(raw), string(after[name]), profile)
		}
	}
}

func rawMembers(t require.TestingT, object []byte) map[string]jsontext.Value {
	members := map[string]jsontext.Value{}
	d := jsontext.NewDecoder(bytes.NewReader(object))
	_, err := d.ReadToken()
	require.NoError(t, err)
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		require.NoError(t, err)
		text := name.String()
		raw, err := d.ReadValue()
		require.NoError(t, err)
		members[text] = raw.Clone()
	}
	return members
}

// everyProfile has a renderer without rules for each: compiling a template costs more than rendering does.
func everyProfile(t testing.TB) []*Renderer {
	t.Helper()
	var all []*Renderer
	for _, profile := range profiles() {
		all = append(all, renderer(t, profile, "POST"))
	}
	return all
}

func TestRenderingsOfAnyEvent(t *testing.T) {
	renderers := everyProfile(t)
	rapid.Check(t, func(t *rapid.T) {
		raw := anyEvent(t)
		e, err := event.Parse([]byte(raw))
		require.NoError(t, err, raw)
		var extra subscription.Extra
		require.NoError(t, json.Unmarshal([]byte(anyObject(2).Draw(t, "extra")), &extra))
		checkRenderings(t, renderers, e, extra)
	})
}

// anyName prefers the names that profiles use, to make them meet.
func anyName() *rapid.Generator[string] {
	own := []string{
		"event", "event_", "event__", "event_type", "event_id", "eventId", "eventId_", "timestamp", "timestamp_", "metadata", "metadata_", "data", "attributes",
		"callId", "caller", "transfer", "disposition", "transcript", "fromNumber", "duration_ms", "specversion", "specversion_", "undeclared",
		"a.b", "", "é", `q"\`, "\u2028", "<&>", "x", "y", "z",
	}
	return rapid.OneOf(rapid.SampledFrom(own), rapid.SampledFrom(own), rapid.StringN(0, 8, 16))
}

func anyValue(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		kinds := 5
		if depth > 0 {
			kinds = 7
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return quote(rapid.String().Draw(t, "text"))
		case 1:
			return rapid.SampledFrom([]string{"0", "-0", "1.10", "1e3", "12345678901234567890", "-1.5E-400", "85.0"}).Draw(t, "number")
		case 2:
			return rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "literal")
		case 3:
			return `"\u00e9\/\ud83d\ude42"` // escapes stay as they are
		case 4:
			return fmt.Sprint(rapid.Int64().Draw(t, "whole"))
		case 5:
			return anyObject(depth-1).Draw(t, "object")
		}
		return "[ " + strings.Join(rapid.SliceOfN(anyValue(depth-1), 0, 3).Draw(t, "array"), " ,") + "]"
	})
}

func anyObject(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		var members []string
		for _, name := range rapid.SliceOfNDistinct(anyName(), 0, 6, rapid.ID).Draw(t, "names") {
			members = append(members, quote(name)+": "+anyValue(depth).Draw(t, "value"))
		}
		return "{" + strings.Join(members, ",") + "}"
	})
}

// anyEvent is an event of any type, with some of its declared fields and undeclared members at the root, in data and in
// its groups.
func anyEvent(t *rapid.T) string {
	type node struct {
		members []string
		names   names
	}
	nodes := map[string]*node{"": {names: names{}}, "data": {names: names{}}}
	typ := rapid.SampledFrom(catalog.Types()).Draw(t, "type")
	for _, f := range event.Fields(typ.Topic) {
		path := strings.Split(strings.TrimPrefix(f.Pointer, "/data/"), "/")
		name, parent := path[len(path)-1], "data"
		if len(path) > 1 {
			parent = path[0]
			nodes["data"].names[parent] = struct{}{}
		}
		if nodes[parent] == nil {
			nodes[parent] = &node{names: names{}}
		}
		n := nodes[parent]
		n.names[name] = struct{}{}
		if rapid.IntRange(0, 3).Draw(t, f.Column) > 0 {
			continue
		}
		var v string
		switch f.Kind {
		case event.KindString:
			v = quote(rapid.String().Draw(t, "string"))
		case event.KindTime:
			v = `"2026-01-20T10:00:00.12345678+05:30"`
		case event.KindLong:
			v = fmt.Sprint(rapid.Int64().Draw(t, "long"))
		case event.KindDouble:
			v = rapid.SampledFrom([]string{"85", "85.50", "1e300", "-0.0", "0.1234567890123456789"}).Draw(t, "double")
		case event.KindBool:
			v = fmt.Sprint(rapid.Bool().Draw(t, "bool"))
		case event.KindStrings:
			v = "[" + quote(rapid.String().Draw(t, "element")) + "]"
		case event.KindObject:
			v = anyObject(2).Draw(t, "object")
		}
		n.members = append(n.members, quote(name)+":"+v)
	}
	for _, name := range []string{"id", "type", "time", "tenant", "source", "call_id", "agent_id", "sequence", "test", "traceparent", "attributes", "data"} {
		nodes[""].names[name] = struct{}{}
	}
	parents := slices.Sorted(maps.Keys(nodes))
	for _, parent := range parents {
		n := nodes[parent]
		for _, name := range rapid.SliceOfNDistinct(anyName(), 0, 5, rapid.ID).Draw(t, "undeclared") {
			if !n.names.has(name) {
				n.members = append(n.members, quote(name)+":"+anyValue(2).Draw(t, "value"))
			}
		}
	}
	for _, parent := range parents {
		if parent != "" && parent != "data" && len(nodes[parent].members) > 0 {
			nodes["data"].members = append(nodes["data"].members, quote(parent)+":{"+strings.Join(nodes[parent].members, ",")+"}")
		}
	}
	members := append([]string{`"type":` + quote(typ.Name), `"call_id":"c ☎ 7"`, `"tenant":"acme"`}, nodes[""].members...)
	optional := func(member string) {
		if rapid.Bool().Draw(t, "envelope") {
			members = append(members, member)
		}
	}
	optional(`"id":"evt_%é"`)
	optional(`"time":"2026-01-20T10:00:00.123456789Z"`)
	optional(`"source":` + quote(rapid.SampledFrom([]string{"dialer-eu", "urn:x:y", "a b#c#d", "1:2/é?q=[]", "%zz%20"}).Draw(t, "source")))
	optional(`"agent_id":"a-9"`)
	optional(`"sequence":-7`)
	optional(`"test":true`)
	optional(`"attributes":{"region":"eu","Region":"EU","tenant":"x","long":"` + strings.Repeat("é", 1500) + `","controls":"a\nb","dataschema":"no uri"}`)
	optional(`"data":{` + strings.Join(nodes["data"].members, ",") + "}")
	return "{" + strings.Join(rapid.Permutation(members).Draw(t, "order"), ",") + "}"
}

func quote(s string) string { return string(event.AppendString(nil, strings.ToValidUTF8(s, "�"))) }

// Hostile events and extras in every profile. What is no event becomes part of one: as an undeclared member's value, with
// the name and the text wherever an event has room for them. The corpus: the events of testdata and of the catalogue.
func FuzzRender(f *testing.F) {
	files, err := filepath.Glob("testdata/events/*.json")
	require.NoError(f, err)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(raw, "timestamp", "", []byte(`{"env":"prod","event":1,"data":{"x":[1,{}]},"duration_ms":0}`))
	}
	for _, typ := range catalog.Types() {
		f.Add([]byte(typ.Sample), "", "", []byte(`{}`))
	}
	f.Add([]byte(`{"type":"call.ended","call_id":"c","timestamp":1,"timestamp_":2,"data":{"eventId":[[]],"":{"":0},"caller":{"caller":{}}}}`), "", "", []byte(`{"":{"":""}}`))
	f.Add([]byte(`{"type":"sms.sent","source":"1:/?#%#é","attributes":{"a":"\u0000","id":"x","é":""},"data":{"\ud83d\ude42":"\\\"","tags":["","\u2028"]}}`), "", "", []byte(`{"\\\"":"\u007f"}`))
	for _, name := range []string{"event", "callId", "metadata", "attributes", "data", "caller", "specversion", "a.b", "\"\\\n"} {
		f.Add([]byte(`{"`+"a"+`":[1.50,null,{"b":[]}]}`), name, "text & \u2028 \"#%é🙂", []byte(`{"event":{"a":1}}`))
	}
	renderers := everyProfile(f)
	f.Fuzz(func(t *testing.T, raw []byte, name, text string, rules []byte) {
		e, err := event.Parse(raw)
		if err != nil {
			value := quote(string(raw))
			if validJSON(raw) == nil {
				value = string(raw)
			}
			n, s := quote(name), quote(text)
			e, err = event.Parse([]byte(`{"type":"call.ended","call_id":"c",` + n + `:` + value + `,"source":` + s + `,"attributes":{` + n + `:` + s + `},
				"data":{"notes":` + s + `,"tags":[` + s + `],` + n + `:` + value + `,"fields":{` + n + `:` + value + `},"caller":{"name":` + s + `,"their":{` + n + `:` + s + `}}}}`))
			if err != nil {
				return
			}
		}
		var extra subscription.Extra
		if validJSON(rules) != nil || json.Unmarshal(rules, &extra) != nil {
			return
		}
		checkRenderings(t, renderers, e, extra)
	})
}
