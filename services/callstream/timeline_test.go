package callstream

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
)

// post sends events to the installation.
func (i *installation) post(t *testing.T, events string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.api+"/v1/events", strings.NewReader(events))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusAccepted, res.StatusCode)
}

// became waits until the deliveries of a call are in these numbers, by state.
func (i *installation) became(t *testing.T, call string, want map[string]int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		r := i.run(t, "deliveries", "list", "--call-id", call, "--json", "--limit", "0")
		require.NoError(c, r.err)
		var page struct{ Items []deliveryView }
		require.NoError(c, json.Unmarshal([]byte(r.out), &page))
		states := map[string]int{}
		for _, d := range page.Items {
			states[d.State]++
		}
		require.Equal(c, want, states)
	}, time.Minute, 20*time.Millisecond)
}

// P-07, S3-16, S3-19: what became of a call, an event and a delivery, for a person at a shell.
func TestWhatBecameOfACall(t *testing.T) {
	up, endpoint, failing := startUp(t), newEndpoint(t), newEndpoint(t)
	gets := up.created(t, "--url", endpoint.URL, "--events", "call.*").ID
	rejects := up.created(t, "--url", failing.URL, "--events", "call.ended").ID
	filters := up.created(t, "--url", endpoint.URL, "--events", "call.*", "--filter", "event.data.duration_ms > 5000").ID
	failing.fails = true
	up.post(t, `[{"type": "call.started", "id": "evt_1", "call_id": "c/1", "time": "2026-03-02T12:00:00Z"},
		{"type": "call.ended", "id": "evt_2", "call_id": "c/1", "time": "2026-03-02T12:01:05.5Z", "data": {"duration_ms": 1200}}]`)
	up.became(t, "c/1", map[string]int{"delivered": 2, "dead": 1, "skipped": 2})

	r := up.run(t, "calls", "get", "c/1")
	require.NoError(t, r.err)
	require.Regexp(t, `(?s)^call c/1, 2 events\n\n\S+ \S+  call\.started  evt_1\n.*\n +\+1m5\.5s  call\.ended  evt_2\n`, r.out)
	require.Regexp(t, `(?m)^    delivered  `+gets+`  200, 1 attempt, [\d.]+ ms$`, r.out)
	require.Regexp(t, `(?m)^    dead       `+rejects+`  rejected.*418, 1 attempt`, r.out)
	require.Regexp(t, `(?m)^    skipped    `+filters+`  missing_field .*duration_ms`, r.out)
	require.Regexp(t, `(?m)^    skipped    `+filters+`  filtered .*event\.data\.duration_ms > 5000`, r.out)

	r = up.run(t, "events", "get", "evt_2")
	require.NoError(t, r.err)
	require.Contains(t, r.out, `"duration_ms": 1200`)
	require.Regexp(t, `(?m)^dead +`+rejects, r.out)
	require.Error(t, up.run(t, "events", "get", "evt_2", "--source", "elsewhere").err)

	var page struct{ Items []deliveryView }
	r = up.run(t, "deliveries", "list", "--state", "dead", "--since", "1h", "--json")
	require.NoError(t, json.Unmarshal([]byte(r.out), &page))
	require.Len(t, page.Items, 1)
	require.Contains(t, up.run(t, "deliveries", "list", "--reason", "filtered").out, filters)
	require.Contains(t, up.run(t, "deliveries", "list", "--until", "1h").out, "There are no such deliveries.")
	r = up.run(t, "deliveries", "get", page.Items[0].ID)
	require.NoError(t, r.err)
	require.Regexp(t, `(?s)── attempt 1  .*\nPOST `+failing.URL+`.*Webhook-Id: .*"duration_ms":1200.*\n418 I'm a teapot\n`, r.out)

	r = up.run(t, "subscriptions", "stats", gets)
	require.NoError(t, r.err)
	require.Regexp(t, `(?m)^deliveries +2 delivered$`, r.out)
	require.Regexp(t, `(?m)^success +100\.00 %$`, r.out)
	require.Regexp(t, `(?m)^sent to +2 primary$`, r.out)
	require.Regexp(t, `(?m)^reasons +1 filtered, 1 missing_field$`, up.run(t, "subscriptions", "stats", filters, "--window", "1h").out)
	require.ErrorContains(t, up.run(t, "subscriptions", "stats", gets, "--window", "soon").err, "window")

	// An event sent before is one to try a subscription out with.
	require.Contains(t, up.run(t, "subscriptions", "preview", filters, "--event-id", "evt_2").out, "It would not be sent: filtered")
}

