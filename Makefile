# Every target does the set-up that it needs: libtorch is fetched once into .libtorch/, Cargo does the rest.

CARGO ?= cargo
# One profile for programs, tests and lints, so that libtorch's bindings are compiled once.
PROFILE := --release --locked
# `make build CUDA=1`, `make install CUDA=1`: with the CUDA build of libtorch, for machines with NVIDIA GPUs.
ifneq ($(filter-out 0,$(CUDA)),)
export CUDA
export LIBTORCH := $(CURDIR)/.libtorch/cuda
endif

# `make build OTEL=1`, `make install OTEL=1`: with traces for an OpenTelemetry collector.
ifneq ($(filter-out 0,$(OTEL)),)
FEATURES := --features mtinet/otel,mtinet-worker/otel
# The notices of a release name what is in it.
export OTEL
endif

.PHONY: demo test build install lint boundaries check-cuda libtorch bench-coordinator clean help

help:
	@echo "make demo        five-fold study on a phantom data set, on this machine; report in runs/demo/report"
	@echo "make test        all tests"
	@echo "make build       the programs, in target/release"
	@echo "make install     the programs and libtorch, in PREFIX/bin and PREFIX/lib (PREFIX=$$HOME/.local)"
	@echo "make dist        a release of them: target/dist/mtinet-VERSION-x86_64-linux.tar.gz"
	@echo "make lint        formatting and clippy"
	@echo "make check-deploy  units, images, manifests, scripts and licences, without the systems that they are for"
	@echo "make build CUDA=1, make install CUDA=1: the same for machines with NVIDIA GPUs"
	@echo "make build OTEL=1, make install OTEL=1: with OpenTelemetry traces"
	@echo "make check-otel  clippy and tests of what is compiled with traces"
	@echo "make check-cuda  builds and links the CUDA variant; needs no GPU"
	@echo "make simulate    ten thousand simulated fleets with faults around the scheduler"
	@echo "make chaos       kills, stops, cuts and fills around studies of real processes"
	@echo "make bench-coordinator  the coordinator under load: table and runs/bench/coordinator.json"
	@echo "make bench-step  training steps against PyTorch's: table and runs/bench/step.json (QUICK=1: some minutes)"
	@echo "make bench-data  data sets of up to 10,000 subjects, the slice cache, a trainer's start: table and runs/bench/data.json"
	@echo "make bench-study  a study against a shell loop over a PyTorch script: table and runs/bench/study.json (QUICK=1)"
	@echo "make bench-accuracy  DSC and MAE in bf16 against fp32, three seeds: table and runs/bench/accuracy.json (QUICK=1)"
	@echo "make clean       removes target/, .libtorch/ and runs/demo"

libtorch:
	@deploy/libtorch/fetch

build: libtorch
	$(CARGO) build $(PROFILE) --workspace --bins $(FEATURES)

demo: build
	target/release/mtinet demo

# Programs and tests in one build: alone, the programs would be built with other features of their dependencies.
test: libtorch boundaries
	$(CARGO) build $(PROFILE) --workspace --all-targets
	$(CARGO) test $(PROFILE) --workspace

lint: libtorch
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings

# The head node needs no libtorch, the scheduler's core no IO.
boundaries:
	deploy/check-boundaries

# Its own target directory, since libtorch is another.
CUDA_TARGET ?= target/cuda
check-cuda:
	CUDA=1 deploy/libtorch/fetch
	LIBTORCH=$(CURDIR)/.libtorch/cuda $(CARGO) build $(PROFILE) -p mtinet-trainer --target-dir $(CUDA_TARGET)

# Unoptimised, so that it neither takes long nor replaces the programs of the other targets. No libtorch.
.PHONY: check-otel
OTEL_PACKAGES := --locked -p mtinet-runtime -p mtinet -p mtinet-worker --features otel
check-otel:
	$(CARGO) clippy $(OTEL_PACKAGES) --all-targets -- -D warnings
	$(CARGO) test $(OTEL_PACKAGES) --test otel --test agent

# Only what it needs: no libtorch.
bench-coordinator:
	$(CARGO) build $(PROFILE) -p mtinet -p mtinet-bench --bins
	target/release/mtinet-bench

PREFIX ?= $(HOME)/.local
install: build
	deploy/install $(PREFIX)

# A release that runs on a machine with nothing but the system, and its checksum.
.PHONY: dist check-deploy
dist: build
	deploy/dist

check-deploy:
	deploy/check
	deploy/licences --check

clean:
	rm -rf target .libtorch runs/demo

# The scheduler under ten thousand fleets with faults, then with bugs planted in it, each of which must be found. The bugs
# exist only with this cfg, which no feature and no other target sets, hence the target directory of its own.
SEEDS ?= 0..10000
.PHONY: simulate
simulate:
	$(CARGO) run $(PROFILE) -p mtinet-sim -- --seeds $(SEEDS)
	RUSTFLAGS="--cfg mtinet_mutations" $(CARGO) test $(PROFILE) -p mtinet-sim --test planted --target-dir target/planted -- --nocapture

# Kills, stops, cuts, fills and sets clocks while studies run, and compares their results with undisturbed ones.
# As root every program has a host of its own; otherwise what needs that is skipped in words and counted.
.PHONY: chaos
chaos: libtorch
	$(CARGO) build $(PROFILE) --workspace --bins
	target/release/mtinet-chaos --long

# Beside PyTorch, which a virtual environment below target/ has; PYTHON=... names another interpreter that has what
# worker/trainer/bench/requirements.txt lists. Alone on the machine, or the figures mean little. ARGS=... goes to the bench, whose --help
# says what there is.
BENCH := worker/trainer/bench
BENCH_ARGS = $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)
ifndef PYTHON
PYTHON := target/bench-python/bin/python
BENCH_PYTHON := target/bench-python/ready
endif
.PHONY: bench-step bench-study bench-accuracy

# Data sets of 100, 1,000 and 10,000 subjects (up to 5 GB below runs/bench/ meanwhile), the cache of one as large as the paper's, and
# the start of a trainer. QUICK=1 leaves out the largest. DATA_PYTHON=... names an interpreter with numpy and nibabel for the peer.
.PHONY: bench-data
bench-data: libtorch
	$(CARGO) build $(PROFILE) -p mtinet -p mtinet-trainer --bins
	python3 shared/data/bench/data.py $(if $(DATA_PYTHON),--python $(DATA_PYTHON)) $(BENCH_ARGS)

# Training steps. All shapes take hours; ARGS='--only "paper 256 b1"' picks some.
bench-step: libtorch $(BENCH_PYTHON)
	$(CARGO) build $(PROFILE) -p mtinet-trainer
	$(PYTHON) $(BENCH)/step.py --python $(PYTHON) $(BENCH_ARGS)

# A whole study, against a shell loop.
bench-study: build $(BENCH_PYTHON)
	$(PYTHON) $(BENCH)/study.py --python $(PYTHON) $(BENCH_ARGS)

# bf16 against fp32; no PyTorch.
bench-accuracy: build
	python3 $(BENCH)/accuracy.py $(BENCH_ARGS)

target/bench-python/ready: $(BENCH)/requirements.txt
	python3 -m venv target/bench-python
	target/bench-python/bin/pip install --quiet -r $<
	touch $@
