package callstream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/run"
)

// responseView is what people are shown of an endpoint's answer.
type responseView struct {
	ID             string          `json:"id"`
	Type           string          `json:"type"`
	SubscriptionID string          `json:"subscription_id"`
	ReceivedAt     string          `json:"received_at"`
	HTTPStatus     int             `json:"http_status"`
	Valid          bool            `json:"valid"`
	Problem        string          `json:"problem"`
	Answer         json.RawMessage `json:"answer"`
	bodyView
	Note string `json:"note"`
}

func newCallResponses(api *apiFlags, out *output) *cobra.Command {
	var follow bool
	limit := 50
	cmd := &cobra.Command{
		Use:   "responses CALL",
		Short: "What endpoints answered to its events, for subscriptions that capture it",
		Long: `Show what endpoints answered to a call's events, for the subscriptions that have capture_response set; the newest first.
With --follow they come the oldest first, and each new one as it is answered, until the command is interrupted; with --json
as well, one line of JSON each.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			path := "/v1/calls/" + url.PathEscape(args[0]) + "/responses"
			w := cmd.OutOrStdout()
			if follow {
				return c.follow(cmd.Context(), path, func(raw json.RawMessage) error {
					if out.json {
						_, err := fmt.Fprintf(w, "%s\n", raw)
						return err
					}
					return printResponse(w, raw)
				})
			}
			items, err := c.list(cmd.Context(), path, nil, limit)
			if err != nil {
				return err
			}
			if out.json {
				return printJSON(w, map[string]any{"items": items})
			}
			if len(items) == 0 {
				fmt.Fprintln(w, "No answer was captured.")
			}
			for _, item := range items {
				if err := printResponse(w, item); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with those that come")
	cmd.Flags().IntVar(&limit, "limit", limit, "most to list; 0 for all")
	return cmd
}

func printResponse(w io.Writer, raw json.RawMessage) error {
	var r responseView
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	head := []string{dayAndTime(r.ReceivedAt), r.Type, r.SubscriptionID, strconv.Itoa(r.HTTPStatus)}
	if !r.Valid {
		head = append(head, why("not valid", r.Problem))
	}
	fmt.Fprintf(w, "── %s\n", oneLine(strings.Join(head, "  ")))
	if len(r.Answer) > 0 {
		var pretty bytes.Buffer
		if err := printJSON(&pretty, r.Answer); err != nil {
			return err
		}
		fmt.Fprint(w, printable(pretty.String()))
	}
	r.print(w)
	printNote(w, r.Note)
	return nil
}

const (
	// longestEvent bounds a line of a stream: an answer of 16 KiB in base64, with what is known of it.
	longestEvent = 1 << 20
	// comeBackAfter is the pause after a stream that ended, unless the server says otherwise.
	comeBackAfter = time.Second
)

// follow reads a stream of server-sent events and hands the data of each to show, until ctx ends. A stream that has begun
// and ends is gone on with; one that can't be begun at first is an error.
func (c *apiClient) follow(ctx context.Context, path string, show func(json.RawMessage) error) error {
	lasting := *c.http
	lasting.Timeout = 0
	last, began := "", false
	shown := map[string]bool{} // what comes again is not shown again
	for {
		wait := comeBackAfter
		res, err := c.openStream(ctx, &lasting, path, last)
		if err == nil {
			began = true
			err = readEvents(res.Body, func(id string, data json.RawMessage) error {
				if id != "" {
					last = id
				}
				var known struct{ ID string }
				if json.Unmarshal(data, &known) == nil && known.ID != "" {
					if shown[known.ID] {
						return nil
					}
					shown[known.ID] = true
				}
				return show(data)
			})
			_ = res.Body.Close()
		}
		if ctx.Err() != nil {
			return nil // interrupted, as it is meant to be
		}
		var refused *problem.Problem
		switch {
		case errors.As(err, &refused) && (!began || refused.Status < 500 && refused.Status != http.StatusTooManyRequests):
			return err
		case errors.As(err, &refused):
			wait = max(wait, refused.RetryAfter)
		case err != nil && !began || errors.Is(err, errShow):
			return err
		}
		if run.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

func (c *apiClient) openStream(ctx context.Context, client *http.Client, path, last string) (*http.Response, error) {
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream, "+problem.ContentType)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(err)
	}
	return nil, answerProblem(res, raw)
}

// errShow means that an event could not be shown, which coming back won't change.
var errShow = errors.New("an event of the stream can't be shown")

// readEvents calls each for every event of a stream, until it ends.
func readEvents(r io.Reader, each func(id string, data json.RawMessage) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longestEvent)
	id, data := "", ""
	for lines.Scan() {
		line := lines.Text()
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && data != "":
			if err := each(id, json.RawMessage(data)); err != nil {
				return fmt.Errorf("%w: %w", errShow, err)
			}
			id, data = "", ""
		case line == "":
			id = ""
		case name == "id":
			id = value
		case name == "data":
			data += value
		}
	}
	return lines.Err()
}
