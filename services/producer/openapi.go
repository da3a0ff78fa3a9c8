package producer

import (
	_ "embed"
	"slices"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the path item of /v1/events for an OpenAPI 3.1 document, as JSON. It names no components but the security
// scheme "key", so it can be merged into any document that has one.
func OpenAPI() []byte { return slices.Clone(openAPI) }

// openAPIDocument is the whole document of a producer that runs by itself.
func openAPIDocument() []byte {
	return slices.Concat([]byte(`{"openapi": "3.1.0", "info": {"title": "callstream producer", "version": "1"},
"components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key, cs_…"}}},
"paths": {"/v1/events": `), openAPI, []byte("}}"))
}
