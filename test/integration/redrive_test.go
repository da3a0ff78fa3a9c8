package integration

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/hooktest"
)

// redrive is a redrive as the API shows it.
type redrive struct {
	ID      string         `json:"id"`
	State   string         `json:"state"`
	Total   int            `json:"total"`
	Done    int            `json:"done"`
	Failed  int            `json:"failed"`
	Skipped int            `json:"skipped"`
	Left    int            `json:"left"`
	Reasons map[string]int `json:"reasons"`
}

// ended waits until a redrive is over. The console may be away meanwhile.
func (tn tenant) ended(id string) redrive {
	tn.p.t.Helper()
	var got redrive
	eventually(tn.p.t, "the redrive is over", func() error {
		r, err := tn.try(http.MethodGet, "/v1/redrives/"+id, nil, nil)
		if err != nil {
			return err
		}
		if r.status != 200 {
			return errors.New(r.String())
		}
		if got = decode[redrive](tn.p.t, r); got.State != "done" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	return got
}

// chosen waits until a filter chooses n dead letters: the history follows.
func (tn tenant) chosen(filter object, n int) {
	tn.p.t.Helper()
	eventually(tn.p.t, fmt.Sprintf("%d dead letters are known", n), func() error {
		r := decode[redrive](tn.p.t, tn.must(202, http.MethodPost, "/v1/dlq:redrive", object{"filter": filter, "dry_run": true}))
		if r.Total != n {
			return fmt.Errorf("%d", r.Total)
		}
		return nil
	})
}

// failing is an endpoint that fails until it is mended.
func failing(t *testing.T) (hook *hooktest.Receiver, mended *atomic.Bool) {
	mended = &atomic.Bool{}
	return hooktest.Start(t, hooktest.Options{Answer: func(*hooktest.Request) hooktest.Answer {
		if mended.Load() {
			return hooktest.Answer{}
		}
		return hooktest.Answer{Status: 500, Body: "broken"}
	}}), mended
}

// P-08, S0-25: what died while an endpoint was down is counted, and delivered once that is mended, each under the webhook-id
// that it had; what another subscription lost is left alone.
func redrivesTheDead(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	hook, mended := failing(t)
	other, _ := failing(t)
	once := object{"max_attempts": 1}
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "retry": once})
	tn.subscribe(object{"url": other.URL(), "events": []string{"call.*"}, "retry": once})
	const n = 20
	var batch []object
	for i := range n {
		batch = append(batch, ended(fmt.Sprintf("c-%d", i), object{"id": fmt.Sprintf("dead-%d", i)}))
	}
	tn.post(batch)
	filter := object{"subscription_id": sub.ID, "reason": "exhausted", "http_status": 500}
	tn.chosen(filter, n)
	tn.chosen(object{}, 2*n)
	before := map[string]string{} // webhook-id by event
	for _, r := range hook.Requests() {
		before[r.Header.Get("X-Event-Id")] = r.ID
	}
	listed := decode[struct {
		Items []struct {
			ID         string `json:"id"`
			EventID    string `json:"event_id"`
			DeliveryID string `json:"delivery_id"`
		} `json:"items"`
	}](t, tn.must(200, http.MethodGet, "/v1/dlq?subscription_id="+sub.ID, nil)).Items
	require.Len(t, listed, n)
	for _, l := range listed {
		assert.Equal(t, before[l.EventID], l.DeliveryID)
	}
	one := tn.must(200, http.MethodGet, "/v1/dlq/"+listed[0].ID, nil)
	assert.Contains(t, string(one.body), "broken")
	assert.Contains(t, string(one.body), listed[0].EventID)
	p.tenant(tn.name+"-other").must(404, http.MethodGet, "/v1/dlq/"+listed[0].ID, nil)

	mended.Store(true)
	started := decode[redrive](t, tn.must(202, http.MethodPost, "/v1/dlq:redrive", object{"filter": filter, "rate": 1000}))
	done := tn.ended(started.ID)
	assert.Equal(t, []int{n, n, 0, 0}, []int{done.Total, done.Done, done.Failed, done.Skipped})
	got := await(t, hook, 2*n)[n:]
	for _, r := range got {
		assert.Equal(t, before[r.Header.Get("X-Event-Id")], r.ID)
		assert.Equal(t, "2", r.Header.Get("Webhook-Attempt"))
		verify(t, sub.Secret, r)
	}
	assert.Equal(t, n, hook.Unique())
	for i := range n {
		tn.awaitDelivery(fmt.Sprintf("dead-%d", i), sub.ID, "delivered", "")
	}
	tn.chosen(filter, 0)
	tn.chosen(object{}, n)
	assert.Equal(t, 2*n, hook.Total(), "each is sent once")
	assert.Equal(t, n, other.Total())

	// One that is skipped, as its subscription was paused, is sent by hand.
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/pause", nil)
	tn.inForce()
	tn.post(ended("by-hand", object{"id": "by-hand"}))
	tn.awaitDelivery("by-hand", sub.ID, "skipped", "paused")
	tn.must(200, http.MethodPost, "/v1/subscriptions/"+sub.ID+"/activate", nil)
	id := before["dead-0"]
	tn.must(202, http.MethodPost, "/v1/deliveries/"+id+"/retry", nil)
	assert.Equal(t, id, await(t, hook, 2*n+1)[2*n].ID)
}

