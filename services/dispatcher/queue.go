package dispatcher

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// keepUp is how long a subscription's queue may take to clear. What would wait longer is parked, so that the oldest
	// record of a slow endpoint never holds back its partition's window for much more than this and one timeout: with the
	// default window that leaves a partition more than 3,000 records a second. An endpoint that clears its whole share in
	// this time is busy, not slow, and is waited for: parking what it will take in a moment would only cost twice.
	keepUp = 10 * time.Second
	// stalledAfter is how long a full endpoint may complete nothing before waiting for it makes no sense.
	stalledAfter = time.Second
	// idleWorkers is how many workers wait for work before further ones end.
	idleWorkers = 256
	// mostShare is how many records may wait for one subscription at most.
	mostShare = 4096
	// parkedTurn lets a parked delivery (from the slow topic or a retry tier) go before a first attempt each so many
	// times where both wait, so that neither starves the other.
	parkedTurn = 4
)

// job is one record on its way to its endpoint.
type job struct {
	delivery
	shard *shard
	turn  turn // where the shard's subscription has a frequency
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

// shard is the queue of one subscription in one partition. Its fields are guarded by the scheduler's lock.
type shard struct {
	shardKey
	first    fifo // first attempts
	parked   fifo // from the slow topic and the retry tiers
	turn     int
	inFlight int
	max      int
	ready    bool // in the scheduler's list

	took     time.Duration // moving average of how long an attempt takes
	lastDone time.Time     // when an attempt ended last
	lastUse  time.Time
	room     chan struct{} // closed when somebody waits for room and there is some

	sub subscriptionState // has a lock of its own

	counted   atomic.Bool // the subscription has a frequency
	frequency atomic.Pointer[frequency]
	turns     turn // the last that was given
}

func (s *shard) queued() int {
	return len(s.first.jobs) - s.first.head + len(s.parked.jobs) - s.parked.head
}

// limit is how many records may wait: what the endpoint is expected to take within keepUp, at least as many as it may
// have in flight, at most the share.
func (s *shard) limit(share int, now time.Time) int {
	if s.stalled(now) {
		return s.max
	}
	if s.took <= 0 {
		return share
	}
	return max(min(int(int64(s.max)*int64(keepUp)/int64(s.took)), share), s.max)
}

// stalled says that the endpoint has been full and has taken nothing for a while.
func (s *shard) stalled(now time.Time) bool {
	return s.inFlight >= s.max && now.Sub(s.lastDone) > stalledAfter
}

// fifo is a queue that reuses its room.
type fifo struct {
	jobs []*job
	head int
}

func (f *fifo) push(j *job) { f.jobs = append(f.jobs, j) }

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

func (s *shard) pop() *job {
	s.turn++
	if s.turn%parkedTurn == 0 {
		if j := s.parked.pop(); j != nil {
			return j
		}
	}
	if j := s.first.pop(); j != nil {
		return j
	}
	return s.parked.pop()
}

// admission is what became of a job that asked for a place in its subscription's queue.
type admission int

const (
	admitted admission = iota
	full               // the queue is over its share
	closing            // the scheduler takes nothing any more
)

// scheduler gives the jobs of all subscriptions to workers: in order within a subscription, in turn between those that
// have something to send and room in flight, and never more at once than workers. It is what keeps one endpoint from
// slowing another.
type scheduler struct {
	workers int // most jobs in flight
	share   int // most jobs that wait for one subscription
	newWork func() func(*job)

	mu      sync.Mutex
	wake    sync.Cond
	shards  map[shardKey]*shard
	owners  map[string]map[*shard]struct{} // the shards of each subscription
	ready   []*shard                       // a ring would save the copy in take; the list is as short as there are busy subscriptions
	running int                            // workers there are
	idle    int                            // of them, those that wait and nobody has woken
	busy    int                            // jobs in flight
	waiting int                            // jobs queued
	stopped bool
	ended   sync.WaitGroup
}

// newScheduler makes a scheduler. newWork is called once for each worker and returns its function.
func newScheduler(workers, share int, newWork func() func(*job)) *scheduler {
	s := &scheduler{workers: workers, share: share, newWork: newWork, shards: map[shardKey]*shard{}, owners: map[string]map[*shard]struct{}{}}
	s.wake.L = &s.mu
	return s
}

// shardOf returns the shard of that key, making it where there is none. maxInFlight is what it begins with.
func (s *scheduler) shardOf(key shardKey, maxInFlight int) *shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shards[key]
	if sh == nil {
		sh = &shard{shardKey: key, max: max(maxInFlight, 1), lastDone: time.Now()}
		s.shards[key] = sh
		if s.owners[key.subscription] == nil {
			s.owners[key.subscription] = map[*shard]struct{}{}
		}
		s.owners[key.subscription][sh] = struct{}{}
	}
	sh.lastUse = time.Now()
	return sh
}

// forget drops what a subscription's shards have made for a version that is no longer the newest.
func (s *scheduler) forget(subscription string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sh := range s.owners[subscription] {
		sh.sub.replace(nil)
	}
}

