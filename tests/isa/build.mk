# SPDX-License-Identifier: MIT
# The guests of tests/isa: tests/isa/NAME.c with lib/, as multiboot ELF32 files.
ISA_NAMES := $(patsubst tests/isa/%.c,%,$(sort $(wildcard tests/isa/*.c)))
ISA_GUESTS := $(ISA_NAMES:%=$(BUILD)/tests/isa/%.elf)
ISA_CFLAGS := -std=gnu17 -g0 -O2 -m64 -ffreestanding -fno-pic -mno-red-zone -mgeneral-regs-only \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-fno-strict-aliasing $(WARN) -Itests/isa/lib
ISA_LIB := $(BUILD)/tests/isa/lib/boot.o $(BUILD)/tests/isa/lib/isa.o
TEST_DEPS += $(ISA_GUESTS)

$(BUILD)/tests/isa/%.o: tests/isa/%.c
	@mkdir -p $(@D)
	$(CC) $(ISA_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/isa/%.o: tests/isa/%.S
	@mkdir -p $(@D)
	$(CC) -m64 -c -o $@ $<

$(BUILD)/tests/isa/%.elf: $(BUILD)/tests/isa/%.o $(ISA_LIB) tests/isa/lib/guest.ld
	ld -m elf_x86_64 -static --build-id=none --no-warn-rwx-segments -z max-page-size=4096 \
		-T tests/isa/lib/guest.ld -o $@.64 $< $(ISA_LIB)
	objcopy -O elf32-i386 $@.64 $@

# The guests of the legacy modes: tests/isa/legacy/NAME.c with its lib/, 32-bit.
LEGACY_NAMES := $(patsubst tests/isa/legacy/%.c,%,$(sort $(wildcard tests/isa/legacy/*.c)))
LEGACY_GUESTS := $(LEGACY_NAMES:%=$(BUILD)/tests/isa/legacy/%.elf)
LEGACY_CFLAGS := -std=gnu17 -g0 -O2 -m32 -march=i686 -ffreestanding -fno-pic -mgeneral-regs-only \
	-fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none \
	-fno-strict-aliasing -Wno-array-bounds $(WARN) -Itests/isa/legacy/lib
LEGACY_LIB := $(BUILD)/tests/isa/legacy/lib/legacy.asm.o $(BUILD)/tests/isa/legacy/lib/legacy.o
TEST_DEPS += $(LEGACY_GUESTS)

$(BUILD)/tests/isa/legacy/%.o: tests/isa/legacy/%.c
	@mkdir -p $(@D)
	$(CC) $(LEGACY_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tests/isa/legacy/%.asm.o: tests/isa/legacy/%.S
	@mkdir -p $(@D)
	$(CC) -m32 -c -o $@ $<

$(LEGACY_GUESTS): $(BUILD)/%.elf: $(BUILD)/%.o $(LEGACY_LIB) tests/isa/lib/guest.ld
	ld -m elf_i386 -static --build-id=none --no-warn-rwx-segments -z max-page-size=4096 \
		-T tests/isa/lib/guest.ld -o $@ $< $(LEGACY_LIB)
.SECONDARY: $(LEGACY_NAMES:%=$(BUILD)/tests/isa/legacy/%.o) $(LEGACY_LIB)
.SECONDARY: $(ISA_NAMES:%=$(BUILD)/tests/isa/%.o) $(ISA_LIB)
