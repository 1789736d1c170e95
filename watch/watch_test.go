package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

// TestBatches feeds events at chosen times and says when which batch is delivered.
func TestBatches(t *testing.T) {
	type batch struct {
		at    time.Duration
		paths string
	}
	at := func(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }
	for name, test := range map[string]struct {
		events map[int]string // by ms; "overflow" is that the kernel lost some
		busy   time.Duration  // that a batch takes
		want   []batch
	}{
		"one save":                      {events: map[int]string{0: "a"}, want: []batch{{at(100), "a"}}},
		"a burst is one batch":          {events: map[int]string{0: "a", 50: "b", 120: "a"}, want: []batch{{at(220), "a b"}}},
		"two saves":                     {events: map[int]string{0: "a", 300: "b"}, want: []batch{{at(100), "a"}, {at(400), "b"}}},
		"lost events are a look at all": {events: map[int]string{0: "overflow"}, want: []batch{{at(100), "all"}}},
		"a save during a build comes after": {events: map[int]string{0: "a", 150: "b", 400: "c"}, busy: time.Second,
			want: []batch{{at(100), "a"}, {at(1200), "b c"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, err := New(Config{})
				if err != nil {
					t.Fatal(err)
				}
				events, failures := make(chan fsnotify.Event), make(chan error)
				ctx, cancel := context.WithCancel(t.Context())
				begin := time.Now()
				var got []batch
				look := func(dirty map[string]bool, all bool) ([]Change, error) {
					if all {
						return []Change{{Path: "all"}}, nil
					}
					var changes []Change
					for path := range dirty {
						changes = append(changes, Change{Path: path})
					}
					slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
					return changes, nil
				}
				ended := make(chan error)
				go func() {
					ended <- w.loop(ctx, events, failures, look, func(changes []Change) {
						var paths []string
						for _, c := range changes {
							paths = append(paths, c.Path)
						}
						got = append(got, batch{time.Since(begin), strings.Join(paths, " ")})
						time.Sleep(test.busy)
					})
				}()
				for ms := range 1000 {
					if path := test.events[ms]; path == "overflow" {
						failures <- fsnotify.ErrEventOverflow
					} else if path != "" {
						events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
					}
					time.Sleep(time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("batches %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestABatchIsNotPutOffForEver writes without a pause.
func TestABatchIsNotPutOffForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		events := make(chan fsnotify.Event)
		ctx, cancel := context.WithCancel(t.Context())
		begin, batches := time.Now(), 0
		ended := make(chan error)
		go func() {
			ended <- w.loop(ctx, events, nil, func(map[string]bool, bool) ([]Change, error) { return []Change{{}}, nil },
				func([]Change) { batches++ })
		}()
		for time.Since(begin) < 9*time.Second {
			events <- fsnotify.Event{Name: "log", Op: fsnotify.Write}
			time.Sleep(30 * time.Millisecond)
		}
		cancel()
		if err := <-ended; err != nil || batches != 4 {
			t.Errorf("%d batches in 9 s (%v), want one every 2 s", batches, err)
		}
	})
}

// watched runs a Watcher on rules and gathers what it says.
type watched struct {
	t    *testing.T
	dir  string
	mu   sync.Mutex
	seen map[string]string // path relative to dir to "changed" or "gone", of the last time
	said []string
	n    int
}

// quiet is a Config.Quiet for tests whose files are each written once.
const quiet = 20 * time.Millisecond

func start(t *testing.T, dir string, quiet time.Duration, rules ...Rule) *watched {
	t.Helper()
	out := &watched{t: t, dir: dir, seen: map[string]string{}}
	w, err := New(Config{Rules: rules, Quiet: quiet, Warn: func(s string) { out.said = append(out.said, s) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- w.Run(ctx, ready, func(changes []Change) {
			out.mu.Lock()
			defer out.mu.Unlock()
			out.n++
			for _, c := range changes {
				rel, err := filepath.Rel(dir, c.Path)
				if err != nil {
					rel = c.Path
				}
				out.seen[rel] = "changed"
				if c.Gone {
					out.seen[rel] = "gone"
				}
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not get ready")
	}
	return out
}

// until waits until exactly want was seen, and forgets it.
func (o *watched) until(want map[string]string) {
	o.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		o.mu.Lock()
		got := fmt.Sprint(o.seen)
		if got == fmt.Sprint(want) {
			clear(o.seen)
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
		if time.Now().After(deadline) {
			o.t.Fatalf("seen %s, want %v", got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestChangesOfFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(path string) string { return filepath.Join(dir, path) }
	write(t, at("src/a.go"), "a")
	write(t, at("src/deep/b.go"), "b")
	write(t, at("other/c"), "c")
	w := start(t, dir, 300*time.Millisecond, Rule{Path: at("src"), Ignore: []string{"*.log", "cache/"}})

	write(t, at("src/a.go"), "aa")
	w.until(map[string]string{"src/a.go": "changed"})

	// An editor writes beside the file and renames over it.
	write(t, at("src/.a.go.swp"), "x")
	write(t, at("src/4913"), "")
	write(t, at("src/a.go.new"), "aaa")
	if err := errors.Join(os.Rename(at("src/a.go.new"), at("src/a.go")), os.Remove(at("src/4913"))); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"src/a.go": "changed"})

	// What is new, below a folder that is new too.
	write(t, at("src/new/er/d.go"), "d")
	w.until(map[string]string{"src/new/er/d.go": "changed"})
	write(t, at("src/new/er/e.go"), "e")
	w.until(map[string]string{"src/new/er/e.go": "changed"})

	// What does not matter comes before what does, and is not told.
	write(t, at("src/x.log"), "x")
	write(t, at("src/cache/y"), "y")
	write(t, at("other/c"), "cc")
	write(t, at("src/.git/index"), "i")
	write(t, at("src/a.go"), "last")
	w.until(map[string]string{"src/a.go": "changed"})

	if err := os.RemoveAll(at("src/new")); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"src/new/er/d.go": "gone", "src/new/er/e.go": "gone"})

	// The folder itself is replaced, as a checkout may do.
	if err := errors.Join(os.Rename(at("src"), at("old")), os.CopyFS(at("src"), os.DirFS(at("old"))), os.Remove(at("src/a.go"))); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{"src/a.go": "gone", "src/deep/b.go": "changed"})
	write(t, at("src/deep/b.go"), "bb")
	w.until(map[string]string{"src/deep/b.go": "changed"})
}

func TestAThousandFilesAreFewBatches(t *testing.T) {
	dir := t.TempDir()
	w := start(t, dir, quiet, Rule{Path: dir})
	want := map[string]string{}
	for i := range 1000 {
		name := fmt.Sprintf("d%d/f%d", i%50, i)
		write(t, filepath.Join(dir, name), "x")
		want[name] = "changed"
	}
	w.until(want)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n > 100 {
		t.Errorf("%d batches", w.n)
	}
}

func TestOneFileIncludeAndAForeignPath(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "conf.yaml"), "1")
	write(t, filepath.Join(dir, "web", "index.html"), "1")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	w := start(t, link, quiet, Rule{Path: filepath.Join(link, "conf.yaml")}, Rule{Path: filepath.Join(link, "web"), Include: []string{"**/*.html"}})
	write(t, filepath.Join(dir, "beside.yaml"), "1")
	write(t, filepath.Join(dir, "web", "style.css"), "1")
	write(t, filepath.Join(dir, "conf.yaml"), "2")
	write(t, filepath.Join(dir, "web", "index.html"), "2")
	w.until(map[string]string{"conf.yaml": "changed", "web/index.html": "changed"})
}

// TestFoldersThatCannotBeRead has one that is left out, which is not even looked at, and one that is not, which is told.
func TestFoldersThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	refused := map[string]bool{filepath.Join(dir, "secret"): true, filepath.Join(dir, "data"): true}
	for path := range refused {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	w, err := New(Config{Rules: []Rule{{Path: dir, Ignore: []string{"data"}}}, Warn: func(s string) { said = append(said, s) }})
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	w.add = func(dir string) error { // as the kernel answers anybody but root
		asked = append(asked, filepath.Base(dir))
		if refused[dir] {
			return &os.PathError{Op: "watch", Path: dir, Err: unix.EACCES}
		}
		return nil
	}
	for range 2 {
		if _, err := w.look(nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Contains(asked, "data") {
		t.Errorf("the folder that is left out was watched: %v", asked)
	}
	if len(said) != 1 || !strings.Contains(said[0], filepath.Join(dir, "secret")+" is not watched") {
		t.Errorf("said %q", said)
	}
}

func TestLimitsSayWhatToDo(t *testing.T) {
	w, err := New(Config{Rules: []Rule{{Path: t.TempDir()}}})
	if err != nil {
		t.Fatal(err)
	}
	w.add = func(string) error { return unix.ENOSPC }
	if _, err := w.look(nil, true); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "sysctl fs.inotify.max_user_watches=") {
		t.Errorf("too many folders: %v", err)
	}
}

func TestWhatCannotBeWatched(t *testing.T) {
	dir := t.TempDir()
	for name, r := range map[string]Rule{
		"a path that is not there": {Path: filepath.Join(dir, "nowhere")},
		"no pattern":               {Path: dir, Ignore: []string{"[a"}},
	} {
		if _, err := New(Config{Rules: []Rule{r}}); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzLeavesOut has patterns and paths of any kind.
func FuzzLeavesOut(f *testing.F) {
	f.Add("*.log", "a/b.log")
	f.Add("!a/**", "a")
	f.Add("**/", "../x")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		r, err := compile(Rule{Path: t.TempDir(), Ignore: []string{pattern}, Include: []string{pattern}})
		if err != nil {
			return
		}
		r.leavesOut(path, true)
		once, twice := r.leavesOut(path, false), r.leavesOut(path, false)
		if once != twice {
			t.Error("it depends on the time of day")
		}
	})
}

func TestSaveRightAfterReady(t *testing.T) {
	t.Parallel()
	for range 50 {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "conf/app.conf"), "a\n")
		w := start(t, dir, quiet, Rule{Path: filepath.Join(dir, "conf")})
		write(t, filepath.Join(dir, "conf/app.conf"), "c\n")
		w.until(map[string]string{"conf/app.conf": "changed"})
	}
}

func TestFoldersThatAreMoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(path string) string { return filepath.Join(dir, path) }
	write(t, at("src/old/a.go"), "a")
	write(t, at("src/old/deep/er/b.go"), "b")
	w := start(t, dir, quiet, Rule{Path: at("src"), Ignore: []string{"x"}})
	if err := os.Rename(at("src/old"), at("src/new")); err != nil {
		t.Fatal(err)
	}
	w.until(map[string]string{
		"src/old/a.go": "gone", "src/old/deep/er/b.go": "gone", "src/new/a.go": "changed", "src/new/deep/er/b.go": "changed",
	})
	write(t, at("src/new/deep/er/b.go"), "bb")
	w.until(map[string]string{"src/new/deep/er/b.go": "changed"})
	write(t, at("src/new/deep/er/c.go"), "c")
	w.until(map[string]string{"src/new/deep/er/c.go": "changed"})
	write(t, at("src/new/a.go"), "aa")
	w.until(map[string]string{"src/new/a.go": "changed"})
	// Two change places.
	write(t, at("src/other/deep/d.go"), "d")
	w.until(map[string]string{"src/other/deep/d.go": "changed"})
	for _, move := range [][2]string{{"new", "x"}, {"other", "new"}, {"x", "other"}} {
		if err := os.Rename(at("src/"+move[0]), at("src/"+move[1])); err != nil {
			t.Fatal(err)
		}
	}
	w.until(map[string]string{
		"src/new/a.go": "gone", "src/new/deep/er/b.go": "gone", "src/new/deep/er/c.go": "gone", "src/new/deep/d.go": "changed",
		"src/other/a.go": "changed", "src/other/deep/er/b.go": "changed", "src/other/deep/er/c.go": "changed", "src/other/deep/d.go": "gone",
	})
	write(t, at("src/new/deep/d.go"), "dd")
	w.until(map[string]string{"src/new/deep/d.go": "changed"})
	write(t, at("src/other/deep/er/b.go"), "bbb")
	w.until(map[string]string{"src/other/deep/er/b.go": "changed"})
}

// TestAFolderThatIsMovedAndRemovedAtOnce is what many builds do with the one before.
func TestAFolderThatIsMovedAndRemovedAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(path string) string { return filepath.Join(dir, path) }
	w := start(t, dir, quiet, Rule{Path: dir, Ignore: []string{"dist.old"}})
	for n := range 50 {
		write(t, at("dist/a"), fmt.Sprint(n))
		w.until(map[string]string{"dist/a": "changed"})
		if err := errors.Join(os.Rename(at("dist"), at("dist.old")), os.RemoveAll(at("dist.old"))); err != nil {
			t.Fatal(err)
		}
		w.until(map[string]string{"dist/a": "gone"})
	}
}
