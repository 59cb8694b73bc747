/* SPDX-License-Identifier: MIT */
/* --help and the manual page (man(7) macros), both from the table of options; see options.h. */
#include "cli/options.h"
#include "x86/cpuid.h"

#define COLUMN 26

static const struct {
    int status;
    const char *meaning;
} statuses[] = {
    {MACHINE_POWERED_OFF, "the guest powered off, or the user quit with Ctrl-A x"},
    {MACHINE_BAD_INPUT, "usage or bad input: one line on stderr says what and what to do"},
    {MACHINE_FAILED, "the monitor failed while running, or was ended by a signal"},
    {MACHINE_DIED, "the guest died (triple fault); its registers are on stderr"},
};

static const char *form(const struct cli_option *o, char text[64])
{
    if (o->value == NULL)
        snprintf(text, 64, "--%s", o->name);
    else if (o->kind == CLI_OPTIONAL_FILE)
        snprintf(text, 64, "--%s[=%s]", o->name, o->value);
    else
        snprintf(text, 64, "--%s %s", o->name, o->value);
    return text;
}

/* What an option's value may be, when that is a list with summaries. false = no more. */
static bool listed(const struct cli_option *o, unsigned i, const char **name, const char **summary)
{
    if (o->kind == CLI_ENGINE && engines[i] != NULL) {
        *name = engines[i]->name;
        *summary = engines[i]->summary;
        return true;
    }
    if (o->kind == CLI_CPU && cpuid_model_names[i].name != NULL) {
        *name = cpuid_model_names[i].name;
        *summary = cpuid_model_names[i].summary;
        return true;
    }
    return false;
}

void cli_help(FILE *out, const struct cli_command *commands)
{
    fputs("usage: doppel COMMAND [OPTION]...\n\ncommands:\n", out);
    for (const struct cli_command *c = commands; c->name != NULL; c++)
        fprintf(out, "  %-*s%s\n", COLUMN, c->name, c->summary);
    fputs("\noptions:\n", out);
    fprintf(out, "  %-*s%s\n", COLUMN, "--help", "this text; doppel COMMAND --help tells more");
    fprintf(out, "  %-*s%s\n", COLUMN, "--version", "the version");
    fprintf(out, "  %-*s%s\n", COLUMN, "--man", "the manual page, for man -l -");
    fprintf(out, "  %-*s%s\n", COLUMN, "--completion", "completion for bash, to be sourced");
}

void cli_help_command(FILE *out, const struct cli_command *command)
{
    const char *name, *summary;
    char text[64];

    fprintf(out, "usage: doppel %s %s\n%s\n\noptions:\n", command->name, command->synopsis,
            command->summary);
    for (const struct cli_option *o = command->options; o->name != NULL; o++) {
        fprintf(out, "  %-*s%s", COLUMN, form(o, text), o->help);
        if (o->standard != NULL && o->standard[0] != '\0')
            fprintf(out, " [%s]", o->standard);
        putc('\n', out);
        for (unsigned i = 0; listed(o, i, &name, &summary); i++)
            fprintf(out, "  %-*s  %-8s%s\n", COLUMN, "", name, summary);
    }
    fputs("\nexit status:\n", out);
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
        fprintf(out, "  %-*d%s\n", COLUMN, statuses[i].status, statuses[i].meaning);
    fprintf(out, "  %-*s%s\n", COLUMN, "odd",
            "the guest wrote V to the debug exit port: (V << 1) | 1");
}

/* troff takes '-' for a hyphen, and '.' or '\'' at the start of a line for a request. */
static void troff(FILE *out, const char *text)
{
    for (bool first = true; *text != '\0'; text++, first = false) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (first && (*text == '.' || *text == '\''))
            fprintf(out, "\\&%c", *text);
        else
            putc(*text, out);
    }
}

static void man_option(FILE *out, const struct cli_option *o)
{
    const char *name, *summary;
    char text[64];

    fputs(".TP\n.B ", out);
    troff(out, form(o, text));
    putc('\n', out);
    troff(out, o->help);
    fputs(".\n", out);
    if (o->standard != NULL && o->standard[0] != '\0')
        fprintf(out, "Default: %s.\n", o->standard);
    for (unsigned i = 0; listed(o, i, &name, &summary); i++) {
        fprintf(out, ".br\n.B %s\n", name);
        troff(out, summary);
        putc('\n', out);
    }
    if (o->kind != CLI_CPU)
        return;
    fputs(".br\nVENDOR decides what CPUID says, which MSRs there are, and where the manuals of "
          "Intel and\n"
          "AMD differ; without it the guest's processor is of the host's vendor.\n"
          ".br\nFEATURE is one of",
          out);
    for (unsigned i = 0; i < cpuid_feature_count; i++) {
        putc(i % 8 == 0 ? '\n' : ' ', out);
        troff(out, cpuid_features[i].name);
        fputs(i + 1 < cpuid_feature_count ? "," : ".\n", out);
    }
}

void cli_man(FILE *out, const struct cli_command *commands)
{
    fputs(".TH DOPPEL 1\n.SH NAME\ndoppel \\- virtual machine monitor\n.SH SYNOPSIS\n", out);
    for (const struct cli_command *c = commands; c->name != NULL; c++) {
        fprintf(out, ".B doppel %s\n", c->name);
        troff(out, c->synopsis);
        fputs("\n.br\n", out);
    }
    fputs(".SH DESCRIPTION\n"
          "doppel runs an unmodified operating system on a PC of its own making.\n"
          "It needs no hardware virtualization and no kernel module.\n",
          out);
    for (const struct cli_command *c = commands; c->name != NULL; c++) {
        fprintf(out, ".SH OPTIONS OF %s\n", c->name);
        troff(out, c->summary);
        fputs(".\nEach option is given at most once, as \\-\\-name VALUE or \\-\\-name=VALUE.\n",
              out);
        for (const struct cli_option *o = c->options; o->name != NULL; o++)
            man_option(out, o);
    }
    fputs(".SH EXIT STATUS\n", out);
    for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++) {
        fprintf(out, ".TP\n.B %d\n", statuses[i].status);
        troff(out, statuses[i].meaning);
        fputs(".\n", out);
    }
    fputs(".TP\n.B odd\nthe guest wrote V to the debug exit port: (V << 1) | 1.\n", out);
}
