package event

import (
	"strings"
	"testing"
)

// An event of 2 KB as a platform sends it: two thirds of it transcript, three undeclared members, one of them nested.
var benchEvent = []byte(`{"id":"evt_01KFD4QZ8M0000000000523645","type":"transcript.ready","time":"2026-01-20T10:06:12.480Z","source":"dialer-eu","call_id":"c-7f3a91","agent_id":"a-204","sequence":5,
"data":{"direction":"inbound","from_number":"+1-555-123-4567","to_number":"+1-555-010-2000","session_id":"s-51c0","leg_id":"leg-1","status":"completed","agent_name":"Dana Reyes","participants":["+1-555-123-4567","Dana Reyes"],
"started_at":"2026-01-20T10:00:00.120Z","answered_at":"2026-01-20T10:00:27.903Z","ended_at":"2026-01-20T10:06:12.480Z","duration_ms":372360,"talk_ms":331200,"hold_ms":13377,"cost_micros":84200,"currency":"USD",
"transcript_text":"` + strings.Repeat("Agent: Good morning, this is Dana.\\nCaller: Hi, I would like to see a demo of the product. ", 11) + `","transcript_confidence":0.96,"language":"en-US","intents":["demo_request"],"intent_confidence":0.91,
"crm":{"account":{"id":"001D000000IRFmaIAH","owner":"u-17"},"tags":["a","b"]},"pbx_node":"n3","priority_boost":1.5,"caller":{"name":"John Smith","phone_number":"+1-555-123-4567","email":"john.smith@example.com","city":"New York"},
"analysis":{"summary":"Customer called to schedule a product demo","score":85,"sentiment":{"overall":"positive","score":0.82}}}}`)

func benched(b *testing.B) *Event {
	e, err := Parse(benchEvent)
	if err != nil {
		b.Fatal(err)
	}
	e.Tenant = "acme"
	b.ReportAllocs()
	b.SetBytes(int64(len(benchEvent)))
	return e
}

func BenchmarkParse(b *testing.B) {
	benched(b)
	for b.Loop() {
		if _, err := Parse(benchEvent); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendAvro(b *testing.B) {
	e := benched(b)
	var dst []byte
	for b.Loop() {
		dst = e.AppendAvro(dst[:0])
	}
}

func BenchmarkDecode(b *testing.B) {
	e := benched(b)
	body := e.AppendAvro(nil)
	for b.Loop() {
		if _, err := readEvent(e.table, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := benched(b)
	var dst []byte
	for b.Loop() {
		dst = e.AppendJSON(dst[:0])
	}
}

func BenchmarkMap(b *testing.B) {
	e := benched(b)
	for b.Loop() {
		e.cached = nil
		e.Map()
	}
}

func BenchmarkLookup(b *testing.B) {
	e := benched(b)
	for b.Loop() {
		if _, ok := e.Lookup("data.caller.city"); !ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkDelivery(b *testing.B) {
	d := Delivery{ID: "msg_k5x2m7q4c3w6z2b7n4y5t3r6va", Tenant: "acme", SubscriptionID: "sub_1", EventID: "evt_1", EventType: "call.ended", Body: benchEvent, Lane: "standard"}
	body := d.AppendAvro(nil)
	b.ReportAllocs()
	for b.Loop() {
		body = d.AppendAvro(body[:0])
		var back Delivery
		if err := back.ReadAvro(body); err != nil {
			b.Fatal(err)
		}
	}
}
