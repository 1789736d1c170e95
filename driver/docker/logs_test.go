package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"

	"trellis/driver"
)

// TestLogsAsTheyWereWritten: the engine keeps a line in pieces of 16 KiB, each of which has the time of its own before it, and
// what a program says last without the end of a line.
func TestLogsAsTheyWereWritten(t *testing.T) {
	const first, second = "2026-01-02T03:04:05.000000006Z", "2026-01-02T03:04:05.000000007Z"
	long := strings.Repeat("é", 20<<10) // and its pieces end within a character
	for name, c := range map[string]struct {
		tty  bool
		kept []string // as the engine sends it, "!" before what is of stderr
		want []string
	}{
		"a last line without an end": {
			kept: []string{first + " ready\n", second + " panic: no seats left"},
			want: []string{"stdout 6 ready", "stdout 7 panic: no seats left"},
		},
		"a last line of stderr": {
			kept: []string{first + " ready\n", "!" + second + " panic: no seats left"},
			want: []string{"stdout 6 ready", "stderr 7 panic: no seats left"},
		},
		"a last line at a terminal": {
			tty:  true,
			kept: []string{first + " ready\r\n", second + " Name: "},
			want: []string{"stdout 6 ready", "stdout 7 Name: "},
		},
		"a run that ended without an end of line": {
			kept: []string{first + " bye", second + " hello\n"},
			want: []string{"stdout 6 bye", "stdout 7 hello"},
		},
		"a line in pieces": {
			kept: []string{first + " x" + long[:pieceSize-1], first + " " + long[pieceSize-1:2*pieceSize-1], first + " " + long[2*pieceSize-1:] + "\n", second + " next\n"},
			want: []string{"stdout 6 x" + long, "stdout 7 next"},
		},
		"two lines in pieces that come by turns": {
			kept: []string{first + " " + long[:pieceSize], "!" + second + " " + long[:pieceSize], first + " a\n", "!" + second + " b\n"},
			want: []string{"stdout 6 " + long[:pieceSize] + "a", "stderr 7 " + long[:pieceSize] + "b"},
		},
		"pieces without an end": {
			kept: []string{first + " " + long[:pieceSize], first + " end"},
			want: []string{"stdout 6 " + long[:pieceSize] + "end"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/json") {
					w.Header().Set("Content-Type", "application/json")
					json.NewEncoder(w).Encode(container.InspectResponse{
						ID: "c1", State: &container.State{}, Config: &container.Config{Labels: map[string]string{labelState: state}, Tty: c.tty},
					})
					return
				}
				for _, text := range c.kept {
					if c.tty {
						_, _ = io.WriteString(w, text)
						continue
					}
					text, isErr := strings.CutPrefix(text, "!")
					kind := stdcopy.Stdout
					if isErr {
						kind = stdcopy.Stderr
					}
					_, _ = w.Write(frame(kind, text))
				}
			}))
			defer api.Close()
			d, err := New(Config{Host: "tcp://" + api.Listener.Addr().String(), StateDir: state, RuntimeDir: state, Shim: []string{"shim"}})
			if err != nil {
				t.Fatal(err)
			}
			r, err := d.Logs(t.Context(), "shop/web-1", driver.LogOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var got []string
			for dec := json.NewDecoder(r); ; {
				var line driver.LogLine
				if err := dec.Decode(&line); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s %d %s", line.Stream, line.Time.Nanosecond(), line.Text))
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}
