package kubernetes

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"trellis/compose"
	"trellis/lazyregexp"
)

// methods are those that a match of the Gateway API knows.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

// matches are what a route matches, one for each method. false: a gateway cannot match it, and it is closed.
func (r *renderer) matches(x *routing) ([]gatewayv1.HTTPRouteMatch, bool) {
	base := gatewayv1.HTTPRouteMatch{Path: r.pathMatch(*x)}
	for _, name := range slices.Sorted(maps.Keys(x.route.Headers)) {
		if x.route.Headers[name] == "" {
			r.close(x, compose.JoinPath(x.path+".headers", name), "the Gateway API matches no header that is empty")
			return nil, false
		}
		base.Headers = append(base.Headers, gatewayv1.HTTPHeaderMatch{Name: gatewayv1.HTTPHeaderName(name), Value: x.route.Headers[name]})
	}
	if len(base.Headers) > maxFields {
		r.close(x, x.path+".headers", "more than %d of them cannot be matched", maxFields)
		return nil, false
	}
	if len(x.route.Methods) == 0 {
		return []gatewayv1.HTTPRouteMatch{base}, true
	}
	var all []gatewayv1.HTTPRouteMatch
	for i, method := range x.route.Methods {
		if !slices.Contains(methods, method) {
			r.note(x.path+".methods"+index(i), "has no effect: the Gateway API knows no method %s", method)
			continue
		}
		if slices.Index(x.route.Methods, method) < i {
			continue
		}
		both := []string{method}
		if method == "GET" && !slices.Contains(x.route.Methods, "HEAD") {
			both = append(both, "HEAD") // as everywhere in HTTP, but not to a gateway
		}
		for _, method := range both {
			one := *base.DeepCopy()
			one.Method = pointer(gatewayv1.HTTPMethod(method))
			all = append(all, one)
		}
	}
	if len(all) == 0 {
		x.closed = "the Gateway API knows none of its methods"
	}
	return all, len(all) > 0
}

// maxFields is how many header fields a list of the Gateway API may have.
const maxFields = 16

// plainPath are the paths that the Gateway API takes as they are.
var plainPath = lazyregexp.New(`^[-A-Za-z0-9/._~!$&'()*+,;=:@%]+$`)

// pathMatch is a route's path: exact, a prefix, or with parameters as a regular expression. Some gateways hold that against the
// whole path and some against any part of it: it says itself where it begins and ends.
func (r *renderer) pathMatch(x routing) *gatewayv1.HTTPPathMatch {
	path := cmp.Or(x.route.Path, "/*")
	prefix, wild := strings.CutSuffix(path, "/*")
	kind, value := gatewayv1.PathMatchExact, path
	switch {
	case strings.Contains(path, "{") || !plainPath.MatchString(path):
		kind = gatewayv1.PathMatchRegularExpression
		var out strings.Builder
		for segment := range strings.SplitSeq(strings.TrimPrefix(prefix, "/"), "/") {
			if strings.HasPrefix(segment, "{") {
				segment = "[^/]+"
			} else {
				segment = regexp.QuoteMeta(segment)
			}
			out.WriteString("/" + segment)
		}
		if value = "^" + out.String(); wild {
			value += "(/.*)?"
		}
		value += "$"
		what := "parameters are"
		if !strings.Contains(path, "{") {
			what = "the Gateway API takes it as"
		}
		r.note(x.path+".path", "is changed: %s a regular expression, which not every gateway knows", what)
	case wild:
		kind, value = gatewayv1.PathMatchPathPrefix, cmp.Or(prefix, "/")
	}
	return &gatewayv1.HTTPPathMatch{Type: &kind, Value: &value}
}

// filters are what a route does to requests and answers; nil for nothing. false: a gateway cannot do it, and the route is closed.
func (r *renderer) filters(x *routing) ([]gatewayv1.HTTPRouteFilter, bool) {
	var all []gatewayv1.HTTPRouteFilter
	edit, hsts := r.edited(*x, ".request_headers", x.route.RequestHeaders), ""
	if edit != nil {
		all = append(all, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: edit})
	}
	if g := r.p.Trellis.Gateway; g != nil && g.HSTS != nil && r.secure && x.port.AppProtocol != "grpc" {
		hsts = fmt.Sprintf("max-age=%d", seconds(g.HSTS.Or(0)))
	}
	answer := r.edited(*x, ".response_headers", cmp.Or(x.route.ResponseHeaders, x.policy.ResponseHeaders))
	if hsts != "" {
		answer = cmp.Or(answer, &gatewayv1.HTTPHeaderFilter{})
		answer.Set = append(answer.Set, gatewayv1.HTTPHeader{Name: "Strict-Transport-Security", Value: hsts})
	}
	if answer != nil {
		all = append(all, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterResponseHeaderModifier, ResponseHeaderModifier: answer})
	}
	for key, f := range map[string]*gatewayv1.HTTPHeaderFilter{"request_headers": edit, "response_headers": answer} {
		if f != nil && max(len(f.Set), len(f.Remove)) > maxFields {
			r.close(x, x.path, "more than %d fields of its %s cannot be set or removed", maxFields, key)
			return nil, false
		}
	}
	if c := cmp.Or(x.route.CORS, x.policy.CORS); c != nil {
		all = append(all, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterCORS, CORS: r.cors(*x, *c)})
	}
	if m := x.route.Mirror; m != nil {
		f := &gatewayv1.HTTPRequestMirrorFilter{BackendRef: r.backend(m.Service, m.Port)}
		if m.Share != nil {
			f.Fraction = &gatewayv1.Fraction{Numerator: int32(float64(*m.Share) * 10000), Denominator: pointer(int32(10000))}
		}
		all = append(all, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestMirror, RequestMirror: f})
	}
	if d := x.route.Redirect; d != nil {
		all = append(all, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterRequestRedirect, RequestRedirect: r.redirect(*x, *d)})
	} else if x.route.Rewrite != "" {
		if f := r.rewrite(*x); f != nil {
			all = append(all, gatewayv1.HTTPRouteFilter{Type: gatewayv1.HTTPRouteFilterURLRewrite, URLRewrite: f})
		}
	}
	return all, true
}

