package producer

import _ "embed"

//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the path item of /v1/events for an OpenAPI 3.1 document, as JSON. It names no components, so it can be
// merged into any document.
func OpenAPI() []byte { return append([]byte(nil), openAPI...) }
