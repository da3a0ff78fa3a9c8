package payload_test

import (
	"strings"
	"testing"

	"github.com/callstream/callstream/subscription/payload"
)

// S2-08: what a dialer's endpoint answers while the phone rings has a shape; any other answer is JSON.
func TestAnswerProblem(t *testing.T) {
	const whole = `{"success":true,"contact":{"id":"1","crmType":"CRM","phoneNumber":"1234567890","callId":"1111111111.11111","fields":[
		{"title":"CRM Lead URL","value":"https://crm-link","isWebsite":true},{"title":"Email","value":"jane@example.com"}]}}`
	for body, want := range map[string]string{
		whole: "",
		strings.Replace(whole, `"success":true`, `"success":true,"more":[1]`, 1): "",
		`{"success":false}`:                        "",
		`{"success":false,"contact":null}`:         "",
		`{"success":true,"contact":{}}`:            "",
		`{"success":true,"contact":{"fields":[]}}`: "",
		``:                                    "it is empty",
		`OK`:                                  "it is not JSON",
		`{"success":true`:                     "it is not JSON",
		`[]`:                                  "want an object",
		`null`:                                "want an object",
		`{}`:                                  "/success: want true or false",
		`{"success":null}`:                    "/success: want true or false",
		`{"success":"yes"}`:                   "/success: want true or false",
		`{"success":true}`:                    "/contact: want it where success is true",
		`{"success":true,"contact":[]}`:       "/contact: want an object",
		`{"success":true,"contact":{"id":1}}`: "/contact/id: want a string",
		`{"success":true,"contact":{"callId":{}}}`:                                                                      "/contact/callId: want a string",
		`{"success":true,"contact":{"fields":{}}}`:                                                                      "/contact/fields: want a list of objects",
		`{"success":true,"contact":{"fields":[1]}}`:                                                                     "/contact/fields: want a list of objects",
		`{"success":true,"contact":{"fields":[{"title":"a","value":"b"},{"value":"b"}]}}`:                               "/contact/fields/1/title: want a string",
		`{"success":true,"contact":{"fields":[{"title":"a","value":5}]}}`:                                               "/contact/fields/0/value: want a string",
		`{"success":true,"contact":{"fields":[{"title":"a","value":"b","isWebsite":"x"}]}}`:                             "/contact/fields/0/isWebsite: want true or false",
		`{"success":true,"contact":{"fields":[{"title":"a","value":"javascript:alert(1)","isWebsite":true}]}}`:          "/contact/fields/0/value: want an http or https URL, because isWebsite is true",
		`{"success":true,"contact":{"fields":[{"title":"a","value":"/relative","isWebsite":true}]}}`:                    "/contact/fields/0/value: want an http or https URL, because isWebsite is true",
		`{"success":true,"contact":{"fields":[{"title":"a","value":"no link","isWebsite":false,"color":"red"}, null]}}`: "/contact/fields/1/title: want a string",
	} {
		for _, eventType := range []string{"call.started", "call.ringing"} {
			if got := payload.AnswerProblem("dialer", eventType, []byte(body)); got != want {
				t.Errorf("%s: got %q, want %q", body, got, want)
			}
		}
	}
	for body, want := range map[string]string{`{"caseId":"c-1"}`: "", `7`: "", ``: "it is empty", `<html>`: "it is not JSON"} {
		for profile, eventType := range map[string]string{"dialer": "call.ended", "standard": "call.ringing"} {
			if got := payload.AnswerProblem(profile, eventType, []byte(body)); got != want {
				t.Errorf("%s to %s of %s: got %q, want %q", body, eventType, profile, got, want)
			}
		}
	}
}
