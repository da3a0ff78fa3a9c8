package scope

import (
	"slices"
	"strings"

	"github.com/callstream/callstream/schemas/event"
)

// redaction is what the entries of redact ask for.
type redaction struct {
	classes  []string // of declared fields, whose values are hidden whole
	patterns patterns
}

// add adds an entry, or says what is wrong with it.
func (h *redaction) add(entry string) (detail string) {
	switch entry {
	case "phone":
		h.patterns.phone = true
	case "email":
		h.patterns.email = true
	case "payment":
		h.patterns.card = true
	case "card":
		h.patterns.card = true
		return ""
	case "ssn":
		h.patterns.ssn = true
		return ""
	case "name", "address", "speech":
	default:
		if len(entry) > 0 && entry[0] == '/' {
			return h.patterns.addExpression(entry)
		}
		return "want phone, email, name, address, speech, payment, card, ssn or a /regular expression/"
	}
	h.classes = append(h.classes, entry)
	return ""
}

func (h *redaction) empty() bool { return len(h.classes) == 0 && h.patterns.empty() }

// fields are the paths of the declared fields of a topic that are hidden whole.
func (h *redaction) fields(topic string) [][]string {
	var paths [][]string
	for _, f := range event.Fields(topic) {
		for class := range strings.FieldsSeq(f.PII) {
			if slices.Contains(h.classes, class) {
				paths = append(paths, strings.Split(f.Pointer[1:], "/"))
				break
			}
		}
	}
	return paths
}
