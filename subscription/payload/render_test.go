package payload

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

var update = flag.Bool("update", false, "write the golden files and the examples of docs/payloads.md anew")

func profiles() []string {
	return []string{
		subscription.ProfileStandard, subscription.ProfileCloudEvents, subscription.ProfileCloudEventsBinary, subscription.ProfilePush,
		subscription.ProfileCallback, subscription.ProfileDialer, subscription.ProfilePlatform, subscription.ProfilePostCall,
		subscription.ProfileRaw, subscription.ProfileCustom,
	}
}

// eventTopics are the topics whose events are delivered.
func eventTopics() []string {
	return []string{topic.CallsEvents, topic.MessagesEvents, topic.AgentsEvents, topic.SystemEvents, topic.OwnEvents}
}

// renderer compiles a profile; rules may be added to its payload.
func renderer(t testing.TB, profile, method string, rules ...func(*subscription.Payload)) *Renderer {
	t.Helper()
	p := subscription.Payload{Profile: profile}
	if profile == subscription.ProfileCustom {
		template, err := os.ReadFile("testdata/custom.cel")
		require.NoError(t, err)
		p.Template = string(template)
	}
	for _, rule := range rules {
		rule(&p)
	}
	r, err := Compile(p, method)
	require.NoError(t, err)
	return r
}

// withExtra is a rule for renderer; the JSON is read as a subscription's is.
func withExtra(t testing.TB, object string) func(*subscription.Payload) {
	t.Helper()
	var x subscription.Extra
	require.NoError(t, json.Unmarshal([]byte(object), &x))
	return func(p *subscription.Payload) { p.Extra = x }
}

func parse(t testing.TB, raw []byte) *event.Event {
	t.Helper()
	e, err := event.Parse(raw)
	require.NoError(t, err)
	return e
}

func load(t testing.TB, name string) *event.Event {
	t.Helper()
	raw, err := os.ReadFile("testdata/events/" + name + ".json")
	require.NoError(t, err)
	return parse(t, raw)
}

// body renders an event of testdata and returns the members of its body.
func body(t testing.TB, profile, name string) map[string]any {
	t.Helper()
	r, err := renderer(t, profile, "POST").Render(load(t, name))
	require.NoError(t, err)
	return object(t, r.Body)
}

func object(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var m map[string]any
	require.NoError(t, d.Decode(&m))
	return m
}

// at is the value at a path, names joined by slashes; nil where there is none.
func at(m map[string]any, path string) any {
	v := any(m)
	for name := range strings.SplitSeq(path, "/") {
		inner, _ := v.(map[string]any)
		v = inner[name]
	}
	return v
}

// validJSON is stricter than encoding/json: no name stands twice in an object.
func validJSON(raw []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	if _, err := d.ReadValue(); err != nil {
		return err
	}
	if rest := raw[d.InputOffset():]; len(rest) > 0 {
		return fmt.Errorf("%q follows the value", rest)
	}
	return nil
}

// Every event of testdata/events in every profile, byte for byte: testdata/<profile>.golden has the requests.
// S0-01, S0-26: without rules, values, the order inside free objects, Unicode, the spelling of numbers and undeclared
// members come out as they went in.
func TestProfilesRenderTheirGoldenBytes(t *testing.T) {
	files, err := filepath.Glob("testdata/events/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, profile := range profiles() {
		t.Run(profile, func(t *testing.T) {
			var got strings.Builder
			for _, file := range files {
				name := strings.TrimSuffix(filepath.Base(file), ".json")
				post, err := renderer(t, profile, "POST").Render(load(t, name))
				require.NoError(t, err)
				require.NoError(t, validJSON(post.Body))
				require.Empty(t, post.Query)
				fmt.Fprintf(&got, "== %s: POST %s\n", name, post.ContentType)
				for _, header := range slices.Sorted(maps.Keys(post.Headers)) {
					fmt.Fprintf(&got, "%s: %s\n", header, post.Headers[header])
				}
				fmt.Fprintf(&got, "%s\n", post.Body)

				get, err := renderer(t, profile, "GET").Render(load(t, name))
				require.NoError(t, err)
				require.Empty(t, get.Body)
				require.Empty(t, get.ContentType)
				if !strings.HasPrefix(profile, subscription.ProfileCloudEvents) { // refused when a subscription is saved
					fmt.Fprintf(&got, "== %s: GET\n%s\n", name, get.Query)
				}
			}
			golden := filepath.Join("testdata", profile+".golden")
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o600))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), got.String())
		})
	}
}

