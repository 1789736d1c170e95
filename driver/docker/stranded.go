package docker

import (
	"context"
	"fmt"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"trellis/driver"
)

// A container joins the network of the one that holds it when it starts. If that one ends, by an engine that starts anew or
// by somebody's hand, or holds another network afterwards, nobody reaches the container any more and nothing makes it join
// again: it looks well, and is to be started anew.

// lost is why a stranded container was killed.
const lost = "its network was ended under it"

// seemsStranded says, by what is at hand, whether an instance that runs has no network.
func (d *Driver) seemsStranded(inst *driver.Instance, c container.InspectResponse, holder container.Summary) bool {
	return inst.State == driver.Running && !c.HostConfig.NetworkMode.IsHost() &&
		(holder.ID == "" || holder.State != container.StateRunning || elsewhere(inst.PID, inst.Netns))
}

// elsewhere says whether a process is in another network namespace than that of path; not if either cannot be told.
func elsewhere(pid int, path string) bool {
	if path == "" {
		return false
	}
	own, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return false
	}
	other, err := os.Stat(path)
	return err == nil && !os.SameFile(own, other)
}

// endStranded kills an instance's container if it has no network indeed. List tells why it ended.
func (d *Driver) endStranded(ctx context.Context, id driver.ID) {
	unlock, ok := d.tryLock(id)
	if !ok {
		return // something is done to it just now
	}
	defer unlock()
	found, err := d.engine.api.ContainerInspect(ctx, containerName(id), client.ContainerInspectOptions{})
	if err != nil || !found.Container.State.Running {
		return
	}
	c := found.Container
	holder, err := d.engine.api.ContainerInspect(ctx, networkName(id), client.ContainerInspectOptions{})
	if err != nil && !isNotFound(err) {
		return
	}
	if err == nil && holder.Container.State.Running &&
		(!d.enter || holder.Container.NetworkSettings == nil || !elsewhere(c.State.Pid, holder.Container.NetworkSettings.SandboxKey)) {
		return
	}
	r := d.record(id, c.ID)
	r.Trouble = lost
	if err = d.keep(id, r); err == nil {
		_, err = d.engine.api.ContainerKill(ctx, c.ID, client.ContainerKillOptions{Signal: "SIGKILL"})
	}
	if err != nil {
		d.log.Warn("a container without a network could not be ended", "instance", id, "err", err)
	}
}
