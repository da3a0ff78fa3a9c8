// Command gen writes the Go code that mirrors the Avro schemas; go generate runs it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/callstream/callstream/schemas/internal/gen"
)

func main() {
	schemas := flag.String("schemas", ".", "directory of the .avsc files")
	out := flag.String("out", ".", "directory of the generated files")
	flag.Parse()
	files, err := gen.Generate(os.DirFS(*schemas))
	if err == nil {
		for name, text := range files {
			if err = os.WriteFile(filepath.Join(*out, name), text, 0o644); err != nil {
				break
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
