package holder

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRuntimeDirectoryThatIsRemoved: a holder whose directory somebody has cleaned away is found again, by a second Start too; its
// programs are started anew, with what they need, and no connection is refused meanwhile.
func TestRuntimeDirectoryThatIsRemoved(t *testing.T) {
	w := start(t)
	address := w.open(tcp("gateway"))[0]
	until(t, "both programs run", func() bool { i := w.info(); return i.ControlPlane.PID > 0 && i.DataPlane.PID > 0 })
	before := w.info()
	kept := filepath.Join(w.cfg.Dir, "project.json")
	if err := os.WriteFile(kept, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // it is remembered
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	until(t, "a file alone is back", func() bool { b, err := os.ReadFile(kept); return err == nil && string(b) == "{}" })
	if again := w.info(); again.ControlPlane.PID != before.ControlPlane.PID || again.DataPlane.PID != before.DataPlane.PID {
		t.Error("for a file the programs were started anew")
	}

	if err := os.RemoveAll(w.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	until(t, "it is found again", func() bool {
		if _, _, err := ask("tcp", address); err != nil {
			t.Fatalf("asked meanwhile: %v", err)
		}
		c, err := Dial(t.Context(), filepath.Join(w.cfg.Dir, socketFile))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	until(t, "the programs are others", func() bool {
		if _, _, err := ask("tcp", address); err != nil {
			t.Fatalf("asked meanwhile: %v", err)
		}
		i := w.info()
		return i.ControlPlane.PID > 0 && i.ControlPlane.PID != before.ControlPlane.PID && i.DataPlane.PID != before.DataPlane.PID
	})
	if b, err := os.ReadFile(kept); err != nil || string(b) != "{}" {
		t.Errorf("what the programs are started with: %q, %v", b, err)
	}
	for file, mode := range map[string]os.FileMode{".": 0o700, socketFile: 0o600, pidFile: 0o600, configFile: 0o600} {
		if st, err := os.Stat(filepath.Join(w.cfg.Dir, file)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, st, err)
		}
	}
	c, err := Start(t.Context(), []string{exe(t)}, w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if other, err := c.Info(t.Context()); err != nil || other.PID != before.PID {
		t.Errorf("a second Start gave holder %d, %v; there is %d", other.PID, err, before.PID)
	}
	if err := os.Remove(kept); err != nil { // the test looks at what is left behind
		t.Fatal(err)
	}
}

// TestAnotherHolderInItsPlace: one that was started before the first could be found again has the project, and the first ends without
// touching what is the other's.
func TestAnotherHolderInItsPlace(t *testing.T) {
	w := start(t)
	pid := w.info().PID
	var lock *os.File
	until(t, "another takes its place", func() bool {
		if os.RemoveAll(w.cfg.Dir) != nil {
			return false // the first one makes it again meanwhile
		}
		var err error
		if lock, err = takeLock(w.cfg); err != nil && !errors.Is(err, errHeld) {
			t.Fatal(err)
		}
		return err == nil
	})
	until(t, "the first has ended", func() bool { return !alive(pid) })
	if _, err := os.Stat(filepath.Join(w.cfg.Dir, pidFile)); err != nil {
		t.Errorf("the lock of the other: %v", err)
	}
	lock.Close()
	w.start()
}

// TestDirectoryOfSomebodyElse is not used, whatever was removed.
func TestDirectoryOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	if err := own(dir); err != nil {
		t.Errorf("an own directory: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := own(dir); err == nil {
		t.Error("one that everybody may write to is used")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := own(link); err == nil {
		t.Error("a link is used")
	}
}
