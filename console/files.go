package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
)

// dist is what web/ builds. It is committed, so that a plain `go build` needs no Node.
//
//go:embed all:dist
var dist embed.FS

// asset is one file as it is served.
type asset struct {
	body   []byte
	kind   string
	etag   string
	packed func() []byte // gzip, made when it is asked for first; nil: not worth it
}

func loadFiles() (map[string]*asset, error) {
	files := map[string]*asset{}
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		a := &asset{body: body, kind: kindOf(name), etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
		if len(body) > 1024 && !strings.HasPrefix(a.kind, "image/png") && !strings.HasPrefix(a.kind, "font/") {
			a.packed = sync.OnceValue(func() []byte { return pack(body) })
		}
		files[strings.TrimPrefix(name, "dist")] = a
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("console: read the built files: %w", err)
	}
	return files, nil
}

// kindOf does not ask the machine's own tables, which differ.
func kindOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".woff2":
		return "font/woff2"
	}
	if kind := mime.TypeByExtension(path.Ext(name)); kind != "" {
		return kind
	}
	return "application/octet-stream"
}

func pack(body []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

// file serves one of the built files. They keep their names from build to build, so a browser asks each time whether they
// are still the same.
func (c *console) file(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path
	if name == "/" {
		name = "/index.html"
	}
	a := c.files[name]
	if a == nil {
		refuse(w, http.StatusNotFound, "the console has no such file; its pages are below /")
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Type", a.kind)
	h.Set("ETag", a.etag)
	h.Set("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.body
	if a.packed != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		body = a.packed()
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	_, _ = w.Write(body)
}
