package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"trellis/errdefs"
)

// program is a file that is a program of Linux as far as its head says.
func program(machine elf.Machine, interpreter string) []byte {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var b bytes.Buffer
	if interpreter != "" {
		h.Phoff, h.Phnum = 64, 1
	}
	_ = binary.Write(&b, binary.LittleEndian, h)
	if interpreter != "" {
		_ = binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 64 + 56, Filesz: uint64(len(interpreter) + 1)})
		b.WriteString(interpreter + "\x00")
	}
	b.Write(make([]byte, 128))
	return b.Bytes()
}

// files makes a folder of files; those in bin may be run.
func files(t *testing.T, content map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for path, b := range content {
		path = filepath.Join(dir, path)
		mode := os.FileMode(0o600)
		if filepath.Base(filepath.Dir(path)) == "bin" {
			mode = 0o700
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b, mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func digestOf(t *testing.T, p Program) v1.Hash {
	t.Helper()
	img, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// TestTheSameFilesAreTheSameImage: neither where the files lie, nor when they were written, nor who may read them here counts.
func TestTheSameFilesAreTheSameImage(t *testing.T) {
	content := map[string][]byte{"bin/web": program(elf.EM_X86_64, ""), "pages/index.html": []byte("<p>"), "pages/a": nil}
	one := Program{Dir: files(t, content), Command: []string{"bin/web", "-v"}, Certificates: []byte("roots")}
	other := one
	other.Dir = files(t, content)
	old := time.Unix(1e9, 0)
	if err := errors.Join(os.Chtimes(filepath.Join(other.Dir, "bin/web"), old, old), os.Chmod(filepath.Join(other.Dir, "pages/index.html"), 0o444)); err != nil {
		t.Fatal(err)
	}
	want := digestOf(t, one)
	if got := digestOf(t, other); got != want {
		t.Errorf("the same files are %s, then %s", want, got)
	}
	for what, change := range map[string]func(*Program){
		"another argument":     func(p *Program) { p.Command = []string{"bin/web"} },
		"other authorities":    func(p *Program) { p.Certificates = nil },
		"another file":         func(p *Program) { content["pages/b"] = nil; p.Dir = files(t, content) },
		"another architecture": func(p *Program) { content["bin/web"] = program(elf.EM_AARCH64, ""); p.Dir = files(t, content) },
	} {
		p := one
		if change(&p); digestOf(t, p) == want {
			t.Errorf("%s is the same image", what)
		}
	}
}

// TestImageHasWhatAProgramNeeds reads an image as a runtime would.
func TestImageHasWhatAProgramNeeds(t *testing.T) {
	dir := files(t, map[string][]byte{"bin/web": program(elf.EM_AARCH64, ""), "data": []byte("x")})
	if err := os.Symlink("../data", filepath.Join(dir, "bin", "link")); err != nil {
		t.Fatal(err)
	}
	img, err := Build(Program{Dir: dir, Command: []string{"./bin/web", "serve"}, Certificates: []byte("roots")})
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; config.OS != "linux" || config.Architecture != "arm64" || c.WorkingDir != "/app" || !slices.Equal(c.Entrypoint, []string{"/app/bin/web", "serve"}) ||
		c.User != "" || !config.Created.IsZero() && config.Created.Unix() != 0 {
		t.Errorf("the image says %+v", config)
	}
	got := map[string]string{}
	flat := mutate.Extract(img)
	defer flat.Close()
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s is of %d:%d at %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		got[h.Name] = h.FileInfo().Mode().String() + " " + h.Linkname
	}
	for name, want := range map[string]string{
		"app/bin/web": "-rwxr-xr-x ", "app/bin/link": "Lrwxrwxrwx ../data", "app/data": "-rw-r--r-- ", "tmp": "dtrwxrwxrwx ",
		"etc/passwd": "-rw-r--r-- ", "etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- ",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

// TestProgramsThatNeedMore: a program that would not start is refused, with what it needs.
func TestProgramsThatNeedMore(t *testing.T) {
	for command, c := range map[string]struct {
		content []byte
		want    string
	}{
		"bin/dynamic": {program(elf.EM_X86_64, "/lib64/ld-linux-x86-64.so.2"), "needs /lib64/ld-linux-x86-64.so.2"},
		"bin/script":  {[]byte("#!/bin/sh -e\nexec true\n"), "is a script for /bin/sh -e"},
		"bin/mac":     {[]byte("\xcf\xfa\xed\xfe"), "no program of Linux"},
		"bin/empty":   {nil, "no program of Linux"},
		"bin/cut":     {program(elf.EM_X86_64, "")[:40], "cannot be read as a program"},
		"bin/old":     {program(elf.EM_VAX, ""), "is made for EM_VAX"},
		"node":        {nil, ""},
		"/bin/sh":     {nil, ""},
		"../bin/web":  {nil, ""},
	} {
		dir := files(t, map[string][]byte{"bin/other": nil})
		if c.want != "" {
			dir = files(t, map[string][]byte{command: c.content})
		} else {
			c.want = command + " is not among its artifacts"
		}
		_, err := Build(Program{Dir: dir, Command: []string{command}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, errdefs.ErrUnsupported) && !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("%s: %v, want %q", command, err, c.want)
		}
	}
	if _, err := Build(Program{Dir: t.TempDir()}); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("no command: %v", err)
	}
	if _, err := Self("/bin/sh", nil); err != nil && !strings.Contains(err.Error(), "libc.so") { // where it is linked to one
		t.Errorf("a shell: %v", err)
	}
}

// TestTargets: where an image goes, and what a cluster calls it.
func TestTargets(t *testing.T) {
	digest, err := v1.NewHash("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	at := "@" + digest.String()
	for text, want := range map[string]Target{
		"registry.example.org/team/":   {"registry.example.org/team/shop-web:trellis-0123456789abcdef", "registry.example.org/team/shop-web" + at},
		"localhost:5000":               {"localhost:5000/shop-web:trellis-0123456789abcdef", "localhost:5000/shop-web" + at},
		"localhost":                    {"localhost/shop-web:trellis-0123456789abcdef", "localhost/shop-web" + at},
		"team":                         {},
		"":                             {},
		"https://registry.example.org": {},
		"registry.example.org/Team":    {},
		"registry.example.org/a:1":     {},
	} {
		r, err := ParseRegistry(text)
		if want == (Target{}) {
			if !errors.Is(err, errdefs.ErrInvalid) {
				t.Errorf("registry %q: %v", text, err)
			}
			continue
		}
		if got := r.Target("shop-web", digest); err != nil || got != want {
			t.Errorf("registry %q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for image, want := range map[string]Target{
		"ghcr.io/team/web:1.2": {"ghcr.io/team/web:1.2", "ghcr.io/team/web" + at},
		"ghcr.io/team/web":     {"ghcr.io/team/web:trellis-0123456789abcdef", "ghcr.io/team/web" + at},
		"team/web:1":           {"docker.io/team/web:1", "docker.io/team/web" + at},
		"team/web" + at:        {},
		"web:":                 {},
	} {
		got, err := Named(image, digest)
		if want == (Target{}) != errors.Is(err, errdefs.ErrInvalid) || got != want {
			t.Errorf("image %q: %+v, %v, want %+v", image, got, err, want)
		}
	}
	r := Registry{Push: "localhost:5001", Pull: "registry:5000"}
	if got := r.Target("web", digest); got.Reference != "registry:5000/web"+at || !strings.HasPrefix(got.push, "localhost:5001/web:") {
		t.Errorf("of two names: %+v", got)
	}
}

// TestUponABase: files are put upon an image of a registry, whose users and variables stay, and which may have the program.
func TestUponABase(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://") + "/node"
	var bases []mutate.IndexAddendum
	for _, arch := range []string{"amd64", "arm64"} {
		base, err := random.Image(100, 1)
		if err == nil {
			base, err = mutate.ConfigFile(base, &v1.ConfigFile{OS: "linux", Architecture: arch, Config: v1.Config{
				User: "node", Env: []string{"NODE=1"}, Entrypoint: []string{"entry"}, Cmd: []string{"node"}, WorkingDir: "/home",
			}})
		}
		if err == nil {
			var more v1.Layer
			if more, err = random.Layer(100, types.DockerLayer); err == nil {
				base, err = mutate.AppendLayers(base, more)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		bases = append(bases, mutate.IndexAddendum{Add: base, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	tag, err := name.NewTag(at + ":22")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, mutate.AppendManifests(empty.Index, bases...)); err != nil {
		t.Fatal(err)
	}
	base, err := FindBase(t.Context(), at+":22")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := FindBase(t.Context(), base.String()); err != nil || again != base || !strings.Contains(base.String(), "@sha256:") {
		t.Errorf("%s is %s by its content, %v", base, again, err)
	}
	dir := files(t, map[string][]byte{"server.mjs": []byte("x"), "bin/web": program(elf.EM_AARCH64, "/lib/ld.so")})
	for _, c := range []struct {
		command, entry []string
		arch           string
	}{
		{[]string{"node", "server.mjs"}, []string{"node", "server.mjs"}, runtime.GOARCH},
		{[]string{"bin/web"}, []string{"/app/bin/web"}, "arm64"},
	} {
		under, err := base.For(t.Context(), dir, c.command)
		if err != nil {
			t.Error(err) // of a machine with another processor
			continue
		}
		p := Program{Dir: dir, Command: c.command, Base: under}
		img, err := Build(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		of := got.Config
		if got.Architecture != c.arch || of.User != "node" || !slices.Equal(of.Env, []string{"NODE=1"}) || !slices.Equal(of.Entrypoint, c.entry) || of.Cmd != nil ||
			of.WorkingDir != "/app" {
			t.Errorf("%v: for %s: %+v", c.command, got.Architecture, of)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) < 2 {
			t.Errorf("%d layers (%v)", len(layers), err)
		}
		if one, other := digestOf(t, p), digestOf(t, p); one != other {
			t.Errorf("the same is %s, then %s", one, other)
		}
	}
	if _, err := FindBase(t.Context(), at+":23"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := FindBase(t.Context(), "No Base"); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
}

// TestPush: an image is made and pushed once, not even made where it is there, and never another one than was named.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	r, err := ParseRegistry(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	dir := files(t, map[string][]byte{"bin/web": program(elf.EM_X86_64, "")})
	source := func() *Source {
		return &Source{Key: "web", Make: func(context.Context) (v1.Image, error) {
			made++
			return Build(Program{Dir: dir, Command: []string{"bin/web"}})
		}}
	}
	digests := Digests(filepath.Join(t.TempDir(), "images"))
	from := source()
	digest, err := digests.Of(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	to := r.Target("shop-web", digest)
	for _, want := range []bool{true, false} {
		if again, err := digests.Of(t.Context(), from); err != nil || again != digest {
			t.Fatalf("the digest is %s, then %s (%v)", digest, again, err)
		}
		if pushed, err := Push(t.Context(), to, digest, from); err != nil || pushed != want || made != 1 {
			t.Errorf("pushed: %v, %v, want %v; it was made %d times", pushed, err, want, made)
		}
		from = source() // as of the next command
	}
	reference, err := name.NewDigest(to.Reference)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	elsewhere := r.Target("elsewhere", digest)
	if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), elsewhere, digest, source()); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("what is another image by now: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "more")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := Push(t.Context(), elsewhere, digest, source()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("without a registry: %v", err)
	}
}
