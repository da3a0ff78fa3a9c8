package embedded_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sr"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("EMBEDDED_TEST_SERVE"); dir != "" {
		serve(dir)
		return
	}
	os.Exit(m.Run())
}

func serve(dir string) {
	e, err := embedded.Start(context.Background(), embedded.Config{DataDir: dir, Fsync: os.Getenv("EMBEDDED_TEST_FSYNC") != ""})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode([]string{e.KafkaAddr(), e.RegistryURL()}); err != nil {
		os.Exit(1)
	}
	select {} // until it is killed
}

func connect(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.DisableClientMetrics()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// Whatever was acknowledged before a kill -9 is there after it: records, settings, commits with their metadata, schemas.
func TestSurvivesKill(t *testing.T) {
	for _, fsync := range []string{"", "1"} {
		t.Run("fsync="+fsync, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), "EMBEDDED_TEST_SERVE="+dir, "EMBEDDED_TEST_FSYNC="+fsync)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadBytes('\n')
			require.NoError(t, err)
			var addrs []string
			require.NoError(t, json.Unmarshal(line, &addrs))

			_, err = embedded.Start(ctx, embedded.Config{DataDir: dir})
			require.ErrorIs(t, err, embedded.ErrInUse)
			require.ErrorContains(t, err, fmt.Sprintf("held by process %d", cmd.Process.Pid))

			c := connect(t, addrs[0])
			forEver := "-1"
			_, err = kadm.NewClient(c).CreateTopic(ctx, 2, -1, map[string]*string{"retention.ms": &forEver}, "t")
			require.NoError(t, err)
			for i := range 200 {
				require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: fmt.Append(nil, i)}).FirstErr())
			}
			group := connect(t, addrs[0], kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit())
			require.NotEmpty(t, group.PollFetches(ctx).Records())
			withMeta := kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
				req.Topics[0].Partitions[0].Metadata = kmsg.StringPtr("cs1.meta")
				return nil
			})
			group.CommitOffsetsSync(withMeta, map[string]map[int32]kgo.EpochOffset{"t": {0: {Epoch: -1, Offset: 17}}}, nil)
			reg, err := sr.NewClient(sr.URLs(addrs[1]))
			require.NoError(t, err)
			id, err := reg.RegisterSchema(ctx, "t-value", sr.Schema{Schema: `"string"`}, -1, -1)
			require.NoError(t, err)

			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())

			e, err := embedded.Start(ctx, embedded.Config{DataDir: dir})
			require.NoError(t, err)
			defer func() { require.NoError(t, e.Close()) }()
			adm := kadm.NewClient(connect(t, e.KafkaAddr()))
			ends, err := adm.ListEndOffsets(ctx, "t")
			require.NoError(t, err)
			total := int64(0)
			ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
			require.EqualValues(t, 200, total)
			configs, err := adm.DescribeTopicConfigs(ctx, "t")
			require.NoError(t, err)
			for _, kv := range configs[0].Configs {
				if kv.Key == "retention.ms" {
					require.Equal(t, "-1", kv.MaybeValue())
				}
			}
			offsets, err := adm.FetchOffsets(ctx, "g")
			require.NoError(t, err)
			o, ok := offsets.Lookup("t", 0)
			require.True(t, ok)
			require.EqualValues(t, 17, o.At)
			require.Equal(t, "cs1.meta", o.Metadata)
			reg, err = sr.NewClient(sr.URLs(e.RegistryURL()))
			require.NoError(t, err)
			text, err := reg.SchemaTextByID(ctx, id)
			require.NoError(t, err)
			require.Equal(t, `"string"`, text)
			other, err := reg.RegisterSchema(ctx, "u-value", sr.Schema{Schema: `"int"`}, -1, -1)
			require.NoError(t, err)
			require.Equal(t, id+1, other, "an id was given away twice, or left out")
		})
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	e, err := embedded.Start(t.Context(), embedded.Config{KafkaAddr: ":0", RegistryAddr: "127.0.0.1:0"})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	host, port, err := net.SplitHostPort(e.KafkaAddr())
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1", host)
	brokers, err := kadm.NewClient(connect(t, e.KafkaAddr())).ListBrokers(t.Context())
	require.NoError(t, err)
	require.Len(t, brokers, 1)
	require.Equal(t, "127.0.0.1:"+port, fmt.Sprintf("%s:%d", brokers[0].Host, brokers[0].Port))

	_, err = embedded.Start(t.Context(), embedded.Config{KafkaAddr: e.KafkaAddr()})
	require.ErrorContains(t, err, "embedded broker: listen on "+e.KafkaAddr())
	require.ErrorContains(t, err, "address already in use")

	named, err := embedded.Start(t.Context(), embedded.Config{AdvertisedHost: "localhost"})
	require.NoError(t, err)
	defer func() { require.NoError(t, named.Close()) }()
	brokers, err = kadm.NewClient(connect(t, named.KafkaAddr())).ListBrokers(t.Context())
	require.NoError(t, err)
	require.Equal(t, "localhost", brokers[0].Host)
}

var errNoDefault = errors.New("a field has no default")

