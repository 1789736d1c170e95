package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"trellis/driver"
	"trellis/errdefs"
)

// TestALostNodeHoldsNobody: the API server waits for a node that does not answer; whoever asks for output does not.
func TestALostNodeHoldsNobody(t *testing.T) {
	gone := make(chan struct{}, 8)
	c := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") != "" {
			time.Sleep(100 * time.Millisecond)
			fmt.Fprintln(w, "late")
			return
		}
		<-r.Context().Done()
		gone <- struct{}{}
	}))
	const short = 20 * time.Millisecond
	for c.silence = short; ; c.silence *= 2 { // on a busy machine that passes before the request is sent
		if _, err := c.output(t.Context(), "web", logsOf{}); !errors.Is(err, errSilent) || !errors.Is(err, errdefs.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		select {
		case <-gone:
		case <-time.After(c.silence):
			if c.silence > 10*time.Second {
				t.Fatal("the API server is not told that nobody waits any more")
			}
			continue
		}
		break
	}
	c.silence = short
	if lines := c.tail(t.Context(), &corev1.Pod{}, true); len(lines) > 0 {
		t.Errorf("got %q", lines)
	}
	r, err := c.output(t.Context(), "web", logsOf{follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); string(b) != "late\n" || err != nil {
		t.Errorf("a follower got %q, %v", b, err)
	}
}

// TestAKubeletsWordsAreNoOutput: a kubelet that has the output of the run before no more writes why where that would be.
func TestAKubeletsWordsAreNoOutput(t *testing.T) {
	for _, words := range []string{
		`failed to try resolving symlinks in path "/var/log/pods/shop_web/web/1.log": lstat /var/log/pods/shop_web/web/1.log: no such file or directory`,
		`unable to retrieve container logs for containerd://4fa6`,
	} {
		c := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("previous") != "" {
				fmt.Fprint(w, words)
				return
			}
			fmt.Fprint(w, "2026-01-02T03:04:05.678Z about to exit with 3\n2026-01-02T03:04:05.679Z \n")
		}))
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web"}}}}
		pod.Name = "web-1"
		if got, want := c.tail(t.Context(), pod, true), []string{"about to exit with 3", ""}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestALongLineEndsNoOutput: it comes in parts of its time, and what follows it comes too, also where it began before what is asked for.
func TestALongLineEndsNoOutput(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	lines := []string{"first", strings.Repeat("x", 5*longLine/2), "", "last"}
	var text strings.Builder
	for i, line := range lines {
		fmt.Fprintf(&text, "%s %s\n", at.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), line)
	}
	for from := range lines {
		r := linesOf(io.NopCloser(strings.NewReader(text.String())), at.Add(time.Duration(from)*time.Second))
		got := make([]string, len(lines))
		dec := json.NewDecoder(r)
		for {
			var line driver.LogLine
			if err := dec.Decode(&line); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("from line %d: %v", from, err)
			}
			got[line.Time.Sub(at)/time.Second] += line.Text
		}
		if want := append(make([]string, from), lines[from:]...); !slices.Equal(got, want) {
			t.Errorf("from line %d: lines of %d, %d, %d and %d bytes", from, len(got[0]), len(got[1]), len(got[2]), len(got[3]))
		}
		_ = r.Close()
	}
}
