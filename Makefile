# What a person can do here. Each target does its own set-up (scripts/setup) and
# may be repeated; the second time it is quick.

.DEFAULT_GOAL := help
.PHONY: help run serve test lint bench bench-memory bench-image fuzz docs image boot test-image image-verify release installer flash clean

RECIPIENTS ?= 10000
SEED ?= 1

help:
	@echo "make run            send a campaign through a simulated internet and account for every message"
	@echo "make serve          the same, and keep it up to talk to; stop with Ctrl-C"
	@echo "make test           every test, with the mail software that they are held against; as root also the image's in containers"
	@echo "make lint           formatting, clippy, licences and advisories, rules of the house"
	@echo "make bench          deliveries a second and CPU a message, beside Postfix on this machine; as root also bench-image"
	@echo "make bench-memory   memory of a queue of five million deferred messages"
	@echo "make bench-image    size, memory and boot time of the image, beside a plain Debian 13 (as root)"
	@echo "make fuzz           each fuzz target for FUZZ_SECONDS (60) seconds; needs a nightly compiler"
	@echo "make docs           the documentation of the code, in target/doc"
	@echo "make image          the bootable image, signed, in target/image (as root)"
	@echo "make boot           boot it in a virtual machine and send a campaign through it"
	@echo "make release        the image as a signed release: for the flasher, and for boxes that run"
	@echo "make flash          put the image onto a disk of this machine: make flash DISK=/dev/sdX BOX_SEED=box.seed"
	@echo "make installer      a stick or CD that installs the image"
	@echo "make test-image     the image's own tests: containers, virtual machines, a second build that must be the same (hours)"
	@echo "make image-verify   build programs and image a second time and compare: the same but for signatures"
	@echo "make clean          remove what was built (the tools in .tools stay)"
	@echo
	@echo "RECIPIENTS=$(RECIPIENTS) SEED=$(SEED) may be set for run and serve."

run:
	@scripts/run --recipients $(RECIPIENTS) --seed $(SEED)

serve:
	@scripts/run --recipients $(RECIPIENTS) --seed $(SEED) --serve

test:
	@if [ "$$(id -u)" -ne 0 ]; then echo "skipped: the image in containers, which needs root (make test-image has all)"; \
	elif [ -z "$$IMAGE_TESTED" ]; then PROFILE=debug scripts/image test bill container console tokens verify; fi
	@scripts/test

lint:
	@scripts/lint

bench:
	@scripts/bench
	@if [ "$$(id -u)" -eq 0 ]; then scripts/image bench; else echo "skipped: the image's sizes and times, which need root (make bench-image)"; fi

bench-memory:
	@scripts/bench --memory

bench-image:
	@scripts/image bench

fuzz:
	@scripts/fuzz

docs:
	@scripts/docs

image:
	@scripts/image build

boot:
	@scripts/image boot

release:
	@scripts/image release

installer:
	@scripts/image installer $(if $(BOX_SEED),--seed $(BOX_SEED))

flash:
	@scripts/flash

test-image:
	@scripts/image test
	@scripts/image verify --programs

image-verify:
	@scripts/image verify --programs

clean:
	rm -rf target fuzz/target
