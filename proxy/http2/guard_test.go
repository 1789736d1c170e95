package http2

import (
	"testing"
	"time"
)

// TestFramesOfGoodClients: what real clients send at their most is let through.
func TestFramesOfGoodClients(t *testing.T) {
	now := time.Unix(1, 0)
	sent := int64(0)
	header := func(kind, flags byte, length int) frame {
		return frame{length: length, kind: kind, flags: flags, stream: 1}
	}
	for name, c := range map[string]struct {
		n    int
		step func(i int) frame
	}{
		"uploads":    {100_000, func(int) frame { return header(frameData, 0, 1) }},
		"a download": {100_000, func(i int) frame { sent += 512; return header(frameWindowUpdate, 0, 4) }},
		"a ping in 20 ms": {10_000, func(i int) frame {
			now = now.Add(20 * time.Millisecond)
			return header(framePing, 0, 8)
		}},
		"requests":        {100_000, func(int) frame { return header(frameHeaders, flagEndStream, 40) }},
		"bodies that end": {100_000, func(int) frame { return header(frameData, flagEndStream, 0) }},
		"a third given up": {30_000, func(i int) frame {
			return header([]byte{frameHeaders, frameHeaders, frameHeaders, frameReset}[i%4], 0, 4)
		}},
		"heads in two parts": {1000, func(i int) frame { return header([]byte{frameHeaders, frameContinuation}[i%2], 0, 100) }},
	} {
		g := guard{now: func() time.Time { return now }}
		for i := range c.n {
			if !g.takes(c.step(i), sent) {
				t.Errorf("%s: ended at frame %d", name, i)
				break
			}
		}
	}
}
