# SPDX-License-Identifier: MIT
# The programs that `make bench` runs natively and in guests: one static binary with all kernels,
# for x86-64-v3 and at fixed addresses, and the program that it starts, linked in both ways.
# The figures belong to the code that gcc makes, whatever doppel itself is built with.
BENCH_CC ?= gcc
BENCH_BIN := $(BUILD)/bench/bin
BENCH_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out bench/guest/exec.c,$(sort $(wildcard bench/guest/*.c))))
BENCH_CFLAGS := -std=gnu17 -D_GNU_SOURCE -O2 -ftree-vectorize -march=x86-64-v3 -fno-math-errno -fno-pie $(WARN) -MMD -MP
BENCH_DEPS += $(BENCH_BIN)/bench-guest $(BENCH_BIN)/bench-exec $(BENCH_BIN)/bench-exec-static

$(BUILD)/bench/guest/calls.o: BENCH_CFLAGS += -fno-inline -fno-optimize-sibling-calls
$(BUILD)/bench/guest/matrix.o: BENCH_CFLAGS += -ffp-contract=off
$(BUILD)/bench/guest/%.o: bench/guest/%.c bench/build.mk | $(NEED)
	@mkdir -p $(@D)
	$(BENCH_CC) $(BENCH_CFLAGS) -c -o $@ $<

$(BENCH_BIN)/bench-guest: $(BENCH_OBJS)
	@mkdir -p $(@D)
	$(BENCH_CC) -static -no-pie -o $@ $^

$(BENCH_BIN)/bench-exec-static: $(BUILD)/bench/guest/exec.o
	@mkdir -p $(@D)
	$(BENCH_CC) -static -no-pie -o $@ $<

$(BENCH_BIN)/bench-exec: $(BUILD)/bench/guest/exec.o
	@mkdir -p $(@D)
	$(BENCH_CC) -no-pie -o $@ $<

# What bench/smp compares with.
BENCH_DEPS += $(BENCH_BIN)/compute
$(BENCH_BIN)/compute: bench/compute.c tests/smp/lib/compute.h
	@mkdir -p $(@D)
	$(BENCH_CC) -O2 -D_GNU_SOURCE $(WARN) -Itests/smp/lib -o $@ $< -lpthread
