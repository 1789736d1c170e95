// Package boot makes a program part of the machine's start: it writes, enables and removes systemd units. It knows
// nothing of projects; what a unit runs is given to it.
package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"trellis/errdefs"
)

// Host is where units are installed: the machine's systemd, or that of one user.
type Host struct {
	User bool
	Dir  string // of unit files; absolute
	// Booted is a path that exists where systemd runs this machine (sd_booted(3)).
	Booted string
	// Linger is the file that exists where the user's units run without a session; "" for the machine's.
	Linger string
}

// Machine returns the host for this user: the machine's systemd for root, otherwise the user's own, whose configuration
// is in config.
func Machine(uid int, user, config string) Host {
	h := Host{Dir: "/etc/systemd/system", Booted: "/run/systemd/system"}
	if uid != 0 {
		h.User, h.Dir = true, filepath.Join(config, "systemd", "user")
		h.Linger = filepath.Join("/var/lib/systemd/linger", user)
	}
	return h
}

// State is what is known of an installed unit.
type State struct {
	File    string // its path, which may not exist
	There   bool
	Same    bool   // it is as it would be written now
	Enabled bool   // systemd starts it
	Active  string // systemd's word: active, inactive, failed; "" unknown
	// Lingers says that it starts with the machine, and not only when its user logs in.
	Lingers bool
}

// ErrNoSystemd says that systemd does not run this machine.
var ErrNoSystemd = fmt.Errorf("systemd does not run this machine: %w", errdefs.ErrUnsupported)

// Enable writes the unit and has systemd start it now and with the machine. Doing it again changes nothing. A file of
// that name that this package has not written: ErrConflict. No systemd: ErrNoSystemd, and nothing is written.
func (h Host) Enable(ctx context.Context, u Unit) error {
	if _, err := os.Stat(h.Booted); err != nil {
		return fmt.Errorf("enable %s: %w", u.Name, ErrNoSystemd)
	}
	text, err := u.text(h.User)
	if err != nil {
		return fmt.Errorf("enable %s: %w", u.Name, err)
	}
	file := h.file(u.Name)
	have, err := h.own(file)
	if err != nil {
		return fmt.Errorf("enable %s: %w", u.Name, err)
	}
	if !bytes.Equal(have, text) {
		if err := write(file, text); err != nil {
			return fmt.Errorf("enable %s: %w", u.Name, err)
		}
		if _, err := h.systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	_, err = h.systemctl(ctx, "enable", "--now", u.Name)
	return err
}

// Disable takes back what Enable did; what the unit has started goes on. Nothing of that name: false.
func (h Host) Disable(ctx context.Context, name string) (was bool, err error) {
	file := h.file(name)
	have, err := h.own(file)
	if err != nil {
		return false, fmt.Errorf("disable %s: %w", name, err)
	}
	if have == nil {
		return false, nil
	}
	_, booted := os.Stat(h.Booted)
	if booted == nil {
		// Not --now: that would stop what runs.
		if _, err := h.systemctl(ctx, "disable", name); err != nil {
			return true, err
		}
	}
	if err := os.Remove(file); err != nil {
		return true, fmt.Errorf("disable %s: %w", name, err)
	}
	if booted != nil {
		return true, nil
	}
	_, err = h.systemctl(ctx, "daemon-reload")
	return true, err
}

// Look says how the unit stands.
func (h Host) Look(ctx context.Context, u Unit) (State, error) {
	s := State{File: h.file(u.Name), Lingers: h.Linger == ""}
	have, err := h.own(s.File)
	if err != nil {
		return s, err
	}
	text, err := u.text(h.User)
	if err != nil {
		return s, err
	}
	s.There, s.Same = have != nil, bytes.Equal(have, text)
	if h.Linger != "" {
		_, err := os.Stat(h.Linger)
		s.Lingers = err == nil
	}
	if _, err := os.Stat(h.Booted); err != nil || !s.There {
		return s, nil
	}
	// Both print one word and fail for every word but one.
	word, _ := h.systemctl(ctx, "is-enabled", u.Name)
	s.Enabled = word == "enabled"
	s.Active, _ = h.systemctl(ctx, "is-active", u.Name)
	return s, nil
}

func (h Host) file(name string) string { return filepath.Join(h.Dir, name) }

// own reads a file that this package has written; nil where there is none.
func (h Host) own(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte(mark)) {
		return nil, fmt.Errorf("%w: %s was not written by Trellis; move it away first", errdefs.ErrConflict, file)
	}
	return b, nil
}

func write(file string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".trellis-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (h Host) systemctl(ctx context.Context, args ...string) (string, error) {
	if h.User {
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(trouble.String()))
	}
	return strings.TrimSpace(out.String()), err
}
