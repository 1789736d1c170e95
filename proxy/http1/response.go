package http1

import "bytes"

// Response is the head of a response.
type Response struct {
	Status int
	Reason string // may be empty
	Minor  int    // the x of HTTP/1.x, 0 or 1
	Header Header

	Length int64 // of the body: -1 unknown, and it is Chunked or lasts until the connection's end
	// Chunked says how a body of unknown length ends.
	Chunked bool
	Close   bool // the sender wants nothing more over this connection
	Named   bool // Connection names fields
}

// Parse reads a head from the start of b: the answer to a request with that method. It returns its length, 0 while b
// holds only a part of one. fresh is as for a request.
//
// A response is read less strictly than a request in one thing: lines may end with a bare line feed. It is written anew
// for whoever gets it, and programs that write so are about. How long it is has to be as clear as for a request: two
// readings of it on a connection that others use too would give one client the answer to another.
func (r *Response) Parse(b []byte, fresh int, method string, l Limits) (int, error) {
	n := 0
	if bytes.IndexByte(b[fresh:], '\n') >= 0 {
		var err error
		if n, err = r.parse(b, method, l); err != nil {
			return 0, err
		}
	}
	if n == 0 && len(b) > l.Head || n > l.Head {
		return 0, &Error{502, "response head too large"}
	}
	if n == 0 && (len(b) < 5 || string(b[:5]) != "HTTP/") && string(b) != "HTTP/"[:min(len(b), 5)] {
		return 0, bad("not a status line")
	}
	return n, nil
}

// looseLine returns the line of b that begins at i, without its end, and where the next one begins; 0 when it is not
// whole.
func looseLine(b []byte, i int) ([]byte, int) {
	n := bytes.IndexByte(b[i:], '\n')
	if n < 0 {
		return nil, 0
	}
	end := i + n
	if n > 0 && b[end-1] == '\r' {
		end--
	}
	return b[i:end], i + n + 1
}

func (r *Response) parse(b []byte, method string, l Limits) (int, error) {
	first, i := looseLine(b, 0)
	*r = Response{Header: r.Header[:0]}
	if err := r.parseLine(first); err != nil {
		return 0, err
	}
	for {
		field, next := looseLine(b, i)
		if next == 0 {
			return 0, nil
		}
		i = next
		if len(field) == 0 {
			break
		}
		if len(r.Header) == l.Fields {
			return 0, bad("too many header fields")
		}
		f, err := parseField(field)
		if err != nil {
			return 0, err
		}
		r.Header = append(r.Header, f)
	}
	if err := r.understand(method); err != nil {
		return 0, err
	}
	return i, nil
}

// parseLine reads the status line.
func (r *Response) parseLine(b []byte) *Error {
	if len(b) < 12 || string(b[:7]) != "HTTP/1." || b[7] != '0' && b[7] != '1' || b[8] != ' ' || len(b) > 12 && b[12] != ' ' {
		return bad("malformed status line")
	}
	n, ok := digits(str(b[9:12]))
	if !ok || n < 100 {
		return bad("malformed status")
	}
	r.Minor, r.Status = int(b[7]-'0'), int(n)
	if len(b) > 13 {
		if !text(b[13:]) {
			return bad("malformed status line")
		}
		r.Reason = str(b[13:])
	}
	return nil
}

func (r *Response) understand(method string) *Error {
	var length, coding *Field
	keep, twice := false, false
	for i := range r.Header {
		f := &r.Header[i]
		switch f.Kind {
		case ContentLength:
			if length != nil && length.Value != f.Value {
				return bad("two Content-Length fields")
			}
			twice = length != nil
			length = f
		case TransferEncoding:
			if coding != nil {
				return bad("two Transfer-Encoding fields")
			}
			coding = f
		case Connection:
			for t := range Tokens(f.Value) {
				switch {
				case equalFold(t, "close"):
					r.Close = true
				case equalFold(t, "keep-alive"):
					keep = true
				case equalFold(t, "upgrade"):
				default:
					r.Named = true
				}
			}
		}
	}
	r.Close = r.Close || r.Minor == 0 && !keep
	return r.frame(method, length, coding, twice)
}

// frame finds out how long the body is: RFC 9112, section 6.3.
func (r *Response) frame(method string, length, coding *Field, twice bool) *Error {
	r.Length = -1
	if length != nil {
		n, ok := digits(length.Value)
		if !ok {
			return bad("malformed Content-Length")
		}
		r.Length = n
		if twice { // the same number again: one of them goes on
			value := length.Value
			r.Header.Set("Content-Length", value)
		}
	}
	switch {
	case coding != nil && length != nil:
		return bad("both Transfer-Encoding and Content-Length")
	case coding != nil && (r.Minor == 0 || !equalFold(coding.Value, "chunked")):
		return bad("a transfer coding that is not chunked")
	case !r.HasBody(method):
		if length == nil {
			r.Length = 0
		}
		return nil
	case coding != nil:
		r.Chunked = true
	case length == nil:
		r.Close = true
	}
	return nil
}

// HasBody says whether a response with that status to a request with that method has a body, be it an empty one.
func (r *Response) HasBody(method string) bool {
	return r.Status >= 200 && r.Status != 204 && r.Status != 304 && method != "HEAD"
}
