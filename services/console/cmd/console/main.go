// Command console serves the API for subscriptions and keys, and publishes their changes on the feeds.
package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/callstream/callstream/pkg/host"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console"
)

type settings struct {
	Host    host.Standalone
	Console console.Config
}

// Validate asks for a key here, where none is made: one that only this process knew would seal secrets for nobody.
func (s *settings) Validate() []string {
	if _, err := secret.LoadKey(s.Console.EncryptionKey, s.Host.DataDir, false); errors.Is(err, secret.ErrNoKey) {
		return []string{"CALLSTREAM_ENCRYPTION_KEY: " + err.Error()}
	}
	return nil
}

func main() {
	var s settings
	run.Main("console", func(ctx context.Context, args []string) error {
		return host.Program{
			Name: "console", Settings: &s, Standalone: &s.Host, HTTPAddr: "127.0.0.1:8090",
			Build: func(tel *telemetry.Telemetry, registry *kafka.Registry) (host.Service, http.Handler, error) {
				box, err := secret.LoadBox(s.Console.EncryptionKey, s.Host.DataDir, false)
				if err != nil {
					return nil, nil, err
				}
				service, err := console.New(s.Console, console.Deps{Telemetry: tel, Codec: event.NewCodec(registry), Box: box, Version: run.Version()})
				if err != nil {
					return nil, nil, err
				}
				return service, service.Handler(), nil
			},
		}.Run(ctx, args)
	})
}
