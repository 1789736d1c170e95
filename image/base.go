package image

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"trellis/errdefs"
)

// Base is an image of a registry that others are built upon, by its content.
type Base struct {
	reference name.Digest
}

// FindBase asks a registry what an image is by its content, with the credentials of 'docker login'; nobody where the name says
// it. The name is none: ErrInvalid. The registry does not answer, or has no such image: ErrUnavailable.
func FindBase(ctx context.Context, image string) (Base, error) {
	reference, err := name.ParseReference(image)
	if err != nil {
		return Base{}, fmt.Errorf("base %q: %w: %w", image, errdefs.ErrInvalid, err)
	}
	if digest, ok := reference.(name.Digest); ok {
		return Base{digest}, nil
	}
	found, err := remote.Head(reference, fromRegistry(ctx)...)
	if err != nil {
		return Base{}, fmt.Errorf("look for base %s: %w: %w", image, errdefs.ErrUnavailable, err)
	}
	return Base{reference.Context().Digest(found.Digest.String())}, nil
}

// String is the base's name by its content.
func (b Base) String() string { return b.reference.String() }

// For returns the base as the program of a folder needs it: for what that was built for, or else for this machine's processor.
// The base is for another one than what was built: ErrUnsupported.
func (b Base) For(ctx context.Context, dir string, command []string) (v1.Image, error) {
	built := ""
	if len(command) > 0 && filepath.IsLocal(command[0]) {
		built = processor(filepath.Join(dir, command[0]))
	}
	arch := cmp.Or(built, runtime.GOARCH)
	fail := func(err error) (v1.Image, error) {
		return nil, fmt.Errorf("read base %s for %s: %w: %w", b, arch, errdefs.ErrUnavailable, err)
	}
	img, err := remote.Image(b.reference, append(fromRegistry(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))...)
	if err != nil {
		return fail(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return fail(err)
	}
	if of := config.Architecture; built != "" && of != "" && of != built { // an image for one processor is there whatever is asked for
		return nil, fmt.Errorf("%s is built for %s, and its base %s is for %s: %w", command[0], built, b, of, errdefs.ErrUnsupported)
	}
	return img, nil
}

func fromRegistry(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent(userAgent)}
}

// upon puts a program upon its base: what that says of users and variables stays.
func upon(p Program) (v1.Image, error) {
	entries, err := folder(p.Dir)
	if err != nil {
		return nil, fmt.Errorf("read what the image is made of: %w", err)
	}
	kind := types.OCILayer
	if base, err := p.Base.MediaType(); err != nil {
		return nil, fmt.Errorf("read the base: %w", err)
	} else if base == types.DockerManifestSchema2 {
		kind = types.DockerLayer
	}
	img, err := appended(p.Base, entries, kind)
	if err != nil {
		return nil, err
	}
	of, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the base: %w", err)
	}
	config := *of.Config.DeepCopy()
	config.Entrypoint, config.Cmd, config.WorkingDir = append([]string{}, p.Command...), nil, appDir
	if first := p.Command[0]; filepath.IsLocal(first) {
		if info, err := os.Stat(filepath.Join(p.Dir, first)); err == nil && !info.IsDir() {
			config.Entrypoint[0] = path.Join(appDir, filepath.ToSlash(first))
		}
	}
	if img, err = mutate.Config(img, config); err != nil {
		return nil, fmt.Errorf("make an image: %w", err)
	}
	return img, nil
}
