package fake

import (
	"context"
	"fmt"
	"slices"
	"time"

	"trellis/driver"
	"trellis/probe"
)

// Probe answers as an instance of the world would: by its script, whatever kind of probe it is. It has the signature of
// an engine's probe; an exec probe runs its command.
func (w *World) Probe(ctx context.Context, spec probe.Spec, host string, port int, exec probe.Executor) probe.Result {
	began := time.Now()
	answer := func(ready bool, format string, args ...any) probe.Result {
		return probe.Result{Ready: ready, Message: fmt.Sprintf(format, args...), Took: time.Since(began), Time: time.Now()}
	}
	if spec.Kind == probe.Exec && exec != nil {
		code, out, err := exec(ctx, spec.Command)
		if err != nil {
			return answer(false, "%v", err)
		}
		if code != 0 {
			return answer(false, "exit code %d: %s", code, out)
		}
	}
	w.mu.Lock()
	inst := w.hosts[host]
	if inst == nil || inst.State != driver.Running {
		w.mu.Unlock()
		return answer(false, "connection refused")
	}
	age, s := time.Since(inst.StartedAt), inst.script
	hung := inst.hung || s.HangAfter > 0 && age >= s.HangAfter
	listening := spec.Kind == probe.Exec || slices.Contains(inst.Listening, port)
	w.mu.Unlock()
	switch {
	case hung:
		timeout := spec.Timeout
		if timeout <= 0 {
			timeout = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(timeout):
		}
		return answer(false, "no answer within %s", timeout)
	case !listening:
		return answer(false, "connection refused")
	case s.NeverReady || age < s.ReadyAfter:
		return answer(false, "503 warming up")
	}
	return answer(true, "200 OK")
}
