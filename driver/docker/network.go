package docker

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"trellis/driver"
	kinds "trellis/errdefs"
	"trellis/netspace"
)

// Prepare makes the network of an instance before its container, so that names can be served in it from the first
// moment, and returns the path of its namespace; "" where it cannot be entered or there is none.
func (d *Driver) Prepare(ctx context.Context, spec driver.Spec) (netns string, err error) {
	if err := check(spec); err != nil {
		return "", fmt.Errorf("prepare %s: %w", spec.ID, err)
	}
	if spec.HostNetwork {
		return "", nil
	}
	defer d.lock(spec.ID)()
	if err := d.use(); err != nil {
		return "", fmt.Errorf("prepare %s: %w", spec.ID, err)
	}
	id, err := d.holdNetwork(ctx, spec)
	if err != nil {
		return "", fmt.Errorf("prepare %s: %w", spec.ID, err)
	}
	return d.sandbox(ctx, id), nil
}

// holdNetwork makes the container that holds the network of an instance, or finds it, and returns its ID. It runs then, in
// all of its networks, and its names lead to the mesh: what an earlier call has left undone is made up for.
func (d *Driver) holdNetwork(ctx context.Context, spec driver.Spec) (string, error) {
	name := networkName(spec.ID)
	found, err := d.engine.api.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if err != nil && !isNotFound(err) {
		return "", fmt.Errorf("look at the network: %w", kind(err))
	}
	var id string
	var joined map[string]*network.EndpointSettings
	running := false
	if err == nil {
		c := found.Container
		if err := d.owned(c.Config.Labels, name); err != nil {
			return "", err
		}
		id, running = c.ID, c.State.Running
		if c.NetworkSettings != nil {
			joined = c.NetworkSettings.Networks
		}
	} else if id, joined, err = d.makeHolder(ctx, spec); err != nil {
		return "", err
	}
	if err := d.join(ctx, spec, id, joined); err != nil {
		return "", err
	}
	if !running {
		if err := d.startHolder(ctx, id); err != nil {
			return "", err
		}
	}
	return id, d.leadNames(ctx, id)
}

// owned refuses a container that somebody else made.
func (d *Driver) owned(labels map[string]string, name string) error {
	if labels[labelState] == d.cfg.StateDir {
		return nil
	}
	who := "it was not made by Trellis"
	if dir := labels[labelDir]; dir != "" {
		who = "it belongs to the project in " + dir
	}
	return fmt.Errorf("%w: there is a container %s already, and %s", kinds.ErrConflict, name, who)
}

// makeHolder returns the ID of a new holder, and the network that it has joined: engines before API 1.44 take but one.
func (d *Driver) makeHolder(ctx context.Context, spec driver.Spec) (string, map[string]*network.EndpointSettings, error) {
	image, err := d.pauseImage(ctx)
	if err != nil {
		return "", nil, err
	}
	all := networksFor(spec)
	for _, n := range all {
		if _, err := d.makeNetwork(ctx, spec.Project, n); err != nil {
			return "", nil, err
		}
	}
	opt, err := d.holderOptions(spec, image, all)
	if err != nil {
		return "", nil, err
	}
	made, err := d.engine.api.ContainerCreate(ctx, opt)
	if isNotFound(err) { // an image that no container has is gone after `docker system prune --all`
		if opt.Config.Image, err = d.pauseImageAnew(ctx); err != nil {
			return "", nil, err
		}
		made, err = d.engine.api.ContainerCreate(ctx, opt)
	}
	if err != nil {
		return "", nil, fmt.Errorf("make the network: %w", kind(err))
	}
	if opt.NetworkingConfig == nil {
		return made.ID, nil, nil
	}
	return made.ID, opt.NetworkingConfig.EndpointsConfig, nil
}

