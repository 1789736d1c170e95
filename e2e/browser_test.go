//go:build e2e && browser

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEvergreenInABrowser has Chromium look at every page and error page. PICTURES is where it leaves them.
func TestEvergreenInABrowser(t *testing.T) {
	needPrograms(t, "node", "npm", "chromium", "python3")
	pictures := os.Getenv("PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	tools := browserTools(t)
	e := newEvergreen(t)
	e.flags = append(e.flags, "--profile", "polyglot")
	e.run("up", "-d", "--yes")
	away := filepath.Join(tools, "away.sh")
	script := "#!/bin/sh\ncd " + e.dir + " && exec " + e.trellis + " -f compose.yaml -f ports.yaml --profile polyglot stop content\n"
	if err := os.WriteFile(away, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	runIn(t, tools, "node", "check.mjs", e.url, pictures, away)
}
