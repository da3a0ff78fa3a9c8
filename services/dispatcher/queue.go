package dispatcher

import (
	"context"
	"sync"
	"time"
)

// idleWorkers is how many workers wait for work before further ones end.
const idleWorkers = 256

// admission is what became of a job that asked for a place in its subscription's queue: all but the first and the last
// reason say why it is parked.
type admission int

const (
	admitted   admission = iota
	full                 // the queue is over its share
	slowed               // the queue is as long as the rate limit lets it clear in time
	broken               // the endpoint's breaker is open
	cooling              // the endpoint has asked for nothing for a while
	diverted             // it held back its partition's window
	faulty               // it can't be sent, for a reason of ours
	copied               // a copy of it is being sent
	admissions           // how many there are
	closing              // the scheduler takes nothing any more
)

// schedulerConfig is what a scheduler is made of.
type schedulerConfig struct {
	workers    int                             // most jobs in flight
	share      int                             // most jobs that wait for one subscription
	shareBytes int64                           // most bytes of them; 0: no bound
	newWork    func() func(*job)               // called once for each worker, returns its function
	since      func(partition int32) time.Time // when a partition was assigned
	changed    func(*change)                   // called without the lock
}

// scheduler gives the jobs of all subscriptions to workers: in order within a subscription, in turn between those that
// have something to send and may send it, and never more at once than workers. It is what keeps one endpoint from
// slowing another.
//
// A worker never sleeps for a subscription. One that may send nothing now (its rate limit) is asleep, in no ring, until
// its alarm. One that is to leave the workers to others (see mayHave) waits in a ring of its own.
type scheduler struct {
	schedulerConfig

	mu         sync.Mutex
	wake       sync.Cond
	shards     map[shardKey]*shard
	owners     map[string]map[*shard]struct{} // the shards of each subscription
	partitions map[int32]map[*shard]struct{}  // and of each partition
	ready      ring                           // those that can send
	crowded    ring                           // those that leave the last workers to others
	retrying   ring                           // those that have nothing but retries, of which enough are in flight
	running    int                            // workers there are
	idle       int                            // of them, those that wait and nobody has woken
	busy       int                            // jobs in flight
	busyLate   int                            // of them, those from the slow topic and the retry tiers
	waiting    int                            // jobs queued
	active     int                            // shards with something queued or in flight
	asleep     int                            // shards that wait for their alarm
	broken     int                            // shards with an open breaker
	paused     chan struct{}                  // closed at the end of the pause; nil where there is none
	probing    bool                           // one job may go in a pause
	probes     *time.Timer
	stopped    bool
	ended      sync.WaitGroup
}

func newScheduler(c schedulerConfig) *scheduler {
	s := &scheduler{
		schedulerConfig: c, shards: map[shardKey]*shard{}, owners: map[string]map[*shard]struct{}{}, partitions: map[int32]map[*shard]struct{}{},
	}
	s.wake.L = &s.mu
	return s
}

// shardOf returns the shard of that key, making it where there is none, with those limits.
func (s *scheduler) shardOf(key shardKey, l limits) *shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	sh := s.shards[key]
	if sh == nil {
		sh = &shard{shardKey: key, lastDone: now}
		s.limit(sh, l, now)
		s.shards[key] = sh
		join(s.owners, key.subscription, sh)
		join(s.partitions, key.partition, sh)
	}
	sh.lastUse = now
	return sh
}

func join[K comparable](sets map[K]map[*shard]struct{}, key K, sh *shard) {
	if sets[key] == nil {
		sets[key] = map[*shard]struct{}{}
	}
	sets[key][sh] = struct{}{}
}

func leave[K comparable](sets map[K]map[*shard]struct{}, key K, sh *shard) {
	if delete(sets[key], sh); len(sets[key]) == 0 {
		delete(sets, key)
	}
}

// adopt drops what a subscription's shards have made for a version that is no longer the newest, and has them obey the
// newest one's limits. Nil, of a subscription that was deleted or can't be read, leaves the limits as they are.
func (s *scheduler) adopt(subscription string, l *limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for sh := range s.owners[subscription] {
		sh.sub.replace(nil)
		if l != nil {
			s.limit(sh, *l, now)
			s.offer(sh, now)
		}
	}
}

