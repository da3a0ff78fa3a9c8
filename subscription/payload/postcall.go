package payload

import (
	"github.com/callstream/callstream/schemas/event"
)

// AppendPostCall appends the body of the profile post-call, which has no envelope: who takes it knows a call by its
// callId. Keys stand in the order that the receivers document; what the event lacks is omitted, and so is a group with
// nothing in it. Members beyond these are not sent.
func AppendPostCall(dst []byte, e *event.Event) []byte {
	dst = append(dst, '{')
	start := len(dst)
	if e.CallID != "" {
		dst = append(dst, `"callId":`...)
		dst = event.AppendString(dst, e.CallID)
		dst = append(dst, ',')
	}
	dst = appendFields(dst, e, postCallFiles[:])
	dst = appendGroup(dst, e, `"callerDetails":{`, postCallCaller[:])
	dst = appendGroup(dst, e, `"callAnalysis":{`, postCallAnalysis[:])
	if len(dst) == start {
		return append(dst, '}')
	}
	dst[len(dst)-1] = '}' // in place of the last comma
	return dst
}

// postCallField is a member of the body, `"name":`, and where its value stands in the event.
type postCallField struct{ key, path string }

// The tables are read-only.
var (
	postCallFiles = [...]postCallField{
		{`"recordingUri":`, "data.recording_uri"},
		{`"transcriptUri":`, "data.transcript_uri"},
	}
	postCallCaller = [...]postCallField{
		{`"name":`, "data.caller.name"},
		{`"phoneNumber":`, "data.caller.phone_number"},
		{`"email":`, "data.caller.email"},
		{`"scheduledTime":`, "data.caller.scheduled_time"},
		{`"address":`, "data.caller.address"},
		{`"pincode":`, "data.caller.pincode"},
		{`"city":`, "data.caller.city"},
		{`"state":`, "data.caller.state"},
		{`"country":`, "data.caller.country"},
		{`"age":`, "data.caller.age"},
		{`"gender":`, "data.caller.gender"},
		{`"occupation":`, "data.caller.occupation"},
		{`"company":`, "data.caller.company"},
		{`"preferredContactMethod":`, "data.caller.preferred_contact_method"},
		{`"bestTimeToCall":`, "data.caller.best_time_to_call"},
		{`"language":`, "data.caller.language"},
	}
	postCallAnalysis = [...]postCallField{
		{`"summary":`, "data.analysis.summary"},
		{`"mood":`, "data.analysis.mood"},
		{`"score":`, "data.analysis.score"},
		{`"callOutcome":`, "data.analysis.call_outcome"},
		{`"classification":`, "data.analysis.classification"},
		{`"interestsAndNeeds":`, "data.analysis.interests_and_needs"},
		{`"actionItems":`, "data.analysis.action_items"},
		{`"sentiment":`, "data.analysis.sentiment"},
	}
)

// appendFields appends the fields that the event has, each with a comma behind it.
func appendFields(dst []byte, e *event.Event, fields []postCallField) []byte {
	for _, f := range fields {
		if v, ok := e.Lookup(f.path); ok {
			dst = append(dst, f.key...)
			dst = v.AppendJSON(dst)
			dst = append(dst, ',')
		}
	}
	return dst
}

func appendGroup(dst []byte, e *event.Event, key string, fields []postCallField) []byte {
	before := len(dst)
	dst = append(dst, key...)
	inside := len(dst)
	if dst = appendFields(dst, e, fields); len(dst) == inside {
		return dst[:before]
	}
	dst[len(dst)-1] = '}'
	return append(dst, ',')
}