// edited is an edit of header fields, nil for none.
func (r *renderer) edited(x routing, key string, e *compose.HeaderEdit) *gatewayv1.HTTPHeaderFilter {
	if e == nil || len(e.Set)+len(e.Remove) == 0 {
		return nil
	}
	f := &gatewayv1.HTTPHeaderFilter{Remove: e.Remove}
	for _, name := range slices.Sorted(maps.Keys(e.Set)) {
		if e.Set[name] == "" {
			r.note(x.path+key, "is changed: the Gateway API sets no field to nothing: %s is removed", name)
			f.Remove = append(slices.Clone(f.Remove), name)
			continue
		}
		f.Set = append(f.Set, gatewayv1.HTTPHeader{Name: gatewayv1.HTTPHeaderName(name), Value: e.Set[name]})
	}
	return f
}

func (r *renderer) cors(x routing, c compose.CORS) *gatewayv1.HTTPCORSFilter {
	f := &gatewayv1.HTTPCORSFilter{MaxAge: seconds(c.MaxAge.Or(0))}
	if c.Credentials {
		f.AllowCredentials = pointer(true)
	}
	for _, o := range c.Origins {
		f.AllowOrigins = append(f.AllowOrigins, gatewayv1.CORSOrigin(o))
	}
	if slices.Contains(c.Origins, "*") { // which stands alone there
		f.AllowOrigins = []gatewayv1.CORSOrigin{"*"}
	}
	for _, m := range c.Methods {
		if !slices.Contains(methods, m) {
			r.note(x.path+".cors.methods", "is changed: the Gateway API knows no method %s", m)
			continue
		}
		f.AllowMethods = append(f.AllowMethods, gatewayv1.HTTPMethodWithWildcard(m))
	}
	for _, h := range c.Headers {
		f.AllowHeaders = append(f.AllowHeaders, gatewayv1.HTTPHeaderName(h))
	}
	for _, h := range c.Expose {
		f.ExposeHeaders = append(f.ExposeHeaders, gatewayv1.HTTPHeaderName(h))
	}
	if len(c.Methods) == 0 { // the one that is asked for
		f.AllowMethods = []gatewayv1.HTTPMethodWithWildcard{"*"}
	}
	if len(c.Headers) == 0 && !c.Credentials {
		f.AllowHeaders = []gatewayv1.HTTPHeaderName{"*"}
	}
	return f
}

// redirect is where clients are sent. {host}, {path} and {query} are those of the request where nothing is written in their
// place.
func (r *renderer) redirect(x routing, d compose.Redirect) *gatewayv1.HTTPRequestRedirectFilter {
	f := &gatewayv1.HTTPRequestRedirectFilter{StatusCode: pointer(cmp.Or(d.Status, 308))}
	rest := d.To
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		host := after
		if end := strings.IndexAny(after, "/"); end >= 0 {
			host, rest = after[:end], after[end:]
		} else if kept, _, ok := strings.Cut(after, "{path}"); ok {
			host, rest = kept, after[len(kept):]
		} else {
			rest = "/"
		}
		f.Scheme = &scheme
		if name, port, err := net.SplitHostPort(host); err == nil {
			host = name
			if n, err := strconv.Atoi(port); err == nil {
				f.Port = pointer(gatewayv1.PortNumber(n))
			}
		}
		if host != "{host}" {
			f.Hostname = pointer(gatewayv1.PreciseHostname(strings.ToLower(host)))
		}
	}
	if rest = strings.TrimSuffix(rest, "{query}"); rest != "{path}" {
		f.Path = &gatewayv1.HTTPPathModifier{Type: gatewayv1.FullPathHTTPPathModifier, ReplaceFullPath: &rest}
	}
	if !strings.HasSuffix(d.To, "{query}") {
		r.note(x.path+".redirect.to", "is changed: most gateways send the query along, of which the Gateway API says nothing")
	}
	if strings.ContainsAny(rest, "{}") && rest != "{path}" || f.Hostname != nil && !isHost(string(*f.Hostname)) {
		r.note(x.path+".redirect.to", "is changed: the Gateway API can replace the host or the whole path, and puts nothing together")
		f.Hostname, f.Path = nil, nil
	}
	return f
}

