package load

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/http/httpguts"

	"trellis/compose"
)

func buildScenario(doc *compose.Document) (*Scenario, error) {
	var file scenarioFile
	doc.Decode(&file)
	b := scenarioBuilder{doc: doc, scenario: &Scenario{}, names: []string{"visit", "random", "uuid"}}
	b.variables(file.Variables)
	b.headers = b.header("headers", file.Headers)
	if len(file.Steps) == 0 {
		doc.Errorf("steps", "has no steps: a visit is at least one request")
	}
	most := 0
	b.scenario.nodes, most = b.nodes("steps", file.Steps, false, 0)
	if most > maxPlan {
		doc.Errorf("steps", "come to as many as %d requests a visit: at most %d", most, maxPlan)
	}
	if len(b.scenario.steps) > maxSteps {
		doc.Errorf("steps", "are %d requests: at most %d are written in a file", len(b.scenario.steps), maxSteps)
	}
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return b.scenario, nil
}

type scenarioBuilder struct {
	doc      *compose.Document
	scenario *Scenario
	names    []string // values that are known by now
	headers  map[string]text
	when     []string // of the groups around
}

func (b *scenarioBuilder) variables(file map[string][]text) {
	names := make([]string, 0, len(file))
	for name := range file {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		at := below("variables", name)
		b.name(at, name)
		if len(file[name]) == 0 {
			b.doc.Errorf(at, "has no values")
		}
		for _, t := range file[name] {
			b.known(at, t.names(), []string{"visit", "random", "uuid"})
		}
		b.scenario.variables = append(b.scenario.variables, variable{name, file[name]})
	}
	b.names = append(b.names, names...)
}

func (b *scenarioBuilder) name(at, name string) {
	switch {
	case name == "visit" || name == "random" || name == "uuid":
		b.doc.Errorf(at, "is the name of a value that every visit has: take another")
	case !valueName.MatchString(name):
		b.doc.Errorf(at, "is not a name: letters, digits and _, no digit first")
	}
}

// known complains about names of values that nothing before gives.
func (b *scenarioBuilder) known(at string, used, known []string) {
	for _, name := range used {
		if !slices.Contains(known, name) {
			b.doc.Errorf(at, "{%s} is no variable and no step before saves it%s; write {{%s}} for the text itself",
				name, strings.TrimSuffix(compose.DidYouMean(name, known), "?"), name)
		}
	}
}

// nodes returns the steps and how many requests they come to at most.
func (b *scenarioBuilder) nodes(at string, files []stepFile, choose bool, depth int) ([]node, int) {
	nodes, most := make([]node, 0, len(files)), 0
	for i := range files {
		where := fmt.Sprintf("%s[%d]", at, i)
		n, requests := b.node(where, &files[i], depth)
		nodes = append(nodes, n)
		if files[i].Weight != nil && !choose {
			b.doc.Errorf(where+".weight", "is for steps of choose: here every step is done; chance: 40%% does one only in some visits")
		}
		if choose {
			most = max(most, requests)
		} else {
			most = min(most+requests, maxPlan+1)
		}
	}
	return nodes, most
}

func (b *scenarioBuilder) node(at string, f *stepFile, depth int) (node, int) {
	n := node{weight: 1, chance: 1, repeat: times{1, 1}}
	if f.Weight != nil {
		n.weight = *f.Weight
		if n.weight < 1 || n.weight > 1e6 {
			b.doc.Errorf(at+".weight", "is %d: 1 to 1000000", n.weight)
		}
	}
	if f.When != "" {
		if !slices.Contains(b.names, f.When) {
			b.doc.Errorf(at+".when", "%q is no variable and no step before saves it%s", f.When, compose.DidYouMean(f.When, b.names))
		}
		outside := b.when
		b.when = append(slices.Clip(b.when), f.When)
		defer func() { b.when = outside }()
	}
	if f.Chance != nil {
		n.chance = float64(*f.Chance)
	}
	if f.Repeat != nil {
		n.repeat = *f.Repeat
	}
	kinds := 0
	for _, is := range []bool{f.Path != nil, f.Steps != nil, f.Choose != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		b.doc.Errorf(at, "needs exactly one of path (a request), steps (several) and choose (one of several)")
		return n, 0
	}
	most := 1
	switch {
	case f.Path != nil:
		n.step = b.step(at, f)
	case f.Steps != nil:
		b.noRequest(at, f)
		n.children, most = b.nodes(at+".steps", f.Steps, false, depth+1)
	default:
		b.noRequest(at, f)
		n.choose = true
		if len(f.Choose) == 0 {
			b.doc.Errorf(at+".choose", "has nothing to choose from")
		}
		n.children, most = b.nodes(at+".choose", f.Choose, true, depth+1)
		for _, child := range n.children {
			n.weights += child.weight
		}
	}
	return n, min(most*n.repeat.most, maxPlan+1)
}

