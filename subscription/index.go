package subscription

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/schemas/event"
)

// Book holds the newest version of every subscription, as the feed callstream.subscriptions tells it, and answers which
// of them an event could go to. Readers never wait for one another: each tenant's index is immutable behind an atomic
// pointer, and a change only drops the touched tenant's index, which the next reader of that tenant builds anew. So a
// feed of any size loads in the time of its map insertions, and what other tenants subscribe to costs an event nothing.
//
// All methods may be called from several goroutines.
type Book struct {
	fault func(*Compiled)

	// apply makes "is it newer" and "store it" one step when two goroutines apply records.
	apply sync.Mutex

	mu      sync.RWMutex // guards the two maps, never held while an index is built
	byID    map[string]*Compiled
	tenants map[string]*tenantBook
}

// NewBook returns a Book without subscriptions.
func NewBook() *Book {
	return &Book{byID: make(map[string]*Compiled), tenants: make(map[string]*tenantBook)}
}

// OnFault sets the function that is told of each record whose subscription cannot be read: such a one is no candidate for
// any event. It must be set before the Book is shared and is called at most once for each version.
func (b *Book) OnFault(fault func(*Compiled)) { b.fault = fault }

// Compiled is one version of a subscription with what was derived from it. It is read-only.
type Compiled struct {
	ID      string
	Tenant  string
	Version int64
	// Epoch counts the restores of the database that the feed is written from: a higher one outranks every version.
	Epoch int64
	// Deleted says that the subscription's deletion was read. Subscription is nil then.
	Deleted bool
	// Subscription is the parsed object; nil when Deleted or when Fault is set.
	Subscription *Subscription
	// Fault says why the record could not be read.
	Fault error
	// forAgents says for people whose events it wants, where it names agents: an event of another one has up to fifty
	// subscriptions to say it of.
	forAgents string

	load sync.Once
	// What is needed to parse, until then. Not the record itself: 100,000 of them waiting would give the garbage collector
	// so many more objects to look at that every event paid for it.
	spec    string
	secrets map[string]string
	updated int64 // µs

	compile   sync.Once
	filter    *Filter
	filterErr error

	derive  sync.Once
	derived any
}

// parse fills Subscription. It is put off until a reader needs it, because parsing JSON is most of what a record costs
// and a service that starts with 100,000 subscriptions needs few of them at once.
func (c *Compiled) parse(fault func(*Compiled)) *Compiled {
	c.load.Do(func() {
		if c.Deleted {
			return
		}
		c.Fault = errUnfinished
		c.Subscription, c.Fault = FromRecord(&event.SubscriptionRecord{
			ID: c.ID, Tenant: c.Tenant, Version: c.Version, Epoch: c.Epoch, Spec: c.spec, Secrets: c.secrets,
			UpdatedAt: time.UnixMicro(c.updated).UTC(),
		})
		if c.Fault != nil {
			c.Subscription = nil
			if fault != nil {
				fault(c)
			}
		} else {
			c.forAgents = nameAgents(c.Subscription.Agents)
		}
		c.spec, c.secrets = "", nil
	})
	return c
}

// nameAgents says which agents a subscription is for, a few of them by name.
func nameAgents(agents []string) string {
	const few = 3
	switch n := len(agents); {
	case n == 0:
		return ""
	case n == 1:
		return shorten("the subscription is for the agent " + agents[0])
	case n > few:
		return shorten(fmt.Sprintf("the subscription is for the agents %s and %d more", strings.Join(agents[:few], ", "), n-few))
	}
	return shorten("the subscription is for the agents " + strings.Join(agents, ", "))
}

// errUnfinished stays where reading or compiling a subscription panicked: nobody may take it afterwards for one without a
// filter, which gets every event.
var errUnfinished = errors.New("callstream failed to read it")

// Filter returns the subscription's compiled CEL filter, nil where it has none. It compiles at the first call; the error
// of an expression that no longer compiles (it did when it was saved) stays the same for every call.
func (c *Compiled) Filter() (*Filter, error) {
	c.compile.Do(func() {
		if c.Subscription != nil && c.Subscription.Filter != "" {
			c.filterErr = errUnfinished
			c.filter, c.filterErr = CompileFilter(c.Subscription.Filter)
		}
	})
	return c.filter, c.filterErr
}

// Derived returns what its one user makes of this version and keeps with it: the filter its compiled rendering. build is
// called at most once, by the first call; what it returns must be safe for concurrent use.
func (c *Compiled) Derived(build func() any) any {
	c.derive.Do(func() { c.derived = build() })
	return c.derived
}

// outranks says whether c is to replace old: a later epoch does, within an epoch a higher version does, and nothing in the
// same epoch brings back what was deleted.
func (c *Compiled) outranks(old *Compiled) bool {
	if c.Epoch != old.Epoch {
		return c.Epoch > old.Epoch
	}
	return !old.Deleted && c.Version > old.Version
}

