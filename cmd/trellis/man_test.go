package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// manDir is where TestManPages leaves what it wrote. The pages are made here and not by a command, so that the program
// does not carry what turns text into roff.
var manDir = flag.String("man", "", "write the man pages into this folder")

func TestManPages(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	}
	root := newProgram(newFake(t.TempDir())).root()
	for _, cmd := range append(everyCommand(root), root) {
		// Text is read as Markdown: what stands in columns has to stay so, and a flag's default is not a link.
		cmd.Long = strings.NewReplacer("<", `\<`, "_", `\_`, "*", `\*`).Replace(cmd.Long)
		cmd.Flags().VisitAll(func(f *pflag.Flag) { f.Usage = strings.ReplaceAll(f.Usage, "`", "") })
	}
	header := &doc.GenManHeader{Title: "TRELLIS", Section: "1", Source: "Trellis", Manual: "Trellis"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range everyCommand(root) {
		name := filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1")
		page, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, section := range []string{".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH EXAMPLE"} {
			if !strings.Contains(string(page), section) {
				t.Errorf("%s has no %s", filepath.Base(name), section)
			}
		}
	}
}
