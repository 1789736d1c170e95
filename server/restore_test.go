package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"trellis/api"
	"trellis/archive"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

func notRunning(context.Context, Location) (api.Control, io.Closer, error) {
	return nil, nil, errdefs.ErrNotFound
}

// hasData is a project that is backed up: two revisions with contents and artefacts, and a volume.
func hasData(t *testing.T) (l Location, packed []byte) {
	t.Helper()
	c, artifacts := retained(t)
	for n := int64(1); n <= 2; n++ {
		deployed(t, c, artifacts, n)
	}
	l = c.location
	volume := filepath.Join(l.StateDir, partVolumes, "shop_data")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "ledger"), []byte("precious"), 0o640); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	report, err := MakeBackup(context.Background(), l, BackupOptions{Connect: notRunning, Host: "a"}, &b)
	if err != nil {
		t.Fatal(err)
	}
	if report.Revisions != 2 || report.Artifacts != 2 || report.Contents != 2 || len(report.Volumes) != 1 || len(report.LeftOut) != 0 {
		t.Errorf("the backup holds %+v", report)
	}
	if left, _ := filepath.Glob(filepath.Join(l.StateDir, ".backup-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	return l, b.Bytes()
}

// place is where a project may be restored to.
func place(t *testing.T) Location {
	dir := t.TempDir()
	t.Cleanup(func() { _ = removeAll(dir) })
	return Location{
		Project: "shop", WorkingDir: filepath.Join(dir, "work"), StateDir: filepath.Join(dir, "work", ".trellis", "shop"),
		RuntimeDir: filepath.Join(dir, "run"),
	}
}

func TestRestoreBringsEverythingKeptBack(t *testing.T) {
	ctx := context.Background()
	_, packed := hasData(t)
	l := place(t)
	done, err := Restore(ctx, l, bytes.NewReader(packed), RestoreOptions{Actor: "kim@desk"})
	if err != nil || done.Revision.Number != 2 || done.Aside != "" || len(done.Dumps) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	contents, err := state.OpenContents(l.contents())
	if err != nil {
		t.Fatal(err)
	}
	c := &control{location: l, store: store, contents: contents}
	for n := int64(1); n <= 2; n++ {
		rev, err := store.Get(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.complete(rev); err != nil {
			t.Error(err)
		}
		if secret, err := contents.Get(rev.Project.Secrets["key"].Ref); err != nil || string(secret) != fmt.Sprintf("secret %d", n) {
			t.Errorf("the secret of revision %d is %q, %v", n, secret, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(l.StateDir, partVolumes, "shop_data", "ledger")); err != nil || string(b) != "precious" {
		t.Errorf("the volume has %q, %v", b, err)
	}
	if info, err := os.Stat(l.StateDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state is %v, %v", info.Mode(), err)
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(l.StateDir), ".gitignore")); err != nil || string(b) != "*\n" {
		t.Errorf(".gitignore: %q, %v", b, err)
	}
	var said string
	for e, err := range store.Events(ctx, state.EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		said += e.Kind + ": " + e.Message
	}
	if !strings.Contains(said, "project.restored: restored from a backup") {
		t.Errorf("events: %s", said)
	}
	// What is there is not overwritten, and nothing of it is lost when it is to be.
	if _, err := Restore(ctx, l, bytes.NewReader(packed), RestoreOptions{}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("over what is there: %v", err)
	}
	again, err := Restore(ctx, l, bytes.NewReader(packed), RestoreOptions{Force: true})
	if err != nil || again.Aside == "" {
		t.Fatalf("%+v, %v", again, err)
	}
	if b, err := os.ReadFile(filepath.Join(again.Aside, partVolumes, "shop_data", "ledger")); err != nil || string(b) != "precious" {
		t.Errorf("aside lies %q, %v", b, err)
	}
}

// forged writes an archive with what put writes in it.
func forged(t *testing.T, head archive.Head, put func(w *archive.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, head)
	if err == nil {
		err = put(w)
	}
	if err == nil {
		err = w.Close(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRestoreRefusesAndLeavesNothing(t *testing.T) {
	ctx := context.Background()
	from, packed := hasData(t)
	tree := func(w *archive.Writer, name, path string) error {
		_, err := w.Tree(ctx, name, path)
		return err
	}
	stateOf := func(t *testing.T, project string) string {
		file := filepath.Join(t.TempDir(), "state.db")
		store, err := state.Open(file)
		if err == nil {
			_, err = store.Put(ctx, state.Revision{Project: compose.Project{Name: project}}, 0)
		}
		if err = errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
		return file
	}
	snapshot := filepath.Join(t.TempDir(), "state.db")
	if err := state.Snapshot(ctx, filepath.Join(from.StateDir, "state.db"), snapshot); err != nil {
		t.Fatal(err)
	}
	shop := archive.Head{Project: "shop"}
	at := shop.Created
	parts := func(file string, change func(w *archive.Writer) error) func(w *archive.Writer) error {
		return func(w *archive.Writer) error {
			return errors.Join(w.Folder(partArtifacts, 0o755, at), w.Folder(partContents, 0o700, at), change(w), w.Folder(partDumps, 0o700, at),
				tree(w, partState, file), w.Folder(partVolumes, 0o755, at))
		}
	}
	nothing := func(*archive.Writer) error { return nil }
	for name, c := range map[string]struct {
		packed []byte
		kind   error
		says   string
	}{
		"another project":   {forged(t, archive.Head{Project: "other"}, nothing), errdefs.ErrConflict, "the backup is of other"},
		"another's state":   {forged(t, shop, parts(stateOf(t, "other"), nothing)), errdefs.ErrConflict, "its state is of other"},
		"torn":              {packed[:len(packed)-9], archive.ErrDamaged, ""},
		"no state":          {forged(t, shop, nothing), errdefs.ErrNotFound, "nothing was applied"},
		"an unknown part":   {forged(t, shop, func(w *archive.Writer) error { return w.Folder("keys", 0o700, at) }), errdefs.ErrInvalid, "no place"},
		"state is a folder": {forged(t, shop, func(w *archive.Writer) error { return w.Folder(partState, 0o700, at) }), errdefs.ErrInvalid, "no place"},
		"a hidden volume": {forged(t, shop, func(w *archive.Writer) error {
			return errors.Join(w.Folder(partVolumes, 0o700, at), w.Folder("volumes/.new-x", 0o700, at))
		}), errdefs.ErrInvalid, "no place"},
		"a foreign content": {forged(t, shop, func(w *archive.Writer) error {
			return errors.Join(w.Folder(partContents, 0o700, at), w.Folder("contents/x", 0o700, at))
		}), errdefs.ErrInvalid, "no place"},
		"damaged state file": {forged(t, shop, parts(os.Args[0], nothing)), nil, "state file"},
		"changed content": {forged(t, shop, parts(snapshot, func(w *archive.Writer) error {
			names, err := os.ReadDir(from.contents())
			for _, e := range names {
				path := filepath.Join(from.contents(), e.Name())
				if e.Name() != "key" {
					path = filepath.Join(from.contents(), "key") // another content under this ref
				}
				err = errors.Join(err, tree(w, "contents/"+e.Name(), path))
			}
			return err
		})), nil, "was changed since"},
	} {
		t.Run(name, func(t *testing.T) {
			l := place(t)
			_, err := Restore(ctx, l, bytes.NewReader(c.packed), RestoreOptions{})
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if left, _ := os.ReadDir(filepath.Dir(l.WorkingDir)); len(left) > 1 || len(left) == 1 && left[0].Name() != "work" {
				t.Errorf("left: %v", left)
			}
			if left, _ := os.ReadDir(l.WorkingDir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// meanwhile is a file that somebody does something at the second passage through.
type meanwhile struct {
	*bytes.Reader
	do func()
}

func (m meanwhile) Seek(offset int64, whence int) (int64, error) {
	m.do()
	return m.Reader.Seek(offset, whence)
}

// TestRestoreMovesNothingThatCameMeanwhile: state that was not there when a restore began is not moved aside unasked.
func TestRestoreMovesNothingThatCameMeanwhile(t *testing.T) {
	_, packed := hasData(t)
	l := place(t)
	live := filepath.Join(l.StateDir, "state.db")
	file := meanwhile{bytes.NewReader(packed), func() {
		if err := errors.Join(os.MkdirAll(l.StateDir, 0o755), os.WriteFile(live, []byte("live"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}}
	done, err := Restore(context.Background(), l, file, RestoreOptions{})
	if !errors.Is(err, errdefs.ErrConflict) || done.Aside != "" {
		t.Errorf("restored, with what was there in %q: %v", done.Aside, err)
	}
	if text, err := os.ReadFile(live); string(text) != "live" {
		t.Errorf("the state is %.20q: %v", text, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(l.StateDir), ".restore-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// waiting is a control plane with services of which some run.
type waiting struct {
	api.Control
	services map[string]bool // running
	asked    []string
	stuck    bool
}

func (w *waiting) Status(context.Context) (api.Status, error) {
	var s api.Status
	for name, running := range w.services {
		svc := engine.Service{Name: name}
		if running {
			svc.Instances = []engine.Instance{{State: engine.InstanceReady}}
		}
		s.Services = append(s.Services, svc)
	}
	return s, nil
}

func (w *waiting) Override(_ context.Context, req api.OverrideRequest) error {
	w.asked = append(w.asked, fmt.Sprintf("%s stopped=%v", req.Service, *req.Stopped))
	w.services[req.Service] = !*req.Stopped || w.stuck
	return nil
}

func (w *waiting) Close() error { return nil }

func TestBackupOfWhatRuns(t *testing.T) {
	ctx := context.Background()
	l := place(t)
	volume := func(name string) []compose.Mount {
		return []compose.Mount{{Type: compose.MountVolume, Source: name, Target: "/data"}}
	}
	process := &compose.Process{Command: []string{"x"}}
	put := func(services map[string]compose.Service, volumes ...string) {
		t.Helper()
		for name, svc := range services {
			svc.Name, svc.Trellis.Process = name, process
			services[name] = svc
		}
		store, err := state.Open(filepath.Join(l.StateDir, "state.db"))
		if err == nil {
			_, err = store.Put(ctx, state.Revision{Project: compose.Project{Name: "shop", Services: services}}, 0)
		}
		if err = errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := state.OpenContents(l.contents()); err != nil {
			t.Fatal(err)
		}
		for _, name := range volumes {
			if err := os.MkdirAll(filepath.Join(l.StateDir, partVolumes, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader := volume("data")
	reader[0].ReadOnly = true
	put(map[string]compose.Service{
		"writer": {Volumes: volume("data")}, "reader": {Volumes: reader}, "idle": {Volumes: volume("idle")},
	}, "shop_data", "shop_idle", "shop_orphan", ".new-half")
	w := &waiting{services: map[string]bool{"writer": true, "reader": true, "idle": false}}
	opt := BackupOptions{Connect: func(context.Context, Location) (api.Control, io.Closer, error) { return w, w, nil }}
	var b bytes.Buffer
	_, err := MakeBackup(ctx, l, opt, &b)
	if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "service writer runs and writes to the volume shop_data:") ||
		strings.Contains(err.Error(), "idle") || b.Len() > 0 || len(w.asked) > 0 {
		t.Errorf("%v; %d bytes; asked %v", err, b.Len(), w.asked)
	}
	opt.Stop = true
	report, err := MakeBackup(ctx, l, opt, &b)
	if err != nil || !slices.Equal(report.Volumes, []string{"shop_data", "shop_idle", "shop_orphan"}) {
		t.Errorf("%+v, %v", report, err)
	}
	if !slices.Equal(w.asked, []string{"writer stopped=true", "writer stopped=false"}) {
		t.Errorf("asked %v", w.asked)
	}
	// The state in it is that of before: nothing is stopped.
	if done, err := Restore(ctx, place(t), bytes.NewReader(b.Bytes()), RestoreOptions{}); err != nil || done.Revision.Number != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	// Where a service does not stop in time it is started again all the same.
	w.asked, w.stuck = nil, true
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := MakeBackup(short, l, opt, io.Discard); err == nil {
		t.Error("a backup of what does not stop")
	}
	if len(w.asked)%2 != 0 {
		t.Errorf("asked %v", w.asked)
	}
}
