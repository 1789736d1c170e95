package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"trellis/telemetry"
)

// Bounds of what waits to be forwarded.
const (
	maxWaiting = 16 << 20         // bytes
	maxAge     = 10 * time.Minute // what could not be delivered for so long is given up
	sendTime   = 10 * time.Second // for one request
	maxRequest = 1 << 20          // bytes that are sent as one, if they are not one already
	gather     = 500 * time.Millisecond
)

// The pauses before a request is repeated: the first one, doubled up to the last, as OTLP asks of a sender.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// ForwarderConfig is what a Forwarder is made of.
type ForwarderConfig struct {
	// Project is the service.name of what belongs to no service.
	Project string
	Client  *http.Client // nil: one that follows no redirects, which would take the header along
	Log     *slog.Logger
}

// Forwarder sends spans, log records and metrics onwards, over HTTP as protobuf with gzip. Whoever adds something does not
// wait: what the receiver does not take in time, and what the queue has no room for, is dropped and counted. It is safe
// for concurrent use.
type Forwarder struct {
	cfg   ForwarderConfig
	first time.Duration // the first pause

	mu      sync.Mutex
	to      string // the receiver's address, "" where nothing is forwarded
	header  http.Header
	waiting map[string][]parcel // by path
	bytes   int
	health  telemetry.Health
	more    chan struct{} // capacity 1: something waits, or the receiver is another one
}

// parcel is what was added at a time, as a request. Requests of a path one after the other are one that holds all: their
// only field is a repeated one.
type parcel struct {
	body  []byte
	items int
	since time.Time
}

// batch is the first parcels of a path.
type batch struct {
	path  string
	n     int
	body  []byte
	items int
	since time.Time // of the oldest
}

// NewForwarder returns a forwarder that forwards nothing until SetTarget.
func NewForwarder(cfg ForwarderConfig) *Forwarder {
	if cfg.Client == nil {
		cfg.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Forwarder{cfg: cfg, first: firstPause, waiting: map[string][]parcel{}, more: make(chan struct{}, 1), health: telemetry.Health{Lost: map[string]uint64{}, MaxBytes: maxWaiting}}
}

// SetTarget makes endpoint the receiver, to which /v1/traces, /v1/logs and /v1/metrics are added; header goes with every
// request. "": nothing is forwarded any more, and what waits is forgotten.
func (f *Forwarder) SetTarget(endpoint string, header http.Header) {
	f.mu.Lock()
	f.to, f.header = strings.TrimSuffix(endpoint, "/"), header
	if f.to == "" {
		clear(f.waiting)
		f.bytes = 0
	}
	f.mu.Unlock()
	f.wake()
}

func (f *Forwarder) wake() {
	select {
	case f.more <- struct{}{}:
	default:
	}
}

func (f *Forwarder) on() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.to != ""
}

// AddSpans implements telemetry.SpanSink.
func (f *Forwarder) AddSpans(spans []telemetry.Span) (int, string) {
	if len(spans) == 0 || !f.on() {
		return 0, ""
	}
	return f.add("/v1/traces", len(spans), tracesOf(spans))
}

// AddRecords implements telemetry.RecordSink.
func (f *Forwarder) AddRecords(records []telemetry.Record) (int, string) {
	if len(records) == 0 || !f.on() {
		return 0, ""
	}
	return f.add("/v1/logs", len(records), logsOf(records))
}

// AddSamples takes a round of samples and returns how many it dropped, and why; it neither blocks nor keeps samples.
func (f *Forwarder) AddSamples(samples []telemetry.Sample) (int, string) {
	if len(samples) == 0 || !f.on() {
		return 0, ""
	}
	return f.add("/v1/metrics", len(samples), metricsOf(f.cfg.Project, samples))
}

// AddMetrics takes an ExportMetricsServiceRequest as protobuf.
func (f *Forwarder) AddMetrics(request []byte) {
	if f.on() {
		f.queue("/v1/metrics", 1, bytes.Clone(request))
	}
}

func (f *Forwarder) add(path string, items int, m message) (int, string) {
	body, err := m.MarshalProto()
	if err != nil {
		f.lose(telemetry.LossInvalid, items)
		return items, telemetry.LossInvalid
	}
	return f.queue(path, items, body)
}

