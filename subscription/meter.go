package subscription

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// CEL's own cost tracking keeps a stack that grows with every step of a loop and is searched in every step: what it bounds
// takes time by the square of its limit. So expressions are charged here, in one unit for about a node of the expression:
//
//   - what stands outside of loops once, when the evaluation begins: an expression has a few hundred nodes;
//   - what stands in a loop at each of its steps, all of it, whichever branches are taken;
//   - a map that is gone through by its size before, because its keys are sorted (orderedMap);
//   - a call by the texts, lists and maps that it is given, before it runs, and by the text that it makes (budget.go).

const (
	// stepCost is what a loop costs at each step besides what stands in it.
	stepCost = 2
	// callNodeCost is what a call costs besides what it does, madeCost a list or a map that is written out.
	callNodeCost, madeCost = 2, 10
	// keyCost is what each key of a map costs to sort.
	keyCost = 6
)

// run is one evaluation: what its variables are, and the units that it has left.
type run struct {
	members map[string]any
	left    int
}

// runVariable is where nodes find their run. No expression can name it.
const runVariable = "@run"

// ResolveName is interpreter.Activation.
func (r *run) ResolveName(name string) (any, bool) {
	switch name {
	case "event":
		return r.members, true
	case runVariable:
		return r, true
	}
	return nil, false
}

// Parent is interpreter.Activation.
func (r *run) Parent() interpreter.Activation { return nil }

// charge ends the evaluation when the units don't suffice.
func (r *run) charge(units int) {
	if r.left -= units; r.left < 0 {
		panic(interpreter.EvalCancelledError{Cause: interpreter.CostLimitExceeded, Message: "it takes too long"})
	}
}

func runOf(frame *interpreter.ExecutionFrame) *run {
	if r, ok := frame.Activation.(*run); ok {
		return r
	}
	v, _ := frame.ResolveName(runVariable)
	return v.(*run)
}

// rangeFunction stands around what a loop goes through, so that a map can be charged before its keys are sorted.
const rangeFunction = "@range"

// meter plans one program so that it is charged for what it does.
type meter struct {
	operations map[string]*functions.Overload
	once       int           // units of what stands outside of loops
	steps      map[int64]int // units of each loop's step, by the id of what makes its next value
	locate     func(id int64, err error) error
}

// newMeter counts what the expression consists of, and marks its loops for the plan.
func newMeter(a *ast.AST) (*meter, error) {
	operations, err := expressionOperations()
	if err != nil {
		return nil, err
	}
	m := &meter{operations: operations, steps: map[int64]int{}}
	m.locate = func(id int64, err error) error {
		place := a.SourceInfo().GetStartLocation(id)
		return &ExpressionError{Line: max(place.Line(), 1), Column: max(place.Column()+1, 1), Detail: shorten(err.Error())}
	}
	m.once = m.count(a.Expr())
	m.markRanges(a)
	return m, nil
}

// count returns how many nodes are evaluated each time that e is, without the steps of its loops, which it notes.
func (m *meter) count(e ast.Expr) int {
	switch e.Kind() {
	case ast.SelectKind:
		return 1 + m.count(e.AsSelect().Operand())
	case ast.CallKind:
		n := callNodeCost
		if e.AsCall().IsMemberFunction() {
			n += m.count(e.AsCall().Target())
		}
		for _, arg := range e.AsCall().Args() {
			n += m.count(arg)
		}
		return n
	case ast.ListKind:
		n := madeCost
		for _, element := range e.AsList().Elements() {
			n += m.count(element)
		}
		return n
	case ast.MapKind:
		n := madeCost
		for _, entry := range e.AsMap().Entries() {
			n += 1 + m.count(entry.AsMapEntry().Key()) + m.count(entry.AsMapEntry().Value())
		}
		return n
	case ast.ComprehensionKind:
		loop := e.AsComprehension()
		m.steps[loop.LoopStep().ID()] = stepCost + m.count(loop.LoopCondition()) + m.count(loop.LoopStep())
		return 1 + m.count(loop.IterRange()) + m.count(loop.AccuInit()) + m.count(loop.Result())
	case ast.IdentKind:
		return 1
	}
	return 0 // a literal
}

// markRanges puts each loop's range into a call of rangeFunction.
func (m *meter) markRanges(a *ast.AST) {
	factory, next := ast.NewExprFactory(), ast.MaxID(a)+1
	var ranges []ast.Expr
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.ComprehensionKind {
			ranges = append(ranges, e.AsComprehension().IterRange())
		}
	}))
	for _, outer := range ranges {
		inner := factory.NewUnspecifiedExpr(next)
		inner.SetKindCase(outer)
		if known, ok := a.ReferenceMap()[outer.ID()]; ok {
			a.SetReference(next, known)
			delete(a.ReferenceMap(), outer.ID())
		}
		if known := a.GetType(outer.ID()); known != nil {
			a.SetType(next, known)
		}
		outer.SetKindCase(factory.NewCall(outer.ID(), rangeFunction, inner))
		next++
	}
}

// expressionOperations are what the functions of the environment do, by the names of functions and overloads.
var expressionOperations = sync.OnceValues(func() (map[string]*functions.Overload, error) {
	env, err := expressionEnv()
	if err != nil {
		return nil, err
	}
	operations := make(map[string]*functions.Overload)
	for name, function := range env.Functions() {
		bindings, err := function.Bindings()
		if err != nil {
			return nil, fmt.Errorf("read what CEL's %s does: %w", name, err)
		}
		for _, b := range bindings {
			operations[b.Operator] = b
		}
	}
	return operations, nil
})

