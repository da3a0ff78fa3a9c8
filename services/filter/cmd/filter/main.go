// Command filter decides which subscriptions get an event, and renders what they are sent.
package main

import (
	"context"
	"net/http"

	"github.com/callstream/callstream/pkg/host"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/filter"
)

func main() {
	var s struct {
		Host   host.Standalone
		Filter filter.Config
	}
	run.Main("filter", func(ctx context.Context, args []string) error {
		return host.Program{
			Name: "filter", Settings: &s, Standalone: &s.Host, HTTPAddr: "127.0.0.1:8091",
			Build: func(tel *telemetry.Telemetry, registry *kafka.Registry) (host.Service, http.Handler, error) {
				service, err := filter.New(s.Filter, filter.Deps{Telemetry: tel, Codec: event.NewCodec(registry)})
				return service, nil, err
			},
		}.Run(ctx, args)
	})
}
