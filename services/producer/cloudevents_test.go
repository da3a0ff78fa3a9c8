package producer_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// The CloudEvents project's own SDK sends in all three modes: an opinion on the binding that isn't ours.

func cloudEvent(t testing.TB, id string) cloudevents.Event {
	t.Helper()
	e := cloudevents.NewEvent()
	e.SetID(id)
	e.SetSource("/dialer/eu-1")
	e.SetType("call.ended")
	e.SetSubject("c-7ü")
	e.SetTime(time.Date(2026, 1, 20, 10, 0, 0, 123456000, time.UTC))
	e.SetDataSchema("https://example.com/schema")
	e.SetExtension("agentid", "a-9")
	e.SetExtension("sequence", "4")
	e.SetExtension("region", "eu \"1\" ü%")
	e.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	require.NoError(t, e.SetData(cloudevents.ApplicationJSON, map[string]any{"duration_ms": 61000, "mine": map[string]any{"x": []int{1}}}))
	return e
}

func requireCloudEvent(t testing.TB, s sent, id string) {
	t.Helper()
	require.Equal(t, id, s.ID)
	require.Equal(t, "/dialer/eu-1", s.Source)
	require.Equal(t, "call.ended", s.Type)
	require.Equal(t, "c-7ü", s.CallID)
	require.Equal(t, "default/c-7ü", string(s.Record.Key))
	require.Equal(t, time.Date(2026, 1, 20, 10, 0, 0, 123456000, time.UTC), s.Time)
	require.Equal(t, "a-9", s.AgentID)
	require.Equal(t, int64(4), s.Sequence)
	require.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", s.header("traceparent"))
	require.ElementsMatch(t, []event.Attribute{{Name: "region", Value: "eu \"1\" ü%"}, {Name: "dataschema", Value: "https://example.com/schema"}}, s.Attributes)
	require.JSONEq(t, `{"duration_ms":61000,"mine":{"x":[1]}}`, string(s.AppendData(nil)))
}

func TestCloudEventsSDK(t *testing.T) {
	r := start(t, nil)
	client, err := cloudevents.NewClientHTTP(cehttp.WithTarget(r.url + "/v1/events"))
	require.NoError(t, err)
	send := func(ctx context.Context, id string) {
		var result *cehttp.Result
		require.True(t, cloudevents.ResultAs(client.Send(ctx, cloudEvent(t, id)), &result))
		require.Equal(t, http.StatusAccepted, result.StatusCode)
	}
	send(cloudevents.WithEncodingBinary(t.Context()), "binary")
	send(cloudevents.WithEncodingStructured(t.Context()), "structured")

	req, err := cehttp.NewHTTPRequestFromEvents(t.Context(), r.url+"/v1/events", []cloudevents.Event{cloudEvent(t, "batch-1"), cloudEvent(t, "batch-2")})
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusAccepted, res.StatusCode)

	got := r.read(topic.CallsEvents)
	require.Len(t, got, 4)
	for i, id := range []string{"binary", "structured", "batch-1", "batch-2"} {
		requireCloudEvent(t, got[i], id)
	}
}

func TestCloudEventsFormsThatTheSDKDoesNotSend(t *testing.T) {
	r := start(t, nil)
	const rest = `"specversion":"1.0","source":"s","type":"call.ended","subject":"c"`
	ids := r.post(`[{"id":"1",`+rest+`,"data_base64":"eyJkdXJhdGlvbl9tcyI6NX0="},{"id":"2",`+rest+`,"data":null,"time":null,"datacontenttype":"application/vnd.x+json; charset=utf-8"},`+
		`{"id":"3",`+rest+`,"sequence":7,"test":true,"flag":true,"number":12}]`, "Content-Type", "application/cloudevents-batch+json").ids(t)
	require.Equal(t, []string{"1", "2", "3"}, ids)
	r.post("", "Content-Type", "", "Ce-Specversion", "1.0", "Ce-Id", `"4 \"%C3%BC\" %"`, "Ce-Source", "s", "Ce-Type", "call.ended", "Ce-Subject", "c").ids(t)
	got := r.read(topic.CallsEvents)
	require.Len(t, got, 4)
	require.JSONEq(t, `{"duration_ms":5}`, string(got[0].AppendData(nil)), "data_base64 may hold JSON")
	require.False(t, got[1].Time.IsZero())
	require.Equal(t, int64(7), got[2].Sequence)
	require.True(t, got[2].Test)
	require.ElementsMatch(t, []event.Attribute{{Name: "flag", Value: "true"}, {Name: "number", Value: "12"}}, got[2].Attributes)
	require.Equal(t, `4 "ü" %`, got[3].ID, "a quoted, percent-encoded header")
}

// What the filter's CloudEvents profiles send is read by the CloudEvents project's own SDK, and taken back by this API.
// The requests are the golden files of the renderer.
func TestCloudEventsOfOursAreReadByTheSDKAndTakenBack(t *testing.T) {
	r := start(t, nil)
	for _, profile := range []string{"cloudevents", "cloudevents-binary"} {
		golden, err := os.ReadFile("../../subscription/payload/testdata/" + profile + ".golden")
		require.NoError(t, err)
		requests := strings.Split(string(golden), "== ")[1:]
		for _, request := range requests {
			title, rest, _ := strings.Cut(request, "\n")
			if strings.HasPrefix(title, "minimal:") || strings.HasPrefix(title, "bare:") || strings.HasPrefix(title, "report-little:") {
				continue // events without an id; the producer gives every event one
			}
			_, contentType, _ := strings.Cut(title, ": POST ")
			header := http.Header{"Content-Type": {contentType}}
			for !strings.HasPrefix(rest, "{") {
				var line string
				line, rest, _ = strings.Cut(rest, "\n")
				name, value, ok := strings.Cut(line, ": ")
				require.True(t, ok, line)
				header.Set(name, value)
			}
			ask := func() *http.Request {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/events", strings.NewReader(rest))
				require.NoError(t, err)
				req.Header = header.Clone()
				return req
			}
			e, err := binding.ToEvent(t.Context(), cehttp.NewMessageFromHttpRequest(ask()))
			require.NoError(t, err, title)
			require.NoError(t, e.Validate(), title)
			require.Equal(t, "acme", e.Extensions()["tenant"], title)

			req := ask()
			req.Header.Set("X-Tenant", "acme")
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			answer, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, http.StatusAccepted, res.StatusCode, "%s: %s", title, answer)
		}
	}
}
