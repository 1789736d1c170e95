package kubernetes

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"trellis/driver"
	"trellis/errdefs"
)

// tail returns the last lines of a pod's container: of the run that ended last, where there was one.
func (c *Client) tail(ctx context.Context, pod *corev1.Pod, previous bool) []string {
	if previous {
		if lines := c.lastOf(ctx, pod, logsOf{previous: true}); len(lines) > 0 {
			return lines
		}
	}
	return c.lastOf(ctx, pod, logsOf{})
}

// lastOf returns the last lines of one container. A kubelet that has no output any more writes why in its place: what the program wrote has
// its time.
func (c *Client) lastOf(ctx context.Context, pod *corev1.Pod, which logsOf) []string {
	which.tail, which.times, which.container = lastLines, true, cmp.Or(which.container, program(pod).Name)
	ctx, cancel := context.WithTimeout(ctx, c.silence)
	defer cancel()
	r, err := c.output(ctx, pod.Name, which)
	if err != nil {
		return nil
	}
	defer r.Close()
	var lines []string
	for s := scan(r); s.Scan() && len(lines) < lastLines; {
		at, text, _ := strings.Cut(s.Text(), " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err == nil {
			lines = append(lines, text)
		}
	}
	return lines
}

// programOutput is output of the container in which the program of a pod's service runs. Which one that is, is asked for only where the
// cluster does not know by itself: mostly there is one.
func (c *Client) programOutput(ctx context.Context, pod string, which logsOf) (io.ReadCloser, error) {
	r, err := c.output(ctx, pod, which)
	if !errors.Is(err, errdefs.ErrInvalid) {
		return r, err
	}
	pods, rerr := c.resource(pods)
	if rerr != nil {
		return nil, err
	}
	o, rerr := pods.Get(ctx, pod, metav1.GetOptions{})
	if rerr != nil {
		return nil, err
	}
	var one corev1.Pod
	if rerr := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &one); rerr != nil || len(one.Spec.Containers) < 2 {
		return nil, err
	}
	which.container = program(&one).Name
	return c.output(ctx, pod, which)
}

// logsOf says which output of a pod is meant.
type logsOf struct {
	follow, previous, times bool
	tail                    int // last lines; 0 all, -1 none
	since                   time.Time
	container               string // "": the only one that the pod has
}

// output opens the output of a pod's container. No such pod: ErrNotFound.
func (c *Client) output(ctx context.Context, pod string, which logsOf) (io.ReadCloser, error) {
	req := c.api.Get().AbsPath("/api/v1/namespaces", c.Namespace, "pods", pod, "log")
	if which.follow {
		req = req.Param("follow", "true")
	}
	if which.previous {
		req = req.Param("previous", "true")
	}
	if which.times {
		req = req.Param("timestamps", "true")
	}
	if which.tail != 0 {
		req = req.Param("tailLines", strconv.Itoa(max(which.tail, 0)))
	}
	if which.container != "" {
		req = req.Param("container", which.container)
	}
	if !which.since.IsZero() {
		req = req.Param("sinceTime", which.since.UTC().Format(time.RFC3339))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if !which.follow { // a follower gets the answer's head with the first line, whenever that comes
		silent := time.AfterFunc(c.silence, func() { cancel(errSilent) })
		defer silent.Stop()
	}
	r, err := req.Stream(ctx)
	if err == nil {
		return &stream{r, cancel}, nil
	}
	cancel(nil)
	if context.Cause(ctx) == errSilent {
		return nil, fmt.Errorf("read the output of %s: %w", pod, errSilent)
	}
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read the output of %s: %w", pod, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("read the output of %s: %w", pod, c.explain(err))
}

// silence is Client.silence where there are people: a node that is lost never answers, and the API server waits for it.
const silence = 5 * time.Second

var errSilent = fmt.Errorf("%w: its node does not answer", errdefs.ErrUnavailable)

// stream is an answer that goes on; closing it ends the request.
type stream struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (s *stream) Close() error {
	s.cancel(nil)
	return s.ReadCloser.Close()
}

// linesOf turns output with the cluster's timestamps into what driver.LogLine says, one JSON object a line, from since on: the
// cluster counts in seconds. Closing it closes r.
func linesOf(r io.ReadCloser, since time.Time) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		defer r.Close()
		_ = in.CloseWithError(translate(r, in, since))
	}()
	return closer{out, r}
}

// closer closes what is read from and what it comes from: a read of the latter may block.
type closer struct {
	*io.PipeReader
	from io.Closer
}

func (c closer) Close() error {
	return errors.Join(c.PipeReader.Close(), c.from.Close())
}

// translate copies lines from r to w until one of them ends. What has no time, the rest of a long line for one, is of the time of what came
// before it.
func translate(r io.Reader, w io.Writer, since time.Time) error {
	encoder := json.NewEncoder(w)
	lines := scan(r)
	last := since
	for lines.Scan() {
		line := driver.LogLine{Time: last, Stream: "stdout", Text: lines.Text()}
		at, text, _ := strings.Cut(line.Text, " ")
		if written, err := time.Parse(time.RFC3339Nano, at); err == nil {
			line.Time, line.Text = written, text
		}
		if last = line.Time; last.Before(since) {
			continue
		}
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	return lines.Err()
}

// longLine is how much of a line is read at a time.
const longLine = 1 << 20

// scan reads lines. A longer one than longLine comes in parts: a runtime writes it down in pieces, and a kubelet joins them however many.
func scan(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(nil, longLine)
	s.Split(func(data []byte, ended bool) (int, []byte, error) {
		n, line, err := bufio.ScanLines(data, ended)
		if n == 0 && len(data) >= longLine {
			return len(data), data, err
		}
		return n, line, err
	})
	return s
}
