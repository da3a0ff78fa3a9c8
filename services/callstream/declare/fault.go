package declare

import (
	"strconv"
	"strings"
)

// Fault is one thing that is wrong with a file.
type Fault struct {
	File string `json:"file"`
	// Line counts from 1; 0 means that the fault is in no particular line.
	Line int `json:"line,omitempty"`
	// Place is the path to it, "subscriptions[2].request.timeout"; empty for the file as a whole.
	Place  string `json:"place,omitempty"`
	Detail string `json:"detail"`
}

// String is "crm.yaml:12: subscriptions[2].request.timeout: want 100ms to 30s".
func (f Fault) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		b.WriteString(":" + strconv.Itoa(f.Line))
	}
	b.WriteString(": ")
	if f.Place != "" {
		b.WriteString(f.Place + ": ")
	}
	b.WriteString(strings.ReplaceAll(f.Detail, "\n", "\n    "))
	return b.String()
}

// Faults are all that is wrong with the files. It is never empty as an error.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}
