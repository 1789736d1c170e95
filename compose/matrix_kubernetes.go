package compose

import (
	"fmt"
	"strings"
)

// kubernetesRows are the rows of the target "kubernetes": what becomes of each attribute in a cluster, whatever its value.
// What depends on the value, such as a name that a cluster cannot have, the renderer says itself.
func kubernetesRows() []row {
	return rows(clusterProjectRows(), clusterRunRows(), clusterNetworkRows(), clusterStorageRows(), clusterMachineRows(),
		clusterDeployRows(), clusterTrellisRows())
}

func clusterProjectRows() []row {
	return rows(
		carried("name", "include[].**", "services", "services.*"),
		changed("version", "it has no meaning any more"),
		left("jobs.**", "jobs are not rendered; write it as a service with restart: no"),
		left("models.**", "no model runner is started; run it as a service"),
		carried("networks", "networks.*", "networks.*.internal"),
		left("networks.*.name", "pods share the cluster's network; who reaches whom is by NetworkPolicies"),
		left("networks.*.labels", "there is no network object to carry them"),
		left("networks.*.driver", "pods share the cluster's network"),
		left("networks.*.driver_opts", "pods share the cluster's network"),
		left("networks.*.ipam.**", "the cluster gives the addresses"),
		left("networks.*.external", "pods share the cluster's network: a service of another namespace is NAME.NAMESPACE"),
		left("networks.*.attachable", "pods share the cluster's network"),
		left("networks.*.enable_ipv4", "the cluster decides on addresses"), left("networks.*.enable_ipv6", "the cluster decides on addresses"),
		carried("volumes", "volumes.*", "volumes.*.labels", "volumes.*.external"),
		changed("volumes.*.name", "a claim is named by its key; that of an external volume by this"),
		carried("volumes.*.driver", "volumes.*.driver_opts"),
		carried("secrets", "secrets.*", "secrets.*.file", "secrets.*.environment", "secrets.*.external", "secrets.*.labels"),
		changed("secrets.*.name", "a Secret is named by its key and its content; that of an external one by this"),
		left("secrets.*.content", "a secret's content cannot stand in the file"),
		left("secrets.*.driver", "no secret store is asked"), left("secrets.*.driver_opts", "no secret store is asked"),
		left("secrets.*.template_driver", "the content is not a template"),
		carried("configs", "configs.*", "configs.*.file", "configs.*.environment", "configs.*.content", "configs.*.external", "configs.*.labels"),
		changed("configs.*.name", "a ConfigMap is named by its key and its content; that of an external one by this"),
		left("configs.*.driver", "no config store is asked"), left("configs.*.driver_opts", "no config store is asked"),
		left("configs.*.template_driver", "the content is not a template"),
	)
}

func clusterRunRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"image", s+"build"),
		changed(s+"build.**", "up builds and pushes it with the Docker engine; the cluster only pulls it"),
		left(s+"dockerfile", "it is older than build: write that"),
		carried(s+"platform", s+"working_dir", s+"command", s+"environment", s+"env_file.**", s+"extends.**", s+"profiles"),
		changed(s+"entrypoint", "an empty one does not take the image's away"),
		changed(s+"pull_policy", "always, missing and never are carried out; the ones by age ask the registry each time"),
		changed(s+"pull_refresh_after", "pull_policy: always asks the registry each time"),
		carried(s+"depends_on.**", s+"restart", s+"scale", s+"user", s+"group_add", s+"stop_grace_period", s+"healthcheck.**"),
		changed(s+"init", "the containers of a pod share its first process, which reaps what is left behind"),
		changed(s+"stop_signal", "it takes Kubernetes 1.33 or later with the feature gate ContainerStopSignals; another cluster sends the image's"),
		carried(s+"post_start", s+"post_start[]", s+"post_start[].command"),
		changed(s+"post_start[].environment", "it takes a shell in the image"), changed(s+"post_start[].working_dir", "it takes a shell in the image"),
		carried(s+"post_start[].user"),
		left(s+"post_start[].privileged", "the hook has the privileges of the service"),
		carried(s+"pre_stop[]", s+"pre_stop[].command", s+"pre_stop[].environment", s+"pre_stop[].working_dir", s+"pre_stop[].user"),
		changed(s+"pre_stop", "it takes a shell in the image: it runs when nothing is sent to the pod any more"),
		left(s+"pre_stop[].privileged", "the hook has the privileges of the service"),
		left(s+"pre_start[].**", "the step runs as the service does"),
		carried(s+"pre_start", s+"pre_start[]", s+"pre_start[].command", s+"pre_start[].environment", s+"pre_start[].user",
			s+"pre_start[].working_dir", s+"pre_start[].per_replica", s+"pre_start[].image", s+"pre_start[].privileged"),
		left(s+"develop.**", "nothing is watched in a cluster"),
		left(s+"models.**", "no model runner is started; run it as a service"),
		left(s+"provider.**", "no provider is called; the service does not run"),
	)
}

func clusterNetworkRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"ports", s+"ports[]", s+"ports[].target", s+"ports[].published", s+"ports[].host_ip", s+"ports[].protocol",
			s+"ports[].app_protocol", s+"ports[].name", s+"ports[].mode"),
		carried(s+"expose", s+"hostname", s+"extra_hosts", s+"links", s+"network_mode"),
		carried(s+"networks", s+"networks.*", s+"networks.*.aliases", s+"networks.*.use_service_name_alias"),
		left(s+"networks.*.driver_opts", "pods share the cluster's network"),
		left(s+"networks.*.gw_priority", "there is one network"), left(s+"networks.*.priority", "there is one network"),
		left(s+"networks.*.interface_name", "the cluster names the interfaces"),
		left(s+"networks.*.ipv4_address", "the cluster gives the addresses: use the service's name"),
		left(s+"networks.*.ipv6_address", "the cluster gives the addresses: use the service's name"),
		left(s+"networks.*.link_local_ips", "the cluster gives the addresses"),
		left(s+"networks.*.mac_address", "the cluster gives the addresses"), left(s+"mac_address", "the cluster gives the addresses"),
		left(s+"net", "it is older than network_mode: write that"),
		left(s+"domainname", "the cluster names its pods; hostname is set"),
		changed(s+"dns", "the cluster's own names are asked for first"),
		carried(s+"dns_opt", s+"dns_search"),
		left(s+"external_links", "a service of another namespace is NAME.NAMESPACE"),
	)
}

func clusterStorageRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"volumes", s+"volumes[]", s+"volumes[].type", s+"volumes[].source", s+"volumes[].target", s+"volumes[].read_only",
			s+"volumes[].bind", s+"volumes[].volume", s+"volumes[].volume.subpath", s+"volumes[].tmpfs.**"),
		changed(s+"volumes[].bind.create_host_path", "nothing is made on a node"),
		left(s+"volumes[].bind.propagation", "mounts are private"),
		left(s+"volumes[].bind.recursive", "what is mounted below the source comes along"),
		left(s+"volumes[].bind.selinux", "labels are not changed"),
		left(s+"volumes[].consistency", "it has a meaning only on Docker Desktop"),
		left(s+"volumes[].image.**", "images are not mounted"),
		changed(s+"volumes[].volume.nocopy", "volumes are empty at first in any case"),
		left(s+"volumes[].volume.labels", "write the labels at the volume, under volumes"),
		left(s+"volumes_from", "mounts are not taken over: repeat the volumes"),
		left(s+"volume_driver", "write the driver at the volume, under volumes"),
		carried(s+"tmpfs", s+"secrets.**", s+"configs.**", s+"read_only", s+"shm_size"),
		left(s+"storage_opt", "the nodes' own options hold"),
	)
}

