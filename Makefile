# SPDX-License-Identifier: MIT
# doppel: one library, one program. `make help` lists the targets.

ifeq ($(origin CC),default)
CC := gcc
endif
SAN ?=
OPT ?= -O2
CFLAGS ?= -g $(OPT)

# Each compiler and sanitizer has a directory of its own: build, build-clang, build-address-undefined.
comma := ,
BUILD ?= build$(if $(findstring clang,$(notdir $(CC))),-clang)$(if $(SAN),-$(subst $(comma),-,$(SAN)))

WARN := -Wall -Wextra -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wno-unused-parameter
ALL_CFLAGS := -std=gnu17 -Isrc -D_GNU_SOURCE -fno-strict-aliasing -fno-common $(WARN) \
	$(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined -DDEBUG,) $(CFLAGS) -MMD -MP
ALL_LDFLAGS := $(if $(SAN),-fsanitize=$(SAN),) $(LDFLAGS)
LIBS := -Wl,--as-needed -lZydis -ljansson -lpthread

SRCS := $(filter-out src/cli/main.c,$(sort $(wildcard src/*/*.c src/*/*/*.c)))
ASMS := $(sort $(wildcard src/*/*.S src/*/*/*.S))
OBJS := $(SRCS:%.c=$(BUILD)/%.o) $(ASMS:%.S=$(BUILD)/%.o)

# Every tests/**/foo_test.c is a cmocka program, linked with the library and tests/support/*.c.
TESTS := $(sort $(wildcard $(foreach d,* */* */*/* */*/*/*,tests/$(d)/*_test.c)))
TEST_BINS := $(TESTS:%.c=$(BUILD)/%)
SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard tests/support/*.c)))

all: $(BUILD)/doppel ## build the program (BUILD, CC, SAN, OPT, CFLAGS)

$(BUILD)/doppel: $(BUILD)/src/cli/main.o $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# The version is compiled into one file, again whenever it is another.
VERSION := $(shell tools/version)
$(BUILD)/version: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION)' | cmp -s - $@ || echo '$(VERSION)' >$@
$(BUILD)/src/cli/main.o: $(BUILD)/version
$(BUILD)/src/cli/main.o: ALL_CFLAGS += -DDOPPEL_VERSION='"$(VERSION)"'

$(BUILD)/libdoppel.a: $(OBJS)
	rm -f $@
	ar rcs $@ $^

# What runs while the guest's vector state is in the host's registers (docs/translator.md).
GENERAL := $(filter src/x86/%.c src/mem/%.c src/clock/%.c src/engine/bt/%.c src/engine/interp/%.c src/engine/gate.c \
	src/engine/lockstep/record.c,$(SRCS))
$(GENERAL:%.c=$(BUILD)/%.o): ALL_CFLAGS += -mgeneral-regs-only $(if $(findstring clang,$(CC)),,\
	-minline-all-stringops -mmemset-strategy=rep_8byte:-1:noalign -mmemcpy-strategy=rep_8byte:-1:noalign)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.S
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(TEST_BINS): %: %.o $(SUPPORT) $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBS)
$(TESTS:%.c=$(BUILD)/%.o) $(SUPPORT): ALL_CFLAGS += -Itests/support

# Packages are looked for by one file each, so that a machine that has them pays nothing.
NEED := /usr/include/stdio.h /usr/include/Zydis/Zydis.h /usr/include/jansson.h
NEED_CHECK := /usr/include/cmocka.h $(addprefix /usr/bin/,clang clang-format iasl groff)
$(NEED) &:
	tools/setup build
$(NEED_CHECK) &: | $(NEED)
	tools/setup check
$(OBJS) $(BUILD)/src/cli/main.o $(SUPPORT): | $(NEED)
$(TESTS:%.c=$(BUILD)/%.o): | $(NEED) $(NEED_CHECK)

# The default guest: one for all build directories.
GUEST ?= build/guest
KERNEL ?= $(GUEST)/vmlinuz
INITRD ?= $(GUEST)/initrd.gz
APPEND ?= console=ttyS0
ARGS ?=

guest: ## make the default guest (kernel and initramfs) in build/guest
	@tools/guest $(GUEST)

run: all guest ## boot the default guest (KERNEL, INITRD, APPEND, ARGS)
	@exec $(BUILD)/doppel run --kernel $(KERNEL) --initrd $(INITRD) --append "$(APPEND)" $(ARGS)

# An area with programs or needs of its own says so in tests/AREA/build.mk: it adds to TEST_DEPS,
# SOAK_DEPS or BENCH_DEPS (`guest` there means that the default guest is needed).
TEST_DEPS := $(TEST_BINS)
SOAK_DEPS :=
BENCH_DEPS :=
-include $(sort $(wildcard tests/*/build.mk bench/build.mk))
MAIN := $(if $(wildcard src/cli/main.c),$(BUILD)/doppel)
DRIVER = BUILD=$(BUILD) GUEST=$(GUEST) CC=$(CC) SAN=$(SAN) MAKE=$(MAKE) tests/check

check: $(MAIN) $(TEST_DEPS) | $(NEED_CHECK) ## build and run every test (AREAS="unit isa" for some)
	@$(DRIVER) run

soak: $(MAIN) $(TEST_DEPS) $(SOAK_DEPS) ## run the long tests
	@$(DRIVER) soak

# The rooms where threads meet. GCC's ThreadSanitizer does not see fences alone (-Wtsan).
TSAN_TESTS := $(filter tests/dev/% tests/unit/irq/% tests/unit/clock/% tests/unit/machine/% \
	tests/unit/backend/% tests/unit/x86/kvmclock% tests/unit/x86/steal%,$(TESTS))

check-threads: ## ThreadSanitizer over what threads share
	@$(MAKE) --no-print-directory SAN=thread BUILD=build-thread \
		$(if $(findstring gcc,$(CC)),CFLAGS="$(CFLAGS) -Wno-tsan") check-threads-run

check-threads-run: $(MAIN) $(TSAN_TESTS:%.c=$(BUILD)/%) $(BUILD)/tests/cli/guest.elf \
		$(BUILD)/tests/threads/guest.elf | $(NEED_CHECK)
	@BUILD=$(BUILD) TSAN_DEPS="$(TSAN_TESTS:%.c=$(BUILD)/%)" tests/threads/tsan

mutate: $(MAIN) $(TEST_DEPS) ## seed faults; every one must be caught by a test
	@BUILD=$(BUILD) CC=$(CC) MAKE=$(MAKE) tools/mutate

# GROUPS="integer calls/fib" for a part, ROUNDS=1 for a look, BENCH_ARGS for more (bench/run --help).
bench: all guest $(BENCH_DEPS) ## measure, side by side with QEMU (GROUPS, ROUNDS, ENGINE, BENCH_ARGS)
	@tools/setup bench
	@bench/run --build $(BUILD) --guest $(GUEST) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(ENGINE),--engine $(ENGINE)) $(BENCH_ARGS) $(GROUPS)
	@$(if $(GROUPS),,BUILD=$(BUILD) $(if $(ENGINE),ENGINES=$(ENGINE)) bench/smp)

T ?= 60
N ?= 1000000

fuzz: ## run every fuzz target for T seconds (60) and N executions (1000000) at least
	@tools/setup fuzz
	@$(MAKE) --no-print-directory CC=clang SAN=address,undefined BUILD=build-fuzz \
		CFLAGS="-g -O1 -fsanitize=fuzzer-no-link" fuzz-run

fuzz-run: $(FUZZ_BINS) $(FUZZ_REPLAYS)
	@T=$(T) N=$(N) tests/fuzz/drive $(FUZZ_BINS)

PREFIX ?= /usr/local
install: all ## install the program, its manual and bash completion (DESTDIR, PREFIX)
	$(BUILD)/doppel --man >$(BUILD)/doppel.1
	$(BUILD)/doppel --completion >$(BUILD)/doppel.bash
	install -D -m 755 $(BUILD)/doppel $(DESTDIR)$(PREFIX)/bin/doppel
	install -D -m 644 $(BUILD)/doppel.1 $(DESTDIR)$(PREFIX)/share/man/man1/doppel.1
	install -D -m 644 $(BUILD)/doppel.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/doppel

deb: all ## make a Debian package in the build directory
	rm -rf $(BUILD)/deb $(BUILD)/doppel_*.deb
	@$(MAKE) --no-print-directory BUILD=$(BUILD) DESTDIR=$(BUILD)/deb PREFIX=/usr install
	tools/deb $(BUILD) $(VERSION)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

clean: ## remove this build directory
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name bench-programs -prune -o -name '*.d' -print 2>/dev/null)

.PHONY: all guest run check check-threads check-threads-run soak mutate bench fuzz fuzz-run install deb help clean FORCE
.DELETE_ON_ERROR:
