package catalog

import "encoding/json"

// JSONSchema returns the JSON Schema (2020-12) of the type's events.
func (t Type) JSONSchema() json.RawMessage { return nil }
