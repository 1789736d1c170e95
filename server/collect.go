package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"trellis/engine"
	"trellis/proxy"
	"trellis/telemetry"
)

// collectPause is the pause between two rounds.
const collectPause = 5 * time.Second

// collect writes down, round after round, what data planes, engine and machine say of the project.
func (s *sight) collect(ctx context.Context) error {
	select {
	case <-s.metrics.Opened():
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(collectPause)
	defer tick.Stop()
	for round := uint64(1); ; round++ {
		samples, err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s.forward.AddSamples(samples)
		if err := s.metrics.Append(ctx, round, samples); err != nil {
			s.log.Warn("a round of metrics was lost", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// gathering is one round.
type gathering struct {
	at      time.Time
	started time.Time // of this control plane
	samples []telemetry.Sample
}

// add adds a sample; labels are names and values in turn, and an empty value is no label.
func (g *gathering) add(name string, v float64, labels ...string) *telemetry.Sample {
	l := map[string]string{"__name__": name}
	for i := 0; i+1 < len(labels); i += 2 {
		if labels[i+1] != "" {
			l[labels[i]] = labels[i+1]
		}
	}
	g.samples = append(g.samples, telemetry.Sample{Labels: l, Time: g.at, Value: v})
	return &g.samples[len(g.samples)-1]
}

// began says when a count began, if nothing can have been written of it before.
func (g *gathering) began(s *telemetry.Sample, since time.Time) {
	if since.After(g.started) && g.at.Sub(since) < time.Minute {
		s.Created = since
	}
}

// count adds what is counted since this control plane runs: what the first round finds has come since then, and is to be seen.
func (g *gathering) count(name string, v float64, labels ...string) {
	s := g.add(name, v, labels...)
	if s.Created = g.at.Add(-collectPause); s.Created.Before(g.started) {
		s.Created = g.started
	}
}

func (s *sight) round(ctx context.Context) ([]telemetry.Sample, error) {
	st, err := s.of.observe(ctx)
	if err != nil {
		return nil, err
	}
	g := &gathering{at: time.Now(), started: s.started}
	if len(st.Services) == 0 {
		return nil, nil
	}
	g.state(st)
	if drifted := s.of.drifts(); drifted != nil {
		for _, svc := range st.Services {
			g.add("trellis_drifts", float64(drifted[svc.Name]), "service", svc.Name)
		}
	}
	if usage, err := s.of.usage(ctx); err == nil { // without it the rest is no less true
		g.usage(st, usage)
	}
	c := &gathering{at: g.at, started: g.started} // what the data planes tell they tell everybody
	spoken := s.calls(ctx, c)
	s.metrics.SetTargets(s.targets.find(ctx, st, spoken))
	if err := s.ends.add(ctx, s.of.happened, g, st); err != nil {
		return nil, err
	}
	s.secured(g, st)
	g.machine(s.dir)
	g.health("metrics", s.metrics.Health())
	g.health("traces", s.traces.Health())
	g.health("logs", s.logs.Health())
	g.health("forward", s.forward.Health())
	g.health("remote write", s.metrics.RemoteHealth())
	if s.tells {
		s.told.Store(g)
	}
	return slices.Concat(c.samples, g.samples), nil
}

// state adds what the engine observes.
func (g *gathering) state(st engine.State) {
	for _, svc := range st.Services {
		g.add("trellis_replicas_wanted", float64(svc.Want), "service", svc.Name)
		g.add("trellis_replicas_ready", float64(svc.Ready), "service", svc.Name)
		g.add("trellis_service_state", 1, "service", svc.Name, "state", svc.State)
		g.add("trellis_service_revision", float64(svc.Revision), "service", svc.Name)
		if svc.Unknown != nil {
			g.add("trellis_service_unknown", 1, "service", svc.Name, "driver", svc.Unknown.Driver)
		}
		for _, in := range svc.Instances {
			ready := 0.0
			if in.Ready {
				ready = 1
			}
			g.add("trellis_instance_ready", ready, "service", svc.Name, "instance", string(in.ID), "revision", revisionLabel(in.Revision))
			g.add("trellis_instance_restarts_total", float64(in.Restarts), "service", svc.Name, "instance", string(in.ID))
		}
	}
}

func revisionLabel(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// usage adds what instances use of the machine, and their limits.
func (g *gathering) usage(st engine.State, usage []engine.Usage) {
	pids := map[engine.InstanceID]int{}
	for _, svc := range st.Services {
		for _, in := range svc.Instances {
			pids[in.ID] = in.PID
		}
	}
	own, _ := os.Readlink("/proc/self/ns/net")
	for _, u := range usage {
		who := []string{"service", u.Service, "instance", string(u.Instance)}
		g.add("trellis_instance_cpu_seconds_total", u.Usage.CPU.Seconds(), who...)
		g.add("trellis_instance_memory_bytes", float64(u.Usage.Memory), who...)
		if measuredWhole(u.Usage) {
			g.add("trellis_instance_processes", float64(u.Usage.Processes), who...)
			g.add("trellis_instance_read_bytes_total", float64(u.Usage.ReadBytes), who...)
			g.add("trellis_instance_written_bytes_total", float64(u.Usage.WriteBytes), who...)
		}
		if st.Desired != nil {
			limits := st.Desired.Services[u.Service].Deploy.Resources.Limits
			if limits.Memory > 0 {
				g.add("trellis_instance_memory_limit_bytes", float64(limits.Memory), who...)
			}
			if limits.CPUs > 0 {
				g.add("trellis_instance_cpu_limit", float64(limits.CPUs), who...)
			}
		}
		if received, sent, ok := network(pids[u.Instance], own); ok {
			g.add("trellis_instance_network_received_bytes_total", float64(received), who...)
			g.add("trellis_instance_network_sent_bytes_total", float64(sent), who...)
		}
	}
}

// network returns what the network namespace of a process has received and sent, loopback left out; ok is false for one
// that shares this process's own.
func network(pid int, own string) (received, sent uint64, ok bool) {
	if pid == 0 {
		return 0, 0, false
	}
	if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil || ns == own {
		return 0, 0, false
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, found := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if !found || len(fields) < 9 || strings.TrimSpace(name) == "lo" {
			continue
		}
		in, _ := strconv.ParseUint(fields[0], 10, 64)
		out, _ := strconv.ParseUint(fields[8], 10, 64)
		received, sent = received+in, sent+out
	}
	return received, sent, true
}

// calls adds what the data planes have counted, and returns which services have answered HTTP requests.
func (s *sight) calls(ctx context.Context, g *gathering) (spoken map[string]bool) {
	spoken = map[string]bool{}
	addresses, err := s.planes.list()
	if err != nil {
		return spoken
	}
	for _, address := range addresses {
		c, err := callsOf(ctx, s.planes, address)
		if err != nil {
			continue // it is about to end, or has just begun
		}
		s.lostSpans.note(s, c)
		g.plane(c, s.examples.take)
		for _, call := range c.Calls {
			spoken[call.Service] = true
		}
	}
	return spoken
}

// plane adds what one data plane has counted; example returns an example of a call that was not given before, nil where there is none.
func (g *gathering) plane(c proxy.Calls, example func(proxy.Call) *telemetry.Exemplar) {
	plane := c.Boot[:min(len(c.Boot), 8)]
	g.add("trellis_proxy_faults_total", float64(c.Faults), "proxy", plane)
	for _, f := range c.InFlight {
		g.add("trellis_requests_in_flight", float64(f.Count), "service", f.Service, "instance", f.Instance, "revision", revisionLabel(f.Revision), "caller", f.Caller, "route", f.Route, "proxy", plane)
	}
	for name, n := range c.Services {
		g.add("trellis_requests_held_total", float64(n.Held), "service", name, "proxy", plane)
		g.add("trellis_connections_total", float64(n.Connections), "service", name, "proxy", plane)
		if len(n.ColdStarts) > 0 {
			g.add("trellis_cold_start_seconds", 0, "service", name, "proxy", plane).Distribution = n.ColdStarts.Distribution()
		}
	}
	for _, r := range c.Retries {
		one := g.add("trellis_retries_total", float64(r.Count), "service", r.Service, "revision", revisionLabel(r.Revision), "caller", r.Caller, "route", r.Route, "proxy", plane)
		g.began(one, r.Since)
	}
	for _, call := range c.Calls {
		g.call(call, plane, example(call))
	}
}

// call adds one way that requests went.
func (g *gathering) call(c proxy.Call, plane string, example *telemetry.Exemplar) {
	who := []string{"service", c.Service, "instance", c.Instance, "revision", revisionLabel(c.Revision), "caller", c.Caller, "route", c.Route, "proxy", plane}
	for i, n := range c.Status {
		if n == 0 {
			continue
		}
		code := strconv.Itoa(i) + "xx"
		if i == 0 {
			code = "client gone"
		}
		g.began(g.add("trellis_requests_total", float64(n), append(who, "code", code)...), c.Since)
	}
	g.began(g.add("trellis_request_failures_total", float64(c.Failed), who...), c.Since)
	d := g.add("trellis_request_duration_seconds", 0, who...)
	d.Distribution, d.Exemplar = c.Latency.Distribution(), example
	g.began(d, c.Since)
}

func callsOf(ctx context.Context, of planes, address string) (proxy.Calls, error) {
	ctx, cancel := context.WithTimeout(ctx, planeAnswers)
	defer cancel()
	var c proxy.Calls
	resp, err := of.ask(ctx, address, "/calls")
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	return c, json.NewDecoder(resp.Body).Decode(&c)
}

// machine adds the disk that the project's state is on.
func (g *gathering) machine(dir string) {
	var disk unix.Statfs_t
	if unix.Statfs(dir, &disk) != nil {
		return
	}
	g.add("trellis_disk_free_bytes", float64(disk.Bavail)*float64(disk.Bsize))
	g.add("trellis_disk_size_bytes", float64(disk.Blocks)*float64(disk.Bsize))
}

// health adds how a store does.
func (g *gathering) health(store string, h telemetry.Health) {
	g.add("trellis_telemetry_accepted_total", float64(h.Accepted), "store", store)
	g.add("trellis_telemetry_bytes", float64(h.Bytes), "store", store)
	for _, reason := range []string{
		telemetry.LossQueueFull, telemetry.LossTooLate, telemetry.LossTooLarge, telemetry.LossDisk, telemetry.LossInvalid, telemetry.LossLimit,
	} {
		g.add("trellis_telemetry_lost_total", float64(h.Lost[reason]), "store", store, "reason", reason)
	}
}

// spanLoss counts the spans that data planes could not keep.
type spanLoss struct {
	seen map[string]uint64 // by boot
}

// note adds what a data plane has lost since it was asked last. Only collect calls it.
func (l *spanLoss) note(s *sight, c proxy.Calls) {
	if l.seen == nil {
		l.seen = map[string]uint64{}
	}
	if before := l.seen[c.Boot]; c.LostSpan > before {
		s.traces.Lose(telemetry.LossLimit, int(c.LostSpan-before))
	}
	l.seen[c.Boot] = c.LostSpan
}
