package edit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func set(path string, value any) func(*File) error {
	return func(f *File) error { return f.Set(path, value) }
}

func remove(path string) func(*File) error { return func(f *File) error { return f.Remove(path) } }

var probe = Map{{"http", "/healthz"}}

func TestEdit(t *testing.T) {
	for _, c := range []struct {
		name, before string
		change       func(*File) error
		after        string
	}{
		{"into an empty file", "", set("services.web.image", "x"), "services:\n  web:\n    image: x\n"},
		{"into a file of comments", "# mine\n", set("name", "x"), "# mine\nname: x\n"},
		{"with a document start", "---\na: 1\n", set("b", 2), "---\na: 1\nb: 2\n"},
		{"before a document end", "a: 1\n...\n", set("b", 2), "a: 1\nb: 2\n...\n"},
		{"at the end of a service, comments of the next stay with it",
			"services:\n  web:\n    image: x # pinned\n    # ports: later\n\n  # the database\n  db:\n    image: y\n",
			set("services.web.x-trellis.probe", probe),
			"services:\n  web:\n    image: x # pinned\n    # ports: later\n    x-trellis:\n      probe: {http: /healthz}\n\n  # the database\n  db:\n    image: y\n"},
		{"four spaces and lists that are not indented",
			"services:\n    web:\n        ports:\n        - \"80:80\"\n    db:\n        image: y\n",
			set("services.web.x-trellis.process", Map{{"build", "go build"}, {"command", []string{"bin/a"}}, {"long", []any{Map{{"a", Map{{"b", 1}}}}}}}),
			"services:\n    web:\n        ports:\n        - \"80:80\"\n        x-trellis:\n            process:\n                build: go build\n                command: [bin/a]\n                long:\n                - a: {b: 1}\n    db:\n        image: y\n"},
		{"CRLF", "services:\r\n  web:\r\n    image: x\r\n", set("services.web.deploy.replicas", 2),
			"services:\r\n  web:\r\n    image: x\r\n    deploy:\r\n      replicas: 2\r\n"},
		{"no line end at the end", "services:\n  web:\n    image: x", set("services.web.init", true),
			"services:\n  web:\n    image: x\n    init: true"},
		{"into an empty service", "services:\n  web:\n  db: # later\n", set("services.db.image", "pg"),
			"services:\n  web:\n  db: # later\n    image: pg\n"},
		{"into an empty service at the end", "services:\n  db:", set("services.db.image", "pg"), "services:\n  db:\n    image: pg"},
		{"into brackets", "services: {web: {image: x}, db: {image: y}}\n", set("services.web.x-trellis.probe", probe),
			"services: {web: {image: x, x-trellis: {probe: {http: /healthz}}}, db: {image: y}}\n"},
		{"into brackets over lines", "web: {\n  image: x, # the 'image'\n  note: \"}\",\n}\n", set("web.init", true),
			"web: {\n  image: x, # the 'image'\n  note: \"}\", init: true\n}\n"},
		{"into brackets without a comma", "web: {\n  image: x # why\n}\n", set("web.init", true), "web: {\n  image: x, init: true # why\n}\n"},
		{"into empty brackets", "a:\n  web: {} # new\n", set("a.web.deploy", Map{{"x", Map{{"v", Map{{"z", 1}}}}}}),
			"a:\n  web: # new\n    deploy:\n      x:\n        v: {z: 1}\n"},
		{"into a port in the long form", "ports:\n  - target: 80\n    published: 80\n  - target: 81\n", set("ports[0].x-trellis.routes", []any{Map{{"path", "/*"}, {"auth", "none"}}}),
			"ports:\n  - target: 80\n    published: 80\n    x-trellis:\n      routes:\n        - {path: /*, auth: none}\n  - target: 81\n"},
		{"a dash on a line of its own", "ports:\n  -\n    target: 80\n  -\n    target: 81\n", set("ports[0].mode", "host"),
			"ports:\n  -\n    target: 80\n    mode: host\n  -\n    target: 81\n"},
		{"another entry of a list", "expose:\n- \"80\"\n\n# end\nname: x\n", set("expose[1]", "81"), "expose:\n- \"80\"\n- \"81\"\n\n# end\nname: x\n"},
		{"a literal that keeps its line ends", "a:\n  b: |+\n    text\n    # no comment\n\nc: 1\n", set("a.d", 2),
			"a:\n  b: |+\n    text\n    # no comment\n\n  d: 2\nc: 1\n"},
		{"beside a merge key", "x: &b\n  image: x\nweb:\n  <<: *b\n  init: true\n", set("web.image", "z"),
			"x: &b\n  image: x\nweb:\n  <<: *b\n  init: true\n  image: z\n"},
		{"an anchor that nobody uses", "web: &w\n  image: x\n", set("web.init", true), "web: &w\n  image: x\n  init: true\n"},
		{"into brackets with an anchor", "web: &w {image: x}\n", set("web.init", true), "web: &w {image: x, init: true}\n"},
		{"a value with an anchor", "a: &v one # why\nb: *v\nc: &w two\n", set("c", "three"), "a: &v one # why\nb: *v\nc: &w three\n"},
		{"letters of more than one byte", "wéb: {größe: \"ü\", é: 1}\n", set("wéb.größe", 2), "wéb: {größe: 2, é: 1}\n"},
		{"a value keeps its comment", "web:\n  image: 'x:1' # pinned\n", set("web.image", "x:2"), "web:\n  image: x:2 # pinned\n"},
		{"a value of several words", "a: one two # why\nb: 1\n", set("a", "three"), "a: three # why\nb: 1\n"},
		{"a value by a mapping", "a:\n  build: . # here\n  b: 1\n", set("a.build", Map{{"context", "."}, {"args", Map{{"A", Map{{"b", "c"}}}}}}),
			"a:\n  build: # here\n    context: .\n    args:\n      A: {b: c}\n  b: 1\n"},
		{"a mapping by a value", "a:\n  build: # here\n    context: .\n    args:\n      - A=1\n\n  # then\n  b: 1\n", set("a.build", "./x"),
			"a:\n  build: ./x # here\n\n  # then\n  b: 1\n"},
		{"a literal by a value", "a:\n  b: |\n    one\n    two\n  c: 1\n", set("a.b", "x"), "a:\n  b: x\n  c: 1\n"},
		{"a value over two lines", "a:\n  b: one\n    two\n  c: 1\n", set("a.b", "x"), "a:\n  b: x\n  c: 1\n"},
		{"a text", "a:\n  b: 1\n", set("a.f", "FROM x\n\nRUN y # z\n"), "a:\n  b: 1\n  f: |\n    FROM x\n\n    RUN y # z\n"},
		{"an entry of a list by a mapping", "l:\n  - a\n  - b\n", set("l[0]", Map{{"x", Map{{"v", Map{{"z", 1}}}}}}), "l:\n  - x:\n      v: {z: 1}\n  - b\n"},
		{"a value in a list", "l: [a, 'b', c]\n", set("l[1]", "x, y"), "l: [a, \"x, y\", c]\n"},
		{"nothing to do", "a: 1\n", set("a", 1), "a: 1\n"},
		{"strings that look like something else", "a: {}\n", set("a", []string{"yes", "1", "0x1", "a: b", "# c", "", "null", "1.5", "128M", ".", "é", "a #b", "-x", "- x", "---", "$$A"}),
			"a: [\"yes\", \"1\", \"0x1\", \"a: b\", \"# c\", \"\", \"null\", \"1.5\", 128M, ., \"é\", \"a #b\", -x, \"- x\", \"---\", \"$$A\"]\n"},
		{"remove a key with its block", "a:\n  # of b\n  b:\n    - 1\n  # of c\n  c: 1\n", remove("a.b"), "a:\n  # of b\n  # of c\n  c: 1\n"},
		{"remove the last of a mapping", "a:\n  b: 1\nc: 2\n", remove("a.b"), "a: {}\nc: 2\n"},
		{"remove the last of a mapping, comments stay", "a: # of a\n  # of b\n  b: 1 # its own\n  # of none\n\n# of c\nc: 2\n", remove("a.b"),
			"a: {} # of a\n  # of b\n  # of none\n\n# of c\nc: 2\n"},
		{"remove the last of a list, comments stay", "a:\n  # of b\n  - b:\n      # inside\n      c: 1\n", remove("a[0]"), "a: []\n  # of b\n"},
		{"remove the last of a mapping with an anchor", "a: &x\n  # of b\n  b: 1\nc: 2\n", remove("a.b"), "a: &x {}\n  # of b\nc: 2\n"},
		{"remove the last of a mapping with an anchor that has a comment", "a: &x # of a\n  b: 1\nc: 2\n", remove("a.b"), "a: &x {} # of a\nc: 2\n"},
		{"remove the last behind a dash", "l:\n  # of a\n  - a: 1\n  - b\n", remove("l[0].a"), "l:\n  # of a\n  - {}\n  - b\n"},
		{"remove the last of all", "a: 1\n", remove("a"), "{}\n"},
		{"remove behind a dash", "l:\n  - a: 1\n    b: 2\n", remove("l[0].a"), "l:\n  - b: 2\n"},
		{"remove an entry", "l:\n- a\n- b: 1\n  c: 2\n- d\n", remove("l[1]"), "l:\n- a\n- d\n"},
		{"remove in brackets", "l: {a: 1, b: [x, y], c: 3}\n", remove("l.b"), "l: {a: 1, c: 3}\n"},
		{"remove the first in brackets", "l: [a, b]\n", remove("l[0]"), "l: [b]\n"},
		{"remove the last in brackets", "l: [a, b, ]\n", remove("l[1]"), "l: [a]\n"},
		{"remove the only one in brackets", "l: {a: 1}\n", remove("l.a"), "l: {}\n"},
		{"remove in brackets over lines", "l: {\n  a: 1, # of a\n  # of b\n  b: {x: 1,\n    y: 2}, # its own\n  # of c\n  c: 3, # of c too\n}\n", remove("l.b"),
			"l: {\n  a: 1, # of a\n  # of b\n  # of c\n  c: 3, # of c too\n}\n"},
		{"remove the last in brackets over lines", "l: [\n  a, # of a\n  # of b\n  b # its own\n  # of none\n]\n", remove("l[1]"),
			"l: [\n  a, # of a\n  # of b\n  # of none\n]\n"},
		{"remove the last in brackets that end there", "l: [\n  a, # of a\n  'b#' ]\n", remove("l[1]"), "l: [\n  a, # of a\n  ]\n"},
		{"remove the only one in brackets over lines", "l: { # of l\n  # of a\n  a: 1, # its own\n}\n", remove("l.a"), "l: { # of l\n  # of a\n   # its own\n}\n"},
		{"remove what is not there", "a: 1\n", remove("b.c"), "a: 1\n"},
		{"a key with a dot", "labels:\n  a.b: x\n", set(`labels."a.c"`, "v"), "labels:\n  a.b: x\n  a.c: v\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("compose.yaml", []byte(c.before))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.change(f); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.after, string(f.Bytes())); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, text string
		change     func(*File) error
		want       string
	}{
		{"an alias", "x: &b {image: x}\nweb: *b\n", set("web.init", true), "compose.yaml:2:6: web.init: stands in what *b takes over from line 1"},
		{"below an alias", "x: &b {d: {r: 1}}\nweb: *b\n", set("web.d.r", 2), "compose.yaml:2:6: web.d.r: stands in what *b takes over from line 1"},
		{"below a merge key", "x: &b {d: {r: 1}}\nweb:\n  <<: *b\n", set("web.d.r", 2), "compose.yaml:3:3: web.d.r: stands in what << takes over"},
		{"an anchor that others use", "web: &b\n  image: x\napi:\n  <<: *b\n", set("web.init", true), "web.init: cannot be changed alone: api.init would change with it"},
		{"an anchor in brackets that others use", "web: &b {image: x}\napi: *b\n", set("web.init", true), "web.init: cannot be changed alone: api.init would change with it"},
		{"a value is no mapping", "ports: [\"80:80\"]\n", set("ports[0].target", 1), "neither a mapping nor a list"},
		{"a gap in a list", "l: [a]\n", set("l[2]", 1), "the list has 1 entries"},
		{"no path", "a: 1\n", set("a..b", 1), "is not a path"},
		{"no value", "a: 1\n", set("b", struct{}{}), "cannot be written"},
		{"remove between comments in brackets", "l: [a, b, # of b\n  c]\n", remove("l[1]"), "compose.yaml:1:8: l[1]: has a comment beside it that would go with it"},
		{"remove what is merged", "x: &b {d: 1}\nweb:\n  <<: *b\n", remove("web.d"), "comes through a merge key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Parse("compose.yaml", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			err = c.change(f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			if string(f.Bytes()) != c.text {
				t.Errorf("the text changed:\n%s", f.Bytes())
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"two documents", "a: 1\n---\nb: 1\n", "holds more than one document"},
		{"no YAML", "a: [\n", "compose.yaml"},
		{"old Macintosh", "a: 1\rb: 2\r", "line ends"},
		{"twice", "a: 1\na: 2\n", "twice"},
		{"laughs", "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + laughs(), "aliases counted"},
		{"deep", strings.Repeat("[", 70) + strings.Repeat("]", 70), "deep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse("compose.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func laughs() string {
	var b strings.Builder
	for c := 'b'; c < 'k'; c++ {
		a := "*" + string(c-1)
		fmt.Fprintf(&b, "%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(a+",", 10), ","))
	}
	return b.String()
}

// TestEveryService sets a key on every service of the files that package compose is tested with.
func TestEveryService(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.good.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(filepath.Base(name), text)
		if err != nil {
			t.Fatal(err)
		}
		services, _ := lookup(f.data, []step{{"services", -1}})
		for service := range services.(map[string]any) {
			if err := f.Set("services."+service+".x-new.probe", probe); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if lines := strings.Split(string(text), "\n"); len(lines) > 1 {
			rest := string(f.Bytes())
			for _, line := range lines[:len(lines)-1] {
				_, after, ok := strings.Cut(rest, line)
				if !ok && !strings.Contains(line, "{") {
					t.Fatalf("%s: the line %q is gone", name, line)
				}
				if ok {
					rest = after
				}
			}
		}
	}
}
