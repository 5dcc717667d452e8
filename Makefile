# Needs make, a POSIX shell and Python >= 3.11. Everything else goes into the virtual environment .venv.

VENV = .venv
# The interpreter that .venv is made with; empty: python3, python, python3.14 ... python3.11, the first that is new enough.
PYTHON ?=
# The virtual environment of NetKet, quantax and what else pins packages that .venv must not have pinned.
PEERS = .venv-peers
# Back ends whose absence is a failure, for example REQUIRE="numpy strict torch jax".
REQUIRE =
# More arguments for pytest or the demo.
ARGS =
# A folder with wheels of array-api-compat, array-api-extra and array-api-strict for the gpu targets, which unpack them.
WHEELS =
# Where gpu-bench and gpu-evidence write DEVICE.json, DEVICE.md and what goes with them.
OUT = docs/benchmarks
# What gpu-test runs on: cupy, torch-cuda, jax-gpu, one or several. JAX compiles for minutes.
ON = cupy

doors = netket quantax
# Of tests/adapters, what needs one of these codes: the others run where torch and JAX are.
door_tests = $(filter-out %/test_torch_modules.py %/test_torch_optimizers.py %/test_optax.py %/test_behind_jax.py, \
	$(wildcard tests/adapters/test_*.py)) ngdla/adapters 'tests/test_packaging.py::test_readme_example' \
	'tests/test_docs.py::test_examples_of_a_page[guide/coming_from_netket.md]'
engines = mpi4py torch jax
python = $(VENV)/bin/python
bootstrap = @sh tools/bootstrap.sh '$(VENV)' '$(PYTHON)'

targets = help demo test peers double ranks fuzz lint format docs look bench bench-site gpu-test gpu-bench gpu-evidence venv clean distclean

# Without this, `make tests` would find that folder and have nothing to do.
near = $(strip $(foreach t,$(targets),$(if $(findstring $(1),$(t))$(findstring $(t),$(1)),$(t))))
few = $(if $(word 4,$(near)),,$(near))
advice = $(if $(few),did you mean: make $(few)?,the targets are: $(targets))
$(foreach goal,$(filter-out $(targets),$(MAKECMDGOALS)),$(error no target '$(goal)'; $(call advice,$(goal))))

.NOTPARALLEL:
.PHONY: $(targets)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | while IFS='	' read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: ## solve a real problem and show it (ARGS="--quick" for the short version)
	$(bootstrap) demo
	$(python) -m ngdla demo $(ARGS)

test: ## run the tests on NumPy, array-api-strict and whatever else is installed (REQUIRE="torch jax", ARGS=...)
	$(bootstrap) test
	$(python) -m pytest -n auto --maxprocesses 4 $(REQUIRE:%=--require-backend %) $(ARGS)

peers: ## run the tests of the doors to NetKet and quantax, in .venv-peers (ARGS=...)
	@sh tools/bootstrap.sh '$(PEERS)' '$(PYTHON)' peers
	$(PEERS)/bin/python -m pytest -n auto --maxprocesses 4 $(doors:%=--require-package %) $(door_tests) $(ARGS)

double: ## run the tests of CuPy on a stand-in for it, in a process of its own, without a GPU (ARGS=...)
	$(bootstrap) test
	$(python) -m pytest tests --cupy-double -n auto --maxprocesses 4 $(ARGS)

ranks: ## run the tests on processes of MPI and torch.distributed, whose absence is a failure (ARGS=...)
	$(bootstrap) ranks
	$(python) -m pytest tests/distributed -m 'ranks and not slow' $(engines:%=--require-package %) $(ARGS)

fuzz: ## search for results that are wrong without a word, against exact answers (ARGS=--quick)
	$(bootstrap) test
	$(python) tools/fuzz_solves.py $(ARGS); solves=$$?; $(python) tools/fuzz_functions.py $(ARGS) && exit $$solves

lint: ## check style, types and the import contract
	$(bootstrap) lint
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(VENV)/bin/lint-imports --no-logo

format: ## let ruff format the code and sort the imports
	$(bootstrap) lint
	$(python) -m ruff check --fix-only .
	$(python) -m ruff format .

docs: ## build the documentation as docs/_build/html
	$(bootstrap) docs
	$(python) -m sphinx -W --keep-going -q -b html docs docs/_build/html

