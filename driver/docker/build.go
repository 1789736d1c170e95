package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"trellis/compose"
	kinds "trellis/errdefs"
)

// build builds the image of a service and gives it its name.
func (e *Engine) build(ctx context.Context, name string, svc compose.Service, opt ImageOptions) error {
	b := svc.Build
	if len(b.AdditionalContexts) > 0 || b.Other["secrets"] != nil || b.Other["ssh"] != nil {
		return fmt.Errorf("%w: additional_contexts, secrets and ssh of a build need docker buildx; build the image with it, and leave build out",
			kinds.ErrUnsupported)
	}
	if err := e.Ping(ctx); err != nil {
		return err
	}
	ask := client.ImageBuildOptions{
		Tags: append([]string{name}, b.Tags...), BuildArgs: map[string]*string{}, Labels: b.Labels, CacheFrom: b.CacheFrom, Target: b.Target,
		NoCache: b.NoCache || opt.Force, PullParent: b.Pull || opt.Pull, NetworkMode: b.Network, Remove: true, ForceRemove: true,
		Version: e.builder(), AuthConfigs: allCredentials(),
	}
	for k, v := range b.Args {
		ask.BuildArgs[k] = &v
	}
	if platform := firstOf(append(b.Platforms, svc.Platform)...); platform != "" {
		ask.Platforms = []ocispec.Platform{*platformOf(platform)}
	}
	said := &tail{to: opt.Output}
	err := e.runBuild(ctx, b, ask, opt, said)
	if err != nil && ask.Version == build.BuilderBuildKit && lacksSession(err) {
		// Without a client of its own beside it BuildKit cannot do everything that the older builder can, nor prove who asks to a registry.
		ask.Version = build.BuilderV1
		err = e.runBuild(ctx, b, ask, opt, said)
	}
	if err != nil && opt.Output == nil && said.String() != "" {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return err
}

// lacksSession says whether BuildKit has asked its client for something, by what it says then. A build that fails on its own account
// tells its commands, which may speak of sessions too.
func lacksSession(err error) bool {
	text := err.Error()
	return strings.Contains(text, "no active session") || strings.Contains(text, "without session")
}

// builder is BuildKit where the engine prefers it, and the builder before it elsewhere; DOCKER_BUILDKIT overrules it, as
// it does for the docker command.
func (e *Engine) builder() build.BuilderVersion {
	switch os.Getenv("DOCKER_BUILDKIT") {
	case "0", "false":
		return build.BuilderV1
	case "1", "true":
		return build.BuilderBuildKit
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return build.BuilderVersion(firstOf(string(e.prefers), string(build.BuilderV1)))
}

func (e *Engine) runBuild(ctx context.Context, b *compose.Build, ask client.ImageBuildOptions, opt ImageOptions, said *tail) error {
	var body io.Reader
	if strings.Contains(b.Context, "://") || strings.HasPrefix(b.Context, "git@") {
		ask.RemoteContext, ask.Dockerfile = b.Context, b.Dockerfile
	} else {
		packed, dockerfile, err := contextOf(b, opt.Ignore)
		if err != nil {
			return err
		}
		defer packed.Close()
		ask.Dockerfile, body = dockerfile, packed
	}
	result, err := e.api.ImageBuild(ctx, body, ask)
	if err != nil {
		return kind(err)
	}
	defer result.Body.Close()
	return answer(result.Body, func(m message) {
		switch {
		case m.Stream != "":
			_, _ = io.WriteString(said, m.Stream)
		case m.ID == traceID:
			said.trace(m.Aux)
		}
	})
}

// contextOf packs the context of a build, and returns the name of the Dockerfile in it.
func contextOf(b *compose.Build, ignore []string) (io.ReadCloser, string, error) {
	if info, err := os.Stat(b.Context); err != nil {
		return nil, "", fmt.Errorf("build context: %w", err)
	} else if !info.IsDir() {
		return nil, "", fmt.Errorf("build context %s: %w: not a directory", b.Context, kinds.ErrInvalid)
	}
	p := packing{root: withoutLinks(b.Context)}
	for _, dir := range ignore {
		p.ignore = append(p.ignore, withoutLinks(dir))
	}
	name := firstOf(b.Dockerfile, "Dockerfile")
	if b.DockerfileInline != "" {
		p.dockerfile, name = []byte(b.DockerfileInline), inlineName
	} else {
		file := name
		if !filepath.IsAbs(file) {
			file = filepath.Join(b.Context, file)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, "", fmt.Errorf("dockerfile: %w", err)
		}
		inside, err := filepath.Rel(b.Context, file)
		if err != nil || !filepath.IsLocal(inside) {
			p.dockerfile, name = content, inlineName
		} else {
			name = filepath.ToSlash(inside)
			p.keep = name
		}
	}
	if err := p.readIgnored(name); err != nil {
		return nil, "", err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(p.write(w)) }()
	return r, name, nil
}

// withoutLinks is a path without links in it, where it leads somewhere: a folder is the same one by whatever name, and a walk does not begin
// at a link.
func withoutLinks(path string) string {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		return to
	}
	return path
}

// inlineName is the name in the context of a Dockerfile that is not there itself.
const inlineName = ".trellis.Dockerfile"

// tailSize is how much of the end of a build's output is kept for the error.
const tailSize = 4 << 10

// tail passes output on and keeps its end.
type tail struct {
	to   io.Writer
	kept []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-tailSize):]
	if t.to != nil {
		if _, err := t.to.Write(p); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.kept)) }

var errTrace = errors.New("this is no trace of BuildKit")
