package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"trellis/compose"
	"trellis/errdefs"
)

// bench is a source folder, a store, and a count of the builds that ran.
type bench struct {
	t     testing.TB
	store *Store
	dir   string
	runs  string // a line for each run, outside of dir
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), runs: filepath.Join(t.TempDir(), "runs")}
	var err error
	if b.store, err = Open(filepath.Join(t.TempDir(), "artifacts")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeReadOnly(b.store.dir) })
	return b
}

func (b *bench) write(name, content string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) request(build string, artifacts ...string) Request {
	if build != "" {
		build = "echo run >> '" + b.runs + "'; " + build
	}
	return Request{Project: "p", Service: "web", Env: []string{"PATH=" + os.Getenv("PATH")},
		Process: compose.Process{Dir: b.dir, Build: build, Artifacts: artifacts}}
}

func (b *bench) build(req Request) (digest string, cached bool) {
	b.t.Helper()
	digest, cached, err := b.store.Build(b.t.Context(), req)
	if err != nil {
		b.t.Fatal(err)
	}
	return digest, cached
}

func (b *bench) fails(req Request, want string) error {
	b.t.Helper()
	digest, _, err := b.store.Build(b.t.Context(), req)
	if err == nil || !strings.Contains(err.Error(), want) || digest != "" {
		b.t.Errorf("Build = %q, %v; want an error with %q", digest, err, want)
	}
	return err
}

func (b *bench) ran() int {
	data, err := os.ReadFile(b.runs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	return strings.Count(string(data), "run\n")
}

// contents lists an artifact: path, mode, content or target.
func (b *bench) contents(digest string) map[string]string {
	b.t.Helper()
	found := map[string]string{}
	root := b.store.Path(digest)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		what := info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += " " + string(data)
		} else if info.Mode()&fs.ModeSymlink != 0 {
			target, _ := os.Readlink(p)
			what = "-> " + target
		}
		found[rel] = what
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const compile = "mkdir -p bin && cat src/*.c > bin/app && chmod +x bin/app"

func TestBuildsOncePerContent(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "one")
	req := b.request(compile, "bin/app")
	first, cached := b.build(req)
	if cached || b.ran() != 1 {
		t.Errorf("first: cached %v, ran %d", cached, b.ran())
	}
	same(t, "artifact", b.contents(first), map[string]string{
		".": "dr-xr-xr-x", "bin": "dr-xr-xr-x", "bin/app": "-r-xr-xr-x one"})
	steps := []struct {
		what string
		do   func()
		runs int
		same bool
	}{
		{"again", func() {}, 1, true},
		{"another mtime", func() { touch(t, b.dir+"/src/a.c") }, 1, true},
		{"the artifact's mtime", func() { touch(t, b.dir+"/bin/app") }, 1, true},
		{"artifact removed", func() { os.RemoveAll(b.dir + "/bin") }, 1, true},
		{"rewritten with the same content", func() { b.write("src/a.c", "one") }, 1, true},
		{"changed, same size", func() { b.write("src/a.c", "two") }, 2, false},
		{"changed back", func() { b.write("src/a.c", "one") }, 2, true},
		{"another file", func() { b.write("src/b.c", "more") }, 3, false},
		{"that file removed", func() { os.Remove(b.dir + "/src/b.c") }, 3, true},
		{"a file that changes nothing", func() { b.write("README", "x") }, 4, true},
		{"artifact changed by hand", func() { b.write("bin/app", "mine") }, 5, true},
		{"a file that may now be executed", func() { os.Chmod(b.dir+"/README", 0o755) }, 6, true},
		{"at the end", func() {}, 6, true},
	}
	for _, s := range steps {
		s.do()
		before := b.ran()
		digest, cached := b.build(req)
		if b.ran() != s.runs || cached != (before == s.runs) {
			t.Errorf("%s: ran %d times, want %d; cached %v", s.what, b.ran(), s.runs, cached)
		}
		if (digest == first) != s.same {
			t.Errorf("%s: digest %s, the first was %s", s.what, digest, first)
		}
	}
}

