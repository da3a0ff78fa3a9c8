package callstream

import (
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// adminKey is what a key made in the database itself is to be.
type adminKey struct {
	tenant, name string
	scopes       []string
	lasts        time.Duration
}

func adminSettings(cmd *cobra.Command) *settingFlags { return addSettings(cmd, &struct{}{}) }

func createAdminKey(cmd *cobra.Command, out *output, settings *settingFlags, k adminKey) error {
	_, _, _, _ = cmd, out, settings, k
	return errors.New("not yet")
}
