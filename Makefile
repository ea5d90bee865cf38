# Every target sets itself up: python3 (3.11 or newer) with venv and pip is all a machine must have.
# A second call installs nothing. Another interpreter gets an environment of its own: make PYTHON=python3.12 test

PYTHON ?= python3
VENV ?= .venv$(patsubst %,-%,$(filter-out python3,$(notdir $(PYTHON))))
WORKERS ?= 2
ARGS ?=
BENCH ?= sampling grpo_vs_trl tree_training beam_prm search_vs_peers sandbox server_load

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo jail browser setup test test-slow lint format bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       teach a model to think, let it think longer, report what both bought (ARGS=... are passed on)"
	@echo "make test       lint, then the tests that need neither network nor GPU (ARGS=... go to pytest)"
	@echo "make test-slow  the tests that take minutes or fetch the pretrained model"
	@echo "make lint       ruff, ruff format --check, mypy --strict, files over 400 lines"
	@echo "make format     let ruff rewrite the code"
	@echo "make bench      sampling, GRPO, tree training and search against what else there is (BENCH=sampling for one of them)"
	@echo "make setup      only make $(VENV) and install into it"
	@echo "make clean      remove environments and caches"

demo: jail $(VENV)/.installed-demo
	$(BIN)/forethought demo $(ARGS)

setup: $(VENV)/.installed-dev

jail:
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && timeout 300 apt-get install -y -qq bubblewrap >/dev/null 2>&1; } || echo "bubblewrap is missing (apt install bubblewrap): programs that a model writes are not run here, and their tests are skipped" >&2

browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && timeout 600 apt-get install -y -qq chromium >/dev/null 2>&1; } || echo "Chromium is missing (apt install chromium): what the pages do in a browser is not tried" >&2

test: jail browser lint
	$(PYTEST) -n $(WORKERS) $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m "slow or smollm2" -o timeout=3600 $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@find forethought tests benchmarks -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > 400 { print "over 400 lines: " $$2 " (" $$1 ")" }'

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	@status=0; for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py $(ARGS) || status=1; done; exit $$status

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "forethought needs Python 3.11 or newer, and $(PYTHON) is %s; name another: make PYTHON=python3.12 ..." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "$(PYTHON) has no venv or no pip; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[local,serve]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[local,dev]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[local,dev,bench]'
	@touch $@ $(VENV)/.installed-dev $(VENV)/.installed-demo
