# SPDX-License-Identifier: MIT
# Random blocks, on the guest, the oracle and the forms of tests/diff.
BLOCKS_BIN := $(BUILD)/tests/blocks/blocks
BLOCKS_OBJS := $(BUILD)/tests/blocks/main.o $(BUILD)/tests/blocks/block.o \
	$(patsubst %.c,$(BUILD)/%.o,$(filter-out %/main.c %/generate.c %/operands.c %/special.c,\
	$(sort $(wildcard tests/diff/*.c)))) $(BUILD)/tests/diff/oracle_asm.o
TEST_DEPS += $(BLOCKS_BIN)

$(BLOCKS_BIN): $(BLOCKS_OBJS) $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/tests/blocks/main.o $(BUILD)/tests/blocks/block.o: ALL_CFLAGS += -Itests/diff
$(BUILD)/tests/blocks/main.o $(BUILD)/tests/blocks/block.o: | $(NEED)
