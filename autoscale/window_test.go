package autoscale

import (
	"math"
	"testing"
	"time"
)

// TestALongWindowHoldsNoMorePoints has a window of an hour, and one of a day.
func TestALongWindowHoldsNoMorePoints(t *testing.T) {
	for window, each := range map[time.Duration]time.Duration{time.Hour: 250 * time.Millisecond, 24 * time.Hour: 5 * time.Second} {
		var s series
		begin := time.Unix(1e9, 0)
		now := begin
		for ; now.Sub(begin) < 2*window; now = now.Add(each) {
			// As many requests a second as seconds have passed.
			passed := now.Sub(begin).Seconds()
			s.add(Reading{At: now, Totals: Totals{Requests: passed * passed / 2}}, window)
		}
		if n := len(s.points); n > 300 {
			t.Errorf("a window of %s: %d points", window, n)
		}
		last := now.Add(-each)
		for _, span := range []time.Duration{window, window / 10} {
			want := last.Sub(begin).Seconds() - span.Seconds()/2
			if got, known := s.average(RPS, last, span, time.Minute); !known || math.Abs(got-want) > want/100 {
				t.Errorf("a window of %s, over %s: %v (%v), want %v", window, span, got, known, want)
			}
		}
	}
}