func touch(t testing.TB, path string) {
	t.Helper()
	at := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestSettledFilesAreNotReadAgain(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "one")
	req := b.request(compile, "bin/app")
	b.build(req)
	src, err := newSource(b.store.dir, req.Process)
	if err != nil {
		t.Fatal(err)
	}
	file := b.store.folderFile(src.dir)
	f := loadFolder(file)
	if len(f.Stats) == 0 || f.Stats["src/a.c"].Settled {
		t.Fatalf("a file just written counts as settled: %+v", f.Stats)
	}
	// As it will be some seconds later.
	for p, e := range f.Stats {
		e.Settled = true
		f.Stats[p] = e
	}
	e := f.Stats["src/a.c"]
	e.Sum = sum{1}
	f.Stats["src/a.c"] = e
	got, _, err := src.scan(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range got {
		if e.path == "src/a.c" && e.sum != (sum{1}) {
			t.Error("an unchanged, settled file was read again")
		}
	}
	b.write("src/a.c", "two") // same size, another time
	got, _, err = src.scan(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range got {
		if e.path == "src/a.c" && e.sum == (sum{1}) {
			t.Error("a changed file was not read")
		}
	}
}

func TestForce(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "one")
	req := b.request(compile, "bin/app")
	first, _ := b.build(req)
	req.Force = true
	again, cached := b.build(req)
	if cached || b.ran() != 2 || again != first {
		t.Errorf("forced: cached %v, ran %d, same digest %v", cached, b.ran(), again == first)
	}
}

func TestServicesShareABuild(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "a")
	both := "mkdir -p bin && cp src/a.c bin/catalog && (cat src/a.c; echo) > bin/identity"
	for round, want := range []int{1, 1, 2} {
		if round == 2 {
			b.write("src/a.c", "changed")
		}
		catalog, _ := b.build(b.request(both, "bin/catalog"))
		identity, cached := b.build(b.request(both, "bin/identity"))
		if b.ran() != want || !cached || catalog == identity {
			t.Errorf("round %d: ran %d times, want %d; second cached %v", round, b.ran(), want, cached)
		}
		if got := b.contents(identity); got["bin/identity"] == "" || got["bin/catalog"] != "" {
			t.Errorf("identity has %v", got)
		}
	}
}

// Services that build in one folder each leave files there: none may count as the other's source.
func TestServicesDoNotRebuildEachOther(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "a")
	// Not reproducible: each run makes another content.
	one := b.request("mkdir -p bin obj && date +%N > bin/one && date +%N > obj/one.o", "bin/one")
	two := b.request("mkdir -p bin obj && date +%N > bin/two && date +%N > obj/two.o", "bin/two")
	for round, want := range []int{2, 2, 4, 4} {
		if round == 2 {
			b.write("src/a.c", "b")
		}
		b.build(one)
		b.build(two)
		if b.ran() != want {
			t.Errorf("round %d: ran %d times, want %d", round, b.ran(), want)
		}
	}
}

