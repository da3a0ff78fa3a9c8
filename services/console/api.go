package console

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"mime"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/callstream/callstream/pkg/auth"
	"github.com/callstream/callstream/pkg/problem"
	"github.com/callstream/callstream/services/console/storage"
	"github.com/callstream/callstream/subscription"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"
)

type principalKey struct{}

// newHandler declares the API. huma describes it from the same declarations that serve it.
func newHandler(s *Service) http.Handler {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("callstream", "1")
	config.Info.Description = "Call events to webhooks: subscriptions, API keys and the catalogue of event types."
	config.CreateHooks = nil // no "$schema" members in answers
	config.DocsPath, config.SchemasPath, config.OpenAPIPath = "", "", ""
	config.Transformers = append(config.Transformers, problemOf)
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"key": {Type: "http", Scheme: "bearer", Description: "An API key, cs_…"},
	}
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[subscription.Duration](), reflect.TypeFor[string]())
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[subscription.Hidden](), reflect.TypeFor[any]())
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[json.RawMessage](), reflect.TypeFor[any]())
	config.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[subscription.TTL](), reflect.TypeFor[any]())
	api := humago.New(mux, config)
	a := &apiSet{Service: s, api: api}
	api.UseMiddleware(a.authenticate, single)
	a.registerSubscriptions()
	a.registerTryouts()
	a.registerStats()
	a.registerHistory()
	a.registerResponses()
	a.registerDeadLetters()
	a.registerRedrives()
	a.registerAgents()
	a.registerKeys()
	a.registerAudit()
	a.registerEventTypes()
	describeProblems(config.Components.Schemas)
	document := openAPI(api.OpenAPI(), s.deps.ExtraPaths, s.log)
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) {
		if s.guard.Off {
			// The document tells nothing, but a page of another site has no business with this address at all.
			if _, p := s.guard.Authenticate(r); p != nil {
				problem.Write(w, p)
				return
			}
		}
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(document)
	})
	return s.recovering(withProblems(mux))
}

// openAPI writes the document, with the paths of other handlers in this process.
func openAPI(doc *huma.OpenAPI, extra map[string][]byte, log *zap.Logger) []byte {
	raw, err := json.Marshal(doc)
	if err != nil {
		log.Error("the OpenAPI document can't be written", zap.Error(err))
		return []byte("{}")
	}
	if len(extra) == 0 {
		return raw
	}
	var all, paths map[string]json.RawMessage
	if err = json.Unmarshal(raw, &all); err == nil {
		err = json.Unmarshal(all["paths"], &paths)
	}
	for path, item := range extra {
		if err == nil {
			paths[path] = item
		}
	}
	var merged []byte
	if err == nil {
		if all["paths"], err = json.Marshal(paths); err == nil {
			merged, err = json.Marshal(all)
		}
	}
	if err != nil {
		log.Error("further paths can't be added to the OpenAPI document", zap.Error(err))
		return raw
	}
	return merged
}

// apiSet registers operations.
type apiSet struct {
	*Service
	api huma.API
}

func (a *apiSet) authenticate(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	p, refusal := a.guard.Authenticate(r)
	if refusal == nil {
		if scope, ok := ctx.Operation().Metadata["scope"].(string); ok {
			refusal = auth.Require(p, scope)
		}
	}
	if refusal != nil {
		problem.Write(w, refusal)
		return
	}
	next(huma.WithValue(ctx, principalKey{}, p))
}

// single refuses parameters that are given more than once: each takes one value, and which one was meant nobody knows.
func single(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	for name, values := range r.URL.Query() {
		if len(values) > 1 {
			problem.Write(w, problem.New(http.StatusUnprocessableEntity, name+": give it once"))
			return
		}
	}
	next(ctx)
}

func caller(ctx context.Context) auth.Principal {
	p, _ := ctx.Value(principalKey{}).(auth.Principal)
	return p
}