func clusterMachineRows() []row {
	const s = "services.*."
	node := "it is each node's to say"
	return rows(
		carried(s+"cpus", s+"mem_limit", s+"mem_reservation", s+"cap_add", s+"cap_drop", s+"privileged", s+"security_opt", s+"sysctls",
			s+"stdin_open", s+"tty"),
		left(s+"pids_limit", node), left(s+"ulimits.**", "limits are those that the nodes' runtime gives"), left(s+"oom_score_adj", "it follows from requests and limits of memory"),
		left(s+"memswap_limit", node), left(s+"mem_swappiness", node), left(s+"oom_kill_disable", "a program that has used up its memory is killed"),
		left(s+"blkio_config.**", node), left(s+"cgroup", node), left(s+"cgroup_parent", node),
		left(s+"cpu_count", "use deploy.resources.limits.cpus"), left(s+"cpu_percent", "use deploy.resources.limits.cpus"),
		left(s+"cpu_period", "use deploy.resources.limits.cpus"), left(s+"cpu_quota", "use deploy.resources.limits.cpus"),
		left(s+"cpu_rt_period", node), left(s+"cpu_rt_runtime", node), left(s+"cpuset", node),
		left(s+"cpu_shares", "use deploy.resources.reservations.cpus"),
		left(s+"devices.**", "devices of a node are given by a device plugin: deploy.resources.reservations.devices asks for GPUs"),
		left(s+"device_cgroup_rules", node),
		left(s+"gpus.**", "write deploy.resources.reservations.devices, with a count"),
		left(s+"credential_spec.**", "it has a meaning only on Windows"), left(s+"isolation", "it has a meaning only on Windows"),
		left(s+"runtime", "a RuntimeClass is the cluster's"),
		carried(s+"ipc", s+"pid"),
		left(s+"uts", "a pod has its own host name"), left(s+"userns_mode", "users are as the nodes map them"),
		left(s+"umask", "the umask is the image's"), left(s+"use_api_socket", "there is no Docker socket to mount"),
		left(s+"attach", "kubectl logs chooses what is shown"),
		carried(s+"container_name"),
		changed(s+"labels", "they are annotations of the pods: programs that read them from Docker do not see them"),
		changed(s+"label_file", "they are annotations of the pods: programs that read them from Docker do not see them"),
		carried(s+"annotations"),
		changed(s+"logging", "output is kept by the nodes: kubectl logs"),
		left(s+"logging.driver", "output is kept by the nodes: kubectl logs"), left(s+"logging.options", "the nodes bound what is kept"),
		left(s+"log_driver", "output is kept by the nodes: kubectl logs"), left(s+"log_opt", "the nodes bound what is kept"),
	)
}

func clusterDeployRows() []row {
	const s = "services.*."
	return rows(
		carried(s+"deploy", s+"deploy.mode", s+"deploy.replicas", s+"deploy.endpoint_mode", s+"deploy.placement.**", s+"deploy.resources",
			s+"deploy.resources.limits", s+"deploy.resources.limits.cpus", s+"deploy.resources.limits.memory", s+"deploy.resources.reservations",
			s+"deploy.resources.reservations.cpus", s+"deploy.resources.reservations.memory", s+"deploy.resources.reservations.devices.**"),
		changed(s+"deploy.labels", "they are annotations of the workload"),
		left(s+"deploy.resources.limits.pids", "how many processes a pod may have is each node's to say"),
		left(s+"deploy.resources.limits.devices.**", "only reservations ask for devices"),
		left(s+"deploy.resources.limits.generic_resources.**", "nodes are not known by them"),
		left(s+"deploy.resources.reservations.pids", "processes are not reserved"),
		left(s+"deploy.resources.reservations.generic_resources.**", "nodes are not known by them"),
		carried(s+"deploy.restart_policy", s+"deploy.restart_policy.condition", s+"deploy.restart_policy.max_attempts"),
		left(s+"deploy.restart_policy.delay", "a cluster waits 10 s and then twice as long each time, up to 5 min"),
		left(s+"deploy.restart_policy.window", "ten good minutes end the count"),
		carried(s+"deploy.update_config", s+"deploy.update_config.parallelism", s+"deploy.update_config.monitor", s+"deploy.update_config.order"),
		changed(s+"deploy.update_config.delay", "a batch is watched for as long before the next one; the longer of monitor and delay holds"),
		changed(s+"deploy.update_config.failure_action", "trellis up takes a revision that fails back as a whole; exported, a rollout stops where it is, with the old pods in service"),
		left(s+"deploy.update_config.max_failure_ratio", "a rollout that fails stops where it is, with the old pods in service"),
		left(s+"deploy.rollback_config.**", "going back is a rollout like any other"),
	)
}