func TestConcurrentBuildsRunOnce(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "a")
	req := b.request("sleep 0.2; "+compile, "bin/app")
	digests := make([]string, 8)
	var all sync.WaitGroup
	for i := range digests {
		all.Go(func() {
			store, err := Open(b.store.dir) // as another process would
			if err != nil {
				t.Error(err)
				return
			}
			digest, _, err := store.Build(t.Context(), req)
			if err != nil {
				t.Error(err)
			}
			digests[i] = digest
		})
	}
	all.Wait()
	for _, d := range digests {
		if d != digests[0] || d == "" {
			t.Errorf("digests %v", digests)
		}
	}
	if b.ran() != 1 {
		t.Errorf("ran %d times", b.ran())
	}
	left, err := filepath.Glob(filepath.Join(b.store.dir, tempPrefix+"*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFailedBuild(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "a")
	var out bytes.Buffer
	req := b.request("for i in $(seq 1 100); do echo line $i; done; printf 'no newline' >&2; exit 7", "bin/app")
	req.Output = &out
	for range 2 {
		err := b.fails(req, "exit status 7")
		if lines := strings.Split(err.Error(), "\n"); len(lines) != 1+lastLines || lines[1] != "line 62" || lines[lastLines] != "no newline" {
			t.Errorf("the error has %d lines: %s", len(lines), err)
		}
	}
	if b.ran() != 2 {
		t.Errorf("ran %d times: a failure was remembered", b.ran())
	}
	if !strings.HasPrefix(out.String(), "line 1\nline 2\n") {
		t.Errorf("output %q", out.String())
	}
	b.fails(b.request("true", "bin/app"), "is not there")
	b.fails(b.request("exit 1"), "printed nothing")
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("nobody listens") }

func TestOutputThatFailsDoesNotFailTheBuild(t *testing.T) {
	b := newBench(t)
	req := b.request("echo hello; echo x > app", "app")
	req.Output = brokenWriter{}
	b.build(req)
}

func TestCancelEndsTheWholeBuild(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	started := filepath.Join(t.TempDir(), "started")
	go func() {
		for {
			if _, err := os.Stat(started); err == nil {
				cancel()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	pids := filepath.Join(t.TempDir(), "pid")
	// One of its processes does not listen, and outlives the one that would be killed for it.
	req := b.request("(trap '' TERM; exec sleep 1000) & echo $! > '"+pids+"'; touch '"+started+"'; wait; sleep 1000", "app")
	if _, _, err := b.store.Build(ctx, req); !errors.Is(err, context.Canceled) {
		t.Errorf("Build: %v", err)
	}
	data, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(data))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s of the build still runs", pid)
		}
	}
}

func TestBuildMayLeaveAProcess(t *testing.T) {
	b := newBench(t)
	// A compiler's server keeps the output open.
	b.build(b.request("(exec sleep 8) & echo x > app", "app"))
}

func TestArtifactsOfEveryKind(t *testing.T) {
	b := newBench(t)
	b.write("dist/index.html", "<html>")
	b.write("dist/assets/app.js", "js")
	b.write("node_modules/tool/cli.js", "#!")
	os.Chmod(b.dir+"/node_modules/tool/cli.js", 0o700)
	os.MkdirAll(b.dir+"/node_modules/.bin", 0o755)
	os.MkdirAll(b.dir+"/dist/empty", 0o700)
	os.Symlink("../tool/cli.js", b.dir+"/node_modules/.bin/tool")
	os.Symlink("nowhere", b.dir+"/dist/broken")
	b.write("dist/.git/config", "x")
	b.write("server.js", "s")
	req := b.request("", "dist/", "./server.js", "node_modules", "dist/assets")
	digest, cached := b.build(req)
	if cached {
		t.Error("the first look is cached")
	}
	same(t, "artifact", b.contents(digest), map[string]string{
		".": "dr-xr-xr-x", "dist": "dr-xr-xr-x", "dist/index.html": "-r--r--r-- <html>", "dist/assets": "dr-xr-xr-x",
		"dist/assets/app.js": "-r--r--r-- js", "dist/empty": "dr-xr-xr-x", "dist/broken": "-> nowhere",
		"node_modules": "dr-xr-xr-x", "node_modules/tool": "dr-xr-xr-x", "node_modules/tool/cli.js": "-r-xr-xr-x #!",
		"node_modules/.bin": "dr-xr-xr-x", "node_modules/.bin/tool": "-> ../tool/cli.js", "server.js": "-r--r--r-- s",
	})
	if again, cached := b.build(req); again != digest || !cached {
		t.Errorf("again: cached %v, same %v", cached, again == digest)
	}
	if err := os.Mkdir(b.dir+"/dist/later", 0o755); err != nil {
		t.Fatal(err)
	}
	later, cached := b.build(req)
	if got := b.contents(later); cached || got["dist/later"] == "" {
		t.Errorf("with another folder: cached %v, %v", cached, got)
	}
	b.write("dist/assets/app.js", "JS")
	if changed, cached := b.build(req); changed == digest || cached {
		t.Errorf("after a change: cached %v, same %v", cached, changed == digest)
	}
}

func TestInterpretedServiceWithABuild(t *testing.T) {
	b := newBench(t)
	b.write("server.js", "one")
	b.write("package.json", "{}")
	req := b.request("mkdir -p node_modules/x && echo x > node_modules/x/index.js", "server.js", "node_modules")
	first, _ := b.build(req)
	if _, cached := b.build(req); !cached || b.ran() != 1 {
		t.Errorf("again: cached %v, ran %d", cached, b.ran())
	}
	b.write("server.js", "two") // source and artifact at once
	second, _ := b.build(req)
	if second == first || b.ran() != 2 {
		t.Errorf("after a change: ran %d, same digest %v", b.ran(), second == first)
	}
}

func TestBuildWithoutArtifacts(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "one")
	req := b.request("cp src/a.c app")
	for step, want := range []int{1, 1, 2, 3} { // 3: what is in the folder is of the second build, not the first
		if step >= 2 {
			b.write("src/a.c", []string{"two", "one"}[step-2])
		}
		if digest, _ := b.build(req); digest != "" || b.ran() != want {
			t.Errorf("step %d: digest %q, ran %d times, want %d", step, digest, b.ran(), want)
		}
	}
	if digest, cached := b.build(b.request("")); digest != "" || !cached {
		t.Errorf("nothing to do: %q, %v", digest, cached)
	}
}

