package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// topRow is a line of top: a service, or one of its instances.
type topRow struct {
	name                             string
	rate, failed, p95, inFlight, cpu *float64
	memory                           int64
	read, written                    *int64
	processes                        *int
	restarts                         int
	state                            string
}

func (v usageView) row() topRow {
	return topRow{
		name: "  " + string(v.Instance), rate: v.Rate, failed: v.Errors, p95: v.P95, inFlight: v.InFlight, cpu: v.CPU, memory: v.Memory, read: v.Read,
		written: v.Written, processes: v.Processes, restarts: v.Restarts, state: v.State,
	}
}

// sumOf adds the instances of a service up. Its percentile is its own: it is none of a sum.
func (m measurement) sumOf(svc string, state string, views []usageView) topRow {
	r := topRow{name: svc, state: state}
	r.rate, r.failed, r.p95 = m.flow(m.recent.Services[svc])
	for _, v := range views {
		r.inFlight, r.cpu = sum(r.inFlight, v.InFlight), sum(r.cpu, v.CPU)
		r.memory, r.restarts = r.memory+v.Memory, r.restarts+v.Restarts
		r.read, r.written, r.processes = sum(r.read, v.Read), sum(r.written, v.Written), sum(r.processes, v.Processes)
	}
	return r
}

// sum adds what is known of two numbers; nil is not known.
func sum[T int | int64 | float64](a, b *T) *T {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	c := *a + *b
	return &c
}

// rows returns a line for each service and one for each of its instances, in the services' order; and one for the gateway that requests
// are shifted to, which goes by its URL.
func (m measurement) rows(views []usageView) []topRow {
	byService := map[string][]usageView{}
	var order []string
	states := map[string]string{}
	for _, svc := range m.services {
		states[svc.Name] = svc.State
	}
	for _, v := range views {
		if byService[v.Service] == nil {
			order = append(order, v.Service)
		}
		byService[v.Service] = append(byService[v.Service], v)
	}
	var all []topRow
	for _, name := range order {
		all = append(all, m.sumOf(name, states[name], byService[name]))
		for _, v := range byService[name] {
			all = append(all, v.row())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.recent.Services)) {
		if strings.Contains(name, "://") {
			all = append(all, m.sumOf(name, "", nil))
		}
	}
	return all
}

func topTable(s style, m measurement, views []usageView) table {
	t := table{
		head:  []string{"SERVICE", "STATE", "REQ/S", "ERRORS", "P95", "NOW", "CPU %", "MEMORY", "RESTARTS", "PROCS", "READ", "WRITTEN"},
		right: map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true, 9: true, 10: true, 11: true},
	}
	for _, r := range m.rows(views) {
		name, failed := r.name, shown(r.failed, 100, "%.1f %%")
		if name[0] != ' ' {
			name = s.bold(name)
		}
		if r.failed != nil && *r.failed > 0 {
			failed = s.red(failed)
		}
		t.add(name, topState(s, r.state), shown(r.rate, 1, "%.1f"), failed, shown(r.p95, 1, "%.1f ms"), shown(r.inFlight, 1, "%.0f"),
			shown(r.cpu, 1, "%.1f"), bytesOf(r.memory), fmt.Sprint(r.restarts), measured(r.processes, func(n int) string { return fmt.Sprint(n) }),
			measured(r.read, bytesOf), measured(r.written, bytesOf))
	}
	return t
}

// measured writes a number, "-" where it is not known.
func measured[T any](n *T, write func(T) string) string {
	if n == nil {
		return "-"
	}
	return write(*n)
}

func topState(s style, state string) string {
	if state == "" {
		return "-"
	}
	return paintState(s, state)
}

// shown is a number times a factor, "-" where there is none.
func shown(v *float64, by float64, format string) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf(format, *v*by)
}

// wideTop is the width from which on instances have their whole names in the live view.
const wideTop = 110

// withoutHash takes off the end of an instance's name, which says of which definition it is.
func withoutHash(name string) string {
	if i := strings.LastIndexByte(name, '-'); strings.HasPrefix(name, " ") && i > 0 && len(name)-i == len("-0123abcd") {
		return name[:i]
	}
	return name
}

// topPicture returns the live view's lines, cut to the terminal.
func (p *program) topPicture(project string, m measurement, views []usageView) []string {
	width, height := sizeOf(p.stdout)
	var cpu, rate float64
	var memory int64
	for _, v := range views {
		if v.CPU != nil {
			cpu += *v.CPU
		}
		if v.Rate != nil {
			rate += *v.Rate
		}
		memory += v.Memory
	}
	s := p.styleOf(p.stdout)
	lines := []string{s.fit(fmt.Sprintf("%s  %d instances  %.1f requests/s  %.1f %% CPU  %s", project, len(views), rate, cpu, bytesOf(memory)), width)}
	t := topTable(style{ascii: s.ascii}, m, views)
	if width < wideTop {
		for _, row := range t.rows {
			row[0] = withoutHash(row[0])
		}
	}
	t.narrow(width, 2)
	for _, line := range t.lines(style{ascii: s.ascii}) {
		lines = append(lines, s.fit(line, width))
	}
	if len(lines) > height-1 {
		more := len(lines) - height + 2
		lines = append(lines[:height-2], fmt.Sprintf("%s %d more", s.glyph("…", "..."), more))
	}
	return lines
}
