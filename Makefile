# Every target has a line of help: two hashes behind its name.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
CYCLONEDX := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
VERSION ?= $(shell git describe --tags --always 2>/dev/null || echo devel)
COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

.PHONY: help
help: ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The same sources, version, commit and Go make the same bytes, wherever they lie and whether git is there or not.
OUT ?= bin/tokenbroker
.PHONY: build
build: ## Build bin/tokenbroker.
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -buildid= -X main.version=$(VERSION) -X main.commit=$(COMMIT)' -o $(OUT) ./cmd/tokenbroker

.PHONY: reproducible
reproducible: ## Build what is committed twice, in two directories, without git and without a cache for the second; compare.
	@one="$$(mktemp -d)"; two="$$(mktemp -d)"; trap 'chmod -R u+w "$$one" "$$two"; rm -rf "$$one" "$$two"' EXIT; \
	mkdir -p "$$two/somewhere/else"; \
	git archive HEAD | tar -x -C "$$one"; git archive HEAD | tar -x -C "$$two/somewhere/else"; \
	$(MAKE) --no-print-directory -C "$$one" build OUT="$$one/tokenbroker" VERSION=$(VERSION) COMMIT=$(COMMIT); \
	GOCACHE="$$two/cache" $(MAKE) --no-print-directory -C "$$two/somewhere/else" build OUT="$$two/tokenbroker" VERSION=$(VERSION) COMMIT=$(COMMIT); \
	(cd "$$one" && sha256sum tokenbroker); (cd "$$two" && sha256sum tokenbroker); \
	cmp "$$one/tokenbroker" "$$two/tokenbroker" && echo "the two builds are the same"

.PHONY: sbom
sbom: build ## Write bin/tokenbroker.cdx.json: what bin/tokenbroker is made of (CycloneDX).
	$(GO) run $(CYCLONEDX) bin -json -version $(VERSION) -output bin/tokenbroker.cdx.json bin/tokenbroker

