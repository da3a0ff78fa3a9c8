package kafka

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Headers of event records. Their values are the plain text of the event's attributes, so that routing seldom has to
// decode a value.
const (
	HeaderType        = "ce_type"
	HeaderID          = "ce_id"
	HeaderSource      = "ce_source"
	HeaderTenant      = "tenant"
	HeaderTraceparent = "traceparent"
)

// EventHeaders are the headers of an event's record.
func EventHeaders(eventType, id, source, tenant, traceparent string) []kgo.RecordHeader {
	return []kgo.RecordHeader{
		StringHeader(HeaderType, eventType), StringHeader(HeaderID, id), StringHeader(HeaderSource, source),
		StringHeader(HeaderTenant, tenant), StringHeader(HeaderTraceparent, traceparent),
	}
}

// Mismatch is a header that contradicts the value of its record.
type Mismatch struct{ Key, Header, Value string }

// CompleteIdentity fills in what the value of an event's record leaves empty of its type, id, source and tenant, from the
// headers that EventHeaders makes. It returns the first header that says something else than the value, nil for none:
// whoever may write to the topic could otherwise have one tenant's event taken for another's.
func CompleteIdentity(r *kgo.Record, eventType, id, source, tenant *string) *Mismatch {
	for i := range r.Headers {
		h := &r.Headers[i]
		var field *string
		switch h.Key {
		case HeaderType:
			field = eventType
		case HeaderID:
			field = id
		case HeaderSource:
			field = source
		case HeaderTenant:
			field = tenant
		default:
			continue
		}
		switch {
		case len(h.Value) == 0:
		case *field == "":
			*field = string(h.Value)
		case *field != string(h.Value):
			return &Mismatch{h.Key, string(h.Value), *field}
		}
	}
	return nil
}

// Headers of delivery records, besides those of event records. A retry rewrites headers only: the value's bytes never
// change. Numbers are decimal.
const (
	HeaderSubscription        = "subscription"
	HeaderSubscriptionVersion = "subscription_version"
	HeaderDelivery            = "delivery"         // the webhook-id
	HeaderAcceptedAt          = "accepted_at"      // µs since 1970
	HeaderAttempt             = "attempt"          // attempts made so far
	HeaderDue                 = "due"              // ms since 1970: not before
	HeaderEnqueued            = "enqueued"         // ms since 1970: when it was parked
	HeaderTier                = "tier"             // the retry tier it was parked in
	HeaderParked              = "parked"           // times parked without an attempt
	HeaderFirstFailedAt       = "first_failed_at"  // ms since 1970
	HeaderLastErrorClass      = "last_error_class" //
	HeaderLastStatus          = "last_status"      // HTTP status of the last attempt
	HeaderOrigin              = "origin"           // "topic/partition/offset" of the first delivery record
	HeaderVia                 = "via"              // "fallback": it goes to the subscription's fallback_url
	HeaderScheduleFrom        = "schedule_from"    // attempts made before the present retry schedule began
	HeaderOrder               = "order"            // the call whose events are kept in order; absent: no order
	HeaderRank                = "rank"             // place in that order: the event's offset in its topic
	HeaderReplay              = "replay"           // the replay that it belongs to
	HeaderRedrive             = "redrive"          // what it is sent again by: the id of a redrive, or of a retry by hand
	HeaderOvertakes           = "overtakes"        // with redrive: the redrive that it was sent by before; absent: by none
)

// Header is the value of the record's first header of that name, empty when it has none.
func Header(r *kgo.Record, key string) string {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return string(r.Headers[i].Value)
		}
	}
	return ""
}

// LookupHeader is the value of the record's first header of that name and whether it has one. The bytes belong to the
// record.
func LookupHeader(r *kgo.Record, key string) ([]byte, bool) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// HeaderInt is the value of a decimal header. It is zero and false when there is none or it is no number.
func HeaderInt(r *kgo.Record, key string) (int64, bool) {
	v, ok := LookupHeader(r, key)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil
}

// StringHeader makes a header of text.
func StringHeader(key, value string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: key, Value: []byte(value)}
}

// IntHeader makes a decimal header.
func IntHeader(key string, value int64) kgo.RecordHeader {
	return kgo.RecordHeader{Key: key, Value: strconv.AppendInt(nil, value, 10)}
}

// SetHeader sets a header of the record, replacing every one of that name. It never writes into the array that the
// headers stood in, because a rewritten copy of a record shares it with the original.
func SetHeader(r *kgo.Record, h kgo.RecordHeader) {
	headers := make([]kgo.RecordHeader, 0, len(r.Headers)+1)
	for i := range r.Headers {
		if r.Headers[i].Key != h.Key {
			headers = append(headers, r.Headers[i])
		}
	}
	r.Headers = append(headers, h)
}