func TestRegistry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := embedded.Config{DataDir: dir, Compatible: func(schema string, old []string) error {
		if len(old) > 0 && strings.Contains(schema, "required") {
			return errNoDefault
		}
		if strings.Contains(schema, "nonsense") {
			return errors.New("unknown type nonsense")
		}
		return nil
	}}
	e, err := embedded.StartRegistry(t.Context(), cfg)
	require.NoError(t, err)
	require.Empty(t, e.KafkaAddr())
	ctx := t.Context()
	c, err := sr.NewClient(sr.URLs(e.RegistryURL()))
	require.NoError(t, err)
	record := func(field string) sr.Schema {
		return sr.Schema{Schema: fmt.Sprintf(`{"type": "record", "name": "r", "fields": [{"name": "%s", "type": "string"}]}`, field)}
	}
	v1, err := c.CreateSchema(ctx, "a/b-value", record("one"))
	require.NoError(t, err)
	require.Equal(t, 1, v1.ID)
	require.Equal(t, 1, v1.Version)
	same, err := c.CreateSchema(ctx, "other", sr.Schema{Schema: `{"name":"r","type":"record","fields":[{"type":"string","name":"one"}]}`})
	require.NoError(t, err)
	require.Equal(t, v1.ID, same.ID, "one schema has one id, however it is spelt")
	v2, err := c.CreateSchema(ctx, "a/b-value", record("two"))
	require.NoError(t, err)
	require.Equal(t, 2, v2.Version)

	_, err = c.CreateSchema(ctx, "a/b-value", record("required"))
	var answer *sr.ResponseError
	require.ErrorAs(t, err, &answer)
	require.Equal(t, 409, answer.StatusCode)
	require.Contains(t, answer.Message, "a field has no default")
	check, err := c.CheckCompatibility(ctx, "a/b-value", -1, record("required"))
	require.NoError(t, err)
	require.False(t, check.Is)
	check, err = c.CheckCompatibility(ctx, "a/b-value", -1, record("three"))
	require.NoError(t, err)
	require.True(t, check.Is)
	for _, bad := range []sr.Schema{{Schema: "nonsense"}, {Schema: `"nonsense"`}, {Schema: `{} {}`}, {Schema: "{}", Type: sr.TypeProtobuf},
		{Schema: `"string"`, References: []sr.SchemaReference{{Name: "x", Subject: "other", Version: 1}}}} {
		_, err = c.CreateSchema(ctx, "bad", bad)
		require.ErrorAs(t, err, &answer)
		require.Equal(t, 42201, answer.ErrorCode, bad)
	}

	subjects, err := c.Subjects(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"a/b-value", "other"}, subjects)
	versions, err := c.SubjectVersions(ctx, "a/b-value")
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, versions)
	latest, err := c.SchemaByVersion(ctx, "a/b-value", -1)
	require.NoError(t, err)
	require.Equal(t, v2.ID, latest.ID)
	found, err := c.LookupSchema(ctx, "a/b-value", record("one"))
	require.NoError(t, err)
	require.Equal(t, 1, found.Version)
	_, err = c.LookupSchema(ctx, "a/b-value", record("four"))
	require.ErrorAs(t, err, &answer)
	require.Equal(t, 40403, answer.ErrorCode)
	_, err = c.LookupSchema(ctx, "none", record("one"))
	require.ErrorAs(t, err, &answer)
	require.Equal(t, 40401, answer.ErrorCode)
	_, err = c.SchemaByVersion(ctx, "a/b-value", 9)
	require.ErrorAs(t, err, &answer)
	require.Equal(t, 40402, answer.ErrorCode)
	_, err = c.SchemaByID(ctx, 99)
	require.ErrorAs(t, err, &answer)
	require.Equal(t, 40403, answer.ErrorCode)
	usages, err := c.SchemaVersionsByID(ctx, 1)
	require.NoError(t, err)
	require.Len(t, usages, 2)
	all, err := c.AllSchemas(ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)

	// Compatibility levels.
	require.Equal(t, sr.CompatFullTransitive, c.Compatibility(ctx)[0].Level)
	require.Error(t, c.Compatibility(ctx, "other")[0].Err)
	require.NoError(t, c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatNone}, "a/b-value")[0].Err)
	require.Equal(t, sr.CompatNone, c.Compatibility(ctx, "a/b-value")[0].Level)
	v3, err := c.CreateSchema(ctx, "a/b-value", record("required"))
	require.NoError(t, err)
	require.NoError(t, c.ResetCompatibility(ctx, "a/b-value")[0].Err)
	require.Error(t, c.Compatibility(ctx, "a/b-value")[0].Err)
	require.Equal(t, sr.ModeReadWrite, c.Mode(ctx)[0].Mode)

	// A page in a browser can't write: it can send no JSON content type without asking.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.RegistryURL()+"/subjects/x/versions", strings.NewReader(`{"schema":"\"string\""}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "text/plain")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnsupportedMediaType, resp.StatusCode)

	// What is deleted keeps its id: records still carry it.
	require.NoError(t, c.DeleteSchema(ctx, "a/b-value", 2, sr.SoftDelete))
	gone, err := c.DeleteSubject(ctx, "other", sr.SoftDelete)
	require.NoError(t, err)
	require.Equal(t, []int{1}, gone)
	require.NoError(t, e.Close())

	e, err = embedded.StartRegistry(ctx, cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	c, err = sr.NewClient(sr.URLs(e.RegistryURL()))
	require.NoError(t, err)
	subjects, err = c.Subjects(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"a/b-value"}, subjects)
	versions, err = c.SubjectVersions(ctx, "a/b-value")
	require.NoError(t, err)
	require.Equal(t, []int{1, 3}, versions)
	_, err = c.SchemaByID(ctx, v2.ID)
	require.NoError(t, err)
	next, err := c.CreateSchema(ctx, "a/b-value", record("five"))
	require.NoError(t, err)
	require.Equal(t, v3.ID+1, next.ID)
	require.Equal(t, 4, next.Version)
}
