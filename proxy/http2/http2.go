// Package http2 is the server's side of HTTP/2 (RFC 9113), strictly: a request that is malformed ends its stream, a frame
// that has no place where it comes ends the connection, and what costs a client nothing is bounded. It knows nothing of
// where requests go to.
//
// A connection has one goroutine, which reads; a request has another, unless it comes alone and is answered at once. Who has
// something to write puts it into the connection's buffer, and writes it unless somebody is at it already, who then takes it
// along.
package http2

import "io"

// Preface is what a client's connection begins with.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Config is what the connections of a server have in common.
type Config struct {
	// Serve serves one stream, in a goroutine that is its own or taken over by it. What it has not answered to the end when
	// it returns is broken off.
	Serve func(*Stream)
	// Relief lets who reads a connection serve requests; nil: each has a goroutine of its own.
	Relief *Relief
	// Streams is how many requests a client may have open at once.
	Streams int
	// Head bounds the size of a request's fields, as HTTP/2 counts it: 32 bytes more than name and value for each. Beyond it
	// Stream.TooLarge is set; beyond the double the connection ends.
	Head int
}

// Link is a client's connection, below HTTP/2.
type Link interface {
	// Write writes all of b, or fails for good. It bounds the time that this takes.
	io.Writer
	// Await says what is read next, and is to bound the time that it takes. It may be called while that is going on.
	Await(Wait)
	// Came says that something was read after Await(Request); false says that the connection is being closed as idle.
	Came() bool
	// Quiet says that nothing has come that was not read.
	Quiet() bool
	// Cut makes reading fail, now and later.
	Cut()
}

// Wait is what a connection waits for.
type Wait int

const (
	Request Wait = iota // the next request; none is open
	Frame               // any frame: requests are open
	Head                // the rest of a request's head, or of a frame without a body
	Body                // the rest of a frame with a part of a body
)

// Code says why a stream or connection ends (RFC 9113, section 7).
type Code uint32

// The codes that are used here.
const (
	NoError          Code = 0x0
	ProtocolError    Code = 0x1
	InternalError    Code = 0x2
	FlowControlError Code = 0x3
	StreamClosed     Code = 0x5
	FrameSizeError   Code = 0x6
	RefusedStream    Code = 0x7
	Cancel           Code = 0x8
	CompressionError Code = 0x9
	EnhanceYourCalm  Code = 0xb
)

// Error ends a connection.
type Error struct {
	Code   Code
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// streamError ends a stream.
type streamError struct {
	stream uint32
	code   Code
}

func (e *streamError) Error() string { return "the stream is refused" }

func protocol(detail string) error { return &Error{ProtocolError, detail} }

// Windows and buffers, in bytes.
const (
	maxFrame      = 16 << 10 // of what is taken, and of what is sent: the least that HTTP/2 allows
	firstWindow   = 64<<10 - 1
	streamWindow  = 512 << 10 // of a request's body that may be on its way, or unread
	connWindow    = 1 << 20   // of all bodies of a connection
	outEnough     = 64 << 10  // of what waits to be written; who has more waits with it
	maxWindow     = 1<<31 - 1
	pooledOut     = 16 << 10
	keptBody      = 16 << 10
	hpackTable    = 4 << 10 // of the client's encoder: the default
	rememberedIDs = 64
)
