package otlp

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"trellis/telemetry"
)

// sink takes what it is given, or drops it for a reason.
type sink struct {
	mu      sync.Mutex
	drop    string
	spans   []telemetry.Span
	records []telemetry.Record
	metrics []byte
}

func (s *sink) AddSpans(spans []telemetry.Span) (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drop != "" {
		return len(spans), s.drop
	}
	s.spans = append(s.spans, spans...)
	return 0, ""
}

func (s *sink) AddRecords(records []telemetry.Record) (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, records...)
	return 0, ""
}

func (s *sink) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metrics, _ = io.ReadAll(r.Body)
}

func serve(t *testing.T, s *sink) (address string) {
	t.Helper()
	return serveWith(t, New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)}))
}

func serveWith(t *testing.T, r *Receiver) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: r, Protocols: p}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { r.Close(); _ = server.Close(); <-done })
	return l.Addr().String()
}

func traces() ptraceotlp.ExportRequest {
	req := ptraceotlp.NewExportRequest()
	rs := req.Traces().ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "shop")
	rs.Resource().Attributes().PutStr("service.instance.id", "shop-1")
	rs.Resource().Attributes().PutStr("trellis.revision", "7")
	rs.Resource().Attributes().PutStr("region", "eu")
	span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetTraceID(pcommon.TraceID{1})
	span.SetSpanID(pcommon.SpanID{2})
	span.SetName("GET /")
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Second)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	span.Attributes().PutStr("long", strings.Repeat("ä", maxValue))
	for i := range 500 {
		span.Attributes().PutInt(strings.Repeat("k", i+1), int64(i))
	}
	return req
}

func check(t *testing.T, s *sink) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spans) != 1 {
		t.Fatalf("%d spans", len(s.spans))
	}
	got := s.spans[0]
	s.spans = nil
	if got.Service != "shop" || got.Instance != "shop-1" || got.Revision != 7 || got.Name != "GET /" || got.Duration < time.Second {
		t.Errorf("%+v", got)
	}
	if len(got.Attributes) > maxAttributes || len(got.Attributes["long"].(string)) > maxValue {
		t.Errorf("%d attributes, %d bytes", len(got.Attributes), len(got.Attributes["long"].(string)))
	}
}

func TestEveryFormOfOTLP(t *testing.T) {
	s := &sink{}
	address := serve(t, s)
	proto, _ := traces().MarshalProto()
	json, _ := traces().MarshalJSON()
	var packed bytes.Buffer
	if err := gziped(&packed, proto); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind, coding string
		body         []byte
	}{{"application/x-protobuf", "", proto}, {"application/json", "", json}, {"application/x-protobuf", "gzip", packed.Bytes()}} {
		req, _ := http.NewRequest(http.MethodPost, "http://"+address+"/v1/traces", bytes.NewReader(c.body))
		req.Header.Set("Content-Type", c.kind)
		if c.coding != "" {
			req.Header.Set("Content-Encoding", c.coding)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s %s: %d %s", c.kind, c.coding, resp.StatusCode, body)
		}
		check(t, s)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := ptraceotlp.NewGRPCClient(conn).Export(t.Context(), traces(), grpc.UseCompressor(grpcgzip.Name)); err != nil {
		t.Fatal(err)
	}
	check(t, s)
	logs := plogotlp.NewExportRequest()
	records := logs.Logs().ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	record := records.AppendEmpty()
	record.Body().SetStr("hello")
	record.SetSeverityNumber(17)
	record.SetSeverityText("info") // the number counts
	records.AppendEmpty().SetSeverityText("Warning")
	if _, err := plogotlp.NewGRPCClient(conn).Export(t.Context(), logs); err != nil {
		t.Fatal(err)
	}
	metrics := pmetricotlp.NewExportRequest()
	metrics.Metrics().ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetName("m")
	if _, err := pmetricotlp.NewGRPCClient(conn).Export(t.Context(), metrics); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.records) != 2 || s.records[0].Body != "hello" || s.records[0].Severity != telemetry.SeverityError ||
		s.records[1].Severity != telemetry.SeverityWarn || len(s.metrics) == 0 {
		t.Errorf("%+v, %d bytes of metrics", s.records, len(s.metrics))
	}
}

