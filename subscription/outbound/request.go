package outbound

import (
	"net/http"
	"strconv"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/webhook"
	"github.com/callstream/callstream/schemas/event"
)

// contentTypeJSON is sent for a body of which nothing else is said.
const contentTypeJSON = "application/json"

// Attempt is what changes from one request for a delivery to the next.
type Attempt struct {
	// Number of the attempt, from 1; 0 sends none.
	Number int
	// Traceparent is sent as it is; empty sends none.
	Traceparent string
	// Buffer takes the answer's body, of which no more than its length is kept; where it is nil, MaxBody bytes.
	Buffer []byte
}

// request is the part of an HTTP request that is used again for the next one to the same target. Each header that
// changes has one slot, which stands in the header map and is written in place.
type request struct {
	header http.Header
	signer *webhook.Signer
	out    egress.Request
	// recorded is the header as it may be recorded; exact says that only what changes each time has to be set.
	recorded map[string]string
	exact    bool
	// usual says that exactly the headers of a usual request stand in the map; added are those that the delivery brought.
	usual bool
	added []string

	slots                                                                        []slot
	id, timestamp, signature, attempt, eventID, traceparent, contentType, replay []string
	authorization                                                                []string
}

// slot is a header that a request has or not.
type slot struct {
	name  string
	value []string
}

func (t *Target) newRequest() *request {
	custom := t.sub.Request.Headers
	q := &request{header: make(http.Header, 12+len(custom)), signer: webhook.NewSigner(t.credentials.Signing...), recorded: map[string]string{}}
	for name, value := range custom {
		q.header.Set(name, value)
	}
	if t.fallback {
		q.header["Webhook-Fallback"] = []string{"true"}
	} else {
		t.credentials.Authorize(q.header)
	}
	q.header["User-Agent"] = []string{t.sender.userAgent}
	add := func(name string) []string {
		value := []string{""}
		q.slots = append(q.slots, slot{name, value})
		return value
	}
	q.id, q.timestamp, q.signature, q.attempt = add("Webhook-Id"), add("Webhook-Timestamp"), add("Webhook-Signature"), add("Webhook-Attempt")
	q.eventID, q.traceparent, q.contentType, q.replay = add("X-Event-Id"), add("Traceparent"), add("Content-Type"), add("Webhook-Replay")
	if t.tokens != nil {
		q.authorization = add("Authorization")
	}
	return q
}

// fill writes one delivery into the request. What doesn't change from one attempt to the next is the delivery's, what does
// is the attempt's, or the access token, where there is one.
func (q *request) fill(t *Target, to *endpoint, d *event.Delivery, o Attempt, token string) {
	q.out.Method, q.out.URL, q.out.Header, q.out.Body = d.Method, to.url, q.header, d.Body
	if d.Method == "" {
		q.out.Method = http.MethodPost
	}
	if d.Query != "" {
		with := *to.url
		if with.RawQuery != "" {
			with.RawQuery += "&"
		}
		with.RawQuery += d.Query
		q.out.URL = &with
	}
	signed := d.Body
	if q.out.Method == http.MethodGet {
		// There is no body: what it would say stands in the query.
		q.out.Body, signed = nil, []byte(q.out.URL.RawQuery)
	}

	usual := q.out.Method == http.MethodPost && o.Number > 0 && o.Traceparent != "" && d.EventID != "" && d.ReplayID == "" && len(d.Headers) == 0
	q.id[0], q.eventID[0], q.traceparent[0], q.replay[0] = d.ID, d.EventID, o.Traceparent, d.ReplayID
	q.timestamp[0], q.attempt[0] = strconv.FormatInt(t.sender.opts.Now().Unix(), 10), ""
	if t.tokens != nil {
		q.authorization[0] = "Bearer " + token
	}
	if o.Number > 0 {
		q.attempt[0] = strconv.Itoa(o.Number)
	}
	q.contentType[0] = d.ContentType
	if d.ContentType == "" {
		q.contentType[0] = contentTypeJSON
	}
	if q.out.Method != http.MethodPost && len(q.out.Body) == 0 {
		q.contentType[0] = ""
	}
	q.signature[0] = q.signer.Sign(d.ID, q.timestamp[0], signed)
	if !usual || !q.usual {
		q.place(d)
	}
	q.usual = usual
}

// forget lets go of the delivery before the request waits for the next one: each of its strings would keep the record that it
// is a part of, and its body the whole fetch.
func (q *request) forget() {
	q.out.Body = nil
	for _, slot := range q.slots {
		slot.value[0] = ""
	}
	for _, name := range q.added {
		delete(q.header, name)
	}
	q.added = q.added[:0]
	if !q.exact {
		clear(q.recorded)
		return
	}
	q.recorded["Webhook-Id"], q.recorded["X-Event-Id"], q.recorded["Traceparent"], q.recorded["Content-Type"] = "", "", "", ""
}

// place puts the slots that say something into the header map and takes out the others, and brings in what the delivery
// has of its own, which never replaces what is there.
func (q *request) place(d *event.Delivery) {
	q.exact = false
	for _, name := range q.added {
		delete(q.header, name)
	}
	q.added = q.added[:0]
	for _, slot := range q.slots {
		if slot.value[0] != "" {
			q.header[slot.name] = slot.value
		} else {
			delete(q.header, slot.name)
		}
	}
	for name, value := range d.Headers {
		name = http.CanonicalHeaderKey(name)
		if _, there := q.header[name]; !there {
			q.header[name] = []string{value}
			q.added = append(q.added, name)
		}
	}
}

// record returns the headers as they may be recorded: secrets masked. The map is the request's and lasts until its next use.
func (q *request) record(t *Target) map[string]string {
	if q.exact {
		q.recorded["Webhook-Id"], q.recorded["Webhook-Timestamp"], q.recorded["Webhook-Attempt"] = q.id[0], q.timestamp[0], q.attempt[0]
		q.recorded["X-Event-Id"], q.recorded["Traceparent"], q.recorded["Content-Type"] = q.eventID[0], q.traceparent[0], q.contentType[0]
		if q.signature[0] != "" {
			q.recorded["Webhook-Signature"] = q.signature[0]
		}
		return q.recorded
	}
	clear(q.recorded)
	for name, values := range q.header {
		if t.masked(name) {
			q.recorded[name] = mask
		} else {
			q.recorded[name] = values[0]
		}
	}
	q.exact = q.usual
	return q.recorded
}
