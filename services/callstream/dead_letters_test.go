package callstream

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// P-08, S0-25: at a shell, what was given up is seen and searched, and sent again when its endpoint is mended.
func TestTheDeadAreRedriven(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	sub := up.created(t, "--url", endpoint.URL, "--events", "call.ended").ID
	endpoint.fails = true
	up.post(t, `[{"type": "call.ended", "id": "evt_1", "call_id": "c-1"}, {"type": "call.ended", "id": "evt_2", "call_id": "c-1"}]`)
	up.became(t, "c-1", map[string]int{"dead": 2})
	var page struct{ Items []deadLetterView }
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		r := up.run(t, "dlq", "list", "--subscription-id", sub, "--json")
		require.NoError(c, r.err)
		require.NoError(c, json.Unmarshal([]byte(r.out), &page))
		require.Len(c, page.Items, 2)
	}, time.Minute, 20*time.Millisecond)

	require.Regexp(t, `(?m)call\.ended  c-1 +`+sub+`  rejected.*418.*, 1 attempt +– +dlq_\d_\d`, up.run(t, "dlq", "list", "--reason", "rejected", "--since", "1h").out)
	require.Contains(t, up.run(t, "dlq", "list", "--until", "1h").out, "There are no such dead letters.")
	r := up.run(t, "dlq", "get", page.Items[0].ID)
	require.NoError(t, r.err)
	require.Regexp(t, `(?s)^id +dlq_\d_\d\nwhy +rejected.*── the request\nPOST .*"call_id":"c-1"`, r.out)

	require.Error(t, up.run(t, "dlq", "redrive").err)
	require.Error(t, up.run(t, "dlq", "redrive", page.Items[0].ID, "--all").err)
	require.ErrorContains(t, up.run(t, "dlq", "redrive", "--http-status", "many").err, "--http-status")
	require.NoError(t, up.run(t, "subscriptions", "pause", sub).err)
	r = up.run(t, "dlq", "redrive", "--subscription-id", sub, "--dry-run")
	require.NoError(t, r.err)
	require.Regexp(t, `^2 dead letters: 0 would be sent again, 2 would not\.\n  2 subscription_paused\n  dlq_`, r.out)
	endpoint.fails = false
	require.NoError(t, up.run(t, "subscriptions", "activate", sub).err)
	r = up.run(t, "dlq", "redrive", page.Items[0].ID)
	require.NoError(t, r.err)
	require.Regexp(t, `^rdr_\w+ is done: of 1 dead letter 1 sent again, 0 failed, 0 skipped\.\n$`, r.out)
	up.became(t, "c-1", map[string]int{"dead": 1, "delivered": 1})
	r = up.run(t, "dlq", "redrive", "--http-status", "418", "--redriven", "false", "--json")
	require.NoError(t, r.err)
	var done redriveView
	require.NoError(t, json.Unmarshal([]byte(r.out), &done))
	require.Equal(t, []any{"done", 1, 1}, []any{done.State, done.Total, done.Done})
	up.became(t, "c-1", map[string]int{"delivered": 2})
	require.Contains(t, up.run(t, "dlq", "list", "--redriven", "true").out, done.ID)
	require.Regexp(t, `(?m)  anonymous  done +1 +1 +0 +0 +0 +`+done.ID+`$`, up.run(t, "dlq", "redrives").out)
	require.Contains(t, up.run(t, "dlq", "cancel", done.ID).out, done.ID+" is done")
	require.Contains(t, up.run(t, "audit", "--kind", "redrive").out, "redriven")

	r = up.run(t, "deliveries", "retry", page.Items[0].DeliveryID)
	require.NoError(t, r.err)
	require.Regexp(t, `^Its event is rendered anew and sent by rpl_\w+\.\n$`, r.out)
	require.Error(t, up.run(t, "deliveries", "retry", "msg_none").err)
}
