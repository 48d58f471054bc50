# Everything here works on a fresh Debian 12 as root; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

LAB ?= demo
export LAB
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PYTEST := $(PY) -m pytest
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1

# The controller's compiler (bcc) is the distribution's, hence Debian's own Python; the rest is for labs and tests.
APT := python3-venv python3-bpfcc python3-systemd linux-headers-amd64 debootstrap systemd-container \
	qemu-system-x86 qemu-utils bpftool iproute2 nftables iperf3 e2fsprogs busybox-static cpio kmod jq ethtool \
	nginx-light shellcheck tcpdump openssh-client curl procps git gcc libc6-dev iputils-ping wireguard-go
STAMP_VENV := $(VENV)/.done-$(shell cat pyproject.toml 2>/dev/null | sha256sum | cut -c1-12)

.PHONY: help
help: ## this list
	@echo "make TARGET [LAB=name]   (LAB: the lab's name, default demo; labs of other names can be up beside it)"
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# ---- setup -----------------------------------------------------------------------------------------------------

.PHONY: setup
setup: apt $(STAMP_VENV) ## install what is missing: system packages (root), Python packages in .venv

.PHONY: apt
apt:
	@missing=$$(comm -13 <(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(APT) 2>/dev/null \
		| awk '$$1 == "installed" {print $$2}' | sort) <(printf '%s\n' $(APT) | sort) | tr '\n' ' '); \
	if [ -n "$$missing" ]; then \
		echo "[setup] system packages: $$missing"; \
		if [ "$$(id -u)" != 0 ]; then echo "[setup] not root: ask your administrator for them, then run make setup again" >&2; exit 1; fi; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -q update | tail -1; \
		apt-get -qy install --no-install-recommends $$missing | grep -E '^(Setting up|Need to get|E:)' || exit 1; \
	fi

$(STAMP_VENV): pyproject.toml
	@echo "[setup] Python packages in $(VENV) (about a minute)"
	@test -x $(PY) || /usr/bin/python3 -m venv --system-site-packages $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]' 2>$(VENV)/pip.log \
		|| { cat $(VENV)/pip.log >&2; exit 1; }
	@rm -f $(VENV)/.done-*; touch $@

.PHONY: release
release: setup ## compile the eBPF programs into skedge-release.tar, for control nodes that cannot (root)
	@PYTHONPATH=collections $(PY) -m ansible_collections.skedge.edge.plugins.plugin_utils.release_file

# ---- tests -----------------------------------------------------------------------------------------------------

.PHONY: check
check: $(STAMP_VENV) lint unit ## the quick part, without root: lint, types, layers, unit tests (< 60 s)

.PHONY: lint
lint: $(STAMP_VENV) ## ruff, mypy, import-linter, shellcheck, yamllint
	@ruff check .
	@ruff format --check --quiet . || { ruff format --diff --quiet . | head -40; exit 1; }
	@mypy
	@lint-imports --no-cache | tail -3
	@if git ls-files '*.sh' .ci/run | grep -q .; then git ls-files '*.sh' .ci/run | xargs shellcheck; fi
	@yamllint --strict .

.PHONY: lint-ansible
lint-ansible: $(STAMP_VENV) ## ansible-lint, production profile
	@ansible-lint --offline -q

.PHONY: unit property sim integration molecule molecule-vm vm-test
unit: $(STAMP_VENV) ## unit tests (no root, seconds)
	@$(PYTEST) -q tests/unit
property: $(STAMP_VENV) ## properties on random input (no root)
	@$(PYTEST) -q tests/property
sim: $(STAMP_VENV) ## the control plane of whole networks, simulated (no root)
	@$(PYTEST) -q tests/sim
integration: setup ## tests in network namespaces and container labs (root)
	@$(PYTEST) -q tests/integration
molecule: setup ## the Molecule scenarios in container labs (root)
	@$(PY) -m tests.lab.everything 'molecule check_mode' 'molecule default' 'molecule lan' 'molecule untidy'