func TestAppendLeavesWhatStandsBefore(t *testing.T) {
	e := load(t, "call")
	for _, profile := range profiles() {
		r := renderer(t, profile, "POST", withExtra(t, `{"env":"prod"}`))
		grown, rendered, err := r.Append([]byte("before"), e)
		require.NoError(t, err)
		assert.Equal(t, "before"+string(rendered.Body), string(grown), profile)
		_ = append(rendered.Body, "x"...)
		assert.NoError(t, validJSON(grown[len("before"):]), "%s: whoever appends to the body does not write into the buffer", profile)
	}
	grown, rendered, err := renderer(t, subscription.ProfileDialer, "GET").Append([]byte("before"), e)
	require.NoError(t, err)
	assert.Equal(t, "before", string(grown))
	assert.NotEmpty(t, rendered.Query)
}

func TestAProfileOfANewerVersionIsAnError(t *testing.T) {
	_, err := Compile(subscription.Payload{Profile: "hologram"}, "POST")
	var unknown *UnknownProfileError
	require.ErrorAs(t, err, &unknown)
	assert.Equal(t, "hologram", unknown.Profile)

	_, err = Compile(subscription.Payload{Profile: subscription.ProfileCustom, Template: "event."}, "POST")
	var bad *subscription.ExpressionError
	require.ErrorAs(t, err, &bad)
}

// S2-09: a call's payload goes to every subscription; those that want the same bytes share one rendering.
func TestKeyIsTheSameForTheSameBytesOnly(t *testing.T) {
	same := func(*subscription.Payload) {}
	x := withExtra(t, `{"a":1,"b":{"c":2}}`)
	distinct := []*Renderer{
		renderer(t, subscription.ProfileStandard, "POST", same),
		renderer(t, subscription.ProfileStandard, "GET"),
		renderer(t, subscription.ProfilePush, "POST"),
		renderer(t, subscription.ProfileStandard, "POST", x),
		renderer(t, subscription.ProfileStandard, "GET", x),
		renderer(t, subscription.ProfilePush, "POST", x),
		renderer(t, subscription.ProfileStandard, "POST", withExtra(t, `{"a":1.0,"b":{"c":2}}`)),
		renderer(t, subscription.ProfileCustom, "POST", func(p *subscription.Payload) { p.Template = "event" }),
		renderer(t, subscription.ProfileCustom, "POST", func(p *subscription.Payload) { p.Template = "event.data" }),
	}
	keys := map[string]bool{}
	for _, r := range distinct {
		keys[r.Key()] = true
	}
	assert.Len(t, keys, len(distinct))

	again := renderer(t, subscription.ProfileStandard, "POST", withExtra(t, ` { "b": {"c":2}, "a":1 }`))
	assert.Equal(t, distinct[3].Key(), again.Key())
	assert.Equal(t, distinct[0].Key(), renderer(t, "", "POST").Key())
}

// S0-17, S0-27, S1-06: scope and redaction apply before any profile, templates included, and the names are the
// catalogue's whatever the profile calls the fields.
func TestRulesApplyBeforeTheProfile(t *testing.T) {
	rules := func(p *subscription.Payload) {
		p.Exclude, p.Transcript, p.Redact = []string{"data.claim_id", "data.crm"}, "none", []string{"phone"}
	}
	for _, profile := range profiles() {
		for _, method := range []string{"POST", "GET"} {
			r := renderer(t, profile, method, rules)
			rendered, err := r.Render(load(t, "call"))
			require.NoError(t, err)
			sent := string(rendered.Body) + rendered.Query
			for _, gone := range []string{`"claim_id"`, "claimId", "claim_id=", "gold", "Good morning", "did not make", "555"} {
				assert.NotContains(t, sent, gone, "%s %s", profile, method)
			}
			assert.NotEqual(t, renderer(t, profile, method).Key(), r.Key())
		}
	}
	untouched, err := renderer(t, subscription.ProfileStandard, "POST").Render(load(t, "call"))
	require.NoError(t, err)
	assert.Contains(t, string(untouched.Body), "Good morning", "another subscription's rules are its own")

	_, err = Compile(subscription.Payload{Redact: []string{"/(/"}}, "POST")
	assert.ErrorContains(t, err, "payload.redact")
}

func TestARendererIsKeptWithTheVersion(t *testing.T) {
	book := subscription.NewBook()
	book.Apply(&event.SubscriptionRecord{ID: "sub_1", Tenant: "acme", Version: 1, Spec: `{"events":["*"],"payload":{"profile":"push"}}`})
	book.Apply(&event.SubscriptionRecord{ID: "sub_2", Tenant: "acme", Version: 1, Spec: `{"events":["*"],"payload":{"profile":"hologram"}}`})
	c, _ := book.Get("sub_1")
	first, err := For(c)
	require.NoError(t, err)
	again, err := For(c)
	require.NoError(t, err)
	assert.Same(t, first, again)
	assert.Equal(t, "push", first.Key())

	c, _ = book.Get("sub_2")
	_, err = For(c)
	var unknown *UnknownProfileError
	require.ErrorAs(t, err, &unknown)
}

