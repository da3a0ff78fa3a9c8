package dispatcher

import (
	"sync/atomic"

	"github.com/callstream/callstream/subscription"
	"github.com/callstream/callstream/subscription/outbound"
)

// subscriptionState is what a shard knows of its subscription.
type subscriptionState struct {
	target  atomic.Pointer[target]
	checked atomic.Int64 // newest version that a delivery carried and the feed was read to its end for
}

// target is one version of a subscription, made ready to be sent to.
type target struct {
	*outbound.Target
	compiled *subscription.Compiled
}
