package proxy

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	mirrorTime = 10 * time.Second
	maxMirrors = 128 // under way at a time; what goes beyond is not mirrored
)

// mirror sends a copy of a request to the route's mirror, beside the request itself, which neither waits for it nor learns
// what became of it. A body that is not at hand as a whole is not sent twice.
func (p *Proxy) mirror(to *destination, q *request) {
	if to.mirrored == nil || q.upgrade != "" || q.body != nil && !q.body.complete() {
		return
	}
	if p.mirrors.Add(1) > maxMirrors {
		p.mirrors.Add(-1)
		return
	}
	copied := q.detached()
	dest := destination{svc: to.mirrored, port: to.policy.Mirror.Port, timeout: mirrorTime}
	p.handlers.Add(1) // the caller is one, so Run has not ended
	go func() {
		defer p.handlers.Add(-1)
		defer p.mirrors.Add(-1)
		ctx, cancel := context.WithTimeout(p.life, mirrorTime)
		defer cancel()
		defer copied.leave()
		resp, _, fail := p.call(ctx, dest, copied)
		if fail != nil {
			return
		}
		if resp.tunnel != nil {
			resp.close(false)
			return
		}
		stop := context.AfterFunc(ctx, resp.abort)
		defer stop()
		whole := true
		if resp.body != nil {
			_, err := io.Copy(io.Discard, resp.body)
			whole = err == nil
		}
		resp.close(whole)
	}()
}

// detached is a copy that shares no memory with q, whose buffers may be used again when it has been answered.
func (q *request) detached() *request {
	c := &request{
		id: strings.Clone(q.id), method: strings.Clone(q.method), authority: strings.Clone(q.authority), host: strings.Clone(q.host),
		path: strings.Clone(q.path), target: strings.Clone(q.target), client: q.client,
		scheme: q.scheme, outside: q.outside, trailers: q.trailers, grpc: q.grpc, safe: q.safe, length: q.length,
	}
	for i := range q.header {
		if f := &q.header[i]; q.passes(f) {
			c.header.Add(strings.Clone(f.Name), strings.Clone(f.Value))
		}
	}
	c.vouched = slices.Clone(q.vouched) // of texts that outlive q's buffers
	c.header.Set("X-Trellis-Mirrored", "1")
	if q.body != nil {
		c.body = &replay{}
		c.body.have(append([]byte(nil), q.body.buf...))
		c.trailer = func() header { return nil }
	}
	return c
}
