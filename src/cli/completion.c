/* SPDX-License-Identifier: MIT */
/* Completion for bash, from the table of options; see options.h. Both forms of an option are
 * completed: bash takes `=` for a word of its own. */
#include "cli/options.h"
#include "x86/cpuid.h"

/* What may follow an option, as words for compgen. */
static void values(FILE *out, const struct cli_option *o)
{
    switch (o->kind) {
    case CLI_CHOICE:
        for (unsigned i = 0; o->choices[i] != NULL; i++)
            fprintf(out, "%s%s", i > 0 ? " " : "", o->choices[i]);
        break;
    case CLI_ENGINE:
        fputs("auto", out);
        for (unsigned i = 0; engines[i] != NULL; i++)
            fprintf(out, " %s", engines[i]->name);
        break;
    case CLI_CONSOLE:
        fputs("stdio none file:", out);
        break;
    default:
        break;
    }
}

/* A model; after a comma vendors and features, what stands before it is kept. `vendor` and the name
 * behind its `=` are two words to bash. */
static void cpu(FILE *out, const struct cli_option *o)
{
    fputs("    *,vendor) COMPREPLY=($(compgen -W '", out);
    for (unsigned i = 0; cpuid_vendor_names[i] != NULL; i++)
        fprintf(out, "%s%s", i > 0 ? " " : "", cpuid_vendor_names[i]);
    fprintf(out,
            "' -- \"$word\")); return ;;\n"
            "    --%s) case $word in\n"
            "      *,*) COMPREPLY=($(compgen -P \"${word%%,*},\" -W '",
            o->name);
    for (unsigned i = 0; cpuid_vendor_names[i] != NULL; i++)
        fprintf(out, "vendor=%s ", cpuid_vendor_names[i]);
    for (unsigned i = 0; i < cpuid_feature_count; i++)
        fprintf(out, "%s-%s", i > 0 ? " " : "", cpuid_features[i].name);
    fputs("' -- \"${word##*,}\")) ;;\n      *) COMPREPLY=($(compgen -W '", out);
    for (unsigned i = 0; cpuid_model_names[i].name != NULL; i++)
        fprintf(out, "%s%s", i > 0 ? " " : "", cpuid_model_names[i].name);
    fputs("' -- \"$word\")) ;;\n      esac; return ;;\n", out);
}

static void option(FILE *out, const struct cli_option *o)
{
    if (o->kind == CLI_CPU) {
        cpu(out, o);
        return;
    }
    if (o->kind == CLI_FILE || o->kind == CLI_OPTIONAL_FILE) {
        fprintf(out, "    --%s) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", o->name);
        return;
    }
    fprintf(out, "    --%s) COMPREPLY=($(compgen -W '", o->name);
    values(out, o);
    fputs("' -- \"$word\")); return ;;\n", out);
}

static void command(FILE *out, const struct cli_command *c)
{
    fprintf(out, "  %s)\n    case $before in\n", c->name);
    for (const struct cli_option *o = c->options; o->name != NULL; o++) {
        if (o->kind != CLI_SWITCH)
            option(out, o);
    }
    fputs("    esac\n    COMPREPLY=($(compgen -W '", out);
    for (const struct cli_option *o = c->options; o->name != NULL; o++)
        fprintf(out, "%s--%s", o == c->options ? "" : " ", o->name);
    fputs("' -- \"$word\")) ;;\n", out);
}

void cli_completion(FILE *out, const struct cli_command *commands)
{
    fputs("# bash completion for doppel, made by doppel --completion\n"
          "_doppel() {\n"
          "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
          "  [ \"$word\" = = ] && word=\n"
          "  [ \"$before\" = = ] && before=${COMP_WORDS[COMP_CWORD-2]}\n"
          "  COMPREPLY=()\n"
          "  case ${COMP_WORDS[1]} in\n",
          out);
    for (const struct cli_command *c = commands; c->name != NULL; c++)
        command(out, c);
    fputs("  *) COMPREPLY=($(compgen -W '", out);
    for (const struct cli_command *c = commands; c->name != NULL; c++)
        fprintf(out, "%s ", c->name);
    fputs("--help --version --man --completion' -- \"$word\")) ;;\n"
          "  esac\n"
          "}\n"
          "complete -o filenames -o bashdefault -F _doppel doppel\n",
          out);
}
