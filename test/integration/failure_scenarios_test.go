package integration

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// S1-11: what an endpoint fails at for good goes to an alternative one, and the history shows where each attempt went.
func fallsBack(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	primary := hooktest.Start(t, hooktest.Options{Answer: hooktest.Always(hooktest.Answer{Status: 503})})
	spare := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": primary.URL(), "fallback_url": spare.URL() + "/spare", "events": []string{"call.*"},
		"auth":  object{"type": "bearer", "token": "for-the-primary"},
		"retry": object{"schedule": []string{"200ms"}, "max_attempts": 2}})
	tn.post(ended("fb", object{"id": "fb-1"}))
	got := await(t, spare, 1)[0]
	verify(t, sub.Secret, got)
	assert.Equal(t, "/spare", got.Path)
	assert.Equal(t, "true", got.Header.Get("Webhook-Fallback"))
	assert.Empty(t, got.Header.Get("Authorization"))
	assert.Equal(t, 3, got.Attempt)
	tried := await(t, primary, 2)
	assert.Equal(t, tried[0].ID, got.ID)
	assert.Equal(t, string(tried[0].Body), string(got.Body))
	assert.Equal(t, "Bearer for-the-primary", tried[0].Header.Get("Authorization"))

	delivered := tn.awaitDelivery("fb-1", sub.ID, "delivered", "")
	assert.Equal(t, "fallback", delivered.Via)
	one := decode[struct {
		Log []struct{ Via, Reason string } `json:"attempt_log"`
	}](t, tn.must(200, http.MethodGet, "/v1/deliveries/"+delivered.ID, nil)).Log
	require.Len(t, one, 3)
	assert.Equal(t, []string{"primary", "primary", "fallback"}, []string{one[0].Via, one[1].Via, one[2].Via})
	assert.Equal(t, "fallback", one[1].Reason)
	assert.Equal(t, 2, primary.Total())
}
