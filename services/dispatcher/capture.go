package dispatcher

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/payload"
)

// capture writes what w.attempt got from the endpoint of a subscription that asks for it, for whoever looks at the call. It
// is one more write that the delivery waits for. An answer to an event of no call has nobody to be shown to.
func (w *worker) capture(f *follow, sub *subscription.Subscription, now time.Time) {
	d, a := &w.delivery, &w.attempt
	if d.CallID == "" || a.HTTPStatus/100 != 2 {
		return
	}
	r := event.Response{
		Tenant: d.Tenant, CallID: d.CallID, EventID: d.EventID, EventType: d.EventType, SubscriptionID: d.SubscriptionID, DeliveryID: d.ID,
		HTTPStatus: a.HTTPStatus, ContentType: a.ResponseHeaders["Content-Type"],
		ReceivedAt: now, Body: a.ResponseBody, Truncated: a.ResponseTruncated, Attempt: a.Attempt,
	}
	switch {
	case a.ResponseTruncated:
		r.Problem = "it is longer than 16 KiB, and was cut off"
	case a.Error != "":
		r.Problem = "it could not be read to its end"
	default:
		r.Problem = payload.AnswerProblem(sub.Payload.Profile, d.EventType, a.ResponseBody)
	}
	r.Valid = r.Problem == ""
	// All answers of a call are in one partition, in their order.
	w.s.writeRecord(f, topic.Responses, &kgo.Record{Key: topic.EventKey(d.Tenant, d.CallID)}, &r)
}
