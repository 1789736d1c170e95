package main

import (
	"path/filepath"
	"testing"
	"time"

	"trellis/identity"
)

// TestIssuedInAFolderLikeAPattern: certificates are found whatever the project's folder is called.
func TestIssuedInAFolderLikeAPattern(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop [old]")
	d, err := identity.OpenDomain(filepath.Join(dir, "authority"), "shop", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{"/service/api", "/service/web", "/gateway"}
	for _, path := range paths {
		files, err := d.Issue(path, nil, time.Now())
		if err == nil {
			err = files.Write(filepath.Join(dir, path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := issuedIn(dir)
	if err != nil || len(all) != len(paths) {
		t.Fatalf("%v, %v", all, err)
	}
	for i, one := range all {
		if one.ID != "spiffe://shop"+paths[i] || one.Files != filepath.Join(dir, paths[i]) {
			t.Errorf("%d: %+v", i, one)
		}
	}
}
