# Two commands: `make book` and `make test`. Everything lands in .venv and _build (of the tests of versions in .venv-oldest
# and .venv-newest, of `make wheel` in dist); `make clean` removes them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PORT   ?= 8000
PYTEST ?=
GPU    ?=
METHOD := engramlib/*.py engramlib/analysis tests/test_*.py tests/analysis
# The lower bounds of pyproject.toml, and today's newest: what `make test-oldest` and `make test-newest` try.
OLDEST := .venv-oldest
NEWEST := .venv-newest
PYTHON_OLDEST ?= python3.10
PYTHON_NEWEST ?= python3.13

.DEFAULT_GOAL := help
.PHONY: help book test chapter check test-oldest test-newest serve clean repoint install assignments course-test \
  site-test epub pdf slides links myst wheel campaign mutation bench
# Made on the way to another target, and kept.
.PRECIOUS: $(VENV)/.installed-%

help: ## show this list
	@echo "AI engrams: the book and engramlib. Needs python3 >= 3.10 and make, nothing else."
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12 | sed 's/^/  make /'
	@echo
	@echo "  PYTHON=python3.12 make ...        use another Python"
	@echo "  make GPU=1 ...                    PyTorch with CUDA, when .venv is made (else without: 4 GB less)"
	@echo "  ENGRAM_DATA=/my/data make ...     where MNIST lies (else downloaded when a chapter needs it)"
	@echo "  make test PYTEST='-k moments'     pass options to pytest"
	@echo "  make bench PARTS='conv growth'    some parts; BENCH=--quick: small models, to see that it runs"

book: $(STAMP) ## run the chapters, build the book into _build/html
	@$(BIN)/python book/build.py

test: $(STAMP) ## lint, types, import directions, unit tests, doctests, every chapter, exercises, book checks
	@OMP_NUM_THREADS=1 $(BIN)/python .ci/parts.py -- -n 2 --dist loadfile --no-loadscope-reorder \
	  --doctest-modules --nbval-lax --nbval-current-env --nbval-cell-timeout=600 $(PYTEST)

# Its notebook's cells, and the book's checks of its text; `make book` then runs this chapter alone.
chapter: $(STAMP) ## one chapter and the checks of its text, 1 to 2 minutes: make chapter N=03
	@ls book/part*/$(N)_*.ipynb >/dev/null 2>&1 || { echo "No chapter '$(N)'. Say which one: make chapter N=03"; exit 1; }
	@$(BIN)/ruff check book/part*/$(N)_*.ipynb
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
	  book/part*/$(N)_*.ipynb tests/book -k $(N)_ $(PYTEST)

check: $(STAMP) ## the quick look before a commit, within 2 minutes: lint, types, import directions, the method's tests
	@OMP_NUM_THREADS=1 $(BIN)/python .ci/parts.py $(METHOD) -- -n 2 --dist loadfile -q --doctest-modules $(PYTEST)

campaign: $(STAMP) ## the slow proofs, about 10 minutes: damaged files, kills, faults at every step; writes a page of the book
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaign

mutation: $(STAMP) ## do the tests notice a changed line? 40 mutants of each module, about an hour
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input "cosmic-ray>=8.3"
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.campaign.mutation

bench: $(STAMP) ## what each step costs, about 35 minutes on an idle machine; writes a page of the book
	@test -d _build/peer/engram || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
	  --no-deps --target _build/peer ai-engram==0.11 || echo "The authors' package could not be installed: no comparison."
	@PYTHONPATH=_build/peer $(BIN)/python -m tests.benchmarks $(PARTS) $(BENCH)

site-test: $(VENV)/.installed-site ## the built book in a real browser, about 9 minutes (needs chromium; says so if there is none)
	@$(BIN)/python book/browser.py
	@ENGRAM_SITE=_build/html OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/site -q $(PYTEST)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/lab/plots/test_players_in_browser.py -q $(PYTEST)

epub: $(STAMP) ## the built book as an e-book, _build/ai-engrams.epub, a minute
	@test -f _build/html/index.html || { echo "No book yet: run 'make book' first."; exit 1; }
	@$(BIN)/python book/paper.py epub

pdf: $(VENV)/.installed-site ## the built book as a PDF, _build/ai-engrams.pdf (needs chromium; says so if there is none)
	@test -f _build/html/index.html || { echo "No book yet: run 'make book' first."; exit 1; }
	@$(BIN)/python book/paper.py pdf

slides: $(VENV)/.installed-site ## six lectures and every figure as SVG and PNG, in _build/slides; after make book
	@test -f _build/html/index.html || { echo "No book yet: run 'make book' first."; exit 1; }
	@$(BIN)/python book/slides.py

