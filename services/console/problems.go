package console

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/services/console/history"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"
)

// apiError lets a problem be what a huma handler returns.
type apiError struct{ *problem.Problem }

// GetStatus makes apiError a huma.StatusError.
func (e apiError) GetStatus() int { return e.Status }

// ContentType makes huma answer with the problem's own media type.
func (apiError) ContentType(string) string { return problem.ContentType }

// GetHeaders are sent with the problem.
func (e apiError) GetHeaders() http.Header { return e.Header }

func refuse(status int, detail string, faults ...problem.Fault) error {
	return apiError{problem.New(status, detail, faults...)}
}

// answer turns an error of a handler into the problem that the caller gets. What is nobody's fault but ours is logged,
// not shown.
func (s *Service) answer(ctx context.Context, err error) error {
	var already apiError
	var syntax *subscription.SyntaxError
	var faults subscription.Faults
	var state *subscription.StateError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &already):
		return already
	case errors.As(err, &syntax):
		return refuse(http.StatusBadRequest, syntax.Error())
	case errors.As(err, &faults):
		return refuse(http.StatusUnprocessableEntity, "the document is not valid", faults...)
	case errors.As(err, &state):
		return refuse(http.StatusConflict, state.Error())
	case errors.Is(err, storage.ErrNotFound):
		return refuse(http.StatusNotFound, "there is no such object in your tenant")
	case errors.Is(err, storage.ErrStale):
		return refuse(http.StatusPreconditionFailed, "the object has changed since: get it again and decide anew")
	case errors.Is(err, history.ErrTooSlow):
		return refuse(http.StatusServiceUnavailable, "too many deliveries would have to be looked at: narrow it by a subscription, an event or a call, or by since and until")
	case ctx.Err() != nil:
		return refuse(http.StatusServiceUnavailable, "the request was given up")
	}
	s.log.Error("a request failed", zap.Error(err))
	return refuse(http.StatusInternalServerError, "something went wrong here; the log says what")
}

// problemOf gives huma's own errors (parameters, sizes) the shape of all others.
func problemOf(_ huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problem.New(model.Status, model.Detail)
	if model.Title != "" {
		p.Title = model.Title
	}
	for _, e := range model.Errors {
		if e == nil {
			continue
		}
		f := problem.Fault{Detail: e.Message}
		if place, inBody := strings.CutPrefix(e.Location, "body"); inBody {
			f.Pointer = problem.Pointer(strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(place))
		} else if e.Location != "" {
			f.Detail = strings.TrimPrefix(e.Location, "query.") + ": " + f.Detail
		}
		p.Errors = append(p.Errors, f)
	}
	return p, nil
}

// expectedVersion reads If-Match; 0 means that any version will do.
func expectedVersion(header string) (int64, error) {
	header = strings.TrimSpace(header)
	if header == "" || header == "*" {
		return 0, nil
	}
	bare := strings.TrimPrefix(header, "W/")
	if len(bare) >= 2 && bare[0] == '"' && bare[len(bare)-1] == '"' {
		bare = bare[1 : len(bare)-1]
	}
	version, err := strconv.ParseInt(bare, 10, 64)
	if err != nil || version < 1 {
		return 0, refuse(http.StatusBadRequest, `If-Match must be the version that you have, such as "7"`)
	}
	return version, nil
}

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }
