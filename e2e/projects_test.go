//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"trellis/engine"
	"trellis/load"
)

// expectation is an entry of an expect.json: a request, and what its answer holds.
type expectation struct {
	Port        int    `json:"port"`
	Method      string `json:"method"`
	Path        string `json:"url_path"`
	ContentType string `json:"content_type"`
	Body        string `json:"body"`
	Contains    string `json:"contains"`
	Within      string `json:"within"`
}

// standIn is a project of the folder projects, copied, on ports of its own.
type standIn struct {
	*project
	expect []expectation
}

func (s *standIn) up() {
	s.t.Helper()
	s.run("up", "-d", "--yes")
}

func (s *standIn) url() string { return url(s.expect[0].Port) }

// needPrograms fails where the stand-ins' programs are not installed.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		elsewhere, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
		sbin, _ := filepath.Glob("/usr/sbin/" + name)
		if err != nil && len(elsewhere)+len(sbin) == 0 {
			t.Fatalf("this test runs %s, which is not installed: run scripts/setup.sh as root", name)
		}
	}
}

var publishedPort = regexp.MustCompile(`(?m)^(\s*- ['"]?)(\d{4,5})(:\d+['"]?\s*)$`)

// newStandIn copies a stand-in to where the users of its services may read it, and gives it ports that are free.
func newStandIn(t *testing.T, name string) *standIn {
	t.Helper()
	root, err := os.MkdirTemp(built.dir, "project-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, name)
	copyTree(t, filepath.Join("projects", name), dir)
	copyTree(t, filepath.Join("projects", "run"), filepath.Join(root, "run"))

	s := &standIn{project: projectIn(t, dir)}
	s.flags = []string{"-f", "compose.yaml", "-f", "compose.trellis.yaml"}
	b, err := os.ReadFile(filepath.Join(dir, "expect.json"))
	if err == nil {
		err = json.Unmarshal(b, &s.expect)
	}
	if err != nil || len(s.expect) == 0 {
		t.Fatalf("expect.json of %s: %v: %s", name, err, b)
	}
	compose, err := os.ReadFile(filepath.Join(dir, "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	ports := map[int]int{}
	s.write("compose.yaml", publishedPort.ReplaceAllStringFunc(string(compose), func(line string) string {
		m := publishedPort.FindStringSubmatch(line)
		was, _ := strconv.Atoi(m[2])
		ports[was] = freePort(t)
		return m[1] + strconv.Itoa(ports[was]) + m[3]
	}))
	for i, e := range s.expect {
		if ports[e.Port] == 0 {
			t.Fatalf("expect.json of %s asks at %d, which compose.yaml does not publish", name, e.Port)
		}
		s.expect[i].Port = ports[e.Port]
	}
	return s
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".trellis" || d.Name() == "bin") {
			return filepath.SkipDir // what a run left: not the project's
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ask sends the request and says what is wrong with its answer.
func (e expectation) ask() string {
	method := e.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequest(method, url(e.Port)+e.Path, strings.NewReader(e.Body))
	if err != nil {
		return err.Error()
	}
	if e.ContentType != "" {
		req.Header.Set("Content-Type", e.ContentType)
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err.Error()
	case resp.StatusCode/100 != 2:
		return fmt.Sprintf("%s %s: %s: %s", method, e.Path, resp.Status, body)
	case !strings.Contains(string(body), e.Contains):
		return fmt.Sprintf("%s %s: no %q in %q", method, e.Path, e.Contains, body)
	}
	return ""
}

// check asks everything that expect.json has. Only what says within may be wrong at first.
func (s *standIn) check() {
	s.t.Helper()
	for _, e := range s.expect {
		within := time.Duration(0)
		if e.Within != "" {
			var err error
			if within, err = time.ParseDuration(e.Within); err != nil {
				s.t.Fatal(err)
			}
		}
		eventually(s.t, within, fmt.Sprintf("%s at port %d", e.Path, e.Port), e.ask)
	}
}

// recovers kills the program of one instance of a service and waits until another one is ready in its place and the
// first page answers as before.
func (s *standIn) recovers(service string) {
	s.t.Helper()
	victims := s.instances(service)
	if len(victims) == 0 {
		s.t.Fatalf("%s has no instance", service)
	}
	signal(s.t, victims[0].PID, "KILL")
	eventually(s.t, 30*time.Second, service+" replaced", func() string {
		svc := serviceOf(s.t, s.ps(), service)
		for _, in := range svc.Instances {
			if in.State != engine.InstanceExited && in.PID == victims[0].PID {
				return "still listed"
			}
		}
		if svc.State != engine.ServiceHealthy || svc.Ready != len(victims) {
			return fmt.Sprintf("%s, %d ready of %d: %s", svc.State, svc.Ready, len(victims), svc.Reason)
		}
		return ""
	})
	eventually(s.t, 30*time.Second, "answers again", s.expect[0].ask)
}

// goes takes the project down with its volumes. That nothing else is left is looked at when the test ends.
func (s *standIn) goes() {
	s.t.Helper()
	s.run("down", "--volumes", "--yes")
	left, _ := filepath.Glob(filepath.Join(s.dir, ".trellis", "*", "volumes", "*"))
	if len(left) > 0 {
		s.t.Errorf("volumes left behind: %v", left)
	}
	if status := s.ps(); len(pids(status)) > 0 || status.Holder.PID != 0 {
		s.t.Errorf("still there: %+v", status)
	}
	for _, e := range s.expect {
		if _, err := fetch(url(e.Port)); err == nil {
			s.t.Errorf("port %d still answers", e.Port)
		}
	}
}

func TestProjectsNotWrittenForTrellis(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, backEnd string
		programs      []string
	}{
		{"counter-redis", "web", []string{"python3", "redis-server"}},
		{"nginx-node-mariadb", "backend", []string{"nginx", "node", "mariadbd", "mysqladmin"}},
		{"voting", "vote", []string{"python3", "redis-server", "redis-cli", "postgres", "psql", "node", "curl"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			needPrograms(t, tc.programs...)
			s := newStandIn(t, tc.name)
			s.up()
			s.check()
			s.recovers(tc.backEnd)
			s.goes()
		})
	}
}

func TestNginxGoPostgresRedeploysUnderLoadAndKeepsItsData(t *testing.T) {
	t.Parallel()
	needPrograms(t, "nginx", "postgres", "pg_isready")
	s := newStandIn(t, "nginx-go-postgres")
	s.up()
	s.check()
	before := s.instances("backend")
	s.write("next.yaml", "services: {backend: {environment: {RELEASE: \"2\"}}}\n")
	s.flags = append(s.flags, "-f", "next.yaml")
	tr := underLoadOf(t, s.url(), 100, []load.Request{{Weight: 1, Method: "GET", Path: "/"}}, func() { s.up() })
	tr.NoGetLost(t)
	// Behind nginx a lost request is nginx's own 502: no answer but 200 is good enough.
	if tr.Report.Failed > 0 || tr.Report.Completed != tr.Report.Status[http.StatusOK] {
		t.Errorf("answers other than 200: %v, %v", tr.Report.Status, tr.Report.Errors)
	}
	if after := s.instances("backend"); len(after) != 1 || len(before) != 1 || after[0].PID == before[0].PID {
		t.Errorf("nothing was redeployed: %+v, then %+v", before, after)
	}
	s.recovers("backend")
	s.recovers("db")

	s.run("down")
	s.up()
	last := s.expect[len(s.expect)-1]
	eventually(t, 60*time.Second, "what was posted is still there", last.ask)
	s.goes()
}