// operation is what the declaration of an operation needs beside its types.
type operation struct {
	id, method, path string
	summary          string
	scope            string // none: any caller
	status           int
	body             *huma.Schema // nil for no body
	bodyOptional     bool
	mediaTypes       []string
	errors           []int
	// maxBody bounds the body, in bytes; 0 means the size of the largest subscription.
	maxBody int64
	// accepted says that the operation is a change, which is answered 202 when it is stored and not in force in time.
	accepted bool
	// stream answers instead of the handler where the caller asks for a stream; nil for none. It begins with who calls known.
	stream func(ctx huma.Context, next func(huma.Context))
	// request and answer are examples of the two bodies; nil for none.
	request, answer any
}

// rawInput is implemented by inputs with a body that the handler parses itself: to report every fault with its place, in
// the words that the same document gets everywhere.
type rawInput interface{ contentType() string }

// Document is embedded by inputs with a body. It is exported for huma, which sets embedded parameters by reflection.
type Document struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	RawBody     []byte `contentType:"application/json"`
}

func (b *Document) contentType() string { return b.ContentType }

// register declares an operation and the handler for it.
func register[I, O any](a *apiSet, op operation, handle func(ctx context.Context, store *storage.Store, p auth.Principal, in *I) (*O, error)) {
	if len(op.mediaTypes) == 0 {
		op.mediaTypes = []string{"application/json"}
	}
	if op.status == 0 {
		op.status = http.StatusOK
	}
	codes := append([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable}, op.errors...)
	slices.Sort(codes)
	declared := huma.Operation{
		OperationID: op.id, Method: op.method, Path: op.path, Summary: op.summary, DefaultStatus: op.status,
		Errors: slices.Compact(codes), MaxBodyBytes: cmp.Or(op.maxBody, subscription.MaxDocument),
		Security: []map[string][]string{{"key": {}}},
		Metadata: map[string]any{}, RejectUnknownQueryParameters: true,
		Responses: map[string]*huma.Response{},
	}
	if op.scope != "" {
		declared.Metadata["scope"] = op.scope
		// OpenAPI 3.1 has a place for it: the roles that a requirement needs.
		declared.Security[0]["key"] = []string{op.scope}
		declared.Description = "Scope: " + op.scope + "."
	}
	if op.body != nil {
		declared.RequestBody = &huma.RequestBody{Required: !op.bodyOptional, Content: map[string]*huma.MediaType{}}
		declared.SkipValidateBody = true
	}
	if op.stream != nil {
		declared.Middlewares = huma.Middlewares{op.stream}
	}
	huma.Register(a.api, declared, func(ctx context.Context, in *I) (*O, error) {
		if raw, ok := any(in).(rawInput); ok && !accepts(op.mediaTypes, raw.contentType(), op.bodyOptional) {
			return nil, refuse(http.StatusUnsupportedMediaType, "send "+strings.Join(op.mediaTypes, " or "))
		}
		store, err := a.database()
		if err != nil {
			return nil, refuse(http.StatusServiceUnavailable, "the database is not available; try again")
		}
		out, err := handle(ctx, store, caller(ctx), in)
		if err != nil {
			return nil, a.answer(ctx, err)
		}
		return out, nil
	})
	if op.body != nil {
		// huma takes a raw body for required, and for bytes.
		declared.RequestBody.Required = !op.bodyOptional
		for name := range declared.RequestBody.Content {
			delete(declared.RequestBody.Content, name)
		}
		for _, mediaType := range op.mediaTypes {
			declared.RequestBody.Content[mediaType] = &huma.MediaType{Schema: op.body, Example: op.request}
		}
	}
	done := declared.Responses[strconv.Itoa(op.status)]
	for _, content := range done.Content {
		content.Example = op.answer
	}
	if op.accepted {
		later := *done
		later.Description = "Stored, and in force as soon as Kafka is back"
		declared.Responses[strconv.Itoa(http.StatusAccepted)] = &later
	}
}

