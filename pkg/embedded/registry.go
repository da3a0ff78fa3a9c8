package embedded

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// maxSchemaRequest bounds a request's body.
const maxSchemaRequest = 4 << 20

// defaultLevel is the compatibility of subjects that nobody has set one for: readers and writers of any version can
// always go on, in whatever order services and warehouses are upgraded.
const defaultLevel = "FULL_TRANSITIVE"

// registryState is what schemas.json holds. Ids are never used again, because records carry them for ever.
type registryState struct {
	NextID   int                 `json:"next_id"`
	Schemas  map[int]string      `json:"schemas"`
	Subjects map[string]*subject `json:"subjects"`
	Level    string              `json:"level"`
}

type subject struct {
	Versions []version `json:"versions"`
	Level    string    `json:"level,omitempty"`
}

type version struct {
	Version int  `json:"version"`
	ID      int  `json:"id"`
	Deleted bool `json:"deleted,omitempty"`
}

func (s *subject) live() []version {
	var live []version
	for _, v := range s.Versions {
		if !v.Deleted {
			live = append(live, v)
		}
	}
	return live
}

// registry speaks the part of the Confluent schema registry's API that serializers, kcat and warehouse connectors use.
// It holds Avro schemas without references.
type registry struct {
	path       string // empty: in memory
	compatible func(newSchema string, old []string) error

	mu    sync.Mutex
	state registryState
	ids   map[string]int // canonical schema → id
}

func newRegistry(path string, compatible func(string, []string) error) (*registry, error) {
	r := &registry{path: path, compatible: compatible, ids: make(map[string]int),
		state: registryState{NextID: 1, Schemas: make(map[int]string), Subjects: make(map[string]*subject), Level: defaultLevel}}
	if path == "" {
		return r, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the embedded registry's schemas: %w", err)
	}
	if err := json.Unmarshal(b, &r.state); err != nil {
		return nil, fmt.Errorf("read the embedded registry's schemas from %s: %w", path, err)
	}
	for id, text := range r.state.Schemas {
		key, _, err := canonical(text)
		if err != nil {
			return nil, fmt.Errorf("read schema %d from %s: %w", id, path, err)
		}
		r.ids[key] = id
	}
	return r, nil
}

// save writes the state so that a crash at any moment leaves the old or the new one: records on disk name schemas by the
// ids in it, and an id given away twice would make them unreadable.
func (r *registry) save() error {
	if r.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(r.state, "", " ")
	if err != nil {
		return fmt.Errorf("encode schemas: %w", err)
	}
	tmp := r.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	if err := os.Rename(tmp, r.path); err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	dir, err := os.Open(filepath.Dir(r.path))
	if err != nil {
		return fmt.Errorf("sync the data directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync the data directory: %w", err)
	}
	return nil
}

