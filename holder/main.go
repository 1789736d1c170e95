package holder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The files in Config.Dir.
const (
	socketFile = "holder.sock"
	pidFile    = "holder.pid"
	configFile = "holder.json"
)

// Main is the program: its argument is the file of the Config. It blocks until it is told to end, by Client.Stop,
// SIGTERM or SIGINT, and returns the exit code. Standard error should be Config.Log.
func Main(args []string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if len(args) > 0 && args[0] == "hold" {
		args = args[1:]
	}
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: trellis-shim hold FILE")
		return 64
	}
	return exitCode(hold(args[0], defaultTiming(), log), log)
}

func exitCode(err error, log *slog.Logger) int {
	switch {
	case errors.Is(err, errHeld): // whoever started this one finds the other: nothing is wrong
		log.Info("holder not needed", "err", err)
		return exitHeld
	case err != nil:
		log.Error("holder ended", "err", err)
		return 1
	}
	return 0
}

// errHeld says that the project has a holder; the process ends with exitHeld then.
var errHeld = errors.New("it has a holder already")

const exitHeld = 75 // EX_TEMPFAIL of sysexits.h

func hold(file string, times timing, log *slog.Logger) error {
	detach()
	cfg, err := readConfig(file)
	if err != nil {
		return err
	}
	log = log.With("project", cfg.Project)
	lock, err := takeLock(cfg)
	if err != nil {
		return err
	}
	p := &presence{cfg: cfg, log: log, lock: lock}
	defer func() { p.lock.Close() }()
	output, err := os.OpenFile(cfg.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer output.Close()
	if err := p.listen(); err != nil {
		return err
	}
	if err := p.keep(); err != nil {
		return err
	}
	newHolder(cfg, times, output, log).run(p, times.look)
	return nil
}

// run serves and keeps the programs running until it is told to stop, and returns when all has ended.
func (h *holder) run(p *presence, every time.Duration) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGHUP)
	var all sync.WaitGroup
	all.Go(h.control.run)
	all.Go(h.data.run)
	accept := func() {
		l := p.listener
		all.Go(func() { h.accept(l) })
	}
	accept()
	h.log.Info("holder started", "pid", os.Getpid())
	rotate := time.NewTicker(rotateEvery)
	defer rotate.Stop()
	look := time.NewTicker(every)
	defer look.Stop()
	displaced := false
	for running := true; running; {
		select {
		case <-signals:
			h.stop()
		case <-rotate.C:
			if err := rotateLog(p.cfg.Log); err != nil {
				h.log.Error("log is not rotated", "err", err)
			}
		case <-look.C:
			anew, err := p.look()
			if displaced = errors.Is(err, errHeld); displaced {
				h.log.Error("the runtime directory was removed, and another holder has begun in this one's place: this one ends", "err", err)
				h.stop()
				continue
			}
			p.tell(err)
			if anew {
				h.log.Warn("the runtime directory was removed and is made again; control plane and data plane are started anew for their sockets", "dir", p.cfg.Dir)
				accept()
				go h.control.again()
				go h.data.again()
			}
		case <-h.stopping:
			running = false
		}
	}
	close(h.control.stop)
	close(h.data.stop)
	<-h.control.ended
	<-h.data.ended
	h.sockets.closeAll()
	// As long as the socket is there a Start is told to wait; when it is not, nothing of this holder is.
	p.leave(displaced)
	all.Wait()
	h.log.Info("holder stopped")
	close(h.stopped)
}

// stop makes run end.
func (h *holder) stop() { h.stopOnce.Do(func() { close(h.stopping) }) }

func (s *sockets) closeAll() {
	s.mu.Lock()
	names := make([]string, 0, len(s.byName))
	for name := range s.byName {
		names = append(names, name)
	}
	s.mu.Unlock()
	s.close(names)
}

// detach lets go of whatever this process was started with: the session, the directory, and files that were left open
// by mistake, one of which could be the write end of a pipe that someone reads to its end.
func detach() {
	_, _ = unix.Setsid() // fails where this is a session's leader already
	unix.Umask(0o077)
	_ = os.Chdir("/")
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // no /proc, as on macOS: the caller's care alone
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		// Everything that Go opens is closed on exec; what came over an exec is not.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

func readConfig(file string) (Config, error) {
	var cfg Config
	b, err := os.ReadFile(file)
	if err != nil {
		return cfg, fmt.Errorf("read config: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&cfg); err != nil {
		return cfg, fmt.Errorf("read config %s: %w", file, err)
	}
	return cfg, cfg.validate()
}

func (c Config) validate() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("config: dir %q is not an absolute path", c.Dir)
	case !filepath.IsAbs(c.Log):
		return fmt.Errorf("config: log %q is not an absolute path", c.Log)
	case len(c.ControlPlane) == 0 || c.ControlPlane[0] == "":
		return errors.New("config: control_plane is empty")
	case len(c.DataPlane) == 0 || c.DataPlane[0] == "":
		return errors.New("config: data_plane is empty")
	case len(filepath.Join(c.Dir, socketFile)) > maxSocketPath:
		return fmt.Errorf("config: dir %q is too long for a unix socket in it: %d bytes at most", c.Dir, maxSocketPath-len(socketFile)-1)
	}
	return nil
}

// maxSocketPath is what sockaddr_un holds on every system, without its final zero.
const maxSocketPath = 103

// takeLock makes this process the project's only holder. The lock is the file's flock: it ends with the process,
// however it ends; the number in the file is for people.
func takeLock(cfg Config) (*os.File, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("take the lock: %w", err)
	}
	path := filepath.Join(cfg.Dir, pidFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("take the lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			pid, _ := io.ReadAll(io.LimitReader(f, 32))
			f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
			return nil, fmt.Errorf("project %s: %w: pid %s holds %s", cfg.Project, errHeld, strings.TrimSpace(string(pid)), path)
		}
		// A holder that stops removes the file: the one that is locked may not be the one that others find.
		mine, err := f.Stat()
		if there, thereErr := os.Stat(path); err == nil && thereErr == nil && os.SameFile(mine, there) {
			err := f.Truncate(0)
			if err == nil {
				_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
			}
			if err != nil {
				f.Close()
				return nil, fmt.Errorf("write %s: %w", path, err)
			}
			return f, nil
		}
		f.Close()
	}
}

// listenUnix listens at path in place of a holder that was killed: the lock says that there is no other.
func listenUnix(path string) (*net.UnixListener, error) {
	if err := remove(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