.PHONY: deps
deps: ## Install what the tests run besides Go: redis-server, chromium, curl, python3, nodejs, and gcc for the race detector.
	@missing=(); \
	command -v redis-server >/dev/null || missing+=(redis-server); \
	command -v chromium >/dev/null || missing+=(chromium fonts-liberation); \
	command -v gcc >/dev/null || missing+=(gcc libc6-dev); \
	command -v curl >/dev/null || missing+=(curl); \
	command -v python3 >/dev/null || missing+=(python3); \
	command -v node >/dev/null || missing+=(nodejs); \
	if [ $${#missing[@]} -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$${missing[@]}"; \
	else \
		echo "the tests need: apt-get install -y $${missing[*]}" >&2; exit 1; \
	fi

# The programs under test and what drives them: several processes that share two cores, whose answers are timed; and the
# simulation, in which one goroutine runs at a time. The race detector makes them ten times slower, so it watches everything
# else; make race has it watch these too. The conformance suite of the store runs on six topologies: under the race detector on
# one server and on a cluster, and on all six without; make race runs all of them with it.
PROGRAMS := ./cmd/tokenbench ./cmd/tokenbroker ./cmd/tokenbroker/e2e ./web/e2e ./vault/simulationtest
TOPOLOGIES := ./vault/vaulttest
# A minute of load each, while which the other programs would be late: make slow runs them.
SLOW := ^TestThreat(35RotationInStages|35KilledWhileSealing|68Flood|69NoisyNeighbour)$$
UNRACED := ^Test(Miniredis|TLS|Sentinel|ClusterReplicas)$$

# The schedules need processors and nothing else, most other tests wait for servers and processes: so the schedules run beside
# them, on what is left over. They are a process group of their own (set -m), which ends with this recipe.
.PHONY: test
test: deps ## Run all tests: with the race detector, then the programs and the browser, and 100,000 schedules of the simulation.
	@mkdir -p bin; set -m; \
	nice -n 19 $(MAKE) --no-print-directory simulation SCHEDULES=100000 >bin/simulation.log 2>&1 & schedules=$$!; \
	trap 'kill -- -$$schedules 2>/dev/null || true' EXIT; set +m; set -x; \
	CGO_ENABLED=1 $(GO) test -race -timeout 15m -skip '$(UNRACED)' $(TOPOLOGIES) $$($(GO) list ./... | grep -vE '/(e2e|simulationtest|vaulttest|cmd/tokenbench|cmd/tokenbroker)$$'); \
	$(GO) test -timeout 25m -skip '$(SLOW)' $(PROGRAMS); \
	$(GO) test -timeout 15m -parallel 6 -run '$(UNRACED)' $(TOPOLOGIES); \
	status=0; wait $$schedules || status=$$?; cat bin/simulation.log; exit $$status

.PHONY: slow
slow: deps ## Run the tests that load the programs for a minute each: key rotation, floods, a noisy neighbour; and axe in all languages.
	$(GO) test -count=1 -timeout 15m -run '$(SLOW)' ./cmd/tokenbroker/e2e
	AXE_ALL=1 $(GO) test -count=1 -timeout 15m -run '^TestAxe$$' ./web/e2e

.PHONY: race
race: deps ## Run the programs and the browser with the race detector; on a quiet machine.
	CGO_ENABLED=1 $(GO) test -race -p 1 -timeout 30m $(PROGRAMS)
	CGO_ENABLED=1 $(GO) test -race -parallel 6 -timeout 30m $(TOPOLOGIES)

.PHONY: simulation
SCHEDULES ?= 100000
FIRST ?= 1
SIMULATED ?= TestSchedules TestFailovers TestSharedGrants TestSharedFailovers
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
simulation: ## Run SCHEDULES schedules of the refresh simulation from seed FIRST on, divided among SIMULATED: half with failovers, half with shared grants.
	@mkdir -p bin && $(GO) test -c -o bin/simulation.test ./vault/simulationtest
	@pids=(); share=$$(( ($(SCHEDULES) / $(words $(SIMULATED)) + $(WORKERS) - 1) / $(WORKERS) )); tests="$(SIMULATED)"; \
	for ((i = 0; i < $(WORKERS); i++)); do \
		SIMULATION_SCHEDULES=$$share SIMULATION_FIRST=$$(( $(FIRST) + i * share )) bin/simulation.test -test.v -test.timeout 24h -test.run "^($${tests// /|})$$" & pids+=($$!); \
	done; \
	status=0; for pid in "$${pids[@]}"; do wait $$pid || status=1; done; exit $$status

.PHONY: chaos
chaos: deps ## Kill, stop and cut off replicas, Redis and the provider, some 20 minutes; numbers to deploy/bench; then 10 million schedules.
	@mkdir -p deploy/bench
	TOKENBROKER_CHAOS_REPORT="$(CURDIR)/deploy/bench/$$(date -u +%F)-chaos.md" $(GO) test -tags chaos -count=1 -v -timeout 60m -run '^TestChaos$$' ./cmd/tokenbroker/e2e
	$(MAKE) --no-print-directory simulation SCHEDULES=10000000

.PHONY: scale
scale: deps ## Measure the dashboard with a million connections and ten million events: half an hour and 10 GiB; report to deploy/bench.
	@mkdir -p deploy/bench
	SCALE_REPORT="$(CURDIR)/deploy/bench/$$(date -u +%F)-dashboard.md" $(GO) test -tags scale -count=1 -v -timeout 120m -run '^TestDashboardAtScale$$' ./cmd/tokenbroker/e2e

# Each runs by itself: go test fuzzes one function of one package at a time. What is found is written below testdata/fuzz of its
# package, and is a case of make test from then on.
.PHONY: fuzz
FUZZTIME ?= 10m
FUZZ ?= .
fuzz: ## Run every fuzz test whose name fits FUZZ, one after the other, for FUZZTIME each.
	@failed=(); \
	while IFS=: read -r file name; do \
		echo "== $$name ($$(dirname "$$file"))"; \
		$(GO) test "$$(dirname "$$file")" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) || failed+=("$$name"); \
	done < <(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/func //' | grep -E ':.*($(FUZZ))' | sort); \
	if [ $${#failed[@]} -gt 0 ]; then echo "found something: $${failed[*]}" >&2; exit 1; fi

.PHONY: kms
kms: ## Run the keyset's KEK against an emulator of AWS KMS that others wrote.
	$(GO) test -tags kms -count=1 -v -run '^TestLocalKMS$$' ./vault/kek/...

.PHONY: flood
flood: deps ## Flood the broker with 100,000 consents and a million callbacks by one client, and measure another one: a quarter of an hour; report to deploy/bench.
	@mkdir -p deploy/bench
	FLOOD_REPORT="$(CURDIR)/deploy/bench/$$(date -u +%F)-flood.md" $(GO) test -tags scale -count=1 -v -timeout 60m -run '^TestFloodAtFullSize$$' ./cmd/tokenbroker/e2e

.PHONY: sinks
sinks: deps ## Measure what places that get each event cost a token, three minutes on a quiet machine; report to deploy/bench.
	@mkdir -p deploy/bench
	SINKS_REPORT="$(CURDIR)/deploy/bench/$$(date -u +%F)-sinks.md" $(GO) test -tags scale -count=1 -v -timeout 60m -run '^TestSinksAtScale$$' ./cmd/tokenbroker/e2e

.PHONY: bench
BENCH ?=
bench: ## Measure the broker against the bare reference server, about a quarter of an hour on a quiet machine; report to deploy/bench. BENCH holds flags, such as --quick.
	@command -v redis-server >/dev/null || { echo "make bench needs redis-server: apt-get install -y redis-server" >&2; exit 1; }
	@mkdir -p bin deploy/bench && $(GO) build -o bin/tokenbench ./cmd/tokenbench
	bin/tokenbench run $(BENCH)

.PHONY: lint
lint: ## Check format, vet, staticcheck and known vulnerabilities.
	@unformatted="$$(gofmt -l .)"; \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags profile ./cmd/tokenbroker
	$(GO) vet -tags chaos ./cmd/tokenbroker/e2e
	$(GO) vet -tags scale ./cmd/tokenbroker/e2e
	$(GO) vet -tags kms ./vault/kek/...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags profile ./cmd/tokenbroker
	$(GO) run $(STATICCHECK) -tags chaos ./cmd/tokenbroker/e2e
	$(GO) run $(STATICCHECK) -tags scale ./cmd/tokenbroker/e2e
	@# Status 3 is a finding. Anything else but 0 means that it could not look, mostly for want of its database.
	@status=0; GOBIN="$(CURDIR)/bin" $(GO) install $(GOVULNCHECK) && bin/govulncheck ./... || status=$$?; \
	case $$status in \
	0) ;; \
	3) exit 3 ;; \
	*) echo "WARNING: govulncheck could not look (status $$status): known vulnerabilities were NOT checked" >&2 ;; \
	esac
