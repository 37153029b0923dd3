# Needs make and Python 3.11 or newer. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
OFFLINE = HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# Tests run in so many processes of one thread each, which is faster than one of many threads. Each takes up to 6 GB.
JOBS ?= 2
TESTS = $(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

.PHONY: course test lint lab app notebooks outputs miniature quality ablations figures lock clean help

course: $(INSTALLED)
	$(OFFLINE) $(BIN)/ip2p course --out out/course

test: lint
	$(TESTS) --dist loadfile -m "not slow and not gpu"
	$(TESTS) --dist loadfile -m "slow and not gpu"
	$(TESTS) --nbmake notebooks --nbmake-timeout=1200
	$(OFFLINE) $(BIN)/ip2p notebooks --solved --jobs $(JOBS)

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/codespell
	$(BIN)/python -m mypy

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

app: $(INSTALLED)
	$(OFFLINE) $(BIN)/voila notebooks/app.ipynb

notebooks: $(INSTALLED)
	$(OFFLINE) $(BIN)/ip2p notebooks --record data/results/notebooks.json

outputs: $(INSTALLED)
	$(OFFLINE) $(BIN)/ip2p notebooks --save

miniature: $(INSTALLED)
	$(BIN)/ip2p miniature --out out/models --work out/models-work

quality: $(INSTALLED)
	$(BIN)/ip2p quality --readme README.md --page docs/quality.md
	$(BIN)/ip2p cards

# The stamp is touched last: an interrupted install is done again. The lock fits one platform;
# elsewhere pyproject.toml's ranges decide.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is not. Try: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu install python3-venv." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import platform as p, sys; sys.exit((p.system(), p.machine(), p.python_implementation(), sys.version_info[:2]) != ("Linux", "x86_64", "CPython", (3, 11)))'; then \
	  echo "Installing the exact versions of requirements.lock"; \
	  $(BIN)/python -m pip install --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --no-deps --no-build-isolation -e .; \
	else \
	  echo "Installing by the ranges of pyproject.toml"; \
	  $(BIN)/python -m pip install -e '.[dev]'; \
	fi
	@touch $@

ablations: $(INSTALLED)
	$(BIN)/ip2p miniature --only pairs
	$(BIN)/ip2p ablations --out out/ablations
	$(BIN)/ip2p ablations --out out/ablations --figure out/ablations/ablations.png

figures: $(INSTALLED)
	$(BIN)/ip2p evaluate --systems ours,sdedit,sdedit-instruction,no-text,text2live,nothing,truth --edits 512 --slow-edits 96 \
	  --points 5 --results data/results --figures docs/images --page docs/evaluation.md
	$(BIN)/ip2p limits --out data/results --figures docs/images --page docs/limits.md

# Pins that still fit are kept; uv reads them from the file that it writes.
lock:
	@mkdir -p out
	cp requirements.lock out/requirements.lock
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --quiet -o out/requirements.lock
	{ grep '^#' requirements.lock; cat out/requirements.lock; } > out/requirements.full
	mv out/requirements.full requirements.lock

clean:
	rm -rf out .pytest_cache .mypy_cache .ruff_cache
	find . \( -path ./.git -o -path ./data -o -path './$(VENV)' \) -prune -o \
	  -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

help:
	@echo "make course     install, then play the whole game offline into out/course (the default)"
	@echo "make test       lint, quick tests, slow tests, every notebook unsolved and solved; stops at the first failure; JOBS=4 for four at a time"
	@echo "make lint       ruff, mypy and spelling"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make app        the editor alone, in the browser"
	@echo "make notebooks  run every notebook and measure its minutes for README"
	@echo "make outputs    run every notebook and keep its outputs, small and clean, for GitHub"
	@echo "make miniature  make all small models from nothing into out/models (days); resumes where it stopped"
	@echo "make quality    measure the shipped models and write data/results/quality.json"
	@echo "make ablations  train the editor again with one part changed at a time, pairs first (many hours)"
	@echo "make figures    measure the editor against its baselines and at its limits, and draw it (long; resumes)"
	@echo "make lock       resolve requirements.lock again (needs uv)"
	@echo "make clean      remove out/ and caches; data/ stays"
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV)"
