// Command faults runs the tests of what goes wrong with programs, machines, disks and Trellis itself, and prints a line for
// each fault: what was tried, what held, and what was lost.
//
//	faults [NUMBER...]
//
// It is started in the repository's root. FAULTS=short has the forms that are part of every run of all tests.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	held, err := run(os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
	if !held {
		os.Exit(1)
	}
}

// run tries the faults that are named, or all; it says whether all of them held.
func run(numbers []string, out io.Writer) (held bool, err error) {
	chosen := faults
	if len(numbers) > 0 {
		chosen = nil
		for _, n := range numbers {
			i := slices.IndexFunc(faults, func(f fault) bool { return strconv.Itoa(f.number) == n })
			if i < 0 {
				return false, fmt.Errorf("there is no fault %q", n)
			}
			chosen = append(chosen, faults[i])
		}
	}
	results := map[test]*result{}
	for _, pkg := range packagesOf(chosen) {
		if err := runPackage(pkg, testsOf(chosen, pkg), results, out); err != nil {
			return false, err
		}
	}
	return table(chosen, results, out), nil
}

func packagesOf(all []fault) []string {
	var packages []string
	for _, f := range all {
		for _, t := range f.tests {
			packages = append(packages, t.pkg)
		}
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

func testsOf(all []fault, pkg string) []string {
	var names []string
	for _, f := range all {
		for _, t := range f.tests {
			if t.pkg == pkg {
				names = append(names, t.name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// result is what one test did.
type result struct {
	outcome                     string // pass, fail or skip
	tried, held, requests, lost int
	seeds                       []string
	output                      bytes.Buffer
}

// event is a line of `go test -json`.
type event struct{ Action, Test, Output string }

// runPackage runs tests of one package and adds what they did to results.
func runPackage(pkg string, names []string, results map[test]*result, out io.Writer) error {
	args := []string{"test", "-json", "-count=1", "-timeout", "150m", "-run", "^(" + strings.Join(names, "|") + ")$"}
	if pkg == "./e2e" {
		args = append(args, "-tags", "e2e", "-parallel", "5")
	}
	cmd := exec.Command("go", append(args, pkg)...)
	if pkg == "./engine/local" {
		cmd.Args = append(cmd.Args, "-seeds", cmp.Or(os.Getenv("SEEDS"), "20000"))
	}
	cmd.Env = append(os.Environ(), "FAULTS="+cmp.Or(os.Getenv("FAULTS"), "long"))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.Join(cmd.Args, " "))
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		var ev event
		if json.Unmarshal(lines.Bytes(), &ev) != nil {
			continue
		}
		name, _, sub := strings.Cut(ev.Test, "/")
		if name == "" {
			continue
		}
		r := results[test{pkg, name}]
		if r == nil {
			r = &result{}
			results[test{pkg, name}] = r
		}
		r.take(ev, sub)
	}
	var failed *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &failed) {
		return err
	}
	return nil
}

var verdict = regexp.MustCompile(`verdict: (\d+) tried, (\d+) held, (\d+) requests, (\d+) lost, seed (\d+)`)

// take adds an event of a test, or of one of its parts.
func (r *result) take(ev event, sub bool) {
	switch ev.Action {
	case "output":
		r.output.WriteString(ev.Output)
		if m := verdict.FindStringSubmatch(ev.Output); m != nil {
			for i, n := range []*int{&r.tried, &r.held, &r.requests, &r.lost} {
				v, _ := strconv.Atoi(m[i+1])
				*n += v
			}
			r.seeds = append(r.seeds, m[5])
		}
	case "pass", "fail", "skip":
		if !sub {
			r.outcome = ev.Action
		}
	}
}

// table prints a line for each fault, and what failed tests printed; it says whether every test passed.
func table(chosen []fault, results map[test]*result, out io.Writer) bool {
	whole := true
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nFAULT\t\tTESTS\tTRIED\tHELD\tREQUESTS\tLOST\tSEEDS")
	for _, f := range chosen {
		var sum result
		passed := 0
		var amiss []string
		for _, t := range f.tests {
			r := results[t]
			if r == nil || r.outcome != "pass" {
				outcome := "did not run"
				if r != nil && r.outcome != "" {
					outcome = r.outcome
				}
				amiss = append(amiss, t.name+": "+outcome)
				whole = whole && outcome == "skip"
				continue
			}
			passed++
			sum.tried, sum.held, sum.requests, sum.lost = sum.tried+r.tried, sum.held+r.held, sum.requests+r.requests, sum.lost+r.lost
			sum.seeds = append(sum.seeds, r.seeds...)
		}
		counted := "-\t-\t-\t-" // its tests pass or fail, and count nothing
		if sum.tried > 0 {
			counted = fmt.Sprintf("%d\t%d\t%d\t%d", sum.tried, sum.held, sum.requests, sum.lost)
		}
		fmt.Fprintf(w, "%d\t%s\t%d/%d\t%s\t%s\n", f.number, f.what, passed, len(f.tests), counted,
			strings.Join(append(sum.seeds, amiss...), " "))
	}
	_ = w.Flush()
	for t, r := range results {
		if r.outcome == "fail" || r.outcome == "" {
			fmt.Fprintf(out, "\n%s %s\n%s", t.pkg, t.name, r.output.Bytes())
		}
	}
	return whole
}
