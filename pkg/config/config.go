// Package config fills a service's Config struct from flags, the environment and a YAML file, in this order of
// precedence, over the defaults that the struct's tags declare. A setting is declared once, as a field:
//
//	HTTPAddr string `config:"HTTP_ADDR" default:"127.0.0.1:8080" doc:"where the API listens"`
//
// and is then the variable CALLSTREAM_HTTP_ADDR, the YAML key http_addr and the flag --http-addr. Everything that is
// wrong is reported at once, each problem with the place that it stands in and what to write instead.
//
// Further tags: required:"true" (an empty value is a problem), secret:"true" (the value is never repeated in a message),
// oneof:"a,b" (the values allowed), min:"1" and max:"10" (bounds of numbers, durations and sizes).
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"
)

// prefix is what the name of each of our environment variables begins with.
const prefix = "CALLSTREAM_"

// fileKey is the setting that names the YAML file. It is no field of any Config: it can't stand in the file itself.
const fileKey = "CONFIG"

// Source says where settings come from.
type Source struct {
	// Args are the command-line flags, without the program's name.
	Args []string
	// Env is the environment in the form of os.Environ. A variable that is set to nothing counts as not set, since
	// that is what compose files make of an absent one.
	Env []string
	// File is the YAML file to read when neither --config nor CALLSTREAM_CONFIG names one; empty for none.
	File string
	// Defaults replace default tags, by key ("HTTP_ADDR"); everything else goes over them.
	Defaults map[string]string
	// Complete says that dst holds every setting there is, so that any other key in the file is a mistake. A single
	// service shares its file with others, so there only a key that resembles one of its own is.
	Complete bool
	// Warn is called with what is suspicious but stops nothing, such as a misspelt variable. May be nil.
	Warn func(message string)
	// ReadFile reads the YAML file; nil means os.ReadFile.
	ReadFile func(name string) ([]byte, error)
}

// OS is the Source of a program: its flags and its environment.
func OS(args []string) Source { return Source{Args: args, Env: os.Environ()} }

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Where names the place: "CALLSTREAM_HTTP_ADDR", "--http-addr", "callstream.yaml line 3, http_addr".
	Where string
	// Detail says what is wrong and what to write instead.
	Detail string
}

// Errors holds every problem of a configuration. A program that meets it exits with status 2.
type Errors struct{ Problems []Problem }

// Error lists the problems, one a line.
func (e *Errors) Error() string {
	var b strings.Builder
	if len(e.Problems) == 1 {
		b.WriteString("1 problem in the configuration:")
	} else {
		fmt.Fprintf(&b, "%d problems in the configuration:", len(e.Problems))
	}
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		if p.Where != "" {
			b.WriteString(p.Where)
			b.WriteString(": ")
		}
		b.WriteString(p.Detail)
	}
	return b.String()
}

func (e *Errors) add(where, format string, args ...any) {
	e.Problems = append(e.Problems, Problem{Where: where, Detail: fmt.Sprintf(format, args...)})
}

// Help is what Load returns when a flag asks for help. Its text lists every setting.
type Help struct{ Text string }

// Error is the help text itself.
func (h *Help) Error() string { return h.Text }

// Validator is what a Config struct implements to check what tags can't say. It runs after everything is set, on nested
// structs too, and returns one sentence for each problem, naming the variable. It must bear any values: it runs even when
// other settings are wrong, so that everything is reported at once.
type Validator interface{ Validate() []string }

