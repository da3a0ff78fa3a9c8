package callstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/services/callstream/declare"
	"github.com/callstream/callstream/subscription"
)

// applier carries a plan out.
type applier struct {
	api  *apiClient
	plan *declare.Plan
	// verify asks endpoints that are not verified yet.
	verify bool
	json   bool
	out    io.Writer
	// kept is where signing secrets are written; nil prints them.
	kept     *os.File
	outcomes []*outcome
}

// outcome is what became of a step.
type outcome struct {
	*declare.Step
	// Result is done, unchanged, failed, or left when the apply was interrupted before.
	Result string `json:"result"`
	// Secret is the signing secret of a new subscription, PublicKey the key that verifies its ed25519 signatures.
	Secret    string `json:"secret,omitempty"`
	PublicKey string `json:"public_key,omitempty"`
	Error     string `json:"error,omitempty"`
}

// open opens the file for signing secrets, if one is named and there will be some: what can't be kept must not be made.
func (a *applier) open(name string) error {
	if name == "" || a.plan.Count(declare.Create)+a.plan.Count(declare.Update) == 0 {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("--secrets-out: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s can be read by others: chmod 600 it", name)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("--secrets-out: %w", err)
	}
	a.kept = f
	return nil
}

func (a *applier) close() {
	if a.kept != nil {
		a.kept.Close()
	}
}

// run takes every step. The error names all that failed.
func (a *applier) run(ctx context.Context) error {
	secrets, err := a.secrets()
	if err != nil {
		return err
	}
	failed := 0
	var texts []string
	for _, step := range a.plan.Steps {
		o := &outcome{Step: step, Result: "unchanged"}
		a.outcomes = append(a.outcomes, o)
		switch {
		case !step.Pending():
			continue
		case ctx.Err() != nil:
			o.Result = "left"
			continue
		}
		// Not under ctx: a request that is given up may have had its effect, and nobody would see the new secret.
		if err := a.step(context.WithoutCancel(ctx), o, secrets[step]); err != nil {
			failed++
			o.Result, o.Error = "failed", oneFailure(step, err)
			texts = append(texts, o.Error)
			a.say("✗ %s: failed\n", step.Name)
			continue
		}
		o.Result = "done"
	}
	if ctx.Err() != nil {
		texts = append(texts, errInterrupted.Error())
	}
	switch {
	case len(texts) == 0:
		return nil
	case failed == 0:
		return errInterrupted
	}
	return fmt.Errorf("%s failed\n%s", count(failed, "subscription"), strings.Join(texts, "\n"))
}

// say prints for a person.
func (a *applier) say(format string, args ...any) {
	if !a.json {
		for i, arg := range args {
			if s, ok := arg.(string); ok {
				args[i] = oneLine(s)
			}
		}
		fmt.Fprintf(a.out, format, args...)
	}
}

