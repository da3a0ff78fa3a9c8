// Command callstream is the whole pipeline in one process (callstream up) and the command line for it.
package main

import (
	"context"

	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/services/callstream"
)

func main() {
	run.Main("callstream", func(ctx context.Context, args []string) error {
		return callstream.Run(ctx, run.Version(), args)
	})
}
