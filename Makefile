# Every command that a newcomer runs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help reproduce reproduce-real reproduce-papers test test-all test-real test-packages test-browser check docs format sweep atlas verify bench lab clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# one stamp file: only changed requirements are installed again
$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch numpy
	$(PY) -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(READY)

reproduce: $(READY) ## the whole job on the storybook lab: fit maps, transfer vectors, report
	$(PY) train.py experiment=reproduce evaluate=true

PAIR ?= qwen2.5-coder-0.5b-1.5b-instruct
MODELS ?= models
DATA ?= data
reproduce-real: $(READY) ## the real pair: PAIR=NAME MODELS=folder of models DATA=folder of data sets
	LRT_DATA=$(DATA) $(PY) train.py experiment=real pair=$(PAIR) pair.models=$(MODELS) evaluate=true

reproduce-papers: $(READY) ## a setting of published work on a GPU: SETTING=unlock_svamp (DRY_RUN=1: tiny models, any machine)
	$(VENV)/bin/lrt reproduce $(SETTING) $(if $(DRY_RUN),--dry-run)

test: $(READY) ## the tests, offline
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not real and not packages and not browser"

test-all: $(READY) ## all tests, the slow ones too
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not real and not packages and not browser"

test-real: $(READY) ## checks on a real pair: set LRT_REAL_MODELS and LRT_DATA (as MODELS and DATA above)
	$(PY) -m pytest -m real

# beside the environment and not in it: each of these pins other releases of what the project uses
BESIDE := .venv-packages
test-packages: $(READY) ## vector formats in the software that defines them (compiles llama.cpp, 15 minutes)
	test -x $(BESIDE)/bin/python || $(PY) -m venv $(BESIDE)
	$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(BESIDE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth
	$(BESIDE)/bin/pip install -q -c constraints.txt lm-eval==0.4.13 llama-cpp-python==0.3.36
	$(BESIDE)/bin/pip install -q --no-deps \
	  steering-vectors==0.12.2 repeng==0.4.0 hotwire-vllm==0.1.2 saklas==5.3.0
	HF_HUB_OFFLINE=1 $(BESIDE)/bin/python -m pytest -m packages

test-browser: $(READY) ## clicks through the report's pages in headless Chromium (needs one; see docs/report.md)
	$(PY) -m pip install -q -c constraints.txt -e ".[browser]"
	$(PY) -m pytest -m browser

check: $(READY) ## format, lint, strict types, import rules, words
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m studies.prose --check

docs: $(READY) ## the documentation site: docs/_build/index.html
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build

format: $(READY) ## apply formatter and linter fixes
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

sweep: $(READY) ## 3 x 3 layer pairs and 3 pairs of sizes: multirun/make/report/sweep.html
	failed=0; \
	$(PY) train.py -m experiment=sweep hydra.sweep.dir=multirun/make/layers \
	  layers.source=1,2,3 layers.target=2,3,4 || failed=1; \
	$(PY) train.py -m experiment=sweep hydra.sweep.dir=multirun/make/sizes \
	  pair=storybook-tiny-small,storybook-tiny-medium,storybook-small-disjoint-medium \
	  layers.source=0.6 layers.target=0.6 || failed=1; \
	$(VENV)/bin/lrt sweep-report multirun/make multirun/make/report && exit $$failed

atlas: $(READY) ## every pair of layers of the lab from one pass: report/atlas.html
	$(VENV)/bin/lrt atlas

verify: $(READY) ## compare artifacts with their checksums (REPAIR=--repair removes damaged shards)
	$(VENV)/bin/lrt verify $(REPAIR) artifacts

bench: $(READY) ## speed as ratios to limits and peers of the same run
	$(PY) benchmarks/run.py

MODEL ?= tiny small small-disjoint medium
lab: $(READY) ## train the storybook family from nothing (MODEL="small medium": only these)
	for model in $(MODEL); do $(VENV)/bin/lrt pretrain lab=$$model || exit 1; done

clean: ## remove results and caches; the environment stays
	rm -rf artifacts outputs multirun report wandb build .hypothesis .import_linter_cache .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
