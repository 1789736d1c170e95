package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"trellis/errdefs"
)

// router finds the route of a request. It is compiled once from a snapshot, immutable, and matches without allocating.
//
// A path is exact ("/a/b"), has parameters that each stand for one segment ("/a/{id}/b"), or ends in "/*", which
// matches the path before it and everything below: "/a/*" matches "/a", "/a/" and "/a/b", not "/ab". A host "*.a.org"
// matches every name below a.org. A route for GET answers HEAD too. A header matches when the request has it once, with
// exactly that value.
type router struct {
	exact    map[string]*hostRoutes
	wildcard map[string]*hostRoutes // by the suffix, with its dot
	any      *hostRoutes
	all      []*route // in the order of the snapshot
}

// hostRoutes are the routes of one host. An exact path is never less specific than a pattern that matches too, so
// patterns are asked second: by the literal segments that they begin with, the longest first.
type hostRoutes struct {
	exact    map[string][]*route
	patterns map[string][]*route // by prefix: "/a/b" for "/a/b/{id}" and "/a/b/*", "" for "/*"
	longest  int                 // length of the longest prefix
}

// route is a compiled Route.
type route struct {
	service string
	pattern string // the path as the file has it
	port    int
	timeout time.Duration // 0: the default
	try     time.Duration // of one attempt; 0: timeout
	source  string
	again   bool    // Decision.Idempotent
	policy  *policy // nil: none

	segments []string // of a pattern; "{" stands for any one segment
	tail     bool     // ends in "/*"
	methods  []string // sorted; HEAD added to GET
	headers  []headerMatch

	literal int // bytes of the path before the first parameter or wildcard
	kind    int // 0 exact, 1 with parameters, 2 with a wildcard
	length  int // bytes of all literal segments
	order   int // place in the file
}

type headerMatch struct{ key, value string }

// newRouter compiles routes. Every error of all routes is in the one that it returns.
func newRouter(routes []Route) (*router, error) {
	r := &router{exact: map[string]*hostRoutes{}, wildcard: map[string]*hostRoutes{}, any: newHostRoutes()}
	var errs []error
	for i, in := range routes {
		c, literal, err := compileRoute(in)
		r.all = append(r.all, c)
		if err != nil {
			errs = append(errs, fmt.Errorf("route %d %s: %w", i, in.Source, err))
			continue
		}
		c.order = i
		h, err := r.host(in.Host)
		if err != nil {
			errs = append(errs, fmt.Errorf("route %d %s: %w", i, in.Source, err))
			continue
		}
		if c.kind == 0 {
			h.exact[literal] = append(h.exact[literal], c)
		} else {
			h.patterns[literal] = append(h.patterns[literal], c)
			h.longest = max(h.longest, len(literal))
		}
	}
	r.each((*hostRoutes).sort)
	return r, errors.Join(errs...)
}

// ofSnapshot returns the i-th route of the snapshot, nil where it was refused.
func (r *router) ofSnapshot(i int) *route {
	if i < len(r.all) {
		return r.all[i]
	}
	return nil
}

func newHostRoutes() *hostRoutes {
	return &hostRoutes{exact: map[string][]*route{}, patterns: map[string][]*route{}}
}

func (r *router) each(do func(*hostRoutes)) {
	do(r.any)
	for _, h := range r.exact {
		do(h)
	}
	for _, h := range r.wildcard {
		do(h)
	}
}

// host returns the routes of a host as a Route writes it, made when it is new.
func (r *router) host(name string) (*hostRoutes, error) {
	if name == "" || name == "*" {
		return r.any, nil
	}
	set, key := r.exact, name
	if strings.HasPrefix(name, "*.") {
		set, key = r.wildcard, name[2:]
	}
	key, ok := normalHost(key)
	if !ok {
		return nil, fmt.Errorf("%w: host %q", errdefs.ErrInvalid, name)
	}
	if strings.HasPrefix(name, "*.") {
		key = "." + key
	}
	if set[key] == nil {
		set[key] = newHostRoutes()
	}
	return set[key], nil
}

// compileRoute returns the compiled route and the literal beginning of its path, in normal form: all of an exact one.
func compileRoute(in Route) (*route, string, error) {
	c := &route{service: in.Service, pattern: cmp.Or(in.Path, "/*"), port: in.Port, timeout: in.Timeout, try: in.Try, source: in.Source, again: in.Idempotent}
	for _, m := range in.Methods {
		if m == "" || strings.ContainsAny(m, " \t\r\n,") {
			return nil, "", fmt.Errorf("%w: method %q", errdefs.ErrInvalid, m)
		}
		c.methods = append(c.methods, m)
		if m == "GET" {
			c.methods = append(c.methods, "HEAD")
		}
	}
	slices.Sort(c.methods)
	c.methods = slices.Compact(c.methods)
	for k, v := range in.Headers {
		c.headers = append(c.headers, headerMatch{k, v})
	}
	path, err := c.compilePath(in.Path)
	return c, path, err
}

