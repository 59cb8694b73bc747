# SPDX-License-Identifier: MIT
# The guests of tests/smp: tests/smp/NAME.c with tests/isa/lib and tests/smp/lib, as multiboot ELF32.
SMP_NAMES := $(patsubst tests/smp/%.c,%,$(sort $(wildcard tests/smp/*.c)))
SMP_GUESTS := $(SMP_NAMES:%=$(BUILD)/tests/smp/%.elf)
SMP_LIB := $(ISA_LIB) $(BUILD)/tests/smp/lib/ap.o $(BUILD)/tests/smp/lib/smp.o
SMP_CFLAGS = $(ISA_CFLAGS) -mgeneral-regs-only -mcx16 -Itests/smp/lib
TEST_DEPS += $(SMP_GUESTS) guest
BENCH_DEPS += $(SMP_GUESTS)

$(BUILD)/tests/smp/%.o: tests/smp/%.c
	@mkdir -p $(@D)
	$(CC) $(SMP_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/smp/%.o: tests/smp/%.S
	@mkdir -p $(@D)
	$(CC) -m64 -c -o $@ $<

$(BUILD)/tests/smp/%.elf: $(BUILD)/tests/smp/%.o $(SMP_LIB) tests/isa/lib/guest.ld
	ld -m elf_x86_64 -static --build-id=none --no-warn-rwx-segments -z max-page-size=4096 \
		-T tests/isa/lib/guest.ld -o $@.64 $< $(SMP_LIB)
	objcopy -O elf32-i386 $@.64 $@
.SECONDARY: $(SMP_NAMES:%=$(BUILD)/tests/smp/%.o) $(SMP_LIB)
