package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// deliveriesOf returns what the history tells of a subscription's deliveries, by event, once there are n in that state.
func deliveriesOf(t *testing.T, tn tenant, sub, state string, n int) map[string]delivery {
	t.Helper()
	found := map[string]delivery{}
	eventually(t, fmt.Sprintf("%d are %s", n, state), func() error {
		clear(found)
		query := url.Values{"subscription_id": {sub}, "state": {state}, "limit": {"500"}}
		for _, d := range decode[struct{ Items []delivery }](t, tn.must(200, http.MethodGet, "/v1/deliveries?"+query.Encode(), nil)).Items {
			found[d.EventID] = d
		}
		if len(found) != n {
			return fmt.Errorf("it is %d", len(found))
		}
		return nil
	})
	return found
}

// S1-02: the first event of each call goes out, the others are skipped and explained.
func limitsFrequency(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook := hooktest.Start(t, hooktest.Options{})
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "frequency": object{"per": "call", "max": 1, "window": "10m"}})
	var events []object
	for i := range 12 {
		events = append(events, ended(fmt.Sprint("fq-", i%2), object{"id": fmt.Sprint("fq-event-", i)}))
	}
	tn.post(events)
	skipped := deliveriesOf(t, tn, sub.ID, "skipped", 10)
	for id, d := range skipped {
		assert.Equal(t, "frequency", d.Reason, id)
	}
	sent := deliveriesOf(t, tn, sub.ID, "delivered", 2)
	require.Contains(t, sent, "fq-event-0")
	require.Contains(t, sent, "fq-event-1")
	assert.Equal(t, 2, hook.Total())
}
