package outbound

import (
	"bytes"
	"testing"

	"github.com/callstream/callstream/schemas/event"
)

// BenchmarkRequest is what each delivery costs besides the exchange: the request is filled in and signed, and written
// down as it may be recorded.
func BenchmarkRequest(b *testing.B) {
	target := testTarget(b, testSender(b, Options{}), "https://example.com/hook", nil)
	d := &event.Delivery{
		ID: "msg_1", EventID: "evt_1", EventType: "call.ended", Method: "POST", ContentType: "application/json", Body: bytes.Repeat([]byte("a"), 2000),
	}
	b.ReportAllocs()
	for b.Loop() {
		to, err := target.endpointOf(d.EventType)
		if err != nil {
			b.Fatal(err)
		}
		q := target.requests.Get().(*request)
		q.fill(target, to, d, Attempt{Number: 1, Traceparent: testTrace}, "")
		q.record(target)
		target.requests.Put(q)
	}
}
