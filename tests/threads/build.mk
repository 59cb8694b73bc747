# SPDX-License-Identifier: MIT
TEST_DEPS += $(BUILD)/tests/threads/guest.elf

$(BUILD)/tests/threads/guest.elf: tests/threads/guest.S
	@mkdir -p $(@D)
	$(CC) -m32 -nostdlib -static -no-pie -Wl,-N,--no-warn-rwx-segments,-Ttext=0x100000 -Wl,--build-id=none -o $@ $<
