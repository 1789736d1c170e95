package compose

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// convert turns compose-go's project into the model.
func (l *loading) convert(from *types.Project) Project {
	p := Project{
		Name: l.name, WorkingDir: l.dir, Files: l.files, EnvFiles: l.envFiles, Environment: l.opt.Environment,
		Trellis: l.project, Positions: Positions{l.root, l.cwd},
		Services: map[string]Service{}, Networks: map[string]Network{}, Volumes: map[string]Volume{},
		Secrets: map[string]FileValue{}, Configs: map[string]FileValue{},
	}
	for name, s := range from.Services {
		p.Services[name] = l.service(name, s)
	}
	for name, n := range from.Networks {
		p.Networks[name] = network(n)
	}
	for name, v := range from.Volumes {
		p.Volumes[name] = Volume{Name: v.Name, Driver: v.Driver, DriverOpts: strMap(v.DriverOpts), External: bool(v.External), Labels: strMap(v.Labels)}
	}
	for name, s := range from.Secrets {
		p.Secrets[name] = l.fileValue(types.FileObjectConfig(s), false)
	}
	for name, c := range from.Configs {
		p.Configs[name] = l.fileValue(types.FileObjectConfig(c), true)
	}
	for name := range from.DisabledServices {
		p.DisabledServices = append(p.DisabledServices, name)
	}
	sort.Strings(p.DisabledServices)
	p.Other = rest(map[string]any{"jobs": from.Jobs, "models": from.Models}, nil)
	l.joinPorts(p)
	return dropEmpty(p)
}

// dropEmpty makes empty sections nil, as they are after a trip through JSON.
func dropEmpty(p Project) Project {
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if (f.Kind() == reflect.Map || f.Kind() == reflect.Slice) && f.Len() == 0 {
			f.SetZero()
		}
	}
	return p
}

// rest returns what of from (a struct or a map) is set under keys that are not in known.
func rest(from any, known []string) map[string]any {
	all := plainMap(from)
	if blkio, ok := all["blkio_config"]; ok {
		all["blkio_config"] = lowerKeys(blkio) // these types of the library have no tags
	}
	for k, v := range all {
		if slices.Contains(known, k) || emptyValue(v) {
			delete(all, k)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// plainMap returns the specification's form of a value of the library: by its JSON, or by its YAML where the library's
// JSON is broken, as that of build.ssh is.
func plainMap(from any) map[string]any {
	var all map[string]any
	if raw, err := json.Marshal(from); err == nil && json.Unmarshal(raw, &all) == nil {
		return all
	}
	raw, err := yaml.Marshal(from)
	if err != nil {
		return nil
	}
	var decoded map[string]any
	if yaml.Unmarshal(raw, &decoded) != nil {
		return nil
	}
	for k := range decoded {
		if strings.HasPrefix(k, "x-") {
			delete(decoded, k)
		}
	}
	if raw, err = json.Marshal(decoded); err != nil || json.Unmarshal(raw, &all) != nil {
		return nil
	}
	return all
}

func lowerKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[strings.ToLower(k)] = lowerKeys(e)
		}
		return out
	case []any:
		for i := range v {
			v[i] = lowerKeys(v[i])
		}
	}
	return v
}

func emptyValue(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, e := range v {
			if !emptyValue(e) {
				return false
			}
		}
		return true
	}
	return false
}

// jsonKeys returns the keys of a struct's JSON.
func jsonKeys(t reflect.Type, more ...string) []string {
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			more = append(more, name)
		}
	}
	return more
}

