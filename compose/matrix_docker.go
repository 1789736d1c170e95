package compose

// dockerRows are where a container fares otherwise than a process: the rows of the target "docker" that differ.
func dockerRows() []row {
	return rows(dockerProjectRows(), dockerRunRows(), dockerBuildRows(), dockerNetworkRows(), dockerStorageRows(), dockerMachineRows())
}

func dockerProjectRows() []row {
	return rows(
		carried("networks.*.driver", "networks.*.driver_opts", "networks.*.external", "networks.*.internal"),
		changed("networks.*.attachable", "it has a meaning only in a swarm"),
		left("networks.*.ipam.**", "the engine chooses the subnet"),
		left("networks.*.enable_ipv4", "networks have IPv4"),
		left("networks.*.enable_ipv6", "networks have IPv4 only; make one yourself, and name it as external"),
		carried("volumes.*.driver", "volumes.*.driver_opts"),
	)
}

func dockerRunRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"image", s+"platform", s+"working_dir"),
		changed(s+"pull_policy", "always, missing, never and build are carried out; the ones by age ask the registry each time"),
		changed(s+"pull_refresh_after", "pull_policy: always asks the registry each time"),
		changed(s+"pre_start[].image", "the image has to be on this machine: it is not pulled"),
		changed(s+"entrypoint", "an empty one does not take the image's away"),
		left(s+"develop.**", "only services that run as processes are watched; trellis up again rolls out what changed"),
		changed(s+"x-trellis.process.**", "a service with it runs as a process; --driver docker leaves it out"),
	)
}

func dockerBuildRows() []row {
	const b = "services.*.build"
	return rows(
		carried(b, b+".context", b+".dockerfile", b+".dockerfile_inline", b+".args", b+".target", b+".labels", b+".cache_from", b+".no_cache",
			b+".pull", b+".network", b+".tags"),
		changed(b+".platforms", "the first one is built"),
		changed(b+".additional_contexts", "the build is refused: build the image with docker buildx, and name it as image"),
		changed(b+".secrets.**", "the build is refused: build the image with docker buildx, and name it as image"),
		changed(b+".ssh.**", "the build is refused: build the image with docker buildx, and name it as image"),
		left(b+".cache_to", "layers stay with the engine"), left(b+".entitlements", "builds have none"),
		left(b+".extra_hosts", "names resolve as the engine resolves them"), left(b+".isolation", "it has a meaning only on Windows"),
		left(b+".privileged", "builds are not privileged"), left(b+".provenance", "nothing is attested"), left(b+".sbom", "nothing is attested"),
		left(b+".shm_size", "the engine's own size holds"), left(b+".ulimits.**", "the engine's own limits hold"),
		left(b+".no_cache_filter", "no_cache leaves the whole cache out"),
	)
}

func dockerNetworkRows() []row {
	const s = "services.*."
	return rows(
		changed(s+"ports[].mode", "host is as ingress: every published port is Trellis' own, and leads to the instances"),
		carried(s+"domainname", s+"dns", s+"dns_opt", s+"dns_search"),
		left(s+"networks.*.ipv4_address", "an instance and its successor cannot have the same address: use the service's name"),
		left(s+"networks.*.ipv6_address", "an instance and its successor cannot have the same address: use the service's name"),
		left(s+"networks.*.link_local_ips", "the engine gives the addresses"),
		left(s+"networks.*.mac_address", "an instance and its successor cannot have the same address"),
		left(s+"mac_address", "an instance and its successor cannot have the same address"),
		left(s+"networks.*.interface_name", "the engine names the interfaces"),
		left(s+"networks.*.driver_opts", "options of one endpoint are not passed on"),
		left(s+"networks.*.gw_priority", "the first network in order of name is the way out"),
		left(s+"networks.*.priority", "the networks are joined in order of name"),
		left(s+"external_links", "names of other projects' containers are not taken over: join their network as an external one"),
	)
}

func dockerStorageRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"volumes[].bind.propagation", s+"volumes[].volume.nocopy"),
		changed(s+"volumes[].volume.subpath", "it needs Docker 26 or later: with an older engine the service does not start"),
		left(s+"volumes[].bind.recursive", "mounts are as the engine makes them: recursive"),
		left(s+"volumes[].bind.selinux", "labels are not changed"),
		left(s+"volumes[].image.**", "images are not mounted"),
		left(s+"volumes[].volume.labels", "write the labels at the volume, under volumes"),
		left(s+"volume_driver", "write the driver at the volume, under volumes"),
		left(s+"storage_opt", "the engine's own options hold"),
	)
}

func dockerMachineRows() []row {
	const s = "services.*."
	notPassed := "it is not passed on to the engine"
	return rows(
		carried(s+"mem_reservation", s+"memswap_limit", s+"cpu_shares", s+"cpuset", s+"cgroup_parent", s+"runtime", s+"ipc", s+"pid",
			s+"stdin_open", s+"tty", s+"labels", s+"annotations", s+"security_opt", s+"deploy.resources.reservations",
			s+"deploy.resources.reservations.memory"),
		changed(s+"devices.**", "source, target and permissions are carried out; devices of a class of CDI are not"),
		left(s+"mem_swappiness", notPassed), left(s+"oom_kill_disable", "a program that has used up its memory is killed"),
		left(s+"blkio_config.**", notPassed), left(s+"cgroup", "the engine's own way holds"),
		left(s+"device_cgroup_rules", notPassed), left(s+"gpus.**", notPassed+": write devices"),
		left(s+"uts", "the host name is set as hostname says"), left(s+"userns_mode", "users are as the engine maps them"),
		left(s+"umask", notPassed), left(s+"use_api_socket", "mount the engine's socket under volumes"),
		left(s+"label_file", "write the labels under labels"),
		changed(s+"container_name", "other services resolve the name; containers are called PROJECT-SERVICE-N-HASH, because an instance and its successor run side by side"),
		changed(s+"logging", "output is kept by the engine as json-file"),
		left(s+"logging.driver", "output is kept by the engine as json-file: trellis logs"),
		left(s+"log_driver", "output is kept by the engine as json-file: trellis logs"),
		left(s+"deploy.resources.reservations.cpus", "there is one machine: nothing is scheduled"),
		left(s+"volumes_from", "mounts are not taken over: repeat the volumes"),
	)
}
