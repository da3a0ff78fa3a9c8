package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/callstream/callstream/pkg/embedded"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// sinkVariable tells the bare pipeline where its endpoint is.
const sinkVariable = "CALLSTREAM_BENCH_SINK"

const (
	bareEvents     = "events"
	bareDeliveries = "deliveries"
	bareSenders    = 64
)

// bareEvent is an event as encoding/json reads and writes it.
type bareEvent struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Time     string   `json:"time"`
	Source   string   `json:"source"`
	CallID   string   `json:"call_id"`
	AgentID  string   `json:"agent_id"`
	Sequence int64    `json:"sequence"`
	Data     bareData `json:"data"`
}

type bareData struct {
	TranscriptText string `json:"transcript_text"`
	Language       string `json:"language"`
	DurationMillis int64  `json:"duration_ms"`
	Caller         struct {
		Name  string `json:"name"`
		Phone string `json:"phone_number"`
		City  string `json:"city"`
	} `json:"caller"`
	Analysis struct {
		Summary string `json:"summary"`
		Score   int64  `json:"score"`
		Mood    string `json:"mood"`
	} `json:"analysis"`
	Custom json.RawMessage `json:"custom"`
}

// avro writes or reads the flat record, which is strings and longs, in one order for both.
type avro struct {
	b   []byte
	err error
}

var errAvro = errors.New("the record ends too early")

func (a *avro) writeText(s string) {
	a.b = append(binary.AppendVarint(a.b, int64(len(s))), s...)
}

func (a *avro) readLong() int64 {
	v, n := binary.Varint(a.b)
	if n <= 0 {
		a.err = errAvro
		return 0
	}
	a.b = a.b[n:]
	return v
}

func (a *avro) readText() string {
	n := a.readLong()
	if a.err != nil || n < 0 || n > int64(len(a.b)) {
		a.err = errAvro
		return ""
	}
	s := string(a.b[:n])
	a.b = a.b[n:]
	return s
}

func (e *bareEvent) texts() []*string {
	d := &e.Data
	return []*string{&e.ID, &e.Type, &e.Time, &e.Source, &e.CallID, &e.AgentID, &d.TranscriptText, &d.Language,
		&d.Caller.Name, &d.Caller.Phone, &d.Caller.City, &d.Analysis.Summary, &d.Analysis.Mood}
}

func (e *bareEvent) longs() []*int64 {
	return []*int64{&e.Sequence, &e.Data.DurationMillis, &e.Data.Analysis.Score}
}

func (e *bareEvent) encode() []byte {
	a := avro{b: make([]byte, 0, 2048)}
	for _, s := range e.texts() {
		a.writeText(*s)
	}
	for _, n := range e.longs() {
		a.b = binary.AppendVarint(a.b, *n)
	}
	a.writeText(string(e.Data.Custom))
	return a.b
}

func (e *bareEvent) decode(b []byte) error {
	a := avro{b: b}
	for _, s := range e.texts() {
		*s = a.readText()
	}
	for _, n := range e.longs() {
		*n = a.readLong()
	}
	e.Data.Custom = json.RawMessage(a.readText())
	return a.err
}

// playBare is the bare pipeline: an event is posted, written as Avro, read and rendered as JSON, written as a delivery, read,
// signed and sent. It checks, tracks, retries and records nothing; what fails is gone.
func playBare() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	e, err := embedded.Start(ctx, embedded.Config{DataDir: os.Getenv("CALLSTREAM_DATA_DIR")})
	if err != nil {
		return err
	}
	seeds := kgo.SeedBrokers(e.KafkaAddr())
	producer, err := kgo.NewClient(seeds, kgo.ProducerLinger(0))
	if err != nil {
		return fmt.Errorf("bare pipeline: %w", err)
	}
	if _, err := kadm.NewClient(producer).CreateTopics(ctx, lanePartitions, 1, nil, bareEvents, bareDeliveries); err != nil {
		return fmt.Errorf("bare pipeline: %w", err)
	}
	var stages sync.WaitGroup
	var fault atomic.Pointer[error]
	stage := func(topic string, each func(*kgo.Record) error) error {
		c, err := kgo.NewClient(seeds, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second))
		if err != nil {
			return fmt.Errorf("bare pipeline: %w", err)
		}
		stages.Go(func() {
			defer c.Close()
			for ctx.Err() == nil {
				c.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
					if err := each(r); err != nil {
						fault.CompareAndSwap(nil, &err)
					}
				})
			}
		})
		return nil
	}
	if err := stage(bareEvents, func(r *kgo.Record) error { return render(ctx, producer, r) }); err != nil {
		return err
	}
	jobs := make(chan *kgo.Record, 4096)
	if err := stage(bareDeliveries, func(r *kgo.Record) error {
		select {
		case jobs <- r:
		case <-ctx.Done():
		}
		return nil
	}); err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, DisableCompression: true}
	for range bareSenders {
		stages.Go(func() {
			for {
				select {
				case r := <-jobs:
					if err := send(ctx, transport, os.Getenv(sinkVariable), r); err != nil {
						fault.CompareAndSwap(nil, &err)
					}
				case <-ctx.Done():
					return
				}
			}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a listener of the measurement's own
	if err != nil {
		return fmt.Errorf("bare pipeline: %w", err)
	}
	server := &http.Server{Handler: intake(producer), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	fmt.Println("http://" + l.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = server.Close()
	cancel()
	stages.Wait()
	producer.Close()
	if err := fault.Load(); err != nil && !errors.Is(*err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bare pipeline:", *err)
	}
	return e.Close()
}

// intake is the first stage: 202 when every event is acknowledged.
func intake(producer *kgo.Client) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var events []bareEvent
		if body = bytes.TrimSpace(body); len(body) > 0 && body[0] == '[' {
			err = json.Unmarshal(body, &events)
		} else {
			events = make([]bareEvent, 1)
			err = json.Unmarshal(body, &events[0])
		}
		if err != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		done := make(chan error, len(events))
		for i := range events {
			producer.Produce(context.WithoutCancel(r.Context()), &kgo.Record{Topic: bareEvents, Key: []byte(events[i].CallID), Value: events[i].encode()},
				func(_ *kgo.Record, err error) { done <- err })
		}
		for range events {
			err = errors.Join(err, <-done)
		}
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		w.Write([]byte(`{"accepted":` + strconv.Itoa(len(events)) + `}`))
	})
}

// render is the second stage.
func render(ctx context.Context, producer *kgo.Client, r *kgo.Record) error {
	var e bareEvent
	if err := e.decode(r.Value); err != nil {
		return err
	}
	body, err := json.Marshal(&e)
	if err != nil {
		return err
	}
	producer.Produce(ctx, &kgo.Record{Topic: bareDeliveries, Key: r.Key, Value: body, Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(e.ID)}}}, nil)
	return nil
}

// send is the third stage.
func send(ctx context.Context, transport http.RoundTripper, url string, r *kgo.Record) error {
	id, at := string(r.Headers[0].Value), strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(signingSecret))
	_, _ = io.WriteString(mac, id+"."+at+".")
	_, _ = mac.Write(r.Value)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(r.Value))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Event-Id", id)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return res.Body.Close()
}
