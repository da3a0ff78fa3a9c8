package callstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/services/console"
	"github.com/callstream/callstream/subscription"
)

// adminKey is what a key made in the database itself is to be.
type adminKey struct {
	tenant, name string
	scopes       []string
	lasts        time.Duration
}

// databaseConfig is the part of the console's configuration that says where its database is.
type databaseConfig struct {
	DataDir     string `config:"DATA_DIR" default:"./data" doc:"folder with the SQLite database"`
	DatabaseURL string `config:"DATABASE_URL" secret:"true" doc:"database of the console; empty for SQLite in the data directory"`
}

// createAdminKey makes a key in the database, with nothing of callstream's running if need be.
func createAdminKey(cmd *cobra.Command, out *output, settings *settingFlags, k adminKey) error {
	if k.tenant == "" {
		return errors.New("--tenant says whose key it is to be")
	}
	var cfg databaseConfig
	if err := settings.load(&cfg); err != nil {
		return err
	}
	request := console.NewKey{Tenant: k.tenant, Name: k.name, Scopes: k.scopes}
	if len(request.Scopes) == 0 {
		request.Scopes = []string{auth.ScopeAdmin}
	}
	if k.lasts > 0 {
		request.ExpiresAt = time.Now().Add(k.lasts)
	}
	made, err := console.CreateKey(cmd.Context(), console.Config{DataDir: cfg.DataDir, DatabaseURL: cfg.DatabaseURL}, request)
	var faults subscription.Faults
	if errors.As(err, &faults) {
		return problem.New(422, "the key was not made", faults...)
	}
	if err != nil {
		return err
	}
	view := keyView{ID: made.ID, Tenant: made.Tenant, Name: made.Name, Scopes: made.Scopes, Key: made.Plain,
		CreatedAt: made.CreatedAt.UTC().Format(time.RFC3339Nano)}
	if !made.ExpiresAt.IsZero() {
		view.ExpiresAt = made.ExpiresAt.UTC().Format(time.RFC3339Nano)
	}
	raw, err := json.Marshal(view)
	if err != nil {
		return fmt.Errorf("print the key: %w", err)
	}
	return out.print(cmd.OutOrStdout(), raw, printNewKey)
}
