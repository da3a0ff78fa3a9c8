package declare_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/services/callstream/declare"
)

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	raw, err := declare.Schema()
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("subscriptions.schema.json", doc))
	schema, err := c.Compile("subscriptions.schema.json")
	require.NoError(t, err)
	return schema
}

// P-19: the published schema takes what apply takes, and sees the mistakes that a schema can see.
func TestSchemaAgreesWithTheReader(t *testing.T) {
	schema := compiled(t)
	for name, c := range map[string]struct {
		entry string
		good  bool
	}{
		"least": {`{"name": "A", "url": "https://a.example.com", "events": ["*"]}`, true},
		"much": {`{"name": "A", "was": "B", "url": "https://a.example.com", "events": ["call.*"], "agents": ["a-1"], "filter": "event.type == 'call.ended'",
			"payload": {"profile": "dialer", "extra": {"env": {"deep": [1, "x", true]}}, "redact": ["phone"]},
			"request": {"method": "POST", "routes": {"call.started": "/started"}, "headers": {"X-Team": "crm"}, "timeout": "5.5s"},
			"auth": {"type": "basic", "username": "u", "password": {"env": "P"}}, "signing": {"scheme": "hmac", "secret": {"file": "/run/secrets/x"}},
			"retry": {"schedule": ["5s", "1.5h", "7d"], "max_attempts": 4, "retry_on": ["timeout"]}, "ttl": {"default": "24h", "call.ringing": "1m"},
			"max_in_flight": 3, "spread": 2, "position": -4, "lane": "standard", "verification": "ack", "activate": false}`, true},
		"one ttl":          {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "ttl": "24h"}`, true},
		"no name":          {`{"url": "https://a.example.com", "events": ["*"]}`, false},
		"no url":           {`{"name": "A", "events": ["*"]}`, false},
		"no events":        {`{"name": "A", "url": "https://a.example.com"}`, false},
		"unknown member":   {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "colour": "red"}`, false},
		"read-only member": {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "state": "active"}`, false},
		"read-only within": {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "signing": {"public_key": "whpk_x"}}`, false},
		"literal secret":   {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "auth": {"type": "bearer", "token": "t"}}`, false},
		"two references":   {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "auth": {"type": "bearer", "token": {"env": "A", "file": "b"}}}`, false},
		"no duration":      {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "request": {"timeout": "soon"}}`, false},
		"no such profile":  {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "payload": {"profile": "fancy"}}`, false},
		"no such method":   {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "request": {"method": "PUT"}}`, false},
		"too many":         {`{"name": "A", "url": "https://a.example.com", "events": ["*"], "max_in_flight": 100000}`, false},
		"a string of it":   {`{"name": "A", "url": "https://a.example.com", "events": "*"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			text := `{"subscriptions": [` + c.entry + `]}`
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(text)))
			require.NoError(t, err)
			_, loadErr := declare.Load(declare.Source{Name: "a.json", Raw: []byte(text)})
			schemaErr := schema.Validate(doc)
			if c.good {
				require.NoError(t, schemaErr)
				require.NoError(t, loadErr)
			} else {
				require.Error(t, schemaErr)
				require.Error(t, loadErr)
			}
		})
	}
}

// Every member that the model takes is in the schema, with words for whoever fills it in.
func TestSchemaDescribesEveryMember(t *testing.T) {
	var schema struct {
		Defs map[string]struct {
			Properties map[string]struct{ Description, Ref string }
		} `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(must(declare.Schema()), &schema))
	require.Greater(t, len(schema.Defs), 8)
	for def, s := range schema.Defs {
		for name, p := range s.Properties {
			require.NotEmpty(t, p.Description, "%s.%s", def, name)
		}
	}
}
