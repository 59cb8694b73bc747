/* SPDX-License-Identifier: MIT */
/* The table of options: defaults, every form of giving one, every refusal with its sentence. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/options.h"

#define WORDS(...)                                                      \
    (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)), (char *[]) \
    {                                                                   \
        __VA_ARGS__                                                     \
    }

static void defaults(void **state)
{
    struct error e = {0};
    struct cli_run run;

    assert_int_equal(cli_run_parse(WORDS("--kernel", "k", "--engine", "none"), &run, &e), 0);
    assert_string_equal(run.machine.kernel, "k");
    assert_null(run.machine.initrd);
    assert_string_equal(run.machine.append, "");
    assert_int_equal(run.machine.mem, 512u << 20);
    assert_int_equal(run.machine.cpus, 1);
    assert_string_equal(run.machine.cpu, "max");
    assert_string_equal(run.machine.console, "stdio");
    assert_int_equal(run.machine.clock, CLOCK_SOURCE_REAL);
    assert_int_equal(run.machine.on_reset, MACHINE_ON_RESET);
    assert_int_equal(run.machine.on_triple_fault, MACHINE_ON_EXIT);
    assert_false(run.machine.debug_exit);
    assert_false(run.machine.test_device);
    assert_int_equal(run.machine.checks, 0);
    assert_false(run.stats.wanted);
}

/* The sentence must hold both words: the thing and what to do. */
static void refuse(int count, char *words[], const char *thing, const char *advice)
{
    struct error e = {0};
    struct cli_run run;

    assert_int_equal(cli_run_parse(count, words, &run, &e), -EINVAL);
    if (strstr(e.text, thing) == NULL || strstr(e.text, advice) == NULL)
        fail_msg("'%s' lacks '%s' or '%s'", e.text, thing, advice);
    assert_null(strchr(e.text, '\n'));
}

static void every_option(void **state)
{
    struct error e = {0};
    struct cli_run run;

    assert_int_equal(cli_run_parse(WORDS("--kernel=a=b", "--initrd", "i", "--append", "--x y",
                                         "--mem", "3g", "--cpus=1", "--cpu", "base", "--engine",
                                         "none", "--console", "file:out", "--clock", "instructions",
                                         "--on-reset", "exit", "--on-triple-fault=reset",
                                         "--debug-exit", "--test-device", "--stats=s"),
                                   &run, &e),
                     0);
    assert_string_equal(run.machine.kernel, "a=b");
    assert_string_equal(run.machine.initrd, "i");
    assert_string_equal(run.machine.append, "--x y");
    assert_int_equal(run.machine.mem, (uint64_t)3 << 30);
    assert_string_equal(run.machine.cpu, "base");
    assert_ptr_equal(run.machine.engine, &engine_none);
    assert_string_equal(run.machine.console, "file:out");
    assert_int_equal(run.machine.clock, CLOCK_SOURCE_INSTRUCTIONS);
    assert_int_equal(run.machine.on_reset, MACHINE_ON_EXIT);
    assert_int_equal(run.machine.on_triple_fault, MACHINE_ON_RESET);
    assert_true(run.machine.debug_exit);
    assert_true(run.machine.test_device);
    assert_true(run.stats.wanted);
    assert_string_equal(run.stats.file, "s");
}

static void checks_are_of_the_engine(void **state)
{
    struct error e = {0};
    struct cli_run run;

    assert_int_equal(
        cli_run_parse(WORDS("--kernel", "k", "--engine", "bt", "--check", "translations"), &run,
                      &e),
        0);
    assert_int_equal(run.machine.checks, ENGINE_CHECK_TRANSLATIONS);
    refuse(WORDS("--kernel", "k", "--engine", "none", "--check", "translations"),
           "--check translations", "none does not have it");
}

static void stats_alone_takes_no_word(void **state)
{
    struct error e = {0};
    struct cli_run run;

    assert_int_equal(cli_run_parse(WORDS("--engine", "none", "--stats", "--kernel", "k"), &run, &e),
                     0);
    assert_true(run.stats.wanted);
    assert_null(run.stats.file);
    assert_string_equal(run.machine.kernel, "k");
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t bytes;
    } cases[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"1K", 0, 1024},
        {"5m", 0, 5 << 20},
        {"2T", 0, (uint64_t)2 << 40},
        {"1P", 0, (uint64_t)1 << 50},
        {"15E", 0, (uint64_t)15 << 60},
        {"16E", -ERANGE, 0},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"99999999999999999999999", -ERANGE, 0},
        {"18014398509481984K", -ERANGE, 0},
        {"", -EINVAL, 0},
        {"-5", -EINVAL, 0},
        {"+5", -EINVAL, 0},
        {" 5", -EINVAL, 0},
        {"abc", -EINVAL, 0},
        {"K", -EINVAL, 0},
        {"5KB", -EINVAL, 0},
        {"5 K", -EINVAL, 0},
        {"0x10", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t bytes = 0;
        assert_int_equal(cli_parse_size(cases[i].text, &bytes), cases[i].rc);
        assert_true(bytes == cases[i].bytes);
    }
}

