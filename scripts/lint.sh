#!/usr/bin/env bash
# gofmt, go vet and staticcheck over every module of the repository, with the tests that only some commands build.
set -euo pipefail
cd "$(dirname "$0")/.."

unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l)
if [ -n "$unformatted" ]; then
	printf 'not formatted (run gofmt -w):\n%s\n' "$unformatted"
	exit 1
fi
mkdir -p bin
(cd tools && go build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck)
root=$PWD tags=e2e,browser,interop,gateway,conformance
for module in . examples/evergreen cmd/terraform-provider-trellis; do
	(cd "$module" && go vet -tags "$tags" ./... && "$root/bin/staticcheck" -tags "$tags" ./...)
done
echo "lint: ok"
