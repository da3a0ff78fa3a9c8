package outbound

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/event"
)

// A request that waits for the next delivery keeps nothing of the last one, and is to the next one as a new one is.
func TestARequestForgetsItsDelivery(t *testing.T) {
	now := time.Now()
	target := testTarget(t, testSender(t, Options{Now: func() time.Time { return now }}), "https://example.com/hook", nil)
	to, err := target.endpointOf("call.ended")
	require.NoError(t, err)
	one := func(name string, change func(*event.Delivery)) *event.Delivery {
		d := &event.Delivery{ID: "msg_" + name, EventID: "evt_" + name, EventType: "call.ended", Method: "POST", ContentType: "application/json; of=" + name, Body: []byte(name)}
		if change != nil {
			change(d)
		}
		return d
	}
	unusual := func(d *event.Delivery) {
		d.ReplayID, d.Headers = "rpl_"+d.ID, map[string]string{"Ce-Of": d.ID}
	}
	use := func(q *request, d *event.Delivery) (string, string) {
		q.fill(target, to, d, Attempt{Number: 1, Traceparent: "00-" + d.ID}, "")
		return fmt.Sprint(q.out.Header), fmt.Sprint(q.record(target))
	}
	used := target.newRequest()
	for _, d := range []*event.Delivery{
		one("first", nil), one("second", nil), one("third", nil), one("other", unusual), one("another", unusual), one("fourth", nil), one("fifth", nil),
	} {
		header, recorded := use(used, d)
		wantHeader, wantRecorded := use(target.newRequest(), d)
		require.Equal(t, wantHeader, header)
		require.Equal(t, wantRecorded, recorded)
		used.forget()
		left := fmt.Sprint(used.out.Header, used.recorded, string(used.out.Body))
		require.False(t, strings.Contains(left, strings.TrimPrefix(d.ID, "msg_")), left)
	}
}
