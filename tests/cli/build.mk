# SPDX-License-Identifier: MIT
# The small guest of tests/cli and tests/unit/machine: a 32-bit ELF file.
TEST_DEPS += $(BUILD)/tests/cli/guest.elf

$(BUILD)/tests/cli/guest.elf: tests/cli/guest.S
	@mkdir -p $(@D)
	$(CC) -m32 -nostdlib -static -no-pie -Wl,-N,--no-warn-rwx-segments,-Ttext=0x100000 -Wl,--build-id=none -o $@ $<
