# Start with `make demo` and `make test`. `make help` lists all targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
JOBS := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu)
export PATH := $(CURDIR)/$(BIN):$(PATH)
# One thread per job: a process per core is faster than one process with several threads.
export OMP_NUM_THREADS ?= 1
# These start hundreds of processes, which would all compile what they import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test test-slow test-long test-faults test-controls test-mutants docs test-docs test-gpu bench bench-gpu lint audit hashes test-pythons format report grid resume test-slurm test-slurm-all clean-demo

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml requirements/lock.txt
	$(PYTHON) -c 'import sys; sys.exit("clipkd needs Python 3.11 or newer; set its path: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@# The list is whole, so pip need not solve anything; it does where a platform needs more than is listed. Four at once,
	@# as each waits for one file after the other. If one fails (255 ends xargs), a single pip goes on or says why.
	@$(if $(HASHES),false,grep -v '^#' requirements/lock.txt | xargs -P 4 -n 20 \
		sh -c '$(INSTALL) --no-deps "$$@" || exit 255' install >/dev/null 2>&1) || $(INSTALL) --no-deps $(LOCK)
	@$(BIN)/python -m pip check >/dev/null || $(INSTALL) $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@# With all cores; pip compiles with one. Not what is hardly ever imported: it is compiled when it is.
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests|transformers/models|torch/(_inductor|testing|ao)|wandb|playwright|setuptools|pip)/' \
		$(VENV)/lib >/dev/null 2>&1 || true
	touch $@

HASHES ?=
INSTALL = $(BIN)/python -m pip install --quiet --no-compile
LOCK = $(if $(HASHES),--require-hashes --requirement requirements/hashes.txt,--requirement requirements/lock.txt)
install: $(VENV)/.installed ## Create .venv with the pinned, tested versions; HASHES=1 checks each file's sha256.

CONFIG ?=
CONFIGFILE := $(if $(CONFIG),--configfile $(CONFIG))

demo: install ## Run the whole workflow on the digits of scikit-learn: a few minutes, no network, no GPU.
	$(BIN)/clipkd check config/demo.yaml
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml --quiet host reason
	@if [ ! results/provenance.html -nt results/report.html ]; then \
		$(BIN)/snakemake --configfile config/demo.yaml --report results/provenance.html --quiet all; fi
	@echo
	@echo "Tables:  results/tables/   (start with results/tables/$$(cd results/tables && ls accuracy-*.md | head -1))"
	@echo "Figures: results/figures/"
	@echo "Report:  results/report.html   (a single file, works offline; open this first)"
	@echo "         results/provenance.html   (Snakemake's report: which rule and command produced which file)"

grid: install ## Check and run the full paper grid, or CONFIG=FILE merged over it: needs a GPU, and internet for downloads.
	$(BIN)/clipkd check $(CONFIG)
	$(BIN)/snakemake --cores $(CORES) $(CONFIGFILE)

resume: install ## Resume an interrupted workflow, on this machine or on SLURM.
	$(BIN)/clipkd resume

report: install ## Write results/report.html and results/provenance.html for the full paper grid, or CONFIG=FILE.
	$(BIN)/clipkd check $(CONFIG)
	$(BIN)/snakemake --cores $(CORES) $(CONFIGFILE) -- results/report.html results/.reported
	$(BIN)/snakemake $(CONFIGFILE) --report results/provenance.html

SLOW ?=
test: install ## Run the tests but the slow ones (4 to 7 minutes on two cores); SLOW=1 runs those as well.
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "$(if $(SLOW),,not slow and )not long and not slurm and not docs"

test-slow: install ## Run the slow tests alone, seconds each: DVC, resumed grids, ... (7 minutes).
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "slow and not long and not slurm and not docs"

test-long: install ## Run the long tests: interrupted torchrun, more of DVC, ... (minutes).
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "long and not slurm"

