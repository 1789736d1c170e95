package load

import (
	"regexp"

	"trellis/compose"
)

// Bounds of a scenario.
const (
	maxSteps = 200    // that are written in a file
	maxPlan  = 10_000 // requests of one visit, repetitions counted
)

// Scenario is what one visitor does from the first request to the last. It is read from a YAML file:
//
//	variables:                       # values of each visit; of a list one is chosen at random
//	  email: learner-{visit}-{random}@example.org
//	  topic: [go, sql, design]
//	headers: {Accept-Language: en}   # of every request
//	steps:
//	  - path: /courses?topic={topic} # GET; POST where there is a body, a form or json; or method
//	    save:
//	      course: {regexp: 'href="/courses/([a-z0-9-]+)"', pick: random}
//	  - name: sign in
//	    think: 1s-3s                 # how long the visitor waits before it
//	    path: /signin
//	    form: {email: "{email}", password: secret}
//	    expect: 303
//	  - chance: 40%                  # of the visits only; repeat: 2-5 does it so often
//	    steps:
//	      - {path: "/courses/{course}/pay", json: {card: "4242"}, expect: [201, 402]}
//	  - when: course                 # only in visits that have a value for it, and not an empty one
//	    path: /courses/{course}/help
//	  - choose:                      # one of them
//	      - {weight: 3, path: /lessons}
//	      - {path: /help}
//
// In all texts {name} stands for a variable, a saved value, {visit} (the visit's number, from 0), {random} (16 hex digits,
// others at each use) or {uuid}; {{name}} is {name} itself. In a path a value is escaped, unless the path begins with it:
// then it is a link that an answer gave. A save takes header, cookie, json (a JSON pointer, * is every element) or regexp
// (its first group, entities of HTML replaced), and of several the first one or pick: last or random; without its default
// a value that is not there fails the step. Cookies are kept for the visit. A status that expect does not name (below 400
// where there is none), and a body without the text of contains, fail the step. A failed step ends its visit.
type Scenario struct {
	variables []variable
	steps     []*step
	nodes     []node
}

type variable struct {
	name   string
	values []text
}

// step is one request of a scenario.
type step struct {
	index    int
	name     string
	method   string
	path     text
	headers  map[string]text // canonical names, those of the scenario included
	body     *text
	form     map[string]text
	json     any // with texts for strings; nil for none
	expect   []statuses
	contains *text
	saves    []save
	think    span
	when     []string // values that the visit has to have
}

// save says where a value is found in an answer; one of the four is set.
type save struct {
	name           string
	header, cookie string
	pointer        jsonPointer
	regexp         *regexp.Regexp
	pick           string
	otherwise      *text
}

// node is a request, or several that are done one after another, or of which one is chosen.
type node struct {
	step     *step
	children []node
	choose   bool
	weights  int // of all children
	weight   int
	chance   float64
	repeat   times
}

// The file as it is written; the comments of Scenario say what the keys mean.
type scenarioFile struct {
	Variables map[string][]text `json:"variables,omitempty"`
	Headers   map[string]text   `json:"headers,omitempty"`
	Steps     []stepFile        `json:"steps"`
}

type stepFile struct {
	Name     string              `json:"name,omitempty"`
	Method   string              `json:"method,omitempty"`
	Path     *text               `json:"path,omitempty"`
	Headers  map[string]text     `json:"headers,omitempty"`
	Body     *text               `json:"body,omitempty"`
	Form     map[string]text     `json:"form,omitempty"`
	JSON     any                 `json:"json,omitempty"`
	Expect   []statuses          `json:"expect,omitempty"`
	Contains *text               `json:"contains,omitempty"`
	Save     map[string]saveFile `json:"save,omitempty"`
	Think    *span               `json:"think,omitempty"`
	When     string              `json:"when,omitempty"`
	Chance   *compose.Share      `json:"chance,omitempty"`
	Repeat   *times              `json:"repeat,omitempty"`
	Weight   *int                `json:"weight,omitempty"`
	Steps    []stepFile          `json:"steps,omitempty"`
	Choose   []stepFile          `json:"choose,omitempty"`
}

type saveFile struct {
	Header  string       `json:"header,omitempty"`
	Cookie  string       `json:"cookie,omitempty"`
	JSON    *jsonPointer `json:"json,omitempty"`
	Regexp  string       `json:"regexp,omitempty"`
	Pick    string       `json:"pick,omitempty"`
	Default *text        `json:"default,omitempty"`
}

// ReadScenario reads a scenario's file. The error is of type compose.Diagnostics and names everything that is wrong.
func ReadScenario(path string) (*Scenario, error) { return buildScenario(compose.ReadDocument(path)) }

// ParseScenario reads a scenario; name stands in its errors.
func ParseScenario(name string, content []byte) (*Scenario, error) {
	return buildScenario(compose.ParseDocument(name, content))
}
