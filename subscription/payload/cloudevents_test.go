package payload

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// cloudEvent renders an event in both modes and returns its attributes, which must be the same in both, and its data.
func cloudEvent(t *testing.T, raw string, rules ...func(*subscription.Payload)) (attributes map[string]any, data string) {
	t.Helper()
	e := parse(t, []byte(raw))
	structured, err := renderer(t, subscription.ProfileCloudEvents, "POST", rules...).Render(e)
	require.NoError(t, err)
	require.Equal(t, "application/cloudevents+json", structured.ContentType)
	require.Empty(t, structured.Headers)
	binary, err := renderer(t, subscription.ProfileCloudEventsBinary, "POST", rules...).Render(e)
	require.NoError(t, err)
	require.Equal(t, "application/json", binary.ContentType)

	data = string(rawMembers(t, structured.Body)["data"])
	require.Equal(t, data, string(binary.Body))
	attributes = object(t, structured.Body)
	delete(attributes, "data")
	require.Equal(t, "application/json", attributes["datacontenttype"])
	decoded := map[string]any{"datacontenttype": "application/json"} // Content-Type says it in binary mode
	for header, value := range binary.Headers {
		name, ok := strings.CutPrefix(header, "ce-")
		require.True(t, ok, header)
		text, err := url.PathUnescape(value)
		require.NoError(t, err)
		if decoded[name] = text; name == "test" {
			decoded[name] = text == "true"
		}
	}
	if attributes["id"] == "" {
		decoded["id"] = "" // no header without a value
	}
	require.Equal(t, decoded, attributes)
	return attributes, data
}

// The attributes of CloudEvents 1.0: the required ones, subject, and extensions in lowercase letters and digits.
func TestCloudEventsAttributes(t *testing.T) {
	got, data := cloudEvent(t, `{"id":"evt_1","type":"call.ended","time":"2026-01-20T10:00:00.123Z","tenant":"acme","source":"dialer-eu","call_id":"c-77",
		"agent_id":"a-9","sequence":4,"test":true,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"attributes":{"region":"eu","dataschema":"https://example.com/schema"},"data":{"duration_ms":5}}`)
	assert.Equal(t, map[string]any{
		"specversion": "1.0", "id": "evt_1", "source": "dialer-eu", "type": "call.ended", "subject": "c-77", "time": "2026-01-20T10:00:00.123Z",
		"datacontenttype": "application/json", "tenant": "acme", "agentid": "a-9", "sequence": "4", "test": true,
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "region": "eu", "dataschema": "https://example.com/schema",
	}, got)
	assert.Equal(t, `{"duration_ms":5}`, data)
	for name := range got {
		assert.Regexp(t, regexp.MustCompile(`^[a-z0-9]+$`), name)
	}
}

// What can't be an attribute of CloudEvents is not lost: it goes into data.
func TestCloudEventsDataTakesWhatCannotBeAnAttribute(t *testing.T) {
	long := strings.Repeat("x", maxExtensions)
	got, data := cloudEvent(t, `{"id":"1","type":"call.ended","call_id":"c","attributes":{"ok":"1","Region":"eu","sequence":"7","id":"8","empty":"","control":"a\nb",
		"data":"9","long":"`+long+`","dataschema":"no-uri","late":"2"},"theirs":{"x":[1.50]},"flag":true,"data":{"duration_ms":5,"theirs":0}}`, withExtra(t, `{"flag":0,"env":"prod"}`))
	assert.Equal(t, map[string]any{
		"specversion": "1.0", "id": "1", "source": "callstream", "type": "call.ended", "subject": "c", "datacontenttype": "application/json", "ok": "1", "late": "2",
	}, got)
	assert.Equal(t, `{"duration_ms":5,"theirs":0,"attributes":{"Region":"eu","sequence":"7","id":"8","empty":"","control":"a\nb","data":"9","long":"`+long+
		`","dataschema":"no-uri"},"theirs_":{"x":[1.50]},"flag":true,"env":"prod"}`, data)

	_, data = cloudEvent(t, `{"id":"1","type":"call.ended","call_id":"c","attributes":{"A":"1"},"attributes_":2,"data":{"attributes":3}}`)
	assert.Equal(t, `{"attributes":3,"attributes_":{"A":"1"},"attributes__":2}`, data)
	_, data = cloudEvent(t, `{"id":"1","type":"call.ended","call_id":"c","theirs":1}`)
	assert.Equal(t, `{"theirs":1}`, data)
}

// The example of the HTTP protocol binding, section 3.1.3.2, and what surrounds it.
func TestCloudEventsHeadersArePercentEncoded(t *testing.T) {
	e := parse(t, []byte(`{"id":"\"%\"~!","type":"call.ended","call_id":"Euro € 😀"}`))
	r, err := renderer(t, subscription.ProfileCloudEventsBinary, "POST").Render(e)
	require.NoError(t, err)
	assert.Equal(t, "Euro%20%E2%82%AC%20%F0%9F%98%80", r.Headers["ce-subject"])
	assert.Equal(t, "%22%25%22~!", r.Headers["ce-id"])
}

// source is a URI reference, whatever the sender calls itself.
func TestCloudEventsSourceIsAURIReference(t *testing.T) {
	for source, want := range map[string]string{
		"": "callstream", "dialer-eu": "dialer-eu", "/dialer/eu-1": "/dialer/eu-1", "urn:x:y": "urn:x:y", "https://h.example:8/p?q=a,b#f": "https://h.example:8/p?q=a,b#f",
		"dialer eu": "dialer%20eu", "größe": "gr%C3%B6%C3%9Fe", "a#b#c": "a#b%23c", "50%": "50%25", "%41%4": "%41%254", "[x]": "%5Bx%5D",
		"1:2": "1%3A2", ":x": "%3Ax", "a b:c": "a%20b%3Ac", "1/2:3": "1/2:3", `"\`: "%22%5C",
	} {
		e := &event.Event{Type: "call.ended", Tenant: "acme", CallID: "c", Source: source}
		r, err := renderer(t, subscription.ProfileCloudEvents, "POST").Render(e)
		require.NoError(t, err)
		var got struct{ Source string }
		require.NoError(t, json.Unmarshal(r.Body, &got))
		assert.Equal(t, want, got.Source)
		u, err := url.Parse(got.Source)
		require.NoError(t, err, source)
		assert.NotEmpty(t, u.String())
	}
}
