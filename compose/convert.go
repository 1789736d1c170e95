package compose

import (
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
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
		other["bind"] = rest(map[string]any{"selinux": b.SELinux, "recursive": b.Recursive}, nil)
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
