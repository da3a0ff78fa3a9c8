package subscription

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/callstream/callstream/schemas/catalog"
	"github.com/callstream/callstream/schemas/event"
)

func feedRecord(t testing.TB, s *Subscription, epoch int64) *event.SubscriptionRecord {
	t.Helper()
	s.setDefaults()
	if s.URL == "" {
		s.URL = "https://crm.example.com/hooks"
	}
	if s.State == "" {
		s.State = StateActive
	}
	rec, err := s.Record(epoch)
	require.NoError(t, err)
	return rec
}

func ids(compiled []*Compiled) []string {
	out := []string{}
	for _, c := range compiled {
		out = append(out, c.ID)
	}
	return out
}

func TestCandidatesNameTheTypeAndTheAgent(t *testing.T) {
	b := NewBook()
	for _, s := range []*Subscription{
		{ID: "sub_any", Tenant: "acme", Events: []string{"*"}},
		{ID: "sub_calls", Tenant: "acme", Events: []string{"call.*", "call.ended", "call.*"}},
		{ID: "sub_exact", Tenant: "acme", Events: []string{"call.ended", "sms.sent"}},
		{ID: "sub_a1", Tenant: "acme", Events: []string{"call.*"}, Agents: []string{"a-1", "a-2", "a-1"}},
		{ID: "sub_a3", Tenant: "acme", Events: []string{"call.*"}, Agents: []string{"a-3"}},
		{ID: "sub_paused", Tenant: "acme", Events: []string{"call.ended"}, State: StatePaused},
		{ID: "sub_other", Tenant: "other", Events: []string{"*"}},
	} {
		require.True(t, b.Apply(feedRecord(t, s, 1)))
	}
	assert.Equal(t, []string{"sub_any", "sub_calls", "sub_exact", "sub_paused"}, ids(b.Candidates("acme", "call.ended", "")))
	assert.Equal(t, []string{"sub_a1", "sub_any", "sub_calls", "sub_exact", "sub_paused"}, ids(b.Candidates("acme", "call.ended", "a-2")))
	assert.Equal(t, []string{"sub_any", "sub_calls"}, ids(b.Candidates("acme", "call.started", "a-9")))
	assert.Equal(t, []string{"sub_any", "sub_exact"}, ids(b.Candidates("acme", "sms.sent", "")))
	assert.Equal(t, []string{"sub_any"}, ids(b.Candidates("acme", "agent.status_changed", "a-1")))
	assert.Equal(t, []string{"sub_other"}, ids(b.Candidates("other", "call.ended", "a-1")))
	assert.Empty(t, b.Candidates("nobody", "call.ended", ""))

	assert.Equal(t, []string{"sub_a3"}, ids(b.OtherAgents("acme", "call.ended", "a-2", 10)))
	assert.Equal(t, []string{"sub_a1", "sub_a3"}, ids(b.OtherAgents("acme", "call.ended", "", 10)))
	assert.Equal(t, []string{"sub_a1"}, ids(b.OtherAgents("acme", "call.ended", "a-9", 1)))
	assert.Empty(t, b.OtherAgents("acme", "sms.sent", "a-9", 10))
	assert.Equal(t, 7, b.Len())
}

func TestAnOlderRecordNeverWins(t *testing.T) {
	b := NewBook()
	one := func(version, epoch int64, types ...string) *event.SubscriptionRecord {
		return feedRecord(t, &Subscription{ID: "sub_1", Tenant: "acme", Events: types, Version: version}, epoch)
	}
	deleted := func(version, epoch int64) *event.SubscriptionRecord {
		return Deleted("sub_1", "acme", version, epoch)
	}
	assert.True(t, b.Apply(one(3, 1, "call.ended")))
	assert.False(t, b.Apply(one(3, 1, "*")), "repeated")
	assert.False(t, b.Apply(one(2, 1, "*")), "older")
	assert.Len(t, b.Candidates("acme", "call.ended", ""), 1)
	assert.Empty(t, b.Candidates("acme", "sms.sent", ""))

	assert.True(t, b.Apply(one(4, 1, "sms.sent")))
	assert.Empty(t, b.Candidates("acme", "call.ended", ""))
	assert.Len(t, b.Candidates("acme", "sms.sent", ""), 1)

	assert.True(t, b.Apply(deleted(5, 1)))
	assert.Empty(t, b.Candidates("acme", "sms.sent", ""))
	c, known := b.Get("sub_1")
	require.True(t, known, "a deletion that was read is known")
	assert.True(t, c.Deleted)
	assert.False(t, b.Apply(one(9, 1, "*")), "deleted stays deleted")
	assert.Empty(t, b.Candidates("acme", "sms.sent", ""))
	_, known = b.Get("sub_2")
	assert.False(t, known)

	assert.True(t, b.Apply(one(2, 2, "call.ended")), "a restored database outranks every version")
	assert.Len(t, b.Candidates("acme", "call.ended", ""), 1)
	assert.False(t, b.Apply(one(100, 1, "*")), "and what the lost one wrote")

	moved := one(3, 2, "call.ended")
	moved.Tenant = "other"
	assert.True(t, b.Apply(moved))
	assert.Empty(t, b.Candidates("acme", "call.ended", ""), "it left its old tenant")
}

