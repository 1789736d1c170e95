package compose

// The support matrix: what becomes of each attribute on each target. A path ending in ".**" speaks for the attribute and
// everything below it; the most specific path wins. A test holds it against the attributes that compose-go knows.

// matrix returns the rows of the target "process", in the order of the documentation. What driver.Spec can express is
// carried out.
func matrix() []row {
	return rows(projectRows(), runRows(), networkRows(), storageRows(), machineRows(), deployRows(), trellisRows())
}

type row struct {
	path string
	carry
}

type carry struct {
	how  Carried
	text string
}

func carried(paths ...string) []row {
	rows := make([]row, len(paths))
	for i, p := range paths {
		rows[i] = row{p, carry{CarriedOut, ""}}
	}
	return rows
}

func changed(path, how string) row { return row{path, carry{Changed, how}} }

func left(path, why string) row { return row{path, carry{Left, why}} }

func rows(groups ...any) []row {
	var out []row
	for _, g := range groups {
		switch g := g.(type) {
		case row:
			out = append(out, g)
		case []row:
			out = append(out, g...)
		}
	}
	return out
}

func projectRows() []row {
	return rows(
		carried("name", "include[].**", "services", "services.*"),
		changed("version", "it has no meaning any more"),
		left("jobs.**", "jobs are not run; write it as a service with restart: no"),
		left("models.**", "no model runner is started; run it as a service"),
		carried("networks", "networks.*", "networks.*.name", "networks.*.labels"),
		left("networks.*.driver", "services see each other through the proxy; no network of another kind is made"),
		left("networks.*.driver_opts", "there is no network driver to take them"),
		left("networks.*.ipam.**", "addresses are given by Trellis; a fixed subnet is not made"),
		left("networks.*.external", "no network is joined: services of other projects are reached by their published ports"),
		left("networks.*.internal", "services still reach the outside"),
		left("networks.*.attachable", "nothing outside of the project can be attached"),
		left("networks.*.enable_ipv4", "services see each other over IPv4"),
		left("networks.*.enable_ipv6", "services see each other over IPv4"),
		carried("volumes", "volumes.*", "volumes.*.name", "volumes.*.labels", "volumes.*.external"),
		left("volumes.*.driver", "a volume is a directory of this machine"),
		left("volumes.*.driver_opts", "a volume is a directory of this machine; nothing is mounted by a driver"),
		carried("secrets", "secrets.*", "secrets.*.file", "secrets.*.environment", "secrets.*.name", "secrets.*.labels"),
		left("secrets.*.content", "a secret's content cannot stand in the file"),
		left("secrets.*.external", "no secret store is asked: the service starts without it"),
		left("secrets.*.driver", "no secret store is asked"), left("secrets.*.driver_opts", "no secret store is asked"),
		left("secrets.*.template_driver", "the content is not a template"),
		carried("configs", "configs.*", "configs.*.file", "configs.*.environment", "configs.*.content", "configs.*.name", "configs.*.labels"),
		left("configs.*.external", "no config store is asked: the service starts without it"),
		left("configs.*.driver", "no config store is asked"), left("configs.*.driver_opts", "no config store is asked"),
		left("configs.*.template_driver", "the content is not a template"),
	)
}

// runRows speak of what a service runs, when and how.
func runRows() []row {
	const s = "services.*."
	return rows(
		changed(s+"image", "the process of x-trellis runs instead of the image"),
		changed(s+"build.**", "x-trellis.process.build is run instead; no image is built"),
		left(s+"dockerfile", "it is older than build: no image is built"),
		changed(s+"platform", "the process runs on this machine's platform"),
		changed(s+"pull_policy", "no image is pulled"), changed(s+"pull_refresh_after", "no image is pulled"),
		carried(s+"command", s+"entrypoint", s+"environment", s+"env_file.**", s+"extends.**", s+"profiles"),
		changed(s+"working_dir", "a process runs in the directory of its artefacts, or in x-trellis.process.dir"),
		carried(s+"depends_on.**", s+"restart", s+"scale", s+"user", s+"group_add", s+"init", s+"stop_signal", s+"stop_grace_period"),
		carried(s+"healthcheck.**"),
		carried(s+"post_start", s+"post_start[]", s+"post_start[].command", s+"post_start[].environment", s+"post_start[].user", s+"post_start[].working_dir"),
		left(s+"post_start[].privileged", "the hook has the privileges of the service"),
		carried(s+"pre_stop", s+"pre_stop[]", s+"pre_stop[].command", s+"pre_stop[].environment", s+"pre_stop[].user", s+"pre_stop[].working_dir"),
		left(s+"pre_stop[].privileged", "the hook has the privileges of the service"),
		left(s+"pre_start[].**", "a step before the start is a container of its own kind; it is run as the service itself is"),
		carried(s+"pre_start", s+"pre_start[]", s+"pre_start[].command", s+"pre_start[].environment", s+"pre_start[].user",
			s+"pre_start[].working_dir", s+"pre_start[].per_replica"),
		changed(s+"pre_start[].image", "the step runs as a process of this machine, not in the image"),
		carried(s+"develop", s+"develop.watch", s+"develop.watch[]", s+"develop.watch[].path", s+"develop.watch[].action",
			s+"develop.watch[].ignore", s+"develop.watch[].include", s+"develop.watch[].initial_sync",
			s+"develop.watch[].exec", s+"develop.watch[].exec.command", s+"develop.watch[].exec.environment",
			s+"develop.watch[].exec.user", s+"develop.watch[].exec.working_dir"),
		changed(s+"develop.watch[].target", "a process has synced files where its artefacts have them, seen from its working directory"),
		left(s+"develop.watch[].exec.privileged", "the command has the privileges of the service"),
		left(s+"models.**", "no model runner is started; run it as a service"),
		left(s+"provider.**", "no provider is called; the service does not run"),
	)
}

func networkRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"ports", s+"ports[]", s+"ports[].target", s+"ports[].published", s+"ports[].host_ip", s+"ports[].protocol",
			s+"ports[].app_protocol", s+"ports[].name", s+"ports[].mode"),
		carried(s+"expose", s+"hostname", s+"extra_hosts", s+"links"),
		carried(s+"network_mode", s+"networks", s+"networks.*", s+"networks.*.aliases", s+"networks.*.use_service_name_alias"),
		left(s+"networks.*.driver_opts", "there is no network driver to take them"),
		left(s+"networks.*.gw_priority", "there is one way out"), left(s+"networks.*.priority", "there is one network to connect"),
		left(s+"networks.*.interface_name", "the interface has a name of Trellis's own"),
		left(s+"networks.*.ipv4_address", "addresses are given by Trellis: use the service's name"),
		left(s+"networks.*.ipv6_address", "addresses are given by Trellis: use the service's name"),
		left(s+"networks.*.link_local_ips", "addresses are given by Trellis"),
		left(s+"networks.*.mac_address", "the interface has an address of Trellis's own"),
		left(s+"mac_address", "the interface has an address of Trellis's own"),
		left(s+"net", "it is older than network_mode: write that"),
		left(s+"domainname", "only hostname is set"),
		left(s+"dns", "names are resolved as this machine resolves them"),
		left(s+"dns_opt", "names are resolved as this machine resolves them"),
		left(s+"dns_search", "names are resolved as this machine resolves them"),
		left(s+"external_links", "containers of other projects are not found: use their published ports"),
	)
}

func storageRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"volumes", s+"volumes[]", s+"volumes[].type", s+"volumes[].source", s+"volumes[].target", s+"volumes[].read_only",
			s+"volumes[].bind", s+"volumes[].bind.create_host_path", s+"volumes[].volume", s+"volumes[].volume.subpath",
			s+"volumes[].tmpfs.**"),
		left(s+"volumes[].bind.propagation", "mounts are private"),
		left(s+"volumes[].bind.recursive", "what is mounted below the source comes along, writable as it is"),
		left(s+"volumes[].bind.selinux", "labels are not changed"),
		left(s+"volumes[].consistency", "it has a meaning only on Docker Desktop"),
		left(s+"volumes[].image.**", "there is no image to mount"),
		changed(s+"volumes[].volume.nocopy", "there is no image whose files could be copied: a volume starts empty"),
		left(s+"volumes[].volume.labels", "a volume is a directory, which has no labels"),
		left(s+"volumes_from", "mounts are not taken over: repeat the volumes"),
		left(s+"volume_driver", "a volume is a directory of this machine"),
		carried(s+"tmpfs", s+"secrets.**", s+"configs.**", s+"read_only", s+"shm_size"),
		left(s+"storage_opt", "there is no storage driver"),
	)
}

