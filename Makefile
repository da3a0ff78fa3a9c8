# What a developer types. `make help` lists the targets; CI runs `make check`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

MODULES := schemas pkg subscription services/producer services/filter services/dispatcher services/console services/callstream test
GO ?= go
BIN := $(CURDIR)/bin
GOLANGCI_VERSION := v2.15.0
GOLANGCI := $(BIN)/golangci-lint-$(GOLANGCI_VERSION)
# make test RACE=-race runs it with the race detector, as `make check` does.
RACE ?=
TESTFLAGS ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X github.com/callstream/callstream/pkg/run.version=$(VERSION)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## every binary, into ./bin
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./services/callstream/cmd/callstream ./services/producer/cmd/producer ./services/filter/cmd/filter ./services/dispatcher/cmd/dispatcher ./services/console/cmd/console

.PHONY: run
run: ## build and start everything in one process; data under ./data
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/callstream ./services/callstream/cmd/callstream
	exec $(BIN)/callstream up

.PHONY: test
test: ## every unit and integration test, on the embedded broker; needs nothing but Go
	$(GO) test $(RACE) $(TESTFLAGS) -timeout 30m work

.PHONY: test-kafka
test-kafka: ## the integration suite on a real Apache Kafka that it starts by itself, or the one CALLSTREAM_KAFKA_BROKERS names
	CALLSTREAM_TEST_KAFKA=apache $(GO) run ./test/kafka $(GO) test $(TESTFLAGS) -count=1 -p 1 -timeout 30m ./pkg/kafka/... ./services/producer/... ./services/filter/... ./services/dispatcher/... ./test/integration/...

.PHONY: test-postgres
test-postgres: ## the storage tests on a real PostgreSQL that it starts by itself, or CALLSTREAM_TEST_DATABASE_URL
	cd services/console && $(GO) run ./storage/withpostgres $(GO) test $(TESTFLAGS) -count=1 -p 1 -timeout 15m . ./storage ./history

# make bench ROWS=isolation,ingest measures those rows alone; `go run ./test/bench -list` names them.
ROWS ?=
.PHONY: bench
bench: ## every figure side by side with the bare loop, as a table; under half an hour, needs Java and Maven
	$(GO) run ./test/bench -rows '$(ROWS)'

.PHONY: bench-parts
bench-parts: ## benchmarks of the parts: codec, rules, filter and consume loop
	$(GO) test -run '^$$' -bench Candidates -benchtime 11x -timeout 30m ./services/filter
	GOGC=400 $(GO) test -run '^$$' -bench . -skip 'OthersSubscriptions|Candidates' -benchmem -timeout 30m ./schemas/event ./subscription/... ./services/filter ./pkg/kafka

# One fault alone: make chaos FAULT=TestBrokerKilled. CALLSTREAM_CHAOS_SEED repeats a run's choices, CALLSTREAM_CHAOS_ROUNDS says how often.
FAULT ?= .
.PHONY: chaos
chaos: ## the fault tests with their zero-loss ledger, on three Apache Kafka brokers; a quarter of an hour
	$(GO) test -tags chaos $(TESTFLAGS) -count=1 -v -timeout 40m -run '$(FAULT)' ./test/chaos

.PHONY: generate
generate: ## generated code and docs
	$(GO) generate work

.PHONY: fmt
fmt: ## format every Go file
	gofmt -w $(MODULES)

.PHONY: check
check: check-format check-generated check-modules vet lint ## exactly what CI runs
	$(MAKE) test RACE=-race
	$(MAKE) test-kafka
	$(MAKE) test-postgres

.PHONY: check-format
check-format:
	@bad=$$(gofmt -l $(MODULES)); if [ -n "$$bad" ]; then echo "not formatted (make fmt mends it):"; echo "$$bad"; exit 1; fi

.PHONY: check-generated
check-generated:
	@before=$$(git status --porcelain; git diff | sha256sum); $(MAKE) generate; after=$$(git status --porcelain; git diff | sha256sum); \
	if [ "$$before" != "$$after" ]; then echo "generated files were not up to date; commit what make generate wrote:"; git status --porcelain; exit 1; fi

.PHONY: check-modules
check-modules:
	@for m in $(MODULES); do echo "GOWORK=off go build ./... in $$m"; (cd $$m && GOWORK=off $(GO) build ./... && GOWORK=off $(GO) mod tidy -diff); done

.PHONY: vet
vet:
	$(GO) vet -tags chaos work

.PHONY: lint
lint: $(GOLANGCI)
	@for m in $(MODULES); do echo "golangci-lint in $$m"; (cd $$m && $(GOLANGCI) run --config $(CURDIR)/.golangci.yml ./...); done

$(GOLANGCI):
	@mkdir -p $(BIN)
	GOBIN=$(BIN)/.install $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(BIN)/.install/golangci-lint $@ && rmdir $(BIN)/.install