// gziped writes body packed.
func gziped(to io.Writer, body []byte) error {
	z := gzip.NewWriter(to)
	if _, err := z.Write(body); err != nil {
		return err
	}
	return z.Close()
}

func TestWhatCannotBeTakenIsSaid(t *testing.T) {
	s := &sink{}
	r := New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)})
	post := func(body []byte, kind, coding string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, "/v1/traces", bytes.NewReader(body))
		req.Header.Set("Content-Type", kind)
		req.Header.Set("Content-Encoding", coding)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return w
	}
	var bomb bytes.Buffer
	if err := gziped(&bomb, make([]byte, maxBody+1)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body         []byte
		kind, coding string
		want         int
	}{
		{[]byte("x"), "text/plain", "", http.StatusUnsupportedMediaType},
		{[]byte("{"), "application/json", "", http.StatusBadRequest},
		{[]byte("\xff\xff"), "application/x-protobuf", "", http.StatusBadRequest},
		{[]byte("x"), "application/x-protobuf", "gzip", http.StatusBadRequest},
		{[]byte("x"), "application/x-protobuf", "br", http.StatusUnsupportedMediaType},
		{bomb.Bytes(), "application/x-protobuf", "gzip", http.StatusRequestEntityTooLarge},
		{make([]byte, maxBody+1), "application/x-protobuf", "", http.StatusRequestEntityTooLarge},
	} {
		w := post(c.body, c.kind, c.coding)
		if w.Code != c.want {
			t.Errorf("%s %s, %d bytes: %d, want %d", c.kind, c.coding, len(c.body), w.Code, c.want)
		}
		decode := map[string]func([]byte, proto.Message) error{"application/json": protojson.Unmarshal, "application/x-protobuf": proto.Unmarshal}[c.kind]
		if decode == nil {
			continue
		}
		says := status.New(codes.OK, "").Proto()
		if err := decode(w.Body.Bytes(), says); err != nil || says.Message == "" || w.Header().Get("Content-Type") != c.kind {
			t.Errorf("%s %s: %v, %q as %s", c.kind, c.coding, err, w.Body, w.Header().Get("Content-Type"))
		}
	}
	body, _ := traces().MarshalProto()
	s.drop = telemetry.LossQueueFull
	if w := post(body, "application/x-protobuf", ""); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("all dropped for now: %d", w.Code)
	}
	s.drop = telemetry.LossTooLate
	w := post(body, "application/x-protobuf", "")
	resp := ptraceotlp.NewExportResponse()
	if err := resp.UnmarshalProto(w.Body.Bytes()); err != nil || w.Code != http.StatusOK || resp.PartialSuccess().RejectedSpans() != 1 {
		t.Errorf("dropped for good: %d, %v, %d rejected", w.Code, err, resp.PartialSuccess().RejectedSpans())
	}
}

// TestPartOfTheMetrics: of metrics that are taken in part it is told how many are not; where the store does not say, all.
func TestPartOfTheMetrics(t *testing.T) {
	all := pmetric.NewMetrics()
	m := all.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("a")
	points := m.SetEmptyGauge().DataPoints()
	for range 5 {
		points.AppendEmpty().SetIntValue(1)
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(all).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	for says, want := range map[string]int64{"2": 2, "": 5, "70": 5} { // a histogram's buckets are samples too
		store := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if says != "" {
				w.Header().Set(telemetry.RefusedHeader, says)
			}
			http.Error(w, "too many series", http.StatusBadRequest)
		})
		s := &sink{}
		r := New(Config{Spans: s, Records: s, Metrics: store, Log: slog.New(slog.DiscardHandler)})
		w, req := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/v1/metrics", bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/x-protobuf")
		r.ServeHTTP(w, req)
		resp := pmetricotlp.NewExportResponse()
		if err := resp.UnmarshalProto(w.Body.Bytes()); err != nil || w.Code != http.StatusOK {
			t.Fatal(w.Code, err)
		}
		if got := resp.PartialSuccess(); got.RejectedDataPoints() != want || got.ErrorMessage() != "too many series" {
			t.Errorf("%q: %d rejected, %q", says, got.RejectedDataPoints(), got.ErrorMessage())
		}
	}
}

