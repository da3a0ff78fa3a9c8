package console

import (
	"strings"
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/services/console/storage"
)

// Group is the consumer group that applies signals.
const Group = "callstream-console"

// Config is what an operator can set.
type Config struct {
	Kafka  kafka.Config
	Egress egress.Config

	HTTPAddr      string `config:"HTTP_ADDR" default:"127.0.0.1:8090" doc:"where the API listens; port 0 picks a free one"`
	DataDir       string `config:"DATA_DIR" default:"./data" doc:"directory of what a process keeps; addresses.json is written there"`
	DatabaseURL   string `config:"DATABASE_URL" secret:"true" doc:"database of subscriptions and keys: postgres://…, sqlite:path, or empty for SQLite in the data directory"`
	Auth          string `config:"AUTH" default:"keys" oneof:"keys,off" doc:"keys asks callers for an API key; off lets everyone on this machine in, and needs a loopback address"`
	EncryptionKey string `config:"ENCRYPTION_KEY" secret:"true" doc:"AES-256-GCM key that subscription secrets are sealed with: 32 bytes in base64 or hex, the same for every service"`

	// InForceTimeout bounds how long a change waits until it is in force before it is answered 202.
	InForceTimeout time.Duration `config:"IN_FORCE_TIMEOUT" default:"5s" min:"0s" max:"25s" doc:"how long a change waits until it is in force; after that it is answered 202 and takes effect when Kafka is back"`
	// VerifyTimeout bounds the request of a verification handshake.
	VerifyTimeout time.Duration `config:"VERIFY_TIMEOUT" default:"10s" min:"100ms" max:"25s" doc:"how long an endpoint may take to answer a verification"`
	// HistoryRetention is how long the projection of events, deliveries and attempts is kept.
	HistoryRetention time.Duration `config:"HISTORY_RETENTION" default:"720h" min:"1h" doc:"how long the history of events and their deliveries is kept"`
	// HistoryMaxDeliveries bounds the projection's size, whatever its age.
	HistoryMaxDeliveries int64 `config:"HISTORY_MAX_DELIVERIES" default:"2000000" min:"1000" doc:"how many deliveries, and how many events, the history keeps; the oldest go first. A million of both take about a gigabyte"`
	// MaxStreams bounds the open streams of captured answers.
	MaxStreams int `config:"MAX_STREAMS" default:"1000" min:"1" doc:"how many streams of captured answers may be open at once; a tenant has at most half of them"`
	// WebhookOrigin is what an endpoint that is verified by options has to allow.
	WebhookOrigin string `config:"WEBHOOK_ORIGIN" default:"callstream" doc:"name that the CloudEvents handshake (verification by options) asks permission for, in WebHook-Request-Origin"`
	// Lanes are what a subscription may choose from; none means that any name is taken.
	Lanes []string `config:"LANES" default:"standard" doc:"delivery lanes"`
	// DefaultSource completes the events of tests and previews as the producer completes those it accepts.
	DefaultSource string `config:"DEFAULT_SOURCE" default:"api" doc:"source of events that name none"`
}

// Validate reports what the tags can't say.
func (c *Config) Validate() []string {
	var problems []string
	if c.Auth == authOff && !auth.LoopbackAddr(c.HTTPAddr) {
		problems = append(problems, "CALLSTREAM_AUTH: off is refused while CALLSTREAM_HTTP_ADDR is "+c.HTTPAddr+
			", which other machines may reach: use keys, or an address on loopback such as 127.0.0.1")
	}
	if c.WebhookOrigin == "" || strings.ContainsFunc(c.WebhookOrigin, func(r rune) bool { return r <= ' ' || r > '~' }) {
		problems = append(problems, "CALLSTREAM_WEBHOOK_ORIGIN: want a name of printable ASCII characters without spaces, such as a DNS name")
	}
	if !storage.ValidURL(c.DatabaseURL) {
		problems = append(problems, "CALLSTREAM_DATABASE_URL: it must start with postgres:// or sqlite:")
	}
	if c.EncryptionKey != "" {
		if _, err := secret.LoadKey(c.EncryptionKey, "", false); err != nil {
			problems = append(problems, err.Error())
		}
	}
	return problems
}

const authOff = "off"

func (c *Config) storage(now func() time.Time) storage.Config {
	return storage.Config{URL: c.DatabaseURL, DataDir: c.DataDir, Now: now}
}