// release forgets the shards of a partition that is lost, and with them all that they knew. What still waits in them is
// handed out, and abandoned by the workers.
func (s *scheduler) release(partition int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sh := range s.partitions[partition] {
		s.drop(sh)
	}
}

// abandon gives back what waits of a partition number and is not to be begun any more: a topic of it is given up.
func (s *scheduler) abandon(partition int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for sh := range s.partitions[partition] {
		for _, j := range s.remove(sh, now, func(j *job) bool { return stopping(j.task) }) {
			j.task.Abandon()
		}
		for _, j := range sh.flying {
			j.ceded = stopping(j.task)
		}
	}
}

// drop takes a shard out of the maps; the lock is held. A worker that holds it goes on with it, and what waits in it is
// handed out to be abandoned, so nothing has to be kept to any more.
func (s *scheduler) drop(sh *shard) {
	sh.sub.replace(nil)
	if sh.breaker.opened > 0 {
		s.broken--
	}
	sh.rate, sh.breaker = bucket{}, breaker{}
	s.rouse(sh)
	s.completeAll(sh)
	s.offer(sh, time.Now())
	delete(s.shards, sh.shardKey)
	leave(s.owners, sh.subscription, sh)
	leave(s.partitions, sh.partition, sh)
}

// setLimits has a shard obey a version's limits.
func (s *scheduler) setLimits(sh *shard, l limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.limit(sh, l, now)
	s.offer(sh, now)
}

// limit changes what a shard may do; the lock is held. A rate limit begins with what it would have allowed since the
// partition was assigned: what came before may have been used by another dispatcher.
func (s *scheduler) limit(sh *shard, l limits, now time.Time) {
	sh.max, sh.counted = max(l.inFlight, 1), l.counted
	if (sh.batch == nil) != (l.batch == nil) || l.batch != nil && *sh.batch != *l.batch {
		s.completeAll(sh) // what waits goes as it was to be
		sh.batch = l.batch
	}
	since := now
	if l.rate != nil && s.since != nil {
		since = s.since(sh.partition)
	}
	if to := newBucket(l.rate, l.spread, since); to.interval != sh.rate.interval || to.depth != sh.rate.depth {
		sh.rate.change(to, now)
		sh.limited.Store(to.limits())
		s.rouse(sh)
	}
}

// submit queues a job, or says that its subscription has no room. Where it is only busy, not slow, submit waits up to
// patience for room: an endpoint that takes thousands of requests a second needs no parking, only a moment. What has
// been parked waits within its subscription's share of time.
//
// When ctx has ended nothing is queued any more, since abandon may have been there already: what is queued then would only be
// given back when its turn comes, and its partition would be waited for.
//
// A job whose call is kept in order is not queued: it has a place then, and enter queues it when its turn has come.
func (s *scheduler) submit(ctx context.Context, j *job, patience time.Duration) admission {
	sh := j.shard
	var waiting time.Time
	var deadline *time.Timer
	for {
		s.mu.Lock()
		if s.stopped || ctx.Err() != nil {
			s.mu.Unlock()
			return closing
		}
		now := time.Now()
		if !waiting.IsZero() && j.late {
			sh.waits.spent += now.Sub(waiting)
		}
		waited := !waiting.IsZero()
		waiting = time.Time{}
		why, until := sh.refuses(now)
		if s.paused != nil && (why != admitted || !s.hasRoom(sh, j, now)) {
			// Where it went would be no better, and it would go there for nothing it has done.
			resumed := s.paused
			s.mu.Unlock()
			// A breaker lets one through again while the pause lasts, and that one may be the probe that ends it.
			look := time.NewTimer(min(max(until.Sub(now), time.Millisecond), probeEvery))
			select {
			case <-resumed:
			case <-look.C:
			case <-ctx.Done():
				look.Stop()
				return closing
			}
			look.Stop()
			continue
		}
		if why != admitted {
			s.mu.Unlock()
			j.until = until
			return why
		}
		if s.hasRoom(sh, j, now) {
			if j.order == nil {
				s.push(sh, j, now)
			} else {
				sh.held++
				sh.bytes += j.size
			}
			s.mu.Unlock()
			if deadline != nil {
				deadline.Stop()
			}
			return admitted
		}
		if len(sh.open) > 0 {
			s.completeAll(sh) // there will be no more for them until there is room
			s.offer(sh, now)
		}
		limit := sh.limit(s.share, now)
		// The first of a lane's records that waits in vain is the last, until there is room.
		worthIt := limit >= min(busy, s.share) && !sh.waits.vain
		if j.late {
			// What waits in the slow topic behind one that will be served in a moment has had to wait for its own endpoint.
			if j.from.kind != fromSlow || limit < min(busy, s.share) {
				patience = min(patience, sh.waits.left(patience, now))
			}
			worthIt = true
		}
		if patience <= 0 || !worthIt || sh.stalled(now) {
			sh.waits.vain = sh.waits.vain || waited
			why = full
			if sh.rate.limits() && limit < s.share {
				why = slowed
			}
			s.mu.Unlock()
			return why
		}
		if sh.room == nil {
			sh.room = make(chan struct{})
		}
		free := sh.room
		s.mu.Unlock()
		if deadline == nil {
			deadline = time.NewTimer(patience)
			defer deadline.Stop()
		}
		waiting = now
		select {
		case <-free:
		case <-deadline.C:
			patience = 0
		case <-ctx.Done():
			return closing
		}
	}
}