// join lets a holder join those networks of its instance that it is not in.
func (d *Driver) join(ctx context.Context, spec driver.Spec, holder string, joined map[string]*network.EndpointSettings) error {
	for _, n := range networksFor(spec) {
		if joined[n.Name] != nil {
			continue
		}
		id, err := d.makeNetwork(ctx, spec.Project, n)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(slices.Collect(maps.Values(joined)), func(e *network.EndpointSettings) bool { return e != nil && e.NetworkID == id }) {
			continue // the file calls it by its ID
		}
		_, err = d.engine.api.NetworkConnect(ctx, n.Name, client.NetworkConnectOptions{Container: holder, EndpointConfig: endpoint(n)})
		if err != nil {
			return fmt.Errorf("join the network %s: %w", n.Name, kind(err))
		}
	}
	return nil
}

// holderOptions describe the container that holds a network.
func (d *Driver) holderOptions(spec driver.Spec, image string, all []driver.Network) (client.ContainerCreateOptions, error) {
	command := append(slices.Clone(d.pauseCommand()), "pause")
	if !d.enter {
		command = append(command, "watch")
	}
	ct := containerOf(spec)
	config := &container.Config{
		Image: image, Entrypoint: command, Hostname: hostname(spec), Domainname: ct.Domainname, Labels: d.labels(spec, roleNetwork),
	}
	pids := int64(16)
	host := &container.HostConfig{
		NetworkMode: "none", CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "100k", "max-file": "1"}},
		Resources:     container.Resources{PidsLimit: &pids}, DNSOptions: ct.DNSOptions, DNSSearch: ct.DNSSearch, Init: new(bool),
		Sysctls: netSysctls(spec.Sysctls),
	}
	for _, text := range ct.DNS {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return client.ContainerCreateOptions{}, fmt.Errorf("%w: dns: %q is no address", kinds.ErrInvalid, text)
		}
		host.DNS = append(host.DNS, address)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Hosts)) {
		if d.resolves(spec.Hosts[name]) {
			host.ExtraHosts = append(host.ExtraHosts, name+":"+spec.Hosts[name])
		}
	}
	opt := client.ContainerCreateOptions{Name: networkName(spec.ID), Config: config, HostConfig: host}
	switch {
	case ct.NetworkMode != "":
		host.NetworkMode = container.NetworkMode(ct.NetworkMode)
	case len(all) > 0:
		first := all[0]
		host.NetworkMode = container.NetworkMode(first.Name)
		opt.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{first.Name: endpoint(first)}}
	}
	if d.published && ct.NetworkMode != "none" {
		config.ExposedPorts, host.PortBindings = network.PortSet{}, network.PortMap{}
		for _, p := range spec.Ports {
			port, _ := network.PortFrom(uint16(p), network.TCP)
			config.ExposedPorts[port] = struct{}{}
			host.PortBindings[port] = []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1")}}
		}
	}
	return opt, nil
}

// resolves says whether a name's address means anything in an instance: names of the mesh do where it is served there.
func (d *Driver) resolves(address string) bool {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address == "host-gateway"
	}
	return d.enter || !netip.MustParsePrefix(driver.NamesNetwork).Contains(a)
}

func (d *Driver) startHolder(ctx context.Context, id string) error {
	if _, err := d.engine.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start the network: %w", kind(err))
	}
	d.mu.Lock()
	delete(d.sandboxes, id)
	d.mu.Unlock()
	return nil
}

// leadNames leads the names in a holder's network to the mesh, where they are not led there yet.
func (d *Driver) leadNames(ctx context.Context, id string) error {
	path := d.sandbox(ctx, id)
	if path == "" {
		return nil
	}
	err := netspace.At(path, func() error { return netspace.RedirectNames(driver.NamesNetwork, driver.NamesListener) })
	if err != nil {
		return fmt.Errorf("lead names to the mesh: %w", err)
	}
	return nil
}

