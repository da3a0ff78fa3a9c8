// Command dispatcher sends deliveries to their endpoints.
package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/callstream/callstream/pkg/host"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/pkg/secret"
	"github.com/callstream/callstream/pkg/telemetry"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/dispatcher"
)

type settings struct {
	Host       host.Standalone
	Dispatcher dispatcher.Config

	EncryptionKey string `config:"ENCRYPTION_KEY" secret:"true" doc:"AES-256-GCM key that subscription secrets are sealed with: 32 bytes in base64 or hex, the same for every service"`
}

// Validate asks for the key here, where none is made: one that only this process knew would open no secret.
func (s *settings) Validate() []string {
	if _, err := secret.LoadKey(s.EncryptionKey, s.Host.DataDir, false); err != nil {
		return []string{"CALLSTREAM_ENCRYPTION_KEY: " + strings.TrimPrefix(err.Error(), "CALLSTREAM_ENCRYPTION_KEY: ")}
	}
	return nil
}

func main() {
	var s settings
	run.Main("dispatcher", func(ctx context.Context, args []string) error {
		return host.Program{
			Name: "dispatcher", Settings: &s, Standalone: &s.Host, HTTPAddr: "127.0.0.1:8092",
			Build: func(tel *telemetry.Telemetry, registry *kafka.Registry) (host.Service, http.Handler, error) {
				box, err := secret.LoadBox(s.EncryptionKey, s.Host.DataDir, false)
				if err != nil {
					return nil, nil, err
				}
				service, err := dispatcher.New(s.Dispatcher, dispatcher.Deps{Telemetry: tel, Codec: event.NewCodec(registry), Box: box, Version: run.Version()})
				return service, nil, err
			},
		}.Run(ctx, args)
	})
}
