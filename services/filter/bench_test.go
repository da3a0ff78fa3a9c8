package filter_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/subscription"
)

// The filter alone, from a backlog of 2 KB events on the embedded broker to acknowledged deliveries and decisions. The
// broker shares the machine.
func BenchmarkBacklog(b *testing.B) {
	r := newRig(b)
	r.subscribe(&subscription.Subscription{ID: "sub_1", Events: []string{"call.*"}})
	r.start()
	r.stop()
	notes := strings.Repeat("lorem ipsum ", 150)
	var records []*kgo.Record
	flush := func() {
		require.NoError(b, r.producer.ProduceSync(b.Context(), records...))
		records = records[:0]
	}
	for i := range b.N {
		records = append(records, r.eventRecord(fmt.Sprintf(
			`{"id":"evt_%d","type":"call.ended","call_id":"c-%d","source":"dialer","data":{"duration_ms":%d,"notes":"%s","tags":["a","b"],"theirs":{"x":[1,2,3]}}}`,
			i, i%1000, i, notes)))
		if len(records) == 1000 {
			flush()
		}
	}
	flush()
	b.ResetTimer()
	r.start()
	r.eventually("all deliveries are written", func() error {
		ends, err := r.adm.ListEndOffsets(b.Context(), topic.Lane("standard"))
		if err != nil {
			return err
		}
		n := int64(0)
		for _, o := range ends[topic.Lane("standard")] {
			n += o.Offset
		}
		if n < int64(b.N) {
			return fmt.Errorf("%d of %d", n, b.N)
		}
		return nil
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	r.stop()
}