// Apply takes one record of the feed. An older or repeated one changes nothing and answers false. Once Apply has
// returned, Candidates and Get answer by the new version.
func (b *Book) Apply(record *event.SubscriptionRecord) bool {
	// One string for all: one object for the garbage collector.
	text := record.ID + record.Tenant + record.Spec
	id, rest := text[:len(record.ID)], text[len(record.ID):]
	c := &Compiled{ID: id, Tenant: rest[:len(record.Tenant)], Version: record.Version, Epoch: record.Epoch, Deleted: record.Deleted}
	if !c.Deleted {
		c.spec, c.updated = rest[len(record.Tenant):], record.UpdatedAt.UnixMicro()
		if len(record.Secrets) > 0 {
			c.secrets = record.Secrets
		}
	}
	b.apply.Lock()
	defer b.apply.Unlock()

	b.mu.RLock()
	old := b.byID[c.ID]
	b.mu.RUnlock()
	if old != nil && !c.outranks(old) {
		return false
	}
	b.mu.Lock()
	b.byID[c.ID] = c
	tenant := b.tenants[c.Tenant]
	if tenant == nil {
		tenant = &tenantBook{subscriptions: make(map[string]*Compiled)}
		b.tenants[c.Tenant] = tenant
	}
	var previous *tenantBook
	if old != nil && old.Tenant != c.Tenant {
		previous = b.tenants[old.Tenant]
	}
	b.mu.Unlock()

	if previous != nil {
		previous.remove(c.ID)
	}
	if c.Deleted {
		tenant.remove(c.ID)
	} else {
		tenant.put(c)
	}
	return true
}

// Get returns the newest version of a subscription that was applied, also when that is its deletion; false when no record
// of it was ever read.
func (b *Book) Get(id string) (*Compiled, bool) {
	b.mu.RLock()
	c, ok := b.byID[id]
	b.mu.RUnlock()
	if !ok {
		return nil, false
	}
	return c.parse(b.fault), true
}

// Len returns how many subscriptions there are, without the deleted ones.
func (b *Book) Len() int {
	b.mu.RLock()
	tenants := make([]*tenantBook, 0, len(b.tenants))
	for _, t := range b.tenants {
		tenants = append(tenants, t)
	}
	b.mu.RUnlock()
	n := 0
	for _, t := range tenants {
		t.mu.Lock()
		n += len(t.subscriptions)
		t.mu.Unlock()
	}
	return n
}

// Candidates returns the tenant's subscriptions, in whatever state, that name the event type and, where they name agents,
// the agent; ordered by id. The caller must not change the slice. It allocates only where a subscription names that agent
// and others name none.
func (b *Book) Candidates(tenant, eventType, agentID string) []*Compiled {
	t := b.typed(tenant, eventType)
	if t == nil {
		return nil
	}
	scoped := t.byAgent[agentID]
	switch {
	case len(scoped) == 0 || agentID == "":
		return t.everyAgent
	case len(t.everyAgent) == 0:
		return scoped
	}
	both := make([]*Compiled, 0, len(scoped)+len(t.everyAgent))
	return merge(both, scoped, t.everyAgent)
}

// Interested says whether any of the tenant's subscriptions names the event type, for whatever agents.
func (b *Book) Interested(tenant, eventType string) bool {
	t := b.typed(tenant, eventType)
	return t != nil && len(t.everyAgent)+len(t.someAgents) > 0
}

// OtherAgents returns, ordered by id, the first `limit` of the tenant's subscriptions that name the event type but only
// agents other than this one: they are no candidates, yet whoever asks why they got nothing is owed the answer. The limit
// keeps an event of a tenant with a subscription for each of its thousands of agents from costing thousands of answers.
func (b *Book) OtherAgents(tenant, eventType, agentID string, limit int) []*Compiled {
	t := b.typed(tenant, eventType)
	if t == nil || len(t.someAgents) == 0 {
		return nil
	}
	mine := t.byAgent[agentID]
	if len(mine) == 0 || agentID == "" {
		return t.someAgents[:min(limit, len(t.someAgents))]
	}
	others := make([]*Compiled, 0, min(limit, len(t.someAgents)-len(mine)))
	for _, c := range t.someAgents {
		if len(others) == limit {
			break
		}
		if len(mine) > 0 && mine[0] == c { // both are in the order of ids
			mine = mine[1:]
			continue
		}
		others = append(others, c)
	}
	return others
}

func (b *Book) typed(tenant, eventType string) *typeIndex {
	b.mu.RLock()
	t := b.tenants[tenant]
	b.mu.RUnlock()
	if t == nil {
		return nil
	}
	index := t.index.Load()
	if index == nil {
		index = t.rebuild(b.fault)
	}
	return index.typed(eventType)
}

