package declare

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/callstream/callstream/subscription"
)

// Schema returns the JSON Schema (draft 2020-12) of a file. It is made from the model that the API's own description is
// made from.
func Schema() ([]byte, error) {
	const prefix = "#/$defs/"
	registry := huma.NewMapRegistry(prefix, huma.DefaultSchemaNamer)
	registry.RegisterTypeAlias(reflect.TypeFor[subscription.Duration](), reflect.TypeFor[duration]())
	registry.RegisterTypeAlias(reflect.TypeFor[subscription.TTL](), reflect.TypeFor[timeToLive]())
	registry.RegisterTypeAlias(reflect.TypeFor[subscription.Hidden](), reflect.TypeFor[secretReference]())
	entry := registry.SchemaFromRef(registry.Schema(reflect.TypeFor[subscription.Subscription](), true, "").Ref)
	for _, s := range registry.Map() {
		s.Required = nil // what has a default may be left out
		for name, property := range s.Properties {
			if property.ReadOnly {
				delete(s.Properties, name)
			}
		}
	}
	for _, name := range subscription.ReadOnly() {
		delete(entry.Properties, name)
	}
	entry.Required = []string{"name", "url", "events"}
	entry.Properties["name"].Description = "Tells which subscription is meant; unique in the files"
	entry.Properties["was"] = &huma.Schema{Type: huma.TypeString, Description: "The name that it had before, of one that is renamed"}
	raw, err := json.Marshal(map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "callstream subscriptions",
		"description": "What `callstream subscriptions apply -f` takes",
		"type":        "object",
		"required":    []string{"subscriptions"},
		"properties": map[string]any{
			"$schema":       map[string]any{"type": "string"},
			"subscriptions": map[string]any{"type": "array", "items": map[string]any{"$ref": prefix + "Subscription"}},
		},
		"patternProperties":    map[string]any{"^x-": map[string]any{"description": "What entries share, by anchors"}},
		"additionalProperties": false,
		"$defs":                registry.Map(),
	})
	if err != nil {
		return nil, fmt.Errorf("write the schema: %w", err)
	}
	return raw, nil
}

// duration, timeToLive and secretReference describe the types that JSON holds in a form of their own.
type (
	duration        struct{}
	timeToLive      struct{}
	secretReference struct{}
)

// Schema is huma's way to ask a type for its schema.
func (duration) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Pattern: `^(\d+(\.\d+)?d|(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+|0)$`, Examples: []any{"10s", "24h", "7d"}}
}

// Schema is huma's way to ask a type for its schema.
func (timeToLive) Schema(registry huma.Registry) *huma.Schema {
	one := duration{}.Schema(registry)
	return &huma.Schema{OneOf: []*huma.Schema{one, {
		Type: huma.TypeObject, AdditionalProperties: one,
		Description: "By event type or family, with a default",
		Examples:    []any{map[string]any{"default": "24h", "call.ringing": "1m"}},
	}}}
}

// Schema is huma's way to ask a type for its schema.
func (secretReference) Schema(huma.Registry) *huma.Schema {
	from := func(member, description string) *huma.Schema {
		one := 1
		return &huma.Schema{
			Type: huma.TypeObject, Required: []string{member}, AdditionalProperties: false,
			Properties: map[string]*huma.Schema{member: {Type: huma.TypeString, MinLength: &one, Description: description}},
		}
	}
	return &huma.Schema{
		Description: "Where the secret is; it does not belong in the file itself",
		OneOf:       []*huma.Schema{from("env", "An environment variable"), from("file", "A file; a relative path starts from this file's folder")},
	}
}
