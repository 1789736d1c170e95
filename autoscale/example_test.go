package autoscale_test

import (
	"fmt"
	"time"

	"trellis/autoscale"
)

// A service that should work on 20 requests at a time has had 42 for ten seconds.
func Example() {
	s, err := autoscale.New(autoscale.Config{Min: 1, Max: 12, Targets: []autoscale.Target{{Metric: autoscale.Concurrency, Value: 20}}})
	if err != nil {
		panic(err)
	}
	now := time.Unix(0, 0)
	for second := range 11 {
		s.Observe(autoscale.Reading{At: now.Add(time.Duration(second) * time.Second), Totals: autoscale.Totals{BusySeconds: 42 * float64(second)}})
	}
	d := s.Decide(now.Add(10*time.Second), autoscale.Have{Want: 1, Ready: 1})
	fmt.Println(d.Replicas, d.Reason)
	// Output: 3 concurrency 42 over 6s, 14 a replica (70 % of 20): 3
}