// TestSendersThatStall has more senders stop in the middle of a request than are taken care of at a time.
func TestSendersThatStall(t *testing.T) {
	s := &sink{}
	r := New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)})
	r.patience = 200 * time.Millisecond
	address := serveWith(t, r)
	var stalled net.Conn
	for range 2 * workers {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\nhalf"); err != nil {
			t.Fatal(err)
		}
		stalled = c
	}
	for len(r.free) < workers {
		time.Sleep(time.Millisecond)
	}
	body, _ := traces().MarshalProto()
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Post("http://"+address+"/v1/traces", "application/x-protobuf", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a sender that does not stall: %s", resp.Status)
	}
	_ = stalled.SetReadDeadline(time.Now().Add(20 * time.Second))
	if told, err := io.ReadAll(stalled); err != nil || !strings.HasPrefix(string(told), "HTTP/1.1 408 ") {
		t.Errorf("a sender that stalls: %.80q, %v", told, err)
	}
}

// waiting makes calls over gRPC while every place is taken, until all of them wait; done frees the places, and returns how many of them
// ended with which status. What a client of gRPC keeps of its calls would be counted with what the receiver keeps.
func waiting(t *testing.T, r *Receiver, calls int, size int, zipped bool) (done func() map[string]int) {
	t.Helper()
	address := serveWith(t, r)
	for range workers {
		r.free <- struct{}{}
	}
	request := traces()
	request.Traces().ResourceSpans().At(0).Resource().Attributes().PutStr("large", strings.Repeat("x", size))
	body, err := request.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	flag := byte(0)
	if zipped {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
		flag, body = 1, b.Bytes()
	}
	body = append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(body))), body...)
	ended := make([]string, calls)
	var all sync.WaitGroup
	for i := range ended { // one after the other, so that each is here as a whole before the next one: several at once may all be too much
		came, over := r.held.Load()+int64(len(body)), make(chan struct{})
		all.Go(func() {
			defer close(over)
			ended[i] = call(t, address, bytes.NewReader(body), zipped)
		})
		for deadline := time.Now().Add(10 * time.Second); r.held.Load() < came && !isClosed(over); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("call %d did not come", i)
			}
		}
	}
	return func() map[string]int {
		for range workers {
			<-r.free
		}
		all.Wait()
		counts := map[string]int{}
		for _, code := range ended {
			counts[code]++
		}
		return counts
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// call makes one call over gRPC, and returns its status.
func call(t *testing.T, address string, body io.Reader, zipped bool) string {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/opentelemetry.proto.collector.trace.v1.TraceService/Export", body)
	if err != nil {
		t.Error(err)
		return ""
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	if zipped {
		req.Header.Set("Grpc-Encoding", "gzip")
	}
	plain := &http.Transport{Protocols: &http.Protocols{}}
	plain.Protocols.SetUnencryptedHTTP2(true)
	defer plain.CloseIdleConnections()
	resp, err := plain.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return ""
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if ended := resp.Trailer.Get("Grpc-Status"); ended != "" {
		return ended
	}
	return resp.Header.Get("Grpc-Status")
}

// TestCallsThatStall end, so that what they hold is free again for others.
func TestCallsThatStall(t *testing.T) {
	s := &sink{}
	r := New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)})
	r.patience = 200 * time.Millisecond
	address := serveWith(t, r)
	body, stall := io.Pipe() // which the client closes once it is answered
	go func() { _, _ = io.WriteString(stall, "\x00\x00\x00\x01\x00half") }()
	const unavailable = "14" // which may be sent again
	if code := call(t, address, body, false); code != unavailable {
		t.Errorf("ended with %s", code)
	}
}

// TestCallsThatWaitStayPacked: what comes packed over gRPC takes little memory until it has its place.
func TestCallsThatWaitStayPacked(t *testing.T) {
	s := &sink{}
	r := New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)})
	inUse := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := inUse()
	const calls = 4 * workers
	done := waiting(t, r, calls, 15<<20, true)
	if more := inUse() - before; more > 64<<20 {
		t.Errorf("%d calls of 15 MiB that wait take %d MiB", calls, more>>20)
	}
	if codes := done(); codes["0"] != calls || len(s.spans) != calls {
		t.Errorf("%v, %d spans of %d calls", codes, len(s.spans), calls)
	}
}

