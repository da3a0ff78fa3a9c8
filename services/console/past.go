package console

import (
	"context"
	"net/http"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/schemas/event"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
)

func (s *Service) past(ctx context.Context, tenant, id string) (*event.Event, error) {
	return nil, refuse(http.StatusNotFound, "there is no such event in your tenant")
}

func (s *Service) replayMissed(ctx context.Context, store *storage.Store, p auth.Principal, sub *subscription.Subscription) (*startedReplay, error) {
	return nil, refuse(http.StatusServiceUnavailable, "the history is not available; try again")
}
