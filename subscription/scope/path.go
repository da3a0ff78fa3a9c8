package scope

import (
	"maps"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
)

// maxPath is the length of the longest path, in bytes.
const maxPath = 512

// parsePath splits a dotted path. detail says what is wrong with it.
func parsePath(path string) (segments []string, detail string) {
	switch {
	case path == "":
		return nil, "is empty"
	case len(path) > maxPath:
		return nil, "is too long"
	case !utf8.ValidString(path) || strings.ContainsFunc(path, unicode.IsControl):
		return nil, "has a control character"
	case path[0] == '/':
		return nil, "want member names joined by dots, such as data.caller.phone_number"
	}
	segments = strings.Split(path, ".")
	if last := len(segments) - 1; last > 0 && segments[last] == "*" {
		segments = segments[:last]
	}
	for _, s := range segments {
		if s == "" {
			return nil, "has an empty name: want member names joined by dots"
		}
		if s == "*" {
			return nil, "a * stands for names at the end only, behind a dot; arrays are passed through without one"
		}
	}
	switch first := segments[0]; {
	case (identity(first) || scalar(first)) && len(segments) > 1:
		return nil, first + " has no members"
	case envelope(first):
	case declared(segments):
		return nil, "is a member of data: want data." + path
	}
	return segments, ""
}

// identity tells the members of the envelope that every subscription gets.
func identity(name string) bool {
	switch name {
	case "id", "type", "time", "tenant", "sequence", "test":
		return true
	}
	return false
}

// scalar tells the other members of the envelope that are strings.
func scalar(name string) bool {
	switch name {
	case "source", "call_id", "agent_id", "traceparent":
		return true
	}
	return false
}

func envelope(name string) bool {
	return identity(name) || scalar(name) || name == "data" || name == "attributes"
}

// declared reports whether data declares such a member, so that who leaves data out of a path hears of it instead of
// sending what was meant to stay.
func declared(segments []string) bool {
	pointer := "/data/" + strings.Join(segments, "/")
	for _, name := range topic.Events() {
		for _, f := range event.Fields(name) {
			if f.Pointer == pointer || strings.HasPrefix(f.Pointer, pointer+"/") {
				return true
			}
		}
	}
	return false
}

// place is a place in an event that a rule names, or that lies above one.
type place struct {
	included, excluded, redacted bool
	below                        map[string]*place
}

// at returns the place of a path.
func (p *place) at(segments []string) *place {
	for _, s := range segments {
		next := p.below[s]
		if next == nil {
			next = &place{}
			if p.below == nil {
				p.below = map[string]*place{}
			}
			p.below[s] = next
		}
		p = next
	}
	return p
}

// sends reports whether a path below p is sent. covered says that p is.
func (p *place) sends(segments []string, covered bool) bool {
	for _, s := range segments {
		if p = p.below[s]; p == nil {
			return covered
		}
		if p.excluded {
			return false
		}
		covered = covered || p.included
	}
	return covered
}

func (p *place) clone() *place {
	c := *p
	c.below = maps.Clone(p.below)
	for name, below := range c.below {
		c.below[name] = below.clone()
	}
	return &c
}

// rule is the place as a rule for editing. covered says that it is included, redacted that it is hidden.
func (p *place) rule(covered, redacted bool) *event.Rule {
	covered, redacted = covered || p.included, redacted || p.redacted
	r := &event.Rule{Drop: p.excluded, Sift: !covered, Redact: redacted}
	if p.excluded {
		return r
	}
	for name, below := range p.below {
		member := below.rule(covered, redacted)
		switch {
		case member == nil && r.Sift:
			member = &event.Rule{} // stays
		case member == nil || member.Drop && r.Sift:
			continue
		}
		if r.Members == nil {
			r.Members = map[string]*event.Rule{}
		}
		r.Members[name] = member
	}
	switch {
	case len(r.Members) > 0 || covered && redacted:
		return r
	case covered:
		return nil
	}
	return &event.Rule{Drop: true}
}
