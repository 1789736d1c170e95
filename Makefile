# Trellis. `make` lists the targets.
GO      ?= go
# Not --dirty: that writes to .git, and go test takes results of tests that look for a .git for out of date.
VERSION ?= $(shell git describe --tags --always 2>/dev/null || echo dev)$(shell git --no-optional-locks status --porcelain -uno 2>/dev/null | sed -n '1s/.*/-dirty/p')
LDFLAGS := -s -w -X trellis/server.Version=$(VERSION)
FLAGS   := -trimpath -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help build test test-kubernetes test-nodes quick lint demo demo-down evergreen-load console browser interop conformance cluster cluster-down fuzz faults soak picture bench bench-gateway generate dist licences clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

build: bin/trellis ## build bin/trellis, one static binary with the shim inside

bin/trellis: FORCE
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build $(FLAGS) -ldflags '-s -w' -o server/trellis-shim.bin ./cmd/trellis-shim
	CGO_ENABLED=0 $(GO) build $(FLAGS) -tags embedshim -ldflags '$(LDFLAGS)' -o bin/trellis ./cmd/trellis

FORCE:

test: ## install what the tests need, then lint, every test with -race, and the end-to-end tests, in a Kubernetes too
	scripts/setup.sh
	$(MAKE) lint build
	scripts/test.sh

test-kubernetes: ## all tests in a real Kubernetes, built and started for it (half an hour; the first time 20 minutes more)
	e2e/cluster/foreign.sh bin/foreign
	FOREIGN_CRDS=$(CURDIR)/bin/foreign ENGINES=kubernetes e2e/cluster/cluster.sh run $(GO) test -tags e2e -count=1 -timeout 40m -parallel 4 ./e2e -run Kubernetes

test-nodes: ## what a project survives in a real Kubernetes of two nodes, one of which dies
	NODES=2 ENGINES=kubernetes e2e/cluster/cluster.sh run $(GO) test -tags e2e -count=1 -timeout 20m -v ./e2e -run 'KubernetesNodeDies|KubernetesDataOnADeadNode'

quick: ## the tests that need nothing but Go
	$(GO) test ./...

lint: ## gofmt, go vet, staticcheck
	scripts/lint.sh

demo: build ## Evergreen, the example platform, on http://localhost:8080
	scripts/demo.sh

demo-down: ## end the demo and remove all but its data
	cd examples/evergreen && ../../bin/trellis down

evergreen-load: ## Evergreen's visit at its full rate, services killed meanwhile; then the monolith
	scripts/evergreen-load.sh

console: ## build the web console from web/ into console/dist; needs Node and npm's registry
	scripts/console.sh

browser: ## look at Evergreen's pages and the console in Chromium; needs npm's registry
	scripts/browser.sh

interop: ## a real Prometheus and OpenTelemetry's generator beside a project, counted; installs both
	scripts/interop.sh

conformance: ## Connect's conformance runner and gRPC's interoperability cases through the gateway; installs both
	scripts/conformance.sh

cluster: ## a Kubernetes of one node on this machine, to try things on; builds it once (5 to 20 minutes)
	e2e/cluster/cluster.sh up

cluster-down: ## end that Kubernetes; nothing of it is left
	e2e/cluster/cluster.sh down

fuzz: ## run every fuzz target for FUZZTIME (default 20s) each
	scripts/fuzz.sh

picture: build ## make docs/demo.svg from a run of the demo: load, a kill, a deploy
	scripts/picture.sh

faults: ## break programs, Trellis, disks and versions under load, in the long form; a line for each fault (1 hour)
	scripts/faults.sh

soak: ## a rollout every two minutes for SOAK (default 90m): nothing is lost, nothing grows
	SOAK=$${SOAK:-90m} $(GO) test -tags e2e -count=1 -v -timeout 0 -run '^TestSoak$$' ./e2e

bench: build ## run the benchmarks
	scripts/bench.sh

bench-gateway: ## what a request costs the gateway, beside nginx, HAProxy and Caddy; installs them (10 minutes)
	scripts/bench-gateway.sh

generate: ## write the files that are made from code: schema, support table
	$(GO) test ./compose -run 'Test(SupportPage|SchemaFile)IsCurrent' -update

dist: ## build the archives of a release for Linux and macOS, with checksums, into dist/
	scripts/dist.sh

licences: ## print the licences of all that bin/trellis consists of: whoever passes it on passes them on, too
	@scripts/licences.sh

clean: ## remove what was built
	rm -rf bin dist server/trellis-shim.bin
