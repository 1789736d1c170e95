package proxy

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"trellis/proxy/http1"
)

// Bounds of a request.
const (
	maxHeaderBytes = 32 << 10
	maxHeaderCount = 100
	maxURI         = 8 << 10
	replayLimit    = 64 << 10 // of a body that may be sent again
)

// request is the data plane's one view of a request: routing, balancing, retry, limits and the upstream see this.
//
// Over HTTP/1.1 its strings, and those of its header, are parts of the connection's buffer: they are valid until the
// answer is written. Who keeps one for longer clones it.
type request struct {
	id        string
	made      [32]byte // what id is made of when the client has none
	method    string
	authority string // as the client sent it; goes to the upstream as Host
	host      string // of authority, in normal form
	path      string // in normal form at the gateway
	target    string // path and query: what the upstream gets
	header    header
	named     []string // fields that Connection names
	vouched   header   // fields that say where it comes from, as its route says: the client's own are dropped
	client    netip.Addr
	sender    *presence // nil: nobody, for what the data plane sends by itself
	informs   peer      // who gets informational answers; nil: nobody
	streamed  bool      // it came over HTTP/2
	secured   *secured  // that it came over; nil without TLS
	scheme    string
	caller    string       // the service that calls, "" from outside
	from      string       // the same, or as far as its address tells: for what is measured, and trusted with nothing
	route     string       // path of the gateway's route, "" at other doors
	trace     traceContext // zero: the request is not part of one
	counted   *callCounts  // where it was counted
	seat      seat         // that it has now
	unmet     string       // why it was not answered by an instance
	outside   bool         // the socket proves no service: what the caller says about itself is dropped (of sampling, see spans.begin)

	upgrade  string // protocol asked for, "" for none
	trailers bool   // the client takes trailers (TE)
	grpc     bool
	expect   bool // the client waits for 100 Continue before it sends its body
	safe     bool // may be repeated
	blamed   bool // the answer was whole, and a gRPC status that is the server's fault

	deadline time.Time // when the caller waits no longer; zero: it does not say
	timing   timing    // where it said so

	// For the access log.
	began             time.Time
	service, instance string // that it went to
	status            int    // of the answer; 0 there was none
	sent              int64  // bytes of the answer's body
	failure           string // kind of the data plane's own answer

	length   int64 // of the body; -1 when unknown
	body     *replay
	declared []string      // trailers that the client announced
	trailer  func() header // valid once the body has been read

	ended   chan struct{}   // closed when nobody waits for the answer any more; nil unless expect is set
	pending []chan struct{} // closed one by one as the body's readers let go of it
	unread  bool            // something may still be reading the body
	over    atomic.Bool     // nobody needs the rest of the body
}

// finish lets go of the request's body: nobody needs the rest of it. wake is called where something may still be waiting
// for the client to send more of it, and has to have that return.
func (q *request) finish(wake func()) {
	if q.ended != nil {
		close(q.ended)
	}
	if len(q.pending) == 0 && !q.unread {
		return
	}
	q.over.Store(true)
	if !q.body.ended.Load() { // else the client's next request would find it woken
		wake()
	}
	for _, done := range q.pending {
		<-done
	}
	if q.unread {
		q.body.drop()
	}
}

// repeatable says whether a request may be sent again though it may have been carried out: RFC 9110, section 9.2.2, and
// the Idempotency-Key of draft-ietf-httpapi-idempotency-key-header.
func repeatable(method string, h header) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return h.Get("Idempotency-Key") != ""
}

// opensPage says whether a person waits for a page: a browser's navigation (Fetch Metadata), or what an older browser
// sends.
func (q *request) opensPage() bool {
	if q.method != "GET" || q.upgrade != "" {
		return false
	}
	if mode := q.header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.HasPrefix(q.header.Get("Accept"), "text/html")
}

// setTarget splits and checks a request target. A strict one is put in normal form; one that is not strict is passed on
// as it is, for listeners where no decision hangs on the path.
func (q *request) setTarget(target string, strict bool) *failure {
	if len(target) > maxURI {
		return &failure{status: 414, kind: kindBadRequest, detail: "request target longer than 8 KiB"}
	}
	if rest, ok := strings.CutPrefix(target, "http://"); ok { // absolute form: the authority is already in q
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			i, rest = 0, "/"
		} else if rest[i] == '?' {
			rest = "/" + rest[i:]
			i = 0
		}
		target = rest[i:]
	}
	path, query, hasQuery := strings.Cut(target, "?")
	if !opaqueTarget(target) || target == "*" && q.method != "OPTIONS" {
		return badRequest("malformed request target")
	}
	q.path, q.target = path, target
	if !strict || target == "*" {
		return nil
	}
	normal, ok := normalPath(path)
	if !ok || !cleanQuery(query) {
		return badRequest("ambiguous request target")
	}
	if normal != path {
		q.path, q.target = normal, normal
		if hasQuery {
			q.target = normal + "?" + query
		}
	}
	return nil
}

// setID keeps the client's request id when it is one, else makes one.
func (q *request) setID() {
	if v, ok := q.header.Only("X-Request-Id"); ok && validID(v) {
		q.id = v
		return
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	hex.Encode(q.made[:], b[:])
	q.id = unsafe.String(&q.made[0], len(q.made))
}

func validID(id string) bool {
	if len(id) < 8 || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; class[c]&unreserved == 0 && c != ':' && c != '=' && c != '+' && c != '/' {
			return false
		}
	}
	return true
}

