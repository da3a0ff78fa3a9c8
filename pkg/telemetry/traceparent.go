package telemetry

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"go.opentelemetry.io/otel/trace"
)

// A W3C traceparent of version 00: "00-<32 hex trace id>-<16 hex span id>-<2 hex flags>".
const traceparentLen = 55

// ValidTraceparent reports whether s is a traceparent that may be passed on (W3C Trace Context, section 3.2). It does
// not allocate.
func ValidTraceparent(s string) bool {
	_, ok := parse(s)
	return ok
}

func parse(s string) (trace.SpanContext, bool) {
	if len(s) < traceparentLen || s[2] != '-' || s[35] != '-' || s[52] != '-' || !lowerHex(s[:2]) || s[:2] == "ff" {
		return trace.SpanContext{}, false
	}
	if len(s) > traceparentLen && (s[:2] == "00" || s[traceparentLen] != '-') {
		return trace.SpanContext{}, false
	}
	if !lowerHex(s[3:35]) || !lowerHex(s[36:52]) || !lowerHex(s[53:55]) {
		return trace.SpanContext{}, false
	}
	var c trace.SpanContextConfig
	unhex(c.TraceID[:], s[3:35])
	unhex(c.SpanID[:], s[36:52])
	if !c.TraceID.IsValid() || !c.SpanID.IsValid() {
		return trace.SpanContext{}, false
	}
	var flags [1]byte
	unhex(flags[:], s[53:55])
	c.TraceFlags = trace.TraceFlags(flags[0]) & trace.FlagsSampled
	c.Remote = true
	return trace.NewSpanContext(c), true
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func unhex(dst []byte, s string) {
	for i := range dst {
		dst[i] = nibble(s[2*i])<<4 | nibble(s[2*i+1])
	}
}

func nibble(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'a' + 10
}

// Extract returns ctx with the caller's span as parent, or ctx itself when traceparent is absent or malformed.
func Extract(ctx context.Context, traceparent string) context.Context {
	sc, ok := parse(traceparent)
	if !ok {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}

// Inject returns the traceparent of the span in ctx, or "" when there is none.
func Inject(ctx context.Context) string {
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return ""
	}
	return traceparent(sc.TraceID(), sc.SpanID(), byte(sc.TraceFlags()&trace.FlagsSampled))
}

// NewTraceparent starts a trace without a span: a traceparent with fresh ids that says "not sampled". It is what a
// record carries when nobody collects traces.
func NewTraceparent() string {
	var id trace.TraceID
	var span trace.SpanID
	// Ids need be unique, not secret; zero is not valid.
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()|1)
	binary.LittleEndian.PutUint64(span[:], rand.Uint64()|1)
	return traceparent(id, span, 0)
}

func traceparent(id trace.TraceID, span trace.SpanID, flags byte) string {
	var b [traceparentLen]byte
	b[0], b[1], b[2], b[35], b[52] = '0', '0', '-', '-', '-'
	hex.Encode(b[3:35], id[:])
	hex.Encode(b[36:52], span[:])
	hex.Encode(b[53:55], []byte{flags})
	return string(b[:])
}

// Recording reports whether the tracer of t records spans at all, so that hot paths can do without them.
func (t *Telemetry) Recording() bool { return t.recording }
