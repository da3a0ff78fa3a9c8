package payload

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/callstream/callstream/subscription"
)

// AnswerProblem says what is wrong with the body that an endpoint answered an event with, and "" where nothing is. To the
// profile dialer's callStarted and callRinging the answer has a shape, which is what an agent sees while the phone rings;
// every other answer should be JSON. Its text names places and never repeats what it found there.
func AnswerProblem(profile, eventType string, body []byte) string {
	if len(body) == 0 {
		return "it is empty"
	}
	if profile == subscription.ProfileDialer && (eventType == "call.started" || eventType == "call.ringing") {
		return dialerAnswerProblem(body)
	}
	if !json.Valid(body) {
		return "it is not JSON"
	}
	return ""
}

// dialerAnswerProblem checks {"success": bool, "contact": {id, crmType, phoneNumber, callId, fields: [{title, value, isWebsite}]}}.
// An endpoint that doesn't know who is calling answers success false, and needs no contact. Members beyond these are kept.
func dialerAnswerProblem(body []byte) string {
	if !json.Valid(body) {
		return "it is not JSON"
	}
	var answer map[string]json.RawMessage
	if json.Unmarshal(body, &answer) != nil || answer == nil {
		return "want an object"
	}
	var success *bool
	if json.Unmarshal(answer["success"], &success) != nil || success == nil {
		return "/success: want true or false"
	}
	if absent(answer["contact"]) {
		if *success {
			return "/contact: want it where success is true"
		}
		return ""
	}
	var contact map[string]json.RawMessage
	if json.Unmarshal(answer["contact"], &contact) != nil {
		return "/contact: want an object"
	}
	for _, name := range []string{"id", "crmType", "phoneNumber", "callId"} {
		if problem := textProblem(contact[name], false); problem != "" {
			return "/contact/" + name + ": " + problem
		}
	}
	if absent(contact["fields"]) {
		return ""
	}
	var fields []map[string]json.RawMessage
	if json.Unmarshal(contact["fields"], &fields) != nil {
		return "/contact/fields: want a list of objects"
	}
	for i, field := range fields {
		at := fmt.Sprintf("/contact/fields/%d", i)
		for _, name := range []string{"title", "value"} {
			if problem := textProblem(field[name], true); problem != "" {
				return at + "/" + name + ": " + problem
			}
		}
		var website bool
		if !absent(field["isWebsite"]) && json.Unmarshal(field["isWebsite"], &website) != nil {
			return at + "/isWebsite: want true or false"
		}
		var value string
		if website && (json.Unmarshal(field["value"], &value) != nil || !webAddress(value)) {
			return at + "/value: want an http or https URL, because isWebsite is true"
		}
	}
	return ""
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func textProblem(raw json.RawMessage, required bool) string {
	var text string
	switch {
	case absent(raw) && required:
		return "want a string"
	case !absent(raw) && json.Unmarshal(raw, &text) != nil:
		return "want a string"
	}
	return ""
}

// webAddress says whether a text may become a link on somebody's screen: a script, or a file of that machine, may not.
func webAddress(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (strings.EqualFold(u.Scheme, "http") || strings.EqualFold(u.Scheme, "https")) && u.Host != ""
}
