package compose

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCommandsAreReplaced: a command of x-trellis is replaced as a whole by one that is laid over it, as those of Compose are. What the
// file adds to other lists stays an addition.
func TestCommandsAreReplaced(t *testing.T) {
	dir := write(t, map[string]string{
		"compose.yaml": `services:
  web:
    x-trellis:
      process: {command: [bin/web, --verbose, --cache, "10"], artifacts: [bin/web]}
      backup: {command: [dump, --all], restore: [put, back]}
  db: {image: pg, x-trellis: {backup: [pg_dump, shop]}}
`,
		"compose.override.yaml": `services:
  web:
    x-trellis:
      process: {command: [bin/web, --cache, "10", --port, "10"], artifacts: [static]}
      backup: {command: [dump], restore: [put, --now]}
  db: {x-trellis: {backup: [pg_dumpall]}}
`,
		"c.yaml": "services: {web: {extends: {file: compose.yaml, service: web}, x-trellis: {process: {command: [bin/other]}}}}\n",
	})
	type commands struct {
		Process, Artifacts      []string
		Dump, Restore, Database ShellCommand
	}
	for name, c := range map[string]struct {
		files []string
		want  commands
	}{
		"override": {nil, commands{
			[]string{"bin/web", "--cache", "10", "--port", "10"}, []string{"bin/web", "static"},
			ShellCommand{"dump"}, ShellCommand{"put", "--now"}, ShellCommand{"pg_dumpall"}}},
		"extends": {[]string{"c.yaml"}, commands{
			[]string{"bin/other"}, []string{"bin/web"}, ShellCommand{"dump", "--all"}, ShellCommand{"put", "back"}, nil}},
	} {
		p, _, err := Load(context.Background(), Options{WorkingDir: dir, Files: c.files, Environ: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		web := p.Services["web"].Trellis
		got := commands{web.Process.Command, web.Process.Artifacts, web.Backup.Command, web.Backup.Restore, nil}
		if b := p.Services["db"].Trellis.Backup; b != nil {
			got.Database = b.Command
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
