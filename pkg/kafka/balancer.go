package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// ColocatingBalancer gives partition p of every topic to one member.
func ColocatingBalancer() kgo.GroupBalancer { return kgo.CooperativeStickyBalancer() }
