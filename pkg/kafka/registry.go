package kafka

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
)

// Errors of a Registry.
var (
	// ErrUnreachable means that the registry could not be asked, or could not answer: wait and ask again.
	ErrUnreachable = errors.New("schema registry is unreachable")
	// ErrSchemaNotFound means that the registry answered, and knows no such schema.
	ErrSchemaNotFound error = schemaNotFound{}
	// ErrIncompatible means that the registry refuses a new schema because readers or writers of an earlier one could
	// not go on.
	ErrIncompatible = errors.New("schema is not compatible with earlier versions")
	// ErrRefused means that the registry refuses the request as such: no permission, an invalid schema.
	ErrRefused = errors.New("schema registry refuses the request")
)

// schemaNotFound has a method by which a codec, which doesn't know this package, tells it from a registry that is away.
type schemaNotFound struct{}

func (schemaNotFound) Error() string { return "schema registry knows no such schema" }

// NotFound is always true.
func (schemaNotFound) NotFound() bool { return true }

// RegistryConfig says where the Confluent-compatible schema registry is.
type RegistryConfig struct {
	URLs     []string `config:"SCHEMA_REGISTRY_URL" doc:"Confluent-compatible schema registry; 'callstream up' starts an embedded one when there is none"`
	Username string   `config:"SCHEMA_REGISTRY_USERNAME" doc:"user for the registry's basic authentication"`
	Password string   `config:"SCHEMA_REGISTRY_PASSWORD" secret:"true" doc:"password for the registry's basic authentication"`
}

// Registry asks a Confluent-compatible schema registry. It caches nothing: who decodes records does.
type Registry struct {
	client *sr.Client
}

// NewRegistry makes a client of the registry. It connects to nothing yet.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	if len(cfg.URLs) == 0 {
		return nil, errors.New("no schema registry is configured: set CALLSTREAM_SCHEMA_REGISTRY_URL")
	}
	opts := []sr.ClientOpt{
		sr.URLs(cfg.URLs...),
		sr.UserAgent("callstream"),
		sr.HTTPClient(&http.Client{Timeout: 10 * time.Second}),
	}
	if cfg.Username != "" {
		opts = append(opts, sr.BasicAuth(cfg.Username, cfg.Password))
	}
	client, err := sr.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("make a schema registry client: %w", err)
	}
	return &Registry{client: client}, nil
}

// SchemaByID is the text of the schema with that id.
func (r *Registry) SchemaByID(ctx context.Context, id int) (string, error) {
	text, err := r.client.SchemaTextByID(ctx, id)
	if err != nil {
		return "", fmt.Errorf("get schema %d: %w", id, registryError(err))
	}
	return text, nil
}

// Register adds an Avro schema as the subject's newest version and answers with its id; a schema that the subject has
// already keeps its id. It is safe to repeat.
func (r *Registry) Register(ctx context.Context, subject, schema string) (int, error) {
	id, err := r.client.RegisterSchema(ctx, subject, sr.Schema{Schema: schema}, -1, -1)
	if err != nil {
		return 0, fmt.Errorf("register a schema of %s: %w", subject, registryError(err))
	}
	return id, nil
}

// SetFullTransitive makes the registry refuse a schema of the subject that any earlier one's readers or writers could
// not go on with.
func (r *Registry) SetFullTransitive(ctx context.Context, subject string) error {
	for _, res := range r.client.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, subject) {
		if res.Err != nil {
			return fmt.Errorf("set the compatibility of %s: %w", subject, registryError(res.Err))
		}
	}
	return nil
}

// Ping asks the registry for its subjects, as a check that it answers.
func (r *Registry) Ping(ctx context.Context) error {
	if _, err := r.client.Subjects(ctx); err != nil {
		return fmt.Errorf("ask the schema registry for its subjects: %w", registryError(err))
	}
	return nil
}

// registryError classifies by the answer's status, because registries differ in their error codes: only a clear "no" is
// a no, everything else may pass.
func registryError(err error) error {
	var answer *sr.ResponseError
	if !errors.As(err, &answer) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	switch s := answer.StatusCode; {
	case s == http.StatusNotFound && (answer.ErrorCode == 0 || answer.ErrorCode/100 == 404 || answer.ErrorCode == 404):
		// A proxy in front of the registry also answers 404, without the registry's JSON: that says nothing of schemas.
		if answer.ErrorCode == 0 {
			return fmt.Errorf("%w: a 404 that is not the registry's: %w", ErrUnreachable, err)
		}
		return fmt.Errorf("%w: %w", ErrSchemaNotFound, err)
	case s == http.StatusConflict:
		return fmt.Errorf("%w: %w", ErrIncompatible, err)
	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	default:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
}
