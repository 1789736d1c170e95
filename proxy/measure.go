package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// Measures are what a data plane pushes about the instances that it sends requests to.
type Measures struct {
	// Boot tells data planes apart: the counts of another one began anew.
	Boot string `json:"boot"`
	// UpSeconds is for how long the data plane has counted; 0 from one that does not tell.
	UpSeconds float64   `json:"up_seconds,omitempty"`
	Instances []Measure `json:"instances"`         // whose counts have grown since the push before; all in the first
	Refused   []Refusal `json:"refused,omitempty"` // all, where one has grown since the push before
}

// Measure is what one instance did since its data plane started, cumulative. A request that was tried at several
// instances counts at each of them. What provably never arrived, and what the client gave up, does not count.
type Measure struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
	Requests uint64 `json:"requests"`
	// Failed are those that were answered with 5xx or a gRPC status that blames the server, cut off, or not answered in
	// time.
	Failed uint64 `json:"failed"`
	// Latency is the time from handing the request to the instance to the head of its answer.
	Latency Histogram `json:"latency"`
}

// Histogram counts durations by bucket. Buckets are linear up to 16 µs, then 16 to each power of two, so that a bucket
// is never wider than 1/16 of what is in it (HdrHistogram's layout). Its JSON holds the buckets in use only.
type Histogram map[int]uint64

const (
	subBuckets     = 16
	latencyBuckets = 24 * subBuckets // up to 134 s
)

// bucketOf returns the bucket of a duration.
func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < subBuckets {
		return int(us)
	}
	shift := bits.Len64(us) - 5 // the upper five bits stay: 16 to 31
	return min(shift*subBuckets+int(us>>shift), latencyBuckets-1)
}

// BucketEnd returns the time below which everything in a bucket is.
func BucketEnd(bucket int) time.Duration {
	if bucket < subBuckets {
		return time.Duration(bucket+1) * time.Microsecond
	}
	shift := bucket/subBuckets - 1
	return time.Duration(bucket%subBuckets+subBuckets+1) << shift * time.Microsecond
}

// Add counts a duration.
func (h Histogram) Add(d time.Duration) { h[bucketOf(d)]++ }

// Count returns how many durations h holds.
func (h Histogram) Count() uint64 {
	var n uint64
	for _, c := range h {
		n += c
	}
	return n
}

// Quantile returns the time below which the share q of all durations is, by less than 1/16 too long; 0 of none.
func (h Histogram) Quantile(q float64) time.Duration {
	rank := uint64(math.Ceil(q * float64(h.Count())))
	var seen uint64
	for _, b := range slices.Sorted(maps.Keys(h)) {
		if seen += h[b]; seen >= max(rank, 1) {
			return BucketEnd(b)
		}
	}
	return 0
}

// Above returns how many durations are longer than limit; those in the bucket that limit is in are not.
func (h Histogram) Above(limit time.Duration) uint64 {
	var n uint64
	for b, c := range h {
		if b > bucketOf(limit) {
			n += c
		}
	}
	return n
}

// MarshalJSON writes an object with the buckets in order. A histogram is most of what a data plane tells five times a second:
// by reflection, its keys as strings and sorted as such, it would take several times as long here and where it is read.
func (h Histogram) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 2+10*len(h)), '{')
	for i, bucket := range slices.Sorted(maps.Keys(h)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, '"'), int64(bucket), 10), '"', ':')
		b = strconv.AppendUint(b, h[bucket], 10)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads what MarshalJSON writes; what is said in another way, as any map is.
func (h *Histogram) UnmarshalJSON(data []byte) error {
	if *h = written(data); *h != nil {
		return nil
	}
	var m map[int]uint64
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	*h = m
	return nil
}

