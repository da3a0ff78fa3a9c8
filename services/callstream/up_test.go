package callstream

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/config"
)

// configProblems returns what up says of its configuration.
func configProblems(t *testing.T, args ...string) string {
	t.Helper()
	r := command(t, append([]string{"up"}, args...)...)
	var wrong *config.Errors
	require.ErrorAs(t, r.err, &wrong, "the exit status is 2 only for these")
	return wrong.Error()
}

func TestUpReportsAllThatIsWrongWithItsConfiguration(t *testing.T) {
	t.Setenv("CALLSTREAM_PARTITIONS", "x")
	said := configProblems(t, "--http-addr", "nope", "--kafka-addr", "9092", "--schema-registry-addr", "127.0.0.1:65536")
	for _, variable := range []string{"CALLSTREAM_HTTP_ADDR", "CALLSTREAM_KAFKA_ADDR", "CALLSTREAM_SCHEMA_REGISTRY_ADDR", "CALLSTREAM_PARTITIONS"} {
		require.Contains(t, said, variable)
	}
	require.Contains(t, configProblems(t, "--bogus"), "--bogus")
}

func TestUpSaysEachThingOnce(t *testing.T) {
	t.Setenv("CALLSTREAM_PARTITIONZ", "3")
	r := command(t, "up", "--http-addr", "0.0.0.0:0", "--auth", "off", "--data-dir", t.TempDir())
	require.ErrorContains(t, r.err, "1 problem")
	require.ErrorContains(t, r.err, "CALLSTREAM_AUTH: off is refused")
	require.Equal(t, 1, strings.Count(r.hints, "CALLSTREAM_PARTITIONZ"), r.hints)
}
