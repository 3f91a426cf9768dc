# `make help` lists what can be made. Variables: PYTHON, VENV, TORCH, TORCH_INDEX, SCENARIO.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Where PyTorch is looked for first: its CPU builds. Empty: pip's own index (CUDA builds on Linux).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
SCENARIO ?= tiny-2ag
PYTEST_ARGS ?= -n 2

QUICKSTART := outputs/quickstart/tiny-2ag
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
RUNTIME := $(VENV)/.installed
TOOLS := $(VENV)/.installed-tools

# Nothing but what is declared may be found: neither the caller's path nor the user's packages.
export PYTHONPATH :=
export PYTHONNOUSERSITE := 1

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-gpu lint format reproduce-rware reproduce-smac \
	reproduce-smax bench bench-kernels bench-agents clean distclean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(TOOLS) ## Make the virtual environment with pinned dependencies

quickstart: $(RUNTIME) ## Record data, train, evaluate and draw the result, within 10 minutes
	@if [ -e $(QUICKSTART)/DONE ]; then $(BIN)/mads4 report $(QUICKSTART); else \
		$(BIN)/mads4 train experiment=quickstart resume=auto hydra.run.dir=$(QUICKSTART); fi
	@printf '\nLook at:    %s/result.png (the result), %s/episode.gif (the robots)\n' $(QUICKSTART) $(QUICKSTART)
	@printf 'Curves:     %s/tensorboard --logdir outputs\n' $(BIN)
	@printf 'Try next:   %s/mads4 evaluate checkpoint=%s "evaluator.target_returns=[15,25,35]"\n' $(BIN) $(QUICKSTART)
	@printf '            %s/mads4 train experiment=quickstart name=no-memory model.stateless=true\n' $(BIN)
	@printf '            %s/mads4 train -m experiment=quickstart seed=0,1 model.message=none,output\n' $(BIN)

test: install ## Run the test suite
	$(PYTEST) $(PYTEST_ARGS)

test-slow: install ## Run the tests that take longer
	$(PYTEST) -m slow

test-gpu: install ## Run the tests that need a CUDA device
	$(PYTEST) -m gpu

lint: install ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Rewrite the code in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce-rware: $(RUNTIME) ## The reference run on the warehouse (SCENARIO=tiny-2ag), up to an hour
	$(BIN)/mads4 train experiment=reproduce_rware env.scenario=$(SCENARIO) resume=auto \
		hydra.run.dir=outputs/reproduce-rware/$(SCENARIO)

reproduce-smac: $(RUNTIME) ## The paper's 12 runs on StarCraft II; reports first what is missing
	$(BIN)/mads4 train -m experiment=smac_2c_vs_64zg_poor name=reproduce_smac resume=auto \
		env.scenario=5m_vs_6m,2c_vs_64zg,6h_vs_8z,corridor dataset.quality=good,medium,poor \
		hydra.sweep.dir=outputs/reproduce-smac
	$(BIN)/mads4 report outputs/reproduce-smac --csv outputs/reproduce-smac/results.csv

reproduce-smax: $(RUNTIME) ## 18 runs on StarCraft battles in jaxmarl: maps, qualities, seeds; some hours
	$(PIP) install --no-compile -c constraints.txt -e '.[smax]'
	$(BIN)/mads4 train -m experiment=smax name=reproduce_smax resume=auto \
		env.scenario=2s3z,3s5z dataset.quality=good,medium,poor seed=0,1,2 \
		hydra.sweep.dir=outputs/reproduce-smax
	$(BIN)/mads4 report outputs/reproduce-smax --csv outputs/reproduce-smax/results.csv

bench: $(RUNTIME) ## Time a training step against a dense-matrix control
	$(BIN)/python benchmarks/offline_step.py

bench-kernels: $(RUNTIME) ## Time kernels, layers and steps of every backend, some minutes
	for part in kernels layer step; do $(BIN)/python benchmarks/kernels.py $$part || exit; done

bench-agents: $(RUNTIME) ## Time policies of 2 to 16 agents beside a transformer, some minutes
	$(BIN)/python benchmarks/agents.py

clean: ## Remove caches and build products
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks conf -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Also remove the virtual environment; runs and data sets are kept
	rm -rf $(VENV)

$(RUNTIME): pyproject.toml constraints.txt $(VENV)/.torch
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed; choose it with PYTHON=<python>")'
	$(PYTHON) -m venv $(VENV)
	@if $(call torch_index_answers); then \
		echo "Installing $(TORCH) from $(TORCH_INDEX)"; \
		$(PIP) install --no-compile --no-deps --index-url $(TORCH_INDEX) "$(TORCH)" && exit; \
	fi; \
	echo "Installing $(TORCH) from pip's own index"; \
	$(PIP) install --no-compile --no-deps "$(TORCH)"
	$(PIP) install --no-compile -c constraints.txt -e .
	@touch $@

$(TOOLS): $(RUNTIME)
	$(PIP) install --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

# Changes when another PyTorch is asked for, so that it is installed.
$(VENV)/.torch: FORCE
	@mkdir -p $(VENV)
	@echo '$(TORCH) $(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH) $(TORCH_INDEX)' > $@

torch_index_answers = test -n "$(TORCH_INDEX)" && $(BIN)/python -c \
	'import urllib.request; urllib.request.urlopen("$(TORCH_INDEX)/torch/", timeout=5)' 2>/dev/null