// TestWhatABuildLeftIsGone: nothing is kept of a build without artifacts, so that what it left has to be there.
func TestWhatABuildLeftIsGone(t *testing.T) {
	b := newBench(t)
	b.write(".gitignore", "bin/\n*.log\n")
	b.write("src/a.c", "one")
	b.write("old.log", "x")
	req := b.request("mkdir -p bin out && cp src/a.c bin/app && cp src/a.c out/app")
	for step, c := range []struct {
		gone string
		runs int
	}{{"none", 1}, {"none", 1}, {"bin", 2}, {"none", 2}, {"out/app", 3}, {"none", 3}, {"old.log", 3}} {
		if err := os.RemoveAll(filepath.Join(b.dir, c.gone)); err != nil {
			t.Fatal(err)
		}
		if b.build(req); b.ran() != c.runs {
			t.Errorf("step %d, without %s: ran %d times, want %d", step, c.gone, b.ran(), c.runs)
		}
	}
}

// TestWhatABuildLeftIsAnothers: what is in the folder is taken for what a build left, for other artifacts of it, as long as
// nobody has touched it since.
func TestWhatABuildLeftIsAnothers(t *testing.T) {
	for name, touch := range map[string]func(b *bench){
		"changed by hand":      func(b *bench) { b.write("dist/y", "mine") },
		"another file by hand": func(b *bench) { b.write("dist/sub/z", "mine") },
		"removed":              func(b *bench) { os.Remove(filepath.Join(b.dir, "dist/sub/y")) },
		"another build's":      func(b *bench) { b.build(b.request("echo other > dist/y", "dist/y")) },
	} {
		for _, ignored := range []string{"", "dist/\n"} {
			t.Run(fmt.Sprintf("%s, ignored %q", name, ignored), func(t *testing.T) {
				b := newBench(t)
				b.write(".gitignore", ignored)
				b.write("src/a.c", "one")
				both := "rm -rf dist && mkdir -p dist/sub && cp src/a.c dist/x && cp src/a.c dist/y && cp src/a.c dist/sub/y"
				b.build(b.request(both, "dist/x"))
				time.Sleep(20 * time.Millisecond) // file systems take the time in steps
				touch(b)
				digest, cached := b.build(b.request(both, "dist"))
				if cached {
					t.Error("what is there was taken for the build's")
				}
				got := b.contents(digest)
				for _, file := range []string{"dist/x", "dist/y", "dist/sub/y"} {
					if got[file] != "-r--r--r-- one" {
						t.Errorf("%s is %q", file, got[file])
					}
				}
			})
		}
	}
}

func TestSourceChangedDuringTheBuildIsNotRemembered(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "one")
	req := b.request("cp src/a.c app; [ -e done ] || { echo late > src/a.c; touch done; }", "app")
	b.build(req)
	if _, cached := b.build(req); cached || b.ran() != 2 {
		t.Errorf("a build of the old source was taken for the new one: cached %v, ran %d", cached, b.ran())
	}
	if _, cached := b.build(req); !cached {
		t.Error("it never settles")
	}
}

