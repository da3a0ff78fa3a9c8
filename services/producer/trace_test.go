package producer_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/topic"
)

func TestTheRequestsSpanGoesOnTheRecord(t *testing.T) {
	// A collector that takes nothing: only the ids are of interest.
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	collector := grpc.NewServer()
	go func() { _ = collector.Serve(l) }()
	defer collector.Stop()
	tel, err := telemetry.New(telemetry.Config{LogLevel: "error", OTLPEndpoint: l.Addr().String(), OTLPInsecure: true, TraceRatio: 1}, "producer", "test")
	require.NoError(t, err)
	defer tel.Close()

	r := startWith(t, nil, tel)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r.post(`[{"type":"call.started","call_id":"c"},{"type":"call.ended","call_id":"c"}]`, "Traceparent", parent).ids(t)
	r.post(`{"type":"call.ended","call_id":"c"}`, "Traceparent", "junk").ids(t)
	got := r.read(topic.CallsEvents)
	require.Len(t, got, 3)
	first, second, fresh := got[0].header("traceparent"), got[1].header("traceparent"), got[2].header("traceparent")
	require.Equal(t, first, second, "one span for a request")
	require.Equal(t, parent[:36], first[:36], "in the caller's trace")
	require.NotEqual(t, parent[36:52], first[36:52], "with an id of its own")
	require.Equal(t, "01", first[53:])
	require.True(t, telemetry.ValidTraceparent(fresh))
	require.NotEqual(t, parent[:36], fresh[:36])
}
