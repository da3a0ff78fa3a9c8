package console

import (
	"bytes"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// described finds what the OpenAPI document says of an answer, as a pointer into it: the schema of its body. ok is false
// where the path is not in the document.
func described(doc map[string]any, method, target string, status int, mediaType string) (pointer string, ok bool) {
	target, _, _ = strings.Cut(target, "?")
	paths, _ := doc["paths"].(map[string]any)
	parts := strings.Split(target, "/")
	for path := range paths {
		pattern := strings.Split(path, "/")
		matches := len(pattern) == len(parts)
		for i := 0; matches && i < len(parts); i++ {
			matches = pattern[i] == parts[i] || strings.HasPrefix(pattern[i], "{") && parts[i] != ""
		}
		if !matches || strings.Contains(path, "{") && paths[target] != nil {
			continue
		}
		if item, _ := paths[path].(map[string]any); item[strings.ToLower(method)] == nil {
			return "", false
		}
		escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace
		return "/paths/" + escape(path) + "/" + strings.ToLower(method) + "/responses/" + strconv.Itoa(status) + "/content/" + escape(mediaType) + "/schema", true
	}
	return "", false
}

// conforms checks an answer of the API against what its own document says of it.
func (h *harness) conforms(method, target string, a answer) {
	h.t.Helper()
	mediaType, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if !strings.HasPrefix(target, "/v1/") || len(a.body) == 0 || err != nil {
		return
	}
	h.schemas.mu.Lock()
	defer h.schemas.mu.Unlock()
	if h.schemas.compiler == nil {
		req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, h.url+"/openapi.json", http.NoBody)
		require.NoError(h.t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(h.t, err)
		defer resp.Body.Close()
		doc, err := jsonschema.UnmarshalJSON(resp.Body)
		require.NoError(h.t, err)
		h.schemas.doc, h.schemas.compiler = doc.(map[string]any), jsonschema.NewCompiler()
		require.NoError(h.t, h.schemas.compiler.AddResource("openapi.json", doc))
	}
	pointer, ok := described(h.schemas.doc, method, target, a.status, mediaType)
	if !ok {
		return
	}
	schema, err := h.schemas.compiler.Compile("openapi.json#" + pointer)
	require.NoError(h.t, err, "%s %s answers %d %s, which the document does not have", method, target, a.status, mediaType)
	body, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.body))
	require.NoError(h.t, err)
	require.NoError(h.t, schema.Validate(body), "%s %s answers %d, which is not as the document says: %s", method, target, a.status, a.body)
}
