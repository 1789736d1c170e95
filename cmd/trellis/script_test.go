package main

import (
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"trellis/boot"
)

var update = flag.Bool("update", false, "write the scripts' expectations anew")

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		fakeMain()
	}
	testscript.Main(m, map[string]func(){"trellis": fakeMain})
}

// childEnv makes the test's binary the program.
const childEnv = "TRELLIS_TEST_CHILD"

// fakeMain is main with the fake control plane of the folder WORK.
func fakeMain() {
	p := newProgram(newFake(os.Getenv("WORK")))
	p.now = fixedNow
	work := os.Getenv("WORK")
	p.host = boot.Host{Dir: work + "/units", Booted: work + "/booted"}
	os.Exit(run(p))
}

// TestScripts runs the transcripts in testdata against the fake control plane.
func TestScripts(t *testing.T) {
	target := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/teapot" {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	target.Config.Protocols = new(http.Protocols)
	target.Config.Protocols.SetHTTP1(true)
	target.Config.Protocols.SetUnencryptedHTTP2(true)
	target.Start()
	t.Cleanup(target.Close) // the scripts run in parallel, after this function
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(e *testscript.Env) error {
			e.Setenv("TZ", "UTC")
			e.Setenv("USER", "kim")
			e.Setenv("LANG", "C.UTF-8")
			e.Setenv("TARGET", target.URL)
			return nil
		},
	})
}

// exits runs a program that has to end with an exit code: exits 64 trellis wup.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}
