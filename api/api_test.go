package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/compose"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
	"trellis/state"
)

// fakeControl answers from its fields.
type fakeControl struct {
	api.Control // what a test does not set must not be called

	status  api.Status
	events  []state.Event
	err     error
	applied chan api.ApplyRequest
	left    []string // by Down
	exec    func(ctx context.Context, req api.ExecRequest, cmd driver.Command) (int, error)
}

func (f *fakeControl) Status(context.Context) (api.Status, error) { return f.status, f.err }

func (f *fakeControl) Down(_ context.Context, opt engine.DeleteOptions) error {
	for _, what := range f.left {
		opt.Left(what)
	}
	return f.err
}

func (f *fakeControl) Watch(ctx context.Context, fn func(api.Status) error) error {
	for i := range int64(3) {
		s := f.status
		s.Revision = i
		if err := fn(s); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakeControl) Events(_ context.Context, _ state.EventFilter, _ bool, fn func(state.Event) error) error {
	for _, e := range f.events {
		if err := fn(e); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakeControl) Apply(_ context.Context, req api.ApplyRequest) (state.Revision, error) {
	f.applied <- req
	return state.Revision{Number: 7, Project: req.Project}, f.err
}

func (f *fakeControl) Logs(context.Context, api.LogsRequest) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(`{"text":"one"}` + "\n")), f.err
}

func (f *fakeControl) Exec(ctx context.Context, req api.ExecRequest, cmd driver.Command) (int, error) {
	return f.exec(ctx, req, cmd)
}

// serve serves f on a unix socket and returns a client of it.
func serve(t *testing.T, f *fakeControl) *api.Client {
	t.Helper()
	return serveControl(t, f)
}

func serveControl(t *testing.T, f api.Control) *api.Client {
	t.Helper()
	return servedBy(t, api.Handler(f, slog.New(slog.DiscardHandler)))
}

func servedBy(t *testing.T, h http.Handler) *api.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	client := api.NewClient(socket)
	t.Cleanup(func() { _ = client.Close(); _ = server.Close(); <-done })
	return client
}

func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range []error{errdefs.ErrInvalid, errdefs.ErrNotFound, errdefs.ErrConflict, errdefs.ErrUnavailable, errdefs.ErrUnsupported} {
		f := &fakeControl{err: fmt.Errorf("apply shop: %w: because", kind), applied: make(chan api.ApplyRequest, 1)}
		client := serve(t, f)
		if _, err := client.Status(t.Context()); !errors.Is(err, kind) || err.Error() != f.err.Error() {
			t.Errorf("Status: %v, want %v", err, f.err)
		}
		if _, err := client.Apply(t.Context(), api.ApplyRequest{}); !errors.Is(err, kind) {
			t.Errorf("Apply: %v, want %v", err, kind)
		}
		if _, err := client.Logs(t.Context(), api.LogsRequest{}); !errors.Is(err, kind) {
			t.Errorf("Logs: %v, want %v", err, kind)
		}
		seen := 0
		err := client.Watch(t.Context(), func(api.Status) error { seen++; return nil })
		if !errors.Is(err, kind) || seen != 3 {
			t.Errorf("Watch: %v after %d, want %v after 3", err, seen, kind)
		}
	}
}