func strMap[M ~map[string]string](m M) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// setVars returns the variables that have a value; one without a value anywhere is not passed.
func setVars(m types.MappingWithEquals) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if v != nil {
			out[k] = *v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func strs[S ~[]string](s S) []string {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone([]string(s))
}

func duration(d *types.Duration) *Duration {
	if d == nil {
		return nil
	}
	v := Duration(*d)
	return &v
}

func intPtr(n *uint64) *int {
	if n == nil {
		return nil
	}
	v := int(min(*n, 1<<31-1))
	return &v
}

func network(n types.NetworkConfig) Network {
	return Network{
		Name: n.Name, Driver: n.Driver, DriverOpts: strMap(n.DriverOpts), External: bool(n.External),
		Internal: n.Internal, Attachable: n.Attachable, Labels: strMap(n.Labels),
		Other: rest(n, jsonKeys(reflect.TypeFor[Network]())),
	}
}

func (l *loading) fileValue(f types.FileObjectConfig, content bool) FileValue {
	v := FileValue{
		Name: f.Name, File: f.File, Environment: f.Environment, External: bool(f.External), Labels: strMap(f.Labels),
		Other: rest(map[string]any{"driver": f.Driver, "driver_opts": f.DriverOpts, "template_driver": f.TemplateDriver}, nil),
	}
	if v.File != "" {
		v.File = absolute(v.File, l.dir)
	}
	if content && v.Environment == "" {
		v.Content = f.Content
	}
	return v
}

// service converts one service.
func (l *loading) service(name string, s types.ServiceConfig) Service {
	out := Service{
		Name: name, Image: s.Image, Build: imageBuild(s.Build), Command: strs(s.Command), Entrypoint: strs(s.Entrypoint),
		Environment: setVars(s.Environment), Expose: strs(s.Expose), Tmpfs: strs(s.Tmpfs),
		Secrets: fileMounts(s.Secrets), Configs: fileMounts(s.Configs), NetworkMode: s.NetworkMode,
		Restart: s.Restart, Init: s.Init != nil && *s.Init, User: s.User, GroupAdd: strs(s.GroupAdd),
		WorkingDir: s.WorkingDir, Hostname: s.Hostname, Domainname: s.DomainName, ContainerName: s.ContainerName,
		Platform: s.Platform, PullPolicy: s.PullPolicy, Labels: strMap(s.Labels), Annotations: strMap(s.Annotations),
		Profiles: strs(s.Profiles), StopSignal: s.StopSignal, StopGracePeriod: duration(s.StopGracePeriod),
		PostStart: hooks(s.PostStart), PreStop: hooks(s.PreStop), ReadOnly: s.ReadOnly, Privileged: s.Privileged,
		CapAdd: strs(s.CapAdd), CapDrop: strs(s.CapDrop), SecurityOpt: strs(s.SecurityOpt), Sysctls: strMap(s.Sysctls),
		DNS: strs(s.DNS), DNSSearch: strs(s.DNSSearch), DNSOpt: strs(s.DNSOpts), Links: strs(s.Links),
		ExternalLinks: strs(s.ExternalLinks), ShmSize: int64(s.ShmSize), OomScoreAdj: s.OomScoreAdj, Pid: s.Pid,
		Ipc: s.Ipc, StdinOpen: s.StdinOpen, Tty: s.Tty, Trellis: l.services[name],
		Other: rest(s, foldedKeys()),
	}
	if p := out.Trellis.Process; p != nil {
		process := *p
		process.Dir = absolute(process.Dir, l.dir)
		out.Trellis.Process = &process
	}
	for dependency, d := range s.DependsOn {
		put(&out.DependsOn, dependency, Dependency{Condition: d.Condition, Restart: d.Restart, Required: d.Required})
	}
	for network, a := range s.Networks {
		var attachment Attachment
		if a != nil {
			attachment = Attachment{Aliases: strs(a.Aliases), Other: rest(a, []string{"aliases"})}
		}
		put(&out.Networks, network, attachment)
	}
	for limit, u := range s.Ulimits {
		if u.Single != 0 {
			u = &types.UlimitsConfig{Soft: u.Single, Hard: u.Single}
		}
		put(&out.Ulimits, limit, Ulimit{Soft: int64(u.Soft), Hard: int64(u.Hard)})
	}
	for host, addresses := range s.ExtraHosts {
		put(&out.ExtraHosts, host, strs(addresses))
	}
	for _, v := range s.Volumes {
		out.Volumes = append(out.Volumes, l.mount(v))
	}
	for _, h := range s.PreStart {
		out.PreStart = append(out.PreStart, preStart(h, s))
	}
	out.Ports = l.servicePorts(name, s.Ports)
	out.Healthcheck = healthcheck(s.HealthCheck)
	out.Logging = logging(s)
	out.Develop = develop(s.Develop)
	out.Deploy = l.deploy(name, s)
	return out
}

// preStart converts a step before the start. What it merely takes over from its service is left out: whoever runs it
// starts from the service.
func preStart(h types.PreStartHook, s types.ServiceConfig) PreStart {
	p := PreStart{
		Hook:  Hook{Command: strs(h.Command), User: h.User, Privileged: h.Privileged, WorkingDir: h.WorkingDir, Environment: setVars(h.Environment)},
		Image: h.Image, PerReplica: h.PerReplica, Other: notInherited(h, s),
	}
	own := setVars(s.Environment)
	for k, v := range p.Environment {
		if have, ok := own[k]; ok && have == v {
			delete(p.Environment, k)
		}
	}
	if len(p.Environment) == 0 {
		p.Environment = nil
	}
	if p.WorkingDir == s.WorkingDir {
		p.WorkingDir = ""
	}
	if p.User == s.User {
		p.User = ""
	}
	if p.Image == s.Image {
		p.Image = ""
	}
	return p
}

// notInherited returns what a pre_start step sets beyond the model and does not merely take over from its service.
func notInherited(h types.PreStartHook, s types.ServiceConfig) map[string]any {
	own := rest(h, []string{"command", "user", "privileged", "working_dir", "environment", "image", "per_replica"})
	for k, v := range rest(s, nil) {
		if reflect.DeepEqual(own[k], v) {
			delete(own, k)
		}
	}
	if len(own) == 0 {
		return nil
	}
	return own
}

func put[V any](m *map[string]V, k string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[k] = v
}

// foldedKeys are the keys of a service that the model holds, or that are folded into others and so have no field.
func foldedKeys() []string {
	return jsonKeys(reflect.TypeFor[Service](), "scale", "cpus", "mem_limit", "mem_reservation", "pids_limit", "env_file",
		"label_file", "extends", "log_driver", "log_opt")
}

func imageBuild(b *types.BuildConfig) *Build {
	if b == nil {
		return nil
	}
	slices.SortFunc(b.SSH, func(x, y types.SSHKey) int { return strings.Compare(x.ID, y.ID) }) // read from a map
	return &Build{
		Context: b.Context, Dockerfile: b.Dockerfile, DockerfileInline: b.DockerfileInline, Args: setVars(b.Args),
		Target: b.Target, Labels: strMap(b.Labels), CacheFrom: strs(b.CacheFrom), CacheTo: strs(b.CacheTo),
		AdditionalContexts: strMap(b.AdditionalContexts), NoCache: b.NoCache, Pull: b.Pull, Network: b.Network,
		Tags: strs(b.Tags), Platforms: strs(b.Platforms), Other: rest(b, jsonKeys(reflect.TypeFor[Build]())),
	}
}

func fileMounts[T types.ServiceSecretConfig | types.ServiceConfigObjConfig](list []T) []FileMount {
	var out []FileMount
	for _, e := range list {
		f := types.FileReferenceConfig(e)
		m := FileMount{Source: f.Source, Target: f.Target, UID: f.UID, GID: f.GID}
		if f.Mode != nil {
			mode := uint32(*f.Mode) & 0o7777
			m.Mode = &mode
		}
		out = append(out, m)
	}
	return out
}

func hooks(list []types.ServiceHook) []Hook {
	var out []Hook
	for _, h := range list {
		out = append(out, hook(h))
	}
	return out
}

func hook(h types.ServiceHook) Hook {
	return Hook{Command: strs(h.Command), User: h.User, Privileged: h.Privileged, WorkingDir: h.WorkingDir,
		Environment: setVars(h.Environment)}
}

func (l *loading) mount(v types.ServiceVolumeConfig) Mount {
	m := Mount{Type: v.Type, Source: v.Source, Target: v.Target, ReadOnly: v.ReadOnly}
	other := map[string]any{"consistency": v.Consistency}
	if b := v.Bind; b != nil && v.Type == types.VolumeTypeBind {
		m.CreateHostPath, m.Propagation = bool(b.CreateHostPath), b.Propagation
		other["bind"] = map[string]any{"selinux": b.SELinux, "recursive": b.Recursive}
	}
	if b := v.Volume; b != nil {
		m.NoCopy, m.Subpath = b.NoCopy, b.Subpath
		other["volume"] = map[string]any{"labels": b.Labels}
	}
	if b := v.Tmpfs; b != nil {
		m.TmpfsSize, m.TmpfsMode = int64(b.Size), b.Mode
	}
	if v.Image != nil {
		m.Subpath = v.Image.SubPath
	}
	if m.Type == MountBind && m.Source != "" && !filepath.IsAbs(m.Source) && !strings.HasPrefix(m.Source, "~") {
		m.Source = absolute(m.Source, l.dir)
	}
	m.Other = rest(other, nil)
	return m
}

func healthcheck(h *types.HealthCheckConfig) *Healthcheck {
	if h == nil {
		return nil
	}
	return &Healthcheck{
		Test: strs(h.Test), Interval: duration(h.Interval), Timeout: duration(h.Timeout), Retries: intPtr(h.Retries),
		StartPeriod: duration(h.StartPeriod), StartInterval: duration(h.StartInterval), Disable: h.Disable,
	}
}

func logging(s types.ServiceConfig) *Logging {
	switch {
	case s.Logging != nil:
		return &Logging{Driver: s.Logging.Driver, Options: strMap(s.Logging.Options)}
	case s.LogDriver != "" || len(s.LogOpt) > 0:
		return &Logging{Driver: s.LogDriver, Options: strMap(s.LogOpt)}
	}
	return nil
}

func develop(d *types.DevelopConfig) *Develop {
	if d == nil {
		return nil
	}
	out := &Develop{}
	for _, w := range d.Watch {
		r := WatchRule{Path: w.Path, Action: string(w.Action), Target: w.Target, Ignore: strs(w.Ignore),
			Include: strs(w.Include), InitialSync: w.InitialSync}
		if len(w.Exec.Command) > 0 {
			h := hook(w.Exec)
			r.Exec = &h
		}
		out.Watch = append(out.Watch, r)
	}
	return out
}

// deploy converts the deploy section and folds the older keys of a service into it. Where both are set and differ,
// check says so.
func (l *loading) deploy(name string, s types.ServiceConfig) Deploy {
	d := Deploy{Trellis: l.deploys[name]}
	if from := s.Deploy; from != nil {
		d.Mode, d.EndpointMode, d.Labels = from.Mode, from.EndpointMode, strMap(from.Labels)
		d.Replicas = clonePtr(from.Replicas)
		d.Resources = Resources{Limits: amounts(from.Resources.Limits), Reservations: amounts(from.Resources.Reservations)}
		d.UpdateConfig, d.RollbackConfig = updateConfig(from.UpdateConfig), updateConfig(from.RollbackConfig)
		d.Placement = rest(from.Placement, nil)
		if r := from.RestartPolicy; r != nil {
			d.RestartPolicy = &RestartPolicy{Condition: r.Condition, Delay: duration(r.Delay),
				MaxAttempts: intPtr(r.MaxAttempts), Window: duration(r.Window)}
		}
	}
	if s.Scale != nil && d.Replicas == nil {
		d.Replicas = clonePtr(s.Scale)
	}
	limits, reservations := &d.Resources.Limits, &d.Resources.Reservations
	if limits.CPUs == 0 {
		limits.CPUs = decimal(float32(s.CPUS))
	}
	if limits.Memory == 0 {
		limits.Memory = int64(s.MemLimit)
	}
	if limits.Pids == 0 && s.PidsLimit > 0 {
		limits.Pids = s.PidsLimit
	}
	if reservations.Memory == 0 {
		reservations.Memory = int64(s.MemReservation)
	}
	return d
}

func clonePtr[T any](v *T) *T {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

// decimal keeps what the file says: 0.1, not 0.10000000149.
func decimal(f float32) float64 {
	v, _ := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
	return v
}

func amounts(r *types.Resource) ResourceAmounts {
	if r == nil {
		return ResourceAmounts{}
	}
	return ResourceAmounts{CPUs: decimal(r.NanoCPUs.Value()), Memory: int64(r.MemoryBytes), Pids: max(r.Pids, 0),
		Other: rest(map[string]any{"devices": r.Devices, "generic_resources": r.GenericResources}, nil)}
}

func updateConfig(u *types.UpdateConfig) *UpdateConfig {
	if u == nil {
		return nil
	}
	out := &UpdateConfig{Parallelism: intPtr(u.Parallelism), FailureAction: u.FailureAction,
		MaxFailureRatio: decimal(u.MaxFailureRatio), Order: u.Order}
	if u.Delay != 0 {
		out.Delay = duration(&u.Delay)
	}
	if u.Monitor != 0 {
		out.Monitor = duration(&u.Monitor)
	}
	return out
}

// servicePorts converts ports. The x-trellis of each is found by what makes a port the same one.
func (l *loading) servicePorts(name string, ports []types.ServicePortConfig) []Port {
	marks := l.portMarks(name)
	var out []Port
	for _, p := range ports {
		port := Port{Name: p.Name, Target: int(p.Target), Published: p.Published, HostIP: p.HostIP,
			Protocol: strings.ToLower(p.Protocol), AppProtocol: p.AppProtocol, Mode: p.Mode}
		if port.Protocol == "" {
			port.Protocol = "tcp"
		}
		if m := marks[modelPortKey(port)]; m != nil {
			port.Trellis = l.ports[m]
		}
		out = append(out, port)
	}
	return out
}

// portMarks returns the marks of a service's ports by what makes a port the same one.
func (l *loading) portMarks(service string) map[string]*mark {
	if marks, ok := l.portsOf[service]; ok {
		return marks
	}
	marks := map[string]*mark{}
	if list := l.root.at("services", service, "ports"); list != nil {
		for i, m := range list.items {
			marks[portKey(m)] = m
			l.portAt[m] = i
		}
	}
	l.portsOf[service] = marks
	return marks
}

func modelPortKey(p Port) string {
	host := p.HostIP
	if host == "" {
		host = "0.0.0.0"
	}
	return host + ":" + p.Published + ":" + strconv.Itoa(p.Target) + "/" + p.Protocol
}

// joinPorts joins a port of an override that names only its target to the one port below it with the same target and
// protocol, so that routes can be added to a port without repeating where it is published.
func (l *loading) joinPorts(p Project) {
	for name, s := range p.Services {
		marks := l.portMarks(name)
		published := map[string][]int{} // by target and protocol
		for i, port := range s.Ports {
			if port.Published != "" || port.HostIP != "" {
				key := strconv.Itoa(port.Target) + "/" + port.Protocol
				published[key] = append(published[key], i)
			}
		}
		gone := map[int]bool{}
		for i, port := range s.Ports {
			m := marks[modelPortKey(port)]
			if m == nil || m.list == nil || port.Published != "" || port.HostIP != "" {
				continue
			}
			var bases []int
			for _, j := range published[strconv.Itoa(port.Target)+"/"+port.Protocol] {
				if b := marks[modelPortKey(s.Ports[j])]; b != nil && b.list != m.list {
					bases = append(bases, j)
				}
			}
			switch len(bases) {
			case 0:
			case 1:
				s.Ports[bases[0]] = joined(s.Ports[bases[0]], port, m)
				gone[i] = true
			default:
				line, col := m.place()
				l.warnAt(m.file(), line, col, indexPath(joinPath("services", name)+".ports", i),
					"%d ports below have the target %d: this one is a port of its own; write published to say which one is meant", len(bases), port.Target)
			}
		}
		if len(gone) == 0 {
			continue
		}
		var kept []Port
		for i, port := range s.Ports {
			if !gone[i] {
				kept = append(kept, port)
			}
		}
		s.Ports = kept
		p.Services[name] = s
	}
}

func joined(base, over Port, m *mark) Port {
	if over.Name != "" {
		base.Name = over.Name
	}
	if over.AppProtocol != "" {
		base.AppProtocol = over.AppProtocol
	}
	if m.fields["mode"] != nil {
		base.Mode = over.Mode
	}
	base.Trellis.Routes = append(slices.Clone(base.Trellis.Routes), over.Trellis.Routes...)
	return base
}
