# Two commands: `make book` and `make test`. Everything lands in .venv and _build; `make clean` removes both.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PORT   ?= 8000
PYTEST ?=

.DEFAULT_GOAL := help
.PHONY: help book test serve clean repoint install assignments site-test

help: ## show this list
	@echo "AI engrams: the book and engramlib. Needs python3 >= 3.10 and make, nothing else."
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12 | sed 's/^/  make /'
	@echo
	@echo "  PYTHON=python3.12 make ...        use another Python"
	@echo "  ENGRAM_DATA=/my/data make ...     where MNIST lies (else downloaded when a chapter needs it)"
	@echo "  make test PYTEST='-k moments'     pass options to pytest"

book: $(STAMP) ## run the chapters, build the book into _build/html
	@$(BIN)/python book/build.py

test: $(STAMP) ## lint, import directions, unit tests, doctests, every chapter, exercises, book checks
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	  --doctest-modules --nbval-lax --nbval-current-env --nbval-cell-timeout=600 $(PYTEST)

site-test: $(STAMP) ## the built book in a real browser, about 3 minutes (needs chromium; says so if there is none)
	@$(BIN)/python book/browser.py
	@ENGRAM_SITE=_build/html OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/site -q $(PYTEST)

serve: ## show the built book at http://localhost:8000 (PORT=8080 for another port)
	@test -f _build/html/index.html || { echo "No book yet: run 'make book' first."; exit 1; }
	@echo "The book is at http://localhost:$(PORT)/ (Ctrl-C stops)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

repoint: $(STAMP) ## point every link at your fork: make repoint REPO=https://github.com/you/fork
	@$(BIN)/python book/repoint.py "$(REPO)"

assignments: $(STAMP) ## make the student notebooks and autograders from their masters
	@$(BIN)/python book/assignments/build.py

install: $(STAMP) ## only make .venv

clean: ## remove .venv and _build
	rm -rf $(VENV) _build

# Installed again whenever the requirements change.
$(STAMP): pyproject.toml requirements.txt
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "No $(PYTHON) found: install Python 3.10 or newer, or name yours: make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$$("$(PYTHON)" --version 2>&1) is too old: Python 3.10 or newer is needed. Try make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV): about 2 minutes and 6.5 GB (PyTorch is most of it), once ..."
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -r requirements.txt || { \
	  echo "The install failed, see above. Check the network and the disk (7 GB), then run make again."; exit 1; }
	@touch $@
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)"
