package run_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/run"
)

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := func(wait func() error) (time.Duration, error) {
			began := time.Now()
			err := wait()
			return time.Since(began), err
		}
		d, err := took(func() error { return run.Sleep(t.Context(), time.Minute) })
		require.NoError(t, err)
		assert.Equal(t, time.Minute, d)

		wake := make(chan struct{})
		time.AfterFunc(time.Second, func() { wake <- struct{}{} })
		d, err = took(func() error { return run.Await(t.Context(), wake, time.Minute) })
		require.NoError(t, err)
		assert.Equal(t, time.Second, d)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d, err = took(func() error { return run.Await(ctx, wake, time.Minute) })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, d)
		require.Error(t, run.Sleep(ctx, 0), "who need not wait learns of the end all the same")
	})
}

func TestBackoff(t *testing.T) {
	var got []time.Duration
	for _, tries := range []int{0, 1, 2, 6, 7, 1000} {
		got = append(got, run.Backoff(tries))
	}
	assert.Equal(t, []time.Duration{100 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 3200 * time.Millisecond, 5 * time.Second, 5 * time.Second}, got)
}
