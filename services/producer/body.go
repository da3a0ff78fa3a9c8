package producer

import (
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/callstream/callstream/pkg/problem"
)

// form is how a request's body holds its events.
type form int

const (
	formJSON form = iota
	formLines
	formCloudEvent
	formCloudBatch
	formCloudBinary
)

const accepted = "application/json, application/x-ndjson, application/cloudevents+json, application/cloudevents-batch+json, " +
	"or a CloudEvent in binary mode with JSON data"

// formOf reads Content-Type, and the headers that mark a CloudEvent in binary mode.
func formOf(h http.Header) (form, *problem.Problem) {
	contentType := h.Get("Content-Type")
	_, binary := h["Ce-Specversion"]
	if contentType == "application/json" && !binary {
		return formJSON, nil // the usual case, without parsing
	}
	if contentType == "" && !binary {
		return 0, problem.New(http.StatusUnsupportedMediaType, "the header Content-Type is missing; send "+accepted)
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && (contentType != "" || !binary) {
		return 0, problem.New(http.StatusUnsupportedMediaType, "the header Content-Type can't be read; send "+accepted)
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return 0, problem.New(http.StatusUnsupportedMediaType, "the charset "+quoted(charset)+" is not accepted; send UTF-8")
	}
	switch media {
	case "application/cloudevents+json":
		return formCloudEvent, nil
	case "application/cloudevents-batch+json":
		return formCloudBatch, nil
	}
	switch {
	case strings.HasPrefix(media, "application/cloudevents"):
		return 0, problem.New(http.StatusUnsupportedMediaType, "of CloudEvents' formats only JSON is accepted; send "+accepted)
	case binary && (contentType == "" || jsonType(media)):
		return formCloudBinary, nil
	case binary:
		return 0, problem.New(http.StatusUnsupportedMediaType, "the data of a CloudEvent must be JSON, not "+media)
	case media == "application/json":
		return formJSON, nil
	case media == "application/x-ndjson" || media == "application/ndjson" || media == "application/jsonl" || media == "application/x-jsonlines":
		return formLines, nil
	}
	return 0, problem.New(http.StatusUnsupportedMediaType, media+" is not accepted; send "+accepted)
}

func quoted(s string) string { return string(quote(strings.ToValidUTF8(s, "�"))) }

// read reads a body into b.body, inflated. It takes the memory from the budget as the bytes come, so that a client that
// announces much and sends nothing holds nothing.
func (s *Service) read(b *batch, r *http.Request) *problem.Problem {
	tooLarge := problem.New(http.StatusRequestEntityTooLarge, "the request is over 16 MiB; send the events in several requests")
	if r.ContentLength > maxRequestBytes {
		return tooLarge
	}
	var src io.Reader = r.Body
	// Both the bytes that come and what they inflate to are bounded.
	raw := &io.LimitedReader{R: r.Body, N: maxRequestBytes + 1}
	inflating := false
	switch encoding := r.Header.Get("Content-Encoding"); {
	case encoding == "" || strings.EqualFold(encoding, "identity"):
		src = raw
	case strings.EqualFold(encoding, "gzip"):
		z, err := s.inflater(raw)
		if err != nil {
			return problem.New(http.StatusBadRequest, "the body is not gzip, although Content-Encoding says so")
		}
		defer s.inflaters.Put(z)
		src, inflating = z, true
	default:
		p := problem.New(http.StatusUnsupportedMediaType, "the Content-Encoding "+quoted(encoding)+" is not accepted; send gzip, or none")
		p.Header = http.Header{"Accept-Encoding": {"gzip"}}
		return p
	}
	if n := r.ContentLength; !inflating && n > int64(cap(b.body)) {
		b.body = s.buffers.get(int(min(n+1, pooledBytes))) // one more, so that the end is seen without growing
	}
	for {
		if len(b.body) == cap(b.body) {
			grown := sizeOf(max(2*cap(b.body), 4<<10))
			if !s.budget.take(&b.held, int64(grown)) {
				return s.overloaded()
			}
			bigger := append(s.buffers.get(grown), b.body...)
			s.buffers.put(b.body)
			b.body = bigger
		}
		n, err := src.Read(b.body[len(b.body):cap(b.body)])
		b.body = b.body[:len(b.body)+n]
		if len(b.body) > maxRequestBytes || raw.N <= 0 {
			return tooLarge
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case inflating && (errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, new(flate.CorruptInputError))):
			return problem.New(http.StatusBadRequest, "the gzip body is damaged or cut off")
		default:
			return problem.New(http.StatusBadRequest, "the body could not be read to its end")
		}
	}
}

// inflater returns a gzip reader over r from the pool.
func (s *Service) inflater(r io.Reader) (*gzip.Reader, error) {
	if z, ok := s.inflaters.Get().(*gzip.Reader); ok {
		if err := z.Reset(r); err != nil {
			s.inflaters.Put(z)
			return nil, err
		}
		return z, nil
	}
	return gzip.NewReader(r)
}
