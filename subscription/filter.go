package subscription

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/callstream/callstream/schemas/event"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/interpreter"
)

// The reasons why an event does not match a filter. They are what deliveries.decisions records.
const (
	ReasonFiltered     = "filtered"
	ReasonMissingField = "missing_field"
	ReasonFilterError  = "filter_error"
)

// Limits of a filter. The cost limit is in CEL's units, about 50 to 100 ns each: a filter may take some milliseconds and
// never more, whatever it says and whatever the event holds. Plain comparisons cost a few units.
const (
	maxFilter        = 8 << 10
	filterCostLimit  = 100_000
	maxFilterDepth   = 100
	maxFilterNodes   = 2_000
	maxRegexProgram  = 2_000
	maxDetailInBytes = 200
)

// FilterError says why an expression is no filter, with its place: Line from 1, Column from 1 in characters.
type FilterError struct {
	Line, Column int
	Detail       string
}

func (e *FilterError) Error() string {
	if e.Line == 0 {
		return e.Detail
	}
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Detail)
}

// Filter is a compiled CEL expression over event. It is safe for concurrent use.
type Filter struct {
	source  string
	program cel.Program
	fields  []field
}

// field is a member that the expression reads. Path is empty when it isn't read from the event by constant names alone.
type field struct {
	name string
	path []string
}

// newFilterEnv declares the one variable. Its type is a map of anything: the catalogue leaves room for members that it
// does not declare, so names can't be checked here.
func newFilterEnv() (*cel.Env, error) {
	return cel.NewEnv(
		cel.Variable("event", cel.MapType(cel.StringType, cel.DynType)),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserRecursionLimit(maxFilterDepth),
		cel.ParserExpressionSizeLimit(maxFilter),
		cel.ExpressionNodeLimit(maxFilterNodes),
		cel.ExpressionNestingDepthLimit(maxFilterDepth),
		cel.RegexProgramSizeLimit(maxRegexProgram),
	)
}

// filterEnv is made once: it takes milliseconds, and is never changed afterwards.
var filterEnv = sync.OnceValues(newFilterEnv)

// CompileFilter compiles a CEL expression that yields true or false. A bad one is a *FilterError.
func CompileFilter(expr string) (*Filter, error) {
	if len(expr) > maxFilter {
		return nil, &FilterError{Detail: fmt.Sprintf("longer than %d bytes", maxFilter)}
	}
	if !utf8.ValidString(expr) {
		return nil, &FilterError{Detail: "not valid UTF-8"}
	}
	env, err := filterEnv()
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	compiled, issues := env.Compile(expr)
	if issues != nil && len(issues.Errors()) > 0 {
		first := issues.Errors()[0]
		e := &FilterError{Detail: shorten(first.Message)}
		if first.Location != nil && first.Location.Line() > 0 {
			e.Line, e.Column = first.Location.Line(), max(first.Location.Column()+1, 1)
		}
		return nil, e
	}
	if t := compiled.OutputType(); !t.IsExactType(types.BoolType) && !t.IsExactType(types.DynType) {
		return nil, &FilterError{Line: 1, Column: 1, Detail: "the expression yields " + t.String() + ", not true or false"}
	}
	program, err := env.Program(compiled, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(filterCostLimit))
	if err != nil {
		// A constant regular expression that does not compile, for one.
		return nil, &FilterError{Line: 1, Column: 1, Detail: shorten(err.Error())}
	}
	return &Filter{source: expr, program: program, fields: readFields(compiled.NativeRep())}, nil
}

// Source returns the expression.
func (f *Filter) Source() string { return f.source }

// Match runs the filter on an event. When it does not match, reason is ReasonFiltered, ReasonMissingField or
// ReasonFilterError, and detail says more for a person. A nil Filter matches everything.
func (f *Filter) Match(e *event.Event) (matched bool, reason, detail string) {
	if f == nil {
		return true, "", ""
	}
	return f.match(e.Map())
}

func (f *Filter) match(members map[string]any) (matched bool, reason, detail string) {
	out, _, err := f.program.Eval(map[string]any{"event": members})
	if err == nil {
		switch out {
		case types.True:
			return true, "", ""
		case types.False:
			return false, ReasonFiltered, ""
		}
		return false, ReasonFilterError, "the filter yields " + out.Type().TypeName() + ", not true or false"
	}
	var cancelled interpreter.EvalCancelledError
	if errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded {
		return false, ReasonFilterError, "the filter takes too long on this event"
	}
	if name, missing := f.missing(members, err); missing {
		return false, ReasonMissingField, name
	}
	return false, ReasonFilterError, shorten(err.Error())
}

// noSuchKey compares equal to CEL's error for a missing member: its type is not exported, but its Is compares the
// message, so this is how errors.Is can ask for it.
type noSuchKey string

func (k noSuchKey) Error() string { return "no such key: " + string(k) }

// missing says whether err is about a member that the event lacks, and which.
func (f *Filter) missing(members map[string]any, err error) (string, bool) {
	for _, field := range f.fields {
		if !errors.Is(err, noSuchKey(field.name)) {
			continue
		}
		if field.path == nil {
			return field.name, true
		}
		if lacks(members, field.path) {
			return strings.Join(field.path, "."), true
		}
	}
	return "", false
}

// lacks says whether the last name of path is missing where all before it are there.
func lacks(members map[string]any, path []string) bool {
	for i, name := range path {
		v, ok := members[name]
		if !ok {
			return i == len(path)-1
		}
		if members, ok = v.(map[string]any); !ok {
			return false
		}
	}
	return false
}

// readFields lists the members that the expression selects.
func readFields(a *ast.AST) []field {
	var fields []field
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if name, ok := selected(e); ok {
			path, rooted := pathOf(e)
			if !rooted {
				path = nil
			}
			fields = append(fields, field{name: name, path: path})
		}
	}))
	return fields
}

// selected returns the member that e reads: x.name or x["name"].
func selected(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.SelectKind:
		return e.AsSelect().FieldName(), true
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || len(call.Args()) != 2 || call.Args()[1].Kind() != ast.LiteralKind {
			return "", false
		}
		name, ok := call.Args()[1].AsLiteral().Value().(string)
		return name, ok
	}
	return "", false
}

func pathOf(e ast.Expr) ([]string, bool) {
	if e.Kind() == ast.IdentKind {
		return nil, e.AsIdent() == "event"
	}
	name, ok := selected(e)
	if !ok {
		return nil, false
	}
	operand := ast.Expr(nil)
	if e.Kind() == ast.SelectKind {
		operand = e.AsSelect().Operand()
	} else {
		operand = e.AsCall().Args()[0]
	}
	path, ok := pathOf(operand)
	return append(path, name), ok
}

func shorten(s string) string {
	if len(s) <= maxDetailInBytes {
		return s
	}
	cut := maxDetailInBytes
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
