package docker

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"google.golang.org/protobuf/encoding/protowire"

	"trellis/compose"
	"trellis/driver"
)

// TestExitOf: what the engine says is told, and nothing else.
func TestExitOf(t *testing.T) {
	const began, ended = "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"
	end, created := parseTime(ended), parseTime(began)
	for name, c := range map[string]struct {
		state container.State
		r     record
		want  driver.Exit
	}{
		"code":        {container.State{Status: "exited", ExitCode: 7, FinishedAt: ended}, record{}, driver.Exit{Code: 7, Time: end}},
		"signal":      {container.State{Status: "exited", ExitCode: 137, FinishedAt: ended}, record{}, driver.Exit{Code: 137, Signal: "SIGKILL", Time: end}},
		"no signal":   {container.State{Status: "exited", ExitCode: 255, FinishedAt: ended}, record{}, driver.Exit{Code: 255, Time: end}},
		"memory":      {container.State{Status: "exited", ExitCode: 137, OOMKilled: true, FinishedAt: ended}, record{}, driver.Exit{Code: 137, Signal: "SIGKILL", OOM: true, Time: end}},
		"asked":       {container.State{Status: "exited", ExitCode: 143, FinishedAt: ended}, record{Asked: end.Add(-time.Second)}, driver.Exit{Code: 143, Signal: "SIGTERM", Asked: true, Time: end}},
		"asked later": {container.State{Status: "exited", ExitCode: 1, FinishedAt: ended}, record{Asked: end.Add(time.Second)}, driver.Exit{Code: 1, Time: end}},
		"no program":  {container.State{Status: "created", ExitCode: 127, Error: "no such file", FinishedAt: "0001-01-01T00:00:00Z"}, record{}, driver.Exit{Code: 127, Error: "no such file", Time: created}},
		"cut short":   {container.State{Status: "created"}, record{}, driver.Exit{Code: codeUnknown, Error: "its start was cut short", Time: created}},
		"hook":        {container.State{Status: "exited", ExitCode: 137, FinishedAt: ended}, record{Trouble: "hook"}, driver.Exit{Code: 137, Signal: "SIGKILL", Error: "hook", Time: end}},
	} {
		if d := cmp.Diff(c.want, *exitOf(&c.state, created, c.r)); d != "" {
			t.Errorf("%s: -want +got:\n%s", name, d)
		}
	}
}

// TestBuildContext: what is ignored stays at home, the Dockerfile comes along in any case, and who owns the files does
// not.
func TestBuildContext(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"Dockerfile": "FROM scratch", "main.go": "package main", "node_modules/a/b.js": "x", "docs/a.md": "x", "docs/keep.md": "x",
		".trellis/shop/state.db": "x", ".dockerignore": "node_modules\ndocs/*\n!docs/keep.md\nDockerfile\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names := func(b compose.Build) (string, []string) {
		t.Helper()
		r, dockerfile, err := contextOf(&b, []string{filepath.Join(root, ".trellis")})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var all []string
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				slices.Sort(all)
				return dockerfile, all
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Uname != "" {
				t.Errorf("%s belongs to %d %s", h.Name, h.Uid, h.Uname)
			}
			all = append(all, h.Name)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{root, root + "/", link} {
		dockerfile, got := names(compose.Build{Context: from})
		want := []string{".dockerignore", "Dockerfile", "docs/", "docs/keep.md", "main.go"}
		if d := cmp.Diff(want, got); d != "" || dockerfile != "Dockerfile" {
			t.Errorf("%s: Dockerfile %q, -want +got:\n%s", from, dockerfile, d)
		}
	}
	if dockerfile, got := names(compose.Build{Context: root, DockerfileInline: "FROM scratch"}); dockerfile != inlineName || !slices.Contains(got, inlineName) {
		t.Errorf("inline: %q, %q", dockerfile, got)
	}
	if _, _, err := contextOf(&compose.Build{Context: filepath.Join(root, "nothing")}, nil); err == nil {
		t.Error("a context that is not there is taken")
	}
	if _, _, err := contextOf(&compose.Build{Context: root, Dockerfile: "None"}, nil); err == nil {
		t.Error("a Dockerfile that is not there is taken")
	}
}

