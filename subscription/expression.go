package subscription

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
)

// Limits of an expression. Its cost is in units of about 50 to 100 ns (meter.go): an expression may take some milliseconds
// and never more, whatever it says and whatever the event holds. Plain comparisons cost a few units.
const (
	maxExpression  = 8 << 10
	expressionCost = 100_000
	// eventCost is what all filters on one event may cost together, and leastCost what each of them may whatever the others
	// did: the plain ones of a tenant are decided though others of its filters run away.
	eventCost, leastCost = 4 * expressionCost, 2_000
	maxExpressionDepth   = 100
	maxExpressionNodes   = 2_000
	maxRegexProgram      = 2_000
	// maxLoops bounds how often an expression goes through a list. The checker's time grows with the cube of what they
	// nest: a hundred take seconds before anything is run.
	maxLoops         = 20
	maxDetailInBytes = 200
	// maxMadeString bounds what replace and join make, in bytes. The budget is charged once a function has returned, so
	// it can't.
	maxMadeString = 1 << 20
)

// ExpressionError says why a text is no filter or no template, with its place: Line from 1, Column from 1 in characters.
type ExpressionError struct {
	Line, Column int
	Detail       string
}

func (e *ExpressionError) Error() string {
	if e.Line == 0 {
		return e.Detail
	}
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Detail)
}

// expression is a compiled CEL expression over event. It is safe for concurrent use.
type expression struct {
	source  string
	brief   string // the source, as short as a detail may be
	yields  *cel.Type
	program cel.Program
	once    int // units of what stands outside of loops
	fields  []field
}

// field is a member that an expression reads. Path is empty when it isn't read from the event by constant names alone.
type field struct {
	name string
	path []string
}

// newExpressionEnv declares what filters and templates are written in: CEL, its optional values, its strings and base64
// extensions, and the one variable. Its type is a map of anything: the catalogue leaves room for members that it does not
// declare, so names can't be checked here.
func newExpressionEnv() (*cel.Env, error) {
	str, list := cel.StringType, cel.ListType(cel.StringType)
	return cel.NewEnv(
		cel.CustomTypeAdapter(orderedValues{}),
		cel.Variable("event", cel.MapType(cel.StringType, cel.DynType)),
		cel.OptionalTypes(),
		ext.Strings(), ext.Encoders(ext.EncodersVersion(1)),
		// One call of these two makes a text of any length, so they have bounds here. format has more ways to do so, and the
		// searches take the product of both lengths: they are left out.
		cel.Function("replace",
			cel.MemberOverload("string_replace_string_string", []*cel.Type{str, str, str}, str, cel.FunctionBinding(replaceBounded)),
			cel.MemberOverload("string_replace_string_string_int", []*cel.Type{str, str, str, cel.IntType}, str, cel.FunctionBinding(replaceBounded))),
		cel.Function("join",
			cel.MemberOverload("list_join", []*cel.Type{list}, str, cel.FunctionBinding(joinBounded)),
			cel.MemberOverload("list_join_string", []*cel.Type{list, str}, str, cel.FunctionBinding(joinBounded))),
		cel.Function("format", cel.DisableDeclaration(true),
			cel.MemberOverload("string_format", []*cel.Type{str, cel.ListType(cel.DynType)}, str)),
		cel.Function("indexOf", cel.DisableDeclaration(true), cel.MemberOverload("string_index_of_string", []*cel.Type{str, str}, cel.IntType)),
		cel.Function("lastIndexOf", cel.DisableDeclaration(true), cel.MemberOverload("string_last_index_of_string", []*cel.Type{str, str}, cel.IntType)),
		cel.Function(rangeFunction, cel.Overload("@range_any", []*cel.Type{cel.DynType}, cel.DynType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return v }))),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
		cel.ParserRecursionLimit(maxExpressionDepth),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ExpressionNodeLimit(maxExpressionNodes),
		cel.ExpressionNestingDepthLimit(maxExpressionDepth),
	)
}

// expressionEnv is made once: it takes milliseconds, and is never changed afterwards.
var expressionEnv = sync.OnceValues(newExpressionEnv)

func replaceBounded(args ...ref.Val) ref.Val {
	s, from, to := string(args[0].(types.String)), string(args[1].(types.String)), string(args[2].(types.String))
	n := strings.Count(s, from)
	if len(args) == 4 {
		if limit := int64(args[3].(types.Int)); limit >= 0 {
			n = int(min(int64(n), limit))
		}
	}
	if len(s)+n*(len(to)-len(from)) > maxMadeString {
		return types.NewErr("replace makes a text of more than %d bytes", maxMadeString)
	}
	return types.String(strings.Replace(s, from, to, n))
}

