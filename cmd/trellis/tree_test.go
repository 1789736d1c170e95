package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/engine"
)

// exampleView has a service in every state.
func exampleView() treeView {
	return treeView{
		Title: "evergreen r8", Elapsed: 12400 * time.Millisecond, Frame: 2,
		Services: []engine.Service{
			{Name: "catalog", State: engine.ServiceDegraded, Want: 3, Ready: 2, Reason: "GET /healthz: 503 warming up the cache of all courses", Instances: []engine.Instance{
				{Slot: 1, State: engine.InstanceReady, Ready: true},
				{Slot: 2, State: engine.InstanceUnready, Restarts: 2, Probe: "GET /healthz: 503 warming up the cache of all courses"},
				{Slot: 3, State: engine.InstanceReady, Ready: true},
			}},
			{Name: "db", State: engine.ServiceHealthy, Want: 1, Ready: 1},
			{Name: "identity", State: engine.ServiceStarting, Want: 1, Instances: []engine.Instance{
				{Slot: 1, State: engine.InstanceStarting, Probe: "connection refused\x1b]0;title\x07\n\x1b[2J"},
			}},
			{Name: "migrate", State: engine.ServiceCompleted, Want: 1},
			{Name: "notification-dispatcher", State: engine.ServiceCrashLooping, Want: 1, Reason: "exit code 2, 4 restarts: 設定が見つかりません"},
			{Name: "report", State: engine.ServiceFailed, Want: 1, Reason: "killed for want of memory"},
			{Name: "web", State: engine.ServiceStopped},
		},
		Took: map[string]time.Duration{
			"catalog": 12400 * time.Millisecond, "db": 2100 * time.Millisecond, "identity": 3 * time.Minute,
			"migrate": 300 * time.Millisecond, "notification-dispatcher": 8 * time.Second, "report": time.Hour,
		},
	}
}

func TestTreeLines(t *testing.T) {
	for _, size := range []struct{ width, height int }{{120, 24}, {80, 24}, {40, 40}, {80, 8}, {80, 5}, {12, 10}} {
		name := fmt.Sprintf("%dx%d", size.width, size.height)
		t.Run(name, func(t *testing.T) {
			lines := exampleView().lines(fitting{width: size.width, height: size.height})
			golden(t, filepath.Join("testdata", "tree", name+".txt"), strings.Join(lines, "\n")+"\n")
		})
	}
}

// TestTreeFits shows the tree at every size: no line is wider, and no picture higher, than there is room for.
func TestTreeFits(t *testing.T) {
	for _, s := range []style{{}, {color: true}, {ascii: true}} {
		for width := 1; width <= 130; width++ {
			for height := 2; height <= 30; height += 3 {
				lines := exampleView().lines(fitting{width, height, s})
				if len(lines) > height {
					t.Errorf("%dx%d: %d lines", width, height, len(lines))
				}
				for _, line := range lines {
					if got := columns(unpainted(line)); got > width {
						t.Errorf("%dx%d: %d columns: %q", width, height, got, line)
					}
				}
			}
		}
	}
}

func TestTreeHasNoForeignControlCharacters(t *testing.T) {
	text := strings.Join(exampleView().lines(fitting{width: 120, height: 40}), "")
	if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		t.Errorf("control character in %q", text[i:])
	}
}

// golden compares text with a file, which -update writes.
func golden(t *testing.T, file, text string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// glass is a terminal of a fixed width that understands what screen writes: rows of text and a cursor.
type glass struct {
	width int
	rows  []string
	row   int
	col   int
}

func (g *glass) Write(b []byte) (int, error) {
	for text := string(b); text != ""; {
		switch {
		case strings.HasPrefix(text, "\x1b["):
			end := strings.IndexAny(text, "AKJ")
			var n int
			_, _ = fmt.Sscanf(text[2:], "%d", &n)
			switch text[end] {
			case 'A':
				g.row = max(0, g.row-n)
			case 'K':
				g.rows[g.row] = cut(g.rows[g.row], g.col)
			case 'J':
				g.rows[g.row] = cut(g.rows[g.row], g.col)
				g.rows = g.rows[:g.row+1]
			}
			text = text[end+1:]
		case text[0] == '\n':
			g.row, g.col = g.row+1, 0
			g.grow()
			text = text[1:]
		case text[0] == '\r':
			g.col = 0
			text = text[1:]
		default:
			if g.col == g.width {
				g.row, g.col = g.row+1, 0
			}
			g.grow()
			line := g.rows[g.row]
			line += strings.Repeat(" ", max(0, g.col-len(line)))
			g.rows[g.row] = line[:g.col] + text[:1] + cutFrom(line, g.col+1)
			g.col++
			text = text[1:]
		}
	}
	return len(b), nil
}

func (g *glass) grow() {
	for len(g.rows) <= g.row {
		g.rows = append(g.rows, "")
	}
}

func cut(s string, n int) string     { return s[:min(n, len(s))] }
func cutFrom(s string, n int) string { return s[min(n, len(s)):] }

// resize wraps the rows that do not fit any more, as terminals do.
func (g *glass) resize(width int) {
	var rows []string
	for _, row := range g.rows {
		for len(row) > width {
			rows = append(rows, row[:width])
			row = row[width:]
		}
		rows = append(rows, row)
	}
	g.rows, g.row, g.width = rows, len(rows)-1, width
}

// TestScreenRedraws draws pictures over each other on a terminal that becomes narrower in between: nothing of an earlier
// one may be left, and nothing above it may be lost.
func TestScreenRedraws(t *testing.T) {
	g := &glass{width: 40, rows: []string{""}}
	s := &screen{w: g, size: func() (int, int) { return g.width, 24 }}
	fmt.Fprintf(g, "$ trellis up\n")
	s.draw([]string{"one " + strings.Repeat("x", 30), "two", "three"})
	s.draw([]string{"ONE", "TWO " + strings.Repeat("y", 36)})
	g.resize(20)
	s.draw([]string{"first", "second"})
	want := []string{"$ trellis up", "first", "second", ""}
	if diff := cmp.Diff(want, g.rows); diff != "" {
		t.Errorf("terminal (-want +got):\n%s", diff)
	}
	s.clear()
	fmt.Fprintf(g, "done\n")
	if diff := cmp.Diff([]string{"$ trellis up", "done", ""}, g.rows); diff != "" {
		t.Errorf("after clear (-want +got):\n%s", diff)
	}
}
