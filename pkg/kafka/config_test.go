package kafka

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBrokersAreAddresses(t *testing.T) {
	require.Empty(t, (&Config{Brokers: []string{"kafka-1:9092", "[::1]:9092", "kafka-2"}}).Validate())
	for _, wrong := range []string{"a b", "kafka://a:9092", "a:9092;b:9092", "a:9092\tb"} {
		problems := (&Config{Brokers: []string{wrong}}).Validate()
		require.Len(t, problems, 1, wrong)
		require.Contains(t, problems[0], "CALLSTREAM_KAFKA_BROKERS")
	}
}
