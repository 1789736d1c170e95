package proxy

import (
	"strconv"
	"time"

	"trellis/proxy/http1"
)

// timing is the way in which a request says how long its caller waits. The instance is told in the same way what is left
// of it.
type timing uint8

const (
	untimed      timing = iota
	timedGRPC           // grpc-timeout: digits and a unit (gRPC over HTTP/2, "Requests")
	timedConnect        // connect-timeout-ms (the Connect protocol, "Unary-Request")
	timedMillis         // for everything else: there is no standard
)

// timingFields are the fields by timing.
var timingFields = [...]string{timedGRPC: "Grpc-Timeout", timedConnect: "Connect-Timeout-Ms", timedMillis: "X-Request-Timeout-Ms"}

// setDeadline reads how long the caller waits, from now on. What can't be read, or is there twice, goes on as it is.
func (q *request) setDeadline(now time.Time) {
	if q.timing != untimed {
		return // an earlier call for the same request has
	}
	for i := range q.header {
		f := &q.header[i]
		t := timingOf(f)
		if t == untimed || t == timedGRPC && !q.grpc {
			continue
		}
		value, once := q.header.Only(timingFields[t])
		if !once {
			return
		}
		d, ok := millis(value)
		if t == timedGRPC {
			d, ok = grpcTimeout(value)
		}
		if ok {
			q.timing, q.deadline = t, now.Add(d)
		}
		return
	}
}

// timingOf tells the fields by their length first: every request is asked.
func timingOf(f *http1.Field) timing {
	if f.Kind != http1.Other {
		return untimed
	}
	for t := timedGRPC; t <= timedMillis; t++ {
		if len(f.Name) == len(timingFields[t]) && f.Is(timingFields[t]) {
			return t
		}
	}
	return untimed
}

const (
	maxTimingDigits = 8 // as gRPC has it
	longestTiming   = 1000 * time.Hour
)

// digits reads 1 to 8 digits.
func digits(s string) (int64, bool) {
	if len(s) == 0 || len(s) > maxTimingDigits {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func millis(s string) (time.Duration, bool) {
	n, ok := digits(s)
	return time.Duration(n) * time.Millisecond, ok
}

// grpcTimeout reads the value of grpc-timeout. More than 1,000 hours are as good as 1,000.
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n, ok := digits(s[:len(s)-1])
	if n > int64(longestTiming/unit) {
		return longestTiming, ok
	}
	return time.Duration(n) * unit, ok
}

// left returns what is left of the caller's time as an instance is told it: at least a millisecond, which is no more than
// is lost on the way.
func (q *request) left(now time.Time) string {
	ms := max(q.deadline.Sub(now).Milliseconds(), 1)
	if q.timing != timedGRPC {
		return strconv.FormatInt(min(ms, 99_999_999), 10)
	}
	if ms > 99_999_999 {
		return strconv.FormatInt(ms/1000, 10) + "S"
	}
	return strconv.FormatInt(ms, 10) + "m"
}

// late says whether the caller waits no longer.
func (q *request) late(now time.Time) bool { return q.timing != untimed && !now.Before(q.deadline) }

// within returns timeout, or what is left of the caller's time where that is shorter. A limit may be set an eighth longer
// than it is asked for, see limitRead; what is left is not.
func (q *request) within(timeout time.Duration, now time.Time) time.Duration {
	if q.timing == untimed {
		return timeout
	}
	left := q.deadline.Sub(now)
	if left = max(left-left/9, 1); timeout <= 0 || left < timeout {
		return left
	}
	return timeout
}

// tooLate is the answer to a request whose caller waits no longer.
func (q *request) tooLate() *failure {
	return &failure{status: 504, kind: kindTimeout, detail: "the time that the request came with is over (" + timingFields[q.timing] + ")"}
}
