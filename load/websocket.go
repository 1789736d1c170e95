package load

import (
	"context"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// webSockets makes exchanges over a WebSocket each: a start is a message, and the next message from the server is its
// answer.
func (r *run) webSockets() func(i int) exchange {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: r.tls, DisableKeepAlives: true}}
	return func(int) exchange { return &socket{run: r, client: client} }
}

// socket is an exchange over a WebSocket, which is opened when it is first needed and again after it has ended. An end
// that the server announced (1000, 1001 or 1012) while nothing was under way is no failure; any other is one of the next
// message.
type socket struct {
	run    *run
	client *http.Client

	conn     *websocket.Conn
	instance string
	answers  chan int64    // sizes of messages
	ended    chan struct{} // closed when nothing more is read
	cause    error         // why; readable after ended is closed
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
	if x.conn != nil && x.over() {
		announced := x.announced()
		x.drop()
		if !announced {
			r.Kind = Reset
			return
		}
	}
	if x.conn == nil && !x.open(ctx, s, &m, r) {
		return
	}
	for len(x.answers) > 0 { // what nobody asked for
		<-x.answers
	}
	kind := websocket.MessageText
	if !utf8.Valid(m.body) {
		kind = websocket.MessageBinary
	}
	r.Sent = x.run.since()
	err = x.conn.Write(ctx, kind, m.body)
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

// answer returns the size of the next message, also of one that came right before the end.
func (x *socket) answer(ctx context.Context) (int64, error) {
	select {
	case n := <-x.answers:
		return n, nil
	case <-x.ended:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
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
	request := m.request(ctx, x.run.target, s.seq)
	conn, response, err := websocket.Dial(ctx, request.URL.String(), &websocket.DialOptions{
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
	go x.read(context.WithoutCancel(ctx), x.conn, x.answers, x.ended)
	return true
}

// read counts messages until the connection ends.
func (x *socket) read(ctx context.Context, conn *websocket.Conn, answers chan<- int64, ended chan<- struct{}) {
	defer close(ended)
	for {
		_, r, err := conn.Reader(ctx)
		var n int64
		if err == nil {
			n, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			x.cause = err
			return
		}
		select {
		case answers <- n:
		default: // many that nobody asked for: one more or less says nothing
		}
	}
}
