# SPDX-License-Identifier: MIT
# doppel: one library, one program. `make help` lists the targets.

BUILD ?= build
CC ?= gcc
SAN ?=
OPT ?= -O2
CFLAGS ?= -g $(OPT)

WARN := -Wall -Wextra -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wno-unused-parameter
ALL_CFLAGS := -std=gnu17 -Isrc -D_GNU_SOURCE -fno-strict-aliasing -fno-common $(WARN) \
	$(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined,) $(CFLAGS) -MMD -MP
ALL_LDFLAGS := $(if $(SAN),-fsanitize=$(SAN),) $(LDFLAGS)
LIBS := -lZydis -lpthread

SRCS := $(filter-out src/cli/main.c,$(sort $(wildcard src/*/*.c src/*/*/*.c)))
ASMS := $(sort $(wildcard src/*/*.S src/*/*/*.S))
OBJS := $(SRCS:%.c=$(BUILD)/%.o) $(ASMS:%.S=$(BUILD)/%.o)

all: $(BUILD)/doppel

$(BUILD)/doppel: $(BUILD)/src/cli/main.o $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/libdoppel.a: $(OBJS)
	rm -f $@
	ar rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.S
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

.PHONY: all clean
