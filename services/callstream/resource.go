package callstream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// What the commands for every kind of thing in the API have in common.

// listing describes a command that lists what the API has under a path; V is what a row needs of an item.
type listing[V any] struct {
	path   string
	short  string
	none   string // printed for people when there is nothing
	header []string
	row    func(*V) []string
}

func (l listing[V]) command(api *apiFlags, out *output) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   l.short,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			items, err := c.list(cmd.Context(), l.path)
			if err != nil {
				return err
			}
			if out.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"items": items})
			}
			var rows [][]string
			for _, item := range items {
				var v V
				if err := json.Unmarshal(item, &v); err != nil {
					return fmt.Errorf("read the answer: %w", err)
				}
				rows = append(rows, l.row(&v))
			}
			return table(cmd.OutOrStdout(), l.none, l.header, rows)
		},
	}
}

// newDeleteCommand deletes what the API has under a path, by id; done is what has become of it then, "Deleted".
func newDeleteCommand(api *apiFlags, out *output, path, short, done string) *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID…",
		Aliases: []string{"rm"},
		Short:   short,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := c.do(cmd.Context(), http.MethodDelete, path+"/"+url.PathEscape(id), nil, nil, nil); err != nil {
					return err
				}
				if !out.json {
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s.\n", done, oneLine(id))
				}
			}
			if out.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"deleted": args})
			}
			return nil
		},
	}
}