// machineRows speak of what a service gets of this machine, and of what describes a container.
func machineRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"cpus", s+"mem_limit", s+"pids_limit", s+"ulimits.**", s+"sysctls", s+"oom_score_adj", s+"cap_add", s+"cap_drop", s+"privileged"),
		left(s+"mem_reservation", "memory is limited, not reserved"),
		left(s+"memswap_limit", "swap is not limited apart from memory"), left(s+"mem_swappiness", "the machine's own value holds"),
		left(s+"oom_kill_disable", "a program that has used up its memory is killed"),
		left(s+"blkio_config.**", "input and output are not limited"),
		left(s+"cgroup", "the instance has a cgroup of Trellis's own"), left(s+"cgroup_parent", "the instance has a cgroup of Trellis's own"),
		left(s+"cpu_count", "use deploy.resources.limits.cpus"), left(s+"cpu_percent", "use deploy.resources.limits.cpus"),
		left(s+"cpu_period", "use deploy.resources.limits.cpus"), left(s+"cpu_quota", "use deploy.resources.limits.cpus"),
		left(s+"cpu_rt_period", "no real-time share is given"), left(s+"cpu_rt_runtime", "no real-time share is given"),
		left(s+"cpu_shares", "all services have the same share; use deploy.resources.limits.cpus"),
		left(s+"cpuset", "the process may run on every CPU"),
		left(s+"devices.**", "the process sees the devices of this machine as its user may"),
		left(s+"device_cgroup_rules", "devices are not allowed or denied by cgroup"),
		left(s+"gpus.**", "the process sees the devices of this machine as its user may"),
		changed(s+"security_opt", "no-new-privileges is carried out; other options are not, no profile is applied"),
		left(s+"credential_spec.**", "it has a meaning only on Windows"), left(s+"isolation", "it has a meaning only on Windows"),
		left(s+"runtime", "there is no container runtime"),
		left(s+"ipc", "the process shares this machine's IPC"), left(s+"pid", "the process sees this machine's processes"),
		left(s+"uts", "the host name is set as hostname says"), left(s+"userns_mode", "users are those of this machine"),
		left(s+"umask", "the umask is 0022"),
		left(s+"use_api_socket", "there is no Docker socket to mount"),
		left(s+"stdin_open", "standard input is empty"), left(s+"tty", "the process has no terminal; trellis exec -t has"),
		left(s+"attach", "trellis logs SERVICE chooses what is shown"),
		changed(s+"container_name", "there is no container: other services resolve the name, and instances are called SERVICE-N"),
		left(s+"labels", "there is no container to carry them: programs that read them from Docker do not see them"),
		left(s+"label_file", "there is no container to carry them: programs that read them from Docker do not see them"),
		left(s+"annotations", "there is no container to carry them"),
		changed(s+"logging", "output is kept by Trellis"),
		left(s+"logging.driver", "output is kept by Trellis: trellis logs"),
		changed(s+"logging.options", "max-size and max-file bound what is kept; other options have no effect"),
		changed(s+"log_driver", "output is kept by Trellis: trellis logs"), left(s+"log_opt", "it is older than logging: write that"),
	)
}

func deployRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"deploy", s+"deploy.replicas", s+"deploy.resources", s+"deploy.resources.limits", s+"deploy.resources.limits.cpus",
			s+"deploy.resources.limits.memory", s+"deploy.resources.limits.pids", s+"deploy.restart_policy.**"),
		carried(s+"deploy.update_config.**", s+"deploy.rollback_config.**"),
		left(s+"deploy.mode", "there is one machine: replicated, whatever it says"),
		left(s+"deploy.endpoint_mode", "services are always reached through the proxy"),
		left(s+"deploy.labels", "there is no service object to carry them"),
		left(s+"deploy.placement.**", "there is one machine to place on"),
		left(s+"deploy.resources.limits.devices.**", "devices are not limited"),
		left(s+"deploy.resources.limits.generic_resources.**", "there is one machine: nothing is scheduled"),
		left(s+"deploy.resources.reservations.**", "there is one machine: nothing is scheduled, nothing is reserved"),
	)
}

func trellisRows() []row {
	const s = "services.*."
	return rows(
		carried("x-trellis.gateway", "x-trellis.gateway.http", "x-trellis.gateway.hosts", "x-trellis.gateway.policy.**", "x-trellis.auth.**",
			"x-trellis.gateway.https", "x-trellis.gateway.certificates[].**", "x-trellis.gateway.acme.**", "x-trellis.gateway.client_certificates", "x-trellis.gateway.proxy_protocol", s+"ports[].x-trellis.proxy_protocol", "x-trellis.gateway.redirect_https", "x-trellis.gateway.hsts",
			"x-trellis.gateway.access_log", "x-trellis.gateway.trusted_proxies", "x-trellis.gateway.shift.**"),
		left("x-trellis.topics.**", "there is no broker yet"), carried("x-trellis.alerts.**"), carried("x-trellis.forward.**"),
		carried("x-trellis.environments", "x-trellis.environments.*", "x-trellis.environments.*.on",
			"x-trellis.environments.*.ttl", "x-trellis.environments.*.per_branch"),
		left("x-trellis.environments.*.context", "it says where in a cluster, and this machine runs the project"),
		left("x-trellis.environments.*.namespace", "it says where in a cluster, and this machine runs the project"),
		left("x-trellis.environments.*.gateway_class", "the local engine has a gateway of its own"),
		left("x-trellis.environments.*.autoscaler", "on one machine Trellis itself scales"),
		left("x-trellis.environments.*.mesh", "on one machine Trellis itself says who may call whom, by the namespace that calls"),
		left("x-trellis.environments.*.monitoring", "no operator of a cluster sees this machine: trellis metrics and trellis alerts ask Trellis' own store"),
		carried("x-trellis.load.**"),
		carried(s+"ports[].x-trellis.routes.**", s+"ports[].x-trellis.routes[].**"),
		carried(s+"deploy.x-trellis.canary.**", s+"deploy.x-trellis.autoscale.**"),
		carried(s+"x-trellis.process.**", s+"x-trellis.probe.**", s+"x-trellis.objective.**", s+"x-trellis.metrics.**", s+"x-trellis.backup.**", s+"x-trellis.calls"),
		carried(s+"x-trellis.tls", s+"x-trellis.identity", s+"ports[].x-trellis.tls", s+"x-trellis.breaker.**"),
		left(s+"x-trellis.publishes", "there is no broker yet"), left(s+"x-trellis.subscribes.**", "there is no broker yet: nothing is delivered"),
	)
}
