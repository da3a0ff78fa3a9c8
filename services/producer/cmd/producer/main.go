// Command producer takes events over HTTP and puts them on Kafka.
package main

import (
	"net/http"

	"github.com/callstream/callstream/pkg/host"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/producer"
)

func main() { run.Main("producer", program().Run) }

// program describes the producer as a process of its own.
func program() host.Program {
	var s struct {
		Host     host.Standalone
		Producer producer.Config
	}
	return host.Program{
		Name: "producer", Settings: &s, Standalone: &s.Host, HTTPAddr: "127.0.0.1:8080",
		Build: func(tel *telemetry.Telemetry, registry *kafka.Registry) (host.Service, http.Handler, error) {
			service, err := producer.New(s.Producer, producer.Deps{Telemetry: tel, Codec: event.NewCodec(registry)})
			if err != nil {
				return nil, nil, err
			}
			return service, service.Handler(), nil
		},
	}
}
