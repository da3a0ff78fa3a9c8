package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/kafkatest"
	"github.com/callstream/callstream/schemas/topic"
)

func do(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(raw)
}

func TestTheProgram(t *testing.T) {
	target := kafkatest.Cluster(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(target.Brokers...))
	require.NoError(t, err)
	defer client.Close()
	var specs []kafka.TopicSpec
	for _, tp := range topic.All(topic.Policy{Partitions: 2}) {
		specs = append(specs, kafka.TopicSpec{Name: tp.Name, Partitions: tp.Partitions, Retention: tp.Retention, MaxBytes: tp.MaxBytes})
	}
	_, err = kafka.EnsureTopics(t.Context(), client, specs, zap.NewNop(), kafka.TopicOptions{})
	require.NoError(t, err)

	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- program().Run(ctx, []string{"--http-addr=127.0.0.1:0", "--data-dir=" + dir, "--auth=off", "--log-level=error",
			"--kafka-brokers=" + strings.Join(target.Brokers, ","), "--schema-registry-url=" + target.RegistryURL})
	}()
	var at struct{ HTTP string }
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for at.HTTP == "" {
		raw, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
		if errors.Is(err, fs.ErrNotExist) {
			select {
			case err := <-ended:
				t.Fatalf("ended before it was ready: %v", err)
			case <-tick.C:
			}
			continue
		}
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, &at))
	}
	url := "http://" + at.HTTP
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
		status, body := do(t, http.MethodGet, url+path, "")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, want, body)
	}
	status, body := do(t, http.MethodPost, url+"/v1/events", `{"id":"e","type":"call.started","call_id":"c"}`)
	require.Equal(t, http.StatusAccepted, status, body)
	require.JSONEq(t, `{"accepted":1,"ids":["e"]}`, body)
	status, _ = do(t, http.MethodPost, url+"/v1/events", `{`)
	require.Equal(t, http.StatusBadRequest, status)
	_, body = do(t, http.MethodGet, url+"/metrics", "")
	require.Contains(t, body, "callstream_producer_events_total 1\n")
	require.Contains(t, body, `callstream_producer_requests_total{status="202"} 1`+"\n")
	require.Contains(t, body, `callstream_producer_requests_total{status="400"} 1`+"\n")
	require.Contains(t, body, "callstream_producer_in_flight_bytes 0\n")
	status, _ = do(t, http.MethodGet, url+"/v1/events", "")
	require.Equal(t, http.StatusMethodNotAllowed, status)
	stop()
	require.NoError(t, <-ended)
}

func TestEveryMissingSettingIsNamed(t *testing.T) {
	t.Setenv("CALLSTREAM_KAFKA_BROKERS", "") // set where the tests run on a cluster
	err := program().Run(t.Context(), []string{"--http-addr=:8080", "--auth=off"})
	var wrong *config.Errors
	require.ErrorAs(t, err, &wrong)
	require.Len(t, wrong.Problems, 3)
	for _, name := range []string{"CALLSTREAM_KAFKA_BROKERS", "CALLSTREAM_SCHEMA_REGISTRY_URL", "CALLSTREAM_AUTH"} {
		require.ErrorContains(t, err, name)
	}
}
