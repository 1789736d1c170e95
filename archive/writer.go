package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Writer writes an archive. It is for one goroutine.
type Writer struct {
	out      *zstd.Encoder
	tar      *tar.Writer
	tree     tree
	manifest *os.File // without a name
	buffer   []byte
}

// NewWriter begins an archive. Close ends it; without that it is torn.
func NewWriter(w io.Writer, head Head) (*Writer, error) {
	head.Format = Format
	text, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("begin the archive: %w", err)
	}
	manifest, err := os.CreateTemp("", "trellis-manifest-")
	if err != nil {
		return nil, fmt.Errorf("begin the archive: %w", err)
	}
	if err := os.Remove(manifest.Name()); err != nil {
		return nil, fmt.Errorf("begin the archive: %w", errors.Join(err, manifest.Close()))
	}
	out, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window))
	if err != nil {
		return nil, fmt.Errorf("begin the archive: %w", errors.Join(err, manifest.Close()))
	}
	a := &Writer{out: out, tar: tar.NewWriter(out), manifest: manifest, buffer: make([]byte, 256<<10)}
	m := Member{Name: headName, Kind: File, Mode: 0o600, Modified: head.Created, Size: int64(len(text))}
	if err := a.member(m, bytes.NewReader(text)); err != nil {
		return nil, errors.Join(err, a.abandon())
	}
	return a, nil
}

func (a *Writer) abandon() error { return errors.Join(a.out.Close(), a.manifest.Close()) }

// Close writes the manifest and ends the archive; with failed it is left torn.
func (a *Writer) Close(failed bool) error {
	if failed {
		return a.abandon()
	}
	err := a.end()
	if err = errors.Join(err, a.abandon()); err != nil {
		return fmt.Errorf("end the archive: %w", err)
	}
	return nil
}

func (a *Writer) end() error {
	size, err := a.manifest.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := a.manifest.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := a.tar.WriteHeader(&tar.Header{Name: manifestName, Typeflag: tar.TypeReg, Mode: 0o600, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(onlyWriter{a.tar}, a.manifest, a.buffer); err != nil {
		return err
	}
	return a.tar.Close()
}

// onlyWriter hides the other methods of a writer, so that a copy uses the buffer it is given.
type onlyWriter struct{ io.Writer }

// put writes a member in its order.
func (a *Writer) put(m Member, content io.Reader) error {
	if _, err := a.tree.enter(m); err != nil {
		return fmt.Errorf("save %s: %w", m.Name, err)
	}
	return a.member(m, content)
}

func (a *Writer) member(m Member, content io.Reader) error {
	if m.Modified.IsZero() {
		m.Modified = time.Unix(0, 0) // as tar has it
	}
	h := &tar.Header{
		Name: m.Name, Mode: int64(m.Mode), Uid: m.UID, Gid: m.GID, ModTime: m.Modified, Size: m.Size, Format: tar.FormatPAX,
		Typeflag: tar.TypeReg,
	}
	switch m.Kind {
	case Dir:
		h.Typeflag, h.Name = tar.TypeDir, m.Name+"/"
	case Link:
		h.Typeflag, h.Linkname = tar.TypeSymlink, m.Target
	}
	if err := a.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("save %s: %w", m.Name, err)
	}
	sum := sha256.New()
	if m.Kind == File {
		n, err := io.CopyBuffer(io.MultiWriter(a.tar, sum), onlyReader{io.LimitReader(content, m.Size)}, a.buffer)
		if err == nil && n < m.Size {
			err = fmt.Errorf("it became shorter while it was read")
		}
		if err != nil {
			return fmt.Errorf("save %s: %w", m.Name, err)
		}
	}
	if _, err := a.manifest.Write(m.line(sum.Sum(nil))); err != nil {
		return fmt.Errorf("save %s: %w", m.Name, err)
	}
	return nil
}

type onlyReader struct{ io.Reader }

// Folder begins a directory that is no copy of one: what follows lies in it.
func (a *Writer) Folder(name string, mode uint32, at time.Time) error {
	return a.put(Member{Name: name, Kind: Dir, Mode: mode, Modified: at}, nil)
}

// Stream writes what r gives, of a length that nobody knows before, as a directory of numbered pieces. It ends with io.EOF;
// any other error of r is Stream's.
func (a *Writer) Stream(name string, r io.Reader, at time.Time) error {
	if err := a.Folder(name, 0o700, at); err != nil {
		return err
	}
	piece := make([]byte, pieceSize)
	for i := 0; ; i++ {
		n, err := fill(piece, r)
		if n > 0 {
			m := Member{Name: fmt.Sprintf("%s/%08d", name, i), Kind: File, Mode: 0o600, Modified: at, Size: int64(n)}
			if err := a.put(m, bytes.NewReader(piece[:n])); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF: // itself: one that is wrapped is of a connection that broke off
			return nil
		case err != nil:
			return fmt.Errorf("save %s: %w", name, err)
		}
	}
}

// fill reads until p is full or r has nothing more. Unlike io.ReadFull it tells a reader's end from one that broke off.
func fill(p []byte, r io.Reader) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = r.Read(p[n:])
		n += more
	}
	return n, err
}

