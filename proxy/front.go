package proxy

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"trellis/proxy/http1"
	"trellis/proxy/http2"
)

// front is the HTTP side towards clients.
type front struct {
	p      *Proxy
	conns  set[*http2.Conn] // that speak HTTP/2
	relief *http2.Relief

	proxied time.Duration // how long a balancer in front has for its header, which is the first that it sends
	head    time.Duration // how long the head of a request may take from its first byte
	idle    time.Duration // how long a connection may wait for one
	stall   time.Duration // how long a client may neither send more of a body that it owes nor take more of one that it gets
}

const (
	proxiedTime    = 3 * time.Second
	readHeaderTime = 10 * time.Second
	clientIdleTime = 60 * time.Second
	stallTime      = 60 * time.Second
)

func newFront(p *Proxy) *front {
	return &front{p: p, relief: http2.NewRelief(), proxied: proxiedTime, head: readHeaderTime, idle: clientIdleTime, stall: stallTime}
}

// peer is the client's side of one request: over HTTP/1.1 or HTTP/2.
type peer interface {
	// readBody reads the request's body if it is small, and gets a large one ready to be read while it is sent on.
	readBody(q *request) *failure
	// inform passes an informational answer on while the answer itself has not begun. It blocks while the client takes nothing, for the
	// stall time at most; who takes no more has gone.
	inform(resp *response)
	// refuse writes an answer of the data plane itself.
	refuse(q *request, fail *failure)
	// forward passes the answer on, closes it, and says whether the client has got it whole.
	forward(q *request, resp *response, inst *instance) bool
	// upgrade passes a 101 on and connects both ends until one of them closes.
	upgrade(q *request, resp *response, inst *instance)
}

// handle is one request, from its view to the last byte of the answer. It says whether the client has got a whole one.
func (f *front) handle(ctx context.Context, l *Listener, q *request, to peer, fail *failure) bool {
	f.p.handlers.Add(1)
	defer f.p.handlers.Add(-1)
	if f.p.access != nil && f.p.table.Load().logged > 0 {
		q.began = time.Now()
		defer f.p.logAccess(q)
	}
	var dest destination
	defer dest.done()
	defer q.leave()
	var resp *response
	var inst *instance
	if fail == nil {
		q.informs = to
		resp, inst, fail = f.ask(ctx, l, q, to, &dest)
	}
	if fail != nil {
		if fail.kind == kindClient && q.body.exceeded() {
			fail = tooLarge(q.body.most)
		}
		dest.shapeFailure(q, fail)
		q.status, q.failure = fail.status, fail.kind
		to.refuse(q, fail)
		return fail.kind != kindClient
	}
	q.service, q.instance, q.status = dest.svc.name, inst.id, resp.status
	if resp.tunnel != nil {
		to.upgrade(q, resp, inst)
		return true
	}
	dest.shape(q, resp)
	status := resp.status
	whole := to.forward(q, resp, inst)
	if status < 500 && (q.blamed || !whole && ctx.Err() == nil) {
		inst.tally.failed.Add(1)
		q.brokeLater()
	}
	if !whole {
		dest.svc.count.failed.Add(1)
	}
	return whole
}

// ask finds where a request goes, and sends it there. A fault of ours becomes an answer that says so.
func (f *front) ask(ctx context.Context, l *Listener, q *request, to peer, dest *destination) (resp *response, inst *instance, fail *failure) {
	defer func() {
		if v := recover(); v != nil {
			f.p.fault(v)
			resp, inst, fail = nil, nil, &failure{status: 500, kind: kindFault, detail: "a fault of Trellis' own; its log has the details"}
		}
	}()
	*dest, fail = f.p.route(l, q)
	if fail == nil && dest.policy != nil {
		fail = f.p.admit(ctx, dest, q)
	}
	if fail == nil {
		fail = to.readBody(q)
	}
	if fail != nil {
		return nil, nil, fail
	}
	f.p.mirror(dest, q)
	return f.p.call(ctx, *dest, q)
}

// fault counts and logs a panic that was kept to the request that ran into it.
func (p *Proxy) fault(v any) {
	p.faults.Add(1)
	p.log.Error("a request ran into a fault", "err", v, "stack", string(debug.Stack()))
}

// logAccess writes a request that has ended into the access log, if it is to be there.
func (p *Proxy) logAccess(q *request) {
	if chosen(p.table.Load().logged, q.status) {
		p.access.add(q, time.Now())
	}
}

// describe makes the view of a request whose method, authority, header and length are there already. target is what
// the client sent.
func (q *request) describe(l *Listener, target string) *failure {
	q.setID()
	if l == nil {
		return &failure{status: 404, kind: kindNoRoute, detail: "this address is not served any more"}
	}
	q.outside = l.Caller == ""
	q.scheme = "http"
	if l.TLS {
		q.scheme = "https"
	}
	if q.method == http.MethodConnect {
		return &failure{status: 501, kind: kindBadRequest, detail: "CONNECT is not supported"}
	}
	var ok bool
	if q.host, ok = normalHost(q.authority); !ok && q.authority != "" {
		return badRequest("malformed Host")
	}
	if fail := q.setTarget(target, l.Service == ""); fail != nil {
		return fail
	}
	q.safe = repeatable(q.method, q.header)
	return nil
}

// followDrain ends a response that would go on for ever when its instance's drain time is over: events and gRPC
// streams. One whose length was said has an end of its own. ended, to be called once, says whether it did; the response
// may have come to its end by itself then.
func (f *front) followDrain(q *request, resp *response, inst *instance) (ended func() bool) {
	if resp.length >= 0 || !q.grpc && !strings.HasPrefix(resp.header.Get("Content-Type"), "text/event-stream") {
		return never
	}
	var done atomic.Bool
	st := inst.track(func() { done.Store(true); resp.abort() }, false)
	f.p.streams.add(st)
	return func() bool {
		f.p.streams.remove(st)
		inst.untrack(st)
		return done.Load()
	}
}

func never() bool { return false }

// passesBack says whether a field of an instance's answer goes to the client as it is.
func (r *response) passesBack(f *http1.Field) bool {
	return !f.Kind.HopByHop() && (r.named == nil || !anyIs(r.named, f))
}

// passesOn is passesBack for an informational answer, which has no body.
func (r *response) passesOn(f *http1.Field) bool {
	return f.Kind != http1.ContentLength && r.passesBack(f)
}

// words is the reason phrase.
func (r *response) words() string {
	if r.reason == "" {
		return http.StatusText(r.status)
	}
	return r.reason
}
