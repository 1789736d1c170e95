package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/engine"
	"trellis/state"
)

func (p *program) psCommand() *cobra.Command {
	var quiet, instances bool
	cmd := &cobra.Command{
		Use:   "ps [SERVICE...]",
		Short: "Show the services, their state and their instances",
		Long: `Ps shows how the project stands: each service's state, how many of the wanted
instances are ready, its published ports, and why it is not healthy.

A service is healthy, starting, degraded (some instances ready, or not known),
crash-looping, stopped, completed (ran to its end) or failed.`,
		Example: `  trellis ps                  one line for each service
  trellis ps -i               the instances too: pid, address, restarts
  trellis ps --format json    everything, for programs`,
		Args:              arguments(0, -1),
		ValidArgsFunction: p.completeServices,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the instances' IDs")
	cmd.Flags().BoolVarP(&instances, "instances", "i", false, "show the instances of each service")
	format := formatFlag(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		status, err := p.status(cmd.Context())
		if err != nil {
			return err
		}
		if err := known(names, serviceNames(status.State)); err != nil {
			return err
		}
		status.Services = filtered(status.Services, names)
		switch {
		case format.json():
			return p.writeJSON(psView(status))
		case quiet:
			for _, svc := range status.Services {
				for _, in := range svc.Instances {
					fmt.Fprintln(p.stdout, in.ID)
				}
			}
			return nil
		case status.ControlPlane.PID == 0 && len(status.Services) == 0:
			return nil // it was said that nothing runs
		}
		return p.writeStatus(p.stdout, status, instances)
	}
	return p.project(cmd)
}

// status returns how the project stands; one without a control plane has no services.
func (p *program) status(ctx context.Context) (api.Status, error) {
	control, closer, l, err := p.connect(ctx)
	var off notRunning
	switch {
	case errors.As(err, &off) && l.Cluster != nil:
		p.progressf("%s is not running; start it with 'trellis up --on kubernetes'", off.project)
		return api.Status{State: engine.State{Project: off.project, Engine: onKubernetes}}, nil
	case errors.As(err, &off):
		p.progressf("%s is not running; start it with 'trellis up -d'", off.project)
		return api.Status{State: engine.State{Project: off.project, Engine: onLocal}}, nil
	case err != nil:
		return api.Status{}, err
	}
	defer closer.Close()
	return control.Status(ctx)
}

func filtered(services []engine.Service, names []string) []engine.Service {
	if len(names) == 0 {
		return services
	}
	var kept []engine.Service
	for _, svc := range services {
		for _, name := range names {
			if svc.Name == name {
				kept = append(kept, svc)
				break
			}
		}
	}
	return kept
}

// writeStatus prints a status for people.
func (p *program) writeStatus(w io.Writer, status api.Status, instances bool) error {
	s := p.styleOf(w)
	head := s.bold(status.Project)
	if status.Revision > 0 {
		head += fmt.Sprintf("  revision %d", status.Revision)
		if how := standing(status); how != "" {
			head += " " + how
		}
	}
	if status.Ends != nil {
		head += "  ends " + status.Ends.Local().Format("2006-01-02 15:04:05")
	}
	for _, address := range []*string{status.Gateway.HTTP, status.Gateway.HTTPS, status.Console} {
		if address != nil {
			head += "  " + s.cyan(*address)
		}
	}
	fmt.Fprintf(w, "%s\n\n", head)
	t := table{head: []string{"SERVICE", "STATE", "READY", "REV", "RESTARTS", "PORTS"}, right: map[int]bool{2: true, 3: true, 4: true}}
	for _, svc := range status.Services {
		restarts := 0
		for _, in := range svc.Instances {
			restarts += in.Restarts
		}
		t.add(svc.Name, paintState(s, svc.State), fmt.Sprintf("%d/%d", svc.Ready, svc.Want), orDash(digits(svc.Revision)),
			strconv.Itoa(restarts), orDash(portList(svc.Ports)))
	}
	if err := t.write(w, s); err != nil {
		return err
	}
	writeReasons(w, s, status.Services)
	for i, line := range unservedLines(status.Unserved) {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s %s\n", s.yellow("not served:"), s.fit(line, 200))
	}
	if instances {
		return writeInstances(w, s, status.Services)
	}
	return nil
}

// standing says how the newest revision does: its outcome, and where it came up well how many services are well by now.
func standing(status api.Status) string {
	well := 0
	for _, svc := range status.Services {
		if settledWell(svc) {
			well++
		}
	}
	if status.Outcome != state.Healthy || well == len(status.Services) {
		return status.Outcome
	}
	return fmt.Sprintf("%d/%d healthy", well, len(status.Services))
}

func writeReasons(w io.Writer, s style, services []engine.Service) {
	first := true
	for _, svc := range services {
		note := noteOf(svc)
		if note == "" || settledWell(svc) && svc.Reason == "" {
			continue
		}
		if first {
			fmt.Fprintln(w)
			first = false
		}
		fmt.Fprintf(w, "%s: %s\n", s.yellow(svc.Name), s.fit(note, 200))
	}
}

// unservedLines says what a gateway of the cluster's own does not serve, and why: routes for which that is the same in one line.
func unservedLines(all []engine.Unserved) []string {
	var lines []string
	for i, u := range all {
		if slices.ContainsFunc(all[:i], func(o engine.Unserved) bool { return o.Reason == u.Reason }) {
			continue
		}
		var routes []string
		for _, o := range all[i:] {
			if o.Reason == u.Reason && o.Route != "" {
				routes = append(routes, o.Route)
			}
		}
		what := "every route"
		if len(routes) > 0 {
			what = strings.Join(routes, ", ")
		}
		lines = append(lines, what+": "+oneLine(u.Reason))
	}
	return lines
}

func writeInstances(w io.Writer, s style, services []engine.Service) error {
	t := table{head: []string{"INSTANCE", "STATE", "PID", "RESTARTS", "REV", "ADDRESS", "DRIVER"}, right: map[int]bool{2: true, 3: true, 4: true}}
	for _, svc := range services {
		for _, in := range svc.Instances {
			state := in.State
			if in.Exit != nil {
				state += " (" + answerOf(in) + ")"
			}
			t.add(string(in.ID), state, orDash(digits(int64(in.PID))), strconv.Itoa(in.Restarts), orDash(digits(in.Revision)),
				orDash(in.Address), orDash(in.Driver))
		}
	}
	fmt.Fprintln(w)
	return t.write(w, s)
}

// digits writes a number that may not exist.
func digits(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func paintState(s style, state string) string {
	_, paint := treeView{}.mark(fitting{style: s}, state)
	return paint(state)
}

// portList writes ports as Compose users know them: "0.0.0.0:8080->80/tcp".
func portList(ports []engine.Port) string {
	var all []string
	for _, port := range ports {
		if port.Published == 0 {
			continue
		}
		host := port.HostIP
		if host == "" {
			host = "0.0.0.0"
		}
		all = append(all, fmt.Sprintf("%s:%d->%d/%s", host, port.Published, port.Target, port.Protocol))
	}
	return strings.Join(all, ", ")
}

// The JSON of ps: an api.Status in which numbers that do not exist are null.
type (
	statusView struct {
		api.Status
		Revision     *int64        `json:"revision"`
		ControlPlane processView   `json:"control_plane"`
		Proxy        processView   `json:"proxy"`
		Holder       processView   `json:"holder"`
		Services     []serviceView `json:"services"`
	}
	processView struct {
		PID *int `json:"pid"`
	}
	serviceView struct {
		engine.Service
		Revision  *int64         `json:"revision"`
		Ports     []portView     `json:"ports"`
		Instances []instanceView `json:"instances"`
	}
	portView struct {
		engine.Port
		Published *int `json:"published"`
	}
	instanceView struct {
		engine.Instance
		PID      *int   `json:"pid"`
		Revision *int64 `json:"revision"`
	}
)

func psView(s api.Status) statusView {
	view := statusView{
		Status: s, Revision: orNull(s.Revision), ControlPlane: processView{orNull(s.ControlPlane.PID)},
		Proxy: processView{orNull(s.Proxy.PID)}, Holder: processView{orNull(s.Holder.PID)}, Services: []serviceView{},
	}
	for _, svc := range s.Services {
		v := serviceView{Service: svc, Revision: orNull(svc.Revision), Ports: []portView{}, Instances: []instanceView{}}
		for _, port := range svc.Ports {
			v.Ports = append(v.Ports, portView{port, orNull(port.Published)})
		}
		for _, in := range svc.Instances {
			v.Instances = append(v.Instances, instanceView{in, orNull(in.PID), orNull(in.Revision)})
		}
		view.Services = append(view.Services, v)
	}
	return view
}