// secrets reads the secrets that the plan sends. The error names all that can't be read.
func (a *applier) secrets() (map[*declare.Step]map[string]string, error) {
	out := map[*declare.Step]map[string]string{}
	var faults declare.Faults
	for _, step := range a.plan.Steps {
		out[step] = map[string]string{}
		for _, r := range step.Secrets {
			plain, err := r.Read(os.LookupEnv)
			if err != nil {
				faults = append(faults, step.Entry.Fault(r.Member, err.Error()))
				continue
			}
			out[step][r.Member] = plain
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("nothing was changed:\n%w", faults)
	}
	return out, nil
}

// step does what a step says.
func (a *applier) step(ctx context.Context, o *outcome, secrets map[string]string) error {
	ifMatch := http.Header{"If-Match": {`"` + strconv.FormatInt(o.Version, 10) + `"`}}
	switch o.Action {
	case declare.Create:
		return a.create(ctx, o, secrets)
	case declare.Delete:
		if err := a.api.do(ctx, http.MethodDelete, subscriptionPath(o.ID), nil, nil, ifMatch); err != nil {
			return err
		}
		a.say("- %s: deleted\n", firstOf(o.Name, o.ID))
		return nil
	case declare.Update:
		var raw json.RawMessage
		if err := a.api.do(ctx, http.MethodPatch, subscriptionPath(o.ID), o.Patch(secrets), &raw, ifMatch); err != nil {
			return err
		}
		// A new origin waits for its verification.
		waits, err := o.read(raw)
		if err != nil {
			return err
		}
		a.say("~ %s: changed, version %d\n", o.Name, o.Version)
		// Another signing scheme brings another secret.
		if err := a.keep(o); err != nil {
			return err
		}
		if !waits || !a.verify {
			return nil
		}
	}
	return a.verified(ctx, o)
}

func (a *applier) create(ctx context.Context, o *outcome, secrets map[string]string) error {
	var raw json.RawMessage
	if err := a.api.do(ctx, http.MethodPost, subscriptionsPath, o.Entry.Create(secrets), &raw, nil); err != nil {
		return err
	}
	waits, err := o.read(raw)
	if err != nil {
		return err
	}
	a.say("+ %s: created %s, %s\n", o.Name, o.ID, o.State)
	// Whatever becomes of the verification, the secret is shown: there is no other time.
	if err := a.keep(o); err != nil {
		return err
	}
	if waits && a.verify {
		return a.verified(ctx, o)
	}
	return nil
}

// read takes what there is now from an answer, and says whether it waits for verification.
func (o *outcome) read(raw json.RawMessage) (waits bool, err error) {
	var s subscriptionView
	var whole subscription.Subscription
	if err := errors.Join(json.Unmarshal(raw, &s), json.Unmarshal(raw, &whole)); err != nil {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	o.ID, o.State, o.Version = s.ID, s.State, s.Version
	// The secret is in the answer to the creation alone.
	o.Secret, o.PublicKey = firstOf(s.Secret, o.Secret), s.Signing.PublicKey
	return declare.Unverified(&whole), nil
}

// keep shows a new signing secret, or writes it to the file for them.
func (a *applier) keep(o *outcome) error {
	if o.PublicKey != "" && o.Action == declare.Create {
		a.say("  its public key: %s\n", o.PublicKey)
	}
	if o.Secret == "" {
		return nil
	}
	if a.kept == nil {
		a.say("  its signing secret, shown this once: %s\n", o.Secret)
		return nil
	}
	line, err := json.Marshal(map[string]string{"name": o.Name, "id": o.ID, "secret": o.Secret})
	if err == nil {
		_, err = a.kept.Write(append(line, '\n'))
	}
	if err == nil {
		err = a.kept.Sync()
	}
	if err != nil {
		a.say("  its signing secret, shown this once: %s\n", o.Secret)
		return fmt.Errorf("it is done, but --secrets-out can't be written: %w", err)
	}
	o.Secret = ""
	a.say("  its signing secret is in %s\n", a.kept.Name())
	return nil
}

// verified verifies a subscription.
func (a *applier) verified(ctx context.Context, o *outcome) error {
	var raw json.RawMessage
	if err := a.api.do(ctx, http.MethodPost, subscriptionPath(o.ID)+"/verify", nil, &raw, nil); err != nil {
		return &verifyError{err}
	}
	if _, err := o.read(raw); err != nil {
		return err
	}
	a.say("! %s: verified, %s\n", o.Name, o.State)
	return nil
}

// verifyError says that all is as declared but that the endpoint has not passed verification.
type verifyError struct{ err error }

func (e *verifyError) Error() string { return "verification: " + e.err.Error() }

func (e *verifyError) Unwrap() error { return e.err }

// oneFailure tells what failed, with the place in the file of each fault.
func oneFailure(step *declare.Step, err error) string {
	var p *problem.Problem
	var notVerified *verifyError
	verifying := errors.As(err, &notVerified)
	about := firstOf(step.Name, step.ID)
	if !errors.As(err, &p) {
		return oneLine(about) + ": " + printable(err.Error())
	}
	text := oneLine(about) + ": " + printable(firstOf(p.Detail, p.Title, http.StatusText(p.Status)))
	switch {
	case verifying:
		text += fmt.Sprintf(" (it is %s; apply again, or `callstream subscriptions verify %s`)", oneLine(step.State), oneLine(step.ID))
	case p.Status == http.StatusPreconditionFailed:
		text = oneLine(about) + ": someone else changed it since it was compared, so it was left as it is: apply again"
	case p.Status == http.StatusNotFound:
		text = oneLine(about) + ": someone else deleted it since it was compared: apply again"
	}
	for _, f := range p.Errors {
		if step.Entry == nil {
			text += "\n  " + f.Pointer + ": " + printable(f.Detail)
			continue
		}
		text += "\n  " + printable(step.Entry.Fault(f.Pointer, f.Detail).String())
	}
	return text
}