molecule-vm: setup ## the Molecule scenario in three VMs (root; half an hour where KVM does not work)
	@$(PY) -m tests.lab.everything 'molecule vm'
vm-test: KERNEL ?= 6.1
vm-test: setup ## all that is tested on other kernels, under qemu, on KERNEL=6.1, 6.12 or backports (root)
	@$(PY) -m tests.kit.builders
	@$(PY) -m tests.lab.vm --kernel $(KERNEL) --timeout 2700 -- .venv/bin/python -m tests.lab.vm_tests

.PHONY: soak-vm
soak-vm: SOAK_S ?= 600
soak-vm: setup ## links that delay and lose packets, twice SOAK_S=600 seconds, on Debian's 6.1 kernel under qemu (root)
	@$(PY) -m tests.lab.vm --timeout 6000 -- SOAK_S=$(SOAK_S) NETEM_S=$(SOAK_S) .venv/bin/python -m pytest -q -s \
		-p no:cacheprovider tests/integration/control/test_netem.py tests/soak

.PHONY: test
test: setup ## everything (about three quarters of an hour, root); ends with one line that counts what was skipped, and why
	@$(PY) -m tests.lab.everything

.PHONY: test-long
test-long: VM_LONG := vm-6.1-rest vm-6.12-rest vm-backports vm-5.10 vm-6.1-long
test-long: setup ## what takes minutes each: takeovers, firewalls, certificates, keys, upgrades (also of Debian), VM labs, other kernels, a change of engine (root)
	@$(PY) -m tests.lab.everything long $(VM_LONG) 'molecule default on Debian 13' 'molecule rolling'

.PHONY: bench
bench: setup ## cost of a connection, round trip and stream, direct and through a listener, from host and LAN (root)
	@$(PY) -m tests.bench

.PHONY: chaos
chaos: CHAOS_S ?= 600
chaos: SEED ?= 1
chaos: LAB := $(if $(filter file,$(origin LAB)),chaos,$(LAB))
chaos: setup ## faults under load for CHAOS_S=600 seconds in an order that SEED=1 makes, and what clients saw of each (root)
	@$(PY) -m tests.chaos --lab $(LAB) --seconds $(CHAOS_S) --seed $(SEED)

# ---- labs ------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## three edge hosts, deployed with Ansible, balancing 100 held connections (root)
	@$(PY) -m tests.lab.demo

.PHONY: demo-vm
demo-vm: LAB := $(if $(filter file,$(origin LAB)),demo-vm,$(LAB))
demo-vm: setup ## the same in three VMs with Debian's own kernel (root; long where KVM does not work)
	@$(PY) -m tests.lab.demo --topology vm-line

.PHONY: lab-up lab-down lab-status
lab-up: setup ## bring up the lab LAB (TOPOLOGY=line|triangle|diamond|pair|lan of containers, vm-line|vm-pair of VMs; SUITE=bookworm|trixie)
	@$(PY) -m tests.lab up --topology $(or $(TOPOLOGY),line)
lab-down: ## remove the lab LAB
	@test ! -x $(PY) || $(PY) -m tests.lab down
lab-status: ## list labs and their hosts
	@$(PY) -m tests.lab status

.PHONY: shell-a shell-b shell-c
shell-a shell-b shell-c: ## log in to edge-a, edge-b, edge-c of LAB
	@$(PY) -m tests.lab shell edge-$(@:shell-%=%)

# ---- cleaning --------------------------------------------------------------------------------------------------

.PHONY: clean distclean
clean: ## remove every trace of labs and tests, interrupted ones too; base image, VM disk and .venv stay
	@if [ -x $(PY) ]; then $(PY) -m tests.lab clean; fi
	@rm -rf .lab .cache/run .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .ansible build dist
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## also remove the base image, the VM's disk, the release and .venv
	@rm -rf --one-file-system skedge-release.tar .cache $(VENV) skedge.egg-info
