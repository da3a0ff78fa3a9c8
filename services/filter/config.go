package filter

import "github.com/callstream/callstream/pkg/kafka"

// Group is the consumer group of the filter.
const Group = "callstream-filter"

// ReplayGroup is the consumer group that reads the commands of replays.
const ReplayGroup = Group + "-replays"

// Config is what an operator can set.
type Config struct {
	Kafka kafka.Config

	// Window bounds how many events of a partition may be on their way at once.
	Window int `config:"FILTER_WINDOW" default:"8192" min:"1" max:"131072" doc:"events of one partition that the filter works on at once"`
	// RememberEvents bounds the memory for repeats, about 80 bytes an event.
	RememberEvents int `config:"FILTER_REMEMBER_EVENTS" default:"100000" min:"1" doc:"newest events of each partition that repeats are recognised among, within ten minutes"`
	// RecallEvents bounds what a start costs: these records are read before the partition's first new one.
	RecallEvents int `config:"FILTER_RECALL_EVENTS" default:"20000" min:"0" doc:"records of each partition that are read back at a start, so that repeats of what came before it are recognised"`
	// ReplayRate keeps replays from taking the brokers and dispatchers away from what happens now.
	ReplayRate float64 `config:"FILTER_REPLAY_RATE" default:"1000" min:"0.1" doc:"events a second that replays send at most, those of one filter together"`
}
