package docker

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sync/errgroup"

	"trellis/driver"
	"trellis/netspace"
	"trellis/shim"
)

// abandonAfter is how long a network that was prepared waits for its instance.
const abandonAfter = time.Minute

// inspectAtOnce bounds how many containers the engine is asked about at a time.
const inspectAtOnce = 8

// List implements driver.Driver.
func (d *Driver) List(ctx context.Context, project string) ([]driver.Instance, error) {
	if !d.used() {
		return nil, nil
	}
	if err := d.engine.greet(ctx); err != nil {
		return nil, fmt.Errorf("list the containers of %s: %w", project, d.engine.unanswered(ctx, err))
	}
	found, err := d.engine.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: d.mine(project)})
	if err != nil {
		return nil, fmt.Errorf("list the containers of %s: %w", project, d.engine.unanswered(ctx, err))
	}
	holders := map[string]container.Summary{} // by instance
	for _, c := range found.Items {
		if c.Labels[labelRole] == roleNetwork {
			holders[c.Labels[labelID]] = c
		}
	}
	var mu sync.Mutex
	var all []driver.Instance
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(inspectAtOnce)
	for _, c := range found.Items {
		if c.Labels[labelRole] != roleInstance {
			continue
		}
		holder := holders[c.Labels[labelID]]
		delete(holders, c.Labels[labelID])
		g.Go(func() error {
			inst, ok, err := d.instance(gctx, c.ID, holder)
			if err == nil && ok {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, inst)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("list the containers of %s: %w", project, d.engine.unanswered(ctx, err))
	}
	d.abandon(ctx, holders)
	slices.SortFunc(all, func(a, b driver.Instance) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, nil
}

// abandon removes networks whose instances nobody started.
func (d *Driver) abandon(ctx context.Context, holders map[string]container.Summary) {
	for _, id := range slices.Sorted(maps.Keys(holders)) {
		c := holders[id]
		if time.Since(time.Unix(c.Created, 0)) < abandonAfter || len(c.Names) == 0 {
			continue
		}
		unlock, ok := d.tryLock(driver.ID(id))
		if !ok {
			continue // something is done to it just now
		}
		_, err := d.engine.api.ContainerInspect(ctx, containerName(driver.ID(id)), client.ContainerInspectOptions{})
		if isNotFound(err) {
			if err := d.removeHolder(ctx, strings.TrimPrefix(c.Names[0], "/")); err != nil {
				d.log.Warn("an abandoned network could not be removed", "instance", id, "err", err)
			}
		}
		unlock()
	}
}

// instance looks at one container and the one that holds its network; false: it is gone.
func (d *Driver) instance(ctx context.Context, id string, holder container.Summary) (driver.Instance, bool, error) {
	found, err := d.engine.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if isNotFound(err) {
		return driver.Instance{}, false, nil
	}
	if err != nil {
		return driver.Instance{}, false, err
	}
	c := found.Container
	labels := c.Config.Labels
	inst := driver.Instance{
		ID: driver.ID(labels[labelID]), Project: labels[labelProject], Service: labels[labelService], Hash: labels[labelHash], Container: c.ID,
	}
	inst.Slot, _ = strconv.Atoi(labels[labelSlot])
	r := d.record(inst.ID, c.ID)
	inst.Restarts = r.Restarts
	if inst.Revision = r.Revision; inst.Revision == 0 {
		inst.Revision, _ = strconv.ParseInt(labels[labelRevision], 10, 64)
	}
	inst.StartedAt = parseTime(c.State.StartedAt)
	d.life(&inst, c, r)
	d.reach(ctx, &inst, c, holder)
	if d.seemsStranded(&inst, c, holder) {
		inst.Host, inst.Listening = "", nil
		d.endStranded(ctx, inst.ID)
	}
	return inst, true, nil
}

// life fills in where an instance is in its life.
func (d *Driver) life(inst *driver.Instance, c container.InspectResponse, r record) {
	d.mu.Lock()
	starting := d.starting[inst.ID]
	d.mu.Unlock()
	s := c.State
	switch {
	case s.Running:
		inst.State, inst.PID = driver.Running, s.Pid
		return
	case starting:
		inst.State = driver.Starting
		return
	}
	inst.State = driver.Exited
	inst.Exit = exitOf(s, parseTime(c.Created), r)
}

// codeUnknown is the code of what never ran, as the docker command has it.
const codeUnknown = 125

// exitOf says how a container ended, as far as the engine says it. The engine tells the end by a signal as 128 and its
// number; a program that exits with such a code by itself cannot be told from it.
func exitOf(s *container.State, created time.Time, r record) *driver.Exit {
	e := &driver.Exit{Code: s.ExitCode, OOM: s.OOMKilled, Time: parseTime(s.FinishedAt), Error: s.Error}
	if e.Time.IsZero() {
		e.Time = created
	}
	switch {
	case s.Status == container.StateCreated && s.Error == "":
		e.Code, e.Error = codeUnknown, "its start was cut short"
	case s.Error == "" && s.ExitCode > 128:
		e.Signal = signalName(s.ExitCode - 128)
	case s.Error != "" && s.ExitCode == 0:
		e.Code = codeUnknown
	}
	if r.Trouble != "" {
		e.Error = r.Trouble
	}
	// A moment that both clocks may see differently is given to the stop.
	e.Asked = !r.Asked.IsZero() && !e.Time.Before(r.Asked.Add(-clockSlack))
	return e
}

// clockSlack is how far the engine's clock may be behind.
const clockSlack = 2 * time.Millisecond

// reach fills in where an instance is reached, and what it listens on.
func (d *Driver) reach(ctx context.Context, inst *driver.Instance, c container.InspectResponse, holder container.Summary) {
	ports := portsOf(c.Config.Labels[labelPorts])
	if c.HostConfig.NetworkMode.IsHost() {
		inst.Host = "127.0.0.1"
		if inst.State == driver.Running {
			inst.Listening = onMachine(ports)
		}
		return
	}
	if holder.ID == "" || holder.State != container.StateRunning {
		return // it has no network: nobody reaches it
	}
	inst.Netns = d.sandbox(ctx, holder.ID)
	if d.published {
		inst.Host, inst.PortMap = "127.0.0.1", map[int]int{}
		for _, p := range holder.Ports {
			if p.Type == "tcp" && p.PublicPort != 0 {
				inst.PortMap[int(p.PrivatePort)] = int(p.PublicPort)
			}
		}
	} else if holder.NetworkSettings != nil {
		for _, name := range slices.Sorted(maps.Keys(holder.NetworkSettings.Networks)) {
			if a := holder.NetworkSettings.Networks[name].IPAddress; a.IsValid() && inst.Host == "" {
				inst.Host = a.String()
			}
		}
	}
	if inst.State == driver.Running {
		inst.Listening = d.listening(ctx, inst, holder.ID)
	}
}

// listening returns what an instance listens on: in its own view, or through the ports that are published for it.
func (d *Driver) listening(ctx context.Context, inst *driver.Instance, holder string) []int {
	var ports []int
	if inst.Netns != "" {
		list, err := netspace.ListenersAt(inst.Netns)
		if err != nil {
			return nil
		}
		ports = netspace.Ports(list)
	} else {
		ports = d.told(ctx, holder)
	}
	if !d.published {
		return ports
	}
	var mapped []int
	for _, p := range ports {
		if at, ok := inst.PortMap[p]; ok {
			mapped = append(mapped, at)
		}
	}
	slices.Sort(mapped)
	return mapped
}

// told returns the ports that the holder of a network said last.
func (d *Driver) told(ctx context.Context, holder string) []int {
	logs, err := d.engine.api.ContainerLogs(ctx, holder, client.ContainerLogsOptions{ShowStdout: true, Tail: "1"})
	if err != nil {
		return nil
	}
	defer logs.Close()
	var out, complaint bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &complaint, logs); err != nil {
		return nil
	}
	var ports []int
	for s := bufio.NewScanner(&out); s.Scan(); {
		if p, ok := shim.ParseListening(s.Text()); ok {
			ports = p
		}
	}
	return ports
}

// onMachine returns those of the ports that somebody on this machine listens on.
func onMachine(ports []int) []int {
	list, err := netspace.Here()
	if err != nil {
		return nil
	}
	var all []int
	for _, l := range list {
		if slices.Contains(ports, l.Port) && !slices.Contains(all, l.Port) {
			all = append(all, l.Port)
		}
	}
	slices.Sort(all)
	return all
}
