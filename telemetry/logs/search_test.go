package logs

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"trellis/telemetry"
)

// TestEveryWayOfLookingFindsTheSame: the newest of what matches are found, however seldom it is, in whatever order rows came,
// and whether or not the newest rows have enough of it.
func TestEveryWayOfLookingFindsTheSame(t *testing.T) {
	s := store(t)
	now := time.Now()
	random := rand.New(rand.NewPCG(1, 2))
	var all []telemetry.Record
	for i := range 400 {
		r := telemetry.Record{
			Time: now.Add(-time.Duration(random.IntN(3*3600)) * time.Second).UTC(), Service: []string{"web", "api"}[random.IntN(2)],
			Body: fmt.Sprintf("line %d ends", i), Severity: "info",
		}
		switch {
		case i%50 == 7:
			r.Body = fmt.Sprintf("line %d: Disk\u212A 100%%_full\\ ends", i)
		case i%50 == 8:
			r.Body = fmt.Sprintf("line %d: DIS\u212A and\x00Disk 100%%_FULL\\", i)
		}
		all = append(all, r)
	}
	s.AddRecords(all)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(all, func(a, b telemetry.Record) int { return a.Time.Compare(b.Time) })
	for _, f := range []telemetry.RecordFilter{
		{Grep: "ends"}, {Grep: "Disk"}, {Grep: "(?i)disk"}, {Grep: "(?i)K 100%_FULL\\\\"}, {Grep: "line 3.*(full|ends)"}, {Grep: "(?i)dis\u212A"}, {Grep: "[0-9]7 "},
		{Grep: "nothing"}, {Services: []string{"api"}}, {Services: []string{"web"}, Grep: "(?i)FULL"}, {Severity: "info", Grep: "line 1"}, {Severity: "error"},
	} {
		for _, limit := range []int{3, 1000} {
			var want []string
			re := regexp.MustCompile(f.Grep)
			for _, r := range all {
				if (len(f.Services) == 0 || slices.Contains(f.Services, r.Service)) && re.MatchString(r.Body) && f.Severity != "error" {
					want = append(want, r.Body)
				}
			}
			want = want[max(0, len(want)-limit):]
			for _, probe := range []int{0, 5, probeRows} {
				f.Since, f.Limit = now.Add(-4*time.Hour), limit
				sel, err := selectionOf(f)
				if err != nil {
					t.Fatal(err)
				}
				sel.probe = probe
				found, err := s.find(t.Context(), sel)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, r := range found {
					got = append(got, r.Body)
				}
				if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
					t.Errorf("%+v, probe %d:\n%s", f, probe, diff)
				}
				if !slices.IsSortedFunc(found, func(a, b telemetry.Record) int { return a.Time.Compare(b.Time) }) {
					t.Errorf("%+v, probe %d: not in order of time", f, probe)
				}
			}
		}
	}
}

func sorted(texts []string) []string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return texts
}

// FuzzContain: what is left out before a regular expression is tried does not match it.
func FuzzContain(f *testing.F) {
	for pattern, body := range map[string]string{"(?i)disk": "the DIS\u212A", "a%b": "a%b", "(?i)straße": "STRASSE straße", "x+y": "xxy", "(?i)\u017f": "S"} {
		f.Add(pattern, body)
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	f.Fuzz(func(t *testing.T, pattern, body string) {
		re, err := regexp.Compile(pattern)
		if err != nil || !utf8.ValidString(body) { // as whatever is kept is
			return
		}
		sel := &selection{}
		more := sel.contain(pattern)
		if sel.cond == "" {
			return
		}
		var kept bool
		query := "SELECT count(*) FROM (SELECT ? AS body) WHERE 1" + sel.cond
		if err := db.QueryRow(query, append([]any{body}, sel.args...)...).Scan(&kept); err != nil {
			t.Fatal(err)
		}
		if match := re.MatchString(body); match && !kept || !more && match != kept {
			t.Errorf("%q of %q: matches %v, kept %v by%s %q", pattern, body, match, kept, sel.cond, sel.args)
		}
	})
}
