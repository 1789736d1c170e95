package watch

import (
	"path/filepath"
	"testing"
)

func TestSaveRightAfterReady(t *testing.T) {
	for range 50 {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "conf/app.conf"), "a\n")
		w := start(t, dir, Rule{Path: filepath.Join(dir, "conf")})
		write(t, filepath.Join(dir, "conf/app.conf"), "c\n")
		w.until(map[string]string{"conf/app.conf": "changed"})
	}
}
