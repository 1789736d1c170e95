//go:build e2e

// Package e2e starts the real binary on real Compose files, drives it from the outside as its users do, kills parts of
// it under load, and counts what was lost.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// built are the programs under test, made once.
var built struct{ dir, trellis, other, app string }

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "trellis-e2e-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Println(err)
		return 1
	}
	built.dir, built.trellis, built.other = dir, filepath.Join(dir, "trellis"), filepath.Join(dir, "trellis-other")
	built.app = filepath.Join(dir, "testapp")
	for _, args := range [][]string{
		// As make build does, so that the file stays as it is.
		{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", "server/trellis-shim.bin", "./cmd/trellis-shim"},
		{"build", "-trimpath", "-tags", "embedshim", "-ldflags", "-s -w", "-o", built.trellis, "./cmd/trellis"},
		{"build", "-trimpath", "-tags", "embedshim", "-ldflags", "-s -w -X trellis/server.Version=other", "-o", built.other, "./cmd/trellis"},
		{"build", "-trimpath", "-o", built.app, "./e2e/testdata/testapp"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Printf("go %v: %v\n%s", args, err, out)
			return 1
		}
	}
	return m.Run()
}
