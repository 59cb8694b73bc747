/* SPDX-License-Identifier: MIT */
/* Group `programs`: Debian's programs, in the tree that bench/programs makes, on files of ours.
 * They work in /tmp, which is in memory. */
#include "bench.h"

#include <stdio.h>

#define TEXT_SIZE (2 << 20)

static void write_text(void)
{
    char *text = bench_pages(TEXT_SIZE);
    bench_text(text, TEXT_SIZE);
    FILE *f = fopen("/tmp/bench-text", "w");
    if (f == NULL || fwrite(text, 1, TEXT_SIZE, f) != TEXT_SIZE || fclose(f) != 0)
        bench_die("/tmp/bench-text");
}

static uint64_t repeat(const char *const argv[], uint64_t work)
{
    uint64_t sum = 0;
    for (uint64_t n = 0; n < work; n++)
        sum = bench_mix(sum, command_hash(argv));
    return sum;
}

/* Compiles, assembles and links; the checksum is of the object and the program. */
uint64_t gcc_run(uint64_t work)
{
    return command_shell("set -e; cd /tmp; n=0; while [ $n -lt $1 ]; do\n"
                         "gcc -O2 -c /bench/source/lz.c -o lz.o\n"
                         "gcc -O2 /bench/source/exec.c -o exec\n"
                         "n=$((n + 1)); done; $0 cat lz.o exec",
                         work);
}

void gzip_prepare(void)
{
    write_text();
}

uint64_t gzip_run(uint64_t work)
{
    return repeat((const char *const[]){"/usr/bin/gzip", "-nc", "/tmp/bench-text", NULL}, work);
}

void gunzip_prepare(void)
{
    write_text();
    command_shell("/usr/bin/gzip -nc /tmp/bench-text >/tmp/bench-text.gz", 1);
}

uint64_t gunzip_run(uint64_t work)
{
    return repeat((const char *const[]){"/usr/bin/gzip", "-dc", "/tmp/bench-text.gz", NULL}, work);
}

void xz_prepare(void)
{
    write_text();
}

uint64_t xz_run(uint64_t work)
{
    return repeat((const char *const[]){"/usr/bin/xz", "-1", "-T1", "-c", "/tmp/bench-text", NULL},
                  work);
}

uint64_t python_run(uint64_t work)
{
    char count[24];
    snprintf(count, sizeof(count), "%lu", (unsigned long)work);
    return command_hash((const char *const[]){"/usr/bin/python3.11", "-I", "-S", "-B",
                                              "/bench/source/work.py", count, NULL});
}

/* Makes a table of $1 rows, an index, and asks both. */
uint64_t sqlite_run(uint64_t work)
{
    return command_shell(
        "/usr/bin/sqlite3 :memory: \"\n"
        "CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, name TEXT);\n"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)\n"
        "INSERT INTO item SELECT i, i * 7919 % 1009, 'name ' || (i * 31 % 4099) FROM n;\n"
        "CREATE INDEX by_kind ON item(kind, name);\n"
        "SELECT kind, count(*), min(name), max(id) FROM item GROUP BY kind ORDER BY 2, 1 LIMIT "
        "20;\n"
        "SELECT sum(a.id - b.id) FROM item a JOIN item b ON a.kind = b.kind AND a.name = b.name;\n"
        "UPDATE item SET name = upper(name) WHERE kind % 3 = 0;\n"
        "SELECT count(*), sum(length(name)) FROM item WHERE name LIKE 'NAME 1%';\"",
        work);
}
