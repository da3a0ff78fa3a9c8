package callstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newHealthCommand is what a container's health check runs: our images have no shell and no curl.
func newHealthCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health [URL]",
		Short: "Ask a service whether it is ready (exit status 0) or not (1)",
		Long: `Ask a service's /readyz whether it is able to work, and exit with status 0 if it is, with 1 if not.
For the health checks of containers: the images have neither a shell nor curl.`,
		Example: "  callstream health http://127.0.0.1:8080",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			base := defaultAPI
			if len(args) == 1 {
				base = args[0]
			}
			if !strings.Contains(base, "://") {
				base = "http://" + base
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/readyz", nil)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			text, status, err := fetch(http.DefaultClient, req)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			if status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", base, status, text)
			}
			fmt.Fprintln(cmd.OutOrStdout(), text)
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	return cmd
}

// fetch sends a request and returns the start of the answer as one line.
func fetch(client *http.Client, req *http.Request) (text string, status int, err error) {
	res, err := client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if err != nil {
		return "", 0, err
	}
	return oneLine(strings.TrimSpace(string(raw))), res.StatusCode, nil
}