// TestASourceThatComesDuringABuildCounts has somebody add a file when the build has read the others.
func TestASourceThatComesDuringABuildCounts(t *testing.T) {
	b := newBench(t)
	add := filepath.Join(t.TempDir(), "add")
	b.write("src/a.c", "one")
	req := b.request("rm -rf dist; cp -r src dist; [ -e "+add+" ] && mv "+add+" src/late.c; date +%N > out.log; mkdir -p obj; date +%N > obj/$(date +%N).o; true", "dist")
	b.build(req)
	if _, cached := b.build(req); !cached {
		t.Fatal("it is not known")
	}
	put(t, add, "late")
	b.write("src/a.c", "two")
	first, _ := b.build(req)
	if got := b.contents(first); got["dist/late.c"] != "" || b.ran() != 2 {
		t.Fatalf("ran %d times, %v", b.ran(), got)
	}
	second, cached := b.build(req)
	if got := b.contents(second); cached || got["dist/late.c"] != "-r--r--r-- late" {
		t.Errorf("a build that has not read the file was taken for one that has: cached %v, %v", cached, got)
	}
	if again, cached := b.build(req); !cached || again != second {
		t.Error("it never settles")
	}
	if err := os.Remove(filepath.Join(b.dir, "src/late.c")); err != nil {
		t.Fatal(err)
	}
	without, _ := b.build(req)
	if got := b.contents(without); got["dist/late.c"] != "" {
		t.Error("what was added was taken for something that the build left")
	}
}

