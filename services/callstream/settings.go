package callstream

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/callstream/callstream/pkg/config"
)

// settingFlags are the settings of a service as flags of one of our commands. The service's own loader parses them, so
// that they mean the same everywhere.
type settingFlags struct {
	names  map[string]bool
	cmd    *cobra.Command
	warned map[string]bool // said already: up loads its settings twice where the first time shows another default
}

// addSettings declares each setting of dst, a pointer to a Config struct, as a flag of cmd that isn't declared yet.
func addSettings(cmd *cobra.Command, dst any) *settingFlags {
	s := &settingFlags{names: map[string]bool{}, cmd: cmd, warned: map[string]bool{}}
	entries, err := config.Reference(dst)
	if err != nil {
		panic(fmt.Sprintf("callstream: %v", err)) // a Config struct that no loader takes: every test fails on it
	}
	entries = append(entries, config.Entry{Flag: "--config", Doc: "YAML file with settings (CALLSTREAM_CONFIG)"})
	for _, e := range entries {
		name := strings.TrimPrefix(e.Flag, "--")
		if cmd.Flags().Lookup(name) != nil {
			continue
		}
		usage := e.Doc
		if e.Default != "" {
			usage += " (default " + e.Default + ")"
		}
		cmd.Flags().String(name, "", usage)
		if e.Type == "true or false" {
			cmd.Flags().Lookup(name).NoOptDefVal = "true"
		}
		s.names[name] = true
	}
	return s
}

// load fills dst from the flags that were given, the environment and the file that they name.
func (s *settingFlags) load(dst any) error { return s.loadOver(nil, dst) }

// loadOver is load with defaults of the command's own, by key ("AUTH"), in place of those in the tags.
func (s *settingFlags) loadOver(defaults map[string]string, dst any) error {
	src := config.OS(nil)
	src.Defaults = defaults
	s.cmd.Flags().Visit(func(f *pflag.Flag) {
		if s.names[f.Name] {
			src.Args = append(src.Args, "--"+f.Name+"="+f.Value.String())
		}
	})
	src.Warn = func(message string) {
		if !s.warned[message] {
			s.warned[message] = true
			fmt.Fprintln(s.cmd.ErrOrStderr(), "warning: "+message)
		}
	}
	src.Env = os.Environ()
	return config.Load(dst, src)
}