links: $(STAMP) ## does every address outside the book still answer? After make book; needs the network
	@$(BIN)/python book/check_links.py

myst: $(STAMP) ## how far the pages are from Jupyter Book 2: what they use and MyST does not know
	@$(BIN)/python book/myst.py

wheel: $(STAMP) ## make the wheel in dist/ and try it in an environment of its own (PyTorch again: 2 minutes, 6 GB for a while)
	@BIN=$(BIN) .ci/wheel

test-oldest: $(OLDEST)/.installed ## the method's unit tests with the oldest Python and packages promised, about 5 minutes
	@$(call method-tests,$(OLDEST))

test-newest: ## the same with the newest that pip gives today, about 6 minutes; each of the two takes 6 GB
	@test -x $(NEWEST)/bin/python || { $(call new-venv,$(NEWEST),PYTHON_NEWEST,$@); }
	@$(call install-bounds,$(NEWEST),newest,--upgrade --upgrade-strategy eager)
	@$(call method-tests,$(NEWEST))

serve: ## show the built book at http://localhost:8000 (PORT=8080 for another port)
	@test -f _build/html/index.html || { echo "No book yet: run 'make book' first."; exit 1; }
	@echo "The book is at http://localhost:$(PORT)/ (Ctrl-C stops)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

repoint: $(STAMP) ## point every link at your fork: make repoint REPO=https://github.com/you/fork
	@$(BIN)/python book/repoint.py "$(REPO)"

assignments: $(VENV)/.installed-course ## make the student notebooks and autograders from their masters
	@$(BIN)/python book/assignments/build.py

course-test: $(VENV)/.installed-course ## every assignment run and graded: solutions, empty notebooks, typical mistakes, cheats; 10 minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q --nbval-lax --nbval-current-env \
	  tests/assignments book/assignments/student $(PYTEST)

install: $(STAMP) ## only make .venv

clean: ## remove what was made: the .venv folders, _build and dist
	rm -rf $(VENV) $(OLDEST) $(NEWEST) _build dist

# Installed again whenever the requirements change; book/start.py does it, as for a reader.
$(STAMP): pyproject.toml requirements.txt
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "No $(PYTHON) found: install Python 3.10 or newer, or name yours: make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$$("$(PYTHON)" --version 2>&1) is too old: Python 3.10 or newer is needed. Try make PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@"$(PYTHON)" book/start.py --all --venv "$(VENV)" $(if $(GPU),--gpu)
	@touch $@
	@echo "Installed: $$(du -sh $(VENV) | cut -f1) in $(VENV)"

# What only some commands need: an extra of pyproject.toml, installed when the first of them runs.
$(VENV)/.installed-%: $(STAMP)
	@echo "Installing what this command needs beside the rest (the extra '$*'), once ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e ".[$*]" || { \
	  echo "The install failed, see above. Check the network and the disk, then run the command again."; exit 1; }
	@touch $@

# $(call new-venv,folder,variable,target): its Python is on PATH or pyenv's, whose shims may be on PATH and not run.
define new-venv
  for python in "$($(2))" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/*/bin/"$($(2))"; do \
    if "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then break; fi; python=; done; \
  test -n "$$python" || { \
    echo "No $($(2)) that can make virtual environments found: install it, or name yours: make $(3) $(2)=/path/to/python"; \
    exit 1; }; \
  echo "Installing into $(1) with $$("$$python" --version): some minutes and 6 GB (PyTorch is most of it) ..."; \
  "$$python" -m venv --clear $(1)
endef
# $(call install-bounds,folder,oldest or newest,options of pip)
define install-bounds
  $(1)/bin/python .ci/bounds.py $(2) > $(1)/requirements.txt && \
  $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-input $(3) -r $(1)/requirements.txt -e . || { \
    echo "The install failed, see above: the network, the disk (6 GB), or bounds of pyproject.toml that do not agree."; \
    exit 1; }
endef
# What is installed stands first in the log, for the day when a test fails.
define method-tests
  $(1)/bin/python --version; $(1)/bin/python -m pip freeze --exclude-editable | grep -v ^nvidia | tr '\n' ' '; echo; \
  OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -q --doctest-modules engramlib --ignore=engramlib/lab tests/test_*.py $(PYTEST)
endef

# Emptied and installed again whenever a bound may have changed.
$(OLDEST)/.installed: pyproject.toml .ci/bounds.py
	@$(call new-venv,$(OLDEST),PYTHON_OLDEST,test-oldest)
	@$(call install-bounds,$(OLDEST),oldest)
	@touch $@
