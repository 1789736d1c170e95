package proxy

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAHistogramAsJSON(t *testing.T) {
	for _, h := range []Histogram{{}, {0: 1}, {383: 1<<63 + 1, 7: 0, 12: 3}} {
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if of, err := json.Marshal(map[int]uint64(h)); err != nil || len(of) != len(text) {
			t.Errorf("%s, as any map: %s, %v", text, of, err)
		}
		var back Histogram
		if err := json.Unmarshal(text, &back); err != nil || !cmp.Equal(h, back) {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
	if text, err := json.Marshal(Histogram{12: 3, 7: 0}); err != nil || string(text) != `{"7":0,"12":3}` {
		t.Errorf("%s, %v", text, err)
	}
}

// FuzzHistogram compares with what encoding/json makes of the same text.
func FuzzHistogram(f *testing.F) {
	for _, s := range []string{`{}`, `{"7":0,"12":3}`, `{ "7" : 1 }`, `null`, `7`, `"7"`, `[]`, `{"-1":2}`, `{"7":-1}`, `{"7":1.0}`,
		`{"7":18446744073709551615}`, `{"7":18446744073709551616}`, `{"99999":1}`, `{"\u0037":1}`, `{"7":1,"7":2}`, `{"":1}`, `{"7":true}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got Histogram
		var want map[int]uint64
		err, wanted := json.Unmarshal(text, &got), json.Unmarshal(text, &want)
		if (err == nil) != (wanted == nil) || err == nil && !cmp.Equal(map[int]uint64(got), want) {
			t.Errorf("%s: %v, %v; as any map: %v, %v", text, got, err, want, wanted)
		}
	})
}

// BenchmarkHistogramJSON took 0.40 to 0.55 ms where map[int]uint64 took 0.97 to 1.34 ms (busy machine, three rounds by turns).
func BenchmarkHistogramJSON(b *testing.B) {
	h := Histogram{}
	for d := 200 * time.Microsecond; d < 400*time.Millisecond; d += d / 15 {
		h.Add(d)
	}
	b.ReportAllocs()
	for b.Loop() {
		text, err := json.Marshal(h)
		if err != nil {
			b.Fatal(err)
		}
		var back Histogram
		if err := json.Unmarshal(text, &back); err != nil || len(back) != len(h) {
			b.Fatal(err)
		}
	}
}
