package payload

import (
	"sync"

	"github.com/callstream/callstream/schemas/topic"
)

// dialerShape is the profile dialer: one flat object in camelCase, which works in a query string as well as in a body.
// Groups are flattened; what the catalogue does not declare comes under its own name, objects as they are.
var dialerShape = sync.OnceValue(func() *shape {
	s := &shape{
		event: "event", id: "eventId", time: "timestamp", tenant: "tenant", source: "source", call: "callId", agent: "agentId",
		sequence: "sequence", test: "test", attributes: "attributes",
		types: map[string]string{
			"call.started":         "callStarted",
			"call.ringing":         "callRinging",
			"call.answered":        "callAnswered",
			"call.ended":           "callEnded",
			"call.failed":          "callFailed",
			"call.queued":          "callQueued",
			"call.summary":         "webphoneSummary",
			"disposition.updated":  "dispositionUpdated",
			"escalation.requested": "escalationRequested",
			"transcript.ready":     "transcriptReady",
			"sms.sent":             "smsSent",
			"sms.received":         "smsReceived",
		},
	}
	return s.prepared(map[string]string{
		topic.CallsEvents: dialerCall, topic.MessagesEvents: dialerMessage, topic.AgentsEvents: dialerAgent,
		topic.SystemEvents: dialerSystem, topic.OwnEvents: dialerOwn,
	})
})

// The dialer's names of the fields, one table for each topic. A group's own members beyond the declared ones stay in an
// object with the group's name.
const (
	dialerCall = `
direction status fromNumber=from_number fromName=from_name toNumber=to_number toName=to_name participants
route queue queuePosition=queue_position agentName=agent_name campaignId=campaign_id
startedAt=started_at answeredAt=answered_at endedAt=ended_at durationMs=duration_ms waitMs=wait_ms ringMs=ring_ms
talkMs=talk_ms holdMs=hold_ms endReason=end_reason endedBy=ended_by errorCode=error_code errorMessage=error_message
answeredBy=answered_by transferTo=transfer_to transferMode=transfer_mode transferRecipient=transfer_recipient
transferReason=transfer_reason sessionId=session_id legId=leg_id parentCallId=parent_call_id costMicros=cost_micros currency
transcript=transcript_text transcriptSnippet=transcript_snippet transcriptUri=transcript_uri
transcriptConfidence=transcript_confidence isPartial=is_partial language recordingUri=recording_uri
recordingFormat=recording_format recordingDurationMs=recording_duration_ms score scorecard intents
intentConfidence=intent_confidence tags disposition dispositionCode=disposition_code dispositionKind=disposition_kind
outcomeSkipped=outcome_skipped agentNotes=notes aiSummary=ai_summary priority escalationReason=escalation_reason
riskFlag=risk_flag callbackWindowStart=callback_window_start callbackWindowEnd=callback_window_end
callbackContactToken=callback_contact_token schedulingToken=scheduling_token caseId=case_id leadId=lead_id claimId=claim_id
claimStatus=claim_status nextStep=next_step reviewReason=review_reason fields
callerName=caller_name callerPhoneNumber=caller_phone_number callerEmail=caller_email callerScheduledTime=caller_scheduled_time
callerAddress=caller_address callerPincode=caller_pincode callerCity=caller_city callerState=caller_state
callerCountry=caller_country callerAge=caller_age callerGender=caller_gender callerOccupation=caller_occupation
callerCompany=caller_company callerPreferredContactMethod=caller_preferred_contact_method
callerBestTimeToCall=caller_best_time_to_call callerLanguage=caller_language
analysisSummary=analysis_summary analysisMood=analysis_mood analysisScore=analysis_score
analysisCallOutcome=analysis_call_outcome analysisClassification=analysis_classification
analysisInterestsAndNeeds=analysis_interests_and_needs analysisActionItems=analysis_action_items
analysisSentiment=analysis_sentiment
transfer{ +transfer } callback{ +callback } caller{ +caller } analysis{ +analysis } +data`

	dialerMessage = `
direction fromNumber=from_number fromName=from_name toNumber=to_number toName=to_name body status messageId=message_id
chatId=chat_id channel segments mediaUris=media_uris agentName=agent_name startedAt=started_at endedAt=ended_at
durationMs=duration_ms messageCount=message_count endReason=end_reason errorCode=error_code errorMessage=error_message
costMicros=cost_micros currency language tags +data`

	dialerAgent = `
agentName=agent_name status previousStatus=previous_status reason changes changedBy=changed_by configVersion=config_version
metric threshold observed unit windowStart=window_start windowEnd=window_end severity +data`

	dialerSystem = `
resourceType=resource_type resourceId=resource_id resourceName=resource_name affectedResources=affected_resources
userId=user_id action status previousStatus=previous_status phoneNumber=phone_number description severity details
windowStart=window_start windowEnd=window_end +data`

	dialerOwn = `
subscriptionId=subscription_id subscriptionVersion=subscription_version deliveryId=delivery_id deliveredEventId=event_id
deliveredEvent=event_type attempts httpStatus=http_status errorClass=error_class error reason alertId=alert_id
alertKind=alert_kind severity topic partition offset firstFailedAt=first_failed_at lastFailedAt=last_failed_at +data`
)
