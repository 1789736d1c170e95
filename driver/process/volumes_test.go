package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"trellis/errdefs"
)

func TestVolumesAreListedAndTheNamedOnesRemoved(t *testing.T) {
	dir := t.TempDir()
	d, err := New(Config{Project: "shop", StateDir: dir, RuntimeDir: t.TempDir(), Shim: []string{"shim"}, Unprivileged: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if names, err := d.Volumes(ctx, "shop"); len(names) > 0 || err != nil {
		t.Errorf("before there is one: %q, %v", names, err)
	}
	for _, name := range []string{"shop_data", "shop_kept", ".new-shop_torn"} {
		if err := os.MkdirAll(filepath.Join(d.VolumeDir(name), "inside"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := d.Volumes(ctx, "shop"); !slices.Equal(names, []string{"shop_data", "shop_kept"}) || err != nil {
		t.Errorf("volumes %q, %v", names, err)
	}
	if err := os.Mkdir(d.VolumeDir("named"), 0o700); err != nil { // with name: in the file
		t.Fatal(err)
	}
	if names, err := d.Volumes(ctx, "shop"); !slices.Equal(names, []string{"named", "shop_data", "shop_kept"}) || err != nil {
		t.Errorf("volumes %q, %v", names, err)
	}
	if err := d.RemoveVolumes(ctx, []string{"named", ".new-shop_torn"}); err != nil {
		t.Fatal(err)
	}
	if names, err := d.Volumes(ctx, "sho"); len(names) > 0 || err != nil {
		t.Errorf("those of another project: %q, %v", names, err)
	}
	if err := d.RemoveVolumes(ctx, []string{"shop_data", "shop_unknown"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.VolumeDir("shop_data")); !os.IsNotExist(err) {
		t.Errorf("shop_data is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.VolumeDir("shop_kept"), "inside")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", ".", "..", "/", "../instances", "shop_kept/inside", "/etc"} {
		if err := d.RemoveVolumes(ctx, []string{name}); !errors.Is(err, errdefs.ErrInvalid) {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if err := d.RemoveVolumes(ctx, []string{"shop_kept"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "volumes")); !os.IsNotExist(err) {
		t.Errorf("the folder of volumes is left: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := d.RemoveVolumes(ended, []string{"shop_data"}); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context has ended: %v", err)
	}
}