func TestASubscriptionThatCannotBeReadIsToldAboutOnce(t *testing.T) {
	b := NewBook()
	var faults []string
	b.OnFault(func(c *Compiled) { faults = append(faults, c.ID) })
	bad := feedRecord(t, &Subscription{ID: "sub_bad", Tenant: "acme", Events: []string{"*"}, Version: 1}, 1)
	bad.Spec = "{"
	require.True(t, b.Apply(bad))
	require.True(t, b.Apply(feedRecord(t, &Subscription{ID: "sub_good", Tenant: "acme", Events: []string{"*"}, Version: 1}, 1)))
	for range 2 {
		assert.Equal(t, []string{"sub_good"}, ids(b.Candidates("acme", "call.ended", "")))
	}
	c, known := b.Get("sub_bad")
	require.True(t, known)
	assert.Error(t, c.Fault)
	assert.Nil(t, c.Subscription)
	assert.Equal(t, []string{"sub_bad"}, faults)
}

func TestTheFilterIsCompiledOnce(t *testing.T) {
	b := NewBook()
	b.Apply(feedRecord(t, &Subscription{ID: "sub_1", Tenant: "acme", Events: []string{"*"}, Filter: "event.data.score > 3"}, 1))
	b.Apply(feedRecord(t, &Subscription{ID: "sub_2", Tenant: "acme", Events: []string{"*"}}, 1))
	c := b.Candidates("acme", "call.ended", "")
	require.Len(t, c, 2)
	first, err := c[0].Filter()
	require.NoError(t, err)
	require.NotNil(t, first)
	again, err := c[0].Filter()
	require.NoError(t, err)
	assert.Same(t, first, again)
	none, err := c[1].Filter()
	require.NoError(t, err)
	assert.Nil(t, none)
}