func clusterTrellisRows() []row {
	const s = "services.*."
	const g = "x-trellis.gateway"
	return rows(
		carried(g, g+".http", g+".https", g+".hosts", g+".certificates[].**", g+".redirect_https", g+".hsts", g+".policy", g+".policy.auth",
			g+".policy.cors.**", g+".policy.response_headers.**"),
		changed(g+".policy.**", "the renderer says it of each route that it would hold for"),
		left(g+".acme.**", "no authority is asked from a cluster yet: name certificates, which the cluster's own issuer may write"),
		left(g+".shift.**", "what comes to the cluster's gateway is served in the cluster: a local gateway leads requests here"),
		left(s+"ports[].x-trellis.proxy_protocol", "the port is shared with callers inside of the cluster"),
		carried(g+".access_log", g+".client_certificates", g+".proxy_protocol", g+".trusted_proxies", "x-trellis.auth.**"), // the renderer says where there is no data plane
		left("x-trellis.topics.**", "there is no broker yet"),
		carried("x-trellis.alerts.**", "x-trellis.forward.**"), // the renderer says where there is no control plane
		carried("x-trellis.environments.**"), carried("x-trellis.load.**"),
		carried(s+"ports[].x-trellis.routes.**", s+"ports[].x-trellis.routes[].**"),
		carried(s+"deploy.x-trellis.autoscale.**"),
		left(s+"deploy.x-trellis.autoscale.window", "the cluster's own window holds"),
		left(s+"deploy.x-trellis.canary.**", "pods are replaced in batches, without a share of the traffic"),
		changed(s+"x-trellis.process.**", "a cluster runs an image: the service's own, or one that is made of the artifacts"),
		carried(s+"x-trellis.probe.**", s+"x-trellis.calls"),
		carried(s+"x-trellis.breaker.**"), // the renderer says where there is no data plane
		left(s+"x-trellis.tls", "nothing in the cluster calls it over mutual TLS: callers have to speak it themselves"),
		left(s+"ports[].x-trellis.tls", "nothing in the cluster calls it over mutual TLS: callers have to speak it themselves"),
		left(s+"x-trellis.identity", "pods get no certificates of Trellis"),
		carried(s+"x-trellis.metrics.**", s+"x-trellis.objective.**"), // the renderer says where there is no control plane
		left(s+"x-trellis.backup.**", "volumes of a cluster are not saved"),
		left(s+"x-trellis.publishes", "there is no broker yet"), left(s+"x-trellis.subscribes.**", "there is no broker yet: nothing is delivered"),
	)
}

// ofCluster is byValue for a cluster.
func ofCluster(pattern, text string) carry {
	switch pattern {
	case "services.*.network_mode":
		if !among("host none bridge", text) {
			return carry{Left, "pods do not share the network of another service"}
		}
	case "services.*.pid", "services.*.ipc":
		if text != "host" && !among("shareable private none", text) {
			return carry{Left, "what another container has is not shared"}
		}
	case "services.*.networks.*.use_service_name_alias":
		if text == "false" {
			return carry{Left, "the service's name always resolves"}
		}
	case "services.*.deploy.update_config.failure_action":
		if text == OnFailurePause {
			return carry{CarriedOut, ""}
		}
	}
	return carry{}
}

// mattersInCluster is matters for a cluster.
func mattersInCluster(pattern string, v any) bool {
	text := fmt.Sprint(v)
	switch pattern {
	case "services.*.x-trellis.process", "services.*.logging", "x-trellis.gateway.policy", "services.*.build":
		return false // who asks about a cluster knows, or its keys say more
	case "networks.*.driver":
		return text != "bridge" && text != "overlay"
	case "networks.*.name", "volumes.*.name", "secrets.*.name", "configs.*.name", "networks.*.labels":
		return pattern == "networks.*.labels"
	case "networks.*.attachable", "services.*.oom_kill_disable", "services.*.volumes[].volume.nocopy":
		return false
	case "services.*.pull_policy":
		return pullsByAge(text)
	case "services.*.entrypoint":
		list, _ := v.([]any)
		return len(list) == 0
	case "services.*.volumes[].bind.create_host_path":
		return false // the renderer says what becomes of the mount
	case "networks.*.enable_ipv4":
		return text == "false"
	case "services.*.uts", "services.*.userns_mode":
		return true
	case "services.*.logging.driver":
		return text != "json-file" && text != "local"
	}
	return !strings.HasPrefix(pattern, "services.*.x-trellis.process") && !strings.HasPrefix(pattern, "x-trellis.gateway.policy.") &&
		!strings.HasPrefix(pattern, "services.*.build.")
}
