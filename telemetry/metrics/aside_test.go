package metrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trellis/telemetry"
)

// TestOneDamagedFolderIsKept: of the folders that could not be opened the newest stays, counts, and goes when it is too old.
func TestOneDamagedFolderIsKept(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "metrics")}
	const size = 1 << 20
	aside := func() []string {
		t.Helper()
		all, err := filepath.Glob(cfg.Dir + ".damaged*")
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	var before []string
	for range 3 {
		if err := os.RemoveAll(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg.Dir, []byte(strings.Repeat("garbage!", size/8)), 0o600); err != nil { // no folder at all
			t.Fatal(err)
		}
		s, stop := opened(t, cfg)
		now := time.Now()
		if err := s.Append(t.Context(), 1, []telemetry.Sample{sample("a", now, 1)}); err != nil {
			t.Fatal(err)
		}
		all := aside()
		if len(all) != 1 || len(before) == 1 && all[0] == before[0] {
			t.Errorf("%v were moved aside, and %v before: want another one alone", all, before)
		}
		if h := s.Health(); h.Bytes < size || h.Bytes > 2*size {
			t.Errorf("%d bytes, and %d of them are damaged", h.Bytes, size)
		}
		if got, want := s.options().MaxBytes, (s.cfg.MaxBytes-size)/4*3; got != want {
			t.Errorf("%d bytes are left, want %d", got, want)
		}
		before = all
		stop()
	}
	old := time.Now().Add(-30 * 24 * time.Hour)
	for _, path := range before {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	_, stop := opened(t, cfg)
	defer stop()
	if all := aside(); len(all) != 0 {
		t.Errorf("%v are there a month later", all)
	}
}