// The index answers what a look at every record would, whatever came in whatever order.
func TestTheIndexAnswersWhatAScanWould(t *testing.T) {
	outer := t
	types := catalog.Types()
	rapid.Check(t, func(t *rapid.T) {
		b := NewBook()
		newest := map[string]*event.SubscriptionRecord{}
		subscriptions := map[*event.SubscriptionRecord]*Subscription{}
		tenants := rapid.SampledFrom([]string{"acme", "other", "third"})
		agents := rapid.SampledFrom([]string{"a-1", "a-2", "a-3"})
		pattern := rapid.Custom(func(t *rapid.T) string {
			name := rapid.SampledFrom(types).Draw(t, "type").Name
			switch rapid.IntRange(0, 4).Draw(t, "pattern") {
			case 0:
				return "*"
			case 1:
				family, _, _ := strings.Cut(name, ".")
				return family + ".*"
			}
			return name
		})
		ask := func() {
			tenant, typ, agent := tenants.Draw(t, "tenant"), rapid.SampledFrom(types).Draw(t, "asked").Name, ""
			if rapid.Bool().Draw(t, "has agent") {
				agent = agents.Draw(t, "agent")
			}
			want, others := []string{}, []string{}
			for id, rec := range newest {
				s := subscriptions[rec]
				if rec.Deleted || rec.Tenant != tenant ||
					!slices.ContainsFunc(s.Events, func(p string) bool { return catalog.Match(p, typ) }) {
					continue
				}
				if len(s.Agents) == 0 || agent != "" && slices.Contains(s.Agents, agent) {
					want = append(want, id)
				} else {
					others = append(others, id)
				}
			}
			if b.Interested(tenant, typ) != (len(want)+len(others) > 0) {
				t.Fatalf("interest of %s in %s: %v, a scan finds %v and %v", tenant, typ, b.Interested(tenant, typ), want, others)
			}
			slices.Sort(want)
			slices.Sort(others)
			e := &event.Event{Type: typ, AgentID: agent}
			for _, c := range b.Candidates(tenant, typ, agent) {
				if reason, _ := c.Wants(e); reason != "" {
					t.Fatalf("%s is a candidate and does not want it: %s", c.ID, reason)
				}
			}
			for _, c := range b.OtherAgents(tenant, typ, agent, 1000) {
				if reason, _ := c.Wants(e); reason != ReasonAgent {
					t.Fatalf("%s is for other agents and says %q", c.ID, reason)
				}
			}
			if got := ids(b.Candidates(tenant, typ, agent)); !slices.Equal(got, want) {
				t.Fatalf("candidates of %s %s %q: %v, a scan finds %v", tenant, typ, agent, got, want)
			}
			if got := ids(b.OtherAgents(tenant, typ, agent, 1000)); !slices.Equal(got, others) {
				t.Fatalf("other agents of %s %s %q: %v, a scan finds %v", tenant, typ, agent, got, others)
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "records") {
			s := &Subscription{
				ID:      fmt.Sprintf("sub_%d", rapid.IntRange(0, 12).Draw(t, "id")),
				Tenant:  tenants.Draw(t, "of"),
				Version: rapid.Int64Range(1, 5).Draw(t, "version"),
				Events:  rapid.SliceOfN(pattern, 1, 4).Draw(t, "events"),
				Agents:  rapid.SliceOfN(agents, 0, 3).Draw(t, "agents"),
			}
			rec := feedRecord(outer, s, rapid.Int64Range(1, 2).Draw(t, "epoch"))
			rec.Deleted = rapid.IntRange(0, 5).Draw(t, "deleted") == 0
			subscriptions[rec] = s
			old := newest[s.ID]
			wins := old == nil || rec.Epoch > old.Epoch ||
				rec.Epoch == old.Epoch && rec.Version > old.Version && !old.Deleted
			if b.Apply(rec) != wins {
				t.Fatalf("version %d of epoch %d: applied = %v", rec.Version, rec.Epoch, !wins)
			}
			if wins {
				newest[s.ID] = rec
			}
			ask()
		}
	})
}

func TestTheBookServesReadersWhileItChanges(t *testing.T) {
	b := NewBook()
	b.Apply(feedRecord(t, &Subscription{ID: "sub_0", Tenant: "acme", Events: []string{"*"}, Version: 1}, 1))
	records := make([]*event.SubscriptionRecord, 500)
	for i := range records {
		records[i] = feedRecord(t, &Subscription{
			ID: fmt.Sprintf("sub_%d", i%50+1), Tenant: "acme", Events: []string{"call.*"}, Version: int64(i + 1),
		}, 1)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				found := b.Candidates("acme", "call.ended", "a-1")
				if len(found) == 0 || found[0].ID != "sub_0" || !slices.IsSorted(ids(found)) {
					t.Errorf("candidates are %v", ids(found))
					return
				}
			}
		})
	}
	for _, rec := range records {
		b.Apply(rec)
		c, known := b.Get(rec.ID)
		if !known || c.Version != rec.Version {
			t.Errorf("%s is not at version %d after Apply", rec.ID, rec.Version)
		}
	}
	close(done)
	readers.Wait()
	assert.Len(t, b.Candidates("acme", "call.ended", ""), 51)
}

func BenchmarkApply100000(b *testing.B) {
	records := manySubscriptions(b, 100_000)
	for b.Loop() {
		book := NewBook()
		for _, rec := range records {
			book.Apply(rec)
		}
		book.Candidates("acme", "call.ended", "")
	}
}

func BenchmarkCandidates(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			book := NewBook()
			for _, rec := range manySubscriptions(b, n) {
				book.Apply(rec)
			}
			book.Apply(feedRecord(b, &Subscription{ID: "sub_mine", Tenant: "acme", Events: []string{"call.ended"}}, 1))
			b.ReportAllocs()
			for b.Loop() {
				if len(book.Candidates("acme", "call.ended", "a-1")) != 1 {
					b.Fatal("want the one")
				}
			}
		})
	}
}

// manySubscriptions are of 1,000 other tenants, and of acme for other types.
func manySubscriptions(b *testing.B, n int) []*event.SubscriptionRecord {
	records := make([]*event.SubscriptionRecord, n)
	for i := range records {
		s := &Subscription{ID: fmt.Sprintf("sub_%06d", i), Tenant: fmt.Sprintf("tenant-%d", i%1000), Events: []string{"call.*"}, Version: 1}
		if i%10 == 0 {
			s.Tenant, s.Events = "acme", []string{"sms.sent"}
		}
		records[i] = feedRecord(b, s, 1)
	}
	return records
}
