package docker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"

	"trellis/driver"
)

// TestLineWithoutEnd: the engine hands on what has no end of line, as a progress bar, in pieces of 16 KiB, each with its
// time. Neither is it held in memory, nor looked through again and again, nor is any of it lost.
func TestLineWithoutEnd(t *testing.T) {
	const frames, size = 640, 16 << 10
	for name, step := range map[string]int{"frames": 1, "one write": frames} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			l := &lines{to: &out, stream: "stdout", framed: step == 1}
			piece := []byte("2026-01-02T03:04:05.000000006Z " + strings.Repeat("é", size/2))
			for range frames / step {
				if _, err := l.Write(bytes.Repeat(piece, step)); err != nil {
					t.Fatal(err)
				}
				if cap(l.rest) > 2*maxLine {
					t.Fatalf("%d bytes are held", cap(l.rest))
				}
			}
			for _, end := range []string{"2026-01-02T03:04:05.000000006Z \n", "2026-01-02T03:04:05.000000007Z next\n"} {
				if _, err := io.WriteString(l, end); err != nil {
					t.Fatal(err)
				}
			}
			all, last := 0, driver.LogLine{}
			for dec := json.NewDecoder(&out); ; {
				var line driver.LogLine
				if err := dec.Decode(&line); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				if len(line.Text) > maxLine || line.Time.IsZero() || strings.Contains(line.Text, "\ufffd") {
					t.Fatalf("%d bytes at %s: too long, without a time, or cut within a character", len(line.Text), line.Time)
				}
				all += strings.Count(line.Text, "é")
				last = line
			}
			if all != frames*size/2 || last.Text != "next" || last.Time.Nanosecond() != 7 {
				t.Errorf("%d characters of %d, then %+v", all, frames*size/2, last)
			}
		})
	}
}

// frame is a piece of output as the engine sends it.
func frame(kind stdcopy.StdType, text string) []byte {
	head := make([]byte, 8)
	head[0] = byte(kind)
	binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
	return append(head, text...)
}

// TestHookThatTalks: of what a hook says no more is kept than is told.
func TestHookThatTalks(t *testing.T) {
	const said = 32 << 20
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/containers/c1/exec"):
			w.WriteHeader(http.StatusCreated)
			json.NewEncoder(w).Encode(map[string]string{"Id": "e1"})
		case strings.HasSuffix(r.URL.Path, "/exec/e1/json"):
			w.Header().Set("Content-Type", "application/json")
			code := 3
			json.NewEncoder(w).Encode(container.ExecInspectResponse{ExitCode: &code})
		case strings.HasSuffix(r.URL.Path, "/exec/e1/start"):
			_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection would be a reset
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			b := bufio.NewWriter(conn)
			b.WriteString("HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			text := frame(stdcopy.Stderr, strings.Repeat("talk", 8<<10))
			for n := 0; n < said; n += len(text) {
				b.Write(text)
			}
			b.Flush()
		}
	}))
	defer api.Close()
	d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: t.TempDir(), RuntimeDir: t.TempDir(), Shim: []string{"shim"}})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = d.hook(t.Context(), "c1", driver.Hook{Command: []string{"talk"}})
	runtime.ReadMemStats(&after)
	if err == nil || !strings.HasPrefix(err.Error(), "exit 3: talktalk") || len(err.Error()) > 1100 {
		t.Errorf("error %.200v, want the code and the first words", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > said/10 {
		t.Errorf("%d bytes were allocated for %d that were said", took, said)
	}
}
