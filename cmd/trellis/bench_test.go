package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"trellis/compose"
)

// BenchmarkGarbage is what it costs to read a file of 500 services, with as much garbage as Go has by itself, and with as much
// as a command has.
func BenchmarkGarbage(b *testing.B) {
	var text strings.Builder
	text.WriteString("name: bench\nservices:\n")
	for i := range 500 {
		fmt.Fprintf(&text, "  s%d: {image: x, environment: {A: \"1\", PORT: \"8080\"}, expose: [\"8080\"], x-trellis: {probe: {http: /up}}}\n", i)
	}
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, percent := range []int{100, commandGarbage} {
		b.Run(fmt.Sprintf("%d%%", percent), func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(percent))
			for b.Loop() {
				if _, _, err := compose.Load(b.Context(), compose.Options{WorkingDir: dir, Environ: []string{}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
