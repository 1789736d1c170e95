//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStateDamagedWhileServicesRun: the control plane ends, and finds another state file than it left.
func TestStateDamagedWhileServicesRun(t *testing.T) {
	t.Parallel()
	f, port := newFault(t), freePort(t)
	p := newProject(t, map[string]string{"compose.yaml": shop(port, 2, "v1", ""), "ledger/.keep": ""})
	p.run("up", "-d")
	file := filepath.Join(p.dir, ".trellis", "shop", "state.db")
	damages := map[string]func(b []byte) []byte{
		"half of it":   func(b []byte) []byte { return b[:len(b)/2] },
		"nothing":      func([]byte) []byte { return nil },
		"a bit turned": func(b []byte) []byte { b[f.random.IntN(len(b))] ^= 1 << f.random.IntN(8); return b },
		"other bytes":  func(b []byte) []byte { return bytes.Repeat([]byte("rubbish "), len(b)/8) },
	}
	rounds := 1
	if long(t) {
		rounds = 10
	} else { // one of them
		names := slices.Sorted(maps.Keys(damages))
		kept := names[f.random.IntN(len(names))]
		maps.DeleteFunc(damages, func(name string, _ func([]byte) []byte) bool { return name != kept })
	}
	before := pids(p.ps())
	tr := f.underLoad(url(port), 100, func() {
		for range rounds {
			for what, damage := range damages {
				f.try(what, func() { p.damage(file, damage) })
				s := p.ps()
				if after := pids(s); fmt.Sprint(after) != fmt.Sprint(before) || s.Revision != 1 {
					t.Errorf("%s: instances %v, then %v; revision %d", what, before, after, s.Revision)
				}
			}
		}
	})
	tr.NoneLost(t)
	tr.Ledger(t, ledgers(t, filepath.Join(p.dir, "ledger", "web")))
	p.write("compose.yaml", shop(port, 2, "v2", ""))
	p.run("up", "-d")
	if v := version(t, port); v != "v2" {
		t.Errorf("version %q after a deploy", v)
	}
}

// damage puts something else into the state file, has the control plane start with it, and then does what trellis says.
func (p *project) damage(file string, how func([]byte) []byte) {
	p.t.Helper()
	pid := own(p.ps())["control"]
	signal(p.t, pid, "STOP")
	whole, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, how(whole), 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	signal(p.t, pid, "KILL")
	eventually(p.t, 30*time.Second, "the control plane back, or why not", func() string {
		out, err := p.try("up", "-d")
		if err == nil { // what was damaged is nothing that is needed
			return ""
		}
		_, remedy, ok := strings.Cut(out, "with no trellis running: ")
		if !ok {
			return out
		}
		remedy, _, _ = strings.Cut(remedy, "\n")
		if b, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
			p.t.Fatalf("%s: %v\n%s", remedy, err, b)
		}
		return "the copy is in its place"
	})
	p.back(map[string]int{"control": pid}, 2)
}
