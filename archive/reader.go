package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"trellis/errdefs"
)

// Limits bound what an archive may need.
type Limits struct {
	Bytes   int64 // of what is not zero; 0: no bound
	Members int64 // 0: no bound
}

// Rule says whether a member may be there, and whether its owner is kept.
type Rule func(m Member) (owner bool, err error)

// Check reads a whole archive and writes nothing. It returns its head if all of it is as it was written, every member is
// allowed and the limits hold. Torn or changed: ErrDamaged. Of a newer format: ErrUnsupported. Members that no Writer
// writes, or that allow refuses: ErrInvalid. It needs the memory for one path, however large the archive is.
func Check(ctx context.Context, r io.Reader, allow Rule, limits Limits) (Head, error) {
	return read(ctx, r, allow, limits, nil)
}

// read goes through an archive; to, if not nil, gets what is in it.
func read(ctx context.Context, r io.Reader, allow Rule, limits Limits, to *target) (Head, error) {
	in, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return Head{}, fmt.Errorf("read the archive: %w", err)
	}
	defer in.Close()
	p := &reading{ctx: ctx, in: in, tar: tar.NewReader(in), allow: allow, limits: limits, to: to, sums: sha256.New(), buffer: make([]byte, block)}
	head, err := p.run()
	if err != nil {
		return head, fmt.Errorf("read the archive: %w", err)
	}
	return head, nil
}

// reading is one passage through an archive.
type reading struct {
	ctx     context.Context // of this passage alone
	in      io.Reader
	tar     *tar.Reader
	allow   Rule
	limits  Limits
	to      *target
	tree    tree
	sums    hash.Hash // over the manifest's lines, as they have to be
	buffer  []byte
	bytes   int64
	members int64
}

// block is what is looked at together: one that is all zeros becomes a hole.
const block = 64 << 10

func (p *reading) run() (Head, error) {
	head, err := p.head()
	if err != nil {
		return head, err
	}
	for {
		if err := p.ctx.Err(); err != nil {
			return head, err
		}
		h, err := p.tar.Next()
		if err != nil {
			return head, damaged(err)
		}
		if h.Name == manifestName {
			return head, p.end()
		}
		if err := p.member(h); err != nil {
			return head, err
		}
	}
}

// damaged is an error of the stream as what it means; an end of it comes too early wherever it is seen.
func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends in the middle", ErrDamaged)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

func (p *reading) head() (Head, error) {
	h, err := p.tar.Next()
	if err != nil {
		if errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, tar.ErrHeader) {
			return Head{}, fmt.Errorf("%w: it is not one that trellis backup has written", errdefs.ErrInvalid)
		}
		return Head{}, damaged(err)
	}
	if h.Name != headName || h.Typeflag != tar.TypeReg || h.Size > maxHead {
		return Head{}, fmt.Errorf("%w: it is not one that trellis backup has written", errdefs.ErrInvalid)
	}
	text, err := io.ReadAll(p.tar)
	if err != nil {
		return Head{}, damaged(err)
	}
	head, err := parseHead(text)
	if err != nil {
		return head, err
	}
	m, err := memberFrom(h)
	if err != nil {
		return head, err
	}
	sum := sha256.Sum256(text)
	add(p.sums, m, sum[:])
	return head, nil
}

