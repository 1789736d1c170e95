package state

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
)

func TestSnapshotWhileTheStoreIsWrittenTo(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	source, target := filepath.Join(dir, "state.db"), filepath.Join(dir, "copy.db")
	s, err := Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
			if err := s.Append(ctx, Event{Kind: "a"}, Event{Kind: "b"}); err != nil { // both, or none
				ended <- err
				return
			}
		}
	}()
	if _, err := s.Put(ctx, Revision{Project: compose.Project{Name: "shop"}}, 0); err != nil {
		t.Fatal(err)
	}
	if err := Snapshot(ctx, source, target); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := Snapshot(ctx, source, target); err == nil {
		t.Error("a file that is there was written to")
	}
	c, err := Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	kinds := map[string]int{}
	for e, err := range c.Events(ctx, EventFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		kinds[e.Kind]++
	}
	if rev, err := c.Latest(ctx); err != nil || rev.Number != 1 || kinds["a"] != kinds["b"] {
		t.Errorf("revision %d, events %v, %v", rev.Number, kinds, err)
	}
}

func TestRelocate(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	project := func(dir string) compose.Project {
		return compose.Project{
			Name: "shop", WorkingDir: dir, Files: []string{dir + "/compose.yaml"},
			Services: map[string]compose.Service{"web": {
				Name:        "web",
				Command:     []string{"run", "/srv/shopping", "see " + "/srv/shop"},
				Environment: map[string]string{"A<B": "1 & 2"},
				Volumes:     []compose.Mount{{Type: "bind", Source: dir + "/data", Target: "/data"}},
				Trellis:     compose.ServiceExtension{Process: &compose.Process{Dir: dir}},
			}},
		}
	}
	for n := range int64(2) {
		if _, err := s.Put(ctx, Revision{Project: project("/srv/shop"), Actor: "kim"}, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Relocate(ctx, path, "/srv/shop", "/home/kim/shop"); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, err := s.History(ctx, 0)
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for _, rev := range all {
		if diff := cmp.Diff(project("/home/kim/shop"), rev.Project); diff != "" || rev.Actor != "kim" {
			t.Error(diff)
		}
	}
}
