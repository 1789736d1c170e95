package load

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Kind is why a start failed.
type Kind string

// The kinds of failure. From UnexpectedStatus on they were answered.
const (
	Connect     Kind = "connect"      // no connection could be made
	Timeout     Kind = "timeout"      // no whole answer within the timeout
	Reset       Kind = "reset"        // the connection ended before the first byte of an answer
	Truncated   Kind = "truncated"    // the connection ended within the answer
	Refused     Kind = "refused"      // the server said that it had not looked at it: an HTTP/2 GOAWAY that crossed it
	BadResponse Kind = "bad-response" // the answer is of another protocol
	Missed      Kind = "missed"       // never sent: no connection was free in time
	Abandoned   Kind = "abandoned"    // the run was cancelled before it had ended
	Unsendable  Kind = "unsendable"   // a saved value makes no request: a step of a scenario could not be sent

	UnexpectedStatus Kind = "unexpected-status" // not what the step expects
	UnexpectedBody   Kind = "unexpected-body"   // not what the step contains
	MissingValue     Kind = "missing-value"     // what the step saves is not in the answer

	Server5xx Kind = "http-5xx"       // written by the program
	Proxy5xx  Kind = "http-5xx-proxy" // written by the data plane in its place
	Queue503  Kind = "http-503-queue" // the data plane shed it on purpose
	Limited   Kind = "http-429"       // a rate limit refused it
)

// Report is the result of a run. A start is missed or sent (or tried: Connect, Unsendable); what was sent is completed, or
// failed without an answer, or abandoned. Completed counts whole answers of any status, so the numbers in Status add up to it. The numbers in Errors
// add up to Failed: requests without an answer, and answers with 429 or 5xx.
type Report struct {
	Sent      int `json:"sent"`
	Completed int `json:"completed"`
	Missed    int `json:"missed"`
	Failed    int `json:"failed"`
	// Rate is completed requests per second from the beginning to the schedule's end or the last request's, whichever
	// is later, or to the cancellation; nil before any time has passed.
	Rate    *float64     `json:"rate"`
	Latency Latency      `json:"latency_ms"`
	Status  map[int]int  `json:"status"`
	Errors  map[Kind]int `json:"errors"`

	// Instances counts the answers of each instance that said its name, of at most a thousand instances.
	Instances map[string]int `json:"instances,omitempty"`

	// Abandoned and Partial stand only in the report of a run that was cancelled.
	Abandoned int  `json:"abandoned,omitempty"`
	Partial   bool `json:"partial,omitempty"`

	// Visits and Steps stand only in the report of a scenario: the figures above count requests.
	Visits *Visits `json:"visits,omitempty"`
	Steps  []Step  `json:"steps,omitempty"` // in the order of the file

	// Objectives is for the verdicts on this report; Run leaves it empty.
	Objectives []Verdict `json:"objectives,omitempty"`
}

// Visits counts visits. A start of the schedule is a visit that is missed or started; one that started is completed, or
// failed with its first failed request, or abandoned because the run was cancelled.
type Visits struct {
	Started   int      `json:"started"`
	Completed int      `json:"completed"`
	Failed    int      `json:"failed"`
	Missed    int      `json:"missed"`
	Abandoned int      `json:"abandoned,omitempty"`
	Rate      *float64 `json:"rate"` // completed per second
	// Duration is of completed visits, from the intended start to the last answer, pauses included.
	Duration Latency `json:"duration_ms"`
}

// Step is what became of the requests of one step of a scenario; the fields are those of Report.
type Step struct {
	Name      string       `json:"name"`
	Sent      int          `json:"sent"`
	Completed int          `json:"completed"`
	Missed    int          `json:"missed"`
	Failed    int          `json:"failed"`
	Latency   Latency      `json:"latency_ms"`
	Status    map[int]int  `json:"status"`
	Errors    map[Kind]int `json:"errors"`

	// FirstFailure says in words what was wrong with the first one that failed an expectation of the step.
	FirstFailure string `json:"first_failure,omitempty"`
}

