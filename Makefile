# nettrace: see 'make help'.

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?= python3
KERNEL ?= 6.12
KERNELS ?=
VENV = .venv
LIBDIR = $(DESTDIR)$(PREFIX)/lib/nettrace
# Below PREFIX, where man and the shells look.
MAN_DIR = share/man/man
BASH_DIR = share/bash-completion/completions
ZSH_DIR ?= share/zsh/site-functions
FISH_DIR = share/fish/vendor_completions.d

# What the targets need of the host beside make and git; the kernels under test bring their own.
HOST_PACKAGES = python3 python3-venv libbpf1 libpcap0.8 qemu-system-x86 mmdebstrap e2fsprogs debian-archive-keyring \
	chromium tcpdump tshark
HOST_COMMANDS = qemu-system-x86_64 mmdebstrap mke2fs chromium tcpdump tshark

.DEFAULT_GOAL := help
PYTEST ?=
FUZZ ?= 600
BENCH ?=
EVENTS ?= 1000000
.PHONY: help setup demo test lint check test-unit fuzz test-vm bench bench-native vm images made man install uninstall deb rpm clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo "  variables: KERNEL=$(KERNEL) for vm and demo, CMD='...' for vm, KERNELS='6.1 6.12' for test-vm and images,"
	@echo "  PYTEST='-k ping' for test-unit and test-vm, PREFIX=$(PREFIX) and DESTDIR for install"

setup: ## install what demo and test need (as root: apt packages; the rest goes to .venv)
	@missing=; for command in $(HOST_COMMANDS); do \
		PATH=$$PATH:/usr/sbin:/sbin command -v $$command > /dev/null || missing=yes; done; \
	for library in libbpf.so.1 libpcap.so.0.8; do \
		test -e /usr/lib/$$(uname -m)-linux-gnu/$$library || missing=yes; done; \
	test -e /usr/share/keyrings/debian-archive-keyring.gpg || missing=yes; \
	$(PYTHON) -c 'import ensurepip' 2> /dev/null || missing=yes; \
	if [ -n "$$missing" ]; then \
		[ "$$(id -u)" = 0 ] || { echo "setup: run 'make setup' as root once: it installs $(HOST_PACKAGES)" >&2; exit 1; }; \
		echo "setup: installing $(HOST_PACKAGES)"; \
		apt-get -q update > /dev/null; \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $(HOST_PACKAGES) > /dev/null; fi

$(VENV)/ready: tests/requirements.txt | setup
	@echo "setup: the tools of tests/requirements.txt go to $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install -q -r tests/requirements.txt
	@touch $@

demo: setup ## trace a ping through a NAT router, inside a VM
	@$(PYTHON) -m tests.vm run $(KERNEL) 'bash tests/vm/demo.sh' --timeout 300

test: setup lint test-unit test-vm ## everything: lint, types, unit tests, end-to-end tests on all kernels

SHELL_SCRIPTS = .ci/run tests/vm/demo.sh package/deb.sh package/debian/postinst package/debian/prerm \
	package/debian/postrm $(MADE)/nettrace

lint: $(VENV)/ready ## Python (ruff, mypy), C in the kernel's style, YAML, shell
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m tests.c_style
	$(VENV)/bin/yamllint -s tracer.yaml rules examples contrib tests .pre-commit-config.yaml
	@$(VENV)/bin/python -m package.completion $(MADE)
	$(VENV)/bin/shellcheck $(SHELL_SCRIPTS)

check: lint

test-unit: $(VENV)/ready ## unit tests: no root, no bcc, no kernel
	$(VENV)/bin/python -m pytest $(PYTEST)

fuzz: $(VENV)/ready ## bad input of all kinds, for FUZZ=600 seconds: only our own errors may come out
	FUZZ=$(FUZZ) $(VENV)/bin/python -m pytest -q tests/test_fuzz.py