// hasRoom says whether a job may be queued; the lock is held.
func (s *scheduler) hasRoom(sh *shard, j *job, now time.Time) bool {
	if sh.taken() == 0 {
		return true
	}
	limit, bytes := sh.limit(s.share, now), s.shareBytes
	if !j.late {
		// The rest is for what was parked. Else first attempts, which come without end, would take every place, and what
		// was parked once would go round and round.
		limit, bytes = limit-limit/lateRoom, bytes-bytes/lateRoom
	}
	return sh.taken() < limit && (bytes == 0 || sh.bytes+j.size <= bytes)
}

// push queues a job; the lock is held.
func (s *scheduler) push(sh *shard, j *job, now time.Time) {
	// What is to tell whether an endpoint answers again goes at once.
	if j.joins && sh.batch != nil && sh.breaker.opened == 0 {
		s.join(sh, j)
	} else {
		sh.queue(j).push(j)
	}
	sh.bytes += j.size
	sh.waits.vain = false
	s.waiting++
	s.account(sh)
	s.offer(sh, now)
}

// enter queues a job whose turn in its call has come, whatever room there is, unless nothing may be sent now.
func (s *scheduler) enter(j *job) admission {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || stopping(j.task) {
		return closing
	}
	now := time.Now()
	why, until := j.shard.refuses(now)
	if why == admitted {
		s.push(j.shard, j, now)
	}
	j.until = until
	return why
}

// vacate gives a place back that submit gave to a job whose call is kept in order.
func (s *scheduler) vacate(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.shard.held--
	j.shard.bytes -= j.size
	s.makeRoom(j.shard, time.Now())
}

// account keeps the count of the shards that have something to do; the lock is held.
func (s *scheduler) account(sh *shard) {
	if active := sh.inFlight > 0 || sh.queued() > 0; active != sh.active {
		if sh.active = active; active {
			s.active++
		} else {
			s.active--
		}
	}
}

// offer puts a subscription that can send into the ring and sees that somebody looks; the lock is held.
func (s *scheduler) offer(sh *shard, now time.Time) {
	if sh.ring == &s.ready || sh.asleep || sh.inFlight >= sh.max || sh.requests() == 0 {
		return
	}
	if sh.ring != nil && s.placeOf(sh, now) != &s.ready {
		return // it stays where it is: relent comes to it
	}
	sh.unlist()
	if wait := s.wait(sh, now); wait > 0 {
		s.sleep(sh, wait)
		return
	}
	s.ready.push(sh)
	s.call()
}

// call sees that a worker looks for what is ready; the lock is held.
func (s *scheduler) call() {
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

// wait is how long a shard may send nothing; the lock is held. At the end nothing is waited for: whoever gets a job then
// abandons it.
func (s *scheduler) wait(sh *shard, now time.Time) time.Duration {
	if s.stopped {
		return 0
	}
	wait := max(sh.breaker.cool.Sub(now), 0)
	if sh.rate.limits() {
		wait = max(wait, sh.rate.wait(now))
	}
	return wait
}

// sleep has a shard come back in a while; the lock is held.
func (s *scheduler) sleep(sh *shard, wait time.Duration) {
	sh.asleep = true
	s.asleep++
	if sh.alarm != nil {
		sh.alarm.Reset(wait)
		return
	}
	sh.alarm = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rouse(sh)
		s.offer(sh, time.Now())
	})
}

