package load

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// visit is one visitor on its way through a scenario. It is in the hands of one party at a time: of the run while it
// waits, of a worker while a request of it is under way.
type visit struct {
	of     *journey
	number uint64
	random *rand.Rand
	values map[string]string
	jar    *cookiejar.Jar // nil until an answer sets a cookie
	plan   []*step        // what it does, drawn at its start
	next   int            // index into plan
	first  int            // the first next
	begun  time.Duration  // intended
	due    time.Duration  // of the next request
	tap    capture
	page   *[]byte // what tap's body is in, between listen and judge
	at     string  // URI of the request under way
	why    string  // what was wrong with the step, in words
}

// journey is a scenario against one target: what all visits of a run share.
type journey struct {
	scenario *Scenario
	base     *url.URL
	headers  [][]field // by step
	seed     uint64
	key      bool      // every request gets an IdempotencyHeader
	pages    sync.Pool // of *[]byte: what answers are kept in while they are looked at
}

// field is a header line; its text may need values.
type field struct {
	name string
	text text
}

// message is a request with everything in place.
type message struct {
	method, uri string
	headers     []fieldLine // Host first
	body        []byte
	hasBody     bool
}

type fieldLine struct{ name, value string }

func newJourney(c Config, target *url.URL) *journey {
	j := &journey{scenario: c.Scenario, base: target, seed: c.Seed, key: c.IdempotencyKey}
	for _, s := range c.Scenario.steps {
		all := commonHeader(target)
		for name, values := range c.Header {
			all[http.CanonicalHeaderKey(name)] = values
		}
		switch {
		case s.form != nil:
			all.Set("Content-Type", "application/x-www-form-urlencoded")
		case s.json != nil:
			all.Set("Content-Type", "application/json")
		}
		var fields []field
		for name, values := range all {
			if _, own := s.headers[name]; !own {
				for _, v := range values {
					fields = append(fields, field{name, text{parts: []part{{literal: v}}}})
				}
			}
		}
		for name, t := range s.headers {
			fields = append(fields, field{name, t})
		}
		sort.SliceStable(fields, func(i, k int) bool {
			if host := fields[i].name == "Host"; host || fields[k].name == "Host" {
				return host && fields[k].name != "Host"
			}
			return fields[i].name < fields[k].name
		})
		j.headers = append(j.headers, fields)
	}
	return j
}

// commonHeader is what every request has.
func commonHeader(target *url.URL) http.Header {
	all := http.Header{"Host": {target.Host}, "User-Agent": {"trellis-load"}, "Accept": {"*/*"}}
	if target.User != nil {
		password, _ := target.User.Password()
		credentials := target.User.Username() + ":" + password
		all.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(credentials)))
	}
	return all
}

// visit draws visit number: what it does and the values of its variables.
func (j *journey) visit(number uint64, at time.Duration) *visit {
	v := &visit{of: j, number: number, random: rand.New(rand.NewPCG(j.seed, number)), values: map[string]string{}, begun: at}
	for _, variable := range j.scenario.variables {
		t := variable.values[v.random.IntN(len(variable.values))]
		v.values[variable.name], _ = t.with(v.value) // needs only what every visit has
	}
	v.draw(j.scenario.nodes)
	if v.next = -1; v.advance() {
		v.due = at + v.pause()
	}
	v.first = v.next
	return v
}

func (v *visit) draw(nodes []node) {
	for i := range nodes {
		n := &nodes[i]
		if n.chance < 1 && v.random.Float64() >= n.chance {
			continue
		}
		for range n.repeat.least + v.random.IntN(n.repeat.most-n.repeat.least+1) {
			switch {
			case n.step != nil:
				v.plan = append(v.plan, n.step)
			case n.choose:
				point := v.random.IntN(n.weights)
				for k := range n.children {
					if point -= n.children[k].weight; point < 0 {
						v.draw(n.children[k : k+1])
						break
					}
				}
			default:
				v.draw(n.children)
			}
		}
	}
}

// step is the one that is next or under way.
func (v *visit) step() *step { return v.plan[v.next] }

// advance goes to the next step that the visit has the values for; false says that there is none.
func (v *visit) advance() bool {
	for v.next++; v.next < len(v.plan); v.next++ {
		if !slices.ContainsFunc(v.step().when, func(name string) bool { value, _ := v.value(name); return value == "" }) {
			return true
		}
	}
	return false
}

