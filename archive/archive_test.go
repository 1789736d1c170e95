package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"trellis/errdefs"
)

func anything(Member) (bool, error) { return true, nil }

var head = Head{Trellis: "v1", Project: "shop", WorkingDir: "/srv/shop", Host: "a", Created: time.Unix(1700000000, 0).UTC()}

// look is a tree in words: everything that a backup keeps of it.
func look(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		words := fmt.Sprintf("%q %o %d:%d %d.%d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			words += fmt.Sprintf(" %d %x", len(b), b[:min(len(b), 64)])
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			words += " -> " + to
		}
		if rel != "." {
			all = append(all, words)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// volume makes a tree with everything in it that a volume may have.
func volume(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, content string, mode fs.FileMode) {
		t.Helper()
		must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
		must(os.Chmod(filepath.Join(dir, name), mode))
	}
	write("data/ledger", "1\n2\n", 0o640)
	write("data/empty", "", 0o600)
	write("data.txt", "sorted after data, before it in bytes of the path", 0o644)
	write("data/with space \"and\" ünï\n", "x", 0o600)
	write("data/raw-\xff\xfe", "not UTF-8", 0o600)
	write("bin/tool", "#!/bin/sh\n", 0o755|fs.ModeSetuid)
	must(os.Mkdir(filepath.Join(dir, "void"), 0o755))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "data", "outside")))
	must(os.Symlink("ledger", filepath.Join(dir, "data", "current")))
	must(os.Symlink("nowhere", filepath.Join(dir, "data", "dangling")))
	sparse, err := os.Create(filepath.Join(dir, "data", "sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("in the middle"), 8<<20)
	must(err)
	must(sparse.Truncate(64 << 20))
	must(sparse.Close())
	big := make([]byte, 300<<10)
	rand.Read(big)
	write("data/big", string(big), 0o644)
	if os.Geteuid() == 0 {
		must(os.Lchown(filepath.Join(dir, "data", "ledger"), 70, 71))
		must(os.Lchown(filepath.Join(dir, "data", "current"), 70, 71))
	}
	must(os.Chmod(filepath.Join(dir, "void"), 0o500))
	must(os.Chtimes(filepath.Join(dir, "data"), time.Unix(1600000000, 123456789), time.Unix(1600000000, 123456789)))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "void"), 0o755) })
	return dir
}

func save(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, head)
	if err != nil {
		t.Fatal(err)
	}
	left, err := w.Tree(context.Background(), "volume", dir)
	if err != nil || len(left) > 0 {
		t.Fatal(err, left)
	}
	if err := w.Close(false); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWhatIsSavedComesBack(t *testing.T) {
	dir := volume(t)
	packed := save(t, dir)
	if len(packed) > 1<<20 {
		t.Errorf("it takes %d bytes: holes are not compressed", len(packed))
	}
	got, err := Check(context.Background(), bytes.NewReader(packed), anything, Limits{Bytes: 1 << 20, Members: 100})
	if err != nil {
		t.Fatal(err)
	}
	want := head
	want.Format = Format
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	to := t.TempDir()
	if _, err := Extract(context.Background(), bytes.NewReader(packed), to, anything, Limits{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(look(t, dir), look(t, filepath.Join(to, "volume"))); diff != "" {
		t.Error(diff)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(to, "volume", "data", "sparse"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the file with holes takes %d bytes, %v", st.Blocks*512, err)
	}
	_ = os.Chmod(filepath.Join(to, "volume", "void"), 0o755)
}

// TestALargeFileEndsWithItsContext: whoever gives up waits for no file.
func TestALargeFileEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "large"), 64<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w, err := NewWriter(giveUp(cancel), head)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Tree(ctx, "data", dir); !errors.Is(err, context.Canceled) {
		t.Errorf("the file is saved whole: %v", err)
	}
	if err := w.Close(true); err != nil {
		t.Error(err)
	}
}

// giveUp is called at every write, the first of which is in the middle of a large file.
type giveUp func()

func (g giveUp) Write(p []byte) (int, error) {
	g()
	return len(p), nil
}

func TestStreamsAndWhatIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := NewWriter(&b, head)
	if err != nil {
		t.Fatal(err)
	}
	dump := make([]byte, pieceSize+17)
	rand.Read(dump)
	for _, s := range [][]byte{nil, dump} {
		if err := w.Stream(fmt.Sprintf("dump%d", len(s)), bytes.NewReader(s), head.Created); err != nil {
			t.Fatal(err)
		}
	}
	left, err := w.Tree(context.Background(), "volume", dir)
	if err != nil || cmp.Diff([]string{"volume/pipe"}, left) != "" {
		t.Errorf("left out %v, %v", left, err)
	}
	if err := w.Folder("before", 0o700, head.Created); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("a member out of order: %v", err)
	}
	if err := w.Close(false); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if _, err := Extract(context.Background(), &b, to, anything, Limits{}); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for i := range 2 {
		piece, err := os.ReadFile(filepath.Join(to, fmt.Sprintf("dump%d/%08d", len(dump), i)))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, piece...)
	}
	if !bytes.Equal(got, dump) {
		t.Error("the stream came back as something else")
	}
}

