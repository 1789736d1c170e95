#!/usr/bin/env bash
# gofmt, go vet and staticcheck over every module of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l)
if [ -n "$unformatted" ]; then
	printf 'not formatted (run gofmt -w):\n%s\n' "$unformatted"
	exit 1
fi
mkdir -p bin
(cd tools && go build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck)
root=$PWD
for module in . examples/evergreen cmd/terraform-provider-trellis; do
	(cd "$module" && go vet ./... && "$root/bin/staticcheck" ./...)
done
echo "lint: ok"
