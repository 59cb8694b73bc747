# SPDX-License-Identifier: MIT
TEST_DEPS += $(BUILD)/tests/acpi/dump

$(BUILD)/tests/acpi/dump: $(BUILD)/tests/acpi/dump.o $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
