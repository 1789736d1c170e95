package http1

import "bytes"

// Request is the head of a request.
type Request struct {
	Method string
	Target string // as it was sent, in origin, absolute or asterisk form; CONNECT's is an authority
	Minor  int    // the x of HTTP/1.x, 0 or 1
	Host   string // of the Host field, "" only for HTTP/1.0
	Header Header

	Length int64 // of the body: 0 there is none, -1 it is chunked

	Close     bool // the client wants nothing more over this connection
	KeepAlive bool // an HTTP/1.0 client wants to go on
	Expect    bool // it waits for 100 Continue
	Upgrade   bool // Connection names Upgrade
	Trailers  bool // TE has trailers
	Named     bool // Connection names other fields
}

// Parse reads a head from the start of b. It returns its length, 0 while b holds only a part of one. fresh is from where
// on b holds bytes that no earlier call has seen: without a line's end among them, b is not read again.
//
// The error, if any, is an *Error, and final: nothing that may follow in b would make it right.
func (r *Request) Parse(b []byte, fresh int, l Limits) (int, error) {
	if bytes.IndexByte(b[fresh:], '\n') >= 0 {
		n, err := r.parse(b, l)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			return n, nil
		}
	}
	if err := partial(b, l); err != nil {
		return 0, err
	}
	return 0, nil
}

// partial refuses what can't become a head any more.
func partial(b []byte, l Limits) *Error {
	line := b[bytes.LastIndexByte(b, '\n')+1:]
	if len(line) == len(b) && len(b) > l.Target+2*maxMethod {
		return &Error{414, "request target too long"}
	}
	if len(b) > l.Head {
		return &Error{431, "request head too large"}
	}
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if !text(line) {
		return bad("control character in the head")
	}
	return nil
}

const maxMethod = 32

// line returns the line of b that begins at i, without its end, and where the next one begins; 0 when it is not whole.
func line(b []byte, i int) ([]byte, int, *Error) {
	n := bytes.IndexByte(b[i:], '\n')
	switch {
	case n < 0:
		return nil, 0, nil
	case n == 0 || b[i+n-1] != '\r':
		return nil, 0, bad("a line ends with a bare line feed")
	}
	return b[i : i+n-1], i + n + 1, nil
}

func (r *Request) parse(b []byte, l Limits) (int, error) {
	first, i, err := line(b, 0)
	if err != nil {
		return 0, err
	}
	*r = Request{Header: r.Header[:0]}
	if err := r.parseLine(first, l); err != nil {
		return 0, err
	}
	for {
		field, next, err := line(b, i)
		switch {
		case err != nil:
			return 0, err
		case next == 0:
			return 0, nil
		case next > l.Head:
			return 0, &Error{431, "request head too large"}
		}
		i = next
		if len(field) == 0 {
			break
		}
		if len(r.Header) == l.Fields {
			return 0, &Error{431, "too many header fields"}
		}
		f, err := parseField(field)
		if err != nil {
			return 0, err
		}
		r.Header = append(r.Header, f)
	}
	if err := r.understand(); err != nil {
		return 0, err
	}
	return i, nil
}

// parseLine reads the request line.
func (r *Request) parseLine(b []byte, l Limits) *Error {
	n := 0
	for n < len(b) && class[b[n]]&token != 0 {
		n++
	}
	if n == 0 || n > maxMethod || n == len(b) || b[n] != ' ' {
		return bad("malformed request line")
	}
	r.Method = str(b[:n])
	target := b[n+1:]
	n = bytes.IndexByte(target, ' ')
	if n <= 0 || !all(target[:n], visible) {
		return bad("malformed request line")
	}
	if n > l.Target {
		return &Error{414, "request target too long"}
	}
	version := target[n+1:]
	r.Target = str(target[:n])
	switch {
	case string(version) == "HTTP/1.1":
		r.Minor = 1
	case string(version) == "HTTP/1.0":
	case len(version) == 8 && string(version[:5]) == "HTTP/" && version[6] == '.' && digit(version[5]) && digit(version[7]):
		return &Error{505, "HTTP version not supported"}
	default:
		return bad("malformed HTTP version")
	}
	return nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// understand reads the fields that have to do with the message itself.
func (r *Request) understand() *Error {
	var host, length, coding, expect *Field
	for i := range r.Header {
		f := &r.Header[i]
		switch f.Kind {
		case Other:
		case Host:
			if host != nil {
				return bad("more than one Host field")
			}
			host = f
		case ContentLength:
			if length != nil {
				return bad("more than one Content-Length field")
			}
			length = f
		case TransferEncoding:
			if coding != nil {
				return bad("more than one Transfer-Encoding field")
			}
			coding = f
		case Expect:
			if expect != nil {
				return &Error{417, "more than one Expect field"}
			}
			expect = f
		case Connection:
			r.connection(f.Value)
		case TE:
			for t := range Tokens(f.Value) {
				r.Trailers = r.Trailers || equalFold(t, "trailers")
			}
		}
	}
	if host != nil {
		r.Host = host.Value
	}
	if r.Host == "" && (r.Minor == 1 || host != nil) {
		return bad("no Host, or an empty one")
	}
	if err := r.frame(length, coding); err != nil {
		return err
	}
	if expect != nil && r.Minor == 1 {
		if !equalFold(expect.Value, "100-continue") {
			return &Error{417, "expectation not known"}
		}
		r.Expect = r.Length != 0
	}
	r.Close = r.Close || r.Minor == 0 && !r.KeepAlive
	return nil
}

func (r *Request) connection(list string) {
	for t := range Tokens(list) {
		switch {
		case equalFold(t, "close"):
			r.Close = true
		case equalFold(t, "keep-alive"):
			r.KeepAlive = r.Minor == 0
		case equalFold(t, "upgrade"):
			r.Upgrade = r.Minor == 1
		case equalFold(t, "te"):
		default:
			r.Named = true
		}
	}
}

// frame finds out how long the body is. RFC 9112, section 6, with every case in which two readers of a request have come
// to different lengths refused.
func (r *Request) frame(length, coding *Field) *Error {
	switch {
	case coding != nil && length != nil:
		return bad("both Transfer-Encoding and Content-Length")
	case coding != nil && r.Minor == 0:
		return bad("Transfer-Encoding in HTTP/1.0")
	case coding != nil:
		if !equalFold(coding.Value, "chunked") {
			return bad("a transfer coding that is not chunked")
		}
		r.Length = -1
	case length != nil:
		n, ok := digits(length.Value)
		if !ok {
			return bad("malformed Content-Length")
		}
		r.Length = n
	}
	return nil
}
