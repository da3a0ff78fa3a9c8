package dispatcher

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/subscription"
)

const (
	// keepUp is how long a subscription's queue may take to clear. What would wait longer is parked, so that the oldest
	// record of a slow endpoint never holds back its partition's window for much more than this and one timeout: with the
	// default window that leaves a partition more than 3,000 records a second.
	keepUp = 10 * time.Second
	// busy is how many attempts an endpoint must be good for in keepUp to be busy rather than slow. It is waited for: parking
	// what it will take in a moment would only cost twice. Well below what endpoints do take, because all of them seem slow
	// when it is this process that is short of CPU, and parking then makes it worse.
	busy = 1000
	// stalledAfter is how long a full endpoint may complete nothing before waiting for it makes no sense.
	stalledAfter = time.Second
	// prompt is how long the attempts of an endpoint that answers may take on average.
	prompt = time.Second
	// mostShare is how many records may wait for one subscription at most.
	mostShare = 4096
	// learnFrom is how often an endpoint's places must have been used before it is judged by how long its attempts take.
	learnFrom = 4
	// lateRoom is which part of a queue is for parked deliveries alone: one part in so many.
	lateRoom = 4
	// parkedTurn lets a parked delivery (from the slow topic or a retry tier) go before a first attempt each so many
	// times where both wait, so that neither starves the other.
	parkedTurn = 4
	// waitingShare is which part of the time one subscription may hold up the slow topic or a retry tier at most, to wait
	// for room: one part in so many.
	waitingShare = 10
)

// job is one record on its way to its endpoint.
type job struct {
	delivery
	shard *shard
	rest  []*job   // the other members of a batch, in order; the job stands for all of them
	with  together // which others may be in a batch with it
	joins bool     // there may be others

	size  int64         // bytes that it holds while it waits
	late  bool          // from the slow topic or a retry tier
	token time.Time     // when it took a token of the rate limit; zero where it has none
	sent  bool          // its token is used
	came  came          // what came of its request
	took  time.Duration // of that, without what it takes to write it down: that is no fault of the endpoint
	until time.Time     // where it was refused: not before
	began time.Time     // when a worker took it
	place int           // in its shard's flying
	again bool          // it goes back to the head of its queue
	ceded bool          // its partition was to be given up while it was in flight
	turn  turn          // where the shard's subscription has a frequency

	cancel  context.CancelFunc // ends its request, from when sending is set
	sending atomic.Bool
	wasCut  atomic.Bool
}

// shardKey names a shard: a subscription in one partition, which everything of it in that partition goes through. Partition
// p of every delivery topic has one owner, so whatever must be decided in one place is decided in the shard. A
// subscription that spreads over n partitions has n shards, maybe in several processes, and each has its share of the
// subscription's limits.
type shardKey struct {
	subscription string
	partition    int32
	fallback     bool // requests to fallback_url don't wait behind those to the endpoint that fails
}

// limits are what a version of a subscription allows one of its shards.
type limits struct {
	inFlight int
	rate     *subscription.RateLimit
	spread   int
	counted  bool // it has a frequency
	batch    *subscription.Batch
}

// limitsOf returns a subscription's limits.
func limitsOf(s *subscription.Subscription) limits {
	return limits{inFlight: shareOf(s.MaxInFlight, s.Spread), rate: s.RateLimit, spread: s.Spread, counted: s.Frequency != nil, batch: s.Batch}
}

// shard is the queue of one subscription in one partition. Its fields are guarded by the scheduler's lock.
type shard struct {
	shardKey
	first    fifo // first attempts
	later    fifo // from the slow topic and the retry tiers
	turn     int
	held     int   // jobs that have a place and wait for their turn in their call
	bytes    int64 // that the queued jobs hold, and those that have a place
	batch    *subscription.Batch
	open     map[together]*forming // batches that wait for more
	members  int                   // jobs in them, and in queued batches behind their first
	inFlight int
	flying   []*job // those in flight
	max      int
	rate     bucket
	limited  atomic.Bool // there is a rate limit; read without the lock
	asleep   bool        // until alarm, because it may send nothing before
	alarm    *time.Timer // made when it is needed first
	active   bool        // it has something queued or in flight

	ring          *ring // of the scheduler's, that it is in
	before, after *shard

	took     time.Duration // moving average of how long an attempt takes
	learned  int           // attempts that it is made of, as far as that matters
	breaker  breaker
	unheard  int       // attempts in a row that got no answer
	lastDone time.Time // when an attempt ended last
	lastUse  time.Time
	room     chan struct{} // closed when somebody waits for room and there is some
	waits    waits

	sub subscriptionState // has a lock of its own

	counted   bool // the subscription has a frequency
	frequency atomic.Pointer[frequency]
	turns     turn // the last that was given
}