// P-07: what a pause has held back is sent when that is asked for, and once.
func TestActivateReplaysTheMissed(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	id := up.created(t, "--url", endpoint.URL, "--events", "call.*").ID
	require.NoError(t, up.run(t, "subscriptions", "pause", id).err)
	up.post(t, `[{"type": "call.started", "call_id": "c-1"}, {"type": "call.ended", "call_id": "c-1"}]`)
	up.became(t, "c-1", map[string]int{"skipped": 2})
	r := up.run(t, "subscriptions", "activate", id, "--replay-missed")
	require.NoError(t, r.err)
	require.Regexp(t, `^`+id+` is active\.\n2 events that it missed are sent now, marked webhook-replay: rpl_\w+\.\n$`, r.out)
	up.became(t, "c-1", map[string]int{"delivered": 2})
	require.Contains(t, up.run(t, "subscriptions", "activate", id, "--replay-missed").out, "It has missed nothing that could be sent.\n")
	require.Equal(t, id+" is active.\n", up.run(t, "subscriptions", "activate", id).out)
}

// P-14, P-17: the history is made again from the topics by one command, and the doctor sees how far it is.
func TestHistoryIsRebuilt(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	up.created(t, "--url", endpoint.URL, "--events", "call.*")
	up.post(t, `[{"type": "call.started", "id": "evt_1", "call_id": "c-1"}, {"type": "call.ended", "id": "evt_2", "call_id": "c-1"}]`)
	up.became(t, "c-1", map[string]int{"delivered": 2})
	status := func() (s struct{ Generation, Events, Deliveries, Behind int64 }) {
		r := command(t, "history", "status", "--json", "--data-dir", up.dir)
		require.NoError(t, r.err)
		require.NoError(t, json.Unmarshal([]byte(r.out), &s))
		return s
	}
	// The third event tells of the endpoint, and nobody asked for that.
	before := status()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		before = status()
		require.EqualValues(c, []int64{3, 2, 0}, []int64{before.Events, before.Deliveries, before.Behind})
	}, time.Minute, 20*time.Millisecond)
	findings, err := examined(t, "--data-dir", up.dir)
	require.NoError(t, err)
	require.Equal(t, statusOK, findings["history"].Status)
	require.Contains(t, findings["history"].Detail, " records behind")
	require.Equal(t, "1 subscription, and each can be read", findings["subscriptions"].Detail)

	r := command(t, "history", "rebuild", "--data-dir", up.dir)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "The history begins again")
	up.became(t, "c-1", map[string]int{"delivered": 2})
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		after := status()
		require.Greater(c, after.Generation, before.Generation)
		require.Equal(c, before.Events, after.Events)
		require.Zero(c, after.Behind)
	}, time.Minute, 20*time.Millisecond)
	r = command(t, "history", "status", "--data-dir", up.dir)
	require.NoError(t, r.err)
	require.Contains(t, r.out, "3 events and 2 deliveries, 0 records behind.\n")
	require.Regexp(t, `(?m)^calls\.events +0$`, r.out)
}

// The doctor sees subscriptions that no service could act on.
func TestDoctorReadsEverySubscription(t *testing.T) {
	up, endpoint := startUp(t), newEndpoint(t)
	up.created(t, "--url", endpoint.URL, "--events", "call.*")
	up.created(t, "--url", endpoint.URL, "--events", "call.*", "--filter", "event.data.score > 1.0")
	up.stop()
	findings, err := examined(t, "--data-dir", up.dir)
	require.Error(t, err, "nothing runs any more")
	require.Equal(t, "2 subscriptions, and each can be read", findings["subscriptions"].Detail)
	require.Equal(t, statusSkip, findings["history"].Status)

	t.Setenv("CALLSTREAM_ENCRYPTION_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	findings, _ = examined(t, "--data-dir", up.dir)
	require.Equal(t, statusFail, findings["subscriptions"].Status)
	require.Contains(t, findings["subscriptions"].Detail, "the secrets of 2 subscriptions were sealed with another key")
	require.Contains(t, findings["subscriptions"].Mend, "CALLSTREAM_ENCRYPTION_KEY")

	// What another release has written, say.
	t.Setenv("CALLSTREAM_ENCRYPTION_KEY", "")
	db, err := sql.Open("sqlite", filepath.Join(up.dir, storage.SQLiteFile))
	require.NoError(t, err)
	defer db.Close() //nolint:errcheck // a test's
	_, err = db.ExecContext(t.Context(), `UPDATE subscriptions SET spec = replace(spec, 'event.data.score', 'event.data.(')`)
	require.NoError(t, err)
	findings, _ = examined(t, "--data-dir", up.dir)
	require.Equal(t, statusFail, findings["subscriptions"].Status)
	require.Regexp(t, `can't be read: sub_\w+: filter: `, findings["subscriptions"].Detail)

	require.NoError(t, os.Remove(filepath.Join(up.dir, history.File)))
	_, err = examined(t, "--data-dir", up.dir)
	require.Error(t, err)
	require.NoFileExists(t, filepath.Join(up.dir, history.File), "the doctor changes nothing")
}
