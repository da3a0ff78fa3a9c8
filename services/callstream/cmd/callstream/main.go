// Command callstream is the whole pipeline in one process (callstream up) and the command line for it.
package main

import (
	"cmp"
	"context"

	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/services/callstream"
)

// version is set by the linker; without it the build's own tells.
var version string

func main() {
	run.Main("callstream", func(ctx context.Context, args []string) error {
		return callstream.Run(ctx, cmp.Or(version, run.Version()), args)
	})
}