// The profile custom yields what its expression does: S1-14 (field mapping), S0-18 (fields by subscription).
func TestCustomIsWhatItsTemplateYields(t *testing.T) {
	render := func(template, extra string) (string, error) {
		r := renderer(t, subscription.ProfileCustom, "POST", withExtra(t, extra), func(p *subscription.Payload) { p.Template = template })
		rendered, err := r.Render(load(t, "call"))
		return string(rendered.Body), err
	}
	got, err := render(`{"lead": event.data.lead_id, "CLAIM": event.data.claim_id}`, `{}`)
	require.NoError(t, err)
	assert.Equal(t, `{"CLAIM":"CLM-2291","lead":"lead-3"}`, got)
	got, err = render(`{"lead": event.data.lead_id}`, `{"lead":"mine","env":"prod"}`)
	require.NoError(t, err)
	assert.Equal(t, `{"lead":"lead-3","env":"prod"}`, got)
	got, err = render(`event.data.tags`, `{"env":"prod"}`)
	require.NoError(t, err)
	assert.Equal(t, `["vip","follow_up_requested"]`, got, "extra has nowhere to go")

	_, err = render(`event.data.nowhere`, `{}`)
	var failed *subscription.TemplateError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, subscription.ReasonMissingField, failed.Reason)
}

func TestNewDelivery(t *testing.T) {
	e := load(t, "call")
	e.IngestedAt = e.Time
	s := &subscription.Subscription{
		ID: "sub_1", Version: 7, Lane: "bulk", Request: subscription.Request{Method: "GET"},
		TTL: subscription.TTL{Default: subscription.Duration(1e9)},
	}
	d := NewDelivery(s, e, Rendered{Query: "a=1", Headers: map[string]string{"ce-id": "1"}})
	sequence := int64(5)
	assert.Equal(t, event.Delivery{
		ID: event.DeliveryID("acme", "dialer-eu", e.ID, "sub_1"), Tenant: "acme", SubscriptionID: "sub_1", SubscriptionVersion: 7,
		EventID: e.ID, EventType: "call.ended", Source: "dialer-eu", CallID: "c-7f3a91", AgentID: "a-204", EventTime: e.Time, AcceptedAt: e.Time,
		ExpiresAt: e.Time.Add(1e9), Method: "GET", Query: "a=1", Headers: map[string]string{"ce-id": "1"},
		Traceparent: e.Traceparent, Lane: "bulk", Sequence: &sequence,
	}, d)
}

// registry gives each schema a number.
type registry struct{ schemas []string }

func (r *registry) SchemaByID(_ context.Context, id int) (string, error) { return r.schemas[id], nil }

func (r *registry) Register(_ context.Context, _, schema string) (int, error) {
	if i := slices.Index(r.schemas, schema); i >= 0 {
		return i, nil
	}
	r.schemas = append(r.schemas, schema)
	return len(r.schemas) - 1, nil
}

// throughAvro is the event as the filter reads it from its topic.
func throughAvro(t require.TestingT, codec *event.Codec, e *event.Event) *event.Event {
	value, err := codec.EncodeEvent(context.Background(), nil, e)
	require.NoError(t, err)
	back, err := codec.DecodeEvent(context.Background(), e.Topic(), value)
	require.NoError(t, err)
	return back
}

// Rendering must not cost the pipeline garbage: a warm buffer is enough.
func TestRenderingAllocatesNothing(t *testing.T) {
	for _, profile := range profiles() {
		if profile == subscription.ProfileCustom || profile == subscription.ProfileCloudEventsBinary {
			continue
		}
		for _, name := range []string{"call", "report-documented", "sms", "system"} {
			e := load(t, name)
			for _, rules := range []string{`{}`, `{"env":"prod","team":{"id":1}}`} {
				r := renderer(t, profile, "POST", withExtra(t, rules))
				buffer := make([]byte, 0, 16<<10)
				assert.Zero(t, testing.AllocsPerRun(50, func() { _, _, _ = r.Append(buffer, e) }), "%s %s %s", profile, name, rules)
			}
		}
	}
}

func BenchmarkRender(b *testing.B) {
	bench := func(name string, r *Renderer, e *event.Event) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, _, err = r.Append(dst[:0], e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	call := load(b, "call")
	for _, profile := range profiles() {
		e := call
		if profile == subscription.ProfilePostCall {
			e = load(b, "report")
		}
		bench(profile, renderer(b, profile, "POST"), e)
	}
	bench("standard-extra", renderer(b, subscription.ProfileStandard, "POST", withExtra(b, `{"env":"prod","team":{"id":1}}`)), call)
	bench("dialer-get", renderer(b, subscription.ProfileDialer, "GET"), call)
	bench("standard-undeclared", renderer(b, subscription.ProfileStandard, "POST"), load(b, "undeclared"))
}
