package config_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/config"
)

type broker struct {
	Brokers  []string `config:"KAFKA_BROKERS" doc:"seed brokers"`
	Password string   `config:"SASL_PASSWORD" secret:"true" doc:"password"`
}

type service struct {
	Kafka   broker
	Addr    string          `config:"HTTP_ADDR" default:"127.0.0.1:8080" doc:"where the API listens"`
	Fsync   bool            `config:"FSYNC" doc:"sync each write"`
	Delays  []time.Duration `config:"RETRY_SCHEDULE" default:"5s,30s,2m" doc:"delays"`
	Wait    time.Duration   `config:"WAIT" default:"10s" min:"1s" max:"1h" doc:"how long"`
	Size    config.Bytes    `config:"MAX_BODY" default:"16MiB" min:"1KiB" doc:"largest body"`
	Workers int             `config:"WORKERS" default:"4" min:"1" doc:"how many"`
	Ratio   float64         `config:"RATIO" default:"0.5" min:"0" max:"1" doc:"share"`
	Auth    string          `config:"AUTH" default:"keys" oneof:"keys,off" doc:"who may call"`
	Plain   string          // no setting
}

// Shared is embedded twice: both are to be set.
type Shared struct {
	Brokers []string `config:"KAFKA_BROKERS" doc:"seed brokers"`
}

type two struct {
	A, B Shared
	Name string `config:"NAME" required:"true" doc:"the instance's name"`
}

func (t *two) Validate() []string {
	if len(t.A.Brokers) > 0 && t.Name == t.A.Brokers[0] {
		return []string{"CALLSTREAM_NAME: it must not be a broker's"}
	}
	return nil
}

func files(content map[string]string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		text, ok := content[name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return []byte(text), nil
	}
}

func TestDefaults(t *testing.T) {
	var c service
	require.NoError(t, config.Load(&c, config.Source{}))
	require.Equal(t, "127.0.0.1:8080", c.Addr)
	require.Equal(t, []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute}, c.Delays)
	require.Equal(t, 10*time.Second, c.Wait)
	require.Equal(t, config.Bytes(16<<20), c.Size)
	require.Equal(t, 4, c.Workers)
	require.InDelta(t, 0.5, c.Ratio, 0)
	require.Nil(t, c.Kafka.Brokers)
}

func TestPresetsAndSourceDefaultsGoBeforeTags(t *testing.T) {
	c := service{Addr: "127.0.0.1:0"}
	require.NoError(t, config.Load(&c, config.Source{Defaults: map[string]string{"WORKERS": "9", "HTTP_ADDR": "ignored:1"}}))
	require.Equal(t, "127.0.0.1:0", c.Addr)
	require.Equal(t, 9, c.Workers)
}

func TestPrecedence(t *testing.T) {
	file := files(map[string]string{"c.yaml": "workers: 1\nwait: 11s\nauth: off\nkafka_brokers: [a:1, b:2]\nmax_body: 1MiB\n"})
	var c service
	require.NoError(t, config.Load(&c, config.Source{
		ReadFile: file,
		Env: []string{"CALLSTREAM_CONFIG=c.yaml", "CALLSTREAM_WORKERS=2", "CALLSTREAM_WAIT=12s", "CALLSTREAM_AUTH=",
			"PATH=/bin", "CALLSTREAM_SASL_PASSWORD=x=y"},
		Args: []string{"--wait", "13s", "--fsync", "--max-body=2MiB"},
	}))
	require.Equal(t, 2, c.Workers, "the environment goes over the file")
	require.Equal(t, 13*time.Second, c.Wait, "a flag goes over the environment")
	require.Equal(t, config.Bytes(2<<20), c.Size)
	require.Equal(t, "off", c.Auth, "an empty variable counts as not set")
	require.Equal(t, []string{"a:1", "b:2"}, c.Kafka.Brokers)
	require.Equal(t, "x=y", c.Kafka.Password)
	require.True(t, c.Fsync)
}

func TestAFlagNamesTheFile(t *testing.T) {
	file := files(map[string]string{"a.yaml": "workers: 1", "b.yaml": "workers: 2"})
	var c service
	require.NoError(t, config.Load(&c, config.Source{ReadFile: file, File: "zz.yaml",
		Env: []string{"CALLSTREAM_CONFIG=a.yaml"}, Args: []string{"--config=b.yaml"}}))
	require.Equal(t, 2, c.Workers)
}

