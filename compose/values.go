package compose

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/xhit/go-str2duration/v2"
)

// Duration is a time.Duration that is written as Compose writes it ("1m30s", "7d").
type Duration time.Duration

// String returns d as Compose writes it.
func (d Duration) String() string { return time.Duration(d).String() }

// Or returns *d, or otherwise where d is nil.
func (d *Duration) Or(otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return time.Duration(*d)
}

// MarshalJSON writes d as a string.
func (d Duration) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, d.String()), nil }

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration %q: %w", s, err)
	}
	*d = Duration(v)
	return nil
}

func (d *Duration) fromFile(v any) error {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("%v is not a duration: write a number with a unit, such as 250ms, 10s or 7d", v)
	}
	parsed, err := str2duration.ParseDuration(s)
	if err != nil || s == "" {
		return fmt.Errorf("%q is not a duration: write a number with a unit, such as 250ms, 10s or 7d", s)
	}
	if parsed < 0 {
		return fmt.Errorf("%q is negative: a duration cannot be", s)
	}
	*d = Duration(parsed)
	return nil
}

// Rate is a number of events per second, written as "50/s", "100/m" or "1000/h".
type Rate float64

// String returns r as the file writes it.
func (r Rate) String() string { return strconv.FormatFloat(float64(r), 'g', -1, 64) + "/s" }

// MarshalJSON writes r as a string.
func (r Rate) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, r.String()), nil }

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Rate) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("rate: %w", err)
	}
	return r.fromFile(s)
}

func (r *Rate) fromFile(v any) error {
	s, ok := v.(string)
	number, per, slash := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[strings.TrimSpace(per)]
	if !ok || !slash || err != nil || seconds == 0 || !(n >= 0) || math.IsInf(n, 0) {
		return fmt.Errorf("%v is not a rate: write a number per s, m or h, such as 50/s", v)
	}
	*r = Rate(n / seconds)
	return nil
}

// Size is a number of bytes, written as Compose writes it ("64MiB", "10mb").
type Size int64

func (s *Size) fromFile(v any) error {
	n, err := units.RAMInBytes(fmt.Sprint(v))
	if err != nil || n <= 0 {
		return fmt.Errorf("%v is not a size: write a number with a unit, such as 512KiB or 10MiB", v)
	}
	*s = Size(n)
	return nil
}

// Share is a part of a whole, from 0 to 1, written as "99.9%" or 0.999.
type Share float64

func (s *Share) fromFile(v any) error {
	n := math.NaN()
	switch v := v.(type) {
	case int:
		n = float64(v)
	case float64:
		n = v
	case string:
		number, percent := strings.CutSuffix(strings.TrimSpace(v), "%")
		if parsed, err := strconv.ParseFloat(strings.TrimSpace(number), 64); err == nil {
			n = parsed
			if percent {
				n = math.Round(parsed*1e10) / 1e12 // 99.9 / 100 is 0.9990000000000001
			}
		}
	}
	if !(n >= 0 && n <= 1) {
		return fmt.Errorf("%v is not a share: write a percentage such as 99.9%%, or a number from 0 to 1", v)
	}
	*s = Share(n)
	return nil
}
