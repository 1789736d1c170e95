package holder

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// presence is what a holder is found by: its lock and its socket in the runtime directory. Whoever cleans up a machine may remove them:
// systemd removes a user's runtime directory with the last session, and from /tmp what nobody has touched for days. A holder that is not
// found serves on, and nobody could see the project, or stop it.
type presence struct {
	cfg      Config
	log      *slog.Logger
	lock     *os.File
	listener *net.UnixListener
	socket   fs.FileInfo       // of listener
	kept     map[string][]byte // the files that the programs are started with
	trouble  string            // that was logged last
}

// maxKept bounds a file that is kept.
const maxKept = 1 << 20

func (p *presence) path(name string) string { return filepath.Join(p.cfg.Dir, name) }

// listen makes the socket. The lock says that there is no other holder.
func (p *presence) listen() error {
	l, err := listenUnix(p.path(socketFile))
	if err != nil {
		return err
	}
	if p.socket, err = os.Lstat(p.path(socketFile)); err != nil {
		l.Close()
		return fmt.Errorf("listen: %w", err)
	}
	p.listener = l
	return nil
}

// look makes up for what was removed. anew says that the socket was among it, and with it those of the programs. Another holder has begun
// in the place of this one: errHeld.
func (p *presence) look() (anew bool, err error) {
	if there, err := os.Lstat(p.path(socketFile)); err == nil && os.SameFile(there, p.socket) {
		return false, p.keep()
	}
	if err := p.claim(); err != nil {
		return false, err
	}
	old := p.listener
	if err := p.listen(); err != nil {
		return false, err
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	return true, p.keep()
}

// claim takes the lock again where its file was removed.
func (p *presence) claim() error {
	mine, err := p.lock.Stat()
	if there, terr := os.Stat(p.path(pidFile)); err == nil && terr == nil && os.SameFile(mine, there) {
		return nil
	}
	if err := os.MkdirAll(p.cfg.Dir, 0o700); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(p.cfg.Dir), p.cfg.Dir} {
		if err := own(dir); err != nil {
			return err
		}
	}
	lock, err := takeLock(p.cfg)
	if err != nil {
		return err
	}
	p.lock.Close()
	p.lock = lock
	return nil
}

// own refuses a directory that somebody else made meanwhile, or could change.
func own(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || ok && int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("use %s: it is not this user's own directory", dir)
	}
	return nil
}

// keep remembers the files that the programs are started with, and writes those again that are gone.
func (p *presence) keep() error {
	if p.kept == nil {
		p.kept = map[string][]byte{}
	}
	var errs []error
	for _, name := range append([]string{configFile}, p.cfg.Keep...) {
		info, err := os.Lstat(p.path(name))
		switch known, ok := p.kept[name]; {
		case err == nil && info.Mode().IsRegular() && info.Size() <= maxKept:
			b, err := os.ReadFile(p.path(name))
			if err == nil && len(b) > 0 {
				p.kept[name] = b
			}
			errs = append(errs, err)
		case errors.Is(err, fs.ErrNotExist) && ok:
			errs = append(errs, writeFile(p.cfg.Dir, name, known))
		}
	}
	return errors.Join(errs...)
}

// tell logs what goes wrong, once.
func (p *presence) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != p.trouble && text != "" {
		p.log.Error("the runtime directory was removed and cannot be made again yet; until then nobody finds this project", "dir", p.cfg.Dir, "err", err)
	}
	p.trouble = text
}

// leave gives up what the holder is found by: all of it, or where another one has its place nothing that is there.
func (p *presence) leave(displaced bool) {
	if displaced {
		p.listener.SetUnlinkOnClose(false)
	} else {
		for _, file := range []string{configFile, pidFile} {
			if err := remove(p.path(file)); err != nil {
				p.log.Error("file is left", "err", err)
			}
		}
	}
	p.listener.Close() // removes its file
}
