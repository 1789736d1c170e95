package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"trellis/api"
	"trellis/driver"
	"trellis/engine"
	"trellis/errdefs"
)

// halfDeaf is an engine of five instances: one answers, one breaks off, of one nothing is to be had, one is gone, and one is not
// there yet.
type halfDeaf struct{ engine.Engine }

func (halfDeaf) state(context.Context) (engine.State, error) {
	s := engine.Service{Name: "web"}
	for _, id := range []engine.InstanceID{"web-1", "web-2", "web-3", "web-4"} {
		s.Instances = append(s.Instances, engine.Instance{ID: id, State: engine.InstanceReady})
	}
	s.Instances = append(s.Instances, engine.Instance{ID: "web-5", State: engine.InstancePending})
	return engine.State{Services: []engine.Service{s}}, nil
}

// Logs implements engine.Engine.
func (halfDeaf) Logs(_ context.Context, _ string, id engine.InstanceID, _ driver.LogOptions) (io.ReadCloser, error) {
	line, err := json.Marshal(driver.LogLine{Time: time.Unix(1, 0), Stream: "stdout", Text: "hello"})
	if err != nil {
		return nil, err
	}
	rest := io.Reader(strings.NewReader(""))
	switch id {
	case "web-2":
		rest = iotest.ErrReader(fmt.Errorf("%w: the connection broke", errdefs.ErrUnavailable))
	case "web-3":
		return nil, fmt.Errorf("%w: it does not answer", errdefs.ErrUnavailable)
	case "web-5":
		return nil, fmt.Errorf("%w: it waits to start", errdefs.ErrInvalid)
	case "web-4":
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(io.MultiReader(strings.NewReader(string(line)+"\n"), rest)), nil
}

// TestWhatCannotBeReadIsSaid: output that is missing is told in its place, once, however often it is asked for.
func TestWhatCannotBeReadIsSaid(t *testing.T) {
	for _, follow := range []bool{false, true} {
		changed := &broadcast{}
		out := merged(t.Context(), &logMerger{
			observe: halfDeaf{}.state, engine: halfDeaf{}, project: "shop", changed: changed.next,
			req: api.LogsRequest{Follow: follow},
		})
		stop := make(chan struct{})
		go func() { // instances that run are asked again whenever something changes
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					changed.wake()
				}
			}
		}()
		told := map[string]int{}
		lines := bufio.NewScanner(out)
		for hellos := 0; (!follow || hellos < 20) && lines.Scan(); {
			var l api.LogLine
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			if l.Stream == "system" {
				told[string(l.Instance)+": "+l.Text]++
			} else {
				hellos++
			}
		}
		if err := lines.Err(); err != nil {
			t.Error(err)
		}
		_ = out.Close()
		close(stop)
		want := map[string]int{
			"web-2: its output cannot be read: unavailable: the connection broke": 1,
			"web-3: its output cannot be read: unavailable: it does not answer":   1,
		}
		if d := cmp.Diff(want, told); d != "" {
			t.Errorf("follow %t (-want +got):\n%s", follow, d)
		}
	}
}
