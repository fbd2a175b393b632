/* What was typed after the subcommand: each argument becomes an assignment of a value, or in compare of a
 * list of values, to one field of Options. */
#include <string.h>

#include "flags_.h"

int assign(Options *options, const Assignment *assignment, int which)
{
    const Flag *flag = assignment->flag;
    return parse_value(flag, (char *)options + flag->offset, assignment->values[which]);
}

/* Cuts a list at its commas, in place. Free text may hold commas of its own. */
static int split_values(Assignment *a, char *value, int lists)
{
    a->values[a->count++] = value;
    if (!lists || a->flag->kind == FLAG_TEXT)
        return 0;
    for (char *comma; (comma = strchr(value, ',')); a->values[a->count++] = value) {
        if (a->count == LIST_MAX)
            return usage("%s takes at most %d values", a->flag->name, LIST_MAX);
        *comma = '\0';
        value = comma + 1;
    }
    return 0;
}

static int add(Assignments *all, const Flag *flag, char *value, int lists)
{
    if (all->count == ASSIGNMENTS_MAX)
        return usage("more than %d options", ASSIGNMENTS_MAX);
    Assignment *a = &all->item[all->count++];
    *a = (Assignment){.flag = flag};
    return split_values(a, value, lists);
}

/* `brim plan gpt2`: what is no option may be the model. */
static int add_model(Assignments *all, const char *command, char *word, int lists)
{
    const Flag *flag = find_flag("--model", strlen("--model"));
    for (int i = 0; i < all->count; i++)
        if (all->item[i].flag == flag)
            return usage("'%s' would be a second model, after %s", word, all->item[i].values[0]);
    int status = add(all, flag, word, lists);
    const Assignment *a = &all->item[all->count - 1];
    for (int i = 0; !status && i < a->count; i++)
        if (!is_model(a->values[i]))
            return no_model(command, a->values[i]);
    return status;
}

int assignments_parse(Assignments *all, const char *command, int argc, char **argv, int lists)
{
    static char on[] = "1";
    const char *model = NULL; /* named without --model */
    all->count = 0;
    for (int i = 0; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        size_t length = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        const Flag *flag = find_flag(argv[i], length);
        int status = 0;
        if (!flag && argv[i][0] != '-' && takes_flag(find_flag("--model", strlen("--model")), command)) {
            if ((status = add_model(all, command, argv[i], lists)))
                return status;
            model = argv[i];
            continue;
        }
        if (!flag)
            return argv[i][0] == '-' ? unknown_option(command, argv[i])
                                     : usage("`brim %s` takes options only, not '%s'", command, argv[i]);
        if (model && !strcmp(flag->name, "--model"))
            return usage("--model would be a second model, after %s", model);
        if (!takes_flag(flag, command) && !flag->only)
            return usage("%s means nothing to `brim %s`; `brim help %s` lists its options", flag->name,
                         command, command);
        if (!takes_flag(flag, command))
            return usage("%s belongs to `brim %s`", flag->name,
                         commands_text(flag, "`, `brim ", "` and `brim ").text);
        char *value = equals ? equals + 1 : NULL;
        if (flag->kind == FLAG_SWITCH && value)
            return usage("%s takes no value", flag->name);
        if (flag->kind != FLAG_SWITCH && !value) {
            if (++i >= argc)
                return usage("%s needs a value: %s", flag->name, flag->value);
            value = argv[i];
        }
        if ((status = add(all, flag, value ? value : on, lists)))
            return status;
    }
    return 0;
}
