package payload

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

var update = flag.Bool("update", false, "write the golden files anew")

func profile(t testing.TB, name string) *Renderer {
	t.Helper()
	r, err := Compile(subscription.Payload{Profile: name}, "POST")
	require.NoError(t, err)
	return r
}

func parse(t testing.TB, raw []byte) *event.Event {
	t.Helper()
	e, err := event.Parse(raw)
	require.NoError(t, err)
	return e
}

// Each testdata/<profile>-<case>.event.json is rendered to testdata/<profile>-<case>.golden, byte for byte.
func TestProfilesRenderTheirGoldenBytes(t *testing.T) {
	events, err := filepath.Glob("testdata/*.event.json")
	require.NoError(t, err)
	require.NotEmpty(t, events)
	for _, file := range events {
		name := strings.TrimSuffix(filepath.Base(file), ".event.json")
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			s := profile(t, subscription.ProfileStandard)
			if strings.HasPrefix(name, subscription.ProfilePostCall) {
				s = profile(t, subscription.ProfilePostCall)
			}
			r, err := s.Render(parse(t, raw))
			require.NoError(t, err)
			assert.Equal(t, ContentTypeJSON, r.ContentType)
			assert.True(t, json.Valid(r.Body))
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				require.NoError(t, os.WriteFile(golden, r.Body, 0o600))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(r.Body))
		})
	}
}

// The sample body as the receivers document it, but for white space.
func TestPostCallIsTheDocumentedBody(t *testing.T) {
	raw, err := os.ReadFile("testdata/post-call-sample.event.json")
	require.NoError(t, err)
	sample, err := os.ReadFile("testdata/post-call-sample.json")
	require.NoError(t, err)
	var want bytes.Buffer
	require.NoError(t, json.Compact(&want, sample))
	assert.Equal(t, want.String(), string(AppendPostCall(nil, parse(t, raw))))
}

// What was produced as Avro renders as what was posted does.
func TestRenderingsSurviveTheWire(t *testing.T) {
	codec := event.NewCodec(&registry{})
	for _, typ := range catalog.Types() {
		e := parse(t, typ.Sample)
		value, err := codec.EncodeEvent(t.Context(), nil, e)
		require.NoError(t, err, typ.Name)
		back, err := codec.DecodeEvent(t.Context(), e.Topic(), value)
		require.NoError(t, err, typ.Name)
		assert.Equal(t, string(AppendStandard(nil, e)), string(AppendStandard(nil, back)), typ.Name)
		assert.Equal(t, string(AppendPostCall(nil, e)), string(AppendPostCall(nil, back)), typ.Name)
		assert.True(t, json.Valid(AppendStandard(nil, e)), typ.Name)
	}
}

// registry gives each schema a number.
type registry struct{ schemas []string }

func (r *registry) SchemaByID(_ context.Context, id int) (string, error) { return r.schemas[id], nil }

func (r *registry) Register(_ context.Context, _, schema string) (int, error) {
	r.schemas = append(r.schemas, schema)
	return len(r.schemas) - 1, nil
}

func TestAppendLeavesWhatStandsBefore(t *testing.T) {
	e := parse(t, []byte(`{"type":"call.ended","call_id":"c"}`))
	grown, r, err := profile(t, subscription.ProfileStandard).Append([]byte("before"), e)
	require.NoError(t, err)
	assert.Equal(t, "before"+string(r.Body), string(grown))
	_ = append(r.Body, "x"...)
	assert.True(t, json.Valid(grown[len("before"):]), "whoever appends to the body does not write into the buffer")
}

func TestAProfileOfANewerVersionIsAnError(t *testing.T) {
	_, err := Compile(subscription.Payload{Profile: "hologram"}, "POST")
	var unknown *UnknownProfileError
	require.ErrorAs(t, err, &unknown)
	assert.Equal(t, "hologram", unknown.Profile)
}

func BenchmarkRender(b *testing.B) {
	for _, name := range []string{"standard-full", "post-call-full"} {
		b.Run(name, func(b *testing.B) {
			raw, err := os.ReadFile("testdata/" + name + ".event.json")
			require.NoError(b, err)
			e := parse(b, raw)
			s := profile(b, subscription.ProfileStandard)
			if strings.HasPrefix(name, subscription.ProfilePostCall) {
				s = profile(b, subscription.ProfilePostCall)
			}
			b.ReportAllocs()
			var dst []byte
			for b.Loop() {
				var err error
				if dst, _, err = s.Append(dst[:0], e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
