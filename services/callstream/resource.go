package callstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/subscription"
)

// What the commands for every kind of thing in the API have in common.

// listing describes a command that lists what the API has under a path; V is what a row needs of an item.
type listing[V any] struct {
	path   string
	short  string
	none   string // printed for people when there is nothing
	header []string
	row    func(*V) []string
	// search are the parameters that the API takes, each of which gets a flag.
	search []parameter
	// most bounds how many are listed unless --limit says otherwise; 0 lists all.
	most int
}

// parameter is one of a list's search parameters; its flag has the same name, with dashes.
type parameter struct {
	name, usage string
	// past says that it is a time, for which a flag also takes how long ago: 2h.
	past bool
}

func (l listing[V]) command(api *apiFlags, out *output) *cobra.Command {
	limit := l.most
	given := make([]string, len(l.search))
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   l.short,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			items, err := c.list(cmd.Context(), l.path, parameters(l.search, given), limit)
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
	addParameters(cmd, l.search, given)
	if l.most > 0 {
		cmd.Flags().IntVar(&limit, "limit", l.most, "most to list; 0 for all")
	}
	return cmd
}

// list reads a list of the API to its end, or to the first `most` items if that is not 0.
func (c *apiClient) list(ctx context.Context, path string, query url.Values, most int) ([]json.RawMessage, error) {
	items := []json.RawMessage{}
	cursor := ""
	for {
		query := maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		limit := 500
		if most > 0 {
			limit = min(limit, most-len(items))
		}
		query.Set("limit", strconv.Itoa(limit))
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var p page
		if err := c.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &p, nil); err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if p.NextCursor == "" || p.NextCursor == cursor || len(items) == most {
			return items, nil
		}
		cursor = p.NextCursor
	}
}

// page is a list's answer.
type page struct {
	Items      []json.RawMessage `json:"items"`
	NextCursor string            `json:"next_cursor"`
}

// exchange is a request whose answer a command prints; show does that for a person.
type exchange struct {
	method, path string
	body         any // nil for none
	show         func(w io.Writer, raw json.RawMessage) error
}

func (e exchange) run(cmd *cobra.Command, api *apiFlags, out *output) error {
	c, err := api.client(cmd)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := c.do(cmd.Context(), e.method, e.path, e.body, &raw, nil); err != nil {
		return err
	}
	return out.print(cmd.OutOrStdout(), raw, e.show)
}

// print prints an answer as it is, where JSON is asked for, and as show does otherwise.
func (o *output) print(w io.Writer, raw json.RawMessage, show func(w io.Writer, raw json.RawMessage) error) error {
	if o.json {
		return printJSON(w, raw)
	}
	return show(w, raw)
}

// newPostCommand is a command that posts to what the API has under a path, <path>/<id>/<action>.
func newPostCommand(api *apiFlags, out *output, path, action, short string, show func(w io.Writer, raw json.RawMessage) error) *cobra.Command {
	return &cobra.Command{
		Use:   action + " ID",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return exchange{method: http.MethodPost, path: path + "/" + url.PathEscape(args[0]) + "/" + action, show: show}.run(cmd, api, out)
		},
	}
}

// newGetCommand shows one thing that the API has under a path: show prints it for a person. Each of the parameters that the
// API takes gets a flag.
func newGetCommand(api *apiFlags, out *output, path, use, short string, show func(w io.Writer, raw json.RawMessage) error, takes ...parameter) *cobra.Command {
	given := make([]string, len(takes))
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := path + "/" + url.PathEscape(args[0])
			if query := parameters(takes, given).Encode(); query != "" {
				path += "?" + query
			}
			return exchange{method: http.MethodGet, path: path, show: show}.run(cmd, api, out)
		},
	}
	addParameters(cmd, takes, given)
	return cmd
}

// addParameters declares a flag for each parameter.
func addParameters(cmd *cobra.Command, list []parameter, given []string) {
	for i, p := range list {
		usage := p.usage
		if p.past {
			usage += ": a time (RFC 3339), or how long ago (2h, 7d)"
		}
		cmd.Flags().StringVar(&given[i], strings.ReplaceAll(p.name, "_", "-"), "", usage)
	}
}

// parameters are those that were given.
func parameters(list []parameter, given []string) url.Values {
	query := url.Values{}
	for i, p := range list {
		v := given[i]
		if v == "" {
			continue
		}
		if ago, err := subscription.ParseDuration(v); p.past && err == nil {
			v = time.Now().Add(-time.Duration(ago)).UTC().Format(time.RFC3339Nano)
		}
		query.Set(p.name, v)
	}
	return query
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
