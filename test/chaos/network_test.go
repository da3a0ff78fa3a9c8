//go:build chaos

package chaos

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// detour is a way to the cluster that can be cut: a proxy before each broker's second listener.
type detour struct {
	t       *testing.T
	proxies []*toxiproxy.Proxy
	brokers []string // what a client of it bootstraps from
}

func newDetour(t *testing.T, a *kafkatest.Apache) *detour {
	t.Helper()
	d := &detour{t: t}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for i, way := range a.Detours {
		p := toxiproxy.NewProxy(server, fmt.Sprintf("broker-%d", i), way.Via, way.Upstream)
		require.NoError(t, p.Start())
		t.Cleanup(p.Stop)
		d.proxies = append(d.proxies, p)
		d.brokers = append(d.brokers, way.Via)
	}
	return d
}

// Directions of a connection, as toxiproxy names them.
const (
	requests = "upstream"
	answers  = "downstream"
)

// cut has what is sent in these directions disappear, with all connections open: nobody is told that anything is wrong.
func (d *detour) cut(directions ...string) {
	d.t.Helper()
	for _, p := range d.proxies {
		for _, way := range directions {
			_, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"name":%q,"type":"timeout","stream":%q,"attributes":{"timeout":0}}`, way, way)))
			require.NoError(d.t, err)
		}
	}
}

// mend ends every cut. The connections that were cut are closed, since bytes of theirs are missing.
func (d *detour) mend() {
	for _, p := range d.proxies {
		p.Toxics.ResetToxics(d.t.Context())
	}
}

// unready waits until a process says that it is not able to work.
func (w *world) unready(name string) {
	w.t.Helper()
	eventually(w.t, name+" says that it can't work", func() error {
		req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url(name)+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return fmt.Errorf("%s still says that it is ready", name)
		}
		return nil
	})
}

// again waits until a process says that it is able to work.
func (w *world) again(name string) {
	w.t.Helper()
	eventually(w.t, name+" works again", func() error {
		req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url(name)+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s is not ready: %s", name, res.Status)
		}
		return nil
	})
}

// P-18, promise 1: a dispatcher is cut off from the cluster, and another takes its partitions; when it is back, it makes
// nothing undone.
func TestNetworkCut(t *testing.T) {
	a := emptyCluster(t)
	d := newDetour(t, a)
	w := newWorld(t, map[string][]string{"dispatcher-0": d.brokers}, 2)
	stop := w.flowing(8)
	defer stop()
	n := rounds(t, 2)
	for range n {
		w.progress("events flow", 200)
		d.cut(requests, answers)
		w.unready("dispatcher-0")
		w.progress("events flow through the other dispatcher", 200)
		d.mend()
		w.again("dispatcher-0")
	}
	w.progress("events flow", 200)
	stop()
	require.LessOrEqual(t, w.report("a dispatcher cut off"), n*mostRepeats(len(endpoints)))
}

// P-18, promise 2: brokers do what they are asked and their answers are lost, so that writes and commits time out that were
// applied.
func TestAnswersLost(t *testing.T) {
	a := emptyCluster(t)
	d := newDetour(t, a)
	w := newWorld(t, map[string][]string{"producer": d.brokers, "filter": d.brokers, "dispatcher-0": d.brokers}, 2)
	stop := w.flowing(8)
	defer stop()
	n := rounds(t, 2)
	for range n {
		w.progress("events flow", 200)
		before := w.failures()
		d.cut(answers)
		eventually(t, "requests time out", func() error {
			if w.failures() == before {
				return fmt.Errorf("%d so far", before)
			}
			return nil
		})
		w.unready("dispatcher-0")
		d.mend()
		for _, name := range []string{"producer", "filter", "dispatcher-0"} {
			w.again(name)
		}
	}
	w.progress("events flow", 200)
	stop()
	require.LessOrEqual(t, w.report("answers lost"), n*mostRepeats(len(endpoints)))
}