func TestASharedKeyIsSetEverywhere(t *testing.T) {
	var c two
	require.NoError(t, config.Load(&c, config.Source{Args: []string{"--kafka-brokers=x:1,y:2", "--name=n"}}))
	require.Equal(t, []string{"x:1", "y:2"}, c.A.Brokers)
	require.Equal(t, c.A.Brokers, c.B.Brokers)
}

func TestEveryProblemAtOnceWithItsPlace(t *testing.T) {
	file := files(map[string]string{"c.yaml": "workers: 0\nwiat: 3s\n\nratio: [1, 2]\nfsync: perhaps\nfsync: true\nauth: {a: b}\n"})
	var c service
	err := config.Load(&c, config.Source{
		ReadFile: file,
		Env:      []string{"CALLSTREAM_CONFIG=c.yaml", "CALLSTREAM_MAX_BODY=big", "CALLSTREAM_RETRY_SCHEDULE=5s,soon"},
		Args:     []string{"--wait=2h", "--http-adr", ":0", "--workers", "stray"},
	})
	var wrong *config.Errors
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, []config.Problem{
		{Where: "--http-adr", Detail: "there is no such flag; did you mean --http-addr?"},
		{Where: "c.yaml line 2, wiat", Detail: "there is no such setting; did you mean wait?"},
		{Where: "c.yaml line 4, ratio", Detail: "it takes one value, not a list"},
		{Where: "c.yaml line 5, fsync", Detail: `"perhaps" is neither true nor false`},
		{Where: "c.yaml line 6, fsync", Detail: "it is set before, in line 5; remove one"},
		{Where: "c.yaml line 7, auth", Detail: "it takes a value, not a mapping; settings are not nested"},
		{Where: "CALLSTREAM_RETRY_SCHEDULE", Detail: `"soon" is not a duration; write one such as 500ms, 10s, 2m, 6h or 7d`},
		{Where: "CALLSTREAM_MAX_BODY", Detail: `"big" is not a size; write one such as 65536, 512KiB or 16MiB`},
		{Where: "--workers", Detail: `"stray" is not a whole number`},
		{Where: "--wait", Detail: "2h0m0s is too big; the most is 1h"},
	}, wrong.Problems)
	require.True(t, strings.HasPrefix(err.Error(), "10 problems in the configuration:\n  --http-adr: "))
}

func TestRequiredBoundsAndValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"required", nil, "CALLSTREAM_NAME: it is required: the instance's name. Set CALLSTREAM_NAME, name in the file, or --name"},
		{"validate", []string{"--name=b", "--kafka-brokers=b"}, "CALLSTREAM_NAME: it must not be a broker's"},
		{"stray argument", []string{"--name=b", "--kafka-brokers=c", "now"}, `argument "now" is not expected here`},
		{"missing value", []string{"--kafka-brokers=c", "--name"}, "--name: a value is missing: write --name=value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.ErrorContains(t, config.Load(new(two), config.Source{Args: c.args}), c.want)
		})
	}
	require.ErrorContains(t, config.Load(new(service), config.Source{Args: []string{"--auth=of"}}),
		`--auth: "of" is not allowed; it must be one of keys, off`)
	require.ErrorContains(t, config.Load(new(service), config.Source{Args: []string{"--ratio=-0.1"}}), "the least is 0")
	require.ErrorContains(t, config.Load(new(service), config.Source{Args: []string{"--workers=99999999999999999999"}}),
		"is not a whole number that fits")
}

