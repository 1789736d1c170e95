package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/errdefs"
	"trellis/proxy"
)

// TestSocketsMoveWithTheirNamespace: what is open already is not asked for again, but where its namespace is another one.
func TestSocketsMoveWithTheirNamespace(t *testing.T) {
	names := func(netns string) []proxy.Listener {
		return []proxy.Listener{{Name: "name/web-1", Address: "127.0.0.1:15088", Netns: netns}, {Name: "gateway", Address: "127.0.0.1:8080"}}
	}
	p := &plane{chosen: &addresses{}, asked: map[string]spot{}, bound: map[string]string{}}
	for _, step := range []struct {
		listeners    []proxy.Listener
		wanted, gone []string
	}{
		{names("/run/one"), []string{"name/web-1", "gateway"}, nil},
		{names("/run/one"), nil, nil},
		{names("/run/two"), []string{"name/web-1"}, nil},
		{names("/run/two")[1:], nil, []string{"name/web-1"}},
	} {
		wanted, gone := p.sockets(step.listeners)
		var asked []string
		for _, s := range wanted {
			asked = append(asked, s.Name)
			p.asked[s.Name], p.bound[s.Name] = spotOf(s), s.Address
		}
		if d := cmp.Diff([2][]string{step.wanted, step.gone}, [2][]string{asked, gone}); d != "" {
			t.Errorf("%+v: %s", step.listeners, d)
		}
	}
}

// TestDataPlaneThatHangs: one that takes connections and answers none holds up neither who asks how the project stands, nor who collects
// what the others measure; and nobody takes it for one that has nothing in flight.
func TestDataPlaneThatHangs(t *testing.T) {
	dir, err := os.MkdirTemp("", "plane") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := Location{Project: "shop", StateDir: dir, RuntimeDir: dir}
	listen := func(name string) net.Listener {
		listener, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		return listener
	}
	hangs := listen("proxy-1.sock")
	answers := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"pid":2}`)) }))
	_ = answers.Listener.Close()
	answers.Listener = listen("proxy-2.sock")
	answers.Start()
	t.Cleanup(answers.Close)
	listen("api.sock")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p := &plane{location: l}
	var all sync.WaitGroup
	for name, ask := range map[string]func() error{
		"in use": func() error {
			if _, _, err := p.InUse(ctx); !errors.Is(err, errdefs.ErrUnavailable) {
				return fmt.Errorf("what is in flight is known: %w", err)
			}
			return nil
		},
		"statuses": func() error {
			if found, _ := p.statuses(ctx); len(found) != 1 || found[0].PID != 2 {
				return fmt.Errorf("found %+v, want the one that answers", found)
			}
			return nil
		},
		"calls": func() error {
			if _, err := callsOf(ctx, localPlanes{l}, hangs.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("not out of time: %w", err)
			}
			return nil
		},
		"a control plane": func() error {
			if statusWithin(ctx, l, time.Second) != nil {
				return errors.New("it answered")
			}
			return nil
		},
	} {
		all.Go(func() {
			if err := ask(); err != nil || ctx.Err() != nil {
				t.Errorf("%s: %v, %v", name, err, ctx.Err())
			}
		})
	}
	all.Wait()
}