// Latency is in milliseconds from the intended start to the end of whole answers; nil where there was none. Values are
// exact to three digits, Max to the microsecond.
type Latency struct {
	P50  *float64 `json:"p50"`
	P90  *float64 `json:"p90"`
	P99  *float64 `json:"p99"`
	P999 *float64 `json:"p999"`
	Max  *float64 `json:"max"`

	hist *hdrhistogram.Histogram
}

// Percentile returns the latency that p percent of the answers did not exceed, nil where there was none. It works on
// reports that Run made, not on decoded ones.
func (l Latency) Percentile(p float64) *float64 {
	if l.hist == nil || l.hist.TotalCount() == 0 || l.Max == nil {
		return nil
	}
	ms := min(float64(l.hist.ValueAtPercentile(p))/1000, *l.Max)
	return &ms
}

// Lost is how many starts a user would call lost: missed, or without a whole answer, or answered by the data plane with
// a 5xx in the program's place. The program's own 5xx, 429 and what the data plane's queue shed are not among them.
func (r Report) Lost() int {
	lost := r.Missed
	for _, kind := range []Kind{Connect, Timeout, Reset, Truncated, Refused, BadResponse, Proxy5xx} {
		lost += r.Errors[kind]
	}
	return lost
}

// WriteText prints the report for people.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	if r.Partial {
		fmt.Fprintf(&b, "Cancelled: these are the results until then; %s requests in flight were given up.\n", count(r.Abandoned))
	}
	rate := "-"
	if r.Rate != nil {
		rate = strconv.FormatFloat(*r.Rate, 'f', 1, 64) + "/s"
	}
	fmt.Fprintf(&b, "requests  %s sent, %s completed, %s failed, %s missed, %s lost, %s\n",
		count(r.Sent), count(r.Completed), count(r.Failed), count(r.Missed), count(r.Lost()), rate)
	l := r.Latency
	fmt.Fprintf(&b, "latency   p50 %s, p90 %s, p99 %s, p99.9 %s, max %s (from the intended start)\n",
		millis(l.P50), millis(l.P90), millis(l.P99), millis(l.P999), millis(l.Max))
	writeCounts(&b, "status", r.Status)
	writeCounts(&b, "errors", r.Errors)
	if len(r.Instances) <= maxShown {
		writeCounts(&b, "instance", r.Instances)
	}
	r.writeVisits(&b)
	for _, v := range r.Objectives {
		word := "missed"
		if v.Held {
			word = "held"
		}
		fmt.Fprintf(&b, "%-8s  %s\n", word, v)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r Report) writeVisits(b *strings.Builder) {
	if r.Visits == nil {
		return
	}
	v := r.Visits
	fmt.Fprintf(b, "visits    %s started, %s completed, %s failed, %s missed", count(v.Started), count(v.Completed), count(v.Failed), count(v.Missed))
	if v.Abandoned > 0 {
		fmt.Fprintf(b, ", %s given up", count(v.Abandoned))
	}
	fmt.Fprintf(b, ", p50 %s, p99 %s each\n\n", millis(v.Duration.P50), millis(v.Duration.P99))
	wide := 4
	for _, s := range r.Steps {
		wide = max(wide, min(utf8.RuneCountInString(s.Name), 40))
	}
	fmt.Fprintf(b, "%-*s  %9s  %9s  %9s  %9s  %9s\n", wide, "STEP", "SENT", "FAILED", "P50", "P99", "MAX")
	for _, s := range r.Steps {
		name := s.Name
		if utf8.RuneCountInString(name) > wide {
			name = string([]rune(name)[:wide-1]) + "…"
		}
		fmt.Fprintf(b, "%-*s  %9s  %9s  %9s  %9s  %9s\n", wide, name, count(s.Sent), count(s.Failed+s.Missed),
			millis(s.Latency.P50), millis(s.Latency.P99), millis(s.Latency.Max))
	}
	for _, s := range r.Steps {
		if len(s.Errors) > 0 {
			fmt.Fprintf(b, "\n%s failed: %s\n", s.Name, counts(s.Errors))
			if s.FirstFailure != "" {
				fmt.Fprintf(b, "  first: %.300s\n", s.FirstFailure)
			}
		}
	}
}

