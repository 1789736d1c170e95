package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"

	"trellis/api"
	"trellis/console"
	"trellis/proxy"
)

// consoleSocket is the socket of the web console. Only this machine reaches it: whoever wants to look from elsewhere comes
// through a tunnel, which has made sure of who they are.
var consoleSocket = proxy.Listener{Name: "console", Address: "127.0.0.1:0"}

// consoleDoor is what is known of the console before and while it listens.
type consoleDoor struct {
	key     string
	address atomic.Pointer[string]
}

// url is where the console answers, "" while it does not.
func (d *consoleDoor) url() string {
	if address := d.address.Load(); address != nil {
		return "http://" + *address
	}
	return ""
}

// consoleKey returns what lets a browser in, made with the project's state and kept beside it. Removing the file and
// restarting the control plane ends every session.
func (l Location) consoleKey() (string, error) {
	file := filepath.Join(l.StateDir, "console.key")
	b, err := os.ReadFile(file)
	if key := strings.TrimSpace(string(b)); err == nil && len(key) >= 32 {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the console's key: %w", err)
	}
	key := rand.Text() + rand.Text() // 260 bits
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the console's key: %w", err)
	}
	return key, nil
}

// serveConsole serves the web console. One that cannot be served is said in the log and keeps nothing else from running.
func (s *controlPlane) serveConsole(ctx context.Context) error {
	handler, err := console.New(console.Config{
		API: api.Handler(s.control, s.log), Key: s.control.console.key, Project: s.location.Project, Actor: owner() + ", in the console",
		Log: s.log,
	})
	if err != nil {
		return fmt.Errorf("serve the console: %w", err)
	}
	listener, err := s.control.plane.own(ctx, consoleSocket)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("the console is not served", "err", err)
		}
		return nil
	}
	address := listener.Addr().String()
	s.control.console.address.Store(&address)
	s.control.changed.wake()
	return serveHTTP(ctx, listener, handler, s.log)
}

// owner is who runs the control plane: user@host.
func owner() string {
	name, host := "someone", "here"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}
