package proxy

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"trellis/proxy/http1"
)

// inform implements peer. HTTP/1.0 has no informational answers.
func (t *turn) inform(r *response) {
	if t.head.Minor == 0 {
		return
	}
	b := http1.AppendStatusLine(t.out[:0], t.head.Minor, r.status, r.words())
	for i := range r.header {
		if f := &r.header[i]; r.passesOn(f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	b = append(b, "\r\n"...)
	t.out = b
	t.mu.Lock() // sayContinue may be at it
	defer t.mu.Unlock()
	_ = t.write(b)
}

// begin says that the answer begins: 100 Continue can't be said any more.
func (t *turn) begin() {
	if t.q.ended != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	t.answering = true
	if t.q.body != nil && !t.kept.ended.Load() || t.f.p.draining.Load() {
		t.last = true // where the rest of its body ends nobody would find out; or the drain has begun since the request came
	}
}

// forward writes an instance's answer; it says whether it is whole.
//
// What is at hand goes out in one write, head and all; what has to be waited for is waited for with everything before it
// on its way.
func (t *turn) forward(q *request, resp *response, inst *instance) bool {
	t.begin()
	framing := t.framing(resp)
	b := t.answerHead(resp, inst, framing)
	if rest, ok := atHand(resp); ok {
		q.sent = int64(len(rest))
		if len(rest) > http1.LargeBuffer { // two writes cost less than the copy
			t.out = b
			ok := t.write(b) == nil && t.write(rest) == nil
			resp.close(true)
			return ok
		}
		b = append(b, rest...)
		t.out = b
		resp.close(true) // first: the next request may come on another connection, and use this one again
		return t.write(b) == nil
	}
	ended := t.f.followDrain(q, resp, inst)
	w := bodyWriter{t: t, resp: resp, chunked: framing == asChunks, head: b}
	err := w.copy()
	t.out = b[:0]
	if ended() && err != nil {
		err = w.finish()
	}
	resp.close(err == nil)
	return err == nil
}

// atHand returns a body that was read already, with the head.
func atHand(resp *response) ([]byte, bool) {
	if resp.body == nil {
		return nil, true
	}
	if b, ok := resp.body.(*http1.Body); ok {
		return b.Whole()
	}
	return nil, false
}

// framing is how the client learns where the body ends.
type framing int

const (
	asLength   framing = iota // a Content-Length, or no body at all
	asChunks                  // chunked
	untilClose                // it lasts until the connection's end
)

func (t *turn) framing(resp *response) framing {
	switch {
	case resp.body == nil || resp.length >= 0:
		return asLength
	case t.head.Minor == 1:
		return asChunks
	}
	t.last = true
	return untilClose
}

// answerHead makes the head of an answer, in t.out.
func (t *turn) answerHead(resp *response, inst *instance, as framing) []byte {
	b := http1.AppendStatusLine(t.out[:0], t.head.Minor, resp.status, resp.words())
	dated, measured := false, false
	for i := range resp.header {
		f := &resp.header[i]
		if f.Kind == http1.ContentLength {
			if as != asLength || resp.body == nil && resp.length > 0 && t.q.method != "HEAD" && resp.status != http.StatusNotModified {
				continue
			}
			measured = true
		} else if !resp.passesBack(f) {
			continue
		}
		dated = dated || len(f.Name) == 4 && f.Is("Date")
		b = http1.AppendField(b, f.Name, f.Value)
	}
	if t.f.p.cfg.ExposeInstance {
		b = http1.AppendField(b, InstanceHeader, inst.id)
	}
	switch {
	case as == asChunks:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(resp.declared) > 0 {
			b = http1.AppendField(b, "Trailer", strings.Join(resp.declared, ", "))
		}
	case resp.body == nil && !measured && t.q.method != "HEAD" && resp.status >= 200 && resp.status != http.StatusNoContent &&
		resp.status != http.StatusNotModified:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	return t.endHead(b, dated)
}

// bodyWriter writes the body of an answer, behind its head.
type bodyWriter struct {
	t       *turn
	resp    *response
	chunked bool
	head    []byte // not written yet
}

// copy writes the body to its end.
func (w *bodyWriter) copy() error {
	own := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(own)
	const room, tail = http1.ChunkRoom, 2
	buf := (*own)[room : len(*own)-tail]
	n := 0
	for {
		if w.resp.waiting() {
			if err := w.flush(*own, n); err != nil {
				return err
			}
			n = 0
		}
		m, err := w.resp.body.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF:
			if err := w.flush(*own, n); err != nil {
				return err
			}
			return w.finish()
		case err != nil:
			w.flush(*own, n)
			return err
		case n == len(buf):
			if err := w.flush(*own, n); err != nil {
				return err
			}
			n = 0
		}
	}
}

// flush writes the head, if it wasn't yet, and n bytes of the body, which are in own behind the room for a chunk's head.
func (w *bodyWriter) flush(own []byte, n int) error {
	from, to := http1.ChunkRoom, http1.ChunkRoom+n
	w.t.q.sent += int64(n)
	if w.chunked && n > 0 {
		from = http1.PutChunkHead(own[:from], n)
		to += copy(own[to:], "\r\n")
	}
	piece := own[from:to]
	if n == 0 {
		piece = nil
	}
	switch {
	case w.head != nil && len(piece) <= http1.LargeBuffer:
		piece = append(w.head, piece...)
		w.head = nil
	case w.head != nil:
		if err := w.t.write(w.head); err != nil {
			return err
		}
		w.head = nil
	}
	if len(piece) == 0 {
		return nil
	}
	return w.t.write(piece)
}

// finish ends the body as one that is whole.
func (w *bodyWriter) finish() error {
	if !w.chunked {
		return nil
	}
	b := append(w.head, "0\r\n"...)
	for _, f := range w.resp.trailer() {
		b = http1.AppendField(b, f.Name, f.Value)
	}
	return w.t.write(append(b, "\r\n"...))
}

// refuse writes an answer of the data plane itself.
func (t *turn) refuse(q *request, fail *failure) {
	if e := t.broken.Load(); e != nil && fail.kind == kindClient {
		fail = malformed(e)
		q.status, q.failure = fail.status, fail.kind
	}
	if fail.kind == kindClient {
		return
	}
	t.begin()
	t.last = t.last || fail.kind == kindBadRequest // what follows may be meant as a part of it
	fail = q.worded(fail)
	contentType, body := fail.content(q.id)
	b := http1.AppendStatusLine(t.out[:0], t.head.Minor, fail.status, http.StatusText(fail.status))
	for _, f := range fail.fields(q.id) {
		b = http1.AppendField(b, f.Name, f.Value)
	}
	b = http1.AppendField(b, "Content-Type", contentType)
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n"...)
	b = t.endHead(b, false)
	if q.method != "HEAD" {
		b = append(b, body...)
	}
	t.out = b
	if t.write(b) != nil {
		t.last = true
	}
}

// endHead appends what a head ends with; dated says that it has a Date.
func (t *turn) endHead(b []byte, dated bool) []byte {
	if !dated {
		b = append(b, "Date: "...)
		b = append(b, t.f.p.pulse.date()...)
		b = append(b, "\r\n"...)
	}
	switch {
	case t.last:
		b = append(b, "Connection: close\r\n"...)
	case t.head.Minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, "\r\n"...)
}

// upgrade passes a 101 on and connects both ends until one of them closes.
func (t *turn) upgrade(q *request, resp *response, inst *instance) {
	t.last = true
	b := append(t.out[:0], "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"...)
	for i := range resp.header {
		if f := &resp.header[i]; !f.Kind.HopByHop() || f.Kind == http1.Upgrade {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	if t.f.p.cfg.ExposeInstance {
		b = http1.AppendField(b, InstanceHeader, inst.id)
	}
	t.out = append(b, "\r\n"...)
	if t.write(t.out) != nil {
		resp.close(false)
		return
	}
	t.c.forget()
	client := end{conn: t.c.tcp, first: append([]byte(nil), t.c.in.Buffered()...)}
	t.c.in.Close()
	server := end{conn: resp.tunnel.conn, first: resp.tunnel.unread()}
	t.f.p.connect(inst, client, server, strings.EqualFold(resp.header.Get("Upgrade"), "websocket"))
}
