package image

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// entry is a file, folder or link of a layer.
type entry struct {
	name string // absolute
	mode fs.FileMode
	size int64
	link string
	open func() (io.ReadCloser, error) // of a file
}

func dir(name string, mode fs.FileMode) entry { return entry{name: name, mode: fs.ModeDir | mode} }

func text(name, content string) entry {
	return entry{name: name, mode: 0o644, size: int64(len(content)), open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

// layerOf makes a layer of entries. Nothing of it is kept: it is made anew each time that it is read.
func layerOf(entries []entry) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writeTar(w, entries)) }()
		return r, nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed))
}

// writeTar writes entries so that the same ones are the same bytes: nobody's, of no time.
func writeTar(to io.Writer, entries []entry) error {
	w := tar.NewWriter(to)
	for _, e := range entries {
		h := &tar.Header{Name: strings.TrimPrefix(e.name, "/"), Mode: int64(e.mode.Perm()), ModTime: epoch, Format: tar.FormatPAX}
		switch {
		case e.mode.IsDir():
			h.Typeflag = tar.TypeDir
			h.Name += "/"
			if e.mode&fs.ModeSticky != 0 {
				h.Mode |= 0o1000
			}
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		default:
			h.Typeflag, h.Size = tar.TypeReg, e.size
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if e.open == nil {
			continue
		}
		if err := writeContent(w, e); err != nil {
			return fmt.Errorf("read %s: %w", e.name, err)
		}
	}
	return w.Close()
}

func writeContent(w io.Writer, e entry) error {
	f, err := e.open()
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
