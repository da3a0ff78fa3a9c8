package filter

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAReplayKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{rate: 100}
		started := time.Now()
		for range 501 {
			require.NoError(t, p.wait(t.Context()))
		}
		assert.InDelta(t, 5*time.Second, time.Since(started), float64(2*paceSlack))
		// What was not used is not made up for.
		time.Sleep(time.Minute)
		started = time.Now()
		for range 101 {
			require.NoError(t, p.wait(t.Context()))
		}
		assert.InDelta(t, time.Second, time.Since(started), float64(2*paceSlack))
		ended, end := context.WithCancel(t.Context())
		end()
		for range 3 {
			require.ErrorIs(t, p.wait(ended), context.Canceled)
		}
	})
}
