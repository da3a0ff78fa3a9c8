package console

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/pkg/run"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// The kinds of signals.
const (
	signalDisable = "disable"
	signalFailing = "failing"
	signalRecover = "recover"
)

// runSignals applies what dispatchers ask the console to record.
func (s *Service) runSignals(ctx context.Context) error {
	loop, err := kafka.NewLoop(kafka.LoopConfig{
		Config: s.cfg.Kafka, Log: s.log.Named("signals"), Meter: s.deps.Meter, Group: Group, Topics: []string{topic.Signals},
		ReadCommitted: true,
		Handle:        s.handleSignal,
	})
	if err != nil {
		return fmt.Errorf("read signals: %w", err)
	}
	if err := loop.Run(ctx); err != nil {
		return fmt.Errorf("read signals: %w", err)
	}
	return nil
}

// handleSignal applies one signal and completes it. While the database or the registry is away it is tried again: a
// signal that was passed over would leave a dead endpoint enabled.
func (s *Service) handleSignal(stopping context.Context, t *kafka.Task) {
	ctx := t.Context()
	for {
		var signal event.Signal
		err := s.deps.Codec.Decode(ctx, t.Record.Value, &signal)
		if errors.Is(err, event.ErrPoison) {
			s.log.Error("a signal can't be read and is passed over", zap.Int64("offset", t.Record.Offset), zap.Error(err))
			s.countSignal(ctx, "unknown", "unreadable")
			t.Done()
			return
		}
		if err == nil {
			var outcome string
			if outcome, err = s.applySignal(ctx, signal); err == nil {
				s.countSignal(ctx, signal.Kind, outcome)
				t.Done()
				return
			}
		}
		if ctx.Err() == nil {
			s.log.Warn("a signal waits to be applied", zap.Int64("offset", t.Record.Offset), zap.Error(err))
		}
		if run.Sleep(stopping, time.Second) != nil {
			t.Abandon() // the partition's next owner tries; the end needn't wait for a database that is away
			return
		}
	}
}

func (s *Service) countSignal(ctx context.Context, kind, outcome string) {
	switch kind {
	case signalDisable, signalFailing, signalRecover:
	default:
		kind = "unknown" // labels come from a closed set
	}
	s.metrics.signals.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", kind), attribute.String("outcome", outcome)))
}

// applySignal records what a dispatcher found out about a subscription. Applying it makes a new version, and a signal that
// is read twice changes nothing the second time.
//
// That an endpoint fails or is to be disabled counts only for the version that the dispatcher had: a subscription that was
// changed since deserves another try, and the next failure says so again. That it took a delivery counts whatever the version,
// for all that failed before.
func (s *Service) applySignal(ctx context.Context, signal event.Signal) (outcome string, err error) {
	var action string
	var apply func(*subscription.Subscription) bool
	version := signal.SubscriptionVersion
	switch signal.Kind {
	case signalDisable:
		reason := signal.Reason
		if reason == "" {
			reason = signal.Detail
		}
		action, apply = actionDisabled, func(sub *subscription.Subscription) bool { return sub.Disable(reason) }
	case signalFailing:
		action, apply = actionFailing, func(sub *subscription.Subscription) bool { return sub.Fail(signal.At) }
	case signalRecover:
		action, apply = actionRecovered, func(sub *subscription.Subscription) bool { return sub.Recover(signal.At) }
		version = 0
	default:
		return "passed", nil
	}
	if signal.SubscriptionVersion < 1 {
		return "stale", nil // no version is not any version
	}
	store, err := s.database()
	if err != nil {
		return "", err
	}
	actor := "dispatcher"
	if signal.Dispatcher != "" {
		actor = "dispatcher " + signal.Dispatcher
	}
	change := storage.Change{Actor: actor, Action: action, Detail: map[string]any{
		"reason": signal.Reason, "detail": signal.Detail, "at": signal.At, "version": signal.SubscriptionVersion}}
	if event.TopicOf(signal.EventType) != topic.OwnEvents { // a delivery of one of our own events never causes another
		change.Tells = occasion{reason: signal.Reason, detail: signal.Detail, status: signal.HTTPStatus, delivered: signal.Kind == signalRecover}.events
	}
	outcome = "stale"
	_, receipt, err := store.UpdateSubscription(ctx, signal.Tenant, signal.SubscriptionID, version, change,
		func(sub *subscription.Subscription) (*subscription.Subscription, error) {
			if !apply(sub) {
				return nil, nil
			}
			outcome = "applied"
			return sub, nil
		})
	switch {
	case errors.Is(err, storage.ErrStale), errors.Is(err, storage.ErrNotFound):
		return "stale", nil
	case err != nil:
		return "", err
	}
	if receipt != 0 {
		s.relay.kick()
		s.log.Info("a dispatcher's signal is applied", zap.String("kind", signal.Kind), zap.String("tenant", signal.Tenant), zap.String("subscription", signal.SubscriptionID), zap.String("reason", signal.Reason))
	}
	return outcome, nil
}