// plan is the decorator that makes a program's nodes charge.
func (m *meter) plan(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if call, ok := i.(interpreter.InterpretableCall); ok {
		var err error
		if i, err = m.planCall(call); err != nil {
			return nil, m.locate(call.ID(), err)
		}
	}
	if units, ok := m.steps[i.ID()]; ok {
		return &step{InterpretableV2: i, units: units}, nil
	}
	return i, nil
}

func (m *meter) planCall(call interpreter.InterpretableCall) (interpreter.InterpretableV2, error) {
	args := call.Args()
	constants := 0
	for _, arg := range args {
		if _, ok := arg.(interpreter.InterpretableConst); ok {
			constants++
		}
	}
	function := call.Function()
	switch {
	case function == rangeFunction:
		return &loopRange{args[0]}, nil
	case constants == len(args) && len(args) == 1 && overloads.IsTypeConversionFunction(function):
		// It is made a constant: what is wrong with it is said with its place.
		if err, ok := call.Eval(interpreter.EmptyActivation()).(*types.Err); ok {
			return nil, err
		}
		return call, nil
	case function == operators.In && constants > 0:
		if _, ok := args[1].(interpreter.InterpretableConst); ok {
			return call, nil // a set
		}
	case (function == operators.Equals || function == operators.NotEquals) && constants > 0:
		return call, nil // takes no longer than the literal is
	}
	planned := &charged{InterpretableCall: call, args: args}
	var err error
	switch function {
	case operators.Equals:
		planned.binary = equalBounded
	case operators.NotEquals:
		planned.binary = notEqualBounded
	case operators.In:
		planned.binary = inBounded
	case overloads.Matches:
		planned.binary, planned.cost, err = matches(args[1])
		return planned, err
	case operators.Add:
		switch call.OverloadID() {
		case "", overloads.AddList: // the first stands for any
			planned.binary = addBounded
		}
	}
	if planned.binary == nil {
		operation := m.operations[call.OverloadID()]
		if call.OverloadID() == "" || operation == nil {
			operation = m.operations[function]
		}
		if operation == nil || operation.NonStrict || isCheap(function) {
			return call, nil
		}
		planned.operation = operation
	}
	planned.cost = func(args []ref.Val) int { return callCost(function, args) }
	return planned, nil
}

// step is what makes the next value of a loop.
type step struct {
	interpreter.InterpretableV2
	units int
}

// Exec is interpreter.InterpretableV2.
func (s *step) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	runOf(frame).charge(s.units)
	return s.InterpretableV2.Exec(frame)
}

// Eval is interpreter.Interpretable.
func (s *step) Eval(vars interpreter.Activation) ref.Val { return s.Exec(interpreter.AsFrame(vars)) }

// loopRange is what a loop goes through.
type loopRange struct{ interpreter.InterpretableV2 }

// Exec is interpreter.InterpretableV2.
func (l *loopRange) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	v := l.InterpretableV2.Exec(frame)
	if m, ok := v.(traits.Mapper); ok {
		runOf(frame).charge(keyCost * sizeOf(m))
	}
	return v
}

// Eval is interpreter.Interpretable.
func (l *loopRange) Eval(vars interpreter.Activation) ref.Val {
	return l.Exec(interpreter.AsFrame(vars))
}

// charged is a call that is charged before it runs, and for the text that it makes.
type charged struct {
	interpreter.InterpretableCall
	args      []interpreter.InterpretableV2
	cost      func(args []ref.Val) int
	binary    func(a, b ref.Val) ref.Val // in place of operation
	operation *functions.Overload
}

// Exec is interpreter.InterpretableV2.
func (c *charged) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := make([]ref.Val, len(c.args))
	for i, arg := range c.args {
		if args[i] = arg.Exec(frame); types.IsUnknownOrError(args[i]) {
			return args[i]
		}
	}
	r := runOf(frame)
	r.charge(c.cost(args))
	out := c.call(args)
	r.charge(textSize(out) / madeBytes)
	return types.LabelErrNode(c.ID(), out)
}

// call is what CEL does to call a function.
func (c *charged) call(args []ref.Val) ref.Val {
	if c.binary != nil {
		return c.binary(args[0], args[1])
	}
	if o := c.operation; len(args) == 0 || o.OperandTrait == 0 || args[0].Type().HasTrait(o.OperandTrait) {
		switch {
		case len(args) == 1 && o.Unary != nil:
			return o.Unary(args[0])
		case len(args) == 2 && o.Binary != nil:
			return o.Binary(args[0], args[1])
		case o.Function != nil:
			return o.Function(args...)
		}
	}
	if receiver, ok := args[0].(traits.Receiver); ok && args[0].Type().HasTrait(traits.ReceiverType) {
		return receiver.Receive(c.InterpretableCall.Function(), c.OverloadID(), args[1:])
	}
	return types.NewErr("no such overload: %s", c.InterpretableCall.Function())
}

// Function is interpreter.InterpretableCall. CEL would put its own in the place of what is named matches.
func (c *charged) Function() string { return "@" + c.InterpretableCall.Function() }

// Eval is interpreter.Interpretable.
func (c *charged) Eval(vars interpreter.Activation) ref.Val {
	return c.Exec(interpreter.AsFrame(vars))
}

func sizeOf(v traits.Sizer) int {
	n, _ := v.Size().(types.Int)
	return int(n)
}
