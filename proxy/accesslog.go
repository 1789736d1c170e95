package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// accessLog writes one JSON object a line for each request that is chosen. A request only appends to a buffer, which is
// written by another goroutine; when that does not come after, lines are dropped and counted, and no request waits.
type accessLog struct {
	out  io.Writer
	more chan struct{} // capacity 1: there is enough to be written

	mu      sync.Mutex
	buf     []byte
	dropped uint64

	second int64 // whose text is in stamp
	stamp  []byte
}

const (
	logPause  = 500 * time.Millisecond // how late a line may be written
	logEnough = 64 << 10               // bytes that are written at once
	logMost   = 1 << 20                // bytes that may wait
)

func newAccessLog(out io.Writer) *accessLog {
	return &accessLog{out: out, more: make(chan struct{}, 1)}
}

// run writes until ctx is done, and what there is then.
func (a *accessLog) run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(logPause)
	defer tick.Stop()
	var spare []byte
	for done := false; !done; {
		select {
		case <-a.more:
		case <-tick.C:
		case <-ctx.Done():
			done = true
		}
		a.mu.Lock()
		full, dropped := a.buf, a.dropped
		a.buf, a.dropped = spare[:0], 0
		a.mu.Unlock()
		if dropped > 0 {
			full = append(full, `{"dropped":`...)
			full = append(strconv.AppendUint(full, dropped, 10), "}\n"...)
		}
		if len(full) > 0 {
			if _, err := a.out.Write(full); err != nil {
				failed(err)
			}
		}
		spare = full
	}
}

// chosen says whether a request with that status is logged: a share of all, and whatever went wrong.
func chosen(share float64, status int) bool {
	return share > 0 && (share >= 1 || status >= 500 || status == 0 || rand.Float64() < share)
}

// add logs a request that has ended.
func (a *accessLog) add(q *request, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.buf) > logMost {
		a.dropped++
		return
	}
	b := append(a.buf, `{"time":"`...)
	b = a.appendTime(b, now)
	b = append(b, `","client":"`...)
	b = q.client.AppendTo(b)
	b = appendString(b, `","method":`, q.method)
	b = appendString(b, `,"host":`, q.authority)
	b = appendString(b, `,"path":`, q.path)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(q.status), 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, q.sent, 10)
	b = append(b, `,"ms":`...)
	us := now.Sub(q.began).Microseconds()
	b = strconv.AppendInt(b, us/1000, 10)
	b = append(b, '.', byte('0'+us/100%10), byte('0'+us/10%10), byte('0'+us%10))
	if q.service != "" {
		b = appendString(b, `,"service":`, q.service)
	}
	if q.instance != "" {
		b = appendString(b, `,"instance":`, q.instance)
	}
	b = appendString(b, `,"request_id":`, q.id)
	if q.streamed {
		b = append(b, `,"protocol":"HTTP/2.0"`...)
	} else {
		b = append(b, `,"protocol":"HTTP/1.1"`...)
	}
	if q.failure != "" {
		b = appendString(b, `,"error":`, q.failure)
	}
	a.buf = append(b, "}\n"...)
	if len(a.buf) > logEnough {
		select {
		case a.more <- struct{}{}:
		default: // it is on its way
		}
	}
}

// appendTime appends the time as RFC 3339 has it, in UTC, with milliseconds.
func (a *accessLog) appendTime(b []byte, now time.Time) []byte {
	if s := now.Unix(); s != a.second {
		a.second = s
		a.stamp = now.UTC().AppendFormat(a.stamp[:0], "2006-01-02T15:04:05.")
	}
	ms := now.Nanosecond() / int(time.Millisecond)
	b = append(b, a.stamp...)
	return append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendString appends what comes before it and a JSON string. A byte that is no UTF-8 becomes U+FFFD.
func appendString(b []byte, before, s string) []byte {
	b = append(b, before...)
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, s[from:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		default:
			b = append(b, "\ufffd"...)
		}
		i += size
		from = i
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
