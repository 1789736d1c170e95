package proxy

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"trellis/proxy/http1"
	"trellis/telemetry"
)

// TraceScope is the scope of the spans that a data plane records: one for each request that it passed on, from its
// arrival to the head of its answer. They are of the service that answers; CallerAttribute names the one that asked.
const (
	TraceScope      = "trellis.proxy"
	CallerAttribute = "trellis.caller"
)

// How much is traced. A trace is chosen where it begins, and everyone in it keeps to that; what fails and what is slow is
// recorded in any case, by those hops that see it.
const (
	tracesPerSecond = 50 // that begin here and are recorded; all of them while there are no more
	traceBurst      = 100
	spansPerSecond  = 2000 // of traces that others chose, of failures and of what is slow
	spanBurst       = 4000
	slowRequest     = time.Second
	keptSpans       = 4096 // that wait to be fetched
)

// traceContext is a request's place in a trace, as W3C Trace Context has it.
type traceContext struct {
	trace   telemetry.TraceID
	span    telemetry.SpanID // of this hop
	parent  telemetry.SpanID
	sampled bool
	made    [55]byte // what text is made of
}

// spans are the spans of a data plane that nobody has fetched yet, the newest ones.
type spans struct {
	traces, others bucket
	lost           atomic.Uint64

	mu   sync.Mutex
	kept []telemetry.Span
	more chan struct{} // capacity 1
}

func newSpans() *spans {
	return &spans{
		traces: bucket{rate: tracesPerSecond, burst: traceBurst}, others: bucket{rate: spansPerSecond, burst: spanBurst},
		more: make(chan struct{}, 1),
	}
}

// bucket lets so many through a second.
type bucket struct {
	rate, burst float64
	mu          sync.Mutex
	left        float64
	last        time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.IsZero() {
		b.left = b.burst
	} else if passed := now.Sub(b.last).Seconds(); passed > 0 {
		b.left = min(b.burst, b.left+passed*b.rate)
	}
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// begin gives a request its place in its caller's trace, or in a new one, and has the instance told. Whether it is sampled a
// service of the project says, also one that only its address tells: nothing but what is measured hangs on it. What anybody
// else says about that is not followed: it would decide what is kept here.
func (s *spans) begin(q *request, now time.Time) {
	t := &q.trace
	sampled, given := false, false
	if v, ok := q.header.Only("traceparent"); ok {
		sampled, given = t.parse(v)
	}
	if !given {
		binary.LittleEndian.PutUint64(t.trace[:8], rand.Uint64())
		binary.LittleEndian.PutUint64(t.trace[8:], rand.Uint64()|1) // not zero
	}
	stranger := q.outside && q.from == ""
	t.sampled = sampled && !stranger
	if !given || stranger {
		t.sampled = s.traces.take(now)
	}
	binary.LittleEndian.PutUint64(t.span[:], rand.Uint64()|1)
	b := t.made[:0]
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, t.trace[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, t.span[:])
	b = append(b, "-00"...)
	if t.sampled {
		b[54] = '1'
	}
}

// text is the field traceparent for the instance, "" where the request is not traced. It is valid as long as t is.
func (t *traceContext) text() string {
	if t.trace.IsZero() {
		return ""
	}
	return unsafe.String(&t.made[0], len(t.made))
}

// replaces says whether a field of the client is not for the instance, because t takes its place: traceparent always, and
// tracestate where it goes with a parent that there is none of.
func (t *traceContext) replaces(f *http1.Field) bool {
	return !t.trace.IsZero() && (f.Is("Traceparent") || t.parent.IsZero() && f.Is("Tracestate"))
}

// parse reads a traceparent field; anything but version 00's form is as good as none, a later version is read as 00.
func (t *traceContext) parse(v string) (sampled, ok bool) {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || len(v) > 55 && (v[:2] == "00" || v[55] != '-') || v[:2] == "ff" {
		return false, false
	}
	var version, flags [1]byte
	var trace telemetry.TraceID
	var parent telemetry.SpanID
	for _, part := range []struct {
		to   []byte
		text string
	}{{version[:], v[:2]}, {trace[:], v[3:35]}, {parent[:], v[36:52]}, {flags[:], v[53:55]}} {
		if strings.ToLower(part.text) != part.text {
			return false, false
		}
		if _, err := hex.Decode(part.to, []byte(part.text)); err != nil {
			return false, false
		}
	}
	if trace.IsZero() || parent.IsZero() {
		return false, false
	}
	t.trace, t.parent = trace, parent
	return flags[0]&1 != 0, true
}

// record keeps the span of a request that was chosen, failed, or took long.
func (s *spans) record(to *service, inst *instance, q *request, status int, began time.Time, took time.Duration) {
	t := &q.trace
	if t.trace.IsZero() || !t.sampled && status < 500 && took < slowRequest {
		return
	}
	if (!t.sampled || !t.parent.IsZero()) && !s.others.take(began) {
		s.lost.Add(1)
		return
	}
	// The request's texts stand in buffers that the next request gets.
	span := telemetry.Span{
		Trace: t.trace, ID: t.span, Parent: t.parent, Service: to.name, Name: q.method + " " + q.name(), Kind: telemetry.KindServer,
		Start: began, Duration: took, Scope: TraceScope,
		Attributes: map[string]any{
			"http.request.method": strings.Clone(q.method), "url.path": strings.Clone(q.path),
			"server.address": strings.Clone(q.authority), CallerAttribute: q.from, "trellis.request_id": strings.Clone(q.id),
		},
	}
	if status > 0 {
		span.Attributes["http.response.status_code"] = int64(status)
	}
	if q.route != "" {
		span.Attributes["http.route"] = q.route
	}
	if q.outside {
		span.Attributes["client.address"] = q.client.String()
	}
	if status >= 500 || status == 0 {
		span.Status = telemetry.StatusError
	}
	switch {
	case inst != nil:
		span.Instance, span.Revision = inst.id, inst.conf.Load().Revision
	case status == 0:
		span.Message = "the client went away"
	case status >= 500:
		span.Message = q.unmet
	}
	s.keep(span)
}

// name is the route, or the first part of the path: a name stands for many requests.
func (q *request) name() string {
	if q.route != "" {
		return q.route
	}
	path := q.path
	if i := strings.IndexByte(path[min(1, len(path)):], '/'); i >= 0 {
		return path[:i+1] + "/*"
	}
	return path
}

func (s *spans) keep(span telemetry.Span) {
	s.mu.Lock()
	if len(s.kept) >= keptSpans {
		s.kept = append(s.kept[:0], s.kept[keptSpans/2:]...)
		s.lost.Add(keptSpans / 2)
	}
	s.kept = append(s.kept, span)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// take returns what is kept, and keeps it no more.
func (s *spans) take() []telemetry.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.kept
	s.kept = nil
	return all
}

// spanPause is the pause between two pushes of spans.
const spanPause = 250 * time.Millisecond

// pushSpans calls send with spans as there are some, until ctx is done or send returns an error.
func (p *Proxy) pushSpans(ctx context.Context, send func([]telemetry.Span) error) error {
	for {
		if all := p.spans.take(); len(all) > 0 {
			if err := send(all); err != nil {
				return err
			}
		}
		select {
		case <-p.spans.more:
			sleep(ctx, spanPause)
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}
