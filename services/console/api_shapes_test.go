package console

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
)

// The document takes the patches that the API takes, null for what is to be removed at any depth, and refuses the ones
// that take away what a subscription can't be without.
func TestPatchesAreDescribed(t *testing.T) {
	h := start(t)
	path := "/v1/subscriptions/" + h.create(`{"url":"`+endpoint(t, obliging)+`","events":["*"],"name":"n","filter":"true","ttl":"1h","retry":{"max_attempts":3},"request":{"headers":{"X-A":"1"}}}`).str("id")
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(h.do("GET", "/openapi.json", "").is(200).body)))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("openapi.json", doc))
	schema, err := c.Compile("openapi.json#/components/schemas/SubscriptionPatch")
	require.NoError(t, err)
	for patch, status := range map[string]int{
		`{"name":null,"filter":null,"ttl":null,"agents":null,"ordering":null,"max_in_flight":null}`: http.StatusOK,
		`{"retry":{"max_attempts":null},"request":{"headers":{"X-A":null}}}`:                        http.StatusOK,
		`{"retry":null,"request":null,"payload":null,"auth":null}`:                                  http.StatusOK,
		`{"url":null}`:         http.StatusUnprocessableEntity,
		`{"events":null}`:      http.StatusUnprocessableEntity,
		`{"ordering":"never"}`: http.StatusUnprocessableEntity,
		`{"version":7}`:        http.StatusUnprocessableEntity,
	} {
		h.do("PATCH", path, patch).is(status)
		var body any
		require.NoError(t, json.Unmarshal([]byte(patch), &body))
		require.Equal(t, status == http.StatusOK, schema.Validate(body) == nil, "%s: %v", patch, schema.Validate(body))
	}
}

// Ids that look like steps through a path are ids like others, and a parameter that is given twice is refused.
func TestOddPathsAndParameters(t *testing.T) {
	h := start(t)
	for _, path := range []string{"/v1/events/.", "/v1/events/..", "/v1/calls/..", "/v1/deliveries/.", "/v1//subscriptions", "/v1/events/%2e%2e", "/v1/calls/%2E"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url, nil)
		require.NoError(t, err)
		req.URL.Path, req.URL.RawPath = strings.NewReplacer("%2e", ".", "%2E", ".").Replace(path), path
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusNotFound, resp.StatusCode, path)
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"), path)
	}
	h.do("GET", "/v1/deliveries?state=delivered", "").is(http.StatusOK)
	require.Contains(t, h.do("GET", "/v1/deliveries?state=delivered&state=dead", "").problem(http.StatusUnprocessableEntity).Detail, "state")
	h.do("GET", "/v1/subscriptions?limit=1&limit=2", "").problem(http.StatusUnprocessableEntity)
}
