package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// Exec implements engine.Engine.
func (e *Engine) Exec(ctx context.Context, project string, id engine.InstanceID, cmd driver.Command) (int, error) {
	fail := func(err error) (int, error) { return 0, fmt.Errorf("run a command in %s: %w", id, err) }
	if cmd.User != "" {
		return fail(fmt.Errorf("%w on kubernetes: a command runs as its container does: leave out --user", errdefs.ErrUnsupported))
	}
	r, err := e.client.resource(pods)
	if err != nil {
		return fail(err)
	}
	o, err := r.Get(ctx, string(id), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && !ours(o, project):
		return fail(fmt.Errorf("%w: no such instance", errdefs.ErrNotFound))
	case err != nil:
		return fail(e.client.explain(err))
	}
	var pod corev1.Pod
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod); err != nil {
		return fail(err)
	}
	code, err := e.client.exec(ctx, string(id), program(&pod).Name, cmd)
	if err != nil {
		return fail(err)
	}
	return code, nil
}

// exec runs a command in a container of a pod.
func (c *Client) exec(ctx context.Context, pod, container string, cmd driver.Command) (int, error) {
	req := c.api.Post().AbsPath("/api/v1/namespaces", c.Namespace, "pods", pod, "exec")
	for key, set := range map[string]bool{"stdin": cmd.Stdin != nil, "stdout": true, "stderr": !cmd.TTY, "tty": cmd.TTY} {
		req = req.Param(key, strconv.FormatBool(set))
	}
	if container != "" {
		req = req.Param("container", container)
	}
	for _, word := range commandOf(cmd) {
		req = req.Param("command", word)
	}
	url := req.URL()
	sockets, err := remotecommand.NewWebSocketExecutor(c.settings, "GET", url.String())
	if err != nil {
		return 0, err
	}
	older, err := remotecommand.NewSPDYExecutor(c.settings, "POST", url)
	if err != nil {
		return 0, err
	}
	run, err := remotecommand.NewFallbackExecutor(sockets, older, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) // clusters before 1.30
	})
	if err != nil {
		return 0, err
	}
	streams := remotecommand.StreamOptions{Stdin: cmd.Stdin, Stdout: orDiscard(cmd.Stdout), Stderr: orDiscard(cmd.Stderr), Tty: cmd.TTY}
	if cmd.TTY {
		streams.Stderr = nil // a terminal has one output
		if cmd.Resize != nil {
			streams.TerminalSizeQueue = sizes{ctx, cmd.Resize}
		}
	}
	err = run.StreamWithContext(ctx, streams)
	var exit exec.CodeExitError
	switch {
	case errors.As(err, &exit):
		return exit.Code, nil
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil && notThere(err.Error()):
		return 0, fmt.Errorf("%w: its image has no %s", errdefs.ErrInvalid, commandOf(cmd)[0])
	case err != nil:
		return 0, c.explain(err)
	}
	return 0, nil
}

// notThere says whether a runtime could not start a program because there is none; its answer is a text for people.
func notThere(answer string) bool {
	return strings.Contains(answer, "exec failed") &&
		(strings.Contains(answer, "executable file not found") || strings.Contains(answer, "no such file or directory"))
}

// commandOf is a command with its own variables and folder, which the API does not know: env and sh of the image set them.
func commandOf(cmd driver.Command) []string {
	words := cmd.Args
	if len(cmd.Env) > 0 {
		words = append(append([]string{"env"}, cmd.Env...), words...)
	}
	if cmd.Dir != "" {
		words = append([]string{"sh", "-c", `cd "$0" && exec "$@"`, cmd.Dir}, words...)
	}
	return words
}

// sizes hands the sizes of a terminal on until ctx is done.
type sizes struct {
	ctx  context.Context
	from <-chan driver.WindowSize
}

// Next implements remotecommand.TerminalSizeQueue.
func (s sizes) Next() *remotecommand.TerminalSize {
	select {
	case <-s.ctx.Done():
		return nil
	case size, ok := <-s.from:
		if !ok {
			return nil
		}
		return &remotecommand.TerminalSize{Width: size.Cols, Height: size.Rows}
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
