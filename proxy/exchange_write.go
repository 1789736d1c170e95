package proxy

import (
	"io"
	"strconv"
	"strings"
	"time"

	"trellis/proxy/http1"
)

// write sends the head and as much of the body as is at hand; the rest follows from another goroutine.
func (x *exchange) write() error {
	q := x.q
	b := q.appendHead(x.c.out[:0])
	switch {
	case q.body == nil:
		if q.length == 0 && (q.method == "POST" || q.method == "PUT" || q.method == "PATCH") {
			b = append(b, "Content-Length: 0\r\n"...)
		}
		return x.writeWhole(append(b, "\r\n"...))
	case q.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(q.declared) > 0 {
			b = http1.AppendField(b, "Trailer", strings.Join(q.declared, ", "))
		}
	default:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, q.length, 10)
		b = append(b, "\r\n"...)
	}
	if q.body.complete() {
		b = append(b, "\r\n"...)
		if q.length >= 0 {
			return x.writeWhole(append(b, q.body.buf...))
		}
		if len(q.body.buf) > 0 {
			b = http1.AppendChunk(b, q.body.buf)
		}
		return x.writeWhole(x.appendEnd(b))
	}
	if q.expect {
		b = append(b, "Expect: 100-continue\r\n"...)
		x.goOn = make(chan struct{})
	}
	if err := x.c.send(append(b, "\r\n"...)); err != nil {
		return err
	}
	x.bodyDone = make(chan struct{})
	go x.writeBody()
	return nil
}

// writeWhole writes the last of the request.
func (x *exchange) writeWhole(b []byte) error {
	if err := x.c.send(b); err != nil {
		return err
	}
	x.whole.Store(true)
	return nil
}

// appendEnd appends the end of a chunked body.
func (x *exchange) appendEnd(b []byte) []byte {
	b = append(b, "0\r\n"...)
	for _, f := range x.q.trailer() {
		if anyIs(x.q.declared, &f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	return append(b, "\r\n"...)
}

// appendHead appends the request line and the fields that have nothing to do with the body.
func (q *request) appendHead(b []byte) []byte {
	b = append(b, q.method...)
	b = append(b, ' ')
	b = append(b, q.target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, q.authority...)
	b = append(b, "\r\n"...)
	for i := range q.header {
		if f := &q.header[i]; q.passes(f) {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	b = http1.AppendField(b, "X-Request-Id", q.id)
	if q.timing != untimed {
		b = http1.AppendField(b, timingFields[q.timing], q.left(time.Now()))
	}
	if parent := q.trace.text(); parent != "" {
		b = http1.AppendField(b, "traceparent", parent)
	}
	if q.outside {
		b = q.appendForwarded(b)
	}
	switch {
	case q.upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
		b = http1.AppendField(b, "Upgrade", q.upgrade)
	case q.trailers:
		b = append(b, "Connection: TE\r\nTe: trailers\r\n"...)
	}
	return b
}

// appendForwarded appends the fields that say where the request comes from. What its route says counts before what is known here.
func (q *request) appendForwarded(b []byte) []byte {
	if !q.vouched.Has("X-Forwarded-For") {
		b = append(b, "X-Forwarded-For: "...)
		b = q.client.AppendTo(b)
		b = append(b, "\r\n"...)
	}
	if !q.vouched.Has("X-Forwarded-Host") {
		b = http1.AppendField(b, "X-Forwarded-Host", q.authority)
	}
	if !q.vouched.Has("X-Forwarded-Proto") {
		b = http1.AppendField(b, "X-Forwarded-Proto", q.scheme)
	}
	for i := range q.vouched {
		b = http1.AppendField(b, q.vouched[i].Name, q.vouched[i].Value)
	}
	return b
}

// writeBody sends the body while the response is already being waited for.
func (x *exchange) writeBody() {
	defer close(x.bodyDone)
	if x.goOn != nil {
		t := time.NewTimer(continueTime)
		defer t.Stop()
		select {
		case <-x.goOn:
		case <-t.C:
		case <-x.q.ended:
			return
		}
	}
	if err := x.copyBody(); err != nil {
		if x.srcErr.Load() {
			x.c.abort() // nobody will send the rest: the instance must not wait for it
		}
		return
	}
	x.whole.Store(true)
	x.expectAnswer()
}

// continued notes that the instance wants the body.
func (x *exchange) continued() {
	if x.goOn == nil {
		return
	}
	select {
	case <-x.goOn:
	default:
		close(x.goOn)
	}
}

// copyBody writes the body, each piece as soon as it is there.
func (x *exchange) copyBody() error {
	own := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(own)
	const room, tail = http1.ChunkRoom, 2
	buf := (*own)[room : len(*own)-tail]
	src, chunked := x.q.body.reader(), x.q.length < 0
	for {
		n, err := src.Read(buf)
		if n > 0 {
			x.c.limitWrite(x.patience())
			x.expectAnswer()
			from, to := room, room+n
			if chunked {
				from = http1.PutChunkHead((*own)[:room], n)
				to += copy((*own)[to:], "\r\n")
			}
			if _, err := x.c.Write((*own)[from:to]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			x.srcErr.Store(true)
			return err
		}
	}
	if !chunked {
		return nil
	}
	_, err := x.c.Write(x.appendEnd((*own)[:0]))
	return err
}

// leaveBody has the end of the request wait until the body's goroutine has let go of the body.
func (x *exchange) leaveBody() {
	if x.bodyDone != nil {
		x.q.pending = append(x.q.pending, x.bodyDone)
	}
}
