package kafka

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// What a client repeats for as long as it lasts is logged once a minute, whatever fields it has.
func TestQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		log := zap.New(newQuiet(core))
		for n := range 150 {
			log.With(zap.Int("try", n)).Error("unable to dial")
			log.Error("unable to write")
			log.Warn("unable to write")
			log.Log(zapcore.InfoLevel, "beneath the level")
			time.Sleep(time.Second)
		}
		require.Equal(t, 3, logs.FilterMessage("unable to dial").Len())
		require.Equal(t, 6, logs.FilterMessage("unable to write").Len())
		require.Equal(t, 9, logs.Len())
	})
}