// rouse ends a shard's sleep; the lock is held.
func (s *scheduler) rouse(sh *shard) {
	if sh.asleep {
		sh.alarm.Stop()
		sh.asleep = false
		s.asleep--
	}
}

// placeOf is the ring that a shard that has something to send belongs to; the lock is held.
func (s *scheduler) placeOf(sh *shard, now time.Time) *ring {
	switch {
	case !s.mayHave(sh, now):
		return &s.crowded
	case sh.first.len() == 0 && !s.mayRetry():
		return &s.retrying
	}
	return &s.ready
}

// mayRetry says that one more retry may be in flight: first attempts keep half of the workers.
func (s *scheduler) mayRetry() bool { return s.busyLate < max(s.workers/2, 1) }

// mayHave says that a shard may have one more worker. The last quarter of them is divided evenly between those that have
// something to do, and half of that is only for endpoints that answer: so many that hang at once leave workers for the
// others.
func (s *scheduler) mayHave(sh *shard, now time.Time) bool {
	free, reserve := s.workers-s.busy, s.workers/4
	if free > reserve || s.stopped {
		return true
	}
	if sh.inFlight >= max(reserve/max(s.active, 1), 1) {
		return false
	}
	return free > reserve/2 || sh.answers(now)
}

// relent lets the longest waiting of those that left workers to others try again, now that there are some; false where
// nobody may. The lock is held.
func (s *scheduler) relent() bool {
	some := false
	for _, r := range []struct {
		*ring
		may bool
	}{{&s.crowded, s.workers-s.busy > s.workers/4}, {&s.retrying, s.mayRetry()}} {
		if sh := r.first; sh != nil && r.may {
			sh.unlist()
			s.ready.push(sh)
			s.call()
			some = true
		}
	}
	return some
}

// next takes the next job that may go, nil where there is none; the lock is held.
func (s *scheduler) next(now time.Time) *job {
	if s.paused != nil && !s.stopped {
		if !s.probing {
			return nil
		}
		s.probing = false
	}
	s.relent()
	for {
		sh := s.ready.first
		if sh == nil {
			if s.relent() {
				continue
			}
			return nil
		}
		sh.unlist()
		if sh.inFlight >= sh.max || sh.requests() == 0 {
			continue
		}
		if wait := s.wait(sh, now); wait > 0 {
			s.sleep(sh, wait)
			continue
		}
		if place := s.placeOf(sh, now); place != &s.ready {
			place.push(sh)
			continue
		}
		j := sh.pop(!s.mayRetry())
		if sh.rate.limits() {
			sh.rate.take(now)
			j.token = now
		}
		return j
	}
}

// run is a worker.
func (s *scheduler) run() {
	defer s.ended.Done()
	work := s.newWork()
	s.mu.Lock()
	now := time.Now()
	for {
		j := s.next(now)
		for j == nil {
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
			now = time.Now()
			j = s.next(now)
		}
		s.begin(j, now)
		s.mu.Unlock()

		work(j)
		now = time.Now()

		s.mu.Lock()
		if c := s.finish(j, now); c != nil && s.changed != nil {
			s.mu.Unlock()
			s.changed(c)
			now = time.Now()
			s.mu.Lock()
		}
	}
}

// begin counts a job as in flight; the lock is held.
func (s *scheduler) begin(j *job, now time.Time) {
	sh := j.shard
	if sh.counted {
		sh.turns = sh.turns.next()
		j.turn = sh.turns
	}
	s.waiting -= j.jobs()
	sh.members -= len(j.rest)
	s.busy++
	if j.late {
		s.busyLate++
	}
	if sh.inFlight == 0 {
		sh.lastDone = now // it could not have taken anything before
	}
	sh.inFlight++
	j.began, j.place = now, len(sh.flying)
	sh.flying = append(sh.flying, j)
	sh.bytes -= j.bytes()
	s.makeRoom(sh, now)
	s.offer(sh, now)
}

// makeRoom tells who waits for room in a queue that there is some; the lock is held.
func (s *scheduler) makeRoom(sh *shard, now time.Time) {
	if sh.room != nil && sh.taken() < sh.limit(s.share, now) {
		close(sh.room)
		sh.room = nil
	}
}

