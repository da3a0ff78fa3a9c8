package dispatcher

import (
	"testing"
	"time"

	"github.com/callstream/callstream/subscription"
)

// What a lost partition's delivery showed holds here only if the signal of it was read: the partition's next owner may have
// found the endpoint well.
func TestOnlyWhatIsSureOutlivesItsPartition(t *testing.T) {
	now := time.Now()
	var g gone
	version := func(id string) *subscription.Compiled {
		return &subscription.Compiled{ID: id, Version: 1, Subscription: &subscription.Subscription{}}
	}
	g.add("sub_told", 1, now, false)
	g.add("sub_told", 1, now.Truncate(time.Microsecond), true)
	g.add("sub_lost", 1, now, false)
	for _, id := range []string{"sub_told", "sub_lost"} {
		if !g.covers(version(id)) {
			t.Errorf("%s is not obeyed at once", id)
		}
		g.retract(id)
	}
	if !g.covers(version("sub_told")) || g.covers(version("sub_lost")) {
		t.Error("what was told must stay, and what was not must go")
	}
}
