// Package kafkatest gives tests a Kafka cluster: the embedded broker, or real Apache Kafka.
package kafkatest

import (
	"context"
	"errors"
	"testing"

	"github.com/callstream/callstream/pkg/embedded"
)

// Target is a cluster to test against.
type Target struct {
	Brokers     []string
	RegistryURL string
}

// Cluster is a cluster for one test.
func Cluster(tb testing.TB) Target {
	tb.Helper()
	e, err := embedded.Start(tb.Context(), embedded.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return Target{Brokers: []string{e.KafkaAddr()}, RegistryURL: e.RegistryURL()}
}

// Apache is an Apache Kafka cluster on this machine.
type Apache struct{ Brokers []string }

// StartApache starts n brokers that keep their data under dir.
func StartApache(ctx context.Context, n int, dir string) (*Apache, error) {
	return nil, errors.New("not built yet")
}