// written returns the histogram that MarshalJSON wrote, and nil for anything else. data is valid JSON.
func written(data []byte) Histogram {
	rest, ok := bytes.CutPrefix(data, []byte("{"))
	if !ok {
		return nil
	}
	h := make(Histogram, bytes.Count(rest, []byte(":")))
	for len(rest) > 1 {
		var bucket, n uint64
		if rest, ok = bytes.CutPrefix(rest, []byte(`"`)); !ok {
			return nil
		}
		if bucket, rest, ok = whole(rest); !ok || bucket >= latencyBuckets {
			return nil
		}
		if rest, ok = bytes.CutPrefix(rest, []byte(`":`)); !ok {
			return nil
		}
		if n, rest, ok = whole(rest); !ok || len(rest) == 0 || rest[0] != ',' && rest[0] != '}' {
			return nil
		}
		h[int(bucket)], rest = n, rest[1:]
	}
	return h
}

// whole takes the number that b begins with. One that may be too large for a uint64 is none.
func whole(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		n = 10*n + uint64(b[i]-'0')
	}
	return n, b[i:], 0 < i && i < 20
}

// tally counts what one instance does. Counting takes no lock and allocates nothing.
type tally struct {
	requests, failed atomic.Uint64
	latency          [latencyBuckets]atomic.Uint64
}

// answered notes the head of an answer.
func (t *tally) answered(status int, took time.Duration) {
	t.requests.Add(1)
	t.latency[bucketOf(took)].Add(1)
	if status >= 500 {
		t.failed.Add(1)
	}
}

// broke notes a request that was cut off or not answered in time.
func (t *tally) broke(took time.Duration) {
	t.requests.Add(1)
	t.failed.Add(1)
	t.latency[bucketOf(took)].Add(1)
}

func (t *tally) read(service, instance string) Measure {
	return Measure{
		Service: service, Instance: instance, Requests: t.requests.Load(), Failed: t.failed.Load(), Latency: histogramOf(&t.latency),
	}
}

// histogramOf returns what has been counted so far.
func histogramOf(counts *[latencyBuckets]atomic.Uint64) Histogram {
	h := Histogram{}
	for i := range counts {
		if n := counts[i].Load(); n > 0 {
			h[i] = n
		}
	}
	return h
}

// pushInterval is the pause between two looks whether there is something to push.
const pushInterval = 200 * time.Millisecond

// push calls send with what there is to push, at once and then whenever it has grown, until ctx is done or send returns
// an error.
func (p *Proxy) push(ctx context.Context, send func(Measures) error) error {
	tick := time.NewTicker(pushInterval)
	defer tick.Stop()
	sent := map[*instance]uint64{}
	var told uint64
	for first := true; ; first = false {
		m := Measures{Boot: p.boot, UpSeconds: time.Since(p.began).Seconds(), Instances: []Measure{}}
		m.Refused, told = p.refusals.since(told)
		seen := make(map[*instance]uint64, len(sent))
		for name, s := range p.table.Load().services {
			if s.internal() {
				continue
			}
			for _, inst := range s.all() {
				count := inst.tally.requests.Load() + inst.tally.failed.Load() // an answer may break long after it began
				if seen[inst] = count; count > sent[inst] {
					m.Instances = append(m.Instances, inst.tally.read(name, inst.id))
				}
			}
		}
		sent = seen
		if first || len(m.Instances)+len(m.Refused) > 0 {
			if err := send(m); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// newBoot returns a name that no other data plane has.
func newBoot() string { return rand.Text() }

// grpcStatus returns the status of a gRPC answer whose body has been read.
func (r *response) grpcStatus() string {
	if s := r.header.Get("Grpc-Status"); s != "" {
		return s
	}
	return r.trailer().Get("Grpc-Status")
}

// blamesServer says whether a gRPC status is the server's fault: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
// UNAVAILABLE and DATA_LOSS, as OpenTelemetry's semantic conventions for RPC have it.
func blamesServer(status string) bool {
	switch status {
	case "2", "4", "12", "13", "14", "15":
		return true
	}
	return false
}