// TestAStreamThatBreaksOff: only a reader's own end is the end of what it has. A connection that broke off ends with an
// io.EOF in its error too, and what came until then is no dump.
func TestAStreamThatBreaksOff(t *testing.T) {
	for name, broken := range map[string]error{
		"in the middle of a frame": io.ErrUnexpectedEOF,
		"wrapped":                  fmt.Errorf("unreachable: %w", io.ErrUnexpectedEOF),
		"between two frames":       fmt.Errorf("unreachable: %w", io.EOF),
	} {
		for at, size := range map[string]int{"nothing": 0, "part": 17, "a piece": pieceSize, "more": pieceSize + 17} {
			t.Run(name+" after "+at, func(t *testing.T) {
				w, err := NewWriter(io.Discard, head)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close(true)
				r := io.MultiReader(bytes.NewReader(make([]byte, size)), iotest.ErrReader(broken))
				if err := w.Stream("dump", r, head.Created); !errors.Is(err, broken) {
					t.Errorf("saved as if it were whole: %v", err)
				}
			})
		}
	}
}

func TestTornAndChanged(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a": "one", "b": strings.Repeat("two ", 100000), "c": "three"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	packed := save(t, dir)
	refused := func(what string, b []byte) {
		t.Helper()
		_, err := Check(context.Background(), bytes.NewReader(b), anything, Limits{})
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, errdefs.ErrInvalid) && !errors.Is(err, errdefs.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := range packed {
		refused(fmt.Sprintf("%d of %d bytes", n, len(packed)), packed[:n])
	}
	for n := range packed {
		changed := bytes.Clone(packed)
		changed[n] ^= 0x10
		if _, err := Check(context.Background(), bytes.NewReader(changed), anything, Limits{}); err != nil {
			continue
		}
		// A bit that means nothing: it has to be the same for all that.
		to := t.TempDir()
		if _, err := Extract(context.Background(), bytes.NewReader(changed), to, anything, Limits{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(look(t, dir), look(t, filepath.Join(to, "volume"))); diff != "" {
			t.Errorf("byte %d of %d changed and nobody saw it:\n%s", n, len(packed), diff)
		}
	}
	refused("another one behind it", append(bytes.Clone(packed), packed...))
	var b bytes.Buffer
	w, err := NewWriter(&b, head)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Tree(context.Background(), "volume", dir); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(true); err != nil {
		t.Fatal(err)
	}
	refused("given up by its writer", b.Bytes())
}

// craft packs headers as an attacker would.
func craft(t testing.TB, format int, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	text, _ := json.Marshal(Head{Format: format, Trellis: "v9.1", Project: "shop"})
	headers = append([]tar.Header{{Name: headName, Typeflag: tar.TypeReg, Size: int64(len(text))}}, headers...)
	for i, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		content := bytes.Repeat([]byte("x"), int(h.Size))
		if i == 0 {
			content = text
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755} }
	file := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	for name, headers := range map[string][]tar.Header{
		"above":                 {file("../evil")},
		"above, from inside":    {dir("a"), file("a/../../evil")},
		"absolute":              {file("/tmp/evil")},
		"a dot":                 {file("./evil")},
		"no name":               {dir("a"), file("a//b")},
		"without its directory": {file("a/b")},
		"through a link":        {link("a", "/tmp"), file("a/evil")},
		"a link for a folder":   {dir("a"), link("a", "/tmp")},
		"twice":                 {dir("a"), file("a/b"), file("a/b")},
		"a folder twice":        {dir("a"), dir("b"), dir("a")},
		"back to a folder":      {dir("a"), dir("b"), file("a/b")},
		"device":                {{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"pipe":                  {{Name: "pipe", Typeflag: tar.TypeFifo}},
		"hard link":             {file("a"), {Name: "b", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}},
		"attributes":            {{Name: "a", Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "x"}}},
		"global header":         {{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "evil"}}},
		"head again":            {dir("a"), file("a/b"), file(headName)},
		"manifest first":        {file(manifestName)},
	} {
		t.Run(name, func(t *testing.T) {
			packed := craft(t, Format, headers...)
			_, err := Check(context.Background(), bytes.NewReader(packed), anything, Limits{})
			if !errors.Is(err, errdefs.ErrInvalid) && !errors.Is(err, ErrDamaged) {
				t.Errorf("check: %v", err)
			}
			to := filepath.Join(t.TempDir(), "to")
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := Extract(context.Background(), bytes.NewReader(packed), to, anything, Limits{}); err == nil {
				t.Error("extracted")
			}
			if _, err := os.Lstat("/tmp/evil"); err == nil {
				t.Error("it got out")
			}
			if around, _ := os.ReadDir(filepath.Dir(to)); len(around) != 1 {
				t.Errorf("beside it: %v", around)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	_, err := Check(context.Background(), bytes.NewReader(craft(t, Format+1)), anything, Limits{})
	if !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "Trellis v9.1") {
		t.Errorf("a newer format: %v", err)
	}
	for what, b := range map[string][]byte{"nothing": nil, "text": []byte("hello, this is text and no archive at all"), "no format": craft(t, 0)} {
		if _, err := Check(context.Background(), bytes.NewReader(b), anything, Limits{}); !errors.Is(err, ErrDamaged) && !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestBombsAreRefusedInLittleMemory(t *testing.T) {
	var b bytes.Buffer
	w, err := NewWriter(&b, head)
	if err != nil {
		t.Fatal(err)
	}
	ones := bytes.Repeat([]byte{1}, 1<<20)
	content := func(n int) *repeated { return &repeated{ones, n << 20} }
	for i := range 15 {
		if err := w.put(Member{Name: fmt.Sprintf("f%05d", i), Kind: File, Size: 20 << 20, Modified: head.Created}, content(20)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20000 {
		if err := w.put(Member{Name: fmt.Sprintf("g%05d", i), Kind: File, Modified: head.Created}, content(0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(false); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes hold 300 MiB and 20000 files", b.Len())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, l := range []Limits{{Bytes: 100 << 20}, {Members: 10000}} {
		if _, err := Check(context.Background(), bytes.NewReader(b.Bytes()), anything, l); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if _, err := Check(context.Background(), bytes.NewReader(b.Bytes()), anything, Limits{}); err != nil {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
}

type repeated struct {
	piece []byte
	left  int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := min(len(p), len(r.piece), r.left)
	copy(p, r.piece[:n])
	r.left -= n
	return n, nil
}

func FuzzCheck(f *testing.F) {
	for _, headers := range [][]tar.Header{
		nil, {{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "a/b", Typeflag: tar.TypeReg, Size: 3}},
		{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}},
	} {
		packed := craft(f, Format, headers...)
		z, err := zstd.NewReader(bytes.NewReader(packed))
		if err != nil {
			f.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := z.WriteTo(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		_, checked := Check(context.Background(), bytes.NewReader(b.Bytes()), anything, Limits{Bytes: 1 << 20, Members: 1000})
		outer := t.TempDir()
		to := filepath.Join(outer, "to")
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		_, extracted := Extract(context.Background(), bytes.NewReader(b.Bytes()), to, anything, Limits{Bytes: 1 << 20, Members: 1000})
		if checked != nil && extracted == nil {
			t.Errorf("what is refused (%v) was extracted", checked)
		}
		if around, err := os.ReadDir(outer); err != nil || len(around) != 1 {
			t.Errorf("beside it: %v", around)
		}
	})
}
