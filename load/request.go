package load

import (
	"crypto/rand"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"trellis/errdefs"
)

// template is a request with everything in place but what differs from start to start.
type template struct {
	index   int
	method  string
	message message // of which the sequence number, the key and what body returns are missing
	head    []byte  // up to and with "X-Load-Seq: "
	key     string  // start of the Idempotency-Key, "" for none
	tail    []byte  // after the last line that differs: blank line and body
	body    func(seq uint64) []byte
}

// append writes the request of start seq behind b.
func (t *template) append(b []byte, seq uint64) []byte {
	b = append(b, t.head...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, "\r\n"...)
	if t.key != "" {
		b = append(b, IdempotencyHeader+": "...)
		b = append(b, t.key...)
		b = strconv.AppendUint(b, seq, 10)
		b = append(b, "\r\n"...)
	}
	if t.body == nil {
		return append(b, t.tail...)
	}
	body := t.body(seq)
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}

// whole is the request of start seq.
func (t *template) whole(seq uint64) message {
	m := t.message
	if t.key != "" {
		m.headers = append(slices.Clip(m.headers), fieldLine{IdempotencyHeader, t.key + strconv.FormatUint(seq, 10)})
	}
	if t.body != nil {
		m.body = t.body(seq)
	}
	return m
}

// mix gives every start its request.
type mix struct {
	templates []*template
	weights   []int
	total     int
}

// of spreads the requests evenly: multiples of the golden ratio fill the unit interval without clusters, so that any
// hundred starts in a row hold each request very nearly as often as its weight says.
func (m *mix) of(seq uint64) *template {
	if len(m.templates) == 1 {
		return m.templates[0]
	}
	point := int(math.Mod(float64(seq)*math.Phi, 1) * float64(m.total))
	for i, w := range m.weights {
		if point -= w; point < 0 {
			return m.templates[i]
		}
	}
	return m.templates[0]
}

func (c Config) templates(target *url.URL) (*mix, error) {
	requests := c.Mix
	if len(requests) == 0 {
		requests = []Request{{Method: c.Method, Body: c.Body, BodyFunc: c.BodyFunc}}
	}
	key := ""
	if c.IdempotencyKey {
		key = rand.Text() + "-"
	}
	m := &mix{}
	for i, q := range requests {
		t, err := c.template(target, q)
		if err != nil {
			return nil, fmt.Errorf("load %s: request %d: %w", c.URL, i, err)
		}
		t.index, t.key = i, key
		weight := max(q.Weight, 1)
		m.templates, m.weights, m.total = append(m.templates, t), append(m.weights, weight), m.total+weight
	}
	return m, nil
}

func (c Config) template(target *url.URL, q Request) (*template, error) {
	if q.Weight < 0 || q.Weight > 1e6 {
		return nil, fmt.Errorf("%w: weight %d: 1 to 1000000", errdefs.ErrInvalid, q.Weight)
	}
	hasBody := q.BodyFunc != nil || q.Body != nil
	method := q.Method
	if method == "" {
		method = http.MethodGet
		if hasBody {
			method = http.MethodPost
		}
	}
	if !httpguts.ValidHeaderFieldName(method) { // both are tokens
		return nil, fmt.Errorf("%w: method %q", errdefs.ErrInvalid, method)
	}
	if method == http.MethodConnect {
		return nil, fmt.Errorf("%w: method CONNECT asks for a tunnel, not an answer", errdefs.ErrInvalid)
	}
	uri, err := requestURI(target, q.Path)
	if err != nil {
		return nil, err
	}
	lines, err := c.headerLines(target, q)
	if err != nil {
		return nil, err
	}
	t := &template{
		method: method, body: q.BodyFunc, message: message{method: method, uri: uri, headers: lines, body: q.Body},
		head: []byte(method + " " + uri + " HTTP/1.1\r\n"),
	}
	for _, line := range lines {
		t.head = append(t.head, line.name+": "+line.value+"\r\n"...)
	}
	t.head = append(t.head, SeqHeader+": "...)
	t.message.hasBody = hasBody || method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
	if q.BodyFunc == nil {
		if t.message.hasBody {
			t.tail = fmt.Appendf(nil, "Content-Length: %d\r\n", len(q.Body))
		}
		t.tail = append(append(t.tail, "\r\n"...), q.Body...)
	}
	return t, nil
}

func requestURI(target *url.URL, path string) (string, error) {
	u := target
	if path != "" {
		parsed, err := url.Parse(path)
		if err != nil || parsed.Host != "" || parsed.Scheme != "" || !strings.HasPrefix(path, "/") {
			return "", fmt.Errorf("%w: path %q: must be a path on the target, starting with /", errdefs.ErrInvalid, path)
		}
		u = parsed
	}
	return strings.ReplaceAll(u.RequestURI(), " ", "%20"), nil
}

// headerLines are the header lines of all requests and of q, which wins, in the order of their names, Host first.
func (c Config) headerLines(target *url.URL, q Request) ([]fieldLine, error) {
	all := commonHeader(target)
	for _, header := range []http.Header{c.Header, q.Header} {
		if err := checkHeader(header); err != nil {
			return nil, err
		}
		for name, values := range header {
			all[http.CanonicalHeaderKey(name)] = values
		}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		if name != "Host" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var lines []fieldLine
	for _, name := range append([]string{"Host"}, names...) {
		for _, value := range all[name] {
			lines = append(lines, fieldLine{name, value})
		}
	}
	return lines, nil
}