// canonical is a schema's identity, in which neither white space nor the order of members counts, and its text without
// white space.
func canonical(schema string) (key, text string, err error) {
	dec := json.NewDecoder(strings.NewReader(schema))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		// A bare name such as string is a schema too, for some clients.
		return "", "", fmt.Errorf("the schema is not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return "", "", errors.New("the schema is followed by something else")
	}
	k, err := json.Marshal(v)
	if err != nil {
		return "", "", fmt.Errorf("encode the schema: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(schema)); err != nil {
		return "", "", fmt.Errorf("the schema is not JSON: %w", err)
	}
	return string(k), compact.String(), nil
}

// apiError is an error answer in the registry's own form.
type apiError struct {
	status int
	code   int
	text   string
}

// Error is the text that the client shows.
func (e *apiError) Error() string { return e.text }

func fail(status, code int, format string, args ...any) error {
	return &apiError{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

func noSubject(name string) error {
	return fail(http.StatusNotFound, 40401, "Subject '%s' not found.", name)
}

type schemaRequest struct {
	Schema     string            `json:"schema"`
	SchemaType string            `json:"schemaType"`
	References []json.RawMessage `json:"references"`
}

type schemaAnswer struct {
	Subject    string `json:"subject"`
	Version    int    `json:"version"`
	ID         int    `json:"id"`
	SchemaType string `json:"schemaType,omitempty"`
	Schema     string `json:"schema"`
}

func (r *registry) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, fn) })
	}
	handle("GET /{$}", func(*http.Request) (any, error) { return struct{}{}, nil })
	handle("GET /schemas/types", func(*http.Request) (any, error) { return []string{"AVRO"}, nil })
	handle("GET /schemas", r.allSchemas)
	handle("GET /schemas/ids/{id}", func(req *http.Request) (any, error) {
		text, err := r.byID(req)
		return map[string]any{"schema": text}, err
	})
	handle("GET /schemas/ids/{id}/schema", func(req *http.Request) (any, error) {
		text, err := r.byID(req)
		return schemaText(text), err
	})
	handle("GET /schemas/ids/{id}/subjects", r.subjectsOfID)
	handle("GET /schemas/ids/{id}/versions", r.versionsOfID)
	handle("GET /subjects", r.subjects)
	handle("POST /subjects/{subject}", r.lookup)
	handle("DELETE /subjects/{subject}", r.deleteSubject)
	handle("GET /subjects/{subject}/versions", r.versions)
	handle("POST /subjects/{subject}/versions", r.register)
	handle("GET /subjects/{subject}/versions/{version}", r.byVersion)
	handle("GET /subjects/{subject}/versions/{version}/schema", func(req *http.Request) (any, error) {
		a, err := r.byVersion(req)
		if err != nil {
			return nil, err
		}
		return schemaText(a.(schemaAnswer).Schema), nil
	})
	handle("GET /subjects/{subject}/versions/{version}/referencedby", func(*http.Request) (any, error) { return []int{}, nil })
	handle("DELETE /subjects/{subject}/versions/{version}", r.deleteVersion)
	handle("POST /compatibility/subjects/{subject}/versions", r.checkCompatible)
	handle("POST /compatibility/subjects/{subject}/versions/{version}", r.checkCompatible)
	handle("GET /config", r.getLevel)
	handle("PUT /config", r.putLevel)
	handle("GET /config/{subject}", r.getLevel)
	handle("PUT /config/{subject}", r.putLevel)
	handle("DELETE /config/{subject}", r.deleteLevel)
	mode := func(*http.Request) (any, error) { return map[string]string{"mode": "READWRITE"}, nil }
	handle("GET /mode", mode)
	handle("GET /mode/{subject}", mode)
	handle("GET /v1/metadata/id", func(*http.Request) (any, error) {
		return map[string]any{"scope": map[string]any{"path": []string{}, "clusters": map[string]string{"kafka-cluster": "callstream", "schema-registry-cluster": "callstream"}}}, nil
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, nil, fail(http.StatusNotFound, 404, "HTTP 404 Not Found"))
	})
	return mux
}

// serve answers one request; all of them are quick, so one lock serves.
func (r *registry) serve(w http.ResponseWriter, req *http.Request, fn func(*http.Request) (any, error)) {
	if req.Method == http.MethodPost || req.Method == http.MethodPut {
		// A web page can't send a JSON content type to another origin without asking first, and nobody answers that.
		if mt, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || !strings.HasSuffix(mt, "json") {
			answer(w, nil, fail(http.StatusUnsupportedMediaType, 415, "HTTP 415 Unsupported Media Type: send application/vnd.schemaregistry.v1+json"))
			return
		}
		req.Body = http.MaxBytesReader(w, req.Body, maxSchemaRequest)
	}
	r.mu.Lock()
	v, err := fn(req)
	r.mu.Unlock()
	answer(w, v, err)
}

