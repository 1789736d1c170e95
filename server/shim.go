package server

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ShimVerb is the argument with which a binary without the embedded shim starts itself as one.
const ShimVerb = "__shim"

// shimCommand returns the command line of shim and holder: the small binary that is embedded in this one, written out
// once per version, or this binary itself where none is embedded.
func shimCommand(l Location) ([]string, error) {
	content := embeddedShim()
	if len(content) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the running binary: %w", err)
		}
		return []string{exe, ShimVerb}, nil
	}
	sum := sha256.Sum256(content)
	file := filepath.Join(l.StateDir, "bin", "trellis-shim-"+hex.EncodeToString(sum[:6]))
	if info, err := os.Stat(file); err == nil && info.Size() == int64(len(content)) {
		return []string{file}, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("write out the shim: %w", err)
	}
	temp, err := os.CreateTemp(filepath.Dir(file), "shim-*")
	if err != nil {
		return nil, fmt.Errorf("write out the shim: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	if err == nil {
		err = temp.Chmod(0o755)
	}
	if err == nil {
		err = temp.Sync()
	}
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return nil, fmt.Errorf("write out the shim: %w", err)
	}
	return []string{file}, nil
}

func sortProjects(all []Running) {
	slices.SortFunc(all, func(a, b Running) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.StateDir, b.StateDir))
	})
}
