#!/usr/bin/env bash
# Builds the archives of a release into DIST (default dist/): Linux and macOS, amd64 and arm64, each with the static
# binary, man pages, completions and documents, and SHA256SUMS over them. The same commit gives the same bytes: nothing of
# the machine, the folder or the hour is in them. PLATFORMS limits what is built, LEVEL (9) how hard it is compressed. Needs
# GNU tar.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${GO:=go}" "${DIST:=dist}" "${VERSION:=$(git describe --tags --always --dirty 2>/dev/null || echo dev)}"
: "${PLATFORMS:=linux/amd64 linux/arm64 darwin/amd64 darwin/arm64}" "${LEVEL:=9}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH CGO_ENABLED=0 TZ=UTC LC_ALL=C

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$DIST"
dist=$(cd "$DIST" && pwd)
rm -f "$dist"/trellis-*.tar.gz "$dist/SHA256SUMS"

# build PLATFORM FILE: the binary of a platform. The shim is embedded from a file of its own, so that builds for several
# platforms do not share one.
build() {
	local shim=$work/${1//\//-}.shim
	GOOS=${1%/*} GOARCH=${1#*/} $GO build -trimpath -buildvcs=false -ldflags '-s -w' -o "$shim" ./cmd/trellis-shim
	printf '{"Replace":{"%s/server/trellis-shim.bin":"%s"}}' "$PWD" "$shim" >"$shim.json"
	GOOS=${1%/*} GOARCH=${1#*/} $GO build -trimpath -buildvcs=false -tags embedshim -overlay "$shim.json" \
		-ldflags "-s -w -X trellis/server.Version=$VERSION" -o "$2" ./cmd/trellis
}

# What is the same everywhere: man pages, completions, documents.
here=$($GO env GOOS)/$($GO env GOARCH)
build "$here" "$work/trellis"
share=$work/share
mkdir -p "$share"/man/man1 "$share"/bash-completion/completions "$share"/zsh/site-functions \
	"$share"/fish/vendor_completions.d "$share"/doc/trellis
"$work/trellis" completion bash >"$share/bash-completion/completions/trellis"
"$work/trellis" completion zsh >"$share/zsh/site-functions/_trellis"
"$work/trellis" completion fish >"$share/fish/vendor_completions.d/trellis.fish"
# Paths are trimmed here too, so that what was compiled in another folder serves.
$GO test -trimpath -buildvcs=false -vet=off -ldflags '-s -w' ./cmd/trellis -count=1 -run '^TestManPages$' \
	-args -man "$share/man/man1" >"$work/man.log" || { cat "$work/man.log"; exit 1; }
cp -R README.md docs "$share/doc/trellis/"
scripts/licences.sh >"$share/doc/trellis/LICENCES"

for platform in $PLATFORMS; do
	name=trellis-$VERSION-${platform/\//-}
	mkdir -p "$work/$name/bin"
	if [ "$platform" = "$here" ]; then
		cp "$work/trellis" "$work/$name/bin/trellis"
	else
		build "$platform" "$work/$name/bin/trellis"
	fi
	cp -R "$share" "$work/$name/"
	chmod -R u=rwX,go=rX "$work/$name"
	tar -C "$work" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
		-cf - "$name" | gzip "-${LEVEL}n" >"$dist/$name.tar.gz"
	rm -rf "${work:?}/$name"
done
(cd "$dist" && sha256sum trellis-*.tar.gz | tee SHA256SUMS)
