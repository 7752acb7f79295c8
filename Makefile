# "make help" lists the targets.  Each sets up what it needs; the second time that is quick.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
# More arguments for pytest: make test PYTEST_ARGS="-k restore -x"
PYTEST_ARGS ?=
# Tests that run at once: many wait for something, so two a processor, but each may hold hundreds of megabytes.
TEST_PROCESSES ?= $(shell processors=$$(nproc 2>/dev/null || echo 2); echo $$((processors < 4 ? 2 * processors : 8)))
# Size of the benchmark's image in GiB of files, and how often each contestant runs.
BENCH_GIB ?= 4
BENCH_RUNS ?= 3

# Which recorded machine the interface is shown on.
MACHINE ?= laptop

# How long the failure drills run, in minutes, and the seed they begin with (empty: a new one).
SOAK_MINUTES ?= 120
SOAK_SEED ?=

# Set to 1: the image holds firmware that Wi-Fi and disk controllers need and that is not free software.
FIRMWARE ?=

.PHONY: help setup demo demo-tui test soak check bench bench-chunk-size image image-repro usb test-vm test-vm-all lock clean

help:
	@echo "make setup    system packages, .venv with the locked Python packages (as root, or through sudo)"
	@echo "make demo     capture a disk, destroy it, restore it, prove the result (needs root)"
	@echo "make demo-tui the interface on a recorded machine: nothing of this one is touched (MACHINE=laptop|server|dying-disk)"
	@echo "make test     every test that needs no virtual machine (disk tests need root)"
	@echo "make soak     the failure drills with new seeds, for SOAK_MINUTES=$(SOAK_MINUTES) (needs root)"
	@echo "make check    lint, format, types, import contracts"
	@echo "make bench    measure against other programs; BENCH_GIB=1 BENCH_RUNS=1 for a quick look (needs root)"
	@echo "make bench-chunk-size   what the size of a chunk costs, on a system that is upgraded (needs root)"
	@echo "make image    the bootable image, build/recovery-amd64.iso; FIRMWARE=1 with firmware that is not free (needs root)"
	@echo "make usb DISK=/dev/sdX   write the image to a stick, after asking, and read it back (needs root)"
	@echo "make test-vm  a machine is captured with the bootable image, restored and started, in QEMU (needs root)"
	@echo "make test-vm-all   all such tests, about two hours; goes on where it was stopped (needs root)"
	@echo "make image-repro   make it twice, in different surroundings, and compare (needs root)"
	@echo "make lock     write the lock files anew; UPGRADE=1 takes the newest versions"
	@echo "make clean    remove what was built, and .venv; downloads in .cache stay"

setup:
	@PYTHON="$(PYTHON)" .ci/setup

demo: setup
	@.venv/bin/python -m tests.demo

demo-tui: setup
	@.venv/bin/recovery tui --machine $(MACHINE)

test: setup
	@.venv/bin/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

soak: setup
	@.venv/bin/python -m tests.soak --minutes $(SOAK_MINUTES) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

check: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup
	@.venv/bin/python -m tests.bench --gib $(BENCH_GIB) --runs $(BENCH_RUNS)

bench-chunk-size: setup
	@.venv/bin/python -m tests.bench.chunk_size --runs $(BENCH_RUNS)

image:
	@PYTHON="$(PYTHON)" .ci/setup image
	@PYTHON="$$PWD/.venv/bin/python" FIRMWARE="$(FIRMWARE)" image-build/build

image-repro:
	@PYTHON="$(PYTHON)" .ci/setup image
	@PYTHON="$$PWD/.venv/bin/python" FIRMWARE="$(FIRMWARE)" image-build/repro

usb: setup
	@.venv/bin/python image-build/usb.py $(DISK) $(if $(ANY_DISK),--any-disk) $(if $(YES),--yes)

test-vm:
	@PYTHON="$(PYTHON)" .ci/setup image vm
	@PYTHON="$$PWD/.venv/bin/python" FIRMWARE="$(FIRMWARE)" image-build/build --if-changed
	@.venv/bin/python -m pytest tests/vm -m core $(PYTEST_ARGS)

test-vm-all:
	@PYTHON="$(PYTHON)" .ci/setup image vm
	@PYTHON="$$PWD/.venv/bin/python" FIRMWARE="$(FIRMWARE)" image-build/build --if-changed
	@.venv/bin/python -m pytest tests/vm --numprocesses=2 --dist=loadgroup $(PYTEST_ARGS)

lock:
	@.ci/lock

clean:
	rm -rf .venv build recovery.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find recovery tests -name __pycache__ -type d -prune -exec rm -rf {} +