static void refusals(void **state)
{
    refuse(WORDS("--kernel", "k", "--bogus"), "'--bogus'", "--help");
    refuse(WORDS("--kernel", "k", "--bogus=3"), "'--bogus'", "--help");
    refuse(WORDS("--kern", "k"), "'--kern'", "--help");
    refuse(WORDS("--kernel", "k", "extra"), "'extra'", "--help");
    refuse(WORDS("-k"), "'-k'", "--help");
    refuse(WORDS("--"), "'--'", "--help");
    refuse(WORDS("--engine", "none"), "no --kernel", "give --kernel FILE");
    refuse(WORDS("--kernel", "a", "--kernel", "b"), "--kernel", "once");
    refuse(WORDS("--kernel", "a", "--mem=1G", "--mem", "1G"), "--mem", "once");
    refuse(WORDS("--kernel"), "--kernel", "give --kernel FILE");
    refuse(WORDS("--kernel", ""), "--kernel", "give a FILE");
    refuse(WORDS("--kernel="), "--kernel", "give a FILE");
    refuse(WORDS("--kernel", "k", "--debug-exit=1"), "--debug-exit", "leave out");
    refuse(WORDS("--kernel", "k", "--stats="), "--stats", "give a FILE");
}

static void refused_values(void **state)
{
    refuse(WORDS("--mem", "0"), "--mem", "from 2M to 1T");
    refuse(WORDS("--mem", "4K"), "--mem", "from 2M to 1T");
    refuse(WORDS("--mem", "-5"), "'-5'", "such as 512M");
    refuse(WORDS("--mem", "abc"), "'abc'", "such as 512M");
    refuse(WORDS("--mem", "1E"), "1E", "from 2M to 1T");
    refuse(WORDS("--mem", "16E"), "16E", "from 2M to 1T");
    refuse(WORDS("--mem", "2097153"), "2097153", "whole pages");
    refuse(WORDS("--mem", ""), "--mem", "such as 512M");
    refuse(WORDS("--cpus", "0"), "--cpus", "from 1 to 16");
    refuse(WORDS("--cpu-weight", "0"), "--cpu-weight", "from 1 to 10000");
    refuse(WORDS("--cpu-weight", "10001"), "--cpu-weight", "from 1 to 10000");
    refuse(WORDS("--cpu-cap", "0"), "--cpu-cap", "from 1 to 1600");
    refuse(WORDS("--cpu-cap", "1601"), "--cpu-cap", "from 1 to 1600");
    refuse(WORDS("--cpus", "17"), "--cpus", "from 1 to 16");
    refuse(WORDS("--cpus", "99999999999999999999"), "--cpus", "from 1 to 16");
    refuse(WORDS("--kernel", "k", "--cpus", "2", "--clock", "instructions"), "--clock instructions",
           "--cpus 1");
    refuse(WORDS("--cpus", "1K"), "'1K'", "number");
    refuse(WORDS("--cpus", "-1"), "'-1'", "number");
    refuse(WORDS("--engine", "steam"), "'steam'", "none");
    refuse(WORDS("--clock", "sun"), "'sun'", "real or instructions");
    refuse(WORDS("--check", "all"), "'all'", "translations");
    refuse(WORDS("--check", "translations,"), "''", "translations");
    refuse(WORDS("--check", "translations,translation"), "'translation'", "translations");
    refuse(WORDS("--on-reset", "x"), "'x'", "exit or reset");
    refuse(WORDS("--on-triple-fault", ""), "--on-triple-fault", "exit or reset");
    refuse(WORDS("--console", "file:"), "'file:'", "file:PATH");
    refuse(WORDS("--console", "tty"), "'tty'", "stdio");
    refuse(WORDS("--cpu", "vax"), "'vax'", "max or base");
    refuse(WORDS("--cpu", "-x2APIC"), "'-x2APIC'", "max or base");
    refuse(WORDS("--cpu", "max,-vme"), "'vme'", "--man");
    refuse(WORDS("--cpu", "base,+avx"), "'+avx'", "-x2APIC");
    refuse(WORDS("--cpu", "base,"), "''", "-x2APIC");
}

static void help_wins_over_what_is_missing(void **state)
{
    struct error e = {0};
    struct cli_run run;

    assert_int_equal(cli_run_parse(WORDS("--help"), &run, &e), 0);
    assert_true(run.help);
}

/* Every option of the table is in the help and in the manual page, and none is there twice. */
static void help_and_man_hold_every_option(void **state)
{
    struct cli_command commands[] = {
        {.name = "run", .synopsis = "s", .summary = "t", .options = cli_run_options}, {0}};
    char *help, *man, word[64];
    size_t help_size, man_size;
    FILE *out = open_memstream(&help, &help_size);
    cli_help_command(out, &commands[0]);
    fclose(out);
    out = open_memstream(&man, &man_size);
    cli_man(out, commands);
    fclose(out);

    for (const struct cli_option *o = cli_run_options; o->name != NULL; o++) {
        snprintf(word, sizeof(word), "\n  --%s", o->name);
        assert_non_null(strstr(help, word));
        size_t n = (size_t)snprintf(word, sizeof(word), ".B \\-\\-");
        for (const char *p = o->name; *p != '\0'; p++)
            n += (size_t)snprintf(word + n, sizeof(word) - n, *p == '-' ? "\\-" : "%c", *p);
        assert_non_null(strstr(man, word));
        for (const struct cli_option *other = cli_run_options; other != o; other++)
            assert_string_not_equal(o->name, other->name);
    }
    assert_ptr_equal(strstr(man, ".TH DOPPEL 1"), man);
    free(help);
    free(man);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(every_option),
        cmocka_unit_test(checks_are_of_the_engine),
        cmocka_unit_test(stats_alone_takes_no_word),
        cmocka_unit_test(sizes),
        cmocka_unit_test(refusals),
        cmocka_unit_test(refused_values),
        cmocka_unit_test(help_wins_over_what_is_missing),
        cmocka_unit_test(help_and_man_hold_every_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
