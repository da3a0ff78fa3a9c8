package producer

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
)

// offline makes a service that is only asked to encode.
func offline(t testing.TB) *Service {
	t.Helper()
	var cfg Config
	require.NoError(t, config.Load(&cfg, config.Source{Args: []string{"--auth=off", "--kafka-brokers=127.0.0.1:1", "--ingest-max-events=1000"}}))
	s, err := New(cfg, Deps{Telemetry: telemetry.Nop(), Codec: event.NewCodec(&schemas{})})
	require.NoError(t, err)
	t.Cleanup(s.producer.Close)
	return s
}

// FuzzRequest: whatever comes in whatever form, the answer is either records, one for each id at most and each readable,
// or a problem with a 4xx; and a body is either accepted or refused the second time as it was the first.
func FuzzRequest(f *testing.F) {
	for form, bodies := range map[form][]string{
		formJSON:        {`{"type":"call.started","call_id":"c"}`, `[{"type":"call.ended","call_id":"c","data":{"x":[1,{}]}},{"type":"x"}]`, `[]`, `[1,`},
		formLines:       {"{\"type\":\"call.started\",\"call_id\":\"c\"}\n\n{}", "\n"},
		formCloudEvent:  {`{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c","data":{"a":1},"x":"y"}`, `{"data_base64":"e30="}`, `{"id":"1","id":1}`},
		formCloudBatch:  {`[{"specversion":"1.0","id":"1","source":"s","type":"call.started","subject":"c"}]`},
		formCloudBinary: {`{"score":85.50}`, ``, `{},"tenant":"x"`},
	} {
		for _, body := range bodies {
			f.Add(int(form), body, "k")
		}
	}
	s := offline(f)
	s.background = context.Background()
	f.Fuzz(func(t *testing.T, which int, body, key string) {
		form := form(uint(which) % uint(formCloudBinary+1))
		run := func() (*batch, int) {
			b := s.takeBatch()
			b.body = append(b.body[:0], body...)
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/events", strings.NewReader(""))
			if form == formCloudBinary {
				for name, value := range map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "s", "Ce-Type": "quality.scored", "Ce-Subject": "c"} {
					r.Header.Set(name, value)
				}
			}
			if p := s.encode(b, r, form, "acme", key, telemetry.NewTraceparent(), s.now()); p != nil {
				if _, err := json.Marshal(p); err != nil {
					t.Fatalf("the problem can't be written: %v", err)
				}
				return b, p.Status
			}
			return b, http.StatusAccepted
		}
		b, status := run()
		defer s.dropBatch(b)
		switch status {
		case http.StatusAccepted:
			require.NotEmpty(t, b.ids)
			require.LessOrEqual(t, len(b.records), len(b.ids))
			for _, rec := range b.records {
				e, err := s.codec.DecodeEvent(t.Context(), rec.Topic, rec.Value)
				require.NoError(t, err)
				require.Equal(t, "acme", e.Tenant)
				require.Empty(t, e.Check())
				require.Equal(t, e.Key(), rec.Key)
			}
		case 400, 403, 413, 422:
		default:
			t.Fatalf("status %d", status)
		}
		again, second := run()
		require.Equal(t, status, second)
		if status == http.StatusAccepted && key != "" {
			require.Equal(t, b.ids, again.ids, "with an Idempotency-Key the ids don't change")
		}
		s.dropBatch(again)
	})
}

// A pooled batch must not carry anything of one request into the next.
func TestBatchesAreEmptiedBetweenRequests(t *testing.T) {
	s := offline(t)
	encode := func(body string) (*batch, bool) {
		b := s.takeBatch()
		b.body = append(b.body, body...)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/events", nil)
		return b, s.encode(b, r, formJSON, "acme", "", telemetry.NewTraceparent(), s.now()) == nil
	}
	for range 3 {
		b, ok := encode(`[{"id":"a","type":"call.started","call_id":"c"},{"id":"a","type":"call.started","call_id":"c"}]`)
		require.True(t, ok)
		require.Len(t, b.records, 1)
		require.Len(t, b.ids, 2)
		s.dropBatch(b)
		b, ok = encode(`[{"type":"x"},{"type":"call.started","call_id":"c"}]`)
		require.False(t, ok)
		require.Len(t, b.refusal.faults, 1)
		s.dropBatch(b)
	}
}

func TestIDs(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{keyedID("a", "bc", 0), keyedID("ab", "c", 0), keyedID("a", "bc", 1), keyedID("a", "b", 0)} {
		require.Regexp(t, `^evt_[0-7][0-9A-HJKMNP-TV-Z]{25}$`, id)
		require.False(t, seen[id])
		seen[id] = true
	}
	require.Equal(t, keyedID("a", "bc", 7), keyedID("a", "bc", 7))
}

// BenchmarkEncode is the CPU of an event between body and record: parse, check, fill in, encode.
func BenchmarkEncode(b *testing.B) {
	s := offline(b)
	body := []byte(`{"type":"transcript.ready","call_id":"c-774411","agent_id":"a-9","time":"2026-01-20T10:00:00.123Z","source":"dialer-eu","sequence":4,` +
		`"data":{"transcript_text":"` + strings.Repeat("the quick brown fox jumps over the lazy dog ", 36) + `","language":"en","duration_ms":61000,` +
		`"caller":{"name":"Ada Lovelace","phone_number":"+4930123456","city":"Berlin"},"analysis":{"summary":"a short call","score":85,"mood":"good"},"custom":{"a":[1,2,3],"b":"x"}}}`)
	r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/events", nil)
	traceparent := telemetry.NewTraceparent()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		x := s.takeBatch()
		x.body = append(x.body, body...)
		if p := s.encode(x, r, formJSON, "acme", "", traceparent, s.now()); p != nil {
			b.Fatal(p)
		}
		s.dropBatch(x)
	}
}
