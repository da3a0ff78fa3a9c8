// Package scope decides what of an event a subscription gets: which members, how much of the transcript, and what of it
// is redacted. It is compiled when a subscription is, and applied before an event is rendered; filters see the whole event.
package scope

import (
	"fmt"

	"github.com/callstream/callstream/schemas/event"
)

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
	Index  int    // in the member's list; -1 for transcript and for a list as a whole
	Detail string
}

// How much of a transcript is sent.
const (
	transcriptFull    = "full"
	transcriptSnippet = "snippet"
	transcriptNone    = "none"
)

// maxEntries bounds each list of the rules.
const maxEntries = 200

// Scope is what Compile made of Rules. A nil Scope leaves events alone. It is safe for concurrent use.
type Scope struct {
	edit     *event.Edit
	patterns *patterns
	snippet  *snippet // nil where none is to be made
}

// Compile checks the rules and prepares them. It returns everything that is wrong with them, and a nil Scope where they
// ask for nothing.
func Compile(r Rules) (*Scope, []Fault) {
	var faults []Fault
	fault := func(member string, index int, detail string) {
		faults = append(faults, Fault{Member: member, Index: index, Detail: detail})
	}
	tree := &place{}
	for _, list := range [...]struct {
		member string
		paths  []string
		mark   func(*place)
	}{
		{"include", r.Include, func(p *place) { p.included = true }},
		{"exclude", r.Exclude, func(p *place) { p.excluded = true }},
	} {
		if len(list.paths) > maxEntries {
			fault(list.member, -1, fmt.Sprintf("more than %d", maxEntries))
			continue
		}
		for i, path := range list.paths {
			segments, detail := parsePath(path)
			if detail == "" && list.member == "exclude" && identity(segments[0]) {
				detail = "identifies the event and always stays"
			}
			if detail != "" {
				fault(list.member, i, detail)
				continue
			}
			list.mark(tree.at(segments))
		}
	}
	hide := redaction{}
	if len(r.Redact) > maxEntries {
		fault("redact", -1, fmt.Sprintf("more than %d", maxEntries))
	} else {
		for i, entry := range r.Redact {
			if detail := hide.add(entry); detail != "" {
				fault("redact", i, detail)
			}
		}
	}
	var cut *snippet
	switch r.Transcript {
	case "", transcriptFull:
	case transcriptSnippet:
		cut = newSnippet(tree, len(r.Include) > 0, &hide)
		tree.at(textPath).excluded = true
	case transcriptNone:
		tree.at(textPath).excluded = true
		tree.at(snippetPath).excluded = true
	default:
		fault("transcript", -1, "want full, snippet or none")
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if len(tree.below) == 0 && hide.empty() {
		return nil, nil
	}
	root := func(topic string) *event.Rule {
		t := tree.clone()
		for _, path := range hide.fields(topic) {
			t.at(path).redacted = true
		}
		return t.rule(len(r.Include) == 0, false)
	}
	return &Scope{edit: event.NewEdit(root), patterns: &hide.patterns, snippet: cut}, nil
}

// Apply returns what the subscription gets of e: e itself where no rule concerns it, else a copy. The envelope's
// identity is never changed.
func (s *Scope) Apply(e *event.Event) *event.Event {
	if s == nil {
		return e
	}
	var scrub event.Scrubber
	if !s.patterns.empty() {
		scrub = s.patterns.scrubber()
	}
	out := s.edit.Apply(e, scrub)
	if s.snippet != nil {
		s.snippet.add(out, e)
	}
	return out
}
