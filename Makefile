# Every command of this repository; CI runs the same ones.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := .venv/bin
CODE := plugins dags agent tests scripts include judge
TYPED := plugins/touchstone plugins/touchstone_client agent/src
FAST_TESTS := $(wildcard tests/unit tests/contract tests/dags agent/tests)
PYTEST := $(BIN)/pytest -q -ra --durations=12 --durations-min=5
ARGS ?=
EXPORT = "$$(scripts/find-uv.sh)" export --quiet --frozen --no-emit-local --no-header
# What the images of the team deployment install.
EXPORT_CONTROL = $(EXPORT) --no-dev --extra compose
EXPORT_MINISTACK = $(EXPORT) --only-group emulator
# What the trainer image installs for the program inside a pod, and for the trainer.
EXPORT_POD = $(EXPORT) --only-group pod
# What an enrolment brings to a server, and what pip there is for it.
EXPORT_SERVER = $(EXPORT) --only-group server
EXPORT_TRAINER = "$$(scripts/find-uv.sh)" export --quiet --frozen --project include/elnigma --no-dev \
  --no-emit-project --no-annotate --no-header
# What the team deployment's image has for the judge, in an environment of its own.
EXPORT_JUDGE = "$$(scripts/find-uv.sh)" export --quiet --frozen --project judge --no-dev \
  --no-emit-project --no-annotate --no-header
EXPORT_TRAINER_CUDA = $(EXPORT_TRAINER) --extra cuda

.PHONY: requirements refusals help setup demo up down status test test-fast test-integration test-system test-placement test-placement-full test-campaigns \
        test-security test-trainer look-ahead-table test-judge judge-campaign placebo-campaign test-enrolment test-compose test-runpod-real wheels-cuda test-gpu image-cuda test-cuda-image \
        lint format types check bench docs clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything (Python 3.11 or 3.12 and git are enough); does nothing when up to date
	@scripts/setup.sh

demo: setup ## Start a stack, train a baseline and a challenger, compare them, stop (KEEP=1 leaves it running)
	@$(BIN)/touchstone demo $(ARGS)

up: setup ## Start Touchstone on this machine
	@$(BIN)/touchstone up $(ARGS)

down: ## Stop it; the data stay (ARGS=--delete-data removes them)
	@$(BIN)/touchstone down $(ARGS)

status: ## Tell how each part is
	@$(BIN)/touchstone status $(ARGS)

test-fast: ## Unit and contract tests: no sockets, no containers
	$(PYTEST) --numprocesses=2 $(FAST_TESTS) $(ARGS)

test: setup test-fast ## All tests; what cannot run here is listed as skipped
	@# Two at once wait more than they work, and share nothing; a third would only slow them down.
	$(MAKE) --jobs=2 --output-sync=target \
	  test-security test-trainer test-judge test-integration test-system test-placement
	@echo "NOT RUN: the test with a pod at the real RunPod, which costs money (make test-runpod-real)"

test-integration: ## Agents, engine and queues, for real
	$(PYTEST) --numprocesses=4 --dist=loadgroup tests/integration $(ARGS)

test-campaigns: ## Every case of the long campaigns, of which CI runs a seeded sample
	TOUCHSTONE_CAMPAIGNS=full $(PYTEST) --numprocesses=3 -m campaign tests $(ARGS)
	TOUCHSTONE_CAMPAIGNS=full $(MAKE) test-trainer

test-placement-full: ## Two schedulers, two dispatchers that are killed, 200 tasks: over and over
	PLACEMENT_SEEDS="$(or $(SEEDS),1 2 3 4 5 6)" $(PYTEST) tests/integration/airflow/test_two_of_each.py $(ARGS)

test-system: ## The tests with a whole stack
	$(PYTEST) tests/system $(ARGS)

test-placement: ## The tests with several servers and a trainer that does as it is told
	$(PYTEST) tests/placement $(ARGS)

test-security: ## Attacks on a running stack; -s prints the slowest answers beside them
	$(PYTEST) tests/security $(ARGS)

test-trainer: ## The trainer's own tests, in its own environment
	@uv="$$(scripts/find-uv.sh)" && "$$uv" run --frozen --project include/elnigma \
	  pytest -q -ra --durations=12 --durations-min=5 include/elnigma/tests $(TRAINER_ARGS)

look-ahead-table: ## What a validation says of each kind of look-ahead, and of honest features (ARGS=NAME --seeds 5)
	@uv="$$(scripts/find-uv.sh)" && "$$uv" run --frozen --project include/elnigma \
	  python include/elnigma/tests/future_table.py $(ARGS)

test-judge: ## The statistics of verdicts, in their own environment
	@uv="$$(scripts/find-uv.sh)" && "$$uv" run --frozen --project judge pytest -q -ra judge/tests $(ARGS)

