package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/callstream/callstream/pkg/egress"
	"github.com/callstream/callstream/subscription"
)

func TestOutageNeedsManyHostsAndSilence(t *testing.T) {
	now := time.Now()
	o := newOutage(now)
	fail := func(after time.Duration, hosts ...string) (down bool) {
		now = now.Add(after)
		for _, host := range hosts {
			down = o.unreachable(host, now) || down
		}
		return down
	}
	if fail(time.Minute, "a", "b", "c", "d", "a", "b") {
		t.Error("four hosts are away")
	}
	if fail(suspectSpan+1, "e") {
		t.Error("five hosts, but not at once")
	}
	if o.answer(now) {
		t.Error("nothing was suspected")
	}
	if fail(time.Second, "a", "b", "c", "d", "e", "f") {
		t.Error("somebody has answered just now")
	}
	if !fail(suspectSilence, "g") || !o.down.Load() {
		t.Error("nobody answers, and seven hosts are away")
	}
	if fail(0, "h") {
		t.Error("it was known")
	}
	if !o.answer(now) || o.down.Load() {
		t.Error("an answer ends it")
	}
	if fail(suspectSilence, "a") {
		t.Error("what was before the answer counts no more")
	}
}

func TestOutOfReachIsWhatGotNoConnection(t *testing.T) {
	for _, test := range []struct {
		class egress.Class
		op    string
		want  bool
	}{
		{egress.ClassDNS, "resolve", true}, {egress.ClassRefused, "connect", true}, {egress.ClassConnect, "connect", true}, {egress.ClassProxy, "proxy", true},
		{egress.ClassTimeout, "connect", true}, {egress.ClassTimeout, "resolve", true},
		{egress.ClassTimeout, "request", false}, {egress.ClassReset, "request", false}, {egress.ClassTLS, "connect", false}, {egress.ClassBlocked, "connect", false},
	} {
		err := fmt.Errorf("send: %w", &egress.Error{Class: test.class, Op: test.op, Err: context.DeadlineExceeded})
		if got := outOfReach(err); got != test.want {
			t.Errorf("%s while doing %s: %v", test.class, test.op, got)
		}
	}
	if outOfReach(errors.New("other")) || outOfReach(nil) {
		t.Error("no error of a request")
	}
}

// While our own network is away nothing is sent but one request each probeEvery, nothing is parked, and no breaker counts.
func TestAPauseHoldsEverythingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan string, 1000)
		s := testScheduler(8, 13, func(j *job) { // 10 of them for first attempts
			sent <- j.shard.subscription
			j.came = came{what: cameSilence}
		})
		s.shardOf(shardKey{subscription: "failing"}, limits{inFlight: 1}).unheard = 3
		s.pause()
		for i := range 20 {
			s.submit(t.Context(), submitTo(s, []string{"failing", "good"}[i%2], 4, i), 0)
		}
		waited := make(chan admission, 1)
		go func() { waited <- s.submit(t.Context(), submitTo(s, "good", 4, 21), 0) }()
		time.Sleep(probeEvery - time.Millisecond)
		if len(sent) != 0 {
			t.Errorf("%d were sent", len(sent))
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(sent) != 1 || <-sent != "good" {
			t.Error("the first to be tried is one that didn't fail")
		}
		time.Sleep(2 * probeEvery)
		synctest.Wait()
		if len(sent) != 2 {
			t.Errorf("%d were sent, want one each %v", len(sent), probeEvery)
		}
		if sh := s.shardOf(shardKey{subscription: "good"}, limits{}); sh.breaker.failures != 0 {
			t.Errorf("%d failures count", sh.breaker.failures)
		}
		s.resume()
		if got := <-waited; got != admitted {
			t.Errorf("what found no room: %v", got)
		}
		synctest.Wait()
		if len(sent) != 20 {
			t.Errorf("%d were sent in the end", len(sent))
		}
		s.stop()
	})
}

// A breaker that is open when the pause begins keeps nothing back for its length: what waits behind it may be all there is
// to try, and nothing but an answer ends the pause.
func TestAPauseEndsBehindAnOpenBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan string, 1)
		s := testScheduler(8, 13, func(j *job) { sent <- j.shard.subscription })
		s.shardOf(shardKey{subscription: "broken"}, limits{inFlight: 1}).breaker.open(time.Now(), 0)
		s.pause()
		got := make(chan admission, 1)
		go func() { got <- s.submit(t.Context(), submitTo(s, "broken", 1, 0), 0) }()
		time.Sleep(3 * probeEvery)
		synctest.Wait()
		if len(got) != 1 || len(sent) != 1 {
			t.Fatalf("%d admitted, %d tried", len(got), len(sent))
		}
		s.resume()
		s.stop()
	})
}

// P-01: through the dispatcher: nobody can be reached, then somebody can.
func TestDeliveriesWaitForOurOwnNetwork(t *testing.T) {
	r := newRig(t, nil)
	nobody, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(nobody.Addr().String())
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range suspectHosts {
		id := fmt.Sprint("sub_away_", i)
		r.feed(subscribed(t, id, fmt.Sprintf("http://127.0.0.%d:%s", 2+i, port), func(s *subscription.Subscription) {
			s.Retry = subscription.Retry{MaxAttempts: 100}
		}))
	}
	hook := receiver(t, nil)
	r.feed(subscribed(t, "sub_1", hook.URL(), nil))
	run := r.start()
	for i := range suspectHosts {
		r.deliver(fmt.Sprint("sub_away_", i), 1, nil)
	}
	until(t, "the fault is looked for here", func() bool { return run.scheduler.load().paused })
	if err := run.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	r.deliver("sub_1", 3, nil)
	waitFor(t, hook, 3)
	until(t, "it goes on", func() bool { return !run.scheduler.load().paused })
}
