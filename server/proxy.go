package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"trellis/errdefs"
	"trellis/holder"
	"trellis/proxy"
)

// Proxy is the data plane of the project registered in file. It is started by the holder and blocks until ctx is done
// and what was in flight has ended, or the holder is gone.
func Proxy(ctx context.Context, file string, log *slog.Logger) error {
	l, err := readLocation(file)
	if err != nil {
		return err
	}
	log = log.With("project", l.Project)
	client, err := holder.Dial(ctx, l.holderSocket())
	if err != nil {
		return fmt.Errorf("serve traffic of %s: %w", l.Project, err)
	}
	defer client.Close()
	if err := client.Hello(ctx, holder.RoleDataPlane); err != nil {
		return fmt.Errorf("serve traffic of %s: %w", l.Project, err)
	}
	l.removeStale()
	p := proxy.New(proxy.Config{
		Feed:      &feed{client: client, log: log},
		Status:    filepath.Join(l.RuntimeDir, "proxy-"+strconv.Itoa(os.Getpid())+".sock"),
		Log:       log,
		Without:   without(os.Getenv(withoutEnv), log),
		AccessLog: &accessLog{path: filepath.Join(l.StateDir, "access.log"), most: maxAccessLog},
	})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-client.Done():
			log.Error("the holder is gone; ending")
			cancel()
		case <-ctx.Done():
		}
	}()
	return p.Run(ctx)
}

// removeStale removes the status sockets of data planes that were killed.
func (l Location) removeStale() {
	sockets, _ := l.dataPlanes()
	for _, socket := range sockets {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(socket), "proxy-%d.sock", &pid); err != nil {
			continue
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(socket)
		}
	}
}

// feed makes the data plane's updates of what the holder says.
type feed struct {
	client *holder.Client
	log    *slog.Logger
}

// Follow implements proxy.Feed.
func (f *feed) Follow(ctx context.Context, update func(proxy.Update)) error {
	return f.client.Follow(ctx, func(e holder.Event) error {
		u := proxy.Update{Sockets: e.Sockets, Closed: e.Closed, ControlPlaneAway: e.ControlPlaneAway}
		if len(e.Snapshot) > 0 {
			var s proxy.Snapshot
			if err := json.Unmarshal(e.Snapshot, &s); err != nil {
				return fmt.Errorf("read snapshot: %w: %w", errdefs.ErrInvalid, err)
			}
			u.Snapshot = &s
		}
		update(u)
		return nil
	})
}

// withoutEnv names, with commas between, what the data plane is to do without: "hold", "retry". It is for tests that show
// what these are worth.
const withoutEnv = "TRELLIS_WITHOUT"

func without(words string, log *slog.Logger) (w proxy.Without) {
	for word := range strings.SplitSeq(words, ",") {
		switch word {
		case "":
			continue
		case "hold":
			w.Hold = true
		case "retry":
			w.Retry = true
		}
		log.Warn("a mechanism is switched off", "mechanism", word)
	}
	return w
}