// queued is how many deliveries wait.
func (sh *shard) queued() int { return sh.requests() + sh.members }

// requests is how many requests could be sent: not for batches that wait for more.
func (sh *shard) requests() int { return sh.first.len() + sh.later.len() }

// taken is how many places of the queue are taken.
func (sh *shard) taken() int { return sh.queued() + sh.held }

// holds says whether a job that waits matches, or any member of a batch that does.
func (sh *shard) holds(match func(*job) bool) bool {
	some := func(j *job) bool { return j.some(match) }
	for _, b := range sh.open {
		if slices.ContainsFunc(b.jobs, match) {
			return true
		}
	}
	return slices.ContainsFunc(sh.first.jobs[sh.first.head:], some) || slices.ContainsFunc(sh.later.jobs[sh.later.head:], some)
}

// limit is how many records may wait: what the endpoint is expected to take, and its rate limit to allow, within keepUp;
// of the former at least as many as it may have in flight; at most the share.
func (sh *shard) limit(share int, now time.Time) int {
	each := 1 // deliveries in a request
	if sh.batch != nil {
		each = sh.batch.MaxEvents
	}
	if sh.rate.limits() {
		share = min(share, max(sh.rate.within(keepUp, now), 1)*each)
	}
	if sh.stalled(now) {
		return min(sh.max*each, share)
	}
	if sh.took <= 0 || sh.learned < learnFrom*sh.max {
		return share // the first ones make their connections
	}
	return min(max(int(int64(sh.max)*int64(keepUp)/int64(sh.took)), sh.max)*each, share)
}

// learn takes into account how long an attempt took.
func (sh *shard) learn(took time.Duration) {
	if sh.took == 0 {
		sh.took = took
	} else {
		sh.took += (took - sh.took) / 16
	}
	if sh.learned < learnFrom*sh.max {
		sh.learned++
	}
}

// stalled says that the endpoint has been full and has taken nothing for a while.
func (sh *shard) stalled(now time.Time) bool {
	return sh.inFlight >= sh.max && now.Sub(sh.lastDone) > stalledAfter
}

// answers says that the endpoint has answered last, and does so promptly.
func (sh *shard) answers(now time.Time) bool {
	return sh.unheard == 0 && sh.took > 0 && sh.took < prompt && (sh.inFlight == 0 || now.Sub(sh.lastDone) <= stalledAfter)
}

// pop takes the next job of the queue, or the next first attempt where only one of those may go.
func (sh *shard) pop(onlyFirst bool) *job {
	if onlyFirst {
		return sh.first.pop()
	}
	sh.turn++
	if sh.turn%parkedTurn == 0 {
		if j := sh.later.pop(); j != nil {
			return j
		}
	}
	if j := sh.first.pop(); j != nil {
		return j
	}
	return sh.later.pop()
}

// queue returns the queue that a job belongs to.
func (sh *shard) queue(j *job) *fifo {
	if j.late {
		return &sh.later
	}
	return &sh.first
}

// fifo is a queue that reuses its room.
type fifo struct {
	jobs []*job
	head int
}

func (f *fifo) len() int { return len(f.jobs) - f.head }

func (f *fifo) push(j *job) { f.jobs = append(f.jobs, j) }

// unpop puts a job before the others.
func (f *fifo) unpop(j *job) {
	if f.head == 0 {
		f.jobs = append([]*job{nil}, f.jobs...)
		f.head = 1
	}
	f.head--
	f.jobs[f.head] = j
}

func (f *fifo) pop() *job {
	if f.head == len(f.jobs) {
		return nil
	}
	j := f.jobs[f.head]
	f.jobs[f.head] = nil
	f.head++
	switch {
	case f.head == len(f.jobs):
		f.jobs, f.head = f.jobs[:0], 0
	case f.head > 64 && f.head*2 > len(f.jobs):
		n := copy(f.jobs, f.jobs[f.head:])
		clear(f.jobs[n:])
		f.jobs, f.head = f.jobs[:n], 0
	}
	return j
}

// waits is the time for which a subscription may hold up a partition of the slow topic or of a retry tier: so much at
// once as the topic's patience, and in the long run one part of waitingShare. Without that, each record of one that has
// no room would hold up those behind it once more.
type waits struct {
	spent time.Duration // of the time that may be waited
	at    time.Time     // when spent was right
	vain  bool          // the last wait brought no room, and there has been none since
}

// left is how long may be waited now.
func (w *waits) left(patience time.Duration, now time.Time) time.Duration {
	w.spent = max(w.spent-now.Sub(w.at)/waitingShare, 0)
	w.at = now
	return patience - w.spent
}
