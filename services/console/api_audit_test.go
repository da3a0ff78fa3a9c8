package console

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/event"
	"github.com/stretchr/testify/require"
)

func disabling(id string, version int64) event.Signal {
	return event.Signal{Kind: signalDisable, Tenant: "default", SubscriptionID: id, SubscriptionVersion: version, Reason: "http_410", At: time.Now()}
}

type auditPage struct {
	Items      []auditEntry
	NextCursor *string `json:"next_cursor"`
}

func (h *harness) audited(query string) auditPage {
	h.t.Helper()
	var page auditPage
	require.NoError(h.t, json.Unmarshal(h.do("GET", "/v1/audit?"+query, "").is(200).body, &page))
	return page
}

// S1-18: who changed what is on record: the names of what changed, never what it was or is.
func TestTheAuditLogSaysWhoChangedWhat(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	h.key = h.keyFor("acme", auth.ScopeAdmin)
	path, _ := h.verified(endpoint(t, obliging), `,"auth":{"type":"bearer","token":"planted-one"},"name":"planted-name"`)
	h.do("PATCH", path, `{"name":"planted-other","auth":{"token":"planted-two"},"request":{"headers":{"X-A":"planted-header"}},"payload":{"redact":["email"]},"frequency":{"per":"call","max":1,"window":"10m"}}`).is(200)
	h.do("PATCH", path, `{"auth":{"token":"planted-two"}}`).is(200)
	h.do("POST", path+"/rotate-secret", "").is(200)
	h.do("POST", path+"/pause", "").is(200)
	h.do("POST", path+"/pause", "").is(200)
	h.do("DELETE", path, "").is(204)

	id := path[len("/v1/subscriptions/"):]
	log := h.audited("kind=subscription&id=" + id)
	var actions []string
	for _, e := range log.Items {
		actions = append(actions, e.Action)
		require.Contains(t, e.Actor, "key_")
		require.Equal(t, id, e.ID)
	}
	require.Equal(t, []string{"deleted", "paused", "rotated", "updated", "updated", "verified", "created"}, actions, "newest first; the second pause changed nothing")
	changed := func(i int) any {
		var detail map[string]any
		require.NoError(t, json.Unmarshal(log.Items[i].Detail, &detail))
		return detail["changed"]
	}
	require.Equal(t, []any{"/auth/token", "/frequency", "/name", "/payload/redact", "/request/headers"}, changed(4))
	require.Equal(t, []any{"/auth/token"}, changed(3), "it was sealed anew")
	require.Equal(t, []any{"/signing/previous", "/signing/previous_expires_at", "/signing/secret"}, changed(2))
	require.Equal(t, []any{"/state"}, changed(1))
	require.Equal(t, []any{"/state"}, changed(5))
	require.NotContains(t, toJSON(t, log), "planted")

	require.Len(t, h.audited("action=updated").Items, 2)
	require.Len(t, h.audited("kind=key").Items, 1)
	require.Empty(t, h.audited("actor=key_nobody").Items)
	require.NotEmpty(t, h.audited("actor="+log.Items[0].Actor).Items)
	require.Empty(t, h.audited("since="+url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339))).Items)
	require.Empty(t, h.audited("until="+url.QueryEscape(time.Now().Add(-time.Hour).Format(time.RFC3339))).Items)

	// Page by page it is the same.
	var pages []auditEntry
	query := "limit=3"
	for {
		page := h.audited(query)
		pages = append(pages, page.Items...)
		if page.NextCursor == nil {
			break
		}
		query = "limit=3&cursor=" + *page.NextCursor
	}
	require.Len(t, pages, 8)
	require.Equal(t, h.audited("").Items, pages)
	h.do("GET", "/v1/audit?cursor=aWQ6eA", "").problem(400)
	h.do("GET", "/v1/audit?since=yesterday", "").problem(422)
	h.do("GET", "/v1/audit?kind=nope", "").problem(422)

	h.key = h.keyFor("acme", auth.ScopeSubscriptionsWrite, auth.ScopeSubscriptionsRead, auth.ScopeDeliveriesRead)
	h.do("GET", "/v1/audit", "").problem(403)
}

// S1-18: lines of all tenants are counted together, and nothing that a tenant gets tells how many others there are. A
// cursor is that tenant's alone.
func TestTheAuditLogTellsNothingOfOtherTenants(t *testing.T) {
	h := start(t, func(c *Config, _ *Deps) { c.Auth = "keys" })
	admins := map[string]string{}
	for _, tenant := range []string{"acme", "globex"} {
		admins[tenant] = h.keyFor(tenant, auth.ScopeAdmin)
		h.key = admins[tenant]
		h.create(someSubscription)
	}
	var body struct {
		Items      []map[string]any
		NextCursor string `json:"next_cursor"`
	}
	require.NoError(t, json.Unmarshal(h.do("GET", "/v1/audit?limit=1", "").is(200).body, &body))
	require.ElementsMatch(t, []string{"at", "actor", "action", "kind", "id", "version", "detail"}, slices.Collect(maps.Keys(body.Items[0])))
	again := h.audited("limit=1").NextCursor
	require.NotEqual(t, body.NextCursor, *again, "the same place, and nothing to compare")
	require.Equal(t, h.audited("limit=1&cursor="+body.NextCursor), h.audited("limit=1&cursor="+*again))
	h.key = admins["acme"]
	h.do("GET", "/v1/audit?cursor="+body.NextCursor, "").problem(400)
}

// S2-09: the list is searched, chosen from and ordered as people dragged it.
func TestSubscriptionsAreListedAsPeopleOrderThem(t *testing.T) {
	h := start(t)
	ids := map[string]string{}
	for _, s := range []struct{ name, position, events string }{{"third", "30", `["call.*"]`}, {"first", "-1", `["sms.sent"]`}, {"second", "5", `["*"]`}, {"second too", "5", `["agent.*"]`}} {
		ids[h.create(`{"name":"`+s.name+`","url":"https://x.example","events":`+s.events+`,"position":`+s.position+`}`).str("id")] = s.name
	}
	list := func(query string) (names []string) {
		for cursor := ""; ; {
			var page struct {
				Items      []struct{ ID string }
				NextCursor *string `json:"next_cursor"`
			}
			require.NoError(t, json.Unmarshal(h.do("GET", "/v1/subscriptions?limit=1&"+query+cursor, "").is(200).body, &page))
			for _, item := range page.Items {
				names = append(names, ids[item.ID])
			}
			if page.NextCursor == nil {
				return names
			}
			cursor = "&cursor=" + *page.NextCursor
		}
	}
	require.Equal(t, []string{"first", "second too", "second", "third"}, list("sort=position"))
	require.Equal(t, []string{"second too", "second", "first", "third"}, list(""))
	require.Equal(t, []string{"second too", "second"}, list("q=SECOND"))
	require.Equal(t, []string{"second", "third"}, list("event=call.ended&sort=position"))
	require.Empty(t, list("state=active"))
	require.Len(t, list("state=pending"), 4)
	require.Empty(t, list("q=nothing-like-it"))
	h.do("GET", "/v1/subscriptions?event=call.nope", "").problem(422)
	h.do("GET", "/v1/subscriptions?state=nope", "").problem(422)
	cursor := *func() *string {
		var page auditPage
		require.NoError(t, json.Unmarshal(h.do("GET", "/v1/subscriptions?limit=1", "").body, &page))
		return page.NextCursor
	}()
	h.do("GET", "/v1/subscriptions?sort=position&cursor="+cursor, "").problem(400)
}