// schemaOf is the schema of a type, kept among the document's components.
func schemaOf[T any](a *apiSet) *huma.Schema {
	return a.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

// nothing is the body of an action that takes none: absent, or an empty object.
type nothing struct{}

// subscriptionSchema describes what a caller may send of a subscription, under a name of its own: the members that
// callstream sets are left out, and what has a default is not required.
func subscriptionSchema(a *apiSet, name string, required ...string) *huma.Schema {
	registry := a.api.OpenAPI().Components.Schemas
	document := registry.SchemaFromRef(schemaOf[subscription.Subscription](a).Ref)
	input := *document
	input.Properties, input.Required = maps.Clone(document.Properties), required
	answer := registry.SchemaFromRef(schemaOf[shownSubscription](a).Ref)
	for _, member := range subscription.ReadOnly() {
		for _, shown := range []*huma.Schema{document, answer} {
			if property := shown.Properties[member]; property != nil {
				property.ReadOnly = true
			}
		}
		delete(input.Properties, member)
	}
	for _, property := range input.Properties {
		if part := registry.SchemaFromRef(property.Ref); part != nil {
			part.Required = nil
		}
	}
	registry.Map()[name] = &input
	return &huma.Schema{Ref: "#/components/schemas/" + name}
}

func accepts(mediaTypes []string, contentType string, optional bool) bool {
	if contentType == "" {
		return optional
	}
	base, params, err := mime.ParseMediaType(contentType)
	if err != nil || !slices.Contains(mediaTypes, base) {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}

// ListInput are the parameters of every list. It is exported for huma, which sets embedded parameters by reflection.
type ListInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"most items in the answer"`
	Cursor string `query:"cursor" maxLength:"200" doc:"next_cursor of the page before"`
}

func (in *ListInput) before() (string, error) {
	if in.Cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(in.Cursor)
	id, ok := strings.CutPrefix(string(raw), "id:")
	if err != nil || !ok || strings.ContainsFunc(id, func(r rune) bool { return r < 33 || r > 126 }) {
		return "", errCursor()
	}
	return id, nil
}

func errCursor() error {
	return refuse(http.StatusBadRequest, "the cursor is none that this list gave")
}

// list is the body of every list.
type list[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor" doc:"null on the last page"`
}

// page cuts what was read, one more than asked for, into the answer.
func page[T any](items []T, limit int, id func(T) string) list[T] {
	out := list[T]{Items: items}
	if len(items) > limit {
		out.Items = items[:limit]
		cursor := base64.RawURLEncoding.EncodeToString([]byte("id:" + id(items[limit-1])))
		out.NextCursor = &cursor
	}
	return out
}

// statusOf is the status of a change: want, or 202 when it is stored and not in force yet.
func statusOf(want int, inForce bool) int {
	if inForce {
		return want
	}
	return http.StatusAccepted
}

// recovering answers 500 where a handler panics, and logs it: one request's bug must not look like a lost connection.
func (s *Service) recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.log.Error("a request panicked", zap.Any("panic", v), zap.String("path", r.URL.Path), zap.Stack("stack"))
			problem.Write(w, problem.New(http.StatusInternalServerError, "something went wrong here; the log says what"))
		}()
		next.ServeHTTP(w, r)
	})
}

// withProblems gives the mux's own answers, 404 and 405, the shape of all others. Where the mux would redirect to a path
// without "." and "..", which may be somebody's ids, there is nothing.
func withProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if at := r.URL.EscapedPath(); strings.TrimSuffix(at, "/") != strings.TrimSuffix(path.Clean("/"+at), "/") {
			http.NotFound(&plainError{ResponseWriter: w}, r)
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			mux.ServeHTTP(&plainError{ResponseWriter: w}, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// plainError replaces an answer of http.Error by the problem of that status.
type plainError struct {
	http.ResponseWriter
	done bool
}

func (p *plainError) WriteHeader(status int) {
	if status < 400 {
		p.ResponseWriter.WriteHeader(status)
		return
	}
	p.done = true
	detail := "there is nothing at this path"
	if status == http.StatusMethodNotAllowed {
		detail = "this path takes " + p.Header().Get("Allow")
	}
	p.Header().Del("X-Content-Type-Options")
	problem.Write(p.ResponseWriter, problem.New(status, detail))
}

func (p *plainError) Write(b []byte) (int, error) {
	if p.done {
		return len(b), nil
	}
	return p.ResponseWriter.Write(b)
}
