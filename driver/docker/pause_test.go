package docker

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"

	"trellis/driver"
)

// program writes what counts as a static program of Linux.
func program(t *testing.T, file string) {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestPauseImageThatWasPruned: between two instances no container has the image that networks are held by, and somebody who tidies up
// removes it. It is made again for the next instance.
func TestPauseImageThatWasPruned(t *testing.T) {
	imported, holders, there := 0, 0, false
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fail := func(text string) {
			w.WriteHeader(http.StatusNotFound)
			json.NewEncoder(w).Encode(map[string]string{"message": text})
		}
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/images/create"):
			imported, there = imported+1, true
		case strings.Contains(path, "/images/"):
			if !there {
				fail("No such image")
				return
			}
			json.NewEncoder(w).Encode(image.InspectResponse{ID: "sha256:1"})
		case strings.HasSuffix(path, "/containers/create"):
			if !there {
				fail("No such image")
				return
			}
			holders++
			json.NewEncoder(w).Encode(container.CreateResponse{ID: "h1"})
		case strings.HasSuffix(path, "/start"):
			w.WriteHeader(http.StatusNoContent)
		case strings.Contains(path, "/networks/"):
			json.NewEncoder(w).Encode(network.Inspect{Network: network.Network{ID: "n1"}})
		default:
			fail("No such container")
		}
	}))
	defer api.Close()
	dir := t.TempDir()
	program(t, filepath.Join(dir, "shim"))
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: dir, RuntimeDir: dir, Shim: []string{filepath.Join(dir, "shim")}})
	if err != nil {
		t.Fatal(err)
	}
	spec := driver.Spec{ID: "shop/web-1-00000001", Project: "shop", Service: "web", Slot: 1, Image: "i"}
	for want := 1; want <= 2; want++ {
		if _, err := d.Prepare(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if imported != want || holders != want {
			t.Errorf("made %d images and %d holders, want %d of each", imported, holders, want)
		}
		there = false
	}
}