// P-08, S1-12: whoever asks for the members of a batch that waits gets the batch sent once, and not once more when its planned
// attempt is due.
func retriesByHandOnce(t *testing.T, p *pipeline) {
	tn := tenantOf(t, p)
	asked := make(chan struct{})
	hook := hooktest.Start(t, hooktest.Options{Answer: func(r *hooktest.Request) hooktest.Answer {
		if r.Attempt < 3 {
			return hooktest.Answer{Status: 500}
		}
		<-asked
		return hooktest.Answer{}
	}})
	answer := sync.OnceFunc(func() { close(asked) })
	t.Cleanup(answer)
	sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "batch": object{"max_events": 2, "max_wait": "1m"},
		"retry": object{"schedule": []string{"100ms", "45s"}, "max_attempts": 3}})
	tn.post([]object{ended("hand", object{"id": "hand-0"}), ended("hand", object{"id": "hand-1"})})
	first := await(t, hook, 2)[1]
	var waiting []delivery
	eventually(t, "both wait for the third attempt", func() error {
		waiting = tn.deliveries(url.Values{"subscription_id": {sub.ID}, "state": {"retrying"}})
		for _, d := range waiting {
			if d.Attempts != 2.0 {
				waiting = nil
			}
		}
		if len(waiting) != 2 {
			return errors.New("they don't")
		}
		return nil
	})
	statuses := map[int]int{}
	for _, d := range waiting {
		r, err := tn.try(http.MethodPost, "/v1/deliveries/"+d.ID+"/retry", nil, nil)
		require.NoError(t, err)
		statuses[r.status]++
	}
	answer()
	assert.Equal(t, map[int]int{http.StatusAccepted: 1, http.StatusConflict: 1}, statuses)
	again := await(t, hook, 3)[2]
	assert.Equal(t, []any{first.ID, string(first.Body), 3}, []any{again.ID, string(again.Body), again.Attempt})
	deliveriesOf(t, tn, sub.ID, "delivered", 2)
	eventually(t, "the planned attempt is passed by", func() error {
		for _, name := range p.names() {
			passed, err := metric(t.Context(), p.url(name), "callstream_dispatcher_deliveries_total", "superseded")
			if err == nil && passed > 0 {
				return nil
			}
		}
		return errors.New("it is not")
	})
	assert.Equal(t, 3, hook.Total())
}

// TestARedriveSurvivesKills kills the process that puts dead letters back, in the middle of that: all of them arrive, and
// few of them twice.
func TestARedriveSurvivesKills(t *testing.T) {
	for _, s := range []struct {
		shape  shape
		victim string
	}{{together, "up"}, {apart, "console"}} {
		t.Run(string(s.shape), func(t *testing.T) {
			p := startPipeline(t, settings{shape: s.shape})
			tn := p.tenant("redrive")
			hook, mended := failing(t)
			sub := tn.subscribe(object{"url": hook.URL(), "events": []string{"call.*"}, "retry": object{"max_attempts": 1}})
			const n, rate = 500, 200
			var batch []object
			for i := range n {
				batch = append(batch, ended(fmt.Sprintf("c-%d", i), object{"id": fmt.Sprintf("dead-%d", i)}))
			}
			tn.post(batch)
			tn.chosen(object{"subscription_id": sub.ID}, n)
			died := len(hook.Requests())
			mended.Store(true)
			started := decode[redrive](t, tn.must(202, http.MethodPost, "/v1/dlq:redrive", object{"filter": object{}, "rate": rate}))
			const kills = 2
			for k := range kills {
				eventually(t, "it is in the middle", func() error {
					if got := len(hook.Requests()) - died; got < n*(k+1)/(kills+1) {
						return fmt.Errorf("%d have arrived", got)
					}
					return nil
				})
				p.process(s.victim).Kill()
				p.launch(s.victim)
				p.awaitReady()
			}
			tn = p.tenant("redrive")
			done := tn.ended(started.ID)
			require.Equal(t, []int{n, n, 0, 0}, []int{done.Total, done.Done, done.Failed, done.Skipped})
			arrived := map[string]int{}
			eventually(t, "all arrive", func() error {
				clear(arrived)
				for _, r := range hook.Requests()[died:] {
					arrived[r.Header.Get("X-Event-Id")]++
				}
				if len(arrived) < n {
					return fmt.Errorf("%d of %d", len(arrived), n)
				}
				return nil
			})
			repeats := 0
			for id, times := range arrived {
				assert.True(t, strings.HasPrefix(id, "dead-"), id)
				repeats += times - 1
			}
			t.Logf("%d of %d twice after %d kills", repeats, n, kills)
			if s.shape == apart {
				// The dispatchers live on, so what comes twice was on its way back when the console died.
				assert.LessOrEqual(t, repeats, kills*rate/10)
			}
			eventually(t, "the history says so", func() error {
				if got := tn.deliveries(url.Values{"subscription_id": {sub.ID}, "state": {"delivered"}}); len(got) != n {
					return fmt.Errorf("%d of %d are delivered", len(got), n)
				}
				return nil
			})
		})
	}
}
