package run

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Addresses are what a process listens on, "host:port" each; empty ones are left out.
type Addresses struct {
	HTTP           string `json:"http,omitempty"`
	Kafka          string `json:"kafka,omitempty"`
	SchemaRegistry string `json:"schema_registry,omitempty"`
}

// PublishAddresses waits until ready returns nil and then writes addresses.json into dir, which it creates. A file of
// an earlier run is removed first, so whoever sees one may rely on it. It returns nil when ctx ends before.
func PublishAddresses(ctx context.Context, dir string, a Addresses, ready func() error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	file := filepath.Join(dir, "addresses.json")
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove the addresses of an earlier run: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	// Renamed into place: a reader never sees half of it.
	if err := os.WriteFile(file+".tmp", append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	return nil
}
