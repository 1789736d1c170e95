// Package server builds every part of Trellis from its configuration and runs them in order. It is the only place that
// knows everyone: the control plane (Serve), the data plane (Proxy), and how a command line finds or starts them
// (Connect, Ensure).
package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"trellis/errdefs"
)

// Location says where a project keeps what it has: durable things in StateDir, sockets and pids in RuntimeDir.
type Location struct {
	Project    string `json:"project"`
	WorkingDir string `json:"working_dir"` // the project directory, absolute
	StateDir   string `json:"state_dir"`
	RuntimeDir string `json:"runtime_dir"`
	// Files are the Compose files the project was brought up from last, for `trellis ls`.
	Files []string `json:"files,omitempty"`
	// Copy is the name after --copy, "" where the project is none: it is the end of Project.
	Copy string `json:"copy,omitempty"`
	// Environment is the name after --environment, "" where there is none.
	Environment string `json:"environment,omitempty"`
	// Cluster says where the project runs that does not run on this machine; nil: it does.
	Cluster *Cluster `json:"-"`
	// Origins tell the checkouts of one repository, see copies. They are found out when the project is started.
	Origins []string `json:"origins,omitempty"`
	// Authority is the AuthorityDir of whoever started the project; it is found out then too.
	Authority string `json:"authority,omitempty"`
}

// Locate returns where the project of that name in workingDir keeps its state: in stateDir if that is not empty,
// otherwise in .trellis/PROJECT beside the file. It makes nothing.
func Locate(project, workingDir, stateDir string) (Location, error) {
	if project == "" || filepath.Base(project) != project {
		return Location{}, fmt.Errorf("locate project %q: %w: not a project name", project, errdefs.ErrInvalid)
	}
	workingDir, err := filepath.Abs(workingDir)
	if err != nil {
		return Location{}, fmt.Errorf("locate project %s: %w", project, err)
	}
	if stateDir == "" {
		stateDir = filepath.Join(workingDir, ".trellis", project)
	}
	if stateDir, err = filepath.Abs(stateDir); err != nil {
		return Location{}, fmt.Errorf("locate project %s: %w", project, err)
	}
	// One state directory is one project, whatever path leads to it.
	if real, err := filepath.EvalSymlinks(stateDir); err == nil {
		stateDir = real
	}
	sum := sha256.Sum256([]byte(stateDir))
	return Location{
		Project: project, WorkingDir: workingDir, StateDir: stateDir,
		RuntimeDir: filepath.Join(runtimeRoot(), hex.EncodeToString(sum[:6])),
	}, nil
}

// runtimeRoot is short, because the path of a unix socket may have 107 bytes.
func runtimeRoot() string {
	if os.Geteuid() == 0 {
		return "/run/trellis"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && len(dir) < 40 {
		return filepath.Join(dir, "trellis")
	}
	return filepath.Join("/tmp", "trellis-"+strconv.Itoa(os.Geteuid()))
}

func (l Location) apiSocket() string    { return filepath.Join(l.RuntimeDir, "api.sock") }
func (l Location) holderSocket() string { return filepath.Join(l.RuntimeDir, "holder.sock") }
func (l Location) registration() string { return filepath.Join(l.RuntimeDir, "project.json") }
func (l Location) log() string          { return filepath.Join(l.StateDir, "trellis.log") }
func (l Location) contents() string     { return filepath.Join(l.StateDir, "contents") }

// dataPlanes returns the status sockets of every data plane that serves, and of some that have ended.
func (l Location) dataPlanes() ([]string, error) {
	return filepath.Glob(filepath.Join(l.RuntimeDir, "proxy-*.sock"))
}

// Artifacts is the folder of the artefact store, which the command line fills.
func (l Location) Artifacts() string { return filepath.Join(l.StateDir, "artifacts") }

// TLS is the folder of the certificates that were issued for the gateway.
func (l Location) TLS() string { return filepath.Join(l.StateDir, "tls") }

// Identities is the folder of the certificates of services, and IdentityAuthority that of who issues them.
func (l Location) Identities() string { return filepath.Join(l.StateDir, "identity", "issued") }
func (l Location) IdentityAuthority() string {
	return filepath.Join(l.StateDir, "identity", "authority")
}

// Watched is the folder of the copies of artefacts that the command line writes to while it watches.
func (l Location) Watched() string { return filepath.Join(l.StateDir, "watched") }

// prepare makes the two folders and what lies in them from the start.
func (l Location) prepare() error {
	if l.Copy == "" {
		l.Copy = l.remembered().Copy // of a copy that is named with -p
	}
	l.Origins = origins(l.WorkingDir)
	l.Authority, _ = AuthorityDir() // without a home there is none, which is said where one is needed
	if err := private(filepath.Dir(l.RuntimeDir)); err != nil {
		return err
	}
	if err := private(l.RuntimeDir); err != nil {
		return err
	}
	if err := private(l.StateDir); err != nil {
		return err
	}
	if err := ignored(l); err != nil {
		return err
	}
	if err := writeJSON(l.registration(), l); err != nil {
		return fmt.Errorf("register project %s: %w", l.Project, err)
	}
	_ = l.remember() // a home that cannot be written keeps no project from running
	return nil
}

// withdraw undoes in the runtime directory what prepare did for a start that came to nothing. Where something else lies in it, as of
// instances that outlived everything, all of it stays.
func (l Location) withdraw() {
	if left, err := os.ReadDir(l.RuntimeDir); err == nil && len(left) == 1 && left[0].Name() == filepath.Base(l.registration()) {
		_ = os.RemoveAll(l.RuntimeDir)
	}
}

// ignored keeps the state beside the file out of version control.
func ignored(l Location) error {
	if parent := filepath.Dir(l.StateDir); filepath.Base(parent) == ".trellis" {
		ignore := filepath.Join(parent, ".gitignore")
		if _, err := os.Stat(ignore); errors.Is(err, fs.ErrNotExist) {
			if err := os.WriteFile(ignore, []byte("*\n"), 0o644); err != nil {
				return fmt.Errorf("keep state out of version control: %w", err)
			}
		}
	}
	return nil
}

// private makes dir with mode 0700 and refuses one that belongs to somebody else: whoever owns it could swap what lies
// in it.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return ours(dir)
}

// ours refuses what is no directory, and one that belongs to somebody else.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("use %s: %w: not a directory", dir, errdefs.ErrInvalid)
	}
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() {
		return fmt.Errorf("use %s: %w: it belongs to user %d; have it removed, or choose another folder: for state with --state, for sockets with XDG_RUNTIME_DIR",
			dir, errdefs.ErrConflict, owner)
	}
	return nil
}

// registered returns every project that has a runtime directory here, whether or not it runs.
func registered() ([]Location, error) {
	names, err := filepath.Glob(filepath.Join(runtimeRoot(), "*", "project.json"))
	if err != nil {
		return nil, err
	}
	var all []Location
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // gone between the two calls
		}
		var l Location
		if json.Unmarshal(b, &l) == nil && l.registration() == name {
			all = append(all, l)
		}
	}
	return all, nil
}
