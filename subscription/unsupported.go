package subscription

import (
	"encoding/json"
	"slices"

	"github.com/callstream/callstream/pkg/problem"
)

// A notYet is a member whose behaviour the pipeline does not have yet. Accepting it would promise something that does
// not happen, so any value but those that mean "without" is refused.
type notYet struct {
	path []string
	// works are the values that are supported; an absent, null, empty, zero or false one always is.
	works []string
}

// unsupported is the list to shorten as the pipeline learns more: remove the line, or add the value.
func unsupported() []notYet {
	return []notYet{
		{[]string{"frequency"}, nil},
		{[]string{"batch"}, nil},
		{[]string{"rate_limit"}, nil},
		{[]string{"ordering"}, []string{OrderingNone}},
		{[]string{"fallback_url"}, nil},
		{[]string{"capture_response"}, nil},
		{[]string{"verification"}, []string{string(VerifyChallenge), string(VerifyManual), string(VerifyAck)}},
		{[]string{"auth", "type"}, []string{AuthNone, AuthBearer, AuthBasic, AuthAPIKey}},
		{[]string{"signing", "scheme"}, []string{SigningHMAC}},
		{[]string{"payload", "profile"}, []string{ProfileStandard, ProfilePostCall}},
		{[]string{"payload", "include"}, nil},
		{[]string{"payload", "exclude"}, nil},
		{[]string{"payload", "transcript"}, []string{"full"}},
		{[]string{"payload", "redact"}, nil},
		{[]string{"payload", "extra"}, nil},
		{[]string{"payload", "template"}, nil},
		{[]string{"request", "method"}, []string{"POST"}},
		{[]string{"request", "routes"}, nil},
	}
}

// refuseUnsupported notes a fault for each member of the document that would not be obeyed. Values that are no values of
// the member at all are left to validation, which says what they could be.
func refuseUnsupported(dec *decoder, object map[string]any) {
	for _, n := range unsupported() {
		at, v := pointer(""), any(object)
		for _, name := range n.path {
			m, _ := v.(map[string]any)
			at, v = at.member(name), m[name]
		}
		if emptyValue(v) {
			continue
		}
		if s, ok := v.(string); ok && slices.Contains(n.works, s) {
			continue
		}
		detail := "it isn't supported yet"
		if len(n.works) > 0 {
			detail = "only " + join(n.works) + " is supported yet"
		}
		dec.faults = append(dec.faults, problem.Fault{Pointer: problem.Pointer(string(at)), Detail: detail})
	}
}

func emptyValue(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		f, err := v.Float64()
		return err == nil && f == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func join(words []string) string {
	out := words[0]
	for i, w := range words[1:] {
		if i == len(words)-2 {
			out += " or " + w
		} else {
			out += ", " + w
		}
	}
	return out
}