func (c *route) compilePath(in string) (string, error) {
	if in == "" || in == "*" {
		in = "/*"
	}
	path, tail := strings.CutSuffix(in, "/*")
	c.tail = tail
	if tail && path == "" {
		c.kind = 2
		return "", nil
	}
	var segments []string
	literal := true
	for s := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if len(s) > 2 && s[0] == '{' && s[len(s)-1] == '}' && !strings.ContainsAny(s[1:len(s)-1], "{}") {
			segments, literal = append(segments, "{"), false
			continue
		}
		if strings.ContainsAny(s, "{}*?") {
			return "", fmt.Errorf("%w: path %q: a parameter is a whole segment, a wildcard is the last", errdefs.ErrInvalid, in)
		}
		n, ok := normalPath("/" + s)
		if !ok || path[0] != '/' || s == "" && tail {
			return "", fmt.Errorf("%w: path %q", errdefs.ErrInvalid, in)
		}
		segments = append(segments, n[1:])
		c.length += len(n)
		if literal {
			c.literal += len(n)
		}
	}
	if strings.Contains("/"+strings.Join(segments, "/"), "//") {
		return "", fmt.Errorf("%w: path %q", errdefs.ErrInvalid, in)
	}
	c.segments = segments
	prefix := ""
	for _, s := range segments {
		if s == "{" {
			break
		}
		prefix += "/" + s
	}
	if !literal {
		c.kind, c.literal = 1, c.literal+1 // the slash before the parameter
	}
	if tail {
		c.kind = 2
	}
	return prefix, nil
}

// moreSpecific is the order of precedence among the routes of one host.
func moreSpecific(a, b *route) int {
	return cmp.Or(
		cmp.Compare(b.literal, a.literal),
		cmp.Compare(a.kind, b.kind),
		cmp.Compare(b.length, a.length),
		cmp.Compare(len(b.segments), len(a.segments)),
		cmp.Compare(len(b.headers), len(a.headers)),
		cmp.Compare(min(len(b.methods), 1), min(len(a.methods), 1)),
		cmp.Compare(a.order, b.order),
	)
}

func (h *hostRoutes) sort() {
	for _, list := range h.patterns {
		slices.SortFunc(list, moreSpecific)
	}
	for _, list := range h.exact {
		slices.SortFunc(list, moreSpecific)
	}
}

// match returns the route of a request: host and path in normal form. Without one it returns what Allow has to say: nil
// when no route would take the request with any method.
func (r *router) match(host, path, method string, h header) (*route, []string) {
	if found := r.find(host, path, method, h, nil); found != nil {
		return found, nil
	}
	var allow []string
	r.find(host, path, "", h, &allow)
	slices.Sort(allow)
	return nil, slices.Compact(allow)
}

// find walks the routes by precedence. With allow it collects the methods of all that match but for the method.
func (r *router) find(host, path, method string, h header, allow *[]string) *route {
	if routes := r.exact[host]; routes != nil {
		if found := routes.find(path, method, h, allow); found != nil {
			return found
		}
	}
	if len(r.wildcard) > 0 {
		for i := 1; i < len(host); i++ {
			if host[i] != '.' {
				continue
			}
			if routes := r.wildcard[host[i:]]; routes != nil {
				if found := routes.find(path, method, h, allow); found != nil {
					return found
				}
			}
		}
	}
	return r.any.find(path, method, h, allow)
}

func (rs *hostRoutes) find(path, method string, h header, allow *[]string) *route {
	for _, c := range rs.exact[path] {
		if c.takes(method, h, allow) {
			return c
		}
	}
	end := len(path)
	if end > rs.longest { // no prefix is longer: a path of a thousand segments costs no more
		end = strings.LastIndexByte(path[:rs.longest+1], '/')
	}
	for ; end >= 0; end = strings.LastIndexByte(path[:end], '/') {
		for _, c := range rs.patterns[path[:end]] {
			if c.matchPath(path) && c.takes(method, h, allow) {
				return c
			}
		}
	}
	return nil
}

// matchPath says whether a path matches the pattern.
func (c *route) matchPath(path string) bool {
	rest := path
	for i, want := range c.segments {
		if rest == "" {
			return false
		}
		rest = rest[1:]
		segment := rest
		if j := strings.IndexByte(rest, '/'); j >= 0 {
			segment, rest = rest[:j], rest[j:]
		} else {
			rest = ""
		}
		if want == "{" {
			if segment == "" {
				return false
			}
		} else if segment != want {
			return false
		}
		if i == len(c.segments)-1 {
			break
		}
	}
	return c.tail || rest == ""
}

// takes says whether headers and method match; with allow it notes the methods instead and never does.
func (c *route) takes(method string, h header, allow *[]string) bool {
	for _, m := range c.headers {
		if v, ok := h.Only(m.key); !ok || v != m.value {
			return false
		}
	}
	if allow != nil {
		*allow = append(*allow, c.methods...)
		return false
	}
	if len(c.methods) == 0 {
		return true
	}
	for _, m := range c.methods {
		if m == method {
			return true
		}
	}
	return false
}
