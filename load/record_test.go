package load_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"trellis/load"
)

// recorded is a line of a record.
type recorded struct {
	Time     time.Time
	Seq      uint64
	Visit    *uint64
	Step     string
	Latency  *float64 `json:"latency_ms"`
	Status   *int
	Error    string
	Bytes    int64
	Instance string
}

func record(t testing.TB, name string) *load.Record {
	t.Helper()
	r, err := load.CreateRecord(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordAsJSON(t *testing.T) {
	s := serve(t, func(number int, c *net.TCPConn, r *bufio.Reader) {
		for n := 0; readRequest(r) == nil; n++ {
			if n == 3 {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Served-By: a \"b\"\r\nContent-Length: 2\r\n\r\nhi")
		}
	})
	out := record(t, "results.jsonl")
	begun := time.Now()
	report := run(t, load.Config{URL: s.url, Rate: 200, Duration: 100 * time.Millisecond, Connections: 1, Record: out, InstanceHeader: "x-served-by"})
	if base := filepath.Base(out.Path()); base != "results.jsonl.partial" {
		t.Errorf("before the end the results are in %s", base)
	}
	if err := out.Close(true); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(out.Path())
	if err != nil || filepath.Base(out.Path()) != "results.jsonl" {
		t.Fatalf("%s: %v", out.Path(), err)
	}
	ok, lost := 0, 0
	for i, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
		var one recorded
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if since := one.Time.Sub(begun); one.Seq != uint64(i) || since < 0 || since > time.Minute || one.Visit != nil {
			t.Errorf("line %d: %s", i, line)
		}
		switch {
		case one.Status != nil && *one.Status == 200 && one.Latency != nil && one.Bytes == 2 && one.Instance == `a "b"` && one.Error == "":
			ok++
		case one.Status == nil && one.Error == "reset" && one.Latency != nil:
			lost++
		default:
			t.Errorf("line %d: %s", i, line)
		}
	}
	if ok != 15 || lost != 5 || report.Instances[`a "b"`] != 15 {
		t.Errorf("%d ok and %d lost lines, instances %v", ok, lost, report.Instances)
	}
}

func TestRecordAsCSV(t *testing.T) {
	s := serve(t, answering("HTTP/1.1 404 OK\r\nX-Trellis-Instance: web-1\r\nContent-Length: 0\r\n\r\n"))
	out := record(t, "results.csv")
	run(t, load.Config{URL: s.url, Rate: 100, Duration: 20 * time.Millisecond, Record: out, Scenario: scenario(t, `steps: [{path: /, name: 'a, "b"'}]`)})
	if err := out.Close(false); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out.Path())
	if err != nil || !strings.HasSuffix(f.Name(), ".csv.partial") {
		t.Fatalf("%s: %v", out.Path(), err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("rows %v, error %v", rows, err)
	}
	if got, want := strings.Join(rows[0], " "), "time seq visit step latency_ms status error bytes instance"; got != want {
		t.Errorf("head %q, want %q", got, want)
	}
	row := rows[2]
	if row[1] != "1" || row[2] != "1" || row[3] != `a, "b"` || row[4] == "" || row[5] != "404" || row[6] != "unexpected-status" || row[7] != "0" || row[8] != "web-1" {
		t.Errorf("row %v", row)
	}
}

// A full disk ends the run, with what happened until then and an error that says so.
func TestFullDiskEndsTheRun(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /dev/full")
	}
	s := serve(t, answering(ok("hello")))
	out, err := load.CreateRecord("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	report, err := load.Run(context.Background(), load.Config{URL: s.url, Rate: 100, Duration: time.Hour, Record: out})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "write results: ") {
		t.Errorf("error %v, want one that says the disk is full", err)
	}
	if !report.Partial || report.Sent == 0 || time.Since(begun) > 30*time.Second {
		t.Errorf("after %v: %+v", time.Since(begun), report)
	}
	if err := out.Close(false); err != nil {
		t.Error(err)
	}
}

func TestRecordsThatCannotBeCreated(t *testing.T) {
	for path, want := range map[string]string{t.TempDir(): "is a directory", "/nonexistent/x.csv": "no such file"} {
		if _, err := load.CreateRecord(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", path, err)
		}
	}
}
