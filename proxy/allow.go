package proxy

import (
	"bufio"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Refusal counts calls that a service made to another one without being allowed to.
type Refusal struct {
	Caller string `json:"caller"`
	Callee string `json:"callee"`
	Count  uint64 `json:"count"` // cumulative since the data plane started
}

// refusals count what was refused.
type refusals struct {
	mu    sync.Mutex
	count map[Refusal]uint64 // Count is 0 in the key
	total uint64
}

func (r *refusals) note(caller, callee string) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		r.count = map[Refusal]uint64{}
	}
	key := Refusal{Caller: caller, Callee: callee}
	r.count[key]++
	r.total++
	return r.count[key] == 1
}

// since returns all counts, where they are not those of a total that was told already.
func (r *refusals) since(total uint64) ([]Refusal, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.total == total {
		return nil, total
	}
	all := make([]Refusal, 0, len(r.count))
	for key, n := range maps.All(r.count) {
		key.Count = n
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b Refusal) int { return strings.Compare(a.Caller+"\x00"+a.Callee, b.Caller+"\x00"+b.Callee) })
	return all, r.total
}

// refuses says whether a call over l is not allowed. It asks the newest snapshot: a connection that was made when it was
// allowed serves no longer.
func (t *table) refuses(l *Listener) bool {
	if l.Caller == "" {
		return false
	}
	now := t.listeners[l.Name]
	return now != nil && slices.Contains(now.Refused, l.Service)
}

// refused notes a call that is not allowed and says so in words.
func (p *Proxy) refused(l *Listener) string {
	if p.refusals.note(l.Caller, l.Service) {
		p.log.Warn("call refused", "service", l.Caller, "callee", l.Service)
	}
	return l.Caller + " may not call " + l.Service + ": it stands neither in its calls nor in its depends_on"
}

// refuseTime is how long a client that is refused has to say what it speaks, so that it can be told in words.
const refuseTime = 500 * time.Millisecond

// refuse ends a connection to a service that its caller may not call, in the words of what it speaks: HTTP is answered by
// the HTTP side, request by request, PostgreSQL here; anything else is reset.
func (p *Proxy) refuse(c *clientConn, l *Listener) {
	k, err := c.peek(refuseTime)
	if err == nil && (k == plainHTTP || k == http2Preface) {
		p.serveHTTP(c)
		return
	}
	defer c.Close()
	why := p.refused(l)
	if err == nil && c.refusePostgres(why) {
		return
	}
	c.tcp.SetLinger(0)
}

// Codes of PostgreSQL's frontend protocol (its manual, section 54.7).
const (
	pgSSL     = 80877103
	pgGSS     = 80877104
	pgVersion = 3 << 16
	pgLongest = 10000 // of a startup message
)

// refusePostgres answers a client of PostgreSQL; false says that it is none.
func (c *clientConn) refusePostgres(why string) bool {
	c.tcp.SetDeadline(time.Now().Add(refuseTime))
	r := bufio.NewReader(c)
	for range 3 { // it may ask for encryption, of two kinds, first
		head, err := r.Peek(8)
		if err != nil {
			return false
		}
		length, code := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
		switch {
		case length == 8 && (code == pgSSL || code == pgGSS):
			r.Discard(8)
			if _, err := io.WriteString(c.tcp, "N"); err != nil {
				return true
			}
			continue
		case code>>16 != pgVersion>>16 || length < 8 || length > pgLongest:
			return false
		}
		r.Discard(int(length)) // what is unread when a connection closes would take the answer away
		c.tcp.Write(pgError(why))
		c.tcp.CloseWrite()
		io.Copy(io.Discard, r)
		return true
	}
	return false
}

// pgError is an ErrorResponse with the code of a role that may not log in.
func pgError(message string) []byte {
	body := "SFATAL\x00VFATAL\x00C28000\x00M" + message + "\x00\x00"
	b := append([]byte{'E'}, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(4+len(body)))
	return append(b, body...)
}