// TestCredentials: those that docker login left are found, under the names that it gives to registries.
func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	config := `{"auths": {"https://index.docker.io/v1/": {"auth": "YW5uYTpzZWNyZXQ="}, "registry.example.org": {"auth": "Ym9iOnB3"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	for image, want := range map[string]string{"postgres:17": "anna", "registry.example.org/team/app": "bob", "other.example.org/app": ""} {
		key, err := registryKey(image)
		if err != nil {
			t.Fatal(err)
		}
		auth, found, err := c.credentials(key)
		if err != nil || auth.Username != want || found != (want != "") {
			t.Errorf("%s: %q, %v, %v", image, auth.Username, found, err)
		}
	}
}

// TestCredentialsBesideTokens: docker login in a browser keeps its tokens under names of the same host. They are no credentials.
func TestCredentialsBesideTokens(t *testing.T) {
	entry := func(text string) dockerAuth { return dockerAuth{Auth: base64.StdEncoding.EncodeToString([]byte(text))} }
	c := dockerConfig{Auths: map[string]dockerAuth{
		hubKey: entry("anna:secret"), hubKey + "access-token": entry("anna:access"), hubKey + "refresh-token": entry("anna:refresh"),
		"registry.example.org": entry("bob:pw"), "https://registry.example.org/team": entry("eve:pw"),
	}}
	for range 50 { // a map has no order
		for key, want := range map[string][2]string{hubKey: {"anna", "secret"}, "registry.example.org": {"bob", "pw"}} {
			auth, found, err := c.credentials(key)
			if got := [2]string{auth.Username, auth.Password}; err != nil || !found || got != want {
				t.Fatalf("%s: %q, %v, %v, want %q", key, got, found, err, want)
			}
		}
	}
}

func TestWhereTheEngineIs(t *testing.T) {
	for host, want := range map[string][2]bool{
		"unix:///var/run/docker.sock": {true, false}, "unix:///home/a/.docker/desktop/docker.sock": {false, false},
		"tcp://127.0.0.1:2375": {false, false}, "tcp://localhost:2375": {false, false}, "tcp://192.0.2.1:2376": {false, true},
		"ssh://root@example.org": {false, true},
	} {
		if e := engine(host); e.local() != want[0] || e.elsewhere() != want[1] {
			t.Errorf("%s: here %v, elsewhere %v, want %v", host, e.local(), e.elsewhere(), want)
		}
	}
}

func TestFindUser(t *testing.T) {
	const text = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:/bin/false\nbroken\n"
	for user, want := range map[string]owner{"root": {0, 0}, "app": {1000, 1001}, "1000": {1000, 1001}} {
		if got, ok := findUser(strings.NewReader(text), user); !ok || got != want {
			t.Errorf("%s: %+v, %v", user, got, ok)
		}
	}
	if _, ok := findUser(strings.NewReader(text), "nobody"); ok {
		t.Error("a user who is not there was found")
	}
}

func FuzzFindUser(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "root")
	f.Fuzz(func(_ *testing.T, text, user string) { findUser(strings.NewReader(text), user) })
}

// field appends a field with a length to a protobuf message.
func field(b []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
}

func TestTrace(t *testing.T) {
	vertex := field(field(nil, vertexName, []byte("[1/2] COPY a b")), vertexStarted, []byte{8, 1})
	failed := field(field(vertex, vertexDone, []byte{8, 2}), vertexError, []byte("no such file"))
	log := field(nil, logMessage, []byte("hello\n"))
	status := field(field(field(nil, statusVertexes, vertex), statusLogs, log), statusVertexes, failed)
	aux, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	var out tail
	out.trace(aux)
	if got, want := out.String(), "[1/2] COPY a b\nhello\n[1/2] COPY a b: no such file"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzTrace(f *testing.F) {
	f.Add(field(nil, statusLogs, field(nil, logMessage, []byte("hello"))))
	f.Fuzz(func(_ *testing.T, b []byte) {
		aux, _ := json.Marshal(b)
		(&tail{}).trace(aux)
	})
}

// FuzzLines: whatever an instance writes comes out as one JSON object a line.
func FuzzLines(f *testing.F) {
	f.Add("2026-01-02T03:04:05.123456789Z hello\nno time\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		var out bytes.Buffer
		l := &lines{to: &out, stream: "stdout"}
		if _, err := io.WriteString(l, text); err != nil {
			t.Fatal(err)
		}
		n := 0
		for dec := json.NewDecoder(&out); ; n++ {
			var line driver.LogLine
			if err := dec.Decode(&line); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if want := strings.Count(text, "\n"); n != want {
			t.Fatalf("%d lines of %d", n, want)
		}
	})
}

// FuzzCheck: no spec makes the check panic, and no ID leads out of the directory of records.
func FuzzCheck(f *testing.F) {
	f.Add("shop/web-1-00000001", "/data")
	f.Add("shop/../x", "/../..")
	d := &Driver{cfg: Config{StateDir: "/state", RuntimeDir: "/run"}}
	f.Fuzz(func(t *testing.T, id, target string) {
		project, _, _ := strings.Cut(id, "/")
		s := driver.Spec{ID: driver.ID(id), Project: project, Service: "web", Image: "i", Mounts: []driver.Mount{{Target: target}}}
		if check(s) == nil && filepath.Dir(d.recordFile(s.ID)) != "/state/containers" {
			t.Fatalf("%q: %s", id, d.recordFile(s.ID))
		}
	})
}
