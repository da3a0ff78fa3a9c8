package dispatcher

import (
	"strconv"
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kgo"
)

// source is what kind of topic a delivery came from.
type source struct {
	kind kind
	tier time.Duration // of a retry topic
}

type kind int

const (
	fromLane kind = iota
	fromOrdered
	fromSlow
	fromTier
)

// sources maps each topic that the dispatcher consumes to its kind.
func sources(lanes []string, delays tiers) map[string]source {
	all := map[string]source{topic.Slow: {kind: fromSlow}, topic.Ordered: {kind: fromOrdered}}
	for _, lane := range lanes {
		all[topic.Lane(lane)] = source{kind: fromLane}
	}
	for _, d := range delays {
		all[topic.RetryTier(d)] = source{kind: fromTier, tier: d}
	}
	return all
}

// sourceOf tells what kind of delivery topic a name is, whatever is configured; false where it is none.
func sourceOf(name string) (source, bool) {
	if schema, ok := topic.SchemaOf(name); !ok || schema != topic.DeliverySchema {
		return source{}, false
	}
	rest := strings.TrimPrefix(name, topic.Lane(""))
	if !strings.Contains(rest, ".") {
		return source{kind: fromLane}, true
	}
	delay, err := time.ParseDuration(rest[strings.LastIndexByte(rest, '.')+1:])
	return source{kind: fromTier, tier: delay}, err == nil && delay > 0 && topic.RetryTier(delay) == name
}

// delivery is a record and what its headers say: enough to queue it. The value is decoded by the worker that sends it, so
// that a partition's one goroutine isn't what bounds it.
type delivery struct {
	task *kafka.Task
	from source

	subscription string
	version      int64  // of the subscription, when it was rendered
	attempts     int    // made so far
	scheduleFrom int    // of them, those before the present schedule began
	fallback     bool   // it goes to the subscription's fallback_url
	redrive      string // who asked for it to be sent again; empty: nobody did
	overtakes    string // the redrive, or the lack of one, whose schedule it takes over from
	parked       int    // times it found no room since the last attempt
	due          time.Time
	enqueued     time.Time // when it entered the tier it is in
	firstFailed  time.Time
	lastClass    string
	lastStatus   int
	origin       string // "topic/partition/offset" of the first record
	call         string // whose events are kept in order; empty where none are
	rank         int64  // the event's place among them

	order   *ordered // in the book of its partition; nil where it is not kept in order
	open    *follow  // what followed from it so far, while it is retried in its place
	settled bool     // all that follows from it is under way; set by who handles it
}

// readDelivery reads the headers. What is missing stays zero: a record without headers is a first attempt, and its
// subscription is its key.
func readDelivery(r *kgo.Record, from source) delivery {
	d := delivery{from: from}
	for i := range r.Headers {
		h := &r.Headers[i]
		switch h.Key {
		case kafka.HeaderSubscription:
			d.subscription = string(h.Value)
		case kafka.HeaderSubscriptionVersion:
			d.version = decimal(h.Value)
		case kafka.HeaderAttempt:
			d.attempts = int(decimal(h.Value))
		case kafka.HeaderScheduleFrom:
			d.scheduleFrom = int(decimal(h.Value))
		case kafka.HeaderVia:
			d.fallback = string(h.Value) == viaFallback
		case kafka.HeaderRedrive:
			d.redrive = string(h.Value)
		case kafka.HeaderOvertakes:
			d.overtakes = string(h.Value)
		case kafka.HeaderParked:
			d.parked = int(decimal(h.Value))
		case kafka.HeaderDue:
			d.due = time.UnixMilli(decimal(h.Value))
		case kafka.HeaderEnqueued:
			d.enqueued = time.UnixMilli(decimal(h.Value))
		case kafka.HeaderFirstFailedAt:
			d.firstFailed = time.UnixMilli(decimal(h.Value))
		case kafka.HeaderLastErrorClass:
			d.lastClass = string(h.Value)
		case kafka.HeaderLastStatus:
			d.lastStatus = int(decimal(h.Value))
		case kafka.HeaderOrigin:
			d.origin = string(h.Value)
		case kafka.HeaderOrder:
			d.call = string(h.Value)
		case kafka.HeaderRank:
			d.rank = decimal(h.Value)
		}
	}
	if d.redrive != "" || d.fallback {
		d.call = "" // it comes late: those behind it were let go
	}
	if d.subscription == "" {
		d.subscription = string(r.Key)
	}
	if d.enqueued.IsZero() {
		d.enqueued = r.Timestamp
	}
	return d
}

