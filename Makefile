# Everything a newcomer types: `make run` and `make test`. Each sets up what it needs, printing what it installs.

PYTHON ?= /usr/bin/python3
BIN := .venv/bin
PREFIX ?= /usr/local
comma := ,
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# A suite's sources are in the directory that the variable of its name gives (docker-py: DOCKER_PY); without it it is left out.
upper = $(shell echo $(1) | tr a-z- A-Z_)
define judge
$(if $($(call upper,$(1))),@$(SUDO) conformance/$(1) $($(call upper,$(1)))
	)
endef

.PHONY: install uninstall deb run test test-slow lint venv system test-vm bench bench-images bench-runtimes conformance clean help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: venv ## start the engine if need be and run a busybox shell (a command, without a terminal)
	@$(SUDO) packaging/run

test: venv ## lint, type-check and test on the real kernel; ends with a check that nothing is left behind
	@$(SUDO) packaging/system-packages test
	@$(SUDO) packaging/newer-criu build/criu
	@$(SUDO) packaging/newer-buildx build/buildx
	@$(MAKE) --no-print-directory lint
	@$(SUDO) env PATH="$(CURDIR)/build/criu/bin:$$PATH" $(BIN)/python -m pytest -m 'not slow'

test-slow: venv ## what takes minutes
	@$(SUDO) packaging/system-packages test
	@$(SUDO) $(BIN)/python -m pytest -m slow

lint: venv ## ruff, mypy --strict, and which room may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --quiet --check . || { echo 'run ruff format'; exit 1; }
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports --no-logo --no-cache) || { echo "$$said"; exit 1; }

install: ## install for the whole system, below PREFIX (/usr/local): programs, units, completions, manual pages
	@$(SUDO) packaging/system-packages run
	@$(SUDO) packaging/install --prefix $(PREFIX) $(if $(DOCKER_ALIAS),--docker)

uninstall: ## take that away again; containers, images and volumes stay
	@$(SUDO) packaging/uninstall --prefix $(PREFIX)

deb: ## build Debian packages into build/
	@packaging/deb

# Today's peers, unpacked into a folder and installed nowhere: PEER=docker28,podman5 for engines, PEER=runc,crun for runtimes.
newer_peers = $(if $(PEER),@$(SUDO) packaging/newer-engines build/engines)

bench: venv ## the engines on this machine side by side, through the stock docker client; with PEER=docker28,podman5 today's instead
	@$(SUDO) packaging/system-packages bench
	$(newer_peers)
	@$(SUDO) $(BIN)/python -m benchmarks.engines $(if $(PEER),--engines dockyard$(comma)$(PEER))

test-vm: venv ## the tests to which systemd, cgroup version 2 and AppArmor matter, in a virtual machine that has them
	@$(SUDO) packaging/system-packages vm
	@$(SUDO) conformance/vm
	@$(SUDO) conformance/vm --boots conformance/reboots

bench-images: venv ## images in and out of the engines, and registry servers side by side
	@$(SUDO) packaging/system-packages bench
	@$(SUDO) $(BIN)/python -m benchmarks.images

bench-runtimes: venv ## the OCI runtimes on this machine side by side, on one bundle; with PEER=runc,crun today's too
	@$(SUDO) packaging/system-packages bench
	$(newer_peers)
	@$(SUDO) $(BIN)/python -m benchmarks.runtimes $(if $(PEER),--newer $(PEER))

conformance: venv ## our runtime under other engines, the command lines of a course with both clients, and each third-party suite whose sources are given: DOCKER_PY=../docker-py …
	@$(SUDO) packaging/system-packages conformance
	@$(SUDO) conformance/under-others
	@$(SUDO) conformance/lessons
	@$(SUDO) conformance/newcomer
	@$(SUDO) conformance/network-programs
	$(foreach suite,docker-py compat docker-cli python-on-whales testcontainers runtime-tools runc-bats distribution-spec,$(call judge,$(suite)))

venv: $(BIN)/.ready $(BIN)/.busybox ## prepare .venv/bin/{dockyard,dockyardd,dockyard-runc}

$(BIN)/.ready: pyproject.toml packaging/system-packages
	@$(SUDO) packaging/system-packages run
	@echo "Preparing .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m compileall -q dockyard
	@touch $@

$(BIN)/.busybox: $(BIN)/.ready packaging/newer-busybox packaging/from-later-debian
	@packaging/newer-busybox .venv/libexec/dockyard/busybox
	@touch $@

clean: ## remove what make made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
