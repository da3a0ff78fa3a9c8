package run

import "runtime/debug"

// version is set by the linker, for every program of ours alike: -X github.com/callstream/callstream/pkg/run.version=….
var version string

// Version is the version that the program was built as: the one given to the linker, or the module's, or the commit, or
// "dev".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "dev"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "dev"
}
