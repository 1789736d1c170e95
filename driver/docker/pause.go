package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/moby/moby/client"

	kinds "trellis/errdefs"
)

// pauseProgram is where the shim lies in its image.
const pauseProgram = "/trellis"

// pauseImage returns the image of the containers that hold networks: the shim and nothing else. It is made once for each
// version of the shim.
func (d *Driver) pauseImage(ctx context.Context) (string, error) {
	d.mu.Lock()
	ready := d.pause
	d.mu.Unlock()
	if ready != "" {
		return ready, nil
	}
	content, err := os.ReadFile(d.cfg.Shim[0])
	if err != nil {
		return "", fmt.Errorf("read the shim: %w", err)
	}
	if err := static(content); err != nil {
		return "", fmt.Errorf("make the image that holds networks from %s: %w", d.cfg.Shim[0], err)
	}
	sum := sha256.Sum256(content)
	name := "trellis-pause:" + hex.EncodeToString(sum[:6])
	if _, err := d.engine.api.ImageInspect(ctx, name); isNotFound(err) {
		err = d.importPause(ctx, name, content)
		if err != nil {
			return "", fmt.Errorf("make the image %s: %w", name, kind(err))
		}
	} else if err != nil {
		return "", fmt.Errorf("look for the image %s: %w", name, kind(err))
	}
	d.mu.Lock()
	d.pause = name
	d.mu.Unlock()
	return name, nil
}

// pauseImageAnew is pauseImage where what is known of the image may be true no more.
func (d *Driver) pauseImageAnew(ctx context.Context) (string, error) {
	d.mu.Lock()
	d.pause = ""
	d.mu.Unlock()
	return d.pauseImage(ctx)
}

// static refuses a program that needs more than itself.
func static(content []byte) error {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("%w: it is no Linux program", kinds.ErrUnsupported)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%w: it is not static; build trellis with `make build`, or with CGO_ENABLED=0", kinds.ErrUnsupported)
		}
	}
	return nil
}

func (d *Driver) importPause(ctx context.Context, name string, content []byte) error {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: pauseProgram[1:], Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	entrypoint, err := json.Marshal(d.pauseCommand())
	if err != nil {
		return err
	}
	body, err := d.engine.api.ImageImport(ctx, client.ImageImportSource{Source: &layer, SourceName: "-"}, name, client.ImageImportOptions{
		Message: "holds the network of one instance", Changes: []string{"ENTRYPOINT " + string(entrypoint), `LABEL ` + labelRole + `=` + roleNetwork},
	})
	if err != nil {
		return err
	}
	defer body.Close()
	return answer(body, nil)
}

// pauseCommand is the command line of the shim in its image, before its verb.
func (d *Driver) pauseCommand() []string { return append([]string{pauseProgram}, d.cfg.Shim[1:]...) }

// answer reads the messages of a long call to their end and returns the error among them. Each message goes to tell.
func answer(r io.Reader, tell func(message)) error {
	for dec := json.NewDecoder(r); ; {
		var m message
		if err := dec.Decode(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the engine's answer: %w", err)
		}
		if tell != nil {
			tell(m)
		}
		if m.Detail.Message != "" || m.Error != "" {
			return fmt.Errorf("%s", firstOf(m.Detail.Message, m.Error))
		}
	}
}

// message is one line of a long call's answer.
type message struct {
	Stream string          `json:"stream"`
	Status string          `json:"status"`
	ID     string          `json:"id"` // of a layer, or the kind of Aux
	Aux    json.RawMessage `json:"aux"`
	Error  string          `json:"error"`
	Detail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}