func TestNobodyListensIsUnavailable(t *testing.T) {
	client := api.NewClient(filepath.Join(t.TempDir(), "nobody"))
	if _, err := client.Status(t.Context()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Status: %v", err)
	}
	if _, err := client.Exec(t.Context(), api.ExecRequest{}, driver.Command{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("Exec: %v", err)
	}
}

func TestApplyArrivesWhole(t *testing.T) {
	f := &fakeControl{applied: make(chan api.ApplyRequest, 1)}
	client := serve(t, f)
	three := 3
	want := api.ApplyRequest{
		Project:  compose.Project{Name: "shop", Services: map[string]compose.Service{"web": {Name: "web", Deploy: compose.Deploy{Replicas: &three}}}},
		Contents: map[string][]byte{"secrets/a": {0, 1, 255}},
		Commit:   &state.Commit{SHA: "abc", CommittedAt: time.Unix(1e9, 0).UTC()},
		Base:     "b", Cause: "up", Actor: "me@here", NoWait: true,
	}
	rev, err := client.Apply(t.Context(), want)
	if err != nil || rev.Number != 7 {
		t.Fatalf("Apply: %v, %v", rev.Number, err)
	}
	if d := cmp.Diff(want, <-f.applied); d != "" {
		t.Errorf("request (-sent +arrived):\n%s", d)
	}
}

func TestEventsArriveInOrderAndEnd(t *testing.T) {
	f := &fakeControl{}
	for i := range 500 {
		f.events = append(f.events, state.Event{Kind: "k", Message: fmt.Sprint(i), Time: time.Unix(int64(i), 0).UTC()})
	}
	client := serve(t, f)
	var got []state.Event
	err := client.Events(t.Context(), state.EventFilter{}, false, func(e state.Event) error { got = append(got, e); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(f.events, got); d != "" {
		t.Error(d)
	}
	stop := errors.New("enough")
	if err := client.Events(t.Context(), state.EventFilter{}, false, func(state.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error is lost: %v", err)
	}
}

func TestExecCarriesStreamsBothWaysAndTheExitCode(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 3<<20)
	f := &fakeControl{exec: func(_ context.Context, req api.ExecRequest, cmd driver.Command) (int, error) {
		if req.Service != "web" || cmd.Args[0] != "cat" || !cmd.TTY {
			return 0, fmt.Errorf("%w: %+v %+v", errdefs.ErrInvalid, req, cmd)
		}
		if size := <-cmd.Resize; size.Cols != 80 {
			return 0, fmt.Errorf("%w: size %+v", errdefs.ErrInvalid, size)
		}
		_, err := io.Copy(cmd.Stdout, cmd.Stdin)
		fmt.Fprint(cmd.Stderr, "warning")
		return 42, err
	}}
	client := serve(t, f)
	resize := make(chan driver.WindowSize, 1)
	resize <- driver.WindowSize{Rows: 24, Cols: 80}
	var stdout, stderr bytes.Buffer
	code, err := client.Exec(t.Context(), api.ExecRequest{Service: "web"}, driver.Command{
		Args: []string{"cat"}, TTY: true, Stdin: bytes.NewReader(big), Stdout: &stdout, Stderr: &stderr, Resize: resize,
	})
	if err != nil || code != 42 || !bytes.Equal(stdout.Bytes(), big) || stderr.String() != "warning" {
		t.Errorf("exit %d, %v, %d bytes of %d, %q", code, err, stdout.Len(), len(big), stderr.String())
	}
}

func TestExecIsCancelledWhenTheClientGoes(t *testing.T) {
	ended := make(chan error, 1)
	started := make(chan struct{})
	f := &fakeControl{exec: func(ctx context.Context, _ api.ExecRequest, _ driver.Command) (int, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return 0, ctx.Err()
	}}
	client := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := client.Exec(ctx, api.ExecRequest{}, driver.Command{Args: []string{"sleep"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Exec: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the command goes on")
	}
}

func TestExecErrorsKeepTheirKind(t *testing.T) {
	f := &fakeControl{exec: func(context.Context, api.ExecRequest, driver.Command) (int, error) {
		return 0, fmt.Errorf("exec in web: %w: no instance runs", errdefs.ErrNotFound)
	}}
	if _, err := serve(t, f).Exec(t.Context(), api.ExecRequest{}, driver.Command{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Exec: %v", err)
	}
}

// TestWhatAnOlderControlPlaneDoesNotKnow is told apart from everything else that may be not found.
func TestWhatAnOlderControlPlaneDoesNotKnow(t *testing.T) {
	client := servedBy(t, http.NotFoundHandler())
	if _, err := client.Volumes(t.Context()); !errors.Is(err, errdefs.ErrUnsupported) {
		t.Errorf("volumes: %v", err)
	}
	client = serve(t, &fakeControl{err: fmt.Errorf("read: %w", errdefs.ErrNotFound)})
	if _, err := client.Status(t.Context()); !errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, errdefs.ErrUnsupported) {
		t.Errorf("status: %v", err)
	}
}

// TestDownTellsWhatIsLeft on the other side too.
func TestDownTellsWhatIsLeft(t *testing.T) {
	f := &fakeControl{left: []string{"one network", "another"}}
	client := serve(t, f)
	var told []string
	if err := client.Down(t.Context(), engine.DeleteOptions{Left: func(what string) { told = append(told, what) }}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, f.left) {
		t.Errorf("told %q, not %q", told, f.left)
	}
	if err := client.Down(t.Context(), engine.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func TestMalformedRequestsAreInvalid(t *testing.T) {
	handler := api.Handler(&fakeControl{}, slog.New(slog.DiscardHandler))
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/apply", "{"},
		{"POST", "/v1/apply", `{"surprise":1}`},
		{"GET", "/v1/history?limit=x", ""},
		{"GET", "/v1/events?after=-1", ""},
		{"GET", "/v1/events?since=yesterday", ""},
		{"GET", "/v1/logs?q=%7B", ""},
		{"POST", "/v1/exec", ""},
	} {
		w := newRecorder()
		req, _ := http.NewRequest(c.method, "http://x"+c.path, strings.NewReader(c.body))
		handler.ServeHTTP(w, req)
		if w.code != http.StatusBadRequest {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.code, w.body.String())
		}
	}
}

type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func newRecorder() *recorder                    { return &recorder{header: http.Header{}} }
func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// cut is a control whose output ends with an error after a line.
type cut struct{ api.Control }

func (cut) Logs(context.Context, api.LogsRequest) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(`{"text":"one"}`+"\n"), iotest.ErrReader(errors.New("the disk is gone")))), nil
}

// patient is a control that goes on until it is told to end.
type patient struct{ api.Control }

func (patient) Watch(ctx context.Context, fn func(api.Status) error) error {
	if err := fn(api.Status{}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (patient) Top(ctx context.Context) ([]engine.Usage, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("look: %w", ctx.Err())
}

func (patient) Logs(ctx context.Context, _ api.LogsRequest) (io.ReadCloser, error) {
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "{}\n")
		<-ctx.Done()
		_ = w.Close() // as who follows output ends
	}()
	return r, nil
}

// TestAControlPlaneThatEnds: who asks it meanwhile hears that it ended, and can ask the next one, and does not take it for an answer.
func TestAControlPlaneThatEnds(t *testing.T) {
	for name, ask := range map[string]func(*api.Client, func()) error{
		"watch": func(c *api.Client, end func()) error {
			return c.Watch(t.Context(), func(api.Status) error { end(); return nil })
		},
		"top": func(c *api.Client, end func()) error {
			time.AfterFunc(50*time.Millisecond, end)
			_, err := c.Top(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, end := serveUntil(t, patient{})
			if err := ask(client, end); !errors.Is(err, api.ErrUnreachable) {
				t.Errorf("%v, want %v", err, api.ErrUnreachable)
			}
		})
	}
	client, end := serveUntil(t, patient{})
	out, err := client.Logs(t.Context(), api.LogsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	time.AfterFunc(50*time.Millisecond, end)
	if got, err := io.ReadAll(out); err == nil {
		t.Errorf("output ends after %q as if that were all", got)
	}
}

// serveUntil serves a control until end is called, as a control plane that is replaced does.
func serveUntil(t *testing.T, c api.Control) (client *api.Client, end func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: api.Handler(c, slog.New(slog.DiscardHandler)), BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() { _ = server.Serve(listener) }()
	client = api.NewClient(socket)
	t.Cleanup(func() { cancel(); _ = client.Close(); _ = server.Close() })
	return client, cancel
}

// TestOutputThatIsCutDoesNotEndInOrder: whoever reads output sees that there would have been more, and why there is not.
func TestOutputThatIsCutDoesNotEndInOrder(t *testing.T) {
	out, err := serveControl(t, cut{}).Logs(t.Context(), api.LogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	got, err := io.ReadAll(out)
	if err == nil {
		t.Error("it ends as if that were all")
	}
	if text := string(got); !strings.HasPrefix(text, `{"text":"one"}`+"\n") || !strings.Contains(text, "the disk is gone") {
		t.Errorf("%s, want the line and the reason", text)
	}
}
