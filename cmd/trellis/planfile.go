package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"trellis/api"
	"trellis/compose"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/server"
	"trellis/state"
)

const (
	planFormat  = "trellis plan"
	planVersion = 1
	// sealRounds makes guessing a secret from its seal expensive: OWASP's number for PBKDF2 with SHA-256.
	sealRounds = 600_000
)

// planFile is a plan as `trellis plan -o` keeps it: everything that apply needs but the contents of secrets and configs,
// which apply reads again.
type planFile struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	MadeAt  time.Time `json:"made_at"`
	Actor   string    `json:"actor"`

	Project  compose.Project      `json:"project"`
	StateDir string               `json:"state_dir"`
	Cluster  *server.Cluster      `json:"cluster,omitempty"` // nil: this machine
	Live     bool                 `json:"live"`              // a control plane ran
	Base     engine.StateID       `json:"base"`
	Changes  []engine.Change      `json:"changes"`
	Warnings []compose.Diagnostic `json:"warnings"`
	Commit   *state.Commit        `json:"commit,omitempty"`
	Contents seal                 `json:"contents"`
}

// seal recognises contents again without telling them.
type seal struct {
	Salt   []byte `json:"salt,omitempty"`
	Digest []byte `json:"digest,omitempty"` // none: there were no contents
}

// mayBePlan fails where a plan would take the place of something else than a file: of /dev/null, say, for the whole machine.
func mayBePlan(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return withHint(plain{fmt.Errorf("write plan %s: it is not a regular file: %w", path, errdefs.ErrInvalid)},
			"name a file that is new or may be replaced; --format json prints what would change")
	}
	return nil
}

func (p *program) savePlan(ctx context.Context, path string, ready prepared, plan api.Plan, live bool) error {
	file := planFile{
		Format: planFormat, Version: planVersion, MadeAt: p.now().UTC().Truncate(time.Second), Actor: p.actor(),
		Project: ready.project, StateDir: ready.location.StateDir, Cluster: ready.location.Cluster, Live: live, Base: plan.Base, Changes: plan.Changes,
		Warnings: plan.Warnings, Commit: commitOf(ctx, ready.project.WorkingDir, p.environ),
	}
	var err error
	if len(ready.contents) > 0 {
		file.Contents.Salt = make([]byte, 16)
		_, _ = rand.Read(file.Contents.Salt)
		if file.Contents.Digest, err = digestOf(file.Contents.Salt, ready.contents); err != nil {
			return fmt.Errorf("write plan %s: %w", path, err)
		}
	}
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return fmt.Errorf("write plan %s: %w", path, err)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".plan-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write plan %s: %w", path, err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(append(b, '\n'))
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write plan %s: %w", path, err)
	}
	return nil
}

// readPlan reads a plan file and refuses what is none, or of a later version.
func readPlan(path string) (planFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return planFile{}, fmt.Errorf("read plan: %w", err)
	}
	return decodePlan(path, b)
}

func decodePlan(path string, b []byte) (planFile, error) {
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil || head.Format != planFormat {
		return planFile{}, withHint(plain{fmt.Errorf("read plan %s: it is no plan: %w", path, errdefs.ErrInvalid)},
			"'trellis plan -o %s' writes one; to apply a Compose file use 'trellis up'", path)
	}
	if head.Version != planVersion {
		return planFile{}, withHint(plain{fmt.Errorf("read plan %s: version %d, and this trellis knows version %d: %w",
			path, head.Version, planVersion, errdefs.ErrInvalid)}, "make the plan again with this trellis")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var file planFile
	if err := dec.Decode(&file); err != nil {
		return planFile{}, plain{fmt.Errorf("read plan %s: %w: %w", path, err, errdefs.ErrInvalid)}
	}
	if file.Project.Name == "" || !filepath.IsAbs(file.StateDir) {
		return planFile{}, plain{fmt.Errorf("read plan %s: it is not whole: %w", path, errdefs.ErrInvalid)}
	}
	return file, nil
}

// matches says whether contents are those that were sealed.
func (s seal) matches(contents map[string][]byte) (bool, error) {
	if len(contents) == 0 || len(s.Digest) == 0 {
		return len(contents) == 0 && len(s.Digest) == 0, nil
	}
	digest, err := digestOf(s.Salt, contents)
	return err == nil && hmac.Equal(digest, s.Digest), err
}

func digestOf(salt []byte, contents map[string][]byte) ([]byte, error) {
	var all bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		for _, part := range [][]byte{[]byte(name), contents[name]} {
			_ = binary.Write(&all, binary.BigEndian, uint64(len(part)))
			all.Write(part)
		}
	}
	return pbkdf2.Key(sha256.New, all.String(), salt, sealRounds, sha256.Size)
}
