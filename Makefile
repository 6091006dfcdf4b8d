# Two commands matter: `make reproduce` (measure, build the book, show the verdicts), `make test`.

PROFILE ?= laptop
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# Experiments that take longer on one core, in minutes, wait until they are asked for: by WITHIN= (all)
# or DATA=fetch. All of laptop takes 23 hours on one core, half of it for the study.
WITHIN ?= $(if $(DATA)$(filter-out laptop,$(PROFILE)),,10)
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
STEP := scripts/step
READY := .venv/.ready

export PATH := $(CURDIR)/$(BIN):$(PATH)
# CORES runs at once, one thread each; the matrices are too small to gain from more
export OMP_NUM_THREADS ?= 1
# the kernel of this environment, not one that the user has installed elsewhere
export JUPYTER_PREFER_ENV_PATH := 1
unexport JUPYTER_PATH MPLBACKEND PYTHONSTARTUP
# Images of containers often forbid compiled files: each of our hundreds of processes would compile all
# of torch's and Snakemake's modules anew, which makes an import take two to three times as long.
unexport PYTHONDONTWRITEBYTECODE
export PYDEVD_DISABLE_FILE_VALIDATION := 1

# files side by side, each whole in one process: cells of a notebook follow one another, and the tests
# of drivers share what they start; in the order of tests/conftest.py, where the longest come first
PYTEST := python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder
# kernels begin with torch imported
WARM := python scripts/warm/ipykernel_launcher.py

.DEFAULT_GOAL := help
WEEK ?= $(shell echo $$(($$(date +%s) / 604800)))

.PHONY: help reproduce data rerun test lint notebooks strict read tests golden outputs book archive \
	lock gpu clean

help:  ## this list
	@grep -hE '^[a-z.]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z.]+):.*## */\1\t/' | expand -t 12
	@echo
	@echo "variables:  PROFILE=smoke|laptop|paper (now: $(PROFILE))   CORES=$(CORES)   PYTHON=$(PYTHON)   DATA=fetch"

# Built when missing, and brought up to date when the lock or the project file has changed. Compiled
# is what is imported, when it is: all of it would take a minute.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(STEP) "install the locked packages and mtlbook" $(BIN)/python scripts/install.py
	@touch $@

.venv: $(READY)  ## the Python environment, from requirements.lock

data: $(READY)  ## every data set with a public source, downloaded, made and checked
	mtlbook data fetch --all

reproduce: $(READY)  ## run the experiments, build the book, show the verdicts
	@test "$(DATA)" != fetch || mtlbook data fetch --all \
		|| echo "experiments on the sets that could not be fetched are skipped"
	@mkdir -p _build; $(WARM) python scripts/build_book.py --at-once $(CORES) >_build/book.log 2>&1 & book=$$!; \
	trap 'kill $$book 2>/dev/null; exit 130' INT TERM HUP; \
	$(STEP) "experiments ($(PROFILE), $(CORES) at once), and the book meanwhile" \
		mtlbook reproduce --profile $(PROFILE) --cores $(CORES) $(addprefix --within ,$(WITHIN)); runs=$$?; \
	wait $$book || { cat _build/book.log; exit 1; }; \
	tail -n 1 _build/book.log; \
	echo "Open _build/html/index.html (the book) and runs/$(PROFILE)/summary.html in a browser."; exit $$runs

rerun: $(READY)  ## a random run of every committed result, measured again and compared
	@$(STEP) "random runs of week $(WEEK)" mtlbook rerun --random --seed $(WEEK)

# One after the other, as each takes CORES processes: on two cores book and tests side by side took
# longer (938 and 1,388 s) than the book alone (380 s) and then the tests (521 s), and the tests with
# a browser beside them (1,057 s) than the browser alone (163 s) and then they.
test: $(READY)  ## style, notebooks, book (strict, from nothing), tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory notebooks
	@$(MAKE) --no-print-directory strict
	@$(MAKE) --no-print-directory read
	@$(MAKE) --no-print-directory tests

read: $(READY)
	@$(STEP) "tests of the built book" python -m pytest -m book $$(grep -l mark.book tests/*.py)

tests: $(READY)
	@$(STEP) "tests and docstring examples" $(PYTEST) -m "not book" --doctest-modules tests mtlbook

lint: $(READY)
	@$(STEP) "ruff check" ruff check .
	@$(STEP) "ruff format" ruff format --check .

notebooks: $(READY)
	@$(STEP) "notebooks give their committed outputs" \
		nice -n 5 $(WARM) $(PYTEST) --nbval --nbval-current-env notebooks

strict: $(READY)
	@$(STEP) "book, from nothing" $(WARM) python scripts/build_book.py --clean --at-once $(CORES)

golden: $(READY)  ## golden trajectories, compared; with the lines of code that they cover
	@$(STEP) "golden trajectories" python -m coverage run tests/golden.py
	@python -m coverage report

outputs: $(READY)  ## execute the notebooks and store their outputs, after a change of one
	@$(STEP) "outputs of the notebooks" python scripts/refresh_notebooks.py

book: $(READY)  ## the book, with executed cells cached
	@$(STEP) "book" $(WARM) python scripts/build_book.py --at-once $(CORES)

archive: $(READY)  ## the built book as one zip file that opens without a network; PDF=--pdf prints it, too
	@$(STEP) "archive" python scripts/archive.py $(PDF)

lock: $(READY)  ## requirements.lock for pyproject.toml; UPGRADE=--upgrade moves versions
	@$(STEP) "lock" python scripts/lock.py $(UPGRADE)

gpu: $(READY)  ## tests and benchmarks on a CUDA device; writes data/gpu/<device>.json
	@env -u OMP_NUM_THREADS python benchmarks/gpu.py --tests

clean:  ## remove what was built; leaves .venv, the data and your runs
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .snakemake
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
