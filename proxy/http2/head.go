package http2

import (
	"encoding/binary"
	"strings"

	"golang.org/x/net/http2/hpack"

	"trellis/proxy/http1"
)

// block is a head that is being read: fields of a request, or of its trailer.
type block struct {
	stream uint32 // 0: none is being read
	end    bool   // the request ends with it
	self   bool   // the stream depends on itself
	coded  int    // bytes so far
	most   int    // Config.Head

	listed                          int  // size of the fields so far, as HTTP/2 counts it
	bad                             bool // malformed
	method, scheme, authority, path string
	host, length                    string
	trailers                        bool
	cookies                         []string
	fields                          http1.Header
	next                            *Stream // whose fields they are if it is a request's head
}

func (b *block) begin(stream uint32, end bool) {
	if b.next == nil {
		b.next = streams.Get().(*Stream)
	}
	*b = block{stream: stream, end: end, most: b.most, cookies: b.cookies[:0], next: b.next, fields: b.next.Header[:0]}
}

// tooLarge says whether there was more than is taken; fields is a part then.
func (b *block) tooLarge() bool { return b.listed > b.most }

// add takes one field.
func (b *block) add(f hpack.HeaderField) {
	if b.listed += len(f.Name) + len(f.Value) + 32; b.bad || b.tooLarge() {
		return
	}
	if !http1.IsText(f.Value) || len(f.Value) > 0 && (blank(f.Value[0]) || blank(f.Value[len(f.Value)-1])) {
		b.bad = true
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		b.pseudo(f)
		return
	}
	if !http1.IsToken(f.Name) || strings.ContainsFunc(f.Name, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		b.bad = true
		return
	}
	kind := http1.KindOf(f.Name)
	switch kind {
	case http1.Connection, http1.KeepAlive, http1.ProxyConnection, http1.TransferEncoding, http1.Upgrade:
		b.bad = true
		return
	case http1.TE:
		b.trailers = strings.EqualFold(f.Value, "trailers")
		b.bad = b.bad || !b.trailers
	case http1.Host:
		b.bad = b.bad || b.host != "" || f.Value == ""
		b.host = f.Value
		return
	case http1.ContentLength:
		b.bad = b.bad || b.length != "" || f.Value == ""
		b.length = f.Value
	}
	if f.Name == "cookie" { // they are one field to everybody but HPACK (RFC 9113, section 8.2.3)
		b.cookies = append(b.cookies, f.Value)
		return
	}
	b.fields = append(b.fields, http1.Field{Name: f.Name, Value: f.Value, Kind: kind})
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// pseudo takes a field of the request line.
func (b *block) pseudo(f hpack.HeaderField) {
	var to *string
	switch f.Name {
	case ":method":
		to = &b.method
	case ":scheme":
		to = &b.scheme
	case ":authority":
		to = &b.authority
	case ":path":
		to = &b.path
	}
	if to == nil || *to != "" || f.Value == "" || len(b.fields) > 0 || b.host != "" || len(b.cookies) > 0 {
		b.bad = true
		return
	}
	*to = f.Value
}

// headers begins a head.
func (c *Conn) headers(f frame, p []byte) error {
	if f.stream%2 == 0 {
		return protocol("a head of no stream of a client's")
	}
	p, err := unpad(f, p)
	if err != nil {
		return err
	}
	c.block.begin(f.stream, f.has(flagEndStream))
	if f.has(flagPriority) {
		if len(p) < 5 {
			return &Error{FrameSizeError, "a head without the priority that it announces"}
		}
		c.block.self = binary.BigEndian.Uint32(p)&maxWindow == f.stream
		p = p[5:]
	}
	return c.fragment(f, p)
}

// fragment takes a part of a head.
func (c *Conn) fragment(f frame, p []byte) error {
	b := &c.block
	if b.coded += len(p); b.coded > 2*b.most {
		return &Error{EnhanceYourCalm, "a head that is far too large"}
	}
	for len(p) > 0 { // in pieces: a byte of it may stand for kilobytes
		n := min(len(p), 512)
		if _, err := c.dec.Write(p[:n]); err != nil {
			return &Error{CompressionError, "malformed HPACK"}
		}
		if p = p[n:]; b.listed > 4*b.most {
			return &Error{EnhanceYourCalm, "a head that is far too large"}
		}
	}
	if !f.has(flagEndHeaders) {
		return nil
	}
	if c.dec.Close() != nil {
		return &Error{CompressionError, "malformed HPACK"}
	}
	stream := b.stream
	b.stream = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[stream]; s != nil {
		return c.trailer(s)
	}
	if stream <= c.last {
		switch known, reset := c.recall(stream); {
		case reset:
			return nil
		case known:
			return &Error{StreamClosed, "a head of a stream that is closed"}
		}
		return protocol("streams in the wrong order")
	}
	c.last = stream
	if c.closing { // GOAWAY says that it was not looked at
		c.remember(stream, true)
		return nil
	}
	return c.request(stream)
}

// request begins a stream. c.mu is held.
func (c *Conn) request(stream uint32) error {
	b := &c.block
	if c.open >= c.cfg.Streams || c.running >= 2*c.cfg.Streams {
		return &streamError{stream, RefusedStream}
	}
	s := b.next
	s.begin(b.fields)
	s.Method, s.Authority, s.Path, s.Trailers, s.TooLarge = b.method, b.authority, b.path, b.trailers, b.tooLarge()
	s.c, s.id, s.send, s.recv, s.ended = c, stream, c.window, streamWindow, b.end
	if !s.TooLarge && !s.understand(b) {
		return &streamError{stream, ProtocolError}
	}
	b.next, b.fields = nil, nil
	if c.streams == nil {
		c.streams = map[uint32]*Stream{}
	}
	switch {
	case c.open > 0:
		c.apart = apartFor
	case c.apart > 0:
		c.apart--
	}
	c.streams[stream] = s
	c.open++
	c.running++
	c.begun = append(c.begun, s)
	return nil
}

// understand reads what has to do with the message itself (RFC 9113, section 8.3.1); false says that it is malformed.
func (s *Stream) understand(b *block) bool {
	if b.bad || b.self || !http1.IsToken(b.method) {
		return false
	}
	if b.method == "CONNECT" {
		if b.authority == "" || b.scheme != "" || b.path != "" {
			return false
		}
	} else if b.scheme == "" || b.path == "" {
		return false
	}
	switch {
	case b.authority == "":
		s.Authority = b.host
	case b.host != "" && !strings.EqualFold(b.host, b.authority):
		return false
	}
	if len(b.cookies) > 0 {
		s.Header = append(s.Header, http1.Field{Name: "cookie", Value: strings.Join(b.cookies, "; ")})
	}
	s.Length = -1
	if b.length != "" {
		n, ok := http1.Number(b.length)
		if !ok || b.end && n > 0 {
			return false
		}
		s.Length = n
	}
	if b.end {
		s.Length = 0
	}
	return true
}

// trailer takes the fields after a body. c.mu is held.
func (c *Conn) trailer(s *Stream) error {
	b := &c.block
	switch {
	case s.ended:
		return &streamError{s.id, StreamClosed}
	case !b.end || b.bad || b.self || b.tooLarge() || b.method+b.scheme+b.authority+b.path+b.host != "" || len(b.cookies) > 0:
		return &streamError{s.id, ProtocolError}
	}
	for i := range b.fields {
		if !b.fields[i].InTrailer() {
			return &streamError{s.id, ProtocolError}
		}
	}
	s.trailer = b.fields
	b.next, b.fields = nil, nil
	return s.end()
}
