package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"trellis/artifact"
	"trellis/compose"
	"trellis/driver/docker"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/image"
	"trellis/image/registry"
	"trellis/state"
)

// RegistryEnv is the variable that names a registry for the images of projects in clusters, as --registry does.
const RegistryEnv = "TRELLIS_REGISTRY"

// Deposit makes the images that a project runs in a cluster and puts them where the cluster pulls them from. Finding out
// their names puts nothing anywhere. It is not safe for concurrent use.
type Deposit struct {
	location Location
	client   *kubernetes.Client // nil: whatever cluster
	named    string             // the registry that somebody has named
	owner    string             // in the registry of this machine
	temp     string             // "" before there is one
	trust    []byte             // certificates of authorities
	waiting  []parcel

	looked  bool // for a registry
	found   shelf
	missing error
}

// shelf is a registry that a cluster pulls from.
type shelf struct {
	image.Registry
	store *registry.Store // nil: not that of this machine
}

// parcel is an image that is to be put somewhere.
type parcel struct {
	what   string
	to     image.Target
	digest v1.Hash
	from   *image.Source
	store  *registry.Store // nil: it is pushed
}

// OpenDeposit returns the deposit of a project in a cluster, or, where l has none, of one for whatever cluster pulls from the
// registry named; otherwise that is the one that somebody has named, if any. It asks nobody yet.
func OpenDeposit(l Location, named string) (*Deposit, error) {
	d := &Deposit{location: l, named: named, trust: image.Certificates(os.Getenv)}
	if l.Cluster == nil {
		r, err := image.ParseRegistry(named)
		if err != nil {
			return nil, err
		}
		d.looked, d.found = true, shelf{Registry: r}
		return d, nil
	}
	client, err := l.dial(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	d.client, d.owner = client, ownerIn(client, l.Project)
	return d, nil
}

// shelf returns where images go that the file gives no name; it looks once.
func (d *Deposit) shelf(ctx context.Context) (shelf, error) {
	if !d.looked {
		d.found, d.missing = d.find(ctx)
		d.looked = true
	}
	return d.found, d.missing
}

// ownerIn names a project in a cluster in the registry of this machine. Several may share a namespace.
func ownerIn(client *kubernetes.Client, project string) string {
	sum := sha256.Sum256([]byte(client.Server))
	return project + "." + client.Namespace + "." + hex.EncodeToString(sum[:4])
}

// Registry returns where images go that the file gives no name. There is none: ErrNotFound.
func (d *Deposit) Registry(ctx context.Context) (string, error) {
	at, err := d.shelf(ctx)
	return at.Push, err
}

// Of returns the name by which the cluster pulls the image of a service: one made of its artefacts, or the one that Docker
// has built for it. There is no registry for it: ErrNotFound. It needs more than its artefacts: ErrUnsupported.
func (d *Deposit) Of(ctx context.Context, svc compose.Service) (string, error) {
	var from *image.Source
	if process := svc.Trellis.Process; process != nil && process.Artifact != "" {
		store, err := artifact.Open(d.location.Artifacts())
		if err != nil {
			return "", err
		}
		program := image.Program{Dir: store.Path(process.Artifact), Command: process.Command, Certificates: d.trust}
		if program.Command == nil {
			program.Command = slices.Concat(svc.Entrypoint, svc.Command)
		}
		if from, err = sourceOf(ctx, program, process.Artifact, process.Base); err != nil {
			return "", err
		}
	} else {
		id := svc.Trellis.ImageID
		from = &image.Source{
			Key:  "docker " + id,
			Make: func(ctx context.Context) (v1.Image, error) { return d.saved(ctx, id) },
		}
	}
	digest, err := d.digests().Of(ctx, from)
	if err != nil {
		return "", err
	}
	w := parcel{what: svc.Name, digest: digest, from: from}
	if svc.Image != "" {
		w.to, err = image.Named(svc.Image, digest)
		if err != nil {
			return "", err
		}
	} else {
		at, err := d.shelf(ctx)
		if err != nil {
			return "", err
		}
		w.to, w.store = at.Target(docker.ImageName(d.location.Project, svc), digest), at.store
	}
	d.waiting = append(d.waiting, w)
	return w.to.Reference, nil
}

// sourceOf is the image of a program, whose files are those of an artefact; base is the name of what it is put upon, if any.
func sourceOf(ctx context.Context, p image.Program, artifact, base string) (*image.Source, error) {
	if base == "" {
		return &image.Source{
			Key:  fmt.Sprintf("artifact %s %q %x", artifact, p.Command, sha256.Sum256(p.Certificates)),
			Make: func(context.Context) (v1.Image, error) { return image.Build(p) },
		}, nil
	}
	found, err := image.FindBase(ctx, base)
	if err != nil {
		return nil, err
	}
	return &image.Source{
		Key: fmt.Sprintf("artifact %s %q upon %s", artifact, p.Command, found),
		Make: func(ctx context.Context) (v1.Image, error) {
			under, err := found.For(ctx, p.Dir, p.Command)
			if err != nil {
				return nil, err
			}
			p.Base = under
			return image.Build(p)
		},
	}, nil
}

// Trellis returns the name by which the cluster pulls the image of this very program, "" where somebody has named another
// one. There is no registry for it: ErrNotFound. It cannot run by itself: ErrUnsupported.
func (d *Deposit) Trellis(ctx context.Context) (string, error) {
	if said, err := d.client.PlaneSaid(ctx, d.location.Project); err != nil || said {
		return "", err
	}
	at, err := d.shelf(ctx)
	if err != nil {
		return "", err
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the running binary: %w", err)
	}
	id, err := buildID()
	if err != nil {
		return "", err
	}
	from := &image.Source{
		Key:  fmt.Sprintf("trellis %s %x", id, sha256.Sum256(d.trust)),
		Make: func(context.Context) (v1.Image, error) { return image.Self(exe, d.trust) },
	}
	digest, err := d.digests().Of(ctx, from)
	if err != nil {
		return "", err
	}
	w := parcel{what: "trellis", to: at.Target("trellis", digest), digest: digest, from: from, store: at.store}
	d.waiting = append(d.waiting, w)
	return w.to.Reference, nil
}

func (d *Deposit) digests() image.Digests {
	return image.Digests(filepath.Join(d.location.StateDir, "images"))
}

// saved reads an image out of the Docker engine.
func (d *Deposit) saved(ctx context.Context, id string) (v1.Image, error) {
	engine, err := docker.Open("")
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	if d.temp == "" {
		if d.temp, err = os.MkdirTemp("", "trellis-images-"); err != nil {
			return nil, fmt.Errorf("read an image of the Docker engine: %w", err)
		}
	}
	file := filepath.Join(d.temp, strings.ReplaceAll(id, ":", "-")+".tar")
	if _, err := os.Stat(file); err != nil {
		if err := engine.Save(ctx, id, file); err != nil {
			return nil, errors.Join(err, os.RemoveAll(file))
		}
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return nil, fmt.Errorf("read an image of the Docker engine: %w", err)
	}
	return img, nil
}

// Put puts everything that Of and Trellis have named where the cluster pulls it from, and tells of each that was not there.
// A registry does not answer, or refuses: ErrUnavailable.
func (d *Deposit) Put(ctx context.Context, tell func(what string)) error {
	var here *registry.Store
	for _, w := range d.waiting {
		put, err := d.put(ctx, w)
		if err != nil {
			return fmt.Errorf("the image of %s: %w", w.what, err)
		}
		if put {
			tell(w.what)
		}
		if w.store != nil {
			here = w.store
		}
	}
	d.waiting = nil
	if here == nil {
		return nil
	}
	if err := here.Use(d.owner); err != nil {
		return err
	}
	return ensureRegistry(ctx, here)
}

func (d *Deposit) put(ctx context.Context, w parcel) (put bool, err error) {
	if w.store == nil {
		return image.Push(ctx, w.to, w.digest, w.from)
	}
	if there, err := w.store.Has(ctx, d.owner, w.digest); err != nil || there {
		return false, err
	}
	img, err := w.from.Made(ctx, w.digest)
	if err != nil {
		return false, err
	}
	return true, w.store.Put(ctx, d.owner, img)
}

// Keep removes from the registry of this machine what neither a revision of the project nor its data plane has. Whoever
// deployed last need not have made the image of that one.
func (d *Deposit) Keep(ctx context.Context, revisions []state.Revision) error {
	store, err := existingRegistry() // also where images go elsewhere by now
	if err != nil || store == nil {
		return err
	}
	return keepImages(ctx, store, d.client, d.location.Project, revisions)
}

// Close removes what was made on the way.
func (d *Deposit) Close() error {
	if d.temp == "" {
		return nil
	}
	return os.RemoveAll(d.temp)
}

// find looks for a registry that the cluster pulls from: the one that somebody has named, the one that the cluster
// announces, or, where the nodes are this machine, this machine's own.
func (d *Deposit) find(ctx context.Context) (shelf, error) {
	if d.named != "" {
		r, err := image.ParseRegistry(d.named)
		return shelf{Registry: r}, err
	}
	hosting, err := d.client.Hosting(ctx)
	if err != nil {
		return shelf{}, err
	}
	if hosting.Host != "" {
		r, err := image.ParseRegistry(hosting.Host)
		if err == nil && hosting.FromRuntime != "" {
			var seen image.Registry
			seen, err = image.ParseRegistry(hosting.FromRuntime)
			r.Pull = seen.Pull
		}
		return shelf{Registry: r}, err
	}
	nodes, err := d.client.NodeAddresses(ctx)
	if err != nil {
		return shelf{}, err
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return shelf{}, fmt.Errorf("look at this machine's addresses: %w", err)
	}
	if !allAmong(nodes, own) {
		return shelf{}, fmt.Errorf("a registry that %s pulls from is %w: name one with --registry HOST[:PORT][/PREFIX] or %s, or write image beside build; "+
			"a cluster may announce its own (ConfigMap %s), and one whose nodes are this machine needs none",
			d.client.Server, errdefs.ErrNotFound, RegistryEnv, kubernetes.HostingConfigMap)
	}
	store, err := openRegistry()
	if err != nil {
		return shelf{}, err
	}
	address, err := store.Address(ctx)
	return shelf{image.Registry{Push: address, Pull: address}, store}, err
}

// allAmong says whether there are addresses and all of them are this machine's own.
func allAmong(addresses []string, own []net.Addr) bool {
	for _, a := range addresses {
		ip := net.ParseIP(a)
		if !slices.ContainsFunc(own, func(o net.Addr) bool { n, ok := o.(*net.IPNet); return ok && n.IP.Equal(ip) }) {
			return false
		}
	}
	return len(addresses) > 0
}