func joinBounded(args ...ref.Val) ref.Val {
	separator := ""
	if len(args) == 2 {
		separator = string(args[1].(types.String))
	}
	var b strings.Builder
	list := args[0].(traits.Lister)
	if n, ok := list.Size().(types.Int); !ok || n > maxMadeString {
		return types.NewErr("join takes at most %d texts", maxMadeString)
	}
	for it, first := list.Iterator(), true; it.HasNext() == types.True; first = false {
		s, ok := it.Next().(types.String)
		if !ok {
			return types.NewErr("join takes a list of strings")
		}
		if b.Len()+len(separator)+len(s) > maxMadeString {
			return types.NewErr("join makes a text of more than %d bytes", maxMadeString)
		}
		if !first {
			b.WriteString(separator)
		}
		b.WriteString(string(s))
	}
	return types.String(b.String())
}

// compileExpression compiles an expression. A bad one is an *ExpressionError.
func compileExpression(source string) (*expression, error) {
	if len(source) > maxExpression {
		return nil, &ExpressionError{Detail: fmt.Sprintf("longer than %d bytes", maxExpression)}
	}
	if !utf8.ValidString(source) {
		return nil, &ExpressionError{Detail: "not valid UTF-8"}
	}
	env, err := expressionEnv()
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	parsed, issues := env.Parse(source)
	if err := firstIssue(issues); err != nil {
		return nil, err
	}
	if n := loops(parsed.NativeRep()); n > maxLoops {
		return nil, &ExpressionError{Line: 1, Column: 1, Detail: fmt.Sprintf("it goes through lists in %d places, more than %d", n, maxLoops)}
	}
	compiled, issues := env.Check(parsed)
	if err := firstIssue(issues); err != nil {
		return nil, err
	}
	x := &expression{source: source, brief: shorten(source), yields: compiled.OutputType(), fields: readFields(compiled.NativeRep())}
	meter, err := newMeter(compiled.NativeRep())
	if err != nil {
		return nil, err
	}
	x.program, err = env.Program(compiled, cel.CustomDecoratorV2(meter.plan), cel.CustomDecoratorV2(orderLiterals), cel.EvalOptions(cel.OptOptimize))
	if bad := (*ExpressionError)(nil); errors.As(err, &bad) {
		return nil, bad // a constant regular expression that does not compile, for one
	} else if err != nil {
		return nil, &ExpressionError{Line: 1, Column: 1, Detail: shorten(err.Error())}
	}
	x.once = meter.once
	return x, nil
}

func firstIssue(issues *cel.Issues) error {
	if issues == nil || len(issues.Errors()) == 0 {
		return nil
	}
	first := issues.Errors()[0]
	e := &ExpressionError{Detail: shorten(first.Message)}
	if first.Location != nil && first.Location.Line() > 0 {
		e.Line, e.Column = first.Location.Line(), max(first.Location.Column()+1, 1)
	}
	return e
}

// loops counts what goes through a list or a map: all, exists, map, filter and the like.
func loops(a *ast.AST) int {
	n := 0
	ast.PreOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.ComprehensionKind {
			n++
		}
	}))
	return n
}

// evaluate runs the expression on an event's members with a number of units, and returns how many it took. tooLong says
// that they did not suffice; an error without that may be about a member that the event lacks, which missing tells.
func (x *expression) evaluate(members map[string]any, units int) (out ref.Val, spent int, tooLong bool, err error) {
	r := &run{members: members, left: units - x.once}
	if r.left < 0 {
		return nil, units, true, errTooLong
	}
	out, _, err = x.program.Eval(r)
	var cancelled interpreter.EvalCancelledError
	return out, units - max(r.left, 0), errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded, err
}

// errTooLong is what an expression is stopped with before it begins.
var errTooLong = errors.New("it takes too long")

// noSuchKey compares equal to CEL's error for a missing member: its type is not exported, but its Is compares the
// message, so this is how errors.Is can ask for it.
type noSuchKey string

func (k noSuchKey) Error() string { return "no such key: " + string(k) }

// missing says whether err is about a member that the event lacks, and which.
func (x *expression) missing(members map[string]any, err error) (string, bool) {
	for _, field := range x.fields {
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
