package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxPending bounds the results that wait for the disk. At 100,000 a second it is about half a second's worth.
	maxPending = 8 << 20
	// enoughPending are so many that they are written now.
	enoughPending = 256 << 10
	// recordEvery is how often results are written at least.
	recordEvery = 250 * time.Millisecond
)

// Record is a file with a line for every start of a run, written while the run goes on: JSON objects, or comma-separated
// values where its name ends in .csv. Until the run is over the file's name ends in .partial, and so it stays when the
// run was cancelled. A line holds the intended start as a time, seq, visit and step (of a scenario), latency_ms from the
// intended start to the answer or the failure, status, error (the Kind), bytes of the body, and instance.
type Record struct {
	path, partial string // the same where path is a device or a pipe
	file          *os.File
	csv           bool

	epoch  time.Time
	steps  []string // encoded names
	last   string   // instance
	quoted string   // and encoded

	full chan struct{} // asks for a write now
	mu   sync.Mutex
	line []byte // results to be written
	free []byte // the other buffer, while it is not being written
	err  error
}

// CreateRecord opens the file at path, which it replaces.
func CreateRecord(path string) (*Record, error) {
	r := &Record{path: path, partial: path + ".partial", csv: strings.HasSuffix(strings.ToLower(path), ".csv"), full: make(chan struct{}, 1)}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return nil, fmt.Errorf("write results to %s: it is a directory", path)
	}
	if err == nil && !info.Mode().IsRegular() {
		r.partial = path
	}
	if r.file, err = os.OpenFile(r.partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644); err != nil {
		return nil, fmt.Errorf("write results: %w", err)
	}
	return r, nil
}

// Path is where the results are by now.
func (r *Record) Path() string {
	if _, err := os.Lstat(r.partial); errors.Is(err, fs.ErrNotExist) {
		return r.path
	}
	return r.partial
}

// Close closes the file; complete gives it its final name.
func (r *Record) Close(complete bool) error {
	err := r.file.Close()
	if err == nil && complete && r.partial != r.path {
		err = os.Rename(r.partial, r.path)
	}
	if err != nil {
		return fmt.Errorf("write results to %s: %w", r.path, err)
	}
	return nil
}

// begin is called once, before anything else.
func (r *Record) begin(epoch time.Time, s *Scenario) {
	r.epoch = epoch
	if s != nil {
		for _, step := range s.steps {
			r.steps = append(r.steps, r.encode(step.name))
		}
	}
	if r.csv {
		r.line = append(r.line, "time,seq,visit,step,latency_ms,status,error,bytes,instance\n"...)
	}
}

// run writes until over is closed, and then what is left. It returns early with an error.
func (r *Record) run(over <-chan struct{}) error {
	tick := time.NewTicker(recordEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return r.flush()
		case <-tick.C:
		case <-r.full:
		}
		if err := r.flush(); err != nil {
			return err
		}
	}
}

func (r *Record) flush() error {
	r.mu.Lock()
	full, err := r.line, r.err
	r.line, r.free = r.free[:0], nil
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := r.file.Write(full); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	r.mu.Lock()
	r.free = full[:0]
	r.mu.Unlock()
	return nil
}

// add takes a result over. It never waits for the disk.
func (r *Record) add(result *Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.line) > maxPending {
		r.err = fmt.Errorf("write results to %s: they come faster than the disk takes them", r.partial)
		return
	}
	if r.csv {
		r.line = r.appendCSV(r.line, result)
	} else {
		r.line = r.appendJSON(r.line, result)
	}
	if len(r.line) > enoughPending {
		select {
		case r.full <- struct{}{}:
		default:
		}
	}
}

const recordTime = "2006-01-02T15:04:05.000000Z"

func (r *Record) appendJSON(b []byte, result *Result) []byte {
	b = append(b, `{"time":"`...)
	b = r.epoch.Add(result.Intended).UTC().AppendFormat(b, recordTime)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, result.Seq, 10)
	if r.steps != nil {
		b = append(b, `,"visit":`...)
		b = strconv.AppendUint(b, result.Visit, 10)
		b = append(b, `,"step":`...)
		b = append(b, r.steps[result.Request]...)
	}
	b = append(b, `,"latency_ms":`...)
	b = appendMillis(b, result, "null")
	b = append(b, `,"status":`...)
	b = appendStatus(b, result, "null")
	if result.Kind != "" {
		b = append(b, `,"error":"`...)
		b = append(b, result.Kind...)
		b = append(b, '"')
	}
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, result.Bytes, 10)
	if result.Instance != "" {
		b = append(b, `,"instance":`...)
		b = append(b, r.instance(result.Instance)...)
	}
	return append(b, "}\n"...)
}

func (r *Record) appendCSV(b []byte, result *Result) []byte {
	b = r.epoch.Add(result.Intended).UTC().AppendFormat(b, recordTime)
	b = append(b, ',')
	b = strconv.AppendUint(b, result.Seq, 10)
	b = append(b, ',')
	if r.steps != nil {
		b = strconv.AppendUint(b, result.Visit, 10)
		b = append(b, ',')
		b = append(b, r.steps[result.Request]...)
	} else {
		b = append(b, ',')
	}
	b = append(b, ',')
	b = appendMillis(b, result, "")
	b = append(b, ',')
	b = appendStatus(b, result, "")
	b = append(b, ',')
	b = append(b, result.Kind...)
	b = append(b, ',')
	b = strconv.AppendInt(b, result.Bytes, 10)
	b = append(b, ',')
	if result.Instance != "" {
		b = append(b, r.instance(result.Instance)...)
	}
	return append(b, '\n')
}

func appendMillis(b []byte, result *Result, none string) []byte {
	if result.Kind == Missed {
		return append(b, none...)
	}
	return strconv.AppendFloat(b, float64(result.Latency().Microseconds())/1000, 'f', 3, 64)
}

func appendStatus(b []byte, result *Result, none string) []byte {
	if result.Status == 0 {
		return append(b, none...)
	}
	return strconv.AppendInt(b, int64(result.Status), 10)
}

func (r *Record) instance(name string) string {
	if name != r.last {
		r.last, r.quoted = name, r.encode(name)
	}
	return r.quoted
}

// encode makes a value of a text.
func (r *Record) encode(s string) string {
	if !r.csv {
		b, _ := json.Marshal(s) // never fails for a string
		return string(b)
	}
	if strings.ContainsAny(s, ",\"\r\n") { // RFC 4180
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}