// release forgets the shards of a partition that is lost, and with them all that they knew. What still waits in them is
// handed out, and abandoned by the workers.
func (s *scheduler) release(partition int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, sh := range s.shards {
		if key.partition == partition {
			s.drop(sh)
		}
	}
}

// drop takes a shard out of the maps; the lock is held. A worker that holds it goes on with it.
func (s *scheduler) drop(sh *shard) {
	sh.sub.replace(nil)
	delete(s.shards, sh.shardKey)
	if delete(s.owners[sh.subscription], sh); len(s.owners[sh.subscription]) == 0 {
		delete(s.owners, sh.subscription)
	}
}

// setMax changes how many jobs of a subscription may be in flight.
func (s *scheduler) setMax(sh *shard, maxInFlight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.max = max(maxInFlight, 1)
	s.offer(sh)
}

// submit queues a job, or says that its subscription has no room. Where it is only busy, not slow, submit waits up to
// patience for room: an endpoint that takes thousands of requests a second needs no parking, only a moment.
func (s *scheduler) submit(ctx context.Context, j *job, parked bool, patience time.Duration) admission {
	sh := j.shard
	var deadline *time.Timer
	for {
		s.mu.Lock()
		if s.stopped {
			s.mu.Unlock()
			return closing
		}
		now := time.Now()
		limit := sh.limit(s.share, now)
		if sh.queued() < limit {
			if parked {
				sh.parked.push(j)
			} else {
				sh.first.push(j)
			}
			s.waiting++
			s.offer(sh)
			s.mu.Unlock()
			if deadline != nil {
				deadline.Stop()
			}
			return admitted
		}
		fast := limit >= s.share || parked
		if patience <= 0 || !fast || sh.stalled(now) {
			s.mu.Unlock()
			return full
		}
		if sh.room == nil {
			sh.room = make(chan struct{})
		}
		room := sh.room
		s.mu.Unlock()
		if deadline == nil {
			deadline = time.NewTimer(patience)
			defer deadline.Stop()
		}
		select {
		case <-room:
		case <-deadline.C:
			patience = 0
		case <-ctx.Done():
			return closing
		}
	}
}

// offer puts a subscription that can send into the list and sees that somebody looks; the lock is held.
func (s *scheduler) offer(sh *shard) {
	if sh.ready || sh.inFlight >= sh.max || sh.queued() == 0 {
		return
	}
	sh.ready = true
	s.ready = append(s.ready, sh)
	switch {
	case s.idle > 0:
		// Counted off here, not by the worker when it runs, or two offers could both count on the same one.
		s.idle--
		s.wake.Signal()
	case s.running < s.workers && !s.stopped:
		s.running++
		s.ended.Add(1)
		go s.run()
	}
}

// run is a worker.
func (s *scheduler) run() {
	defer s.ended.Done()
	work := s.newWork()
	s.mu.Lock()
	for {
		for len(s.ready) == 0 {
			if s.stopped && s.waiting == 0 || s.idle >= idleWorkers {
				s.running--
				if s.stopped {
					s.idle = 0
					s.wake.Broadcast() // some may have gone back to waiting while jobs were left
				}
				s.mu.Unlock()
				return
			}
			s.idle++
			s.wake.Wait()
		}
		sh := s.ready[0]
		if s.ready = s.ready[1:]; len(s.ready) == 0 {
			s.ready = nil
		}
		sh.ready = false
		j := sh.pop()
		if j == nil {
			continue
		}
		if sh.counted.Load() {
			sh.turns = sh.turns.next()
			j.turn = sh.turns
		}
		s.waiting--
		s.busy++
		if sh.inFlight == 0 {
			sh.lastDone = time.Now() // it could not have taken anything before
		}
		sh.inFlight++
		if sh.room != nil && sh.queued() < sh.limit(s.share, time.Now()) {
			close(sh.room)
			sh.room = nil
		}
		s.offer(sh)
		s.mu.Unlock()

		start := time.Now()
		work(j)
		end := time.Now()

		s.mu.Lock()
		s.busy--
		sh.inFlight--
		sh.lastDone = end
		sh.lastUse = end
		if took := max(end.Sub(start), 1); sh.took == 0 {
			sh.took = took
		} else {
			sh.took += (took - sh.took) / 16
		}
		s.offer(sh)
	}
}

// sweep forgets the subscriptions that had nothing to do since before.
func (s *scheduler) sweep(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, sh := range s.shards {
		if sh.inFlight == 0 && sh.queued() == 0 && !sh.ready && sh.room == nil && sh.lastUse.Before(before) && sh.frequency.Load().empty(now) {
			s.drop(sh)
		}
	}
}

// load returns how many jobs are in flight and how many wait.
func (s *scheduler) load() (busy, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy, s.waiting
}

// stop takes no more jobs, hands out those that wait (their workers see that their partition is gone, or send them) and
// returns when every worker has ended.
func (s *scheduler) stop() {
	s.mu.Lock()
	s.stopped = true
	s.idle = 0
	s.wake.Broadcast()
	s.mu.Unlock()
	s.ended.Wait()
	for _, sh := range s.shards { // nobody else is left
		sh.sub.replace(nil)
	}
}
