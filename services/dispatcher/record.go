package dispatcher

import (
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	viaPrimary    = "primary"
	viaFallback   = "fallback"
	signalDisable = "disable"
	signalFailing = "failing"
	signalRecover = "recover"
	// largestOriginal bounds the original bytes in a dead letter; beyond it they are only pointed to. It is what a
	// delivery record may be, and leaves room for the rest in what a dead letter may be.
	largestOriginal = 6 << 20
)

// attemptRecord fills the record of one try to send d, reusing a's map of response headers.
func (s *Service) attemptRecord(a *event.Attempt, d *event.Delivery, r *kgo.Record, n int, v verdict) {
	responses := a.ResponseHeaders
	clear(responses)
	via := viaPrimary
	if kafka.Header(r, kafka.HeaderVia) == viaFallback {
		via = viaFallback
	}
	*a = event.Attempt{
		DeliveryID: d.ID, Tenant: d.Tenant, SubscriptionID: d.SubscriptionID, SubscriptionVersion: d.SubscriptionVersion,
		EventID: d.EventID, EventType: d.EventType, Source: d.Source, CallID: d.CallID,
		Attempt: n, Via: via, Outcome: v.outcome, Reason: v.reason,
		RequestBytes: int64(len(d.Body)),
		BodyTopic:    r.Topic, BodyPartition: r.Partition, BodyOffset: r.Offset, ResponseHeaders: responses,
		ReplayID: d.ReplayID, Redrive: kafka.Header(r, kafka.HeaderRedrive), Test: d.Test, Traceparent: d.Traceparent, Dispatcher: s.name, AcceptedAt: d.AcceptedAt,
	}
}

// deadRecord is the dead letter of a record of which only the headers are known.
func (s *Service) deadRecord(r *kgo.Record, reason, detail string, now time.Time) *event.DeadLetter {
	version, _ := kafka.HeaderInt(r, kafka.HeaderSubscriptionVersion)
	attempts, _ := kafka.HeaderInt(r, kafka.HeaderAttempt)
	status, _ := kafka.HeaderInt(r, kafka.HeaderLastStatus)
	d := &event.DeadLetter{
		Reason: reason, Detail: detail, Tenant: kafka.Header(r, kafka.HeaderTenant),
		SubscriptionID: kafka.Header(r, kafka.HeaderSubscription), SubscriptionVersion: version,
		DeliveryID: kafka.Header(r, kafka.HeaderDelivery), EventID: kafka.Header(r, kafka.HeaderID),
		EventType: kafka.Header(r, kafka.HeaderType), Source: kafka.Header(r, kafka.HeaderSource),
		OriginalKey: r.Key, SourceTopic: r.Topic, SourcePartition: r.Partition, SourceOffset: r.Offset,
		Attempts: int(attempts), ErrorClass: kafka.Header(r, kafka.HeaderLastErrorClass), HTTPStatus: int(status),
		Traceparent: kafka.Header(r, kafka.HeaderTraceparent), DeadAt: now, Service: s.name,
	}
	if ms, ok := kafka.HeaderInt(r, kafka.HeaderFirstFailedAt); ok {
		d.FirstFailedAt = time.UnixMilli(ms)
	}
	d.OriginalHeaders = make(map[string][]byte, len(r.Headers))
	for _, h := range r.Headers {
		d.OriginalHeaders[h.Key] = h.Value
	}
	if len(r.Value) <= largestOriginal {
		d.OriginalValue = r.Value
	}
	return d
}

// deadLetter is the dead letter of a delivery that a record holds.
func (s *Service) deadLetter(d *event.Delivery, r *kgo.Record, a *event.Attempt, detail string, now time.Time) *event.DeadLetter {
	dead := s.deadRecord(r, a.Reason, detail, now)
	dead.Tenant, dead.SubscriptionID, dead.SubscriptionVersion = d.Tenant, d.SubscriptionID, a.SubscriptionVersion
	dead.DeliveryID, dead.EventID, dead.EventType, dead.Source, dead.CallID = d.ID, d.EventID, d.EventType, d.Source, d.CallID
	dead.Traceparent = d.Traceparent
	if a.Attempt > 0 {
		dead.Attempts, dead.LastFailedAt = a.Attempt, now
		dead.ErrorClass, dead.Error, dead.HTTPStatus, dead.ResponseBody = a.ErrorClass, a.Error, a.HTTPStatus, a.ResponseBody
		if dead.FirstFailedAt.IsZero() {
			dead.FirstFailedAt = now
		}
	}
	return dead
}

// exhaustedEvent is what subscribers of callstream's own events learn of a delivery that ran out of attempts. Its id
// follows from the delivery's, so that a repeat after a crash is the same event.
func exhaustedEvent(d *event.Delivery, dead *event.DeadLetter, now time.Time) (*event.Event, error) {
	data := map[string]any{
		"subscription_id": d.SubscriptionID, "subscription_version": dead.SubscriptionVersion, "delivery_id": d.ID,
		"event_id": d.EventID, "type": d.EventType, "attempts": dead.Attempts, "error_class": dead.ErrorClass,
		"reason": dead.Reason, "first_failed_at": dead.FirstFailedAt.UTC().Format(time.RFC3339Nano),
	}
	if !dead.LastFailedAt.IsZero() {
		data["last_failed_at"] = dead.LastFailedAt.UTC().Format(time.RFC3339Nano)
	}
	if dead.HTTPStatus != 0 {
		data["http_status"] = dead.HTTPStatus
	}
	if dead.Error != "" {
		data["error"] = dead.Error
	}
	e, err := event.NewOwn(event.TypeExhausted, d.Tenant, now, data, d.ID, d.ReplayID)
	if err != nil {
		return nil, err
	}
	e.CallID, e.Traceparent = d.CallID, d.Traceparent
	return e, nil
}

// ownEvent says whether a delivery is of one of callstream's own events. Nothing that becomes of it makes another
// event, else an endpoint that fails would feed itself for ever.
func ownEvent(d *event.Delivery) bool {
	return d.EventTopic == topic.OwnEvents || event.TopicOf(d.EventType) == topic.OwnEvents
}
