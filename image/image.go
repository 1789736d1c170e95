// Package image makes OCI images of what was built for processes, without any other program, and puts images into
// registries.
//
// An image is a function of what goes into it: the same files and command give the same digest, whenever and in whatever
// folder. Nothing of the machine gets in but its certificates of public authorities.
package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"trellis/errdefs"
)

// Where files lie in an image.
const (
	appDir          = "/app"
	selfPath        = "/trellis"
	certificatePath = "/etc/ssl/certs/ca-certificates.crt"
)

// searchPath is PATH in an image.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// bundles are where systems keep the certificates of public authorities in one file.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// Program is what an image runs.
type Program struct {
	// Dir is the folder whose files lie below /app, the image's working directory. It has to stay as it is for as long as
	// the image is used: its files are read when the image is.
	Dir string
	// Command is the program, a file of Dir, and its arguments.
	Command []string
	// Certificates are those of the authorities that the program trusts, in PEM; see Certificates. With a Base they are its
	// own.
	Certificates []byte
	// Base is the image that the files are put upon, nil for none. With one the command may be a program of the base.
	Base v1.Image
}

// Build returns the image of a program. One that needs more than itself, an interpreter or shared libraries, or is none of
// Linux: ErrUnsupported, which says what it needs and what to do.
func Build(p Program) (v1.Image, error) {
	if len(p.Command) == 0 {
		return nil, fmt.Errorf("%w: nothing says what to run", errdefs.ErrInvalid)
	}
	if p.Base != nil {
		return upon(p)
	}
	name := filepath.ToSlash(filepath.Clean(p.Command[0]))
	file := filepath.Join(p.Dir, name)
	if info, err := os.Stat(file); !filepath.IsLocal(name) || err != nil || info.IsDir() {
		return nil, fmt.Errorf("%s is not among its artifacts, and without a base an image has nothing else: %w", p.Command[0], errdefs.ErrUnsupported)
	}
	arch, err := architecture(file)
	if err != nil {
		return nil, fmt.Errorf("%s %w", p.Command[0], err)
	}
	entries, err := folder(p.Dir)
	if err != nil {
		return nil, fmt.Errorf("read what the image is made of: %w", err)
	}
	config := v1.Config{Entrypoint: append([]string{path.Join(appDir, name)}, p.Command[1:]...), WorkingDir: appDir}
	return assemble(arch, config, system(p.Certificates), entries)
}

// Self returns the image of Trellis itself, whose program is file: that is the entry point. The errors are those of Build.
func Self(file string, certificates []byte) (v1.Image, error) {
	arch, err := architecture(file)
	if err != nil {
		return nil, fmt.Errorf("%s %w", file, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	program := []entry{{name: selfPath, mode: 0o755, size: info.Size(), open: func() (io.ReadCloser, error) { return os.Open(file) }}}
	return assemble(arch, v1.Config{Entrypoint: []string{selfPath}}, system(certificates), program)
}

// Certificates returns the bundle of public authorities that programs of this machine trust: the file that SSL_CERT_FILE
// names, or else that of the system. There is none: nil.
func Certificates(getenv func(string) string) []byte {
	for _, name := range append([]string{getenv("SSL_CERT_FILE")}, bundles...) {
		if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
			return b
		}
	}
	return nil
}

// system is what programs expect of any system: a place for temporary files, who root and nobody are, and whom to trust.
func system(certificates []byte) []entry {
	all := []entry{
		dir("/etc", 0o755),
		text("/etc/group", "root:x:0:\nnobody:x:65534:\n"),
		text("/etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"),
		dir("/root", 0o700),
		dir("/tmp", 0o777|fs.ModeSticky),
	}
	if len(certificates) > 0 {
		all = append(all, dir("/etc/ssl", 0o755), dir("/etc/ssl/certs", 0o755), text(certificatePath, string(certificates)))
	}
	return all
}

// folder returns the files below a folder as they lie in the image, in order of name. What is neither file, folder nor link
// is left out.
func folder(root string) ([]entry, error) {
	all := []entry{dir(appDir, 0o755)}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == root {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name := path.Join(appDir, filepath.ToSlash(rel))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			all = append(all, dir(name, 0o755))
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(file)
			if err != nil {
				return err
			}
			all = append(all, entry{name: name, mode: fs.ModeSymlink | 0o777, link: to})
		case d.Type().IsRegular():
			mode := fs.FileMode(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			all = append(all, entry{name: name, mode: mode, size: info.Size(), open: func() (io.ReadCloser, error) { return os.Open(file) }})
		}
		return nil
	})
	return all, err
}

// assemble makes an image of one layer for each list of entries.
func assemble(arch string, config v1.Config, layers ...[]entry) (v1.Image, error) {
	config.Env = []string{"PATH=" + searchPath}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: epoch}, Config: config, RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	for _, entries := range layers {
		if img, err = appended(img, entries, types.OCILayer); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// appended returns an image with one layer more.
func appended(img v1.Image, entries []entry, kind types.MediaType) (v1.Image, error) {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	layer, err := layerOf(entries)
	if err == nil {
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: layer, MediaType: kind, History: v1.History{CreatedBy: "trellis", Created: v1.Time{Time: epoch}},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	return img, nil
}

// epoch is the time of everything in an image: when it was made says nothing of what is in it.
var epoch = time.Unix(0, 0).UTC()
