package kubernetes

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"trellis/compose"
)

// TestFolderByALink: what a bind mount of the project holds goes along also where its path is a link to the folder or the file.
func TestFolderByALink(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "shared", "sites"), 0o700), os.WriteFile(filepath.Join(dir, "shared", "sites", "web.conf"), []byte("listen"), 0o600),
		os.Symlink("shared", filepath.Join(dir, "conf")), os.Symlink("shared/sites/web.conf", filepath.Join(dir, "web.conf")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	folder, file := filepath.Join(dir, "conf"), filepath.Join(dir, "web.conf")
	p := compose.Project{Name: "shop", WorkingDir: dir, Services: map[string]compose.Service{"web": {Volumes: []compose.Mount{
		{Type: compose.MountBind, Source: folder, Target: "/etc/web", ReadOnly: true}, {Type: compose.MountBind, Source: file, Target: "/web.conf"},
	}}}}
	got, err := ReadFolders(p)
	want := map[string]Folder{
		folder: {Files: map[string]File{"sites/web.conf": {Content: []byte("listen")}}},
		file:   {File: true, Files: map[string]File{"": {Content: []byte("listen")}}},
	}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}
