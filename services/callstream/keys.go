package callstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/auth"
)

// keysPath is where the API has API keys.
const keysPath = "/v1/keys"

// keyView is what the tables show of an API key.
type keyView struct {
	ID        string   `json:"id"`
	Tenant    string   `json:"tenant"`
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes"`
	CreatedAt string   `json:"created_at"`
	ExpiresAt string   `json:"expires_at,omitempty"`
	// Key is the plain key, in the answer to create and rotate alone.
	Key string `json:"key,omitempty"`
}

func newKeysCommand() *cobra.Command {
	var api apiFlags
	var out output
	cmd := &cobra.Command{
		Use:     "keys",
		Aliases: []string{"key"},
		Short:   "API keys",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	api.addTo(cmd)
	out.addTo(cmd)
	cmd.AddCommand(newKeysCreate(&api, &out), newKeysList(&api, &out), newDeleteCommand(&api, &out, keysPath, "Revoke keys", "Revoked"), newPostCommand(&api, &out, keysPath, "rotate", "Replace a key by a new one; the new one is shown this once", printNewKey))
	return cmd
}

func newKeysCreate(api *apiFlags, out *output) *cobra.Command {
	var name string
	var scopes []string
	var admin bool
	var lasts time.Duration
	var settings *settingFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make an API key; it is shown this once",
		Long: `Make an API key of the tenant that --key belongs to. The key is shown this once.

With --admin the key is made in the database itself, with the scope admin unless --scopes says otherwise: this is how
the first key of a tenant comes about. It takes the console's configuration (CALLSTREAM_DATABASE_URL, or
CALLSTREAM_DATA_DIR for SQLite) from the environment, --config or the flags below. The console publishes the key when it
next looks, within seconds.`,
		Example: `  callstream keys create --name dialer --scopes events:write
  callstream keys create --admin --tenant acme`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range scopes {
				if !auth.ValidScope(s) {
					return fmt.Errorf("--scopes: %q is not a scope; there are %s", s, strings.Join(auth.Scopes(), ", "))
				}
			}
			if lasts < 0 {
				return errors.New("--expires-in must be positive")
			}
			if admin {
				return createAdminKey(cmd, out, settings, adminKey{tenant: api.tenant, name: name, scopes: scopes, lasts: lasts})
			}
			if len(scopes) == 0 {
				return fmt.Errorf("--scopes says what the key may do: %s", strings.Join(auth.Scopes(), ", "))
			}
			body := map[string]any{"name": name, "scopes": scopes}
			if lasts > 0 {
				body["expires_at"] = time.Now().Add(lasts).UTC().Format(time.RFC3339)
			}
			return exchange{http.MethodPost, keysPath, body, printNewKey}.run(cmd, api, out)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "command line", "a name for people")
	flags.StringSliceVar(&scopes, "scopes", nil, "what it may do: "+strings.Join(auth.Scopes(), ", "))
	flags.BoolVar(&admin, "admin", false, "make it in the database itself, for --tenant")
	flags.DurationVar(&lasts, "expires-in", 0, "how long it is valid (720h); without it, until it is deleted")
	settings = addSettings(cmd, &databaseConfig{})
	return cmd
}

// printNewKey prints a key that was just made, the one time that it is seen.
func printNewKey(w io.Writer, raw json.RawMessage) error {
	var k keyView
	if err := json.Unmarshal(raw, &k); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	_, err := fmt.Fprintf(w, "%s of tenant %s, for %s. The key, shown this once:\n  %s\n", oneLine(k.ID), oneLine(k.Tenant),
		oneLine(strings.Join(k.Scopes, ", ")), oneLine(k.Key))
	return err
}

func newKeysList(api *apiFlags, out *output) *cobra.Command {
	return listing[keyView]{
		path: keysPath, short: "All keys of the tenant, newest first", none: "There are no keys; `callstream keys create` makes one.",
		header: []string{"ID", "NAME", "SCOPES", "CREATED", "EXPIRES"},
		row: func(k *keyView) []string {
			return []string{k.ID, k.Name, strings.Join(k.Scopes, ","), dayAndTime(k.CreatedAt), dayAndTime(k.ExpiresAt)}
		},
	}.command(api, out)
}