// upgradeTo returns the one protocol that an Upgrade field asks for, "" when there is none to be passed on: h2c would
// let a client speak to the instance past every decision of ours.
func upgradeTo(h header) string {
	field, ok := h.Only("Upgrade")
	if !ok || field == "" || strings.ContainsAny(field, ", \t") {
		return ""
	}
	if p := lower(field); p == "h2c" || p == "h2" || strings.HasPrefix(p, "tls") || strings.HasPrefix(p, "http") {
		return ""
	}
	return field
}

// passes says whether a field of the client goes to the upstream as it is.
func (q *request) passes(f *http1.Field) bool {
	switch f.Kind {
	case http1.Other:
		if f.Is("X-Request-Id") || q.timing != untimed && f.Is(timingFields[q.timing]) || q.trace.replaces(f) || q.outside && forwarding(f.Name) {
			return false
		}
	case http1.Host, http1.ContentLength, http1.Expect:
		return false
	default:
		if f.Kind.HopByHop() {
			return false
		}
	}
	return q.named == nil || !anyIs(q.named, f)
}

// spent says in an attempt's stead that more was read than is kept: there will be no other.
const spent = -1

// replay is a request body that can be read again from its start, as long as no more than 64 KiB of it were read.
type replay struct {
	mu   sync.Mutex // held while something is read
	src  io.Reader
	buf  []byte
	read int   // bytes read from src
	most int64 // bytes that the route takes; 0: any number
	err  error

	attempt atomic.Int32 // whose readers may read on: the last one, or spent
	ended   atomic.Bool  // it was read to its end
}

// have takes over a body that was read already.
func (r *replay) have(b []byte) {
	r.buf, r.read, r.err = b, len(b), io.EOF
	r.ended.Store(true)
}

// drop has everything that still reads the body fail. Its bytes are somebody else's from now on.
func (r *replay) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = nil
	if r.err == nil {
		r.err = io.ErrUnexpectedEOF
	}
}

var errBodyTooLong = errors.New("the body is longer than the route takes")

// limit has reading fail beyond most bytes.
func (r *replay) limit(most int64) { r.most = most }

// exceeded says whether the body was longer than its limit.
func (r *replay) exceeded() bool {
	if r == nil || r.most == 0 {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err == errBodyTooLong
}

// fill reads the body whole, of which the length is known to be at most replayLimit.
func (r *replay) fill(length int64) error {
	buf := make([]byte, length)
	if _, err := io.ReadFull(r.src, buf); err != nil {
		return err
	}
	// The end has to be seen too: it is where trailers and a body longer than announced show.
	var one [1]byte
	if n, err := r.src.Read(one[:]); n > 0 || err != nil && err != io.EOF {
		return io.ErrUnexpectedEOF
	}
	r.have(buf)
	return nil
}

// gather reads what there is without waiting: as long as ready says so, and no more than can be kept.
func (r *replay) gather(ready func() bool) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	in := r.reader()
	for ready() && r.read < replayLimit {
		_, err := in.Read((*buf)[:min(len(*buf), replayLimit-r.read)])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// complete says whether the whole body is at hand.
func (r *replay) complete() bool { return r.ended.Load() && r.attempt.Load() != spent }

// roomAtHost is what any host takes without its program reading: Linux' window for a connection begins with 64 KiB.
const roomAtHost = 32 << 10

// fitsHost says whether the other host has room for all of q, whatever its program does.
func (q *request) fitsHost() bool {
	return q.upgrade == "" && (q.body == nil || q.body.complete() && len(q.body.buf) <= roomAtHost)
}

// rewind says whether another attempt may begin, whose reader sees the whole body. Those of earlier ones read no further
// then; what they are reading just now is kept for it.
func (r *replay) rewind() bool {
	if r == nil {
		return true
	}
	for {
		last := r.attempt.Load()
		if last == spent {
			return false
		}
		if r.attempt.CompareAndSwap(last, last+1) {
			return true
		}
	}
}

// reader returns a reader of the body from its start.
func (r *replay) reader() *replayReader { return &replayReader{body: r, attempt: r.attempt.Load()} }

type replayReader struct {
	body    *replay
	off     int
	attempt int32
	until   *closing // nil: nobody closes it
}

func (r *replayReader) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.off < len(b.buf) {
		n := copy(p, b.buf[r.off:])
		r.off += n
		return n, nil
	}
	if r.off != b.read { // another attempt read on, more than is kept
		return 0, io.ErrUnexpectedEOF
	}
	if b.err != nil {
		return 0, b.err
	}
	if last := b.attempt.Load(); last != spent && last != r.attempt {
		return 0, io.ErrUnexpectedEOF
	}
	if err := r.until.await(b.src); err != nil {
		if err != errBodyClosed {
			b.err = err
		}
		return 0, err
	}
	n, err := b.src.Read(p)
	if b.most > 0 && int64(b.read+n) > b.most {
		b.err = errBodyTooLong
		return 0, b.err
	}
	switch {
	case b.attempt.Load() == spent:
	case b.read+n > replayLimit && b.attempt.CompareAndSwap(r.attempt, spent):
		b.buf = nil
	default: // within the limit, or for an attempt that has begun meanwhile
		b.buf = append(b.buf, p[:n]...)
	}
	b.read += n
	r.off += n
	b.err = err
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}