judge-campaign: setup ## How often a verdict is false, and finds a real edge (ARGS=--worlds=100; takes half an hour)
	@uv="$$(scripts/find-uv.sh)" && OPENBLAS_NUM_THREADS=1 "$$uv" run --frozen --project judge \
	  python judge/tests/campaign.py $(ARGS)

placebo-campaign: setup ## Real trainings in worlds where nothing can be known (ARGS="--folder DIR"; takes hours, goes on)
	@uv="$$(scripts/find-uv.sh)" && OPENBLAS_NUM_THREADS=1 "$$uv" run --frozen --project judge \
	  python judge/tests/placebo_campaign.py $(ARGS)

test-runpod-real: setup ## One pod at the real RunPod, for $$0.50 at most (RUNPOD_API_KEY, TOUCHSTONE_RUNPOD_IMAGE)
	$(PYTEST) -s tests/real $(ARGS)

wheels-cuda: setup ## Fetch the wheels of the trainer for GPUs into .wheels (3 GB), for a machine without internet
	"$$(scripts/find-uv.sh)" run --quiet --no-project --python $(BIN)/python --with pip python -m pip download --quiet \
	  --no-deps --require-hashes --only-binary :all: --dest .wheels \
	  -r $(or $(REQUIREMENTS),include/elnigma/requirements-cuda.txt)

test-gpu: ## A real GPU: trained on, twice, beside the CPU (make wheels-cuda, a machine that has one)
	$(PYTEST) -s tests/gpu $(ARGS)

image-cuda: setup ## Build the trainer images for GPUs: touchstone-elnigma:cuda and :pod-cuda (3 GB of wheels)
	$(BIN)/python scripts/build_images.py cuda pod-cuda

test-cuda-image: setup ## That image, built and started without a GPU (an engine, 20 GB of disk)
	$(PYTEST) tests/cuda_image $(ARGS)

test-enrolment: setup ## Servers join and leave, over a real sshd: every case (an engine)
	TOUCHSTONE_CAMPAIGNS=full $(PYTEST) tests/integration/enrolling tests/system/test_enrolment.py $(ARGS)

test-compose: setup ## The team deployment: built, up, one training, down (docker-compose and an engine)
	$(PYTEST) tests/compose $(ARGS)

lint: ## Style, formatting, and which package may import which
	$(BIN)/ruff check $(wildcard $(CODE))
	$(BIN)/ruff format --check $(wildcard $(CODE))
	$(BIN)/lint-imports
	@$(EXPORT_CONTROL) | diff - requirements.txt > /dev/null && \
	  $(EXPORT_MINISTACK) | diff - deploy/ministack/requirements.txt > /dev/null && \
	  $(EXPORT_POD) | diff - agent/requirements-pod.txt > /dev/null && \
	  $(EXPORT_SERVER) | diff - agent/requirements-server.txt > /dev/null && \
	  $(EXPORT_TRAINER) | diff - include/elnigma/requirements.txt > /dev/null && \
	  $(EXPORT_JUDGE) | diff - judge/requirements.txt > /dev/null && \
	  $(EXPORT_TRAINER_CUDA) | diff - include/elnigma/requirements-cuda.txt > /dev/null || \
	  { echo "requirements.txt is not that of uv.lock: run make requirements"; exit 1; }

requirements: ## Export what the images install from the lock file
	$(EXPORT_CONTROL) > requirements.txt
	$(EXPORT_MINISTACK) > deploy/ministack/requirements.txt
	$(EXPORT_POD) > agent/requirements-pod.txt
	$(EXPORT_SERVER) > agent/requirements-server.txt
	$(EXPORT_TRAINER) > include/elnigma/requirements.txt
	$(EXPORT_JUDGE) > judge/requirements.txt
	$(EXPORT_TRAINER_CUDA) > include/elnigma/requirements-cuda.txt

format: ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix $(wildcard $(CODE))
	$(BIN)/ruff format $(wildcard $(CODE))

types: ## Static types
	$(BIN)/mypy $(TYPED)
	@uv="$$(scripts/find-uv.sh)" && cd judge && "$$uv" run --frozen mypy

check: setup lint types docs test ## All that CI runs

bench: ## Measure; prints ratios beside a peer's run (not part of CI)
	@for script in tests/bench/bench_*.py; do \
	  if [ -e "$$script" ]; then PYTHONPATH=tests $(BIN)/python "$$script" $(ARGS) || exit 1; fi; done

docs: ## Check that every link in the documentation leads somewhere, and what is generated
	@$(BIN)/python scripts/check_docs.py README.md CONTRIBUTING.md $(wildcard docs)
	@$(BIN)/python scripts/refusals.py --check

refusals: ## Write docs/refusals.md from tests/inputs
	@$(BIN)/python scripts/refusals.py

clean: ## Remove environments and caches; a stack's data stay
	rm -rf .venv .venv-emulator include/elnigma/.venv judge/.venv .tools
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