// tenantBook is what one tenant subscribes to.
type tenantBook struct {
	index atomic.Pointer[tenantIndex] // nil after a change, until the next reader

	mu            sync.Mutex
	subscriptions map[string]*Compiled
}

func (t *tenantBook) put(c *Compiled) {
	t.mu.Lock()
	t.subscriptions[c.ID] = c
	t.index.Store(nil)
	t.mu.Unlock()
}

func (t *tenantBook) remove(id string) {
	t.mu.Lock()
	delete(t.subscriptions, id)
	t.index.Store(nil)
	t.mu.Unlock()
}

func (t *tenantBook) rebuild(fault func(*Compiled)) *tenantIndex {
	t.mu.Lock()
	defer t.mu.Unlock()
	if index := t.index.Load(); index != nil {
		return index // another reader was faster
	}
	all := make([]*Compiled, 0, len(t.subscriptions))
	for _, c := range t.subscriptions {
		if c.parse(fault).Fault == nil {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *Compiled) int { return strings.Compare(a.ID, b.ID) })
	index := &tenantIndex{all: all}
	index.exact = make(map[string][]*Compiled)
	index.family = make(map[string][]*Compiled)
	for _, c := range all {
		index.add(c)
	}
	index.types.Store(&map[string]*typeIndex{})
	t.index.Store(index)
	return index
}

// tenantIndex is one tenant's subscriptions at one moment. Everything in it is immutable but the cache of answers by type.
type tenantIndex struct {
	all    []*Compiled // by id
	exact  map[string][]*Compiled
	family map[string][]*Compiled // "call" for the pattern "call.*"
	any    []*Compiled

	mu    sync.Mutex // held to add to types
	types atomic.Pointer[map[string]*typeIndex]
}

// add files a subscription under each of its patterns, once under each.
func (x *tenantIndex) add(c *Compiled) {
	for i, pattern := range c.Subscription.Events {
		if slices.Contains(c.Subscription.Events[:i], pattern) {
			continue
		}
		if pattern == "*" {
			x.any = append(x.any, c)
		} else if family, ok := strings.CutSuffix(pattern, ".*"); ok {
			x.family[family] = append(x.family[family], c)
		} else {
			x.exact[pattern] = append(x.exact[pattern], c)
		}
	}
}

func (x *tenantIndex) typed(eventType string) *typeIndex {
	if t, ok := (*x.types.Load())[eventType]; ok {
		return t
	}
	t := newTypeIndex(x.matching(eventType))
	if event.TopicOf(eventType) == "" {
		return t // the cache holds no more than the catalogue has types
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	old := *x.types.Load()
	if t, ok := old[eventType]; ok {
		return t
	}
	grown := make(map[string]*typeIndex, len(old)+1)
	for k, v := range old {
		grown[k] = v
	}
	grown[eventType] = t
	x.types.Store(&grown)
	return t
}

// matching returns the subscriptions with a pattern for the type, each once, by id.
func (x *tenantIndex) matching(eventType string) []*Compiled {
	family, _, _ := strings.Cut(eventType, ".")
	exact, families := x.exact[eventType], x.family[family]
	out := merge(make([]*Compiled, 0, len(exact)+len(families)), exact, families)
	return merge(make([]*Compiled, 0, len(out)+len(x.any)), out, x.any)
}

// typeIndex is what a tenant subscribes to for one event type.
type typeIndex struct {
	everyAgent []*Compiled            // name no agents
	someAgents []*Compiled            // name some
	byAgent    map[string][]*Compiled // the same by each agent they name
}

func newTypeIndex(matching []*Compiled) *typeIndex {
	t := &typeIndex{}
	for _, c := range matching {
		agents := c.Subscription.Agents
		if len(agents) == 0 {
			t.everyAgent = append(t.everyAgent, c)
			continue
		}
		t.someAgents = append(t.someAgents, c)
		if t.byAgent == nil {
			t.byAgent = make(map[string][]*Compiled)
		}
		for i, agent := range agents {
			if !slices.Contains(agents[:i], agent) {
				t.byAgent[agent] = append(t.byAgent[agent], c)
			}
		}
	}
	return t
}

// merge appends two lists that are ordered by id to dst, in that order, and what both hold once.
func merge(dst, a, b []*Compiled) []*Compiled {
	for len(a) > 0 && len(b) > 0 {
		switch order := strings.Compare(a[0].ID, b[0].ID); {
		case order < 0:
			dst, a = append(dst, a[0]), a[1:]
		case order > 0:
			dst, b = append(dst, b[0]), b[1:]
		default:
			dst, a, b = append(dst, a[0]), a[1:], b[1:]
		}
	}
	return append(append(dst, a...), b...)
}
