package producer

import (
	"time"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/config"
	"github.com/callstream/callstream/pkg/kafka"
)

// Config is what an operator can set.
type Config struct {
	Kafka kafka.Config

	HTTPAddr string `config:"HTTP_ADDR" default:"127.0.0.1:8080" doc:"where the API listens; port 0 picks a free one"`
	Auth     string `config:"AUTH" default:"keys" oneof:"keys,off" doc:"keys asks callers for an API key; off lets everyone on this machine in, and needs a loopback address"`

	// DefaultSource is the source of an event that names none; it is part of what identifies the event.
	DefaultSource string `config:"DEFAULT_SOURCE" default:"api" doc:"source of events that name none"`
	// AckTimeout ends the wait for the brokers with a 503. Callers are promised an answer within 10 s.
	AckTimeout time.Duration `config:"INGEST_ACK_TIMEOUT" default:"8s" min:"10ms" max:"9500ms" doc:"how long a request waits for Kafka's acknowledgement before it is answered 503"`
	// MaxInFlight bounds what requests hold in memory. A single request passes whatever its size when it is alone.
	MaxInFlight config.Bytes `config:"INGEST_MAX_IN_FLIGHT" default:"64MiB" min:"64KiB" doc:"bytes of requests and records in flight above which further requests get 429"`
	// MaxEvents bounds the events of one request, since the smallest take far more memory than their bytes.
	MaxEvents int `config:"INGEST_MAX_EVENTS" default:"100000" min:"1" doc:"most events in one request"`
}

// Validate reports what the tags can't say.
func (c *Config) Validate() []string {
	if c.Auth == "off" && !auth.LoopbackAddr(c.HTTPAddr) {
		return []string{"CALLSTREAM_AUTH: off is refused while CALLSTREAM_HTTP_ADDR is " + c.HTTPAddr +
			", which other machines may reach: use keys, or an address on loopback such as 127.0.0.1"}
	}
	return nil
}

const (
	// maxRequestBytes is the most that a request may hold, after inflating it.
	maxRequestBytes = 16 << 20
	// maxEventBytes is the most that one event may take once encoded.
	maxEventBytes = 1 << 20
	// maxFaults bounds the faults that an answer lists. A body of 16 MiB can hold millions.
	maxFaults = 1000
)