// finish counts a job as done, and returns what that changes; the lock is held.
func (s *scheduler) finish(j *job, now time.Time) *change {
	sh := j.shard
	s.busy--
	if j.late {
		s.busyLate--
	}
	sh.inFlight--
	last := len(sh.flying) - 1
	sh.flying[j.place], sh.flying[last].place = sh.flying[last], j.place
	sh.flying[last] = nil
	sh.flying = sh.flying[:last]
	sh.lastUse = now
	if !j.token.IsZero() && !j.sent {
		sh.rate.giveBack(now)
		j.token = time.Time{}
	}
	switch {
	case j.again && j.ceded:
		for _, one := range append([]*job{j}, j.rest...) {
			one.task.Abandon()
		}
	case j.again:
		j.again = false
		sh.queue(j).unpop(j)
		sh.bytes += j.bytes()
		sh.members += len(j.rest)
		s.waiting += j.jobs()
	case j.took > 0: // what was not sent says nothing of the endpoint
		sh.lastDone = now
		sh.learn(j.took)
	}
	c := s.react(sh, j.came, now)
	s.account(sh)
	s.offer(sh, now)
	return c
}

// maySend is asked before a job is sent: whether it still has the token that the rate limit wants. One that was taken
// long ago is of no use: what was sent since was counted without it. False: the job goes back to its queue, with again.
func (s *scheduler) maySend(j *job) bool {
	sh := j.shard
	if j.token.IsZero() && !sh.limited.Load() {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !sh.rate.limits() || now.Sub(j.token) <= tokenLasts {
		j.sent = true
		return true
	}
	if !j.token.IsZero() {
		sh.rate.giveBack(now)
		j.token = time.Time{}
	}
	if sh.rate.wait(now) > 0 {
		j.again = true
		return false
	}
	sh.rate.take(now)
	j.token, j.sent = now, true
	return true
}

// remove takes the jobs that match out of a shard's queue, oldest first; the lock is held.
func (s *scheduler) remove(sh *shard, now time.Time, match func(*job) bool) []*job {
	var out []*job
	for _, queue := range []*fifo{&sh.first, &sh.later} {
		for n := queue.len(); n > 0; n-- {
			j := queue.pop()
			sh.members -= len(j.rest)
			left, gone := j.without(match)
			if out = append(out, gone...); left != nil {
				sh.members += len(left.rest)
				queue.push(left)
			}
		}
	}
	out = append(out, s.removeOpen(sh, match)...)
	for _, j := range out {
		sh.bytes -= j.size
		s.waiting--
	}
	if len(out) > 0 {
		s.account(sh)
		s.makeRoom(sh, now)
	}
	return out
}

// sweep forgets the subscriptions that had nothing to do since before, and of which nothing is to be remembered.
func (s *scheduler) sweep(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, sh := range s.shards {
		if !sh.active && sh.held == 0 && sh.ring == nil && sh.room == nil && sh.lastUse.Before(before) && sh.rate.full(now) && (sh.breaker.opened == 0 || sh.breaker.until.Before(before)) && sh.frequency.Load().empty(now) {
			s.drop(sh)
		}
	}
}

// load is what a scheduler has to do: deliveries in flight (first attempts, and those from the slow topic and the retry
// tiers) and queued; and shards: that have something to do, whose breaker is open, that wait for their rate limit, and
// that leave workers to others.
type load struct {
	first, late, waiting            int
	active, broken, asleep, crowded int
	paused                          bool
}

// load tells what there is to do.
func (s *scheduler) load() load {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := load{paused: s.paused != nil, first: s.busy - s.busyLate, late: s.busyLate, waiting: s.waiting, active: s.active, broken: s.broken, asleep: s.asleep}
	for _, r := range []*ring{&s.crowded, &s.retrying} {
		for sh := r.first; sh != nil; sh = sh.after {
			l.crowded++
		}
	}
	return l
}

// stop takes no more jobs, hands out those that wait (their workers see that their partition is gone, or send them) and
// returns when every worker has ended.
func (s *scheduler) stop() {
	s.mu.Lock()
	s.stopped = true
	if s.probes != nil {
		s.probes.Stop()
	}
	now := time.Now()
	for _, sh := range s.shards {
		s.rouse(sh)
		s.completeAll(sh)
		s.offer(sh, now)
	}
	s.idle = 0
	s.wake.Broadcast()
	s.mu.Unlock()
	s.ended.Wait()
	for _, sh := range s.shards { // nobody else is left
		sh.sub.replace(nil)
	}
}
