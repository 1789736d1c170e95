package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"maps"
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

// file is what an image has by one name.
type file struct{ mode, link, content string }

// contents reads the files of an image as a runtime would. All of them are of root, and of no time.
func contents(t *testing.T, img v1.Image) map[string]file {
	t.Helper()
	all := map[string]file{}
	flat := mutate.Extract(img)
	defer flat.Close()
	for r := tar.NewReader(flat); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s is of %d:%d at %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = file{h.FileInfo().Mode().String(), h.Linkname, string(content)}
	}
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
	got := contents(t, img)
	for name, want := range map[string]file{
		"app/bin/web": {mode: "-rwxr-xr-x", content: string(program(elf.EM_AARCH64, ""))}, "app/bin/link": {mode: "Lrwxrwxrwx", link: "../data"},
		"app/data": {mode: "-rw-r--r--", content: "x"}, "tmp": {mode: "dtrwxrwxrwx"},
		"etc/passwd":                        {mode: "-rw-r--r--", content: "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"},
		"etc/ssl/certs/ca-certificates.crt": {mode: "-rw-r--r--", content: "roots"},
	} {
		if got[name] != want {
			t.Errorf("%s is %+v, want %+v", name, got[name], want)
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
	dir := files(t, map[string][]byte{"trellis": program(elf.EM_X86_64, "/lib64/ld-linux-x86-64.so.2")})
	if _, err := Self(filepath.Join(dir, "trellis"), nil); !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "needs /lib64/ld-linux-x86-64.so.2") {
		t.Errorf("a trellis that is linked dynamically: %v", err)
	}
}

// TestSelf: the image of Trellis runs it, whoever may run the file that it is made of.
func TestSelf(t *testing.T) {
	content := program(elf.EM_AARCH64, "")
	img, err := Self(filepath.Join(files(t, map[string][]byte{"trellis-1.0": content}), "trellis-1.0"), []byte("roots"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || !slices.Equal(config.Config.Entrypoint, []string{"/trellis"}) {
		t.Errorf("the image says %+v", config)
	}
	got := contents(t, img)
	if f := got["trellis"]; f.mode != "-rwxr-xr-x" || f.content != string(content) {
		t.Errorf("it has %+v", got)
	}
	if f := got["etc/ssl/certs/ca-certificates.crt"]; f.content != "roots" {
		t.Errorf("it trusts %q", f.content)
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
		if err != nil || len(layers) != 3 { // two of the base
			t.Errorf("%d layers (%v)", len(layers), err)
		}
		last, err := mutate.AppendLayers(empty.Image, layers[len(layers)-1])
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(t, last); got["app/server.mjs"] != (file{mode: "-rw-r--r--", content: "x"}) {
			t.Errorf("the files are %v", slices.Sorted(maps.Keys(got)))
		}
		if one, other := digestOf(t, p), digestOf(t, p); one != other {
			t.Errorf("the same is %s, then %s", one, other)
		}
	}
	one, err := bases[0].Add.(v1.Image).Digest()
	if err != nil {
		t.Fatal(err)
	}
	single, err := FindBase(t.Context(), at+"@"+one.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := single.For(t.Context(), dir, []string{"bin/web"}); !errors.Is(err, errdefs.ErrUnsupported) || !strings.Contains(err.Error(), "bin/web is built for arm64") {
		t.Errorf("a base for another processor: %v", err)
	}
	if _, err := single.For(t.Context(), dir, []string{"node"}); err != nil {
		t.Errorf("a program of the base, whichever that is for: %v", err)
	}
	if _, err := FindBase(t.Context(), at+":23"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := FindBase(t.Context(), "No Base"); !errors.Is(err, errdefs.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
}
