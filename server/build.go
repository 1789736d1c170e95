package server

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// Version is the version of this build as people read it; the release build sets it.
var Version = "dev"

// PlaneImage is the image of this build that clusters can pull, without a tag where that is Version; "": nobody has pushed one. It
// is set when a release is built.
var PlaneImage = ""

// buildID identifies the running binary: the linker's build ID, or the hash of the file where it has none.
func buildID() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the running binary: %w", err)
	}
	if f, err := elf.Open(exe); err == nil {
		defer f.Close()
		if s := f.Section(".note.go.buildid"); s != nil {
			if note, err := s.Data(); err == nil && len(note) > 16 {
				sum := sha256.Sum256(note)
				return hex.EncodeToString(sum[:8]), nil
			}
		}
	}
	f, err := os.Open(exe)
	if err != nil {
		return "", fmt.Errorf("identify the running binary: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("identify the running binary: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
