package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
)

// Stats implements driver.Driver.
func (d *Driver) Stats(ctx context.Context, id driver.ID) (driver.Usage, error) {
	u, err := d.stats(ctx, id)
	if err != nil {
		return u, fmt.Errorf("stats of %s: %w", id, kind(err))
	}
	return u, nil
}

func (d *Driver) stats(ctx context.Context, id driver.ID) (driver.Usage, error) {
	found, err := d.engine.api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if err != nil {
		return driver.Usage{}, err
	}
	c := found.Container
	if !c.State.Running || c.Config.Labels[labelState] != d.cfg.StateDir {
		return driver.Usage{}, fmt.Errorf("%w: it does not run", kinds.ErrNotFound)
	}
	got, err := d.engine.api.ContainerStats(ctx, c.ID, client.ContainerStatsOptions{})
	if err != nil {
		return driver.Usage{}, err
	}
	defer got.Body.Close()
	var s container.StatsResponse
	if err := json.NewDecoder(got.Body).Decode(&s); err != nil {
		return driver.Usage{}, fmt.Errorf("read the engine's answer: %w", err)
	}
	u := usageOf(s)
	if u.Processes == 0 { // no pids controller
		if top, err := d.engine.api.ContainerTop(ctx, c.ID, client.ContainerTopOptions{}); err == nil {
			u.Processes = len(top.Processes)
		}
	}
	return u, nil
}

// usageOf reads what the engine says. What the kernel can take back from the cache of files at once does not count as
// memory: inactive_file, under the name that each version of control groups has for it, as the docker command has it.
func usageOf(s container.StatsResponse) driver.Usage {
	m := s.MemoryStats
	cache := m.Stats["total_inactive_file"]
	if cache == 0 {
		cache = m.Stats["inactive_file"]
	}
	u := driver.Usage{
		CPU: time.Duration(s.CPUStats.CPUUsage.TotalUsage), Memory: int64(m.Usage - min(cache, m.Usage)),
		Processes: int(s.PidsStats.Current), Enforced: true,
	}
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		switch strings.ToLower(e.Op) {
		case "read":
			u.ReadBytes += int64(e.Value)
		case "write":
			u.WriteBytes += int64(e.Value)
		}
	}
	return u
}