func isHost(name string) bool {
	_, err := netip.ParseAddr(name)
	return err != nil && len(validation.IsDNS1123Subdomain(name)) == 0
}

// rewrite is what takes the place of what a path begins with.
func (r *renderer) rewrite(x routing) *gatewayv1.HTTPURLRewriteFilter {
	path := cmp.Or(x.route.Path, "/*")
	switch {
	case strings.Contains(path, "{"):
		r.note(x.path+".rewrite", "has no effect: the Gateway API rewrites no path with parameters")
		return nil
	case strings.HasSuffix(path, "/*"):
		return &gatewayv1.HTTPURLRewriteFilter{Path: &gatewayv1.HTTPPathModifier{Type: gatewayv1.PrefixMatchHTTPPathModifier, ReplacePrefixMatch: &x.route.Rewrite}}
	}
	return &gatewayv1.HTTPURLRewriteFilter{Path: &gatewayv1.HTTPPathModifier{Type: gatewayv1.FullPathHTTPPathModifier, ReplaceFullPath: &x.route.Rewrite}}
}

// splits are the rules that send requests with a header or a cookie elsewhere; they come before the rule of the route.
func (r *renderer) splits(x routing, rule gatewayv1.HTTPRouteRule) []gatewayv1.HTTPRouteRule {
	var all []gatewayv1.HTTPRouteRule
	byShare := false
	for i, s := range x.route.Split {
		if s.Share > 0 {
			byShare = true
			continue
		}
		if byShare {
			r.note(x.path+".split"+index(i), "is changed: requests with a header or cookie are split off before the shares")
		}
		one := *rule.DeepCopy()
		one.BackendRefs = []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: r.backend(s.Service, s.Port)}}}
		match := gatewayv1.HTTPHeaderMatch{Name: gatewayv1.HTTPHeaderName(s.Header), Value: s.Value}
		if s.Cookie != "" {
			match = gatewayv1.HTTPHeaderMatch{
				Type: pointer(gatewayv1.HeaderMatchRegularExpression), Name: "Cookie",
				Value: `(^|.*; *)` + regexp.QuoteMeta(s.Cookie+"="+s.Value) + `(;.*|$)`,
			}
		}
		for m := range one.Matches {
			one.Matches[m].Headers = append(one.Matches[m].Headers, match)
		}
		all = append(all, one)
	}
	return all
}

var grpcName = lazyregexp.New(`^[A-Za-z_][A-Za-z_0-9.]*$`)

// callsGRPC says whether a route is what a GRPCRoute can say: calls of all of gRPC, of one service or one method, as they are.
func (r *renderer) callsGRPC(x *routing) bool {
	_, ok := methodOf(x.route.Path)
	edits := x.route.RequestHeaders != nil || cmp.Or(x.route.ResponseHeaders, x.policy.ResponseHeaders) != nil
	changed := edits || cmp.Or(x.route.CORS, x.policy.CORS) != nil || x.route.Redirect != nil || x.route.Rewrite != "" || x.route.Mirror != nil
	picky := len(x.route.Headers)+len(x.route.Split) > 0 || len(x.route.Methods) > 0 && !slices.Contains(x.route.Methods, "POST")
	return ok && x.port.AppProtocol == "grpc" && !changed && !picky
}

// methodOf reads "/*", "/package.Service/*" and "/package.Service/Method"; nil stands for every method.
func methodOf(path string) (*gatewayv1.GRPCMethodMatch, bool) {
	path = cmp.Or(path, "/*")
	if path == "/*" {
		return nil, true
	}
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || !grpcName.MatchString(service) {
		return nil, false
	}
	m := &gatewayv1.GRPCMethodMatch{Type: pointer(gatewayv1.GRPCMethodMatchExact), Service: &service}
	if method == "*" {
		return m, true
	}
	m.Method = &method
	return m, grpcName.MatchString(method) && !strings.Contains(method, ".")
}

// maxRules is how many rules a route of the Gateway API may have.
const maxRules = 16

// apart is a rule as the Gateway API takes it: one that replaces the prefix of a path has a single match.
func apart(rule gatewayv1.HTTPRouteRule) []gatewayv1.HTTPRouteRule {
	single := slices.ContainsFunc(rule.Filters, func(f gatewayv1.HTTPRouteFilter) bool {
		return f.URLRewrite != nil && f.URLRewrite.Path != nil && f.URLRewrite.Path.ReplacePrefixMatch != nil
	})
	if !single {
		return []gatewayv1.HTTPRouteRule{rule}
	}
	var all []gatewayv1.HTTPRouteRule
	for i := range rule.Matches {
		one := *rule.DeepCopy()
		one.Matches = one.Matches[i : i+1]
		all = append(all, one)
	}
	return all
}
