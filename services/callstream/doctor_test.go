package callstream

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/schemas/event"
)

// examined runs the doctor and returns its findings by check, the worst of each.
func examined(t *testing.T, args ...string) (map[string]finding, error) {
	t.Helper()
	r := command(t, append([]string{"doctor", "--json"}, args...)...)
	var report struct {
		OK       bool
		Findings []finding
	}
	require.NoError(t, json.Unmarshal([]byte(r.out), &report), r.out)
	require.Equal(t, r.err == nil, report.OK)
	worst := map[string]finding{}
	rank := map[string]int{statusOK: 0, statusSkip: 1, statusWarn: 2, statusFail: 3}
	for _, f := range report.Findings {
		require.NotEmpty(t, f.Detail)
		if old, ok := worst[f.Check]; !ok || rank[f.Status] > rank[old.Status] {
			worst[f.Check] = f
		}
	}
	return worst, r.err
}

// away is an address that nothing listens on.
func away(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	return s.Listener.Addr().String()
}

func TestDoctorFindsNothingRunning(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	worst, err := examined(t, "--data-dir", dir, "--kafka-addr", away(t), "--schema-registry-addr", away(t), "--api", "http://"+away(t), "--timeout", "2s")
	require.ErrorContains(t, err, "checks failed")
	for check, status := range map[string]string{
		"configuration": statusOK, "broker": statusFail, "topics": statusSkip, "consumer groups": statusSkip,
		"schema registry": statusFail, "database": statusWarn, "encryption key": statusWarn, "disk": statusOK, "API": statusWarn,
	} {
		require.Equal(t, status, worst[check].Status, "%s: %s", check, worst[check].Detail)
	}
	require.Contains(t, worst["broker"].Mend, "callstream up")
	_, err = os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist, "the doctor changes nothing")
}

func TestDoctorReportsEveryMistakeInTheConfiguration(t *testing.T) {
	r := command(t, "doctor", "--partitions", "many", "--kafka-sasl-mechanism", "GSSAPI")
	require.Error(t, r.err)
	require.Contains(t, r.out, "--partitions")
	require.Contains(t, r.out, "--kafka-sasl-mechanism")
	require.NotContains(t, r.out, "broker ")
}

func TestDoctorOnTheEmbeddedBroker(t *testing.T) {
	dir := t.TempDir()
	e, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir, Log: zap.NewNop(), Compatible: event.Compatible})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	defer api.Close()
	raw, err := json.Marshal(map[string]string{"kafka": e.KafkaAddr(), "http": api.Listener.Addr().String(), "schema_registry": e.RegistryURL()[len("http://"):]})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "addresses.json"), raw, 0o600))

	// A broker without topics.
	worst, err := examined(t, "--data-dir", dir)
	require.Error(t, err)
	require.Equal(t, statusOK, worst["broker"].Status)
	require.Equal(t, statusFail, worst["topics"].Status)
	require.Contains(t, worst["topics"].Detail, "calls.events")
	require.Equal(t, statusFail, worst["schema registry"].Status)
	require.Equal(t, statusOK, worst["API"].Status, "its address is in addresses.json")

	// And one with everything.
	cfg := TopicsConfig{Partitions: 4, ReplicationFactor: 1}
	cfg.Kafka.Brokers, cfg.Registry.URLs = []string{e.KafkaAddr()}, []string{e.RegistryURL()}
	_, err = applyTopics(t.Context(), cfg, zap.NewNop(), kafka.TopicOptions{NeverCompact: true})
	require.NoError(t, err)
	_, err = secret.LoadKey("", dir, true)
	require.NoError(t, err)
	require.NoError(t, command(t, "keys", "create", "--admin", "--tenant", "acme", "--data-dir", dir).err)
	worst, err = examined(t, "--data-dir", dir)
	require.NoError(t, err)
	for _, check := range []string{"configuration", "broker", "topics", "schema registry", "clock", "database", "encryption key", "disk", "API"} {
		require.Equal(t, statusOK, worst[check].Status, "%s: %s", check, worst[check].Detail)
	}
	require.Equal(t, statusWarn, worst["consumer groups"].Status)
	require.Contains(t, worst["topics"].Detail, "4 partitions", "their number was not given, so that found is right")

	// Given, it must be so.
	worst, err = examined(t, "--data-dir", dir, "--partitions", "8")
	require.Error(t, err)
	require.Equal(t, statusFail, worst["topics"].Status)
	require.Contains(t, worst["topics"].Mend, "CALLSTREAM_PARTITIONS")

	// Other settings of topics differ.
	worst, err = examined(t, "--data-dir", dir, "--retry-schedule", "1s")
	require.Error(t, err)
	require.Contains(t, worst["topics"].Detail, "deliveries.retry.1s")
}

func TestDoctorNeedsAKeyOnACluster(t *testing.T) {
	worst, err := examined(t, "--data-dir", t.TempDir(), "--kafka-brokers", away(t), "--timeout", "2s")
	require.Error(t, err)
	require.Equal(t, statusFail, worst["encryption key"].Status)
	require.Equal(t, statusFail, worst["schema registry"].Status)
	require.Contains(t, worst["schema registry"].Mend, "CALLSTREAM_SCHEMA_REGISTRY_URL")
	worst, _ = examined(t, "--data-dir", t.TempDir(), "--kafka-brokers", away(t), "--timeout", "2s", "--encryption-key", "short")
	require.Equal(t, statusFail, worst["encryption key"].Status)
}

func TestDoctorComparesClocks(t *testing.T) {
	for skew, want := range map[time.Duration]string{0: statusOK, 20 * time.Second: statusWarn, -2 * time.Hour: statusFail, 2 * time.Hour: statusFail} {
		registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
			_, _ = w.Write([]byte("[]"))
		}))
		worst, err := examined(t, "--data-dir", t.TempDir(), "--kafka-addr", away(t), "--schema-registry-url", registry.URL, "--timeout", "2s")
		registry.Close()
		require.Error(t, err)
		require.Equal(t, want, worst["clock"].Status, worst["clock"].Detail)
	}
}

func TestDoctorNeverShowsThePassword(t *testing.T) {
	r := command(t, "doctor", "--data-dir", t.TempDir(), "--kafka-addr", away(t), "--schema-registry-addr", away(t), "--timeout", "2s",
		"--database-url", "postgres://me:hunter2@"+away(t)+"/db?sslmode=disable")
	require.Error(t, r.err)
	require.Contains(t, r.out, "PostgreSQL does not answer")
	require.NotContains(t, r.out+r.hints+r.err.Error(), "hunter2")
}
