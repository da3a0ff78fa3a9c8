package payload

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/subscription"
)

// The names of the event types in the profiles that have their own: S0-03 (push), S1-03 (callback), S2-01 and S2-16
// (dialer), S3-01 to S3-05 (platform). "-" is a type that the profile has no name for: it keeps the catalogue's.
const typeNames = `
call.started            | callStarted         | call.started            | call_started         | Call Started
call.ringing            | callRinging         | call.ringing            | call_ringing         | Call Ringing
call.answered           | callAnswered        | call.answered           | call_answered        | Call Answered
call.ended              | callEnded           | call.ended              | call_completed       | Call Ended
call.failed             | callFailed          | call.failed             | call_failed          | Call Failed
call.queued             | callQueued          | call.queued             | call_queued          | Call Queued
call.summary            | webphoneSummary     | call.summary            | call_summary         | Call Summary
disposition.updated     | dispositionUpdated  | disposition.updated     | disposition_updated  | Disposition Updated
escalation.requested    | escalationRequested | escalation.requested    | escalation_requested | Escalation Requested
callback.scheduled      | -                   | callback.scheduled      | callback_scheduled   | -
case.requested          | -                   | case.requested          | case_requested       | -
transcript.ready        | transcriptReady     | transcript.ready        | transcript_ready     | Transcript Available
recording.ready         | -                   | recording.ready         | -                    | Recording Ready
quality.scored          | -                   | quality.scored          | -                    | Quality Score
cost.calculated         | -                   | cost.calculated         | -                    | Cost Calculated
agent.status_changed    | -                   | -                       | -                    | Agent Status Change
agent.config_updated    | -                   | -                       | -                    | Configuration Update
agent.sync_changed      | -                   | -                       | -                    | Sync Status
agent.performance_alert | -                   | -                       | -                    | Performance Alerts
knowledge_base.updated  | -                   | -                       | -                    | Knowledge Base Update
phone_number.changed    | -                   | -                       | -                    | Phone Number Changes
user.action             | -                   | -                       | -                    | User Actions
system.maintenance      | -                   | -                       | -                    | System Maintenance
sms.sent                | smsSent             | -                       | -                    | -
sms.received            | smsReceived         | -                       | -                    | -`

