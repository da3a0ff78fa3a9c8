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

// P-08: a copy of a delivery that comes due is not sent where a redrive has taken over from its schedule; whatever else comes
// is, in whatever order clocks have named it.
func TestARedriveOvertakesTheScheduleBefore(t *testing.T) {
	r := newRedriven()
	for i, step := range []struct {
		delivery, origin, redrive, overtakes string
		want                                 bool
	}{
		{"a", "lane/0/1", "", "", false},
		{"a", "lane/0/1", "rdr_5", "", false},
		{"a", "lane/0/1", "", "", true},
		{"a", "lane/0/1", "rdr_5", "", false}, // its next attempt
		{"a", "lane/0/9", "", "", false},      // a replay, or the event came once more
		{"a", "lane/0/1", "rdr_2", "rdr_5", false},
		{"a", "lane/0/1", "rdr_5", "", true},
		{"a", "lane/0/1", "rdr_2", "rdr_5", false},
		{"a", "lane/0/1", "rdr_3", "rdr_5", false}, // two were asked for at once: neither is lost
		{"b", "lane/0/1", "", "", false},
	} {
		if got := r.overtaken(step.delivery, &delivery{origin: step.origin, redrive: step.redrive, overtakes: step.overtakes}); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	for i := range 3 * mostOvertaken {
		r.overtaken("a", &delivery{origin: "lane/0/1", redrive: strconv.Itoa(i + 1), overtakes: strconv.Itoa(i)})
		if held := len(r.over.get("a")); held > mostOvertaken {
			t.Fatalf("%d are remembered of one delivery", held)
		}
	}
	for i := range 3 * mostRedriven {
		r.overtaken(strconv.Itoa(i), &delivery{origin: "lane/0/1", redrive: "rdr_1"})
		if held := len(r.over.by[0]) + len(r.over.by[1]); held > 2*mostRedriven {
			t.Fatalf("%d are remembered", held)
		}
	}
	if !r.overtaken(strconv.Itoa(3*mostRedriven-1), &delivery{origin: "lane/0/1"}) {
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
	origin := kafka.StringHeader(kafka.HeaderOrigin, "deliveries.standard/0/0")
	// Three attempts are a schedule here. It is redriven after two of them.
	d := r.delivery("sub_1", func(d *event.Delivery) { d.ExpiresAt = time.Now().Add(-time.Hour) })
	put := func(name string, headers ...kgo.RecordHeader) {
		record := r.record(d)
		record.Topic, record.Headers = name, append(record.Headers, headers...)
		r.produce(record)
	}
	put(topic.Lane("standard"), kafka.IntHeader(kafka.HeaderAttempt, 2), kafka.IntHeader(kafka.HeaderScheduleFrom, 2), kafka.StringHeader(kafka.HeaderRedrive, "rdr_1"), origin)
	log := r.read(topic.Attempts)
	log.wait(1)
	put(topic.RetryTier(r.cfg.RetrySchedule[0]), kafka.IntHeader(kafka.HeaderAttempt, 2), kafka.IntHeader(kafka.HeaderDue, time.Now().UnixMilli()), origin)
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
	// A replay that a clock behind has named comes after it, and is sent.
	d.ReplayID = "rpl_0"
	put(topic.Lane("standard"))
	if again := decoded[event.Attempt](r, log, 4)[3]; again.ReplayID != "rpl_0" || again.Outcome != outcomeDelivered {
		t.Errorf("the replay: %+v", again)
	}
	r.done()
	if got := hook.Total(); got != 4 {
		t.Errorf("%d requests, 4 attempts", got)
	}
}