// schemaText is an answer that is a schema and nothing else.
type schemaText string

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	if err != nil {
		var e *apiError
		if !errors.As(err, &e) {
			e = &apiError{status: http.StatusInternalServerError, code: 50001, text: err.Error()}
		}
		w.WriteHeader(e.status)
		v = map[string]any{"error_code": e.code, "message": e.text}
	}
	// An error here means that the client is gone.
	if text, ok := v.(schemaText); ok && err == nil {
		_, _ = io.WriteString(w, string(text))
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

func decode(req *http.Request, v any) error {
	if err := json.NewDecoder(req.Body).Decode(v); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return fail(http.StatusRequestEntityTooLarge, 413, "the request is over %d bytes", tooLarge.Limit)
		}
		return fail(http.StatusUnprocessableEntity, 422, "the request is not the JSON it should be: %v", err)
	}
	return nil
}

// schemaOf reads a request's schema and checks all about it that can be checked without a subject.
func (r *registry) schemaOf(req *http.Request) (key, text string, err error) {
	var s schemaRequest
	if err := decode(req, &s); err != nil {
		return "", "", err
	}
	switch {
	case s.SchemaType != "" && s.SchemaType != "AVRO":
		return "", "", fail(http.StatusUnprocessableEntity, 42201, "Invalid schema: the embedded registry holds Avro schemas, not %s", s.SchemaType)
	case len(s.References) > 0:
		return "", "", fail(http.StatusUnprocessableEntity, 42201, "Invalid schema: the embedded registry holds no references")
	}
	if key, text, err = canonical(s.Schema); err == nil && r.compatible != nil {
		err = r.compatible(text, nil)
	}
	if err != nil {
		return "", "", fail(http.StatusUnprocessableEntity, 42201, "Invalid schema: %v", err)
	}
	return key, text, nil
}

func (r *registry) byID(req *http.Request) (string, error) {
	id, err := strconv.Atoi(req.PathValue("id"))
	if err != nil {
		return "", fail(http.StatusNotFound, 404, "HTTP 404 Not Found")
	}
	text, ok := r.state.Schemas[id]
	if !ok {
		return "", fail(http.StatusNotFound, 40403, "Schema %d not found", id)
	}
	return text, nil
}

func (r *registry) eachVersion(fn func(name string, v version)) {
	for _, name := range r.names(true) {
		for _, v := range r.state.Subjects[name].live() {
			fn(name, v)
		}
	}
}

