#!/usr/bin/env bash
# Prints the licences of all that a release consists of: Go's own, those of the modules that the programs link on any platform, with
# how to get the source of exactly that version, and those of what the console is built of. Each text once, below those that have it.
# Fails on a module that has none. Whoever passes bin/trellis on passes this on with it; `make dist` puts it into every archive.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${GO:=go}"
export LC_ALL=C
shopt -s nullglob nocaseglob

declare -A users texts found
add() { # NAME FILE
	local sum
	sum=$(sha256sum <"$2")
	texts[$sum]=$2
	[[ ${users[$sum]-} == *"$1"$'\n'* ]] || users[$sum]+=$1$'\n'
}

packages() { # module, version, its folder, the package's: of what a module is replaced by, if so; what stands in the project is no module
	for system in linux darwin; do
		GOOS=$system CGO_ENABLED=0 $GO list -deps \
			-f '{{with .Module}}{{with or .Replace .}}{{if .Version}}{{.Path}} {{.Version}} {{.Dir}} {{$.Dir}}{{end}}{{end}}{{end}}' \
			./cmd/trellis ./cmd/trellis-shim
	done | sort -u
}

root=$($GO env GOROOT)
add "Go $($GO env GOVERSION) https://go.dev/dl/" "$root/LICENSE"
list=$(packages)
while read -r module version top dir; do
	name="$module@$version"
	found[$module]=${found[$module]-}
	while :; do
		for file in "$dir"/{LICENSE,LICENCE,COPYING,NOTICE,PATENTS}{,[.-]*}; do
			[[ -f $file && $file != *.go ]] || continue
			add "$name" "$file"
			base=${file##*/}
			[[ ${base^} == [NP]* ]] || found[$module]=yes # a notice alone permits nothing
		done
		[[ $dir != "$top" ]] || break
		dir=${dir%/*}
	done
done <<<"$list"

missing=0
for module in "${!found[@]}"; do
	[[ -n ${found[$module]} ]] || { echo "$module has no licence" >&2; missing=1; }
done
[[ $missing == 0 ]]

line=$(printf '%.0s-' {1..80})
printf 'The source of a module in this list: go mod download MODULE@VERSION\n\n'
for sum in "${!users[@]}"; do
	printf '%s\t%s\n' "$(sort <<<"${users[$sum]%$'\n'}" | sed -n 1p)" "$sum"
done | sort | while IFS=$'\t' read -r _ sum; do
	printf '%s\n' "$line"
	sort -u <<<"${users[$sum]%$'\n'}"
	printf '%s\n\n' "$line"
	cat "${texts[$sum]}"
	printf '\n'
done
printf '%s\nThe console\n%s\n\n' "$line" "$line"
cat console/dist/licences.md