func writeCounts[K int | Kind | string](b *strings.Builder, title string, of map[K]int) {
	if len(of) > 0 {
		fmt.Fprintf(b, "%-8s  %s\n", title, counts(of))
	}
}

// counts lists numbers, the largest first.
func counts[K int | Kind | string](of map[K]int) string {
	keys := slices.Sorted(maps.Keys(of))
	sort.SliceStable(keys, func(i, j int) bool { return of[keys[i]] > of[keys[j]] })
	items := make([]string, len(keys))
	for i, key := range keys {
		items[i] = fmt.Sprintf("%v: %s", key, count(of[key]))
	}
	return strings.Join(items, ",  ")
}

// count prints n with commas between thousands.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func millis(ms *float64) string {
	switch {
	case ms == nil:
		return "-"
	case *ms < 10:
		return strconv.FormatFloat(*ms, 'f', 2, 64) + " ms"
	case *ms < 100:
		return strconv.FormatFloat(*ms, 'f', 1, 64) + " ms"
	case *ms < 10_000:
		return strconv.FormatFloat(*ms, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(*ms/1000, 'f', 1, 64) + " s"
}

// maxLatency bounds the histogram; longer ones are counted as that long, and exactly in Max.
const maxLatency = time.Hour

// maxInstances bounds the instances that are counted.
const maxInstances = 1000

// maxShown is how many instances are shown to people.
const maxShown = 20

// tally counts results in constant memory.
type tally struct {
	sent, completed, missed, failed, abandoned int
	status                                     [1000]int
	errors                                     map[Kind]int
	instances                                  map[string]int
	hist                                       *hdrhistogram.Histogram // microseconds
	max                                        time.Duration
	last                                       time.Duration // end of the last request
}

func newTally() *tally {
	return &tally{errors: map[Kind]int{}, instances: map[string]int{}, hist: hdrhistogram.New(1, maxLatency.Microseconds(), 3)}
}

func (t *tally) add(r *Result) {
	switch r.Kind {
	case Missed:
		t.missed++
		return
	case Abandoned:
		t.sent++
		t.abandoned++
		return
	}
	t.sent++
	t.last = max(t.last, r.Done)
	if r.Kind != "" {
		t.failed++
		t.errors[r.Kind]++
	}
	if r.Status == 0 {
		return
	}
	t.completed++
	t.status[r.Status]++
	if r.Instance != "" {
		if _, known := t.instances[r.Instance]; known || len(t.instances) < maxInstances {
			t.instances[r.Instance]++
		}
	}
	latency := r.Latency()
	t.max = max(t.max, latency)
	_ = t.hist.RecordValue(max(1, min(latency, maxLatency).Microseconds())) // always within bounds
}

// report copies t; elapsed is the time that it covers.
func (t *tally) report(elapsed time.Duration) Report {
	r := Report{
		Sent: t.sent, Completed: t.completed, Missed: t.missed, Failed: t.failed, Abandoned: t.abandoned,
		Status: map[int]int{}, Errors: maps.Clone(t.errors),
	}
	if len(t.instances) > 0 {
		r.Instances = maps.Clone(t.instances)
	}
	for status, n := range t.status {
		if n > 0 {
			r.Status[status] = n
		}
	}
	if elapsed > 0 {
		rate := float64(t.completed) / elapsed.Seconds()
		r.Rate = &rate
	}
	if t.completed > 0 {
		longest := float64(t.max.Microseconds()) / 1000
		l := Latency{Max: &longest, hist: hdrhistogram.Import(t.hist.Export())}
		l.P50, l.P90, l.P99, l.P999 = l.Percentile(50), l.Percentile(90), l.Percentile(99), l.Percentile(99.9)
		r.Latency = l
	}
	return r
}

func (t *tally) reset() {
	clear(t.errors)
	clear(t.instances)
	t.hist.Reset()
	*t = tally{errors: t.errors, instances: t.instances, hist: t.hist}
}