asv_site = asv_benchmarks/.asv/html
asv_pages = '\#/' '\#/summarylist' '\#/regressions' '\#gram.Gram.time_gram'

look: ## open all built pages in a headless Chromium: what is wrong with them, pictures in docs/_build/look
	$(bootstrap) look
	$(python) tools/look.py docs/_build/html --pictures docs/_build/look
	$(if $(wildcard $(asv_site)/index.html),$(python) tools/look.py $(asv_site) $(asv_pages) --pictures docs/_build/look/asv)

bench: ## run every asv benchmark once, quickly (ARGS="--bench Gram.time" for a part)
	$(bootstrap) bench
	$(python) asv_benchmarks/bench.py $(ARGS)

bench-site: ## turn the results of make bench into pages that need no network
	$(bootstrap) bench
	$(python) asv_benchmarks/offline_site.py

# The tests and the benchmark where there is a GPU use the python3 that is there; nothing is installed or fetched.
# JAX takes no memory in advance, since libraries and processes share the card. $(1): modules needed beyond those of ngdla.
# Wheels are unpacked: tests read the files of packages, and processes import faster from files than from archives.
gpu_python = $(or $(PYTHON),python3)
on_gpu = fail() { echo "ngdla: $$*" >&2; exit 1; }; path=$$PWD; \
	$(gpu_python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		fail '$(gpu_python) is not a Python >= 3.11; name one: make ... PYTHON=/path/to/python3'; \
	$(if $(WHEELS),unpacked=$$(mktemp -d); trap 'rm -rf "$$unpacked"' EXIT; trap 'exit 130' HUP INT TERM; \
	for wheel in $(abspath $(WHEELS))/*.whl; do \
		[ -e "$$wheel" ] || fail 'no *.whl in $(WHEELS); name a folder with wheels: make ... WHEELS=folder'; \
		$(gpu_python) -m zipfile -e "$$wheel" "$$unpacked" || fail "cannot unpack $$wheel"; done; path=$$path:$$unpacked;) \
	export PYTHONPATH="$$path$${PYTHONPATH:+:$$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false; \
	missing=; for module in numpy scipy array_api_compat array_api_extra $(1); do \
		$(gpu_python) -c "import $$module" >/dev/null 2>&1 || missing="$$missing $$module"; done; \
	[ -z "$$missing" ] || fail "$(gpu_python) cannot import$$missing; install what is missing, or name another Python" \
		"with PYTHON=, or give array_api_* by WHEELS=folder with its wheel";

# XLA is saved the search for the fastest kernels; gpu-bench, which measures, lets it search.
empty :=
gpu_selection = ($(subst $(empty) $(empty), or ,$(strip $(ON)))) and not cupy-double
gpu-test: ## run the tests on the GPU of this machine: the current python3, nothing installed (ON=cupy, WHEELS=folder)
	@$(call on_gpu,pytest hypothesis array_api_strict) export XLA_FLAGS='--xla_gpu_autotune_level=0 --xla_force_host_platform_device_count=2'; \
	$(gpu_python) -m pytest tests -p no:cacheprovider -W default -k '$(gpu_selection)' \
		$$($(gpu_python) -c 'import xdist' 2>/dev/null && printf %s '-n 12') $(ON:%=--require-backend %) $(ARGS)

gpu-bench: ## measure on the GPU of this machine: the current python3, nothing installed (WHEELS=folder, OUT=folder)
	@$(call on_gpu) $(gpu_python) -m asv_benchmarks.gpu --output '$(OUT)' $(ARGS)

gpu-evidence: ## all evidence of this machine's GPU in nine minutes, most of it first (WHEELS=folder, OUT=folder)
	@$(call on_gpu,pytest hypothesis array_api_strict) $(gpu_python) -m asv_benchmarks.gpu.evidence --output '$(OUT)' $(ARGS)

venv: ## create .venv and install nothing
	$(bootstrap)

clean: ## remove caches and what a build leaves
	rm -rf docs/_build docs/auto_examples build dist ngdla.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find ngdla tests asv_benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv, .venv-peers and what asv keeps
	rm -rf '$(VENV)' '$(PEERS)' asv_benchmarks/.asv