func TestUnknownKeysOfASharedFile(t *testing.T) {
	file := files(map[string]string{"c.yaml": "dispatcher_window: 3\n"})
	var warned []string
	src := config.Source{ReadFile: file, File: "c.yaml", Env: []string{"CALLSTREAM_WORKRES=3", "CALLSTREAM_TEST_KAFKA=apache"},
		Warn: func(m string) { warned = append(warned, m) }}
	require.NoError(t, config.Load(new(service), src))
	require.Equal(t, []string{
		"c.yaml line 1, dispatcher_window: not a setting of this service, and ignored",
		"CALLSTREAM_WORKRES is not a setting and is ignored; did you mean CALLSTREAM_WORKERS?",
	}, warned)
	src.Complete = true
	require.ErrorContains(t, config.Load(new(service), src), "c.yaml line 1, dispatcher_window: there is no such setting")
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"not yaml":      {"a: [", "c.yaml: it is not YAML: line 1"},
		"not a mapping": {"- a", "c.yaml line 1: the file must hold settings as key: value"},
		"nested items":  {"kafka_brokers:\n  - a\n  - {b: c}\n", "c.yaml line 3, kafka_brokers: each item must be one value"},
	} {
		t.Run(name, func(t *testing.T) {
			err := config.Load(new(service), config.Source{File: "c.yaml", ReadFile: files(map[string]string{"c.yaml": c.text})})
			require.ErrorContains(t, err, c.want)
		})
	}
	require.ErrorContains(t, config.Load(new(service), config.Source{File: "none.yaml", ReadFile: files(nil)}),
		"CALLSTREAM_CONFIG: the file can't be read")
	require.NoError(t, config.Load(new(service), config.Source{File: "c.yaml",
		ReadFile: files(map[string]string{"c.yaml": "# nothing\n"})}))
	require.NoError(t, config.Load(new(service), config.Source{File: "c.yaml",
		ReadFile: files(map[string]string{"c.yaml": "workers:\n"})}), "a key without a value leaves the default")
}

func TestSecretsAreNotRepeated(t *testing.T) {
	type s struct {
		Port int    `config:"PIN" secret:"true" doc:"x"`
		Mode string `config:"MODE" secret:"true" oneof:"a,b" default:"a" doc:"x"`
	}
	err := config.Load(new(s), config.Source{Env: []string{"CALLSTREAM_PIN=hunter2", "CALLSTREAM_MODE=hunter3"}})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hunter")
}

func TestHelp(t *testing.T) {
	err := config.Load(new(service), config.Source{Args: []string{"--help"}})
	text, ok := config.IsHelp(fmt.Errorf("wrapped: %w", err))
	require.True(t, ok)
	require.Contains(t, text, "--http-addr  (default 127.0.0.1:8080)\n        where the API listens\n")
	_, ok = config.IsHelp(errors.New("another"))
	require.False(t, ok)
}

func TestReference(t *testing.T) {
	entries, err := config.Reference(&service{Workers: 7})
	require.NoError(t, err)
	table := config.Markdown(entries)
	require.Contains(t, table, "| `CALLSTREAM_HTTP_ADDR` | text | `127.0.0.1:8080` | where the API listens |\n")
	require.Contains(t, table, "| `CALLSTREAM_WORKERS` | number | `7` | how many |\n")
	require.Contains(t, table, "| `CALLSTREAM_AUTH` | text | `keys` | who may call (keys, off) |\n")
	require.Contains(t, table, "| `CALLSTREAM_RETRY_SCHEDULE` | list of durations | `5s,30s,2m` | delays |\n")
	require.Contains(t, table, "| `CALLSTREAM_SASL_PASSWORD` | text |  | password (secret) |\n")
}

func TestMistakesOfTheProgrammer(t *testing.T) {
	require.Error(t, config.Load(service{}, config.Source{}))
	require.ErrorContains(t, config.Load(&struct {
		C chan int `config:"C"`
	}{}, config.Source{}), "which no setting can have")
	require.ErrorContains(t, config.Load(&struct {
		A int    `config:"C"`
		B string `config:"C"`
	}{}, config.Source{}), "C is declared as int and as string")
	require.ErrorContains(t, config.Load(&struct {
		A int `config:"C" default:"x"`
	}{}, config.Source{}), "CALLSTREAM_C: its default is wrong")
}

func TestParse(t *testing.T) {
	for text, want := range map[string]config.Bytes{"0": 0, "12": 12, "1KiB": 1024, "16 MiB": 16 << 20, "2GB": 2e9, "7B": 7} {
		got, err := config.ParseBytes(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for _, text := range []string{"", "MiB", "1.5MiB", "9223372036854775807KiB", "1XB"} {
		_, err := config.ParseBytes(text)
		require.Error(t, err, text)
	}
	require.Equal(t, "16MiB", config.Bytes(16<<20).String())
	require.Equal(t, "1000", config.Bytes(1000).String())
	require.Equal(t, "0", config.Bytes(0).String())
	d, err := config.ParseDuration("7d")
	require.NoError(t, err)
	require.Equal(t, 7*24*time.Hour, d)
	for _, text := range []string{"d", "xd", "999999999d", "5"} {
		_, err := config.ParseDuration(text)
		require.Error(t, err, text)
	}
}
