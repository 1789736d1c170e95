//go:build linux

package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func readLog(t testing.TB, path string) []LogLine {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []LogLine
	for line := range bytes.Lines(b) {
		var l LogLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, l)
	}
	return all
}

func TestLinesAreKeptAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	o, err := openOutput(dir, LogLimit{})
	if err != nil {
		t.Fatal(err)
	}
	in := []string{"", "plain", "tab\tand \"quotes\" \\ and \x01\x1f", "ünï€😀", "bad \xff\xfe bytes", "\r", "a b"}
	r, w := io.Pipe()
	go func() {
		for _, line := range in { // byte by byte: no read has a whole line
			for _, b := range []byte(line + "\n") {
				_, _ = w.Write([]byte{b})
			}
		}
		_, _ = w.Write([]byte("no end"))
		w.Close()
	}()
	o.copy(r, "stdout")
	o.close()
	var got []string
	for _, l := range readLog(t, filepath.Join(dir, LogFile)) {
		if l.Stream != "stdout" || time.Since(l.Time) > time.Minute {
			t.Errorf("line %+v", l)
		}
		got = append(got, l.Text)
	}
	want := append(slices.Clone(in), "no end")
	want[4] = "bad \ufffd\ufffd bytes"
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestLongLinesAreSplitBetweenCharacters(t *testing.T) {
	dir := t.TempDir()
	o, err := openOutput(dir, LogLimit{})
	if err != nil {
		t.Fatal(err)
	}
	text := "x" + strings.Repeat("€", maxLine)
	o.copy(strings.NewReader(text+"\nnext\n"), "stderr")
	o.close()
	lines := readLog(t, filepath.Join(dir, LogFile))
	var joined strings.Builder
	for _, l := range lines[:len(lines)-1] {
		if len(l.Text) > maxLine || !utf8.ValidString(l.Text) || strings.Contains(l.Text, "\ufffd") {
			t.Errorf("a part of %d bytes is too long, or cut within a character", len(l.Text))
		}
		joined.WriteString(l.Text)
	}
	if joined.String() != text || lines[len(lines)-1].Text != "next" {
		t.Errorf("%d bytes in %d lines, want %d", joined.Len(), len(lines), len(text))
	}
}

func TestRotationKeepsTheBound(t *testing.T) {
	for _, limit := range []LogLimit{{MaxSize: 5000, MaxFiles: 3}, {MaxSize: 5000, MaxFiles: 1}, {MaxSize: 1, MaxFiles: 2}} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			dir := t.TempDir()
			o, err := openOutput(dir, limit)
			if err != nil {
				t.Fatal(err)
			}
			var in bytes.Buffer
			for i := range 2000 {
				fmt.Fprintf(&in, "line %d\n", i)
			}
			o.copy(&in, "stdout")
			o.close()
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			if len(files) > limit.MaxFiles {
				t.Errorf("files %v, at most %d", files, limit.MaxFiles)
			}
			var all []LogLine
			for i := len(files) - 1; i >= 0; i-- {
				name := filepath.Join(dir, LogFile)
				if i > 0 {
					name += fmt.Sprintf(".%d", i)
				}
				if info, err := os.Stat(name); err != nil || info.Size() > max(limit.MaxSize, 100) {
					t.Errorf("%s: %v bytes, %v", name, info.Size(), err)
				}
				all = append(all, readLog(t, name)...)
			}
			for i, l := range all { // the newest lines, without a gap
				if want := fmt.Sprintf("line %d", 2000-len(all)+i); l.Text != want {
					t.Fatalf("line %d of those kept is %q, want %q", i, l.Text, want)
				}
			}
			if len(all) == 0 {
				t.Error("nothing was kept")
			}
		})
	}
}

func TestATornLineIsEnded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, LogFile)
	if err := os.WriteFile(path, []byte(`{"t":"2026-01-01T00:00:00Z","s":"stdout","m":"to`), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := openOutput(dir, LogLimit{})
	if err != nil {
		t.Fatal(err)
	}
	o.say("again")
	o.close()
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], "again") {
		t.Errorf("%q: want the torn line and the new one apart", lines)
	}
}

func TestAFullDiskLosesLinesAndSaysSo(t *testing.T) {
	dir := t.TempDir()
	o, err := openOutput(dir, LogLimit{})
	if err != nil {
		t.Fatal(err)
	}
	real := o.file
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.file = full
	o.copy(strings.NewReader("lost\n"), "stdout")
	o.file = real
	o.copy(strings.NewReader("kept\n"), "stdout")
	o.close()
	lines := readLog(t, filepath.Join(dir, LogFile))
	if len(lines) != 2 || !strings.Contains(lines[0].Text, "lost") || lines[0].Stream != "system" || lines[1].Text != "kept" {
		t.Errorf("%+v", lines)
	}
}

