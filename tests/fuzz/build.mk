# SPDX-License-Identifier: MIT
# Every tests/fuzz/foo_fuzz.c is a libFuzzer target over an instrumented library (`make fuzz`), and
# with replay.c a program of any build that runs it over foo.inputs (`make check`).
FUZZ := $(sort $(wildcard tests/fuzz/*_fuzz.c))
FUZZ_BINS := $(FUZZ:%.c=$(BUILD)/%)
FUZZ_REPLAYS := $(FUZZ:%_fuzz.c=$(BUILD)/%_replay)
TEST_DEPS += $(FUZZ_REPLAYS)

$(FUZZ_BINS): %: %.o $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)
$(FUZZ_REPLAYS): %_replay: %_fuzz.o $(BUILD)/tests/fuzz/replay.o $(BUILD)/libdoppel.a
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)
$(FUZZ:%.c=$(BUILD)/%.o) $(BUILD)/tests/fuzz/replay.o: | $(NEED)

# What a comparison was with helps where a file or an option has magic words; in the loops of the
# processor's model it would be most of the time.
ifneq ($(findstring fuzzer,$(CFLAGS)),)
$(GENERAL:%.c=$(BUILD)/%.o): ALL_CFLAGS += -fno-sanitize-coverage=trace-cmp
endif