// key names the shard that the delivery belongs to.
func (d *delivery) key() shardKey {
	return shardKey{subscription: d.subscription, partition: d.task.Record.Partition, fallback: d.fallback}
}

// begunAt is the place of the delivery's first record.
func (d *delivery) begunAt() string {
	if d.origin != "" {
		return d.origin
	}
	return place(d.task.Record)
}

// decimal reads a number without allocating; what is no number is 0.
func decimal(b []byte) int64 {
	if len(b) == 0 || len(b) > 19 {
		return 0
	}
	var n int64
	for i, c := range b {
		if c == '-' && i == 0 && len(b) > 1 {
			continue
		}
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int64(c-'0')
	}
	if b[0] == '-' {
		return -n
	}
	return n
}

// place is a record's "topic/partition/offset".
func place(r *kgo.Record) string {
	b := make([]byte, 0, len(r.Topic)+24)
	b = append(append(b, r.Topic...), '/')
	b = append(strconv.AppendInt(b, int64(r.Partition), 10), '/')
	return string(strconv.AppendInt(b, r.Offset, 10))
}

// move is how a record goes on: to which topic, due when, with what changed.
type move struct {
	topic    string
	tier     time.Duration // 0 for the slow topic and the ordered lane
	due      time.Time     // zero where it is due
	attempts int
	parked   int
	class    string // of the failed attempt; empty keeps what is there
	status   int
	failed   time.Time // when it failed; zero keeps what is there
	fallback bool      // from now on it goes to fallback_url, by a schedule of its own
}

// roundedUp is a time in milliseconds that is not before it: an endpoint that said when to come back is not asked early.
func roundedUp(t time.Time) int64 { return t.Add(time.Millisecond - time.Nanosecond).UnixMilli() }

// moved returns the record that carries the delivery on: the same key and value bytes, and headers that say when and
// how often. Partition p stays p, because p of every topic has one owner.
func (d *delivery) moved(m move, now time.Time) kgo.Record {
	old := d.task.Record
	headers := make([]kgo.RecordHeader, 0, len(old.Headers)+12)
	for _, h := range old.Headers {
		switch h.Key {
		case kafka.HeaderVia, kafka.HeaderScheduleFrom:
			if !m.fallback {
				headers = append(headers, h)
			}
		case kafka.HeaderAttempt, kafka.HeaderDue, kafka.HeaderEnqueued, kafka.HeaderTier, kafka.HeaderParked,
			kafka.HeaderFirstFailedAt, kafka.HeaderLastErrorClass, kafka.HeaderLastStatus, kafka.HeaderOrigin:
		default:
			headers = append(headers, h)
		}
	}
	class, status, firstFailed := d.lastClass, d.lastStatus, d.firstFailed
	if !m.failed.IsZero() {
		class, status = m.class, m.status
		if firstFailed.IsZero() {
			firstFailed = m.failed
		}
	}
	headers = append(headers,
		kafka.IntHeader(kafka.HeaderAttempt, int64(m.attempts)),
		kafka.IntHeader(kafka.HeaderParked, int64(m.parked)),
		kafka.IntHeader(kafka.HeaderEnqueued, now.UnixMilli()),
		kafka.StringHeader(kafka.HeaderOrigin, d.begunAt()),
	)
	if m.fallback {
		headers = append(headers, kafka.StringHeader(kafka.HeaderVia, viaFallback), kafka.IntHeader(kafka.HeaderScheduleFrom, int64(m.attempts)))
	}
	if !m.due.IsZero() {
		headers = append(headers, kafka.IntHeader(kafka.HeaderDue, roundedUp(m.due)))
		if m.tier > 0 {
			headers = append(headers, kafka.StringHeader(kafka.HeaderTier, m.tier.String()))
		}
	}
	if !firstFailed.IsZero() {
		headers = append(headers, kafka.IntHeader(kafka.HeaderFirstFailedAt, firstFailed.UnixMilli()),
			kafka.StringHeader(kafka.HeaderLastErrorClass, class))
		if status != 0 {
			headers = append(headers, kafka.IntHeader(kafka.HeaderLastStatus, int64(status)))
		}
	}
	return kgo.Record{Topic: m.topic, Partition: old.Partition, Key: old.Key, Value: old.Value, Headers: headers}
}
