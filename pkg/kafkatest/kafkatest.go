// Package kafkatest gives tests a Kafka cluster: the embedded broker, or real Apache Kafka.
package kafkatest

import (
	"context"
	"errors"
	"testing"
)

// Target is a cluster to test against.
type Target struct {
	Brokers     []string
	RegistryURL string
}

// Cluster is a cluster for one test.
func Cluster(tb testing.TB) Target { return Target{} }

// Apache is an Apache Kafka cluster on this machine.
type Apache struct{ Brokers []string }

// StartApache starts n brokers that keep their data under dir.
func StartApache(ctx context.Context, n int, dir string) (*Apache, error) { return nil, errors.New("not built yet") }