// TestWhatCallsHoldIsBounded: of more than may be held of calls that wait for their places some are refused, to be sent again.
func TestWhatCallsHoldIsBounded(t *testing.T) {
	s := &sink{}
	r := New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)})
	r.mostHeld = 4 << 20
	done := waiting(t, r, 8, 1<<20, false)
	if held := r.held.Load(); held > r.mostHeld {
		t.Errorf("%d bytes are held, of at most %d", held, r.mostHeld)
	}
	const taken, unavailable = "0", "14"
	if codes := done(); codes[taken] == 0 || codes[unavailable] == 0 || codes[taken]+codes[unavailable] != 8 || codes[taken] != len(s.spans) {
		t.Errorf("%v, %d spans", codes, len(s.spans))
	}
	for deadline := time.Now().Add(10 * time.Second); r.held.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are held by nobody", r.held.Load())
		}
	}
}

// slow counts the calls that are in it at a time.
type slow struct {
	sink
	now, most atomic.Int64
}

func (s *slow) AddSpans(spans []telemetry.Span) (int, string) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	time.Sleep(20 * time.Millisecond)
	return s.sink.AddSpans(spans)
}

func TestRequestsAtATime(t *testing.T) {
	s := &slow{}
	address := serveWith(t, New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)}))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var all sync.WaitGroup
	for range 4 * workers {
		all.Go(func() {
			if _, err := ptraceotlp.NewGRPCClient(conn).Export(t.Context(), traces()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if most := s.most.Load(); most > workers || len(s.spans) != 4*workers {
		t.Errorf("%d at a time, %d spans", most, len(s.spans))
	}
}

// TestWhatIsCutIsNotKeptWhole measures what the first part of a long text keeps in memory while it waits to be written.
func TestWhatIsCutIsNotKeptWhole(t *testing.T) {
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	var kept []telemetry.Record
	for range 16 {
		l := plog.NewLogs()
		l.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr(strings.Repeat("x", 4<<20))
		kept = append(kept, recordsOf(l)...)
	}
	if more := int64(inUse()) - int64(before); more > 16<<20 {
		t.Errorf("%d MiB for %d texts of %d bytes", more>>20, len(kept), len(kept[0].Body))
	}
}

func FuzzTraces(f *testing.F) {
	proto, _ := traces().MarshalProto()
	json, _ := traces().MarshalJSON()
	f.Add(proto, false)
	f.Add(json, true)
	f.Fuzz(func(t *testing.T, body []byte, json bool) {
		s := &sink{}
		r := New(Config{Spans: s, Records: s, Metrics: s, Log: slog.New(slog.DiscardHandler)})
		_, _ = r.traces(t.Context(), body, json)
		_, _ = r.logs(t.Context(), body, json)
	})
}

// TestWhatIsReceivedIsText: the library takes any bytes for a text, and readers of protobuf refuse a message with one that is no UTF-8,
// also where the rest of it is another program's.
func TestWhatIsReceivedIsText(t *testing.T) {
	const odd = "caf\xe9"
	l := plog.NewLogs()
	rl := l.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", odd)
	rl.Resource().Attributes().PutStr("at", odd)
	one := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	one.Body().SetStr(odd + strings.Repeat("x", maxBodyText))
	one.Attributes().PutStr(odd, "key")
	one.Attributes().PutEmptySlice("list").AppendEmpty().SetStr(odd)
	request := plogotlp.NewExportRequestFromLogs(l)
	body, err := request.MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	read := plogotlp.NewExportRequest()
	if err := read.UnmarshalProto(body); err != nil {
		t.Fatal(err)
	}
	records := recordsOf(read.Logs())
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	r := records[0]
	r.Body = r.Body[:8]
	want := telemetry.Record{
		Time: r.Time, Service: "caf\ufffd", Stream: telemetry.StreamOTLP, Body: "caf\ufffdxx",
		Attributes: map[string]any{"at": "caf\ufffd", "caf\ufffd": "key", "list": []any{"caf\ufffd"}},
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