test-vm: setup $(VENV)/ready ## end-to-end tests inside the kernels (all, or KERNELS="6.1 6.12")
	@PYTHON=$(VENV)/bin/python package/deb.sh
	$(PYTHON) -m tests.vm test $(KERNELS) --pytest="$(PYTEST)"

$(VENV)/bench-ready: bench/requirements.txt $(VENV)/ready
	@$(VENV)/bin/pip install -q -r bench/requirements.txt
	@touch $@

bench: $(VENV)/bench-ready ## what nettrace and its peers cost, inside VMs (or BENCH=startup,cost,matching,modes,growth)
	$(VENV)/bin/python -m bench $(BENCH)

bench-native: $(VENV)/bench-ready ## how fast recordings are replayed: events/s, and where the time goes (EVENTS=1000000)
	EVENTS=$(EVENTS) $(VENV)/bin/python -m pytest -q -s bench/native.py

vm: setup ## a shell inside a kernel with the checkout at /src, or CMD='...' inside it
	@$(PYTHON) -m tests.vm run $(KERNEL) $(if $(CMD),'$(subst ','\'',$(CMD))')

images: setup ## build the VM images that the cache lacks
	@$(PYTHON) -m tests.vm build $(KERNELS)

# Made for an installation: with the names of all traces and reasons, and the same text as the help.
MADE = build/made
made:
	@$(PYTHON) -c 'import yaml' 2> /dev/null || { \
		echo "$(PYTHON) has no PyYAML: install it with 'apt install python3-yaml' or 'dnf install python3-pyyaml'" >&2; exit 1; }
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m package.completion $(MADE)
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m package.manual $(MADE)

man: $(VENV)/ready ## put the help's words for options, and its examples, into docs/nettrace.8
	$(VENV)/bin/python -m package.manual

install: made ## install on this host, to PREFIX (needs the distribution's bcc, PyYAML, pyroute2, tabulate)
	install -d $(LIBDIR)/nettrace $(addprefix $(DESTDIR)$(PREFIX)/,bin $(MAN_DIR)7 $(MAN_DIR)8 $(BASH_DIR) $(ZSH_DIR) $(FISH_DIR))
	install -m 644 tracer.yaml nettrace.schema.json report.html $(LIBDIR)
	install -m 644 nettrace/*.py nettrace/py.typed $(LIBDIR)/nettrace
	cp -R bpf rules $(LIBDIR)
	sed 's|@LIBDIR@|$(PREFIX)/lib/nettrace|' bin/nettrace.in > $(DESTDIR)$(PREFIX)/bin/nettrace
	chmod 755 $(DESTDIR)$(PREFIX)/bin/nettrace
	install -m 644 docs/nettrace.8 $(DESTDIR)$(PREFIX)/$(MAN_DIR)8
	install -m 644 $(MADE)/nettrace-traces.7 $(DESTDIR)$(PREFIX)/$(MAN_DIR)7
	install -m 644 $(MADE)/nettrace $(DESTDIR)$(PREFIX)/$(BASH_DIR)
	install -m 644 $(MADE)/_nettrace $(DESTDIR)$(PREFIX)/$(ZSH_DIR)
	install -m 644 $(MADE)/nettrace.fish $(DESTDIR)$(PREFIX)/$(FISH_DIR)

uninstall: ## take it away again
	rm -rf $(LIBDIR)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/nettrace $(MAN_DIR)8/nettrace.8 $(MAN_DIR)7/nettrace-traces.7 \
		$(BASH_DIR)/nettrace $(ZSH_DIR)/_nettrace $(FISH_DIR)/nettrace.fish)

deb: ## a Debian package of it, build/nettrace_VERSION_all.deb
	@PYTHON=$(PYTHON) package/deb.sh

rpm: ## an RPM of it, in build/rpm (where rpmbuild is)
	rpmbuild -bb --quiet --build-in-place --define "_topdir $(CURDIR)/build/rpm" package/nettrace.spec

clean: ## remove what the targets made here (the VM images stay in the cache)
	rm -rf build dist *.egg-info $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find nettrace tests -name __pycache__ -prune -exec rm -rf {} +