// memberFrom refuses everything that no Writer writes.
func memberFrom(h *tar.Header) (Member, error) {
	m := Member{
		Name: h.Name, Mode: uint32(h.Mode), UID: h.Uid, GID: h.Gid, Modified: h.ModTime.UTC(), Size: h.Size, Kind: File,
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.") || strings.HasPrefix(key, "SCHILY.") {
			return m, fmt.Errorf("%w: %.80q has attributes that no backup has (%s)", errdefs.ErrInvalid, h.Name, key)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		m.Kind, m.Name = Dir, strings.TrimSuffix(h.Name, "/")
	case tar.TypeSymlink:
		m.Kind, m.Target = Link, h.Linkname
		if m.Target == "" || len(m.Target) > maxName || strings.ContainsRune(m.Target, 0) {
			return m, fmt.Errorf("%w: %.80q is a link to nothing", errdefs.ErrInvalid, h.Name)
		}
	default:
		return m, fmt.Errorf("%w: %.80q is neither file, directory nor symbolic link (type %q)", errdefs.ErrInvalid, h.Name, h.Typeflag)
	}
	switch {
	case h.Mode < 0 || h.Mode > 0o7777:
		return m, fmt.Errorf("%w: %.80q has the mode %o", errdefs.ErrInvalid, h.Name, h.Mode)
	case h.Uid < 0 || h.Gid < 0:
		return m, fmt.Errorf("%w: %.80q belongs to %d:%d", errdefs.ErrInvalid, h.Name, h.Uid, h.Gid)
	case m.Kind != File && h.Size != 0:
		return m, fmt.Errorf("%w: %.80q is no file and has content", errdefs.ErrInvalid, h.Name)
	}
	return m, nil
}

func (p *reading) member(h *tar.Header) error {
	m, err := memberFrom(h)
	if err != nil {
		return err
	}
	closed, err := p.tree.enter(m)
	if err != nil {
		return err
	}
	owner, err := p.allow(m)
	if err != nil {
		return err
	}
	p.members++
	if p.limits.Members > 0 && p.members > p.limits.Members {
		return fmt.Errorf("%w: there is room for %d files, and it has more", errdefs.ErrUnavailable, p.limits.Members)
	}
	if p.to != nil {
		if err := p.to.close(closed); err != nil {
			return err
		}
		if err := p.to.open(m, owner); err != nil {
			return err
		}
	}
	sum := sha256.New()
	if m.Kind == File {
		if err := p.content(sum); err != nil {
			return err
		}
	}
	if p.to != nil {
		if err := p.to.finish(m, owner); err != nil {
			return err
		}
	}
	add(p.sums, m, sum.Sum(nil))
	return nil
}

// content reads the content of a file, in blocks.
func (p *reading) content(sum hash.Hash) error {
	zeros := make([]byte, block)
	for {
		n, err := io.ReadFull(p.tar, p.buffer)
		piece := p.buffer[:n]
		sum.Write(piece)
		hole := bytes.Equal(piece, zeros[:n])
		if !hole {
			p.bytes += int64(n)
		}
		if p.limits.Bytes > 0 && p.bytes > p.limits.Bytes {
			return fmt.Errorf("%w: there is room for %d bytes, and it has more", errdefs.ErrUnavailable, p.limits.Bytes)
		}
		if p.to != nil && n > 0 {
			if err := p.to.write(piece, hole); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			// The member is complete, or the stream is not: the next read tells.
			if _, err := p.tar.Read(p.buffer[:1]); !errors.Is(err, io.EOF) {
				return damaged(err)
			}
			return nil
		case err != nil:
			return damaged(err)
		}
		if err := p.ctx.Err(); err != nil {
			return err
		}
	}
}

// end compares the manifest with what was read, and looks that nothing follows.
func (p *reading) end() error {
	said := sha256.New()
	if _, err := io.CopyBuffer(said, onlyReader{p.tar}, p.buffer); err != nil {
		return damaged(err)
	}
	if !bytes.Equal(said.Sum(nil), p.sums.Sum(nil)) {
		return fmt.Errorf("%w: what it holds is not what it says", ErrDamaged)
	}
	if _, err := p.tar.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrDamaged)
	}
	for {
		n, err := p.in.Read(p.buffer)
		if len(bytes.Trim(p.buffer[:n], "\x00")) > 0 {
			return fmt.Errorf("%w: something follows its end", ErrDamaged)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
	}
	if p.to != nil {
		return p.to.close(p.tree.end())
	}
	return nil
}

// ReadHead returns what an archive says of itself. Nothing else of it is looked at.
func ReadHead(r io.Reader) (Head, error) {
	in, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return Head{}, fmt.Errorf("read the archive: %w", err)
	}
	defer in.Close()
	head, err := (&reading{tar: tar.NewReader(in), sums: sha256.New()}).head()
	if err != nil {
		return head, fmt.Errorf("read the archive: %w", err)
	}
	return head, nil
}
