// Package scope decides what of an event a subscription gets: which members, how much of the transcript, and what of it
// is redacted. It is compiled when a subscription is, and applied before an event is rendered; filters see the whole event.
package scope

import "github.com/callstream/callstream/schemas/event"

// Rules are the members of a subscription's payload that scope an event.
type Rules struct {
	Include    []string // dotted paths from the event's root; empty includes everything
	Exclude    []string // dotted paths; they win over Include
	Transcript string   // full, snippet or none; empty is full
	Redact     []string // classes of personal data, patterns by name, and /regular expressions/
}

// Fault is one thing that is wrong with Rules.
type Fault struct {
	Member string // include, exclude, transcript or redact
	Index  int    // in the member's list; -1 for transcript and for the list as a whole
	Detail string
}

// Scope is what Compile made of Rules. A nil Scope leaves events alone. It is safe for concurrent use.
type Scope struct{}

// Compile checks the rules and prepares them. It returns everything that is wrong with them, and a nil Scope where they
// ask for nothing.
func Compile(r Rules) (*Scope, []Fault) {
	return nil, nil
}

// Apply returns what the subscription gets of e: e itself where no rule concerns it, else a copy. The envelope's
// identity is never changed.
func (s *Scope) Apply(e *event.Event) *event.Event {
	return e
}