// pause draws how long the visitor waits before the next step.
func (v *visit) pause() time.Duration {
	think := v.step().think
	return think.least + time.Duration(v.random.Int64N(int64(think.most-think.least)+1))
}

// value is what {name} stands for.
func (v *visit) value(name string) (string, bool) {
	switch name {
	case "visit":
		return strconv.FormatUint(v.number, 10), true
	case "random":
		return fmt.Sprintf("%016x", v.random.Uint64()), true
	case "uuid": // version 4, RFC 9562
		a, b := v.random.Uint64(), v.random.Uint64()
		return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>48&0x3fff|0x8000, b&0xffffffffffff), true
	}
	value, ok := v.values[name]
	return value, ok
}

// request makes the request of the next step.
func (v *visit) request() (message, error) {
	m, err := v.message()
	if err != nil {
		v.why = err.Error()
	}
	return m, err
}

func (v *visit) message() (message, error) {
	s := v.step()
	m := message{method: s.method}
	var err error
	if m.uri, err = v.uri(s); err != nil {
		return m, err
	}
	v.at = m.uri
	jarred := ""
	if v.jar != nil {
		jarred = v.cookies(m.uri)
	}
	for _, f := range v.of.headers[s.index] {
		value, err := f.text.with(v.value)
		if err != nil {
			return m, err
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return m, fmt.Errorf("header %s: %.80q is not a header's value", f.name, value)
		}
		if f.name == "Cookie" {
			jarred = ""
		}
		m.headers = append(m.headers, fieldLine{f.name, value})
	}
	if v.of.key {
		id, _ := v.value("uuid")
		m.headers = append(m.headers, fieldLine{IdempotencyHeader, id})
	}
	if jarred != "" {
		m.headers = append(m.headers, fieldLine{"Cookie", jarred})
	}
	m.body, m.hasBody, err = v.body(s)
	return m, err
}

func (v *visit) uri(s *step) (string, error) {
	path, err := s.path.uri(v.value)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(path)
	if err != nil {
		return "", fmt.Errorf("path %.200q: not a path", path)
	}
	base := v.of.base
	if u.Host != "" && (u.Host != base.Host || u.Scheme != "" && u.Scheme != base.Scheme) || u.Host == "" && !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("path %.200q: leads away from %s", path, base.Host)
	}
	return strings.ReplaceAll(u.RequestURI(), " ", "%20"), nil
}

func (v *visit) body(s *step) ([]byte, bool, error) {
	switch {
	case s.body != nil:
		body, err := s.body.with(v.value)
		return []byte(body), true, err
	case s.form != nil:
		form := make(url.Values, len(s.form))
		for name, t := range s.form {
			value, err := t.with(v.value)
			if err != nil {
				return nil, true, err
			}
			form.Set(name, value)
		}
		return []byte(form.Encode()), true, nil
	case s.json != nil:
		filled, err := jsonWith(s.json, v.value)
		if err != nil {
			return nil, true, err
		}
		body, err := json.Marshal(filled)
		return body, true, err
	}
	return nil, s.method == http.MethodPost || s.method == http.MethodPut || s.method == http.MethodPatch, nil
}

func (v *visit) url(uri string) *url.URL {
	u, err := url.Parse(uri)
	if err != nil {
		u = &url.URL{Path: "/"}
	}
	u.Scheme, u.Host = v.of.base.Scheme, v.of.base.Host
	return u
}

func (v *visit) cookies(uri string) string {
	var b strings.Builder
	for i, c := range v.jar.Cookies(v.url(uri)) {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(c.Name + "=" + c.Value)
	}
	return b.String()
}

// append writes the request as HTTP/1.1 behind b.
func (m *message) append(b []byte, seq uint64) []byte {
	b = append(b, m.method...)
	b = append(b, ' ')
	b = append(b, m.uri...)
	b = append(b, " HTTP/1.1\r\n"...)
	for _, h := range m.headers {
		b = append(b, h.name...)
		b = append(b, ": "...)
		b = append(b, h.value...)
		b = append(b, "\r\n"...)
	}
	b = append(b, SeqHeader+": "...)
	b = strconv.AppendUint(b, seq, 10)
	if m.hasBody {
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(m.body)), 10)
	}
	b = append(b, "\r\n\r\n"...)
	return append(b, m.body...)
}
