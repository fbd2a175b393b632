/* brim train, plan, demo and models. */
#include <inttypes.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "cli.h"

static const char *upper(const char *optimizer)
{
    static const char *const names[][2] = {{"sgd", "SGD"},
                                           {"sgd-momentum", "SGD with momentum"},
                                           {"sgd-nesterov", "SGD with Nesterov momentum"},
                                           {"rmsprop", "RMSprop"},
                                           {"adam", "Adam"},
                                           {"adamw", "AdamW"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(names[i][0], optimizer))
            return names[i][1];
    return optimizer;
}

void print_title(const Options *o, int64_t parameters, int64_t steps)
{
    printf("%s  %s parameters  fp32  %s  batch %d", o->model, report_count(parameters).text,
           upper(o->optimizer), o->batch);
    if (o->seq)
        printf(" x seq %d", o->seq);
    if (o->accumulate > 1)
        printf(" x accumulate %d", o->accumulate);
    if (o->checkpoint == CHECKPOINT_BLOCKS)
        printf("  checkpoint blocks");
    if (o->seq)
        printf("  %s attention", o->attention == ATTENTION_FLASH ? "flash" : "eager");
    if (steps)
        printf("  %" PRId64 " step%s", steps, steps == 1 ? "" : "s");
    printf("\n");
}

/* The options in which a variant differs, to be typed. */
static void print_levers(const Options *o, const Options *variant)
{
    char text[96] = "";
    size_t used = 0;
    if (variant->checkpoint != o->checkpoint)
        used += (size_t)snprintf(text + used, sizeof text - used, " --checkpoint blocks");
    if (variant->batch != o->batch)
        used += (size_t)snprintf(text + used, sizeof text - used, " --batch %d --accumulate %d",
                                 variant->batch, variant->accumulate);
    if (strcmp(variant->optimizer, o->optimizer))
        used += (size_t)snprintf(text + used, sizeof text - used, " --optimizer %s", variant->optimizer);
    if (variant->attention != o->attention)
        snprintf(text + used, sizeof text - used, " --attention %s",
                 variant->attention == ATTENTION_FLASH ? "flash" : "eager");
    fprintf(stderr, " %-48s needs", text);
}

/* What would fit instead, among the levers that can be pulled now; else what comes closest. */
static void suggest(const Options *o)
{
    Variant variants[VARIANTS];
    int count = variants_plan(o, variants), fitting = 0;
    const Variant *smallest = NULL;
    for (int i = 1; i < count; i++) {
        const Variant *v = &variants[i];
        uint64_t needs = v->plan.memory.stats.needs;
        if (v->plan.status)
            continue;
        if (!smallest || needs < smallest->plan.memory.stats.needs)
            smallest = v;
        if (needs > o->budget)
            continue;
        fputs(fitting++ ? "" : "These fit:\n", stderr);
        print_levers(o, &v->options);
        fprintf(stderr, " %s\n", report_size(needs).text);
    }
    if (!fitting && smallest) {
        fprintf(stderr, "No lever of `brim compare` fits; the smallest need is that of\n");
        print_levers(o, &smallest->options);
        fprintf(stderr, " %s\n", report_size(smallest->plan.memory.stats.needs).text);
    }
}

/* A step is never larger than the data. */
static void say_if_data_is_short(const Options *o, int64_t samples)
{
    int64_t step = (int64_t)o->batch * o->accumulate;
    if (samples < step)
        fprintf(stderr, "brim: %s %s %" PRId64 " samples, so a step has that many, not %" PRId64 "\n",
                o->max_samples ? "--max-samples leaves" : o->data, o->max_samples ? "only" : "has", samples,
                step);
}

static int plan_or_say(const Options *o, Training *training, Plan *plan)
{
    RunOptions run = run_options(o);
    if (plan_script(training_script, training, &run, plan)) {
        fprintf(stderr, "brim: %s\n", plan->error);
        return EXIT_NO;
    }
    say_if_data_is_short(o, training->samples);
    return EXIT_DONE;
}

static int check_budget(const Options *o, const Plan *plan)
{
    if (!o->budget || plan->memory.stats.needs <= o->budget)
        return EXIT_DONE;
    fflush(stdout);
    fprintf(stderr, "brim: needs %s, %s more than the budget of %s.\n",
            report_size(plan->memory.stats.needs).text,
            report_size(plan->memory.stats.needs - o->budget).text, report_size(o->budget).text);
    suggest(o);
    return EXIT_NO;
}

int command_plan(const Options *o)
{
    Training training = {.options = o};
    Plan plan;
    if (plan_or_say(o, &training, &plan))
        return EXIT_NO;
    if (o->json) {
        json_print(json_pack("{s:s, s:I, s:f, s:o}", "model", o->model, "parameters",
                             (json_int_t)training.parameters, "step_flops", plan.step_flops, "memory",
                             json_memory(&plan.memory, NULL)));
        return check_budget(o, &plan);
    }
    print_title(o, training.parameters, training.steps);
    printf("\n");
    report_table(stdout, &plan.memory, NULL);
    report_textbook(stdout, &plan.memory);
    if (o->budget)
        printf("\n");
    int status = check_budget(o, &plan);
    if (o->budget && !status)
        printf("Fits: %s below the budget of %s.\n", report_size(o->budget - plan.memory.stats.needs).text,
               report_size(o->budget).text);
    return status;
}

static json_t *train_json(const Options *o, const Training *t, const Plan *plan, const RunResult *r)
{
    json_t *validation =
        json_pack("{s:f, s:I}", "loss", t->validation_loss, "samples", (json_int_t)t->validation_samples);
    if (t->accuracy >= 0)
        json_object_set_new(validation, "accuracy", json_real(t->accuracy));
    return json_pack("{s:s, s:I, s:I, s:f, s:f, s:o, s:f, s:o}", "model", o->model, "parameters",
                     (json_int_t)t->parameters, "steps", (json_int_t)r->steps, "loss_first", r->loss_first,
                     "loss_last", r->loss_last, "validation", validation, "tokens_per_second",
                     r->tokens_per_second, "memory", json_memory(&r->memory, &plan->memory));
}

enum { SAMPLE_INDENT = 11, SAMPLE_WIDTH = 98 };

/* Breaks lines at spaces. Returns the column it ends in. */
static int print_words(const char *text, int column)
{
    for (; *text; text++) {
        if (*text == ' ' && column + 1 + (int)strcspn(text + 1, " ") > SAMPLE_WIDTH) {
            printf("\n%*s", SAMPLE_INDENT, "");
            column = SAMPLE_INDENT;
        } else {
            putchar(*text);
            column++;
        }
    }
    return column;
}

static void print_result(const Options *o, const Training *t, const Plan *plan, const RunResult *r)
{
    printf("\n%" PRId64 " step%s, %.0f s", r->steps, r->steps == 1 ? "" : "s", r->seconds);
    if (r->tokens_per_second > 0) /* of one step nothing is known */
        printf(", %s %s/s", report_count((int64_t)r->tokens_per_second).text, o->seq ? "tokens" : "samples");
    printf("; loss %.2f -> %.2f", r->loss_first, r->loss_last);
    printf("; held out: loss %.3f", t->validation_loss);
    if (t->accuracy >= 0)
        printf(", accuracy %.2f %%", 100 * t->accuracy);
    printf(" (%" PRId64 " samples)\n\n", t->validation_samples);
    report_table(stdout, &plan->memory, &r->memory);
    report_textbook(stdout, &plan->memory);
    if (r->segments_off_plan)
        printf("%" PRId64 " segments went off the plan, the first at step %" PRId64 "\n",
               r->segments_off_plan, r->first_off_plan + 1);
    if (t->generated[0]) {
        printf("\nIt writes: ");
        print_words(t->generated, print_words(o->prompt ? o->prompt : "The ", SAMPLE_INDENT));
        printf("\n");
    }
}

int command_train(const Options *o)
{
    TrainLog log;
    if (train_log_prepare(&log, o->log))
        return EXIT_NO;
    Training training = {.options = o, .log = &log};
    Plan plan;
    RunResult result;
    if (plan_or_say(o, &training, &plan) || check_budget(o, &plan) ||
        train_log_open(&log, &training, &plan)) {
        train_log_close(&log, NULL, NULL);
        return EXIT_NO;
    }
    int threads = o->threads ? o->threads : kernels_default_threads();
    if (!o->json) {
        print_title(o, training.parameters, training.steps);
        kernels_blas_start(threads);
        printf("%s, %d thread%s, %s kernels; plan: needs %s\n", kernels_blas_name(), threads,
               threads == 1 ? "" : "s", kernels_cpu(NULL)->name, report_size(plan.memory.stats.needs).text);
        if (!o->quiet)
            printf("Each line: loss, %s/s | memory at the step's highest moment, by component\n",
                   o->seq ? "tokens" : "samples");
        printf("\n");
        fflush(stdout);
    }
    if (kernels_blas_warning())
        fprintf(stderr, "brim: %s\n", kernels_blas_warning());
    RunOptions run = run_options(o);
    if (o->epochs && !o->every)
        run.every = (int)(training.steps / 20) + 1;
    plan_execute(training_script, &training, &run, &plan, &result);
    train_log_close(&log, &plan, &result);
    if (result.status) {
        fprintf(stderr, "brim: %s\n", result.error);
        if (result.status == ERROR_MEMORY)
            fprintf(stderr, "`brim compare` with the same options shows what each lever would save.\n");
        return EXIT_NO;
    }
    if (o->json)
        json_print(train_json(o, &training, &plan, &result));
    else
        print_result(o, &training, &plan, &result);
    return EXIT_DONE;
}

int command_demo(const Options *options)
{
    Options o = *options;
    o.sample = o.preset.family == MODEL_LLAMA || o.preset.family == MODEL_GPT2 ? 120 : 0;
    int status = command_train(&o);
    if (status || o.json)
        return status;
    Variant variants[VARIANTS];
    o.sample = 0;
    int count = variants_plan(&o, variants);
    printf("\nWhat each lever would save, planned the same way (brim compare):\n");
    variants_table(stdout, &o, variants, count);
    printf(
        "\nTry next:\n"
        "  build/brim train --model mlp --epochs 3          Fashion-MNIST (package "
        "dataset-fashion-mnist)\n"
        "  build/brim train --checkpoint blocks             the same model, and what it really saves\n"
        "  build/brim plan --model llama-3.1-8b --seq 4096  what a large one would need, in milliseconds\n");
    return EXIT_DONE;
}

/* Counts on meta: the model is really built, without data. */
static int64_t preset_parameters(const ModelPreset *preset)
{
    Context *context = context_create(&(ContextOptions){.meta = 1, .threads = 1});
    Context *outside = context_use(context);
    int64_t count = nn_parameter_count(nn_model(preset));
    context_use(outside);
    context_destroy(context);
    return count;
}

int command_models(const Options *o)
{
    json_t *all = json_array();
    if (!o->json)
        printf("%-18s %-6s %16s %6s %5s\n", "model", "family", "parameters", "batch", "seq");
    for (int i = 0; nn_preset_at(i); i++) {
        const ModelPreset *p = nn_preset_at(i);
        int64_t count = preset_parameters(p);
        char seq[16] = "-"; /* images have none */
        if (p->seq)
            snprintf(seq, sizeof seq, "%d", p->seq);
        if (o->json)
            json_array_append_new(all, json_pack("{s:s, s:s, s:I}", "model", p->name, "family",
                                                 nn_family_name(p->family), "parameters", (json_int_t)count));
        else
            printf("%-18s %-6s %16s %6d %5s  %s\n", p->name, nn_family_name(p->family),
                   report_count(count).text, p->batch, seq, p->about);
    }
    if (o->json)
        json_print(json_pack("{s:o}", "models", all));
    else
        json_decref(all);
    return EXIT_DONE;
}
