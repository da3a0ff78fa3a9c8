package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// Range is a part of a partition: From ≤ offset < To.
type Range struct {
	TopicPartition
	From, To int64
}

// Scan reads a range of a partition, outside of any group, and calls visit for each record, in the order of the log, until
// it returns false. Records of aborted transactions are left out. To may not be beyond the partition's end, for which it
// would wait until ctx ends. Its error is worth a retry.
func Scan(ctx context.Context, cfg Config, log *zap.Logger, in Range, visit func(*kgo.Record) bool) error {
	if in.From >= in.To {
		return nil
	}
	opts, err := cfg.Options(log)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{in.Topic: {in.Partition: kgo.NewOffset().At(in.From)}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // a range may end in one
		kgo.FetchMaxPartitionBytes(4<<20),
	)...)
	if err != nil {
		return fmt.Errorf("make a client to scan %s: %w", in.TopicPartition, err)
	}
	defer client.Close()
	for {
		fetches := client.PollRecords(ctx, 2000)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("scan %s: %w", in.TopicPartition, err)
		}
		for iter := fetches.RecordIter(); !iter.Done(); {
			r := iter.Next()
			if r.Offset < in.To && !r.Attrs.IsControl() && !visit(r) {
				return nil
			}
			if r.Offset+1 >= in.To {
				return nil
			}
		}
	}
}