// noRequest complains about the keys of a request on a node that is none.
func (b *scenarioBuilder) noRequest(at string, f *stepFile) {
	for key, set := range map[string]bool{
		"method": f.Method != "", "headers": f.Headers != nil, "body": f.Body != nil, "form": f.Form != nil, "json": f.JSON != nil,
		"expect": f.Expect != nil, "contains": f.Contains != nil, "save": f.Save != nil, "think": f.Think != nil, "name": f.Name != "",
	} {
		if set {
			b.doc.Errorf(at+"."+key, "belongs to a request: write it on a step with path")
		}
	}
}

func (b *scenarioBuilder) step(at string, f *stepFile) *step {
	s := &step{
		index: len(b.scenario.steps), name: f.Name, method: strings.ToUpper(f.Method), path: *f.Path,
		body: f.Body, form: f.Form, expect: f.Expect, contains: f.Contains, when: b.when,
	}
	b.scenario.steps = append(b.scenario.steps, s)
	if f.Think != nil {
		s.think = *f.Think
	}
	bodies := 0
	for _, is := range []bool{f.Body != nil, f.Form != nil, f.JSON != nil} {
		if is {
			bodies++
		}
	}
	if bodies > 1 {
		b.doc.Errorf(at, "has more than one of body, form and json")
	}
	if f.JSON != nil {
		s.json = jsonTexts(f.JSON)
	}
	if s.method == "" {
		s.method = http.MethodGet
		if bodies > 0 {
			s.method = http.MethodPost
		}
	}
	if !httpguts.ValidHeaderFieldName(s.method) || s.method == http.MethodConnect {
		b.doc.Errorf(at+".method", "%q is not a method that can be sent", f.Method)
	}
	if strings.ContainsFunc(s.name, unicode.IsControl) {
		b.doc.Errorf(at+".name", "holds a control character: remove it")
	}
	if s.name == "" {
		s.name = s.method + " " + s.path.source
	}
	if p := s.path.parts; len(p) == 0 || p[0].name == "" && !strings.HasPrefix(p[0].literal, "/") {
		b.doc.Errorf(at+".path", "%q does not begin with /, nor with a saved link such as {next}", s.path.source)
	}
	b.known(at+".path", s.path.names(), b.names)
	b.texts(at, s)
	s.headers = b.header(at+".headers", f.Headers)
	for name, t := range b.headers {
		if _, own := s.headers[name]; !own {
			s.headers[name] = t
		}
	}
	s.saves = b.saves(at+".save", f.Save)
	return s
}

// texts checks the names within body, form, json and contains.
func (b *scenarioBuilder) texts(at string, s *step) {
	if s.body != nil {
		b.known(at+".body", s.body.names(), b.names)
	}
	for name, t := range s.form {
		b.known(below(at+".form", name), t.names(), b.names)
	}
	b.known(at+".json", jsonNames(s.json), b.names)
	if s.contains != nil {
		b.known(at+".contains", s.contains.names(), b.names)
	}
}

func (b *scenarioBuilder) header(at string, file map[string]text) map[string]text {
	header := make(map[string]text, len(file))
	for name, t := range file {
		b.known(below(at, name), t.names(), b.names)
		if err := checkHeader(http.Header{name: {""}}); err != nil || !httpguts.ValidHeaderFieldValue(literals(t)) {
			b.doc.Errorf(below(at, name), "cannot be sent: it is not a header, or load writes it itself")
		}
		header[http.CanonicalHeaderKey(name)] = t
	}
	return header
}

func literals(t text) string {
	s := ""
	for _, p := range t.parts {
		s += p.literal
	}
	return s
}

func (b *scenarioBuilder) saves(at string, file map[string]saveFile) []save {
	names := make([]string, 0, len(file))
	for name := range file {
		names = append(names, name)
	}
	sort.Strings(names)
	var saves []save
	for _, name := range names {
		f, where := file[name], below(at, name)
		b.name(where, name)
		s := save{name: name, header: http.CanonicalHeaderKey(f.Header), cookie: f.Cookie, pick: f.Pick, otherwise: f.Default}
		sources := 0
		for _, is := range []bool{f.Header != "", f.Cookie != "", f.JSON != nil, f.Regexp != ""} {
			if is {
				sources++
			}
		}
		if sources != 1 {
			b.doc.Errorf(where, "needs exactly one of header, cookie, json and regexp")
		}
		if f.JSON != nil {
			s.pointer = *f.JSON
		}
		if f.Regexp != "" {
			var err error
			if s.regexp, err = regexp.Compile(f.Regexp); err != nil {
				b.doc.Errorf(where+".regexp", "%v", err)
			}
		}
		if picks := []string{"first", "last", "random"}; f.Pick != "" && !slices.Contains(picks, f.Pick) {
			b.doc.Errorf(where+".pick", "%q is not known%s", f.Pick, compose.DidYouMean(f.Pick, picks))
		}
		if f.Default != nil {
			b.known(where+".default", f.Default.names(), b.names)
		}
		saves = append(saves, s)
	}
	b.names = append(b.names, names...)
	return saves
}

// below is the path of a key in a diagnostic.
func below(at, key string) string {
	if strings.ContainsAny(key, `.[]"`) {
		key = strconv.Quote(key)
	}
	return at + "." + key
}
