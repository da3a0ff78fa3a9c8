package callstream

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// Run executes the command line. Its error is meant for a person and isn't printed yet: see run.Main.
func Run(ctx context.Context, version string, args []string) error {
	return explain(NewCommand(version, args).ExecuteContext(ctx))
}

// NewCommand returns the program's command tree, to be executed with args.
func NewCommand(version string, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "callstream",
		Short: "Events of phone calls, delivered to webhooks",
		Long: `callstream takes the events of phone calls and delivers them to webhook endpoints: filtered for each
subscription, signed, retried, and never lost.

To see it work, in three terminals:

  callstream up
  callstream listen --subscribe '*'
  callstream simulate --calls 1

Commands that talk to the API take its address from --api or CALLSTREAM_API_URL and the API key from --key or
CALLSTREAM_API_KEY. With --json they print what the API answered, for programs.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetArgs(args)
	root.SetVersionTemplate("callstream {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; `%s --help` lists what there is", err, cmd.CommandPath())
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupTry, Title: "Try out:"},
		&cobra.Group{ID: groupManage, Title: "Manage:"},
		&cobra.Group{ID: groupLook, Title: "Look up:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupRun, newUpCommand(version), newTopicsCommand(), newDoctorCommand(), newHealthCommand())
	add(groupTry, newSimulateCommand(), newListenCommand())
	add(groupManage, newSubscriptionsCommand(), newAgentsCommand(), newKeysCommand(), newAuditCommand())
	add(groupLook, newDeliveriesCommand(), newDeadLettersCommand(), newEventsCommand(), newCallsCommand(), newHistoryCommand())
	return root
}

// The groups that the help text lists commands in.
const (
	groupRun    = "run"
	groupTry    = "try"
	groupManage = "manage"
	groupLook   = "look"
)
