package payload

import (
	"sync"

	"github.com/callstream/callstream/schemas/topic"
)

// callbackShape is the profile callback: what a customer's system acts on stands at the top (what was extracted, the
// disposition, tokens and references), the transcription and the call's metadata in objects of their own. The data of
// events that aren't a call's comes as it is, as the metadata.
var callbackShape = sync.OnceValue(func() *shape {
	s := &shape{
		event: "event", id: "event_id", time: "timestamp", tenant: "tenant", source: "source", call: "call_id", agent: "agent_id",
		sequence: "sequence", test: "test", attributes: "attributes", whole: "metadata",
		types: map[string]string{
			"call.started":         "call_started",
			"call.ringing":         "call_ringing",
			"call.answered":        "call_answered",
			"call.ended":           "call_completed",
			"call.failed":          "call_failed",
			"call.queued":          "call_queued",
			"call.summary":         "call_summary",
			"disposition.updated":  "disposition_updated",
			"escalation.requested": "escalation_requested",
			"callback.scheduled":   "callback_scheduled",
			"case.requested":       "case_requested",
			"transcript.ready":     "transcript_ready",
		},
	}
	return s.prepared(map[string]string{topic.CallsEvents: callbackCall})
})

const callbackCall = `
intents intent_confidence
disposition disposition_code disposition_kind outcome_skipped
next_step status priority risk_flag escalation_reason review_reason
scheduling_token case_id lead_id claim_id claim_status
callback{
  preferred_window{ start=callback_window_start end=callback_window_end }
  contact_token=callback_contact_token +callback
}
recording_url=recording_uri
tags notes ai_summary fields
transcription{ text=transcript_text snippet=transcript_snippet url=transcript_uri confidence=transcript_confidence is_partial language }
metadata{
  direction from_number from_name to_number to_name participants
  route queue queue_position agent_name campaign_id session_id leg_id parent_call_id
  started_at answered_at ended_at duration_ms wait_ms ring_ms talk_ms hold_ms
  end_reason ended_by answered_by error_code error_message
  transfer{ to=transfer_to mode=transfer_mode recipient=transfer_recipient reason=transfer_reason +transfer }
  recording_format recording_duration_ms score scorecard cost_micros currency
  caller{
    name=caller_name phone_number=caller_phone_number email=caller_email scheduled_time=caller_scheduled_time
    address=caller_address pincode=caller_pincode city=caller_city state=caller_state country=caller_country age=caller_age
    gender=caller_gender occupation=caller_occupation company=caller_company
    preferred_contact_method=caller_preferred_contact_method best_time_to_call=caller_best_time_to_call
    language=caller_language +caller
  }
  analysis{
    summary=analysis_summary mood=analysis_mood score=analysis_score call_outcome=analysis_call_outcome
    classification=analysis_classification interests_and_needs=analysis_interests_and_needs
    action_items=analysis_action_items sentiment=analysis_sentiment +analysis
  }
  +data
}`