func (r *registry) names(withDeleted bool) []string {
	names := make([]string, 0, len(r.state.Subjects))
	for name, s := range r.state.Subjects {
		if (withDeleted && len(s.Versions) > 0) || len(s.live()) > 0 {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func (r *registry) subjects(req *http.Request) (any, error) {
	names := r.names(req.URL.Query().Get("deleted") == "true")
	prefix := strings.TrimPrefix(req.URL.Query().Get("subjectPrefix"), ":*:")
	kept := make([]string, 0, len(names))
	for _, n := range names {
		if strings.HasPrefix(n, prefix) {
			kept = append(kept, n)
		}
	}
	return kept, nil
}

func (r *registry) allSchemas(req *http.Request) (any, error) {
	prefix := strings.TrimPrefix(req.URL.Query().Get("subjectPrefix"), ":*:")
	latest := req.URL.Query().Get("latestOnly") == "true"
	out := make([]schemaAnswer, 0)
	r.eachVersion(func(name string, v version) {
		if !strings.HasPrefix(name, prefix) {
			return
		}
		if n := len(out); latest && n > 0 && out[n-1].Subject == name {
			out = out[:n-1]
		}
		out = append(out, r.answerOf(name, v))
	})
	return out, nil
}

func (r *registry) answerOf(name string, v version) schemaAnswer {
	return schemaAnswer{Subject: name, Version: v.Version, ID: v.ID, Schema: r.state.Schemas[v.ID]}
}

func (r *registry) subjectsOfID(req *http.Request) (any, error) {
	if _, err := r.byID(req); err != nil {
		return nil, err
	}
	names := make([]string, 0)
	r.eachVersion(func(name string, v version) {
		if strconv.Itoa(v.ID) == req.PathValue("id") {
			names = append(names, name)
		}
	})
	return names, nil
}

func (r *registry) versionsOfID(req *http.Request) (any, error) {
	if _, err := r.byID(req); err != nil {
		return nil, err
	}
	type subjectVersion struct {
		Subject string `json:"subject"`
		Version int    `json:"version"`
	}
	out := make([]subjectVersion, 0)
	r.eachVersion(func(name string, v version) {
		if strconv.Itoa(v.ID) == req.PathValue("id") {
			out = append(out, subjectVersion{name, v.Version})
		}
	})
	return out, nil
}

// subjectOf is the subject that the path names, when it has a version that is not deleted.
func (r *registry) subjectOf(req *http.Request) (string, *subject, error) {
	name := req.PathValue("subject")
	s := r.state.Subjects[name]
	if s == nil || len(s.live()) == 0 {
		return name, s, noSubject(name)
	}
	return name, s, nil
}

func (r *registry) versions(req *http.Request) (any, error) {
	_, s, err := r.subjectOf(req)
	if err != nil {
		return nil, err
	}
	out := make([]int, 0)
	for _, v := range s.live() {
		out = append(out, v.Version)
	}
	return out, nil
}

func (r *registry) lookup(req *http.Request) (any, error) {
	name, s, subjectErr := r.subjectOf(req)
	key, _, err := r.schemaOf(req)
	if err != nil {
		return nil, err
	}
	if subjectErr != nil {
		return nil, subjectErr
	}
	if id, ok := r.ids[key]; ok {
		for _, v := range s.live() {
			if v.ID == id {
				return r.answerOf(name, v), nil
			}
		}
	}
	return nil, fail(http.StatusNotFound, 40403, "Schema not found")
}

func (r *registry) register(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	key, text, err := r.schemaOf(req)
	if err != nil {
		return nil, err
	}
	s := r.state.Subjects[name]
	id, known := r.ids[key]
	if s != nil && known {
		for _, v := range s.live() {
			if v.ID == id {
				return map[string]int{"id": id}, nil
			}
		}
	}
	if err := r.check(s, text, nil); err != nil {
		return nil, fail(http.StatusConflict, 409, "Schema being registered is incompatible with an earlier schema for subject \"%s\": %v", name, err)
	}

	// Undone below when it can't be written: an id is only given away once it is on disk.
	before := r.state.NextID
	if !known {
		id = r.state.NextID
		r.state.NextID++
		r.state.Schemas[id] = text
	}
	fresh := s == nil
	if fresh {
		s = &subject{}
		r.state.Subjects[name] = s
	}
	next := 1
	if n := len(s.Versions); n > 0 {
		next = s.Versions[n-1].Version + 1
	}
	s.Versions = append(s.Versions, version{Version: next, ID: id})
	if err := r.save(); err != nil {
		s.Versions = s.Versions[:len(s.Versions)-1]
		if fresh {
			delete(r.state.Subjects, name)
		}
		if !known {
			delete(r.state.Schemas, id)
			r.state.NextID = before
		}
		return nil, err
	}
	r.ids[key] = id
	return map[string]int{"id": id}, nil
}

// check holds a new schema against the subject's versions, or against the given one. We have one check, the fullest:
// the levels that ask for one direction get both.
func (r *registry) check(s *subject, text string, only *version) error {
	if s == nil || r.compatible == nil {
		return nil
	}
	level := r.state.Level
	if s.Level != "" {
		level = s.Level
	}
	live := s.live()
	switch {
	case only != nil:
		live = []version{*only}
	case level == "NONE" || len(live) == 0:
		return nil
	case !strings.HasSuffix(level, "_TRANSITIVE"):
		live = live[len(live)-1:]
	}
	old := make([]string, len(live))
	for i, v := range live {
		old[i] = r.state.Schemas[v.ID]
	}
	return r.compatible(text, old)
}

func (r *registry) checkCompatible(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	_, text, err := r.schemaOf(req)
	if err != nil {
		return nil, err
	}
	s := r.state.Subjects[name]
	var only *version
	if req.PathValue("version") != "" {
		v, err := r.versionOf(req)
		if err != nil {
			return nil, err
		}
		only = &v
	}
	out := map[string]any{"is_compatible": true}
	if err := r.check(s, text, only); err != nil {
		out["is_compatible"] = false
		if req.URL.Query().Get("verbose") == "true" {
			out["messages"] = []string{err.Error()}
		}
	}
	return out, nil
}

func (r *registry) versionOf(req *http.Request) (version, error) {
	name, s, err := r.subjectOf(req)
	if err != nil {
		return version{}, err
	}
	live, want := s.live(), req.PathValue("version")
	if want == "latest" || want == "-1" {
		return live[len(live)-1], nil
	}
	n, err := strconv.Atoi(want)
	if err != nil || n < 1 {
		return version{}, fail(http.StatusUnprocessableEntity, 42202, "The specified version '%s' is not a valid version id", want)
	}
	for _, v := range live {
		if v.Version == n {
			return v, nil
		}
	}
	return version{}, fail(http.StatusNotFound, 40402, "Version %d of subject '%s' not found.", n, name)
}

func (r *registry) byVersion(req *http.Request) (any, error) {
	v, err := r.versionOf(req)
	if err != nil {
		return nil, err
	}
	return r.answerOf(req.PathValue("subject"), v), nil
}

// deleteSubject marks all versions deleted. Their schemas stay: records name them by id.
func (r *registry) deleteSubject(req *http.Request) (any, error) {
	_, s, err := r.subjectOf(req)
	if err != nil {
		return nil, err
	}
	gone := make([]int, 0)
	for i := range s.Versions {
		if !s.Versions[i].Deleted {
			s.Versions[i].Deleted = true
			gone = append(gone, s.Versions[i].Version)
		}
	}
	return gone, r.save()
}

func (r *registry) deleteVersion(req *http.Request) (any, error) {
	v, err := r.versionOf(req)
	if err != nil {
		return nil, err
	}
	s := r.state.Subjects[req.PathValue("subject")]
	for i := range s.Versions {
		if s.Versions[i].Version == v.Version {
			s.Versions[i].Deleted = true
		}
	}
	return v.Version, r.save()
}

func (r *registry) getLevel(req *http.Request) (any, error) {
	name := req.PathValue("subject")
	if name == "" {
		return map[string]string{"compatibilityLevel": r.state.Level}, nil
	}
	if s := r.state.Subjects[name]; s != nil && s.Level != "" {
		return map[string]string{"compatibilityLevel": s.Level}, nil
	}
	if req.URL.Query().Get("defaultToGlobal") == "true" {
		return map[string]string{"compatibilityLevel": r.state.Level}, nil
	}
	return nil, fail(http.StatusNotFound, 40408, "Subject '%s' does not have subject-level compatibility configured", name)
}

func (r *registry) putLevel(req *http.Request) (any, error) {
	var body struct {
		Compatibility string `json:"compatibility"`
	}
	if err := decode(req, &body); err != nil {
		return nil, err
	}
	level := strings.ToUpper(body.Compatibility)
	switch level {
	case "NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE":
	default:
		return nil, fail(http.StatusUnprocessableEntity, 42203, "Invalid compatibility level '%s'", body.Compatibility)
	}
	if name := req.PathValue("subject"); name != "" {
		if r.state.Subjects[name] == nil {
			r.state.Subjects[name] = &subject{}
		}
		r.state.Subjects[name].Level = level
	} else {
		r.state.Level = level
	}
	return map[string]string{"compatibility": level}, r.save()
}

func (r *registry) deleteLevel(req *http.Request) (any, error) {
	s := r.state.Subjects[req.PathValue("subject")]
	if s == nil || s.Level == "" {
		return nil, fail(http.StatusNotFound, 40408, "Subject '%s' does not have subject-level compatibility configured", req.PathValue("subject"))
	}
	level := s.Level
	s.Level = ""
	return map[string]string{"compatibilityLevel": level}, r.save()
}