// TestWhatABuildLeavesLater is a file that a build makes only when it is run again.
func TestWhatABuildLeavesLater(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "one")
	req := b.request("[ -e app ] && date +%N > cache; cp src/a.c app", "app")
	for round, want := range []int{1, 1, 2, 3, 3, 4, 4} { // 3: nobody knows yet whose the file is
		if round == 2 || round == 5 {
			b.write("src/a.c", fmt.Sprint(round))
		}
		if b.build(req); b.ran() != want {
			t.Errorf("round %d: ran %d times, want %d", round, b.ran(), want)
		}
	}
	if err := os.Remove(filepath.Join(b.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	b.write("src/a.c", "last")
	b.build(req)
	if _, cached := b.build(req); !cached {
		t.Error("a file that a build leaves is another one when it was removed in between")
	}
}

func TestRefusedArtifacts(t *testing.T) {
	b := newBench(t)
	b.write("in/file", "x")
	outside := t.TempDir()
	os.Symlink(outside, b.dir+"/way-out")
	os.Symlink("/etc/passwd", b.dir+"/in/absolute")
	os.MkdirAll(b.dir+"/up", 0o755)
	os.Symlink("../../secret", b.dir+"/up/link")
	os.MkdirAll(b.dir+"/beside", 0o755)
	os.Symlink("../in/file", b.dir+"/beside/link")
	os.MkdirAll(b.dir+"/special", 0o755)
	if err := unix.Mkfifo(b.dir+"/special/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	for artifact, want := range map[string]string{
		"../x": "outside", "/etc/passwd": "outside", "a/../../x": "outside", "": "", "way-out/x": "way-out",
		"in": "outside", "up": "outside", "beside": "add that", "special": "neither file", "missing": "not there",
	} {
		if artifact == "" {
			continue
		}
		for _, build := range []string{"true", ""} {
			if build == "" && artifact == "missing" {
				want = "no such file"
			}
			err := b.fails(b.request(build, artifact), want)
			if !errors.Is(err, errdefs.ErrInvalid) {
				t.Errorf("%s: %v is not invalid", artifact, err)
			}
		}
	}
	bad := b.request("true", "in")
	bad.Process.Dir = "relative"
	b.fails(bad, "absolute")
	bad.Process.Dir = filepath.Join(b.dir, "nothing")
	b.fails(bad, "no such file")
	// The link is fine once what it leads to is there too.
	os.Remove(b.dir + "/in/absolute")
	b.build(b.request("", "beside", "in"))
	if left, _ := filepath.Glob(filepath.Join(b.store.dir, tempPrefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSameContentSameDigest(t *testing.T) {
	one, two := newBench(t), newBench(t)
	for i, b := range []*bench{one, two} {
		b.write("app", "x")
		b.write("other", fmt.Sprint(i))
		if i == 1 {
			touch(t, b.dir+"/app")
		}
	}
	first, _ := one.build(one.request("", "app"))
	second, _ := two.build(two.request("", "app"))
	if first != second {
		t.Errorf("%s and %s", first, second)
	}
	two.write("bin/app", "x")
	if moved, _ := two.build(two.request("", "bin/app")); moved == first {
		t.Error("another path, the same digest")
	}
}

func TestEnvironmentOfTheKey(t *testing.T) {
	b := newBench(t)
	req := b.request(`echo "$COLOR" > app`, "app")
	base := req.Env
	for _, c := range []struct {
		env  []string
		runs int
	}{{nil, 1}, {[]string{"TERM=x", "GOCACHE=/y"}, 1}, {[]string{"COLOR=red"}, 2}, {[]string{"CGO_ENABLED=0"}, 3}, {[]string{"COLORS=x"}, 3}, {[]string{"VITE_API=/v1"}, 4}, {[]string{"VITE_API=/v2"}, 5}} {
		req.Env = append(base[:len(base):len(base)], c.env...)
		b.build(req)
		if b.ran() != c.runs {
			t.Errorf("%v: ran %d times, want %d", c.env, b.ran(), c.runs)
		}
	}
}

func TestPrune(t *testing.T) {
	b := newBench(t)
	var digests []string
	for i := range 3 {
		b.write("app", fmt.Sprint(i))
		digest, _ := b.build(b.request("", "app"))
		digests = append(digests, digest)
	}
	keep := map[string]bool{digests[0]: true}
	if err := b.store.Prune(keep); err != nil {
		t.Fatal(err)
	}
	for _, d := range digests {
		b.contents(d) // young ones stay
	}
	old := time.Now().Add(-time.Hour)
	for _, d := range digests {
		if err := os.Chtimes(b.store.Path(d), old, old); err != nil {
			t.Fatal(err)
		}
	}
	b.write("app", "1")
	b.build(b.request("", "app")) // asked for a moment ago: stays
	if err := b.store.Prune(keep); err != nil {
		t.Fatal(err)
	}
	b.contents(digests[0])
	b.contents(digests[1])
	if _, err := os.Stat(b.store.Path(digests[2])); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not pruned: %v", err)
	}
	b.write("app", "2")
	if again, cached := b.build(b.request("", "app")); again != digests[2] || cached {
		t.Errorf("built again: cached %v, same %v", cached, again == digests[2])
	}
	b.contents(digests[2])
}

func TestLostIndexCostsABuildOnly(t *testing.T) {
	b := newBench(t)
	b.write("src/a.c", "x")
	req := b.request(compile, "bin/app")
	first, _ := b.build(req)
	err := filepath.WalkDir(filepath.Join(b.store.dir, indexDir), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.WriteFile(p, []byte("garbage"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := b.build(req); again != first || b.ran() != 2 {
		t.Errorf("ran %d, same %v", b.ran(), again == first)
	}
	if _, cached := b.build(req); !cached {
		t.Error("not cached afterwards")
	}
}

func TestPathOfWhatIsNoDigest(t *testing.T) {
	b := newBench(t)
	for _, digest := range []string{"", ".", "..", indexDir, "../x", strings.Repeat("A", 64), strings.Repeat("g", 64)} {
		if p := b.store.Path(digest); p != "" {
			t.Errorf("Path(%q) = %s", digest, p)
		}
	}
}

// BenchmarkWarm looks at 20 000 files of which none has changed.
func BenchmarkWarm(b *testing.B) {
	w := newBench(b)
	for i := range 20_000 {
		w.write(fmt.Sprintf("d%d/f%d", i%200, i), fmt.Sprint(i))
	}
	req := w.request("echo x > app", "app")
	w.build(req)
	time.Sleep(settleTime + 100*time.Millisecond)
	w.build(req)
	for b.Loop() {
		if _, cached := w.build(req); !cached {
			b.Fatal("not cached")
		}
	}
}