// sandbox returns the file of the network namespace that a container holds, "" where it cannot be entered.
func (d *Driver) sandbox(ctx context.Context, id string) string {
	if !d.enter {
		return ""
	}
	d.mu.Lock()
	path := d.sandboxes[id]
	d.mu.Unlock()
	if path != "" && isNamespace(path) {
		return path
	}
	found, err := d.engine.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil || found.Container.NetworkSettings == nil || !isNamespace(found.Container.NetworkSettings.SandboxKey) {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sandboxes[id] = found.Container.NetworkSettings.SandboxKey
	return d.sandboxes[id]
}

// networksFor returns the networks that an instance is in.
func networksFor(spec driver.Spec) []driver.Network {
	switch ct := containerOf(spec); {
	case ct.NetworkMode != "":
		return nil
	case len(ct.Networks) > 0:
		return ct.Networks
	}
	return []driver.Network{{Name: spec.Project + "_default", Key: "default"}}
}

// makeNetwork makes a network where it is not there, and returns its ID.
func (d *Driver) makeNetwork(ctx context.Context, project string, n driver.Network) (string, error) {
	d.making.Lock()
	defer d.making.Unlock()
	found, err := d.engine.api.NetworkInspect(ctx, n.Name, client.NetworkInspectOptions{})
	switch {
	case err == nil:
		return found.Network.ID, nil
	case !isNotFound(err):
		return "", fmt.Errorf("look at the network %s: %w", n.Name, kind(err))
	case n.External:
		return "", fmt.Errorf("%w: the network %s is external and is not there; make it with `docker network create %s`", kinds.ErrNotFound, n.Name, n.Name)
	}
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[labelProject], labels[labelState] = project, d.cfg.StateDir
	labels[composeProject], labels[composeNetwork] = project, n.Key
	made, err := d.engine.api.NetworkCreate(ctx, n.Name, client.NetworkCreateOptions{
		Driver: firstOf(n.Driver, "bridge"), Internal: n.Internal, Options: n.Options, Labels: labels,
	})
	if err != nil {
		return "", fmt.Errorf("make the network %s: %w", n.Name, kind(err))
	}
	return made.ID, nil
}

// endpoint is how an instance is found in a network by those whose names do not lead through the mesh.
func endpoint(n driver.Network) *network.EndpointSettings {
	return &network.EndpointSettings{Aliases: n.Aliases}
}

// SetHosts makes the instance resolve these names to these addresses from now on, in place of what an earlier call or the
// Spec said. Unknown or not running: ErrNotFound.
func (d *Driver) SetHosts(id driver.ID, hosts map[string]string) error {
	ctx, cancel := context.WithTimeout(context.Background(), hostsLimit)
	defer cancel()
	found, err := d.engine.api.ContainerInspect(ctx, networkName(id), client.ContainerInspectOptions{})
	if err != nil {
		return fmt.Errorf("set the names of %s: %w", id, kind(err))
	}
	text := d.hostsText(found.Container, hosts)
	var complaint bytes.Buffer
	code, err := d.exec(ctx, found.Container.ID, driver.Command{
		Args: append(d.pauseCommand(), "hosts"), Stdin: strings.NewReader(text), Stdout: &complaint, Stderr: &complaint,
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("%s", strings.TrimSpace(complaint.String()))
	}
	if err != nil {
		return fmt.Errorf("set the names of %s: %w", id, err)
	}
	return nil
}

// hostsText is the content of /etc/hosts.
func (d *Driver) hostsText(c container.InspectResponse, hosts map[string]string) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	gateway := ""
	if c.NetworkSettings != nil {
		for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
			n := c.NetworkSettings.Networks[name]
			if n.IPAddress.IsValid() {
				fmt.Fprintf(&b, "%s\t%s\n", n.IPAddress, c.Config.Hostname)
			}
			if gateway == "" && n.Gateway.IsValid() {
				gateway = n.Gateway.String()
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		address := hosts[name]
		if !d.resolves(address) {
			continue
		}
		if address == "host-gateway" {
			if address = gateway; address == "" {
				continue
			}
		}
		fmt.Fprintf(&b, "%s\t%s\n", address, name)
	}
	return b.String()
}

// hostname is the name an instance has for itself.
func hostname(spec driver.Spec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	name := fmt.Sprintf("%s-%d", spec.Service, spec.Slot)
	return name[:min(len(name), 63)]
}

// netSysctls are the sysctls that belong to the network, the others belong to the instance itself.
func netSysctls(all map[string]string) map[string]string {
	net := map[string]string{}
	for name, value := range all {
		if strings.HasPrefix(name, "net.") {
			net[name] = value
		}
	}
	return net
}
