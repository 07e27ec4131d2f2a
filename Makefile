# One command per chore; `make help` lists them. The work is in cargo and in the scripts named here.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# Tools built by tests/cluster come before others of the same name.
export PATH := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/quorumkv/bin:$(PATH)

.PHONY: help run test test-fast soak soak-kind soak-killed failover-table failover-table-kind e2e-table shown recovery-table fuzz bench fleet lint deny crds images kind-up kind-down compose-up compose-down clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## Run examples/kvcluster.yaml as six local processes, without Kubernetes; Ctrl-C ends them
	cargo build --release --locked --bin quorumkv-node --bin quorumkv-operator
	exec "$${CARGO_TARGET_DIR:-target}/release/quorumkv-operator" local -f examples/kvcluster.yaml

test: ## All tests, on a kind cluster and docker compose too
	tests/run.sh

test-fast: ## The tests that need no containers
	tests/run.sh --fast

soak: ## Chaos on local processes, in memory, on disk, with partitions: MINUTES=10 in all, SEEDS=1,2,... (random if none)
	QUORUMKV_CHAOS_SECONDS=$$(($(or $(MINUTES),10) * 60 / 3)) QUORUMKV_CHAOS_SEEDS=$(or $(SEEDS),random) cargo test --locked --workspace --test local_chaos -- faults

failover-table: ## How long no write is taken when the leader goes away, TIMES=20 times in each way
	QUORUMKV_FAILOVERS=$(or $(TIMES),20) cargo test --locked --workspace --test local_chaos -- leader

soak-kind: ## Chaos on a kind cluster, in memory and on volumes: MINUTES=5 (or SECONDS), SEEDS=1,2,... (random if none)
	QUORUMKV_CHAOS_SECONDS=$(or $(SECONDS),$$(($(or $(MINUTES),5) * 60))) QUORUMKV_CHAOS_SEEDS=$(or $(SEEDS),random) QUORUMKV_TEST_LAYERS=e2e cargo test --locked --workspace --test e2e_kind -- chaos::faults

failover-table-kind: ## The same table on a kind cluster, TIMES=20 times in each way
	QUORUMKV_FAILOVERS=$(or $(TIMES),20) QUORUMKV_TEST_LAYERS=e2e cargo test --locked --workspace --test e2e_kind -- chaos::a_leader

soak-killed: ## A store's life once for every write of its operator, which is killed there: LIVES=0 is all of them
	tests/cluster/tools.sh kubernetes kwok
	QUORUMKV_LIVES=$(or $(LIVES),0) QUORUMKV_TEST_LAYERS=e2e cargo test --locked --workspace --test e2e_killed -- --nocapture

e2e-table: ## The whole e2e run; what each scenario cost is written to results/e2e.md
	QUORUMKV_E2E_TABLE=results/e2e.md tests/run.sh --layers e2e

shown: ## What commands print of a store on a kind cluster, into docs/operations.md, and the dashboard, into results/shown
	tests/cluster/prerequisites.sh prometheus || echo "no Prometheus: no picture of the dashboard"
	QUORUMKV_SHOWN=1 QUORUMKV_TEST_LAYERS=e2e cargo test --locked --workspace --test e2e_kind -- shown::

recovery-table: ## How a follower with KEYS=1000000 comes back while its leader takes writes
	QUORUMKV_RECOVERY_KEYS=$(or $(KEYS),1000000) cargo test --release --locked --workspace --test local_recovery

fuzz: ## Requests, frames and orders that are almost right, for SECONDS=60 each
	QUORUMKV_FUZZ_SECONDS=$(or $(SECONDS),60) cargo test --locked --workspace --lib -- fuzz --nocapture

bench: ## This store beside Redis, etcd and a bare HTTP server, into results/; QUICK=1 only shows that it works
	tests/cluster/prerequisites.sh bench || echo "no Redis: the report will say so"
	command -v etcd >/dev/null || tests/cluster/tools.sh etcd || echo "no etcd: the report will say so"
	cargo build --release --locked --workspace --bin quorumkv-node --bin bench
	"$${CARGO_TARGET_DIR:-target}/release/bench" $(if $(QUICK),--quick)

fleet: ## One operator and CLUSTERS=200 stores on a real API server with played nodes, into results/fleet.md
	tests/cluster/tools.sh kubernetes kwok
	cargo build --release --locked --workspace --bin quorumkv-operator --bin fleet
	CLUSTERS=$(or $(CLUSTERS),200) "$${CARGO_TARGET_DIR:-target}/release/fleet"

lint: ## Formatting, clippy, shell scripts, the chart, licences
	tests/lint.sh

deny: ## Licences, banned crates and sources of dependencies; ADVISORIES=1: known vulnerabilities too, from a database on GitHub
	command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check licenses bans sources $(if $(ADVISORIES),advisories)

crds: ## Renew crds/ and the chart's copy from operator/src/crd.rs
	definition="$$(cargo run --quiet --locked --bin quorumkv-operator -- crd)" && printf '%s\n' "$$definition" > crds/kvcluster.yaml
	cp crds/kvcluster.yaml charts/quorumkv/files/crds/kvcluster.yaml

images: ## Container images localhost/quorumkv-{operator,node}:dev, from static binaries
	tests/cluster/image.sh --build

kind-up: ## A kind cluster with the operator and a KvCluster that is Ready
	tests/cluster/kind-up.sh

kind-down: ## Delete that cluster
	tests/cluster/cluster.sh down

compose-up: ## The lab with docker compose: leader on port 5000, followers on 5001-5005
	tests/cluster/compose.sh up -d --build --wait

compose-down: ## End it
	tests/cluster/compose.sh down --volumes --remove-orphans

clean: ## Remove what was built in this checkout
	rm -rf target dist results/tmp
