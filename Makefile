# `make demo` runs rootsrv with nothing configured, `make test` runs the tests; each does its own set-up.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
BPF_SOURCES := $(wildcard rootsrv/fastpath/bpf/*.c rootsrv/fastpath/bpf/*.h)
# A file's tests stay together in one process: they share that file's servers and compiled zones.
# xdist would order files by their number of tests; tests/conftest.py orders them by their seconds.
# Two for two cores, and one more that is nice and only computes (tests/sharing.py): three alike are done no sooner, and
# what counts lost queries then counts those of a client that did not get its turn.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder --durations=25
# What stands still outside Python, where a test's time limit (300 s) cannot reach it, ends its process and is named.
STUCK := -o faulthandler_timeout=420 -o faulthandler_exit_on_timeout=true

# A process of the tests or a benchmark that finds no compiled modules compiles them all, 0.2 to 0.4 s of processor time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo demo-localroot test test-long test-long-again test-machines test-kernel61 lint check mutate bpf system-packages clean
.PHONY: declarations man wheel deb demo-fleet pictures
.PHONY: bench bench-compare bench-abreast bench-peak bench-responder bench-startup bench-hyperlocal bench-localroot bench-notify bench-transfers bench-fleet bench-load bench-parts bench-cdns
.DELETE_ON_ERROR:

help:
	@echo 'make demo       a generated, signed root zone on 127.0.0.1 and ::1, port 5300; DEMO=--tour: and what happens to it'
	@echo 'make demo-localroot  a LocalRoot service with its pages, an Unbound and a BIND, on loopback'
	@echo 'make demo-fleet  a mesh of five in network namespaces, under load, and what it stands (root)'
	@echo 'make test       everything that is to pass before a change lands (some 20 minutes on two cores)'
	@echo 'make test-long  longer fuzzing, kill loops, and what takes more than some ten seconds'
	@echo 'make test-machines  packages, containers and Ansible on machines made from nothing, more than an hour'
	@echo 'make test-kernel61  the kernel fast path on Debian 12'"'"'s kernel, in QEMU'
	@echo 'make check      lint, then the tests that need no other program, in this order'
	@echo 'make lint       ruff, mypy --strict, import-linter, deptry'
	@echo 'make mutate     which changes of the pure rooms no test notices (ROOM=health, zone or answer)'
	@echo 'make venv       only the virtual environment, in $(VENV)'
	@echo 'make bench      all benchmarks, beside NSD, Knot, BIND and PowerDNS (bench/README.md)'
	@echo 'make bpf        the kernel fast path, where clang and libbpf are installed'
	@echo 'make declarations  what cffi has parsed in advance, after C declarations or shared BPF headers have changed'
	@echo 'make man        manual pages and shell completion in deploy/, after a command has changed'
	@echo 'make pictures   what README shows, drawn and photographed anew (root)'
	@echo 'make wheel      the wheel, with the kernel fast path in it, in dist/'
	@echo 'make deb        the Debian package, in dist/; SUITE=trixie (bookworm) for another release than this one'

# ── the virtual environment: one stamp for running, one more for testing ──
# For `make demo` pip compiles nothing: most of what it brings is never imported, and a newcomer waits.
venv: $(VENV)/.installed

$(VENV)/.created:
	tests/make_venv.sh '$(PYTHON)' $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --no-compile --editable .
	@touch $@

$(VENV)/.installed-for-portal: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[portal]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-for-tests: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	@touch $(VENV)/.installed $(VENV)/.installed-for-portal $@

# DEMO='--tour' adds options; the kernel answers, too, where there is a compiler for it.
demo: venv
	@if command -v clang >/dev/null; then $(MAKE) --no-print-directory bpf-objects || true; fi
	$(BIN)/python -m rootsrv demo $(DEMO)

# Needs Unbound and BIND, and what the pages are made with.
demo-localroot: $(VENV)/.installed-for-portal
	$(BIN)/python -m rootsrv demo --localroot

demo-fleet: system-packages bpf $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.system.demo_fleet $(DEMO)

# ── tests ──
system-packages:
	tests/install_system_packages.sh

lint: $(VENV)/.installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

test: system-packages lint bpf
	$(PYTEST) $(PARALLEL) $(STUCK)

test-long: system-packages bpf $(VENV)/.installed-for-tests
	$(PYTEST) $(PARALLEL) -m long

# What failed of it, one after the other.
test-long-again: system-packages bpf $(VENV)/.installed-for-tests
	$(PYTEST) --last-failed --last-failed-no-failures none -m long

# Machines made from nothing, by debootstrap and pip: packages, containers, Ansible, the guide, the other release.
test-machines: system-packages bpf $(VENV)/.installed-for-tests
	$(PYTEST) $(PARALLEL) -m machine

# Debian 12's kernel in QEMU: no KVM, no disk, some three minutes.
test-kernel61: system-packages bpf $(VENV)/.installed-for-tests
	$(BIN)/python -m tests.kernel61.boot

# What the tests of the pure rooms do not notice: reported, not gating.  ROOM=health (zone, answer, health; hours each but
# health).  The survivors: .venv/bin/mutmut results, mutmut show NAME.
ROOM ?= health
mutate: $(VENV)/.installed-for-tests
	$(BIN)/mutmut run 'rootsrv.$(ROOM)*' && $(BIN)/mutmut results

check: lint
	$(PYTEST) -x tests/zone tests/answer

# ── benchmarks: root, an idle machine with two cores; BENCH=... adds options ──
bench: bench-responder bench-startup bench-hyperlocal bench-localroot bench-parts bench-cdns bench-notify bench-transfers bench-abreast bench-compare bench-peak

bench-compare: $(VENV)/.installed-for-tests system-packages bpf
	$(BIN)/python -m bench compare --further $(BENCH)

bench-abreast: $(VENV)/.installed-for-tests system-packages bpf
	$(BIN)/python -m bench abreast $(BENCH)

bench-peak: $(VENV)/.installed-for-tests system-packages bpf
	$(BIN)/python -m bench peak $(BENCH)

bench-responder: $(VENV)/.installed-for-tests
	$(BIN)/python -m bench responder $(BENCH)

bench-cdns: $(VENV)/.installed-for-tests
	$(BIN)/python -m bench cdns $(BENCH)

bench-startup: $(VENV)/.installed-for-tests
	$(BIN)/python -m bench startup $(BENCH)

bench-hyperlocal: $(VENV)/.installed-for-tests system-packages
	$(BIN)/python -m bench hyperlocal $(BENCH)

bench-localroot: $(VENV)/.installed-for-tests system-packages
	$(BIN)/python -m bench localroot $(BENCH)

bench-notify: $(VENV)/.installed-for-tests system-packages
	$(BIN)/python -m bench notify $(BENCH)

bench-transfers: $(VENV)/.installed-for-tests system-packages
	$(BIN)/python -m bench transfers $(BENCH)

bench-fleet: $(VENV)/.installed-for-tests system-packages
	$(BIN)/python -m bench fleet $(BENCH)

bench-parts: $(VENV)/.installed-for-tests system-packages
	$(BIN)/python -m bench parts $(BENCH)

# make bench-load BENCH='--target 127.0.0.1 --port 5300 --rate 20000 --seconds 10'
bench-load: $(VENV)/.installed-for-tests
	$(BIN)/python -m bench load $(BENCH)

# ── the kernel fast path ──
bpf:
ifneq ($(BPF_SOURCES),)
	@if command -v clang >/dev/null; then $(MAKE) --no-print-directory bpf-objects; \
	elif [ "$$CI" = true ]; then echo 'bpf: clang is not installed' >&2; exit 1; \
	else echo 'bpf: clang is not installed; the fast path is not built'; fi
else
	@:
endif

.PHONY: bpf-objects
bpf-objects: rootsrv/fastpath/bpf/rootsrv.bpf.o

# Debian keeps asm/types.h, which linux/types.h wants, where only the host's own target looks for it.
rootsrv/fastpath/bpf/rootsrv.bpf.o: $(wildcard rootsrv/fastpath/bpf/*.h)
%.bpf.o: %.bpf.c
	clang -O2 -g -Wall -Wextra -Werror -Wno-sign-compare -target bpfel -mcpu=v3 \
	    -DLAYOUT=0x$(shell cat $(dir $@)shared.h $(dir $@)table.h | sha256sum | cut -c 1-16)ULL \
	    -I/usr/include/$(shell uname -m)-linux-gnu -c $< -o $@

# ── what is shipped ──
# After C declarations for cffi have changed, or the headers that the kernel's program shares with Python.
declarations: venv
	$(BIN)/python -m rootsrv.commands.declarations

man: venv
	$(BIN)/python -m rootsrv.commands.manual deploy

# What README shows: the picture, and the pages of demo-fleet (root).
pictures: system-packages bpf $(VENV)/.installed-for-tests
	$(BIN)/python -m bench.pictures
	$(BIN)/python -m tests.system.demo_fleet --once --pictures docs

wheel: venv
	ROOTSRV_BPF=required $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# For this machine's release, or in a debootstrap root for SUITE.
deb:
	sh deploy/debian/build.sh dist $(SUITE)

clean:
	rm -rf $(VENV) build dist mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