func (f *Forwarder) queue(path string, items int, body []byte) (int, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes+len(body) > maxWaiting {
		f.health.Lost[telemetry.LossQueueFull] += uint64(items)
		return items, telemetry.LossQueueFull
	}
	f.waiting[path] = append(f.waiting[path], parcel{body: body, items: items, since: time.Now()})
	f.bytes += len(body)
	f.health.Accepted += uint64(items)
	f.wake()
	return 0, ""
}

func (f *Forwarder) lose(reason string, items int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health.Lost[reason] += uint64(items)
}

// Health says how the forwarding does; Bytes are those that wait.
func (f *Forwarder) Health() telemetry.Health {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.health
	h.Lost, h.Bytes = maps.Clone(h.Lost), int64(f.bytes)
	return h
}

// Run sends what waits until ctx is done, of each kind in order. What comes within half a second goes as one.
func (f *Forwarder) Run(ctx context.Context) error {
	pause := f.first
	for {
		b, to, header, ok := f.next()
		if !ok {
			select {
			case <-f.more:
			case <-ctx.Done():
				return nil
			}
			if !f.rest(ctx, gather) {
				return nil
			}
			continue
		}
		wait, err := f.send(ctx, to+b.path, header, b.body)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			f.done(b, "")
			f.trouble("")
			pause = f.first
			continue
		case wait < 0:
			f.done(b, telemetry.LossInvalid)
			f.trouble(err.Error())
			continue
		case time.Since(b.since) > maxAge:
			f.done(b, telemetry.LossTooLate)
		}
		f.trouble(err.Error())
		if !f.rest(ctx, max(wait, pause)) {
			return nil
		}
		pause = min(2*pause, lastPause)
	}
}

// rest waits; it returns false when ctx ends.
func (f *Forwarder) rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// next returns what has waited longest, with more of its kind, and where it goes.
func (f *Forwarder) next() (b batch, to string, header http.Header, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, all := range f.waiting {
		if len(all) > 0 && (b.n == 0 || all[0].since.Before(b.since)) {
			b = batch{path: path, n: 1, since: all[0].since}
		}
	}
	if b.n == 0 || f.to == "" {
		return batch{}, "", nil, false
	}
	all, size := f.waiting[b.path], 0
	for b.n = 0; b.n < len(all) && (b.n == 0 || size+len(all[b.n].body) <= maxRequest); b.n++ {
		size += len(all[b.n].body)
		b.items += all[b.n].items
	}
	b.body = make([]byte, 0, size)
	for _, p := range all[:b.n] {
		b.body = append(b.body, p.body...)
	}
	return b, f.to, f.header, true
}

// done takes out what was in b, unless it was forgotten meanwhile; "" is no loss.
func (f *Forwarder) done(b batch, loss string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if loss != "" {
		f.health.Lost[loss] += uint64(b.items)
	}
	all := f.waiting[b.path]
	if len(all) < b.n || !all[0].since.Equal(b.since) {
		return
	}
	for i := range all[:b.n] {
		f.bytes -= len(all[i].body)
		all[i] = parcel{}
	}
	f.waiting[b.path] = all[b.n:]
}

// trouble notes why nothing is delivered, and says it once.
func (f *Forwarder) trouble(why string) {
	f.mu.Lock()
	before := f.health.Problem
	f.health.Problem = why
	f.mu.Unlock()
	switch {
	case why != "" && before == "":
		f.cfg.Log.Warn("telemetry is not forwarded; it is kept for a while and tried again", "err", why)
	case why == "" && before != "":
		f.cfg.Log.Info("telemetry is forwarded again")
	}
}

// send makes one request. An error with a negative pause is final; else it may be repeated, after the pause at the
// earliest: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response.
func (f *Forwarder) send(ctx context.Context, url string, header http.Header, body []byte) (pause time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(body) // into memory
	_ = w.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, &packed)
	if err != nil {
		return -1, fmt.Errorf("forward: %w", err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "trellis")
	resp, err := f.cfg.Client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("forward: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return 0, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			pause = min(time.Duration(s)*time.Second, time.Minute)
		}
		return pause, fmt.Errorf("forward to %s: %s", url, resp.Status)
	}
	return -1, fmt.Errorf("forward to %s: %s", url, resp.Status)
}
