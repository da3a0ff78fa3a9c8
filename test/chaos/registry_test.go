//go:build chaos

package chaos

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// P-17, P-18: the schema registry is away. Who knows the schemas goes on; who starts in that time waits, and loses nothing.
func TestRegistryGone(t *testing.T) {
	w := newWorld(t, nil, 2)
	stop := w.flowing(4)
	defer stop()
	w.progress("events flow", 200)
	addr := strings.TrimPrefix(w.registry.RegistryURL(), "http://")
	require.NoError(t, w.registry.Close())
	w.progress("events flow without the registry", 200)
	w.process("filter").Kill()
	w.launch("filter")
	w.process("dispatcher-0").Kill()
	w.launch("dispatcher-0")
	accepted := w.count()
	eventually(t, "events are accepted", func() error {
		if more := w.count() - accepted; more < 200 {
			return fmt.Errorf("%d of 200", more)
		}
		return nil
	})
	for _, name := range []string{"filter", "dispatcher-0"} {
		select {
		case <-w.process(name).Ended():
			t.Fatalf("%s did not wait for the registry:\n%s", name, w.process(name).Log())
		default:
		}
	}
	w.startRegistry(addr)
	w.ready("filter")
	w.ready("dispatcher-0")
	w.progress("events flow with the registry", 200)
	stop()
	w.report("the schema registry gone")
}