test-faults: install ## Run every case of docs/faults.md with its controls, then update that page (under half an hour).
	CLIPKD_FAULTS=all $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not slurm" tests/faults
	$(BIN)/python docs/faults.py

test-controls: install ## Run every control of docs/faults.md: without its protection, each case must fail (ten minutes).
	CLIPKD_FAULTS=controls $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not slurm" tests/faults -k without-

test-mutants: install ## Make each mistake of tests/mutants.yaml in a copy, and see that a test notices it (half an hour).
	$(BIN)/python -m tests.mutants --jobs $(JOBS)

docs: install ## Build the documentation as a website in build/site; it works offline.
	$(BIN)/mkdocs build --strict --quiet
	@echo "Site: build/site/index.html"

test-docs: install ## Run the slow commands of the documentation, page by page (minutes).
	$(BIN)/python -m pytest -m docs tests/docs

test-gpu: install ## Run the tests that need a CUDA GPU, and related tests of the training.
	$(BIN)/python -m pytest tests/gpu tests/training/test_stack.py tests/training/test_precision.py

test-slurm: install ## Test the workflow on a real single-node SLURM, started for the test (needs root; under 10 minutes).
	$(BIN)/python -m tests.slurm.cluster --check
	$(BIN)/python -m pytest --numprocesses 0 tests/slurm -m "slurm and not long"

test-slurm-all: install ## Run every SLURM scenario with its control, and the demo (about an hour).
	$(BIN)/python -m tests.slurm.cluster --check
	$(BIN)/python -m pytest --numprocesses 0 tests/slurm -m slurm

bench: install ## Run the benchmarks, then update docs/performance.md (about 40 minutes on two cores).
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.grids
	$(BIN)/python -m benchmarks.jobs
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python docs/grids.py
	$(BIN)/python docs/performance.py

bench-gpu: install ## Measure a GPU in one session of 10 minutes, then update the docs; each part is saved as it ends.
	$(BIN)/python -m benchmarks.gpu; code=$$?; $(BIN)/python docs/performance.py && $(BIN)/python docs/grid_cost.py && exit $$code

lint: install ## Check formatting, types, imports, generated docs and the workflow.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/config_table.py --check
	$(BIN)/python docs/contents.py --check
	$(BIN)/python docs/flow.py --check
	$(BIN)/python docs/faults.py --check
	$(BIN)/python docs/few_labels.py --check
	$(BIN)/python docs/recipes.py --check
	$(BIN)/python docs/emoji_teacher.py --check
	$(BIN)/python docs/grid_cost.py --check
	$(BIN)/python docs/performance.py --check
	$(BIN)/python docs/grids.py --check
	$(BIN)/snakemake --lint --configfile config/demo.yaml

test-pythons: ## Run tests on each Python from 3.11 to 3.13 that is installed here, with nox (downloads the pinned versions).
	$(PYTHON) -m venv build/nox
	build/nox/bin/python -m pip install --quiet 'nox>=2025.5'
	build/nox/bin/nox

audit: ## Look up known vulnerabilities of the pinned versions, with pip-audit (needs internet; not part of CI).
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet 'pip-audit>=2.9'
	@build/audit/bin/pip-audit --strict --progress-spinner off --requirement requirements/hashes.txt --require-hashes --disable-pip \
		|| { echo "audit: a pinned version is vulnerable (above), or the vulnerability service did not answer for one of them"; exit 1; }

hashes: install ## Write requirements/run.txt from lock.txt, and the sha256 of every file of both (needs internet).
	$(BIN)/python requirements/run.py
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet 'uv>=0.7'
	for name in hashes:lock run-hashes:run; do \
		build/audit/bin/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --generate-hashes \
			--custom-compile-command "make hashes" requirements/$${name#*:}.txt --output-file requirements/$${name%:*}.txt || exit 1; \
	done

format: install ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

clean-demo: install ## Delete the demo's results; `clipkd clean config/demo.yaml --data` also deletes its data.
	$(BIN)/clipkd clean config/demo.yaml --yes
