// Command mkimage packs one static program as an image: the same bytes for the same program, and no engine needed.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: mkimage NAME:TAG OUT.tar PROGRAM [FILE...]   PROGRAM and the files stand in the image's root")
		os.Exit(64)
	}
	if err := pack(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

type file struct {
	name string
	body []byte
	mode int64
}

// pack writes an archive as `docker save` does, of an image with one layer.
func pack(name, out string, paths []string) error {
	var files []file
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, file{filepath.Base(path), body, 0o755})
	}
	layer, err := archive(files)
	if err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "1970-01-01T00:00:00Z",
		"config": map[string]any{"Entrypoint": []string{"/" + files[0].name}, "User": "65532"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	whole, err := archive([]file{{"config.json", config, 0o644}, {"layer.tar", layer, 0o644}, {"manifest.json", manifest, 0o644}})
	if err != nil {
		return err
	}
	return os.WriteFile(out, whole, 0o644)
}

func archive(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.body)), Mode: f.mode}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
