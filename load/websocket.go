package load

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// webSockets makes exchanges over a WebSocket each: a start is a message, and the next message from the server is its
// answer.
func (r *run) webSockets() func(i int) exchange {
	var dialer net.Dialer
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: r.tls, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &wire{Conn: conn}, nil
		},
	}}
	return func(int) exchange { return &socket{run: r, client: client} }
}

// wire is the connection below a WebSocket.
type wire struct {
	net.Conn
	dry func() // called when all that has come was looked at; nil until the WebSocket is open
}

func (w *wire) Read(p []byte) (int, error) {
	if w.dry != nil {
		w.dry()
	}
	return w.Conn.Read(p)
}

// socket is an exchange over a WebSocket, which is opened when it is first needed and again after it has ended. An end
// that the server announced (1000, 1001 or 1012) while nothing was under way is no failure, also where it came together
// with the last answer. A message that crossed it on its way has failed, and any other end is a failure of the next one.
type socket struct {
	run    *run
	client *http.Client

	conn     *websocket.Conn
	instance string
	answers  chan int64    // sizes of messages
	ended    chan struct{} // closed when nothing more is read
	cause    error         // why; readable after ended is closed

	mu   sync.Mutex
	held []int64 // messages that are not in answers yet
}

func (x *socket) close(ctx context.Context) {
	if x.conn == nil {
		return
	}
	if !x.over() && ctx.Err() == nil {
		_ = x.conn.Close(websocket.StatusNormalClosure, "") // waits some seconds for the answer
	}
	x.drop()
}

// drop ends the connection without a word.
func (x *socket) drop() {
	_ = x.conn.CloseNow()
	<-x.ended
	x.conn = nil
}

func (x *socket) do(ctx context.Context, s *start, r *Result) {
	m, err := s.message()
	if err != nil {
		r.Kind = Unsendable
		return
	}
	if x.conn != nil {
		if err = net.ErrClosed; !x.over() {
			err = x.send(ctx, m.body, r)
		}
		if errors.Is(err, net.ErrClosed) && ctx.Err() == nil { // it ended before anything was sent
			r.Sent = 0
			x.drop()
			if !x.announced() {
				r.Kind = Reset
				return
			}
		}
	}
	if x.conn == nil {
		if !x.open(ctx, s, &m, r) {
			return
		}
		err = x.send(ctx, m.body, r)
	}
	if err == nil {
		var n int64
		if n, err = x.answer(ctx); err == nil {
			r.Status, r.Bytes, r.Instance = http.StatusSwitchingProtocols, n, x.instance
			return
		}
	}
	r.Kind = failure(ctx, err, Reset)
	x.drop() // a late answer would be taken for that to the next message
}

// send sends a message. net.ErrClosed: the connection has ended, and nothing was sent.
func (x *socket) send(ctx context.Context, body []byte, r *Result) error {
	for len(x.answers) > 0 { // what nobody asked for
		<-x.answers
	}
	kind := websocket.MessageText
	if !utf8.Valid(body) {
		kind = websocket.MessageBinary
	}
	r.Sent = x.run.since()
	return x.conn.Write(ctx, kind, body)
}

// answer returns the size of the next message, also of one that came right before the end.
func (x *socket) answer(ctx context.Context) (int64, error) {
	select {
	case n := <-x.answers:
		return n, nil
	case <-x.ended:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	x.release()
	select {
	case n := <-x.answers:
		return n, nil
	default:
		return 0, x.cause
	}
}

func (x *socket) over() bool {
	select {
	case <-x.ended:
		return true
	default:
		return false
	}
}

func (x *socket) announced() bool {
	switch websocket.CloseStatus(x.cause) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusServiceRestart:
		return true
	}
	return false
}

// open opens the WebSocket; where it fails, r says how.
func (x *socket) open(ctx context.Context, s *start, m *message, r *Result) bool {
	var below *wire
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		conn := got.Conn
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		below, _ = conn.(*wire)
	}})
	request := m.request(traced, x.run.target, s.seq)
	conn, response, err := websocket.Dial(traced, request.URL.String(), &websocket.DialOptions{
		HTTPClient: x.client, HTTPHeader: request.Header, Host: request.Host, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		r.Kind = failure(ctx, err, Connect)
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			r.Status, r.Sent = response.StatusCode, x.run.since()
			if r.Kind = answerOf(response).kind(); r.Kind == "" {
				r.Kind = UnexpectedStatus
			}
		}
		return false
	}
	conn.SetReadLimit(-1)
	instance := response.Header.Get(x.run.cfg.InstanceHeader)
	x.conn, x.instance = conn, instance[:min(len(instance), maxInstance)]
	x.answers, x.ended = make(chan int64, 64), make(chan struct{})
	below.dry, x.held = x.release, nil
	go x.read(context.WithoutCancel(ctx))
	return true
}

// read counts messages until the connection ends. They are answers when nothing more has come with them: whoever has the
// answer and sends the next message at once is to know of an end that came right behind it.
func (x *socket) read(ctx context.Context) {
	defer close(x.ended)
	for {
		_, r, err := x.conn.Reader(ctx)
		var n int64
		if err == nil {
			n, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			x.cause = err
			return
		}
		x.mu.Lock()
		x.held = append(x.held, n)
		x.mu.Unlock()
	}
}

// release makes answers of the messages that were read.
func (x *socket) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range x.held {
		select {
		case x.answers <- n:
		default: // many that nobody asked for: one more or less says nothing
		}
	}
	x.held = x.held[:0]
}
