# SPDX-License-Identifier: MIT
DIFF := $(BUILD)/tests/diff/diff
DIFF_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(if $(wildcard src/engine/interp/*.c),,%/guest.c %/guest_machine.c),\
	$(sort $(wildcard tests/diff/*.c)))) $(BUILD)/tests/diff/oracle_asm.o
TEST_DEPS += $(DIFF)

$(DIFF): $(DIFF_OBJS) $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/tests/diff/values.o: ALL_CFLAGS += -Itests/support
$(DIFF_OBJS): | $(NEED)
ifneq ($(wildcard src/engine/interp/*.c),)
$(DIFF_OBJS): ALL_CFLAGS += -DDIFF_INTERP
endif
ifneq ($(wildcard src/x86/cpuid.c),)
endif

# These run in the oracle's child, inside a signal handler and without a TLS.
$(addprefix $(BUILD)/tests/diff/,oracle_child.o arena.o legacy.o): ALL_CFLAGS += -fno-sanitize=all \
	-fno-stack-protector -fno-builtin -mgeneral-regs-only -mfsgsbase