// Load fills dst, a pointer to a struct. Nested structs without a config tag are flattened; a key that several of them
// declare is set in all. A field that isn't zero before the call keeps that value instead of its default tag.
// It returns *Errors with everything that is wrong, or *Help when the flags ask for it.
func Load(dst any, src Source) error {
	root := reflect.ValueOf(dst)
	if root.Kind() != reflect.Pointer || root.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("config: Load wants a pointer to a struct, not %T", dst)
	}
	set, err := collect(root.Elem())
	if err != nil {
		return err
	}
	errs := &Errors{}
	flags, help := parseFlags(src.Args, set, errs)
	if help {
		return &Help{Text: usage(set.entries())}
	}
	env := environment(src.Env)

	for _, s := range set.order {
		s.applyDefault(src.Defaults, errs)
	}
	file := src.File
	if v, ok := env[prefix+fileKey]; ok {
		file = v.text
	}
	if v, ok := flags[fileKey]; ok {
		file = v.text
	}
	if file != "" {
		read := src.ReadFile
		if read == nil {
			read = os.ReadFile
		}
		loadFile(file, read, set, src, errs)
	}
	for _, s := range set.order {
		if v, ok := env[prefix+s.key]; ok {
			s.apply(v, errs)
		}
		if v, ok := flags[s.key]; ok {
			s.apply(v, errs)
		}
	}
	warnMisspelt(env, set, src.Warn)
	for _, s := range set.order {
		s.check(errs)
	}
	validate(root, errs) // in any case: what can't be read has left the default in place
	if len(errs.Problems) > 0 {
		return errs
	}
	return nil
}

// validate calls Validate on every struct that has it. Embedding promotes the method to the outer struct, so the same
// sentence may come twice.
func validate(root reflect.Value, errs *Errors) {
	seen := map[string]bool{}
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		if v.CanAddr() && v.Addr().CanInterface() {
			if val, ok := v.Addr().Interface().(Validator); ok {
				for _, detail := range val.Validate() {
					if !seen[detail] {
						seen[detail] = true
						errs.add("", "%s", detail)
					}
				}
			}
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if nested(f) && f.IsExported() {
				walk(v.Field(i))
			}
		}
	}
	walk(root.Elem())
}

// warnMisspelt names variables that look like ours and aren't.
func warnMisspelt(env map[string]value, set *settings, warn func(string)) {
	if warn == nil {
		return
	}
	var names []string
	for name := range env {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		key, ours := strings.CutPrefix(name, prefix)
		if !ours || key == fileKey || set.byKey[key] != nil {
			continue
		}
		if near := nearest(key, set.keys()); near != "" {
			warn(fmt.Sprintf("%s is not a setting and is ignored; did you mean %s%s?", name, prefix, near))
		}
	}
}

// value is a setting's text and the place that it was found in.
type value struct {
	text  string
	list  []string // set when the file holds a sequence
	seq   bool
	where string
}

func environment(env []string) map[string]value {
	m := map[string]value{}
	for _, kv := range env {
		name, text, ok := strings.Cut(kv, "=")
		if ok && text != "" && strings.HasPrefix(name, prefix) {
			m[name] = value{text: text, where: name}
		}
	}
	return m
}

func parseFlags(args []string, set *settings, errs *Errors) (map[string]value, bool) {
	flags := map[string]value{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "-h" || arg == "-help" || arg == "--help" {
			return nil, true
		}
		name, isFlag := strings.CutPrefix(arg, "--")
		if !isFlag || name == "" {
			errs.add("", "argument %q is not expected here; settings are given as --name=value", arg)
			continue
		}
		name, text, hasText := strings.Cut(name, "=")
		key := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		s := set.byKey[key]
		if s == nil && key != fileKey || strings.Contains(name, "_") {
			detail := "there is no such flag"
			if near := nearest(key, append(set.keys(), fileKey)); near != "" {
				detail += "; did you mean --" + flagName(near) + "?"
			} else {
				detail += "; --help lists them all"
			}
			errs.add("--"+name, "%s", detail)
			if !hasText && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++ // most likely its value: no second complaint about that
			}
			continue
		}
		if !hasText {
			switch {
			case s != nil && s.isBool():
				text = "true"
			case i+1 < len(args):
				i++
				text = args[i]
			default:
				errs.add("--"+name, "a value is missing: write --%s=value", name)
				continue
			}
		}
		flags[key] = value{text: text, where: "--" + name}
	}
	return flags, false
}

// IsHelp reports whether err asks for the help text to be shown, and returns it.
func IsHelp(err error) (string, bool) {
	var h *Help
	if errors.As(err, &h) {
		return h.Text, true
	}
	return "", false
}
