package load

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// streams makes exchanges over HTTP/2: Config.Streams of them share a connection.
func (r *run) streams() func(i int) exchange {
	transport := &http.Transport{TLSClientConfig: r.tls, DisableCompression: true, Protocols: new(http.Protocols)}
	scheme := "http"
	if r.tls != nil {
		scheme = "https"
		r.tls.NextProtos = nil // the transport sets them
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	conns := make([]*sharedConn, r.cfg.Connections)
	for i := range conns {
		conns[i] = &sharedConn{transport: transport, scheme: scheme, address: r.address, turn: make(chan struct{}, 1)}
	}
	return func(i int) exchange { return &stream{run: r, conn: conns[i%len(conns)]} }
}

// sharedConn is a connection for several hands, replaced by a new one when it ends or the server wants no more requests
// on it.
type sharedConn struct {
	transport       *http.Transport
	scheme, address string
	turn            chan struct{} // held by whoever looks at current or opens a connection
	current         *http.ClientConn
}

// get returns a connection that takes requests, and whether it was opened for this. It is another than worn.
func (c *sharedConn) get(ctx context.Context, worn *http.ClientConn) (conn *http.ClientConn, opened bool, err error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if c.current != nil && c.current != worn && c.current.Err() == nil {
		return c.current, false, nil
	}
	conn, err = c.transport.NewClientConn(ctx, c.scheme, c.address)
	if err != nil {
		return nil, false, err
	}
	c.current = conn
	return conn, true, nil
}

// stream is an exchange over HTTP/2. A connection carries no request a second time: what a GOAWAY or a reset refuses is a
// failure, as a close that crosses the request is on HTTP/1.1.
type stream struct {
	run  *run
	conn *sharedConn
}

func (x *stream) close(context.Context) {
	x.conn.turn <- struct{}{}
	defer func() { <-x.conn.turn }()
	if x.conn.current != nil {
		_ = x.conn.current.Close()
		x.conn.current = nil
	}
}

func (x *stream) do(ctx context.Context, s *start, r *Result) {
	m, err := s.message()
	if err != nil {
		r.Kind = Unsendable
		return
	}
	response, kind := x.send(ctx, &m, s.seq, r)
	if kind != "" {
		r.Kind = kind
		return
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 999 { // net/http reads any number here
		r.Kind = BadResponse
		return
	}
	sink := io.Discard
	var tap *capture
	if s.visit != nil {
		tap = s.visit.listen()
		tap.reset()
		for name, values := range response.Header {
			for _, v := range values {
				tap.field([]byte(name), []byte(v))
			}
		}
		sink = tap
	}
	n, err := io.Copy(sink, response.Body)
	if err != nil {
		r.Kind = failure(ctx, err, Truncated)
		return
	}
	r.Status, r.Bytes = response.StatusCode, n
	instance := response.Header.Get(x.run.cfg.InstanceHeader)
	r.Instance = strings.Clone(instance[:min(len(instance), maxInstance)])
	a := answerOf(response)
	switch {
	case x.run.cfg.GRPC != nil && r.Status == http.StatusOK:
		r.Kind = grpcKind(response, a)
		if r.Kind == Truncated || r.Kind == BadResponse {
			r.Status = 0
		}
	default:
		r.Kind = a.kind()
		if x.run.cfg.GRPC != nil && r.Kind == "" { // no call is answered by a 404, or by a page to sign in
			r.Kind = UnexpectedStatus
		}
	}
	if s.visit != nil {
		r.Kind = s.visit.judge(r.Status, r.Kind)
	}
}

// send returns the head of the answer, or the kind of failure.
func (x *stream) send(ctx context.Context, m *message, seq uint64, r *Result) (*http.Response, Kind) {
	var worn *http.ClientConn
	for {
		conn, opened, err := x.conn.get(ctx, worn)
		if err != nil {
			return nil, failure(ctx, err, Connect)
		}
		r.Sent = x.run.since()
		response, err := conn.RoundTrip(m.request(ctx, x.run.target, seq))
		if err == nil {
			return response, ""
		}
		if opened || !strings.Contains(err.Error(), "client conn not usable") {
			return nil, failure(ctx, err, broken(err))
		}
		worn = conn // it ended before anything was sent, which Err does not always know
	}
}

// broken is the kind of an error before the first byte of an answer. The texts are all that tells them apart: net/http
// keeps the types of these errors to itself.
func broken(err error) Kind {
	text := err.Error()
	switch {
	case strings.Contains(text, "GOAWAY"), strings.Contains(text, "REFUSED_STREAM"):
		return Refused
	case strings.Contains(text, "HTTP/1.1 header"):
		return BadResponse
	}
	return Reset
}

// answerOf is what decides about the kind of a response.
func answerOf(response *http.Response) answer {
	marker, marked := response.Header[http.CanonicalHeaderKey(MarkerHeader)]
	return answer{status: response.StatusCode, marked: marked, queue: marked && marker[0] == overloadKind}
}

// request makes m a request of net/http.
func (m *message) request(ctx context.Context, target *url.URL, seq uint64) *http.Request {
	u := &url.URL{Scheme: target.Scheme, Host: target.Host, Opaque: m.uri}
	if parsed, err := url.ParseRequestURI(m.uri); err == nil {
		parsed.Scheme, parsed.Host = target.Scheme, target.Host
		u = parsed
	}
	request := (&http.Request{Method: m.method, URL: u, Header: make(http.Header, len(m.headers)+1), Proto: "HTTP/2.0", ProtoMajor: 2}).WithContext(ctx)
	for _, h := range m.headers {
		if h.name == "Host" {
			request.Host = h.value
			continue
		}
		request.Header[h.name] = append(request.Header[h.name], h.value)
	}
	request.Header[SeqHeader] = []string{strconv.FormatUint(seq, 10)}
	if m.hasBody && len(m.body) > 0 {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(m.body)), int64(len(m.body))
	} else if m.hasBody {
		request.Body = http.NoBody
	}
	return request
}
