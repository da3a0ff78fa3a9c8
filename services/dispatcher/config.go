package dispatcher

import (
	"slices"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/topic"
)

// Group is the consumer group of all dispatchers.
const Group = "callstream-dispatcher"

// Config is what an operator decides about a dispatcher.
type Config struct {
	kafka.Config
	Egress egress.Config

	RetrySchedule []time.Duration `config:"RETRY_SCHEDULE" default:"5s,30s,2m,10m,1h,6h,12h" doc:"default delays between the attempts of a delivery; there is a retry topic for each"`
	Lanes         []string        `config:"LANES" default:"standard" doc:"delivery lanes"`

	DisableAfter time.Duration `config:"DISABLE_AFTER" default:"120h" doc:"how long an endpoint may have nothing but failures until its subscription is disabled; 0 for ever"`

	InFlight       int           `config:"DISPATCHER_IN_FLIGHT" default:"2048" min:"1" doc:"most requests that a dispatcher has in flight at once, over all endpoints"`
	IdlePerHost    int           `config:"DISPATCHER_IDLE_PER_HOST" default:"256" min:"1" doc:"idle connections kept for each host"`
	WindowOffsets  int           `config:"DISPATCHER_WINDOW" default:"131072" min:"16" max:"131072" doc:"most records of a partition between the first that is not done and the newest taken; a quarter of it, at most 4096, may wait for one subscription"`
	WindowBytes    int64         `config:"DISPATCHER_WINDOW_BYTES" default:"33554432" min:"1048576" doc:"most bytes of a partition's records that are taken and not done"`
	OrderInPlace   time.Duration `config:"DISPATCHER_ORDER_IN_PLACE" default:"60s" doc:"how long a call of a subscription with ordering per_call may wait in its lane after a failure, before it moves to deliveries.ordered; from there it comes back after half of that at the earliest"`
	DrainTimeout   time.Duration `config:"DRAIN_TIMEOUT" default:"20s" doc:"how long work in flight may take at the end of the process"`
	RevokeTimeout  time.Duration `config:"REVOKE_TIMEOUT" default:"5s" doc:"how long work in flight may take when a partition goes to another dispatcher"`
	CommitInterval time.Duration `config:"COMMIT_INTERVAL" default:"1s" doc:"most time between a delivery's completion and its commit"`
}

// Validate returns the faults of the configuration that tags cannot express.
func (c *Config) Validate() []string {
	var faults []string
	if len(c.RetrySchedule) == 0 {
		faults = append(faults, "CALLSTREAM_RETRY_SCHEDULE: name at least one delay")
	}
	for _, d := range c.RetrySchedule {
		if d < time.Millisecond || d > 7*24*time.Hour {
			faults = append(faults, "CALLSTREAM_RETRY_SCHEDULE: a delay must be 1ms to 168h")
			break
		}
	}
	if c.DisableAfter < 0 {
		faults = append(faults, "CALLSTREAM_DISABLE_AFTER: want a time, or 0")
	}
	for _, lane := range c.Lanes {
		if slices.Contains([]string{"slow", "ordered", "dlq", "decisions", "attempts", "retry", ""}, lane) {
			faults = append(faults, "CALLSTREAM_LANES: "+lane+" is not a name for a lane")
		}
	}
	if c.OrderInPlace < 10*time.Millisecond || c.OrderInPlace > time.Hour {
		faults = append(faults, "CALLSTREAM_DISPATCHER_ORDER_IN_PLACE: must be 10ms to 1h")
	}
	return faults
}

func (c *Config) setDefaults() {
	if len(c.RetrySchedule) == 0 {
		c.RetrySchedule = topic.DefaultRetryDelays()
	}
	if len(c.Lanes) == 0 {
		c.Lanes = []string{topic.DefaultLane}
	}
	number := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	number(&c.InFlight, 2048)
	number(&c.IdlePerHost, 256)
	number(&c.WindowOffsets, 131072)
	if c.OrderInPlace <= 0 {
		c.OrderInPlace = time.Minute
	}
	if c.WindowBytes <= 0 {
		c.WindowBytes = 32 << 20
	}
}
