# The commands of this house. `make` alone lists them.

CARGO ?= cargo
PROFILE ?= quick
ARGS ?=
CYCLES ?= 200
SEEDS ?= 100
SEED ?=
FROM ?=
MINUTES ?= 20
TRIES ?=

# What a cluster does when brokers come and go (tests/chaos/scenarios.py), each a command: make cluster-kill, …
SCENARIOS = cluster-kill cluster-drain cluster-join cluster-etcd-down cluster-fenced cluster-leases cluster-many cluster-etcd-size cluster-all

.PHONY: help run build check test crash crash_s3 sim debian scale chaos $(SCENARIOS) bench bench-doors deny fuzz fmt

help:
	@echo 'make run     build (profile $(PROFILE)) and start a broker on ./esker-data; ARGS="--kafka-listen 127.0.0.1:9192" adds flags'
	@echo 'make test    install what the tests need, run all of them (LANES="unit contract" picks some)'
	@echo 'make check   the inner loop: compile, tidy, unit tests'
	@echo 'make crash   kill -9 at every named point and CYCLES (200) times at random under load'
	@echo 'make crash_s3  the random kills, on an S3 server'
	@echo 'make sim     simulated brokers under simulated trouble: SEEDS=1000 fresh runs (FROM=1: these), or SEED=7 to repeat one'
	@echo 'make debian  the Debian package index through kcat, kill -9 half-way in both directions (CODECS="gzip zstd" picks some)'
	@echo 'make scale   1 000 topics x 10 partitions: restart, idle CPU, memory; 100 consumers of one partition'
	@echo 'make chaos   random faults on 3 brokers, etcd and MinIO for MINUTES (20), histories of clients checked; SEED=… repeats (root)'
	@echo 'make cluster-all  how long a cluster stalls when brokers die, stop, join, are fenced, etcd is gone; or one of'
	@echo '             cluster-kill (TRIES=20), -drain, -join, -etcd-down, -fenced, -leases, -many, -etcd-size (root)'
	@echo 'make compose-test  docker-compose.yml for real, with images made from Debian packages (root; installs an engine)'
	@echo 'make bench   measure against Apache Kafka, write docs/benchmarks.md; make bench-doors: gRPC against Kafka only'
	@echo 'make deny    licences, sources and advisories of the dependencies (ARGS="bans licenses sources" works without a network)'
	@echo 'make fuzz    fuzz every decoder for FUZZ_SECONDS (default 60) each'
	@echo 'make fmt     format the sources'

run: build
	@exec target/$(PROFILE)/esker serve $(ARGS)

build:
	$(CARGO) build --locked --profile $(PROFILE) --bin esker

check:
	$(CARGO) check --all-targets
	$(CARGO) test --quiet --test tidy
	$(CARGO) test --quiet --lib

test:
	@tests/run.sh $(LANES)

crash_s3:
	ESKER_KILL_STORE=s3 ESKER_KILL_CYCLES=$(CYCLES) tests/support/minio.sh run $(CARGO) test --locked --test crash random -- --nocapture

crash:
	ESKER_KILL_CYCLES=$(CYCLES) $(CARGO) test --locked --features failpoints --test crash -- --nocapture --test-threads=1

# Many runs are worth an optimised build; one is not.
sim:
	ESKER_SIM_SEEDS=$(SEEDS) ESKER_SIM_FROM=$(FROM) ESKER_SIM_SEED=$(SEED) \
		$(CARGO) test --locked $(if $(SEED),,--profile $(PROFILE)) --test sim fresh_seeds -- --nocapture

scale: build
	@tests/clients/python/run.sh install
	@ESKER_BIN=target/$(PROFILE)/esker tests/scenarios/scale.py

chaos: build
	@ESKER_BIN=target/$(PROFILE)/esker tests/chaos/run.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

$(SCENARIOS): build
	@ESKER_BIN=target/$(PROFILE)/esker tests/chaos/scenarios.py $(@:cluster-%=%) $(if $(TRIES),--tries $(TRIES))

debian: build
	@ESKER_BIN=target/$(PROFILE)/esker tests/scenarios/debian.py $(CODECS)

compose-test: build
	@ESKER_BIN=target/$(PROFILE)/esker tests/compose/run.sh test

bench:
	$(CARGO) build --locked --release --bin esker
	@benches/kafka/bench.py $(ARGS)
	@benches/doors.py

bench-doors:
	$(CARGO) build --locked --profile $(PROFILE) --bin esker
	@ESKER_BIN=target/$(PROFILE)/esker benches/doors.py $(ARGS)

deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check $(ARGS)

fuzz:
	@fuzz/run.sh

fmt:
	$(CARGO) fmt
