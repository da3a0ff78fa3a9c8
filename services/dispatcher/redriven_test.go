package dispatcher

import (
	"strconv"
	"testing"
	"time"

	"github.com/callstream/callstream/pkg/hooktest"
	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/schemas/topic"
	"github.com/twmb/franz-go/pkg/kgo"
)

// P-08: a copy of a delivery that comes due is not sent where a redrive has overtaken it; a later redrive or replay is.
func TestANewerRedriveOvertakes(t *testing.T) {
	var r redriven
	for i, step := range []struct {
		delivery, redrive, replay string
		want                      bool
	}{
		{"a", "", "", false}, {"a", "", "rpl_1", false}, {"a", "rdr_2", "", false}, {"a", "", "", true}, {"a", "", "rpl_1", true}, {"a", "rdr_1", "", true},
		{"a", "rdr_2", "rpl_1", false}, {"a", "", "rpl_3", false}, {"a", "rdr_2", "", false}, {"a", "rdr_3", "", false}, {"a", "rdr_2", "", true}, {"b", "", "", false},
	} {
		if got := r.overtaken(step.delivery, step.redrive, step.replay); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	for i := range 3 * mostRedriven {
		r.overtaken(strconv.Itoa(i), "rdr_1", "")
		if held := len(r.by[0]) + len(r.by[1]); held > 2*mostRedriven {
			t.Fatalf("%d are remembered", held)
		}
	}
	if !r.overtaken(strconv.Itoa(3*mostRedriven-1), "", "") {
		t.Error("the newest is forgotten")
	}
}

// P-08: what is redriven is sent however old it is, counts its attempts on and begins a new schedule; the copy that waits in
// a tier is not sent again when it comes due.
func TestARedriveTakesTheTurn(t *testing.T) {
	r := newRig(t, nil)
	hook := receiver(t, hooktest.Sequence(hooktest.Answer{Status: 503}, hooktest.Answer{Status: 503}, hooktest.Answer{Status: 200}))
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	s := r.start()
	// Three attempts are a schedule here. It is redriven after two of them.
	d := r.delivery("sub_1", func(d *event.Delivery) { d.ExpiresAt = time.Now().Add(-time.Hour) })
	put := func(name string, headers ...kgo.RecordHeader) {
		record := r.record(d)
		record.Topic, record.Headers = name, append(record.Headers, headers...)
		r.produce(record)
	}
	put(topic.Lane("standard"), kafka.IntHeader(kafka.HeaderAttempt, 2), kafka.IntHeader(kafka.HeaderScheduleFrom, 2), kafka.StringHeader(kafka.HeaderRedrive, "rdr_1"))
	log := r.read(topic.Attempts)
	log.wait(1)
	put(topic.RetryTier(r.cfg.RetrySchedule[0]), kafka.IntHeader(kafka.HeaderAttempt, 2), kafka.IntHeader(kafka.HeaderDue, time.Now().UnixMilli()))
	until(t, "the parked copy is passed over", func() bool { return s.metrics.outcomes[4].Load() == 1 })
	attempts := decoded[event.Attempt](r, log, 3)
	for i, a := range attempts {
		if a.Attempt != i+3 || a.Redrive != "rdr_1" || a.Reason == reasonExpired {
			t.Errorf("attempt %d of %q: %s %s", a.Attempt, a.Redrive, a.Outcome, a.Reason)
		}
	}
	if last := attempts[2]; last.Outcome != outcomeDelivered {
		t.Errorf("in the end it is %s %s", last.Outcome, last.Reason)
	}
	r.done()
	if got := hook.Total(); got != len(attempts) {
		t.Errorf("%d requests, %d attempts", got, len(attempts))
	}
}
