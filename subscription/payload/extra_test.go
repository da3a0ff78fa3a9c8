package payload

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/subscription"
)

// S2-13: additional data is merged into the payload, and never in place of what the event says.
func TestExtraIsMergedAndReplacesNothing(t *testing.T) {
	const event = `{"type":"call.ended","call_id":"c","data":{"duration_ms":5,"caller":{"name":"N"},"\"q\"\u00e9":1}}`
	for _, c := range []struct{ profile, extra, want string }{
		{"standard", `{"b":{"y":1,"x":2},"a":[1.50,1e3]}`, `{"type":"call.ended","call_id":"c","data":{"duration_ms":5,"caller":{"name":"N"},"\"q\"é":1},"a":[1.50,1e3],"b":{"x":2,"y":1}}`},
		{"standard", `{"type":1,"id":2,"data":3}`, `{"type":"call.ended","call_id":"c","data":{"duration_ms":5,"caller":{"name":"N"},"\"q\"é":1},"id":2}`},
		{"platform", `{"event":0,"env":"<&>"}`, `{"event":"Call Ended","call_id":"c","data":{"duration_ms":5,"caller":{"name":"N"},"\"q\"é":1},"env":"<&>"}`},
		{"dialer", `{"durationMs":0,"callerName":0,"duration_ms":6}`, `{"event":"callEnded","callId":"c","durationMs":5,"callerName":"N","\"q\"é":1,"duration_ms":6}`},
		{"raw", `{"\"q\"é":0,"caller":0,"é":7}`, `{"duration_ms":5,"caller":{"name":"N"},"\"q\"é":1,"é":7}`},
		{"post-call", `{"callId":0,"callerDetails":{"name":0},"env":"prod"}`, `{"callId":"c","callerDetails":{"name":"N"},"env":"prod"}`},
		{"cloudevents", `{"specversion":"2","duration_ms":0}`, `{"specversion":"1.0","id":"","source":"callstream","type":"call.ended","subject":"c","datacontenttype":"application/json","data":{"duration_ms":5,"caller":{"name":"N"},"\"q\"é":1,"specversion":"2"}}`},
		{"cloudevents-binary", `{"env":"prod"}`, `{"duration_ms":5,"caller":{"name":"N"},"\"q\"é":1,"env":"prod"}`},
	} {
		r, err := renderer(t, c.profile, "POST", withExtra(t, c.extra)).Render(parse(t, []byte(event)))
		require.NoError(t, err)
		assert.Equal(t, c.want, string(r.Body), c.profile)
	}
	r, err := renderer(t, subscription.ProfileRaw, "POST", withExtra(t, `{"env":"prod"}`)).Render(load(t, "minimal"))
	require.NoError(t, err)
	assert.Equal(t, `{"env":"prod"}`, string(r.Body))
}
