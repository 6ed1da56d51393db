# What a developer does. `make demo` and `make test` need nothing but Python >= 3.10 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.built
RUN    ?= runs/demo
UNIT   := OMP_NUM_THREADS=1 $(BIN)/pytest -m "not ray and not slow" -n auto

export RAY_USAGE_STATS_ENABLED ?= 0
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test unit lint type bench coverage speed objectives savings savings-speed finetune-speed gpu mutation kill clean
help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(STAMP)   ## run the default study: 600 human answers, 23,703 texts, one interval and a report
	$(BIN)/ftrect run ftrect_ray/default_study.yaml -o $(RUN)

test: $(STAMP)   ## lint, types, unit tests, tests on a real local Ray (all but `slow`)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(UNIT)
	$(BIN)/pytest -m "ray and not slow"

unit: $(STAMP)   ## unit tests alone, without Ray
	$(UNIT)

lint: $(STAMP)   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)   ## mypy
	$(BIN)/mypy

bench: $(STAMP)  ## the default study under ten seeds: coverage and length of the intervals (an hour on two cores)
	$(BIN)/python benchmarks/ten_seeds.py --output benchmarks/results

coverage: $(STAMP)  ## coverage of every target and design (hours; the same command continues)
	$(BIN)/python benchmarks/coverage/run.py --output benchmarks/results

speed: $(STAMP)  ## speed and memory of the estimators beside ppi_py and NumPy (ten minutes, on a quiet machine)
	$(BIN)/python benchmarks/estimators/side_by_side.py --output benchmarks/results

objectives: $(STAMP)  ## variance objective, mean square and a frozen backbone: what is left of the variance (hours)
	$(BIN)/python benchmarks/finetune/objectives.py --output benchmarks/results $(if $(WINE),--wine $(WINE))

savings: $(STAMP)   ## what every design saves and whether its intervals hold, a thousand times (hours; the same command continues)
	$(BIN)/python benchmarks/savings/savings.py --output benchmarks/results $(if $(WINE),--wine $(WINE))

savings-speed: $(STAMP)  ## the planner in milliseconds, designs replayed per second (two minutes)
	$(BIN)/python benchmarks/savings/speed.py --output benchmarks/results

finetune-speed: $(STAMP)  ## time of an optimiser step beside bare PyTorch (20 minutes on one quiet core)
	$(BIN)/python benchmarks/finetune/step_time.py --output benchmarks/results

gpu: $(STAMP)    ## a 1.3B causal LLM on the GPUs of this machine: throughput, memory, utilisation (half an hour)
	$(BIN)/python benchmarks/gpu/llm.py --output benchmarks/results

mutation: $(STAMP)  ## would the estimators' tests notice a mistake? (over an hour; the same command continues)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutation]'
	$(BIN)/python benchmarks/mutation/mutate.py --output benchmarks/results --sample 800 --leave-out test_coverage.py

kill: $(STAMP)      ## SIGKILL of worker, node and driver at ten points each: is anything lost? (half an hour; the same command continues)
	$(BIN)/python benchmarks/kill/kill.py --output benchmarks/results

clean:           ## remove what `make` built; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: Python >= 3.10 is needed; $(PYTHON) is older — run: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)
