/* What tests/gpu/run asks of JSON files and run logs, so that it needs neither jq nor Python.
 *
 *   logs value FILE KEY[.KEY…]           a value of a JSON file; an index counts from 0
 *   logs losses A.jsonl B.jsonl LIMIT    the largest relative difference of two runs' losses; fails above
 * LIMIT logs speed RUN.jsonl SKIP            tokens a second, by the median of the steps behind the first
 * SKIP logs steps RUN.jsonl                 how many steps are in it */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

enum { STEPS = 4096 };

typedef struct Run {
    int steps;
    double loss[STEPS], seconds[STEPS], tokens[STEPS];
} Run;

static int value(const char *path, char *keys)
{
    json_error_t error;
    json_t *root = json_load_file(path, 0, &error), *at = root;
    if (!root)
        return fprintf(stderr, "logs: %s: %s\n", path, error.text), 1;
    for (char *rest = keys, *key; at && (key = strsep(&rest, "."));)
        at = json_is_array(at) ? json_array_get(at, (size_t)atoi(key)) : json_object_get(at, key);
    if (json_is_string(at))
        puts(json_string_value(at));
    else if (json_is_integer(at))
        printf("%lld\n", (long long)json_integer_value(at));
    else if (json_is_number(at))
        printf("%.9g\n", json_number_value(at));
    else if (json_is_boolean(at))
        puts(json_is_true(at) ? "true" : "false");
    else
        at = NULL;
    json_decref(root);
    return at ? 0 : 1;
}

/* A loss that is not finite is written as null: NaN here. */
static void add_step(Run *run, const json_t *line)
{
    const json_t *kind = json_object_get(line, "kind"), *loss = json_object_get(line, "loss");
    if (!json_is_string(kind) || strcmp(json_string_value(kind), "step") || run->steps == STEPS)
        return;
    run->loss[run->steps] = json_is_number(loss) ? json_number_value(loss) : (double)NAN;
    run->seconds[run->steps] = json_number_value(json_object_get(line, "seconds"));
    run->tokens[run->steps++] = json_number_value(json_object_get(line, "tokens"));
}

static int read_run(Run *run, const char *path)
{
    FILE *file = fopen(path, "re");
    char *text = NULL;
    size_t size = 0;
    if (!file)
        return fprintf(stderr, "logs: there is no %s\n", path), 1;
    while (getline(&text, &size, file) > 0) {
        json_t *line = json_loads(text, 0, NULL); /* the last line of a run that died may be half */
        if (line)
            add_step(run, line);
        json_decref(line);
    }
    free(text);
    fclose(file);
    return 0;
}

static int losses(const char *path, const char *other_path, double limit)
{
    static Run a, b;
    double most = 0;
    if (read_run(&a, path) || read_run(&b, other_path))
        return 1;
    for (int i = 0; i < a.steps && i < b.steps; i++) {
        double error = fabs(a.loss[i] - b.loss[i]) / fabs(a.loss[i]);
        most = error <= most ? most : error; /* NaN stays */
    }
    int bad = !a.steps || a.steps != b.steps || !(most <= limit);
    printf("%d and %d steps, %.9g and %.9g at last, differ by at most %.1e (limit %.0e)\n", a.steps, b.steps,
           a.steps ? a.loss[a.steps - 1] : 0.0, b.steps ? b.loss[b.steps - 1] : 0.0, most, limit);
    return bad;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int speed(const char *path, int skip)
{
    static Run run;
    if (skip < 0 || read_run(&run, path) || run.steps <= skip)
        return fprintf(stderr, "logs: %s has %d steps\n", path, run.steps), 1;
    int n = run.steps - skip;
    qsort(run.seconds + skip, (size_t)n, sizeof *run.seconds, ascending);
    double median = (run.seconds[skip + (n - 1) / 2] + run.seconds[skip + n / 2]) / 2;
    printf("%.0f\n", run.tokens[skip] / median);
    return 0;
}

static int steps(const char *path)
{
    static Run run;
    int bad = read_run(&run, path);
    printf("%d\n", run.steps);
    return bad;
}

int main(int count, char **words)
{
    if (count == 4 && !strcmp(words[1], "value"))
        return value(words[2], words[3]);
    if (count == 5 && !strcmp(words[1], "losses"))
        return losses(words[2], words[3], atof(words[4]));
    if (count == 4 && !strcmp(words[1], "speed"))
        return speed(words[2], atoi(words[3]));
    if (count == 3 && !strcmp(words[1], "steps"))
        return steps(words[2]);
    return fprintf(stderr, "usage: logs value|losses|speed|steps …, as its source says\n"), 2;
}
