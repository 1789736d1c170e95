package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"trellis/errdefs"
)

// userAgent is who asks registries.
const userAgent = "trellis"

// Registry is a place for images.
type Registry struct {
	Push string // HOST[:PORT][/PREFIX], as this machine reaches it
	Pull string // the same as the nodes of a cluster reach it
}

// ParseRegistry reads HOST[:PORT][/PREFIX]. It is none: ErrInvalid.
func ParseRegistry(text string) (Registry, error) {
	at := strings.TrimRight(text, "/")
	host, _, _ := strings.Cut(at, "/")
	// As in the name of an image, a first part without any of these is no host.
	if !strings.ContainsAny(host, ".:") && host != "localhost" {
		return Registry{}, fmt.Errorf("registry %q: %w: want HOST[:PORT][/PREFIX], such as registry.example.org/team", text, errdefs.ErrInvalid)
	}
	if named, err := reference.ParseNormalizedNamed(at + "/image"); err != nil || !reference.IsNameOnly(named) {
		return Registry{}, fmt.Errorf("registry %q: %w: want HOST[:PORT][/PREFIX], such as registry.example.org/team", text, errdefs.ErrInvalid)
	}
	return Registry{at, at}, nil
}

// Target is one image at its place in a registry.
type Target struct {
	push      string // REPOSITORY:TAG
	Reference string // REPOSITORY@DIGEST, as the nodes of a cluster pull it
}

// Target is where an image of that name goes. Its tag is of its content, so that no other image ever takes it.
func (r Registry) Target(of string, digest v1.Hash) Target {
	return Target{push: r.Push + "/" + of + ":" + tagOf(digest), Reference: r.Pull + "/" + of + "@" + digest.String()}
}

// tagOf is a tag that stands for one content.
func tagOf(digest v1.Hash) string { return "trellis-" + digest.Hex[:16] }

// Named is where an image goes that a file has a name for, with its tag. The name is none, or that of a content: ErrInvalid.
func Named(image string, digest v1.Hash) (Target, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return Target{}, fmt.Errorf("image %q: %w: %w", image, errdefs.ErrInvalid, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return Target{}, fmt.Errorf("image %q: %w: what is built cannot be named by a digest: write a tag", image, errdefs.ErrInvalid)
	}
	tag := tagOf(digest)
	if tagged, ok := named.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	return Target{push: named.Name() + ":" + tag, Reference: named.Name() + "@" + digest.String()}, nil
}

// Push puts an image of a known digest where it belongs, with the credentials of 'docker login'; one that is there is not even
// made. Only a registry of this machine or of a private address is asked without TLS. The registry does not answer, or
// refuses: ErrUnavailable.
func Push(ctx context.Context, to Target, digest v1.Hash, from *Source) (pushed bool, err error) {
	tag, err := name.NewTag(to.push)
	if err != nil {
		return false, fmt.Errorf("push %s: %w: %w", to.push, errdefs.ErrInvalid, err)
	}
	options := fromRegistry(ctx)
	if there, err := remote.Head(tag, options...); err == nil && there.Digest == digest {
		return false, nil
	}
	img, err := from.Made(ctx, digest)
	if err == nil {
		err = explained(tag.RegistryStr(), remote.Write(tag, img, options...))
	}
	if err != nil {
		return false, fmt.Errorf("push %s: %w", to.push, err)
	}
	return true, nil
}

// explained gives an answer of a registry its kind, and says what to do about it.
func explained(registry string, err error) error {
	var answer *transport.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return fmt.Errorf("%w: %s does not let you write there: 'docker login %s' stores credentials, which are used here: %w", errdefs.ErrUnavailable, registry, registry, err)
	}
	return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
}