// S0-03, S1-03, S1-14, S2-01, S2-16, S3-01, S3-02, S3-03, S3-04: each profile has its users' names for the event types.
func TestEventTypesHaveTheProfilesNames(t *testing.T) {
	columns := []struct{ profile, member string }{
		{subscription.ProfileDialer, "event"}, {subscription.ProfilePush, "event_type"}, {subscription.ProfileCallback, "event"}, {subscription.ProfilePlatform, "event"},
	}
	names := map[string][]string{}
	for line := range strings.SplitSeq(strings.TrimSpace(typeNames), "\n") {
		cells := strings.Split(line, "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		names[cells[0]] = cells[1:]
	}
	for _, typ := range catalog.Types() {
		for i, c := range columns {
			want := typ.Name
			if row, ok := names[typ.Name]; ok && row[i] != "-" {
				want = row[i]
			}
			r, err := renderer(t, c.profile, "POST").Render(parse(t, typ.Sample))
			require.NoError(t, err)
			assert.Equal(t, want, object(t, r.Body)[c.member], "%s of %s", typ.Name, c.profile)
		}
		delete(names, typ.Name)
	}
	assert.Empty(t, names, "types that the catalogue doesn't have")
}

// everything is an event of a topic with a value of its own for each declared field, and undeclared members everywhere.
func everything(t *testing.T, topic string) (raw []byte, values []string) {
	t.Helper()
	data := map[string]any{}
	put := func(pointer string, v any, printed ...string) {
		names := strings.Split(strings.TrimPrefix(pointer, "/data/"), "/")
		node := data
		for _, name := range names[:len(names)-1] {
			if node[name] == nil {
				node[name] = map[string]any{"their_" + name: "their " + name}
				values = append(values, `"their `+name+`"`)
			}
			node = node[name].(map[string]any)
		}
		node[names[len(names)-1]] = v
		values = append(values, printed...)
	}
	for i, f := range event.Fields(topic) {
		text := "of " + f.Column
		switch f.Kind {
		case event.KindString:
			put(f.Pointer, text, `"`+text+`"`)
		case event.KindTime:
			moment := time1000(i)
			put(f.Pointer, moment, `"`+moment+`"`)
		case event.KindLong:
			put(f.Pointer, 1000+i, string(must(json.Marshal(1000+i))))
		case event.KindDouble:
			put(f.Pointer, 1000.5+float64(i), string(must(json.Marshal(1000.5+float64(i)))))
		case event.KindBool:
			put(f.Pointer, true, "true")
		case event.KindStrings:
			put(f.Pointer, []string{text, text + " too"}, `["`+text+`","`+text+` too"]`)
		case event.KindObject:
			put(f.Pointer, map[string]any{"inside": text}, `{"inside":"`+text+`"}`)
		}
	}
	put("/data/theirs", map[string]any{"inside": "their own"}, `{"inside":"their own"}`)
	whole := map[string]any{
		"id": "evt_1", "type": event.Types(topic)[0], "time": "2026-01-20T10:00:00Z", "tenant": "acme", "source": "dialer", "call_id": "c-1", "agent_id": "a-1",
		"sequence": 4, "test": true, "attributes": map[string]string{"label": "of attributes"}, "data": data, "at_the_root": "of the root",
	}
	values = append(values, `"evt_1"`, `"2026-01-20T10:00:00Z"`, `"acme"`, `"dialer"`, `"c-1"`, `"a-1"`, ":4,", `"of attributes"`, `"of the root"`)
	return must(json.Marshal(whole)), values
}

func time1000(i int) string {
	return "2026-01-20T10:00:00." + string(must(json.Marshal(1000+i))) + "Z"
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// S0-26: nothing of an event is lost in a profile that arranges its fields, however the catalogue grows: each declared
// field has its place in the tables, once, and each undeclared member comes along. S1-04, S2-05, S3-10.
func TestArrangedProfilesDeliverEverything(t *testing.T) {
	for _, topic := range eventTopics() {
		raw, values := everything(t, topic)
		for _, profile := range []string{subscription.ProfilePush, subscription.ProfileCallback, subscription.ProfileDialer, subscription.ProfilePlatform} {
			r, err := renderer(t, profile, "POST").Render(parse(t, raw))
			require.NoError(t, err)
			require.NoError(t, validJSON(r.Body))
			for _, v := range values {
				if v != "true" {
					assert.Equal(t, 1, strings.Count(string(r.Body), v), "%s of %s in %s: %s", v, topic, profile, r.Body)
				}
			}
			booleans := 1 // test
			for _, f := range event.Fields(topic) {
				if f.Kind == event.KindBool {
					booleans++
				}
			}
			assert.Equal(t, booleans, strings.Count(string(r.Body), "true"), "%s of %s", topic, profile)
		}
	}
}

// What a table names without any topic declaring it would be passed over in silence.
func TestTablesNameOnlyFieldsOfTheCatalogue(t *testing.T) {
	columns, parents := names{}, namesOf("data")
	for _, topic := range eventTopics() {
		for _, f := range event.Fields(topic) {
			columns[f.Column] = struct{}{}
			if parts := strings.Split(f.Pointer, "/"); len(parts) > 3 {
				parents[parts[2]] = struct{}{}
			}
		}
	}
	for _, table := range []string{pushCallRecord, callbackCall, dialerCall, dialerMessage, dialerAgent, dialerSystem, dialerOwn, postCallReport} {
		for _, word := range strings.Fields(table) {
			if parent, ok := strings.CutPrefix(word, "+"); ok {
				assert.True(t, parents.has(parent), word)
			} else if !strings.ContainsAny(word, "{}") {
				_, column, renamed := strings.Cut(word, "=")
				if !renamed {
					column = word
				}
				assert.True(t, columns.has(column), word)
			}
		}
	}
}

// The call record of S0, by requirement.
func TestPushIsTheCallRecord(t *testing.T) {
	call := body(t, subscription.ProfilePush, "call")
	for path, want := range map[string]any{
		// S0-08, S0-23: event type, event ID, timestamps
		"event_type": "call.ended", "event_id": "evt_01KFD4QZ8M0000000000523645", "timestamp": "2026-01-20T10:06:12.48Z",
		"data/metadata/started_at": "2026-01-20T10:00:00.120Z", "data/metadata/ended_at": "2026-01-20T10:06:12.480Z",
		// S0-05: correlated with the original call
		"call_id": "c-7f3a91", "data/metadata/parent_call_id": "c-7f3a90", "sequence": json.Number("5"),
		// S0-06: who received the call
		"data/transfer/mode": "warm", "data/transfer/recipient": "Priya Nair",
		// S0-07: escalation flags and routing metadata
		"data/escalation/reason": "card dispute", "data/escalation/risk_flag": true, "data/priority": "high",
		"data/routing/queue": "claims", "data/routing/route": "main-ivr/claims",
		// S0-09: caller and callee
		"data/metadata/caller/number": "+1-555-123-4567", "data/metadata/caller/name": "John Smith", "data/metadata/callee/number": "+1-555-010-2000",
		// S0-10: duration
		"data/metadata/duration_ms": json.Number("372360"),
		// S0-11: transcript text, snippet, reference
		"data/transcript/text":    "Agent: Good morning. Caller: I did not make this payment.",
		"data/transcript/snippet": "I did not make this payment.", "data/transcript/uri": "https://storage.example.com/transcripts/c-7f3a91.json",
		// S0-12: intent labels and tags
		"data/intents": []any{"card_dispute"}, "data/tags": []any{"vip", "follow_up_requested"},
		// S0-13: confidence
		"data/intent_confidence": json.Number("0.42"), "data/transcript/confidence": json.Number("0.93"),
		// S0-14: disposition codes
		"data/disposition/label": "Dispute opened", "data/disposition/code": "DISPUTE", "data/disposition/kind": "neutral",
		// S0-15: extracted fields
		"data/extracted_fields/claim_reference": "CLM-2291", "data/case/claim_id": "CLM-2291",
		// S1-17: recordings by reference
		"data/recording/uri": "https://storage.example.com/recordings/c-7f3a91.ogg",
	} {
		assert.Equal(t, want, at(call, path), path)
	}
	// S0-16: the record is metadata, transcript references and disposition under names of their own.
	record, _ := call["data"].(map[string]any)
	for _, part := range []string{"metadata", "transcript", "disposition"} {
		assert.Contains(t, record, part)
	}
}

// S0-04: an escalation is an event of its own, with what a ticket or a page needs.
func TestPushEscalation(t *testing.T) {
	e := body(t, subscription.ProfilePush, "escalation")
	assert.Equal(t, "escalation.requested", e["event_type"])
	assert.Equal(t, "card dispute", at(e, "data/escalation/reason"))
	assert.Equal(t, json.Number("0.42"), at(e, "data/intent_confidence"))
}

// S1-04 and S1-05: event type, call identifier, timestamps, the extracted fields at the top, transcription and metadata.
func TestCallbackHasTheExtractedFieldsAtTheTop(t *testing.T) {
	call := body(t, subscription.ProfileCallback, "call")
	for path, want := range map[string]any{
		"event": "call_completed", "call_id": "c-7f3a91", "event_id": "evt_01KFD4QZ8M0000000000523645", "timestamp": "2026-01-20T10:06:12.48Z",
		"intents": []any{"card_dispute"}, "disposition": "Dispute opened", "scheduling_token": "st-17", "lead_id": "lead-3", "risk_flag": true,
		"next_step": "await documents", "claim_id": "CLM-2291", "claim_status": "open", "status": "completed", "priority": "high",
		"callback/preferred_window/start": "2026-01-21T09:00:00Z", "callback/preferred_window/end": "2026-01-21T11:00:00Z",
		"callback/contact_token": "ct-91", "case_id": "case-8", "recording_url": "https://storage.example.com/recordings/c-7f3a91.ogg",
		"fields/claim_reference": "CLM-2291", "transcription/text": "Agent: Good morning. Caller: I did not make this payment.",
		"metadata/duration_ms": json.Number("372360"), "metadata/crm/account/tier": "gold",
	} {
		assert.Equal(t, want, at(call, path), path)
	}
}

// S2-02, S2-05, S2-06: the dialer's flat members.
func TestDialerIsFlat(t *testing.T) {
	call := body(t, subscription.ProfileDialer, "call")
	for name, want := range map[string]any{
		"event": "callEnded", "callId": "c-7f3a91", "direction": "inbound", "fromNumber": "+1-555-123-4567", "toNumber": "+1-555-010-2000",
		"durationMs": json.Number("372360"), "transferRecipient": "Priya Nair", "callbackContactToken": "ct-91",
	} {
		assert.Equal(t, want, call[name], name)
	}
	summary := body(t, subscription.ProfileDialer, "summary")
	for name, want := range map[string]any{
		"event": "webphoneSummary", "disposition": "Demo scheduled", "durationMs": json.Number("372360"),
		"agentNotes": "Wants the API demo with his team lead.",
		"aiSummary":  "The caller asked for a product demo and agreed on Tuesday at ten.",
		"transcript": "Agent: Good morning, this is Dana. Caller: Hi, I would like to see a demo.",
	} {
		assert.Equal(t, want, summary[name], name)
	}
}

// S2-20: the result's kind goes out with its tag.
func TestWebphoneSummaryTellsTheKindOfTheDisposition(t *testing.T) {
	assert.Equal(t, "positive", body(t, subscription.ProfileDialer, "summary")["dispositionKind"])
}

// S2-23: a summary goes out when the agent leaves the outcome open, and says so.
func TestWebphoneSummaryOfASkippedOutcome(t *testing.T) {
	skipped := body(t, subscription.ProfileDialer, "summary-skipped")
	assert.Equal(t, "webphoneSummary", skipped["event"])
	assert.Equal(t, true, skipped["outcomeSkipped"])
	assert.NotContains(t, skipped, "disposition")
	assert.Equal(t, false, body(t, subscription.ProfileDialer, "summary")["outcomeSkipped"])
}

// S3-06 to S3-09: what the payloads of calls, agents, the system and users carry. S3-10: in one structure.
func TestPlatformHasOneStructure(t *testing.T) {
	for name, want := range map[string]map[string]any{
		"call": {
			"event": "Call Ended", "call_id": "c-7f3a91", "data/duration_ms": json.Number("372360"), "data/cost_micros": json.Number("84200"), "data/currency": "USD",
			"data/participants": []any{"+1-555-123-4567", "Dana Reyes"}, "data/status": "completed",
		},
		"agent":  {"event": "Configuration Update", "agent_id": "a-204", "data/changes/voice/to": "verse"},
		"system": {"event": "User Actions", "data/user_id": "u-17", "data/action": "deleted", "data/resource_id": "flow-4", "data/affected_resources": []any{"phone:+1-555-010-2000"}},
	} {
		got := body(t, subscription.ProfilePlatform, name)
		for path, v := range want {
			assert.Equal(t, v, at(got, path), "%s %s", name, path)
		}
		for _, member := range []string{"event", "id", "timestamp", "tenant", "source", "data"} {
			assert.Contains(t, got, member, name)
		}
	}
}

// S4-05 to S4-08: the body as the receivers document it, but for white space: its keys, their order, absent ones omitted.
func TestPostCallIsTheDocumentedBody(t *testing.T) {
	sample, err := os.ReadFile("testdata/post-call-documented.json")
	require.NoError(t, err)
	var want bytes.Buffer
	require.NoError(t, json.Compact(&want, sample))
	assert.Equal(t, want.String(), string(AppendPostCall(nil, load(t, "report-documented"))))
}

// S4-11: a body with next to nothing is as good. S4-09: recording and transcript by URL.
func TestPostCallOmitsWhatIsAbsent(t *testing.T) {
	assert.Equal(t, `{"callId":"c-2","recordingUri":"https://x.example/r.ogg","callerDetails":{"name":"Test Caller","phoneNumber":"+1 555"}}`,
		string(AppendPostCall(nil, load(t, "report-little"))))
	assert.Equal(t, `{"callId":"c"}`, string(AppendPostCall(nil, load(t, "minimal"))))
	assert.Equal(t, `{}`, string(AppendPostCall(nil, load(t, "bare"))))
}

// An undeclared member whose name the profile uses is delivered under another.
func TestUndeclaredMembersNeverTakeTheProfilesNames(t *testing.T) {
	for _, c := range []struct{ profile, data, root, want string }{
		{"standard", `{}`, `"timestamp":1`, `"timestamp_":1`},
		{"standard", `{}`, `"timestamp":1,"timestamp_":2`, `"timestamp__":1,"timestamp_":2`},
		{"push", `{"metadata":1}`, `"event_id":2`, `"data":{"metadata_":1},"event_id_":2`},
		{"callback", `{"direction":"in","metadata":1}`, `"metadata":2,"disposition":3`, `"metadata":{"direction":"in","metadata":1},"metadata_":2,"disposition_":3`},
		{"dialer", `{"eventId":1}`, `"eventId":2,"eventId_":3`, `"eventId_":1,"eventId__":2,"eventId___":3`},
		{"dialer", `{"fromNumber":1}`, ``, `"fromNumber_":1`},
		{"dialer", `{"caller":{"fromNumber":1}}`, `"caller":2`, `"caller":{"fromNumber":1},"caller_":2`},
		{"platform", `{"event":1}`, `"event":2`, `"data":{"event":1},"event_":2`},
		{"cloudevents", `{"x":1}`, `"x":2`, `"data":{"x":1,"x_":2}`},
	} {
		raw := `{"type":"call.ended","call_id":"c","data":` + c.data
		if c.root != "" {
			raw += "," + c.root
		}
		r, err := renderer(t, c.profile, "POST").Render(parse(t, []byte(raw+"}")))
		require.NoError(t, err)
		require.NoError(t, validJSON(r.Body))
		assert.Contains(t, string(r.Body), c.want, raw)
	}
}

// The names of an event's members must not be compared each with each: a hostile event has tens of thousands.
func TestManyUndeclaredMembersAreNoWork(t *testing.T) {
	var members []string
	for i := range 40_000 {
		members = append(members, `"`+string(must(json.Marshal(i)))+`":0`)
	}
	all := strings.Join(members, ",")
	e := parse(t, []byte(`{"type":"call.ended","call_id":"c","data":{`+all+`},`+all+`}`))
	for _, profile := range profiles() {
		r, err := renderer(t, profile, "POST").Render(e)
		require.NoError(t, err)
		require.NoError(t, validJSON(r.Body), profile)
	}
}

// Shapes are shared by all renderers: nothing may change them.
func TestShapesStayAsTheyAre(t *testing.T) {
	s := dialerShape()
	before := maps.Clone(s.own)
	_, err := renderer(t, subscription.ProfileDialer, "POST").Render(load(t, "undeclared"))
	require.NoError(t, err)
	assert.Equal(t, before, s.own)
}