// TestLastWords: what a program has written before its end is kept, also where the disk is so slow that the time for those who
// still have the pipe is over by then. Whoever goes on writing is not listened to for ever.
func TestLastWords(t *testing.T) {
	for name, goesOn := range map[string]bool{"of the program": false, "of a stranger": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o, err := openOutput(dir, LogLimit{})
			if err != nil {
				t.Fatal(err)
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close() // somebody else has it
			line := []byte(strings.Repeat("x", 4095) + "\n")
			for range 15 {
				if _, err := w.Write(line); err != nil {
					t.Fatal(err)
				}
			}
			if goesOn {
				go func() {
					for err := error(nil); err == nil; {
						_, err = w.Write(line)
					}
				}()
			}
			if err := r.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
				t.Fatal(err)
			}
			done := make(chan bool)
			go func() {
				o.copy(r, "stderr")
				close(done)
			}()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("it does not end")
			}
			o.close()
			if n := len(readLog(t, filepath.Join(dir, LogFile))); n < 15 {
				t.Errorf("%d lines of the last 15 were kept", n)
			}
		})
	}
}

// TestALogThatCannotBeOpened: the new file of a rotation has to wait, for a free descriptor or an inode. What is written
// meanwhile is lost, what comes after is not.
func TestALogThatCannotBeOpened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "instance")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	o, err := openOutput(dir, LogLimit{})
	if err != nil {
		t.Fatal(err)
	}
	away := dir + " is away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	o.rotate()
	o.copy(strings.NewReader("lost\n"), "stdout")
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	o.copy(strings.NewReader("kept\n"), "stdout")
	o.close()
	o.say("too late")
	lines := readLog(t, filepath.Join(dir, LogFile))
	if len(lines) != 2 || !strings.Contains(lines[0].Text, "lost") || lines[0].Stream != "system" || lines[1].Text != "kept" {
		t.Errorf("%+v", lines)
	}
}

func TestFindUser(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/sh\nbroken\n12:x:50:50::/odd:/bin/sh\n"
	const group = "root:x:0:\nwww:x:34:\nlogs:x:40:web,other\nmore:x:41:other\n"
	for spec, want := range map[string]account{
		"root":      {uid: 0, gid: 0, groups: []int{0}, home: "/root"},
		"web":       {uid: 33, gid: 34, groups: []int{34, 40}, home: "/var/www"},
		"33":        {uid: 33, gid: 34, groups: []int{34, 40}, home: "/var/www"},
		"web:more":  {uid: 33, gid: 41, groups: []int{41}, home: "/var/www"},
		"1234:5678": {uid: 1234, gid: 5678, groups: []int{5678}, home: "/"},
		"1234":      {uid: 1234, gid: 0, groups: []int{0}, home: "/"},
		"12":        {uid: 12, gid: 0, groups: []int{0}, home: "/"},
	} {
		got, err := find(spec, nil, passwd, group)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"nobody", "web:nogroup", "-1", "web:-1", "99999999999"} {
		if got, err := find(spec, nil, passwd, group); err == nil {
			t.Errorf("%s: %+v, want an error", spec, got)
		}
	}
	if a, err := find("web", []string{"more", "77"}, passwd, group); err != nil || !slices.Equal(a.groups, []int{34, 40, 41, 77}) {
		t.Errorf("added groups: %+v, %v", a, err)
	}
}

func TestCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		spec Spec
		want uint64
	}{
		"default":    {Spec{}, defaultCapabilities},
		"privileged": {Spec{Privileged: true, CapDrop: []string{"ALL"}}, allCapabilities},
		"one more":   {Spec{CapAdd: []string{"CAP_NET_ADMIN"}}, defaultCapabilities | 1<<unix.CAP_NET_ADMIN},
		"one less":   {Spec{CapDrop: []string{"chown"}}, defaultCapabilities &^ (1 << unix.CAP_CHOWN)},
		"only one":   {Spec{CapDrop: []string{"ALL"}, CapAdd: []string{"KILL"}}, 1 << unix.CAP_KILL},
		"all but":    {Spec{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}}, allCapabilities &^ (1 << unix.CAP_SYS_ADMIN)},
	} {
		if got, err := keep(c.spec); err != nil || got != c.want {
			t.Errorf("%s: %x, %v; want %x", name, got, err, c.want)
		}
	}
	if _, err := keep(Spec{CapAdd: []string{"NONSENSE"}}); err == nil {
		t.Error("an unknown capability was taken")
	}
	if len(capabilities) != unix.CAP_LAST_CAP+1 || capabilities[unix.CAP_SYS_ADMIN] != "SYS_ADMIN" {
		t.Errorf("%d capabilities, the last is %s", len(capabilities), capabilities[len(capabilities)-1])
	}
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]unix.Signal{"SIGTERM": 15, "TERM": 15, "9": 9, "SIGNONSENSE": 0, "": 0, "0": 0, "-9": 0, "9x": 0, "99": 0} {
		if got := SignalNumber(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
	if SignalName(9) != "SIGKILL" || SignalName(40) != "SIG40" {
		t.Errorf("%s, %s", SignalName(9), SignalName(40))
	}
}

func TestAProcessIsItsPidAndItsStart(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Identify(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("%+v, %v: want it alive", p, err)
	}
	other := Process{PID: p.PID, StartTime: p.StartTime + 1}
	if other.Alive() || !errors.Is(other.Signal(unix.SIGKILL), ErrGone) || !p.Alive() {
		t.Error("a process with another start time was taken for it")
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); p.Alive(); time.Sleep(time.Millisecond) { // then it is a zombie
		if time.Now().After(deadline) {
			t.Fatal("a zombie counts as alive")
		}
	}
	if !errors.Is(p.Signal(unix.SIGTERM), ErrGone) {
		t.Error("a zombie was signalled")
	}
	_ = cmd.Wait()
	if (Process{}).Alive() || !errors.Is((Process{}).Signal(unix.SIGTERM), ErrGone) {
		t.Error("the zero process is somebody")
	}
}

func TestLockIsOneShims(t *testing.T) {
	dir := t.TempDir()
	if held, err := Held(dir); held || err != nil {
		t.Fatalf("%v, %v", held, err)
	}
	fd, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("a second lock: %v", err)
	}
	if held, err := Held(dir); !held || err != nil {
		t.Errorf("%v, %v", held, err)
	}
	unix.Close(fd)
	if held, err := Held(dir); held || err != nil {
		t.Errorf("%v, %v", held, err)
	}
}

func TestRecordsOfLaterVersionsAreRefused(t *testing.T) {
	if _, err := ParseExit([]byte(`{"version":2,"run":1}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"", "{}", "null", `{"version":1}`, `{"version":-1,"run":1}`, "[]"} {
		if e, err := ParseExit([]byte(text)); err == nil {
			t.Errorf("%q: %+v, want an error", text, e)
		}
	}
}

func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"id":"p/a-1-x","command":["a"],"env":["A=1"],"mounts":[{"kind":"bind"}],"owner":{"x":1}}`,
		`{"version":1,"run":3,"shim":{"pid":4,"start_time":5}}`, `{"version":1,"run":1,"code":137,"signal":"SIGKILL"}`, `{`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSpec(b); err == nil {
			again, err := json.Marshal(s)
			if err != nil {
				t.Fatalf("write what was read: %v", err)
			}
			if _, err := ParseSpec(again); err != nil {
				t.Fatalf("read what was written: %v", err)
			}
		}
		if r, err := ParseRunning(b); err == nil && (r.Run < 1 || r.Shim.PID < 1) {
			t.Fatalf("%+v", r)
		}
		if e, err := ParseExit(b); err == nil && (e.Run < 1 || e.Version > Version) {
			t.Fatalf("%+v", e)
		}
		_, _ = ParseStop(b)
		_ = ReadFailure(bytes.NewReader(b))
	})
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("1 (a b) c)) S 0 1 1 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 77 8 9 10 11"))
	own, _ := os.ReadFile("/proc/self/stat")
	f.Add(own)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStat(b); err == nil && s.State == 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func FuzzUsers(f *testing.F) {
	f.Add("web:www", "web:x:33:34:Web:/var/www:/bin/sh\n", "www:x:34:web\n")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		if a, err := find(spec, []string{"www"}, passwd, group); err == nil && (a.uid < 0 || a.gid < 0) {
			t.Fatalf("%+v", a)
		}
	})
}

func FuzzLogText(f *testing.F) {
	f.Add([]byte("a\"\\\x00\xff€"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got string
		if err := json.Unmarshal(appendString(nil, b), &got); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		var want bytes.Buffer
		for _, r := range string(b) { // a range gives U+FFFD for each bad byte
			want.WriteRune(r)
		}
		if got != want.String() {
			t.Fatalf("%q became %q", b, got)
		}
	})
}

func FuzzOOMKills(f *testing.F) {
	f.Add("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
	f.Fuzz(func(_ *testing.T, text string) { _ = OOMKills(text) })
}
