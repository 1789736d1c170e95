#!/usr/bin/env bash
# usage: engine.sh COMMAND...   runs a command with a Docker engine: the one that answers, or else one of its own, whose
# images, containers and networks are gone afterwards. To start one it needs root.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

if docker version >/dev/null 2>&1; then
	exec "$@"
fi
if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
	echo "no Docker engine answers, and none can be started here (that needs root and dockerd); DRIVERS=process tests without" >&2
	exit 1
fi
# The same place each time, so that the results of tests that nothing has changed are kept; another run may have it.
dir=${TMPDIR:-/tmp}/trellis-engine-$(pwd | cksum | cut -d' ' -f1)
mkdir -p "$dir"
exec 9>"$dir/lock"
if ! flock -n 9; then
	dir=$(mktemp -d)
fi
engine=
end() {
	if [ -n "$engine" ] && kill -0 "$engine" 2>/dev/null; then
		kill "$engine"
		wait "$engine" 2>/dev/null || true
	fi
	umount -R "$dir"/data/* "$dir/data" 2>/dev/null || true
	rm -rf "$dir"
}
trap end EXIT
# What a run that was killed has left would be containers of projects that are not there.
umount -R "$dir"/data/* "$dir/data" 2>/dev/null || true
rm -rf "$dir/data" "$dir/exec" "$dir/pid" "$dir/docker.sock"

# start STORAGE...: waits until the engine answers, up to 30 s.
start() {
	dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" -H "unix://$dir/docker.sock" "$@" >"$dir/log" 2>&1 9>&- &
	engine=$!
	for _ in $(seq 150); do
		if docker version >/dev/null 2>&1; then return 0; fi
		kill -0 "$engine" 2>/dev/null || return 1
		sleep 0.2
	done
	return 1
}
export DOCKER_HOST="unix://$dir/docker.sock"
if ! start --storage-driver overlay2; then
	kill "$engine" 2>/dev/null || true
	wait "$engine" 2>/dev/null || true
	if ! start --storage-driver vfs; then
		echo "the Docker engine does not start:" >&2
		tail -n 20 "$dir/log" >&2
		exit 1
	fi
fi
"$@" 9>&-