const pieceSize = 4 << 20

// Tree copies a file, or a directory with all that is in it, as name. Owners, modes, times and links stay; hard links
// become files of their own, holes are filled with zeros (which compress to nothing, and become holes again). Attributes
// beyond these are not kept. What is neither file, directory nor link is left out and returned by name. A file that
// changes while it is read is an error.
func (a *Writer) Tree(ctx context.Context, name, from string) (leftOut []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return nil, fmt.Errorf("save %s: %w", name, &os.PathError{Op: "lstat", Path: from, Err: err})
	}
	m := memberOf(name, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return a.directory(ctx, m, from)
	case unix.S_IFLNK:
		m.Kind = Link
		if m.Target, err = os.Readlink(from); err != nil {
			return nil, fmt.Errorf("save %s: %w", name, err)
		}
		return nil, a.put(m, nil)
	case unix.S_IFREG:
		return nil, a.file(ctx, m, from)
	}
	return []string{name}, nil
}

func memberOf(name string, st unix.Stat_t) Member {
	return Member{
		Name: name, Mode: uint32(st.Mode) & 0o7777, UID: int(st.Uid), GID: int(st.Gid), Modified: time.Unix(st.Mtim.Unix()).UTC(),
	}
}

func (a *Writer) directory(ctx context.Context, m Member, from string) (leftOut []string, err error) {
	m.Kind = Dir
	if err := a.put(m, nil); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(from) // in order of name
	if err != nil {
		return nil, fmt.Errorf("save %s: %w", m.Name, err)
	}
	for _, e := range entries {
		left, err := a.Tree(ctx, path.Join(m.Name, e.Name()), filepath.Join(from, e.Name()))
		if err != nil {
			return nil, err
		}
		leftOut = append(leftOut, left...)
	}
	return leftOut, nil
}

// until is a reader that fails once a context is done: a file may be larger than anybody waits for.
type until struct {
	ctx context.Context // of one read through the file alone
	io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

func (a *Writer) file(ctx context.Context, m Member, from string) error {
	// Not a link, and not a pipe that it has become since.
	f, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("save %s: %w", m.Name, err)
	}
	defer f.Close()
	var before, after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &before); err != nil {
		return fmt.Errorf("save %s: %w", m.Name, err)
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("save %s: it became something else while it was read", m.Name)
	}
	m = memberOf(m.Name, before)
	m.Kind, m.Size = File, before.Size
	if err := a.put(m, until{ctx, f}); err != nil {
		return err
	}
	if err := unix.Fstat(int(f.Fd()), &after); err != nil {
		return fmt.Errorf("save %s: %w", m.Name, err)
	}
	if before.Size != after.Size || before.Mtim != after.Mtim {
		return fmt.Errorf("save %s: it changed while it was read: something writes to it", m.Name)
	}
	return nil
}
