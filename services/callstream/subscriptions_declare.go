package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/services/callstream/declare"
)

// exitDifferences is the exit status of a diff that found some.
const exitDifferences run.Status = 2

// declareFlags are the flags that diff and apply share.
type declareFlags struct {
	files   []string
	options declare.Options
}

func (f *declareFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "file", "f", nil, "file with subscriptions, YAML or JSON; a folder for all of its *.yaml, *.yml and *.json; - for standard input; may be repeated")
	flags.BoolVar(&f.options.Prune, "prune", false, "delete subscriptions that are in none of the files")
	flags.BoolVar(&f.options.RotateCredentials, "rotate-credentials", false, "send the secrets of auth of every subscription: whether they have changed can't be told")
	flags.BoolVar(&f.options.Verify, "verify", true, "verify endpoints that are not verified yet")
	_ = cmd.MarkFlagRequired("file") // it is declared above
}

// plan reads the files, asks the API what there is, and compares.
func (f *declareFlags) plan(cmd *cobra.Command, c *apiClient) (*declare.Plan, error) {
	sources, err := readSources(cmd, f.files)
	if err != nil {
		return nil, err
	}
	entries, err := declare.Load(sources...)
	if err != nil {
		return nil, err
	}
	current, err := c.list(cmd.Context(), subscriptionsPath, nil, 0)
	if err != nil {
		return nil, err
	}
	plan, err := declare.New(entries, current, f.options)
	if err != nil {
		return nil, err
	}
	return plan, spareAgents(cmd.Context(), c, plan)
}

// spareAgents keeps subscriptions that stand for an agent's settings from being deleted: those declare them.
func spareAgents(ctx context.Context, c *apiClient, plan *declare.Plan) error {
	for _, s := range slices.Clone(plan.Steps) {
		if s.Action != declare.Delete || s.Agent == "" {
			continue
		}
		var settings agentSettingsView
		err := c.do(ctx, http.MethodGet, agentSettingsPath(s.Agent), nil, &settings, nil)
		var p *problem.Problem
		switch {
		case errors.As(err, &p) && p.Status == http.StatusNotFound:
		case err != nil:
			return err
		case settings.SubscriptionID == s.ID:
			plan.Spare(s.ID)
		}
	}
	return nil
}

// readSources reads the files, and those in the folders, that -f names.
func readSources(cmd *cobra.Command, names []string) ([]declare.Source, error) {
	var out []declare.Source
	add := func(name string) error {
		raw, err := os.ReadFile(name)
		out = append(out, declare.Source{Name: name, Dir: filepath.Dir(name), Raw: raw})
		return err
	}
	for _, name := range names {
		if name == "-" {
			raw, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxAnswer))
			if err != nil {
				return nil, fmt.Errorf("read standard input: %w", err)
			}
			out = append(out, declare.Source{Name: "standard input", Raw: raw})
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			if err := add(name); err != nil {
				return nil, err
			}
			continue
		}
		entries, err := os.ReadDir(name)
		if err != nil {
			return nil, err
		}
		var inside []string
		for _, e := range entries {
			inside = append(inside, e.Name())
		}
		inside = declare.Folder(inside)
		if len(inside) == 0 {
			return nil, fmt.Errorf("%s has no *.yaml, *.yml or *.json", name)
		}
		for _, file := range inside {
			if err := add(filepath.Join(name, file)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func newSubscriptionsDiff(api *apiFlags, out *output) *cobra.Command {
	var flags declareFlags
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Say what apply would change",
		Long: `Compare the subscriptions that a file declares with those that there are, and say what apply would do. Nothing is
changed, and no secret is read.

The exit status is 0 when there is nothing to do, 2 when there is, and 1 when something is wrong.`,
		Example: `  callstream subscriptions diff -f subscriptions.yaml
  callstream subscriptions diff -f deploy/subscriptions/ --prune --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			plan, err := flags.plan(cmd, c)
			if err != nil {
				return err
			}
			if out.json {
				err = printJSON(cmd.OutOrStdout(), plan)
			} else {
				err = printPlan(cmd.OutOrStdout(), plan)
			}
			if err == nil && plan.Pending() {
				err = exitDifferences
			}
			return err
		},
	}
	flags.addTo(cmd)
	return cmd
}

func newSubscriptionsApply(api *apiFlags, out *output) *cobra.Command {
	var flags declareFlags
	var secretsOut string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the subscriptions be as a file declares them",
		Long: `Print the plan that diff prints, and carry it out: create and change subscriptions, verify the new ones, and with
--prune delete those that are in none of the files. Applied again, it does nothing.

Secrets are named in the file, {env: NAME} or {file: PATH}, and read before anything is changed. A subscription that
someone else has changed in the meantime is left as it is. What fails stops nothing else; the exit status is 1 then.`,
		Example: `  callstream subscriptions apply -f subscriptions.yaml
  callstream subscriptions apply -f deploy/subscriptions/ --prune --secrets-out new-secrets.jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := api.client(cmd)
			if err != nil {
				return err
			}
			plan, err := flags.plan(cmd, c)
			if err != nil {
				return err
			}
			a := &applier{api: c, plan: plan, outcomes: []*outcome{}, verify: flags.options.Verify, json: out.json, out: cmd.OutOrStdout()}
			if err := a.open(secretsOut); err != nil {
				return err
			}
			defer a.close()
			if !out.json {
				if err := printPlan(a.out, plan); err != nil {
					return err
				}
			}
			failed := a.run(cmd.Context())
			if out.json {
				return errors.Join(printJSON(a.out, map[string]any{"subscriptions": a.outcomes, "others": plan.Others}), failed)
			}
			return failed
		},
	}
	flags.addTo(cmd)
	cmd.Flags().StringVar(&secretsOut, "secrets-out", "", "append the signing secrets of new subscriptions to this file, one JSON object a line, instead of printing them")
	return cmd
}

func newSubscriptionsSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the files that diff and apply take",
		Long: `Print the JSON Schema (draft 2020-12) of the files that diff and apply take. Editors complete and check with it; in
YAML, by a first line such as
  # yaml-language-server: $schema=subscriptions.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := declare.Schema()
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), json.RawMessage(raw))
		},
	}
}

// printPlan prints a plan for a person.
func printPlan(w io.Writer, plan *declare.Plan) error {
	var b strings.Builder
	for _, s := range plan.Steps {
		printStep(&b, s)
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	if plan.Pending() {
		verify := 0
		for _, s := range plan.Steps {
			if s.Verify && s.Action == declare.Keep {
				verify++
			}
		}
		fmt.Fprintf(&b, "%d to create, %d to change, %d to delete", plan.Count(declare.Create), plan.Count(declare.Update), plan.Count(declare.Delete))
		if verify > 0 {
			fmt.Fprintf(&b, ", %d to verify", verify)
		}
		fmt.Fprintf(&b, ", %d as declared.\n", plan.Count(declare.Keep)-verify)
	} else {
		fmt.Fprintf(&b, "Nothing to do: %s as declared.\n", count(plan.Count(declare.Keep), "subscription"))
	}
	if plan.Others > 0 {
		fmt.Fprintf(&b, "%s in none of the files; with --prune they would be deleted.\n", count(plan.Others, "subscription"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printStep prints what is to be done with a subscription, and nothing for one that is as declared.
func printStep(b *strings.Builder, s *declare.Step) {
	head := func(mark, what string) {
		fmt.Fprintf(b, "%s %s  %s\n", mark, oneLine(firstOf(s.Name, "(no name)")), what)
	}
	where := oneLine(s.ID) + ", version " + fmt.Sprint(s.Version)
	secret := map[string]declare.Reference{}
	for _, r := range s.Secrets {
		secret[r.Member] = r
	}
	switch s.Action {
	case declare.Create:
		head("+", "create")
	case declare.Update:
		head("~", "change "+where)
	case declare.Delete:
		head("-", "delete "+where)
		return
	case declare.Keep:
		if s.Verify {
			head("!", "verify "+oneLine(s.ID))
		}
		return
	}
	var rows [][2]string
	for _, c := range s.Changes {
		if r, ok := secret[c.Member]; ok {
			delete(secret, c.Member)
			rows = append(rows, [2]string{dotted(c.Member), "secret, from " + r.String()})
			continue
		}
		text := brief(c.After)
		if s.Action == declare.Update {
			text = brief(c.Before) + " → " + text
		}
		rows = append(rows, [2]string{dotted(c.Member), text})
	}
	for _, r := range s.Secrets {
		if _, left := secret[r.Member]; left {
			text := "secret, from " + r.String()
			if s.Action == declare.Update {
				text = "secret, sent again from " + r.String() + " (whether it changed can't be told)"
			}
			rows = append(rows, [2]string{dotted(r.Member), text})
		}
	}
	width := 0
	for _, r := range rows {
		width = max(width, len(r[0]))
	}
	for _, r := range rows {
		fmt.Fprintf(b, "    %-*s  %s\n", width, r[0], oneLine(r[1]))
	}
}

// dotted shows a JSON pointer as people write a member's place.
func dotted(pointer string) string {
	path := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, name := range path {
		path[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
	}
	return oneLine(strings.Join(path, "."))
}

// longest value that a plan shows whole, in characters.
const longestShown = 200

// brief shows a value as JSON, within bounds.
func brief(v any) string {
	if v == nil {
		return "(none)"
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "(can't be shown)"
	}
	text := []rune(strings.TrimSpace(b.String()))
	if len(text) > longestShown {
		return string(text[:longestShown]) + "…"
	}
	return string(text)
}

// errInterrupted says that an apply was ended before its end. It is no cancellation that nobody needs to hear of: what was
// not done is not done.
var errInterrupted = errors.New("interrupted: apply again to do the rest")
