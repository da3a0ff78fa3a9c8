// Package catalog describes every event type: what it means, the JSON Schema of its events, and a realistic sample. The
// types themselves and their fields come from the Avro schemas; a test keeps both lists the same.
package catalog

import (
	"embed"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/callstream/callstream/schemas/event"
)

// Type is one event type.
type Type struct {
	Name        string
	Topic       string
	Title       string
	Description string
	Sample      json.RawMessage // a whole event
}

//go:embed samples/*.json
var samples embed.FS

// Types returns every event type, in the order of the topics and their schemas.
func Types() []Type {
	all := make([]Type, 0, len(texts))
	for _, t := range texts {
		all = append(all, t.full())
	}
	return all
}

// Lookup returns an event type by its name.
func Lookup(name string) (Type, bool) {
	for _, t := range texts {
		if t.name == name {
			return t.full(), true
		}
	}
	return Type{}, false
}

func (t text) full() Type {
	sample, err := samples.ReadFile("samples/" + t.name + ".json")
	if err != nil {
		panic(err) // the files are in the program; a test reads each
	}
	return Type{Name: t.name, Topic: event.TopicOf(t.name), Title: t.title, Description: t.description, Sample: sample}
}

// Match reports whether a pattern (an exact type, "family.*" or "*") covers an event type.
func Match(pattern, typ string) bool {
	if pattern == "*" || pattern == typ {
		return true
	}
	family, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasSuffix(family, ".") && strings.HasPrefix(typ, family)
}

// ValidPattern explains why a pattern can match nothing: it is neither "*", nor the name of a type of the catalogue, nor
// "family.*" of a family that has one.
func ValidPattern(p string) error {
	for _, t := range texts {
		if Match(p, t.name) {
			return nil
		}
	}
	return fmt.Errorf("%q is neither an event type of the catalogue, nor family.* of one, nor *", p)
}
