package dispatcher

import (
	"slices"
	"time"

	"github.com/callstream/callstream/pkg/kafka"
	"github.com/callstream/callstream/subscription"
)

// mostBatchBytes bounds a batch, and with it the record that it becomes when it fails. One delivery that is larger is a
// batch by itself.
const mostBatchBytes = 512 << 10

// together is what the members of a batch have in common.
type together struct {
	topic  string // so that their partition is lost at one time
	route  string // the URL that their types go to
	replay string // which stands in a header
}

// togetherOf says with which others a delivery may be sent; false where it goes alone.
func togetherOf(d *delivery, sub *subscription.Subscription) (together, bool) {
	if sub.Batch == nil || d.attempts > 0 || d.fallback || d.redrive != "" || d.call != "" {
		return together{}, false
	}
	r := d.task.Record
	return together{
		topic: r.Topic, route: sub.RouteFor(kafka.Header(r, kafka.HeaderType)), replay: kafka.Header(r, kafka.HeaderReplay),
	}, true
}

// forming is a batch that waits for more members. The scheduler's lock guards it.
type forming struct {
	jobs  []*job
	bytes int64
	timer *time.Timer
}

// join adds a job to the batch that it belongs to, which goes to the queue as one job when it has as many members or bytes
// as it may, or when its first member has waited for as long as it may. The lock is held.
func (s *scheduler) join(sh *shard, j *job) {
	b := sh.open[j.with]
	if b != nil && b.bytes+j.size > mostBatchBytes {
		s.complete(sh, j.with)
		b = nil
	}
	if b == nil {
		b = &forming{}
		if sh.open == nil {
			sh.open = map[together]*forming{}
		}
		sh.open[j.with] = b
		if sh.batch.MaxEvents > 1 {
			b.timer = time.AfterFunc(time.Duration(sh.batch.MaxWait), func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if sh.open[j.with] == b {
					s.complete(sh, j.with)
					s.offer(sh, time.Now())
				}
			})
		}
	}
	b.jobs, b.bytes = append(b.jobs, j), b.bytes+j.size
	sh.members++
	if len(b.jobs) >= sh.batch.MaxEvents {
		s.complete(sh, j.with)
	}
}

// complete puts a batch into the queue, as its first job with the others behind it. The lock is held.
func (s *scheduler) complete(sh *shard, with together) {
	b := sh.open[with]
	delete(sh.open, with)
	b.stop()
	j := b.jobs[0]
	j.rest = b.jobs[1:]
	sh.members--
	sh.queue(j).push(j)
}

// completeAll does so with all that wait. The lock is held.
func (s *scheduler) completeAll(sh *shard) {
	for with := range sh.open {
		s.complete(sh, with)
	}
}

func (b *forming) stop() {
	if b.timer != nil {
		b.timer.Stop()
	}
}

// removeOpen takes the jobs that match out of the batches that wait. The lock is held.
func (s *scheduler) removeOpen(sh *shard, match func(*job) bool) []*job {
	var out []*job
	for with, b := range sh.open {
		var left []*job
		for _, j := range b.jobs {
			if match(j) {
				out = append(out, j)
				sh.members--
				b.bytes -= j.size
			} else {
				left = append(left, j)
			}
		}
		if b.jobs = left; len(left) == 0 {
			b.stop()
			delete(sh.open, with)
		}
	}
	return out
}

// requeue puts jobs that can't be in the batch that they were taken in back into their queue, and gives those back whose
// partition is to be given up.
func (s *scheduler) requeue(jobs []*job) {
	if len(jobs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, j := range jobs {
		if stopping(j.task) {
			j.task.Abandon()
			continue
		}
		// Anew: the job that was taken may stand for the others.
		s.push(j.shard, &job{delivery: j.delivery, shard: j.shard, with: j.with, joins: j.joins, size: j.size, late: j.late}, now)
	}
}

// regroup has a job in flight stand for those that are left of its batch, without what it stood for before; for itself
// where none are. It is done under the lock because others look at what is in flight.
func (s *scheduler) regroup(j *job, left []*job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.rest = nil
	if len(left) == 0 {
		return
	}
	if lead := left[0]; lead != j {
		j.delivery, j.with, j.size = lead.delivery, lead.with, lead.size
	}
	j.rest = left[1:]
}

// some says whether one of the deliveries that a job is matches.
func (j *job) some(match func(*job) bool) bool { return match(j) || slices.ContainsFunc(j.rest, match) }

// jobs is how many deliveries a job is.
func (j *job) jobs() int { return 1 + len(j.rest) }

// bytes is what they hold.
func (j *job) bytes() int64 {
	n := j.size
	for _, other := range j.rest {
		n += other.size
	}
	return n
}

// without returns the job without the deliveries that match, nil where all do, and those.
func (j *job) without(match func(*job) bool) (left *job, out []*job) {
	if len(j.rest) == 0 {
		if match(j) {
			return nil, []*job{j}
		}
		return j, nil
	}
	all := append([]*job{j}, j.rest...)
	j.rest = nil
	for _, one := range all {
		switch {
		case match(one):
			out = append(out, one)
		case left == nil:
			left = one
		default:
			left.rest = append(left.rest, one)
		}
	}
	return left, out
}
