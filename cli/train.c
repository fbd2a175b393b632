/* brim train and brim demo. */
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "../base/plural_.h"
#include "../base/printable_.h"
#include "../kernels/kernels.h"
#include "lora.h"
#include "precision.h"
#include "several.h"
#include "variants_.h"

static json_t *train_json(const Options *o, const Training *t, const Plan *plan, const RunResult *r,
                          const RankFigures *figures)
{
    json_t *validation = json_pack("{s:o, s:I}", "loss", json_number(t->validation_loss), "samples",
                                   (json_int_t)t->validation_samples);
    if (t->accuracy >= 0)
        json_object_set_new(validation, "accuracy", json_real(t->accuracy));
    json_t *all = json_pack("{s:s, s:s, s:s, s:I, s:o, s:I, s:o, s:o, s:o, s:f, s:o}", "model", o->model,
                            "device", o->device, "blas", products_name(o), "parameters",
                            (json_int_t)t->parameters, "bracket", bracket_json(&t->bracket), "steps",
                            (json_int_t)r->steps, "loss_first", json_number(r->loss_first), "loss_last",
                            json_number(r->loss_last), "validation", validation, "tokens_per_second",
                            r->tokens_per_second, "memory", json_memory(&r->memory, &plan->memory));
    json_object_set_new(all, "active_parameters", json_integer(t->bracket.active));
    bracket_add_trained(all, &t->bracket);
    ranks_run_json(all, o, plan, figures);
    if (scales_loss(o))
        json_object_set_new(all, "skipped_steps", json_integer((json_int_t)t->skipped));
    if (saving_resumes(t->saving))
        json_object_set_new(all, "steps_before", json_integer(t->first));
    if (t->saving->saved >= 0)
        json_object_set_new(all, "saved_step", json_integer(t->saving->saved));
    if (t->saving->signal)
        json_object_set_new(all, "signal", json_integer(t->saving->signal));
    return all;
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
            int controls = control_bytes(text);
            putchar(controls ? ' ' : *text);
            text += controls > 1;
            column++;
        }
    }
    return column;
}

/* How it ended, if not after its last step; and what is saved. */
static void print_saving(const Options *o, const Training *t)
{
    const Saving *s = t->saving;
    if (s->signal)
        printf("\nStopped by %s.\n", s->signal == SIGINT ? "SIGINT" : "SIGTERM");
    if (!o->save || s->saved < 0)
        return;
    printf("%sStep %" PRId64 " is saved in %s", s->signal ? "" : "\n", s->saved, o->save);
    if (s->saved >= t->steps)
        printf(", the last; --resume %s with more --steps trains further.\n", o->save);
    else if (same_file(o->save, o->resume))
        printf("; the same command resumes it.\n");
    else
        printf("; the same command with --resume %s resumes it.\n", o->save);
}

/* With the decimals that a reader cares for. */
static SizeText seconds_text(double seconds)
{
    SizeText out;
    snprintf(out.text, sizeof out.text, seconds < 9.95 ? "%.1f s" : "%.0f s", seconds);
    return out;
}

static void print_result(const Options *o, const Training *t, const Plan *plan, const RunResult *r,
                         const RankFigures *figures)
{
    SayLine line = {""};
    line_add(&line, "%" PRId64 " step%s, %s", r->steps, plural(r->steps), seconds_text(t->step_seconds).text);
    if (t->skipped)
        line_add(&line, ", %" PRId64 " skipped", t->skipped);
    if (r->tokens_per_second > 0) /* of one step nothing is known */
        line_add(&line, ", %s %s/s", report_rate(r->tokens_per_second).text, o->seq ? "tokens" : "samples");
    if (t->validation_seconds > 0)
        line_add(&line, "; validation %s", seconds_text(t->validation_seconds).text);
    if (r->steps)
        line_add(&line, "; loss %.2f -> %.2f", r->loss_first, r->loss_last);
    if (t->validation_samples)
        line_add(&line, "; held out: loss %.3f", t->validation_loss);
    if (t->validation_samples && t->accuracy >= 0)
        line_add(&line, ", accuracy %.2f %%", 100 * t->accuracy);
    if (t->validation_samples)
        line_add(&line, " (%" PRId64 " sample%s)", t->validation_samples, plural(t->validation_samples));
    printf("\n");
    say_line(&line);
    printf("\n");
    report_table(stdout, &plan->memory, &r->memory);
    print_ranks_run(o, figures);
    report_textbook(stdout, &plan->memory);
    if (r->segments_off_plan)
        printf("%" PRId64 " segment%s went off the plan, the first at step %" PRId64 "\n",
               r->segments_off_plan, plural(r->segments_off_plan), r->first_off_plan + 1);
    print_saving(o, t);
    if (t->adapter_exported > 0)
        printf("\nThe adapter is in %s, for PEFT.\n", o->export_adapter);
    if (t->exported > 0)
        printf("\nThe weights are in %s, as %s.\n", o->export, o->export_dtype);
    else if (o->export && !t->exported)
        printf("\nNothing is exported: the run is not at its end.\n");
    if (t->generated[0]) {
        printf("\nIt writes: ");
        print_words(t->generated, print_words(o->prompt ? o->prompt : "The ", SAMPLE_INDENT));
        printf("\n");
    }
}

/* Where weights and tokens are from, if that was asked for; and that adapters are added to weights from
 * nowhere, which is of use to measure memory alone. */
static void print_origin(const Options *o, const Training *t)
{
    static const char drawn[] = "random, and what adapters learn is of use on trained ones (--init)";
    int adapters = has_adapters(o), loaded = o->init && (!saving_resumes(t->saving) || adapters);
    const char *tokens = o->tokenizer ? o->tokenizer : loaded && !is_bin(o->data) ? "bytes" : NULL;
    const char *weights = loaded ? o->init : adapters ? drawn : NULL;
    if (weights)
        printf("weights: %s", weights);
    if (tokens && reads_text(o))
        printf("%stokens: %s", weights ? "; " : "", tokens);
    if (tokens && !o->tokenizer && o->source_tokenizer)
        printf(" (%s is for your --data)", o->source_tokenizer);
    if (weights || tokens)
        printf("\n");
}

/* Not where a panel stands in place of the lines. */
static void print_line_heading(const Options *o, int64_t steps)
{
    PanelStyle style;
    if (!o->quiet && steps && !has_ranks(o) && report_terminal(stdout, &style) && report_panel_fits(&style))
        return;
    if (!o->quiet && steps)
        printf("Each line: loss, %s/s | memory at the step's highest moment, when it changes\n",
               o->seq ? "tokens" : "samples");
    printf("\n");
}

static void print_start(const Options *o, const Training *t, const Plan *plan)
{
    print_title(o, t->parameters, &t->bracket, t->steps);
    print_machine(o, plan);
    print_carrier(o);
    print_origin(o, t);
    if (saving_resumes(t->saving))
        printf("resumes after step %" PRId64 " of %s%s\n", t->first, t->saving->from.path,
               t->first >= t->steps ? ": nothing is left to train" : "");
    print_line_heading(o, t->steps);
    fflush(stdout);
}

/* 128 and the signal that stopped it, as a shell says of a process that a signal ended. */
static int exit_code(const Training *training)
{
    const Saving *saving = training->saving;
    if (saving->failed || training->exported < 0 || training->adapter_exported < 0)
        return EXIT_NO;
    return saving->signal ? 128 + saving->signal : EXIT_DONE;
}

/* After an error: what is left of the run. */
static void say_saved(const Options *o, const Saving *saving)
{
    if (o->save && saving->saved >= 0 && speaks_alone())
        fprintf(stderr, "brim: step %" PRId64 " is saved in %s; --resume %s goes on from there\n",
                saving->saved, o->save, o->save);
}

/* An error is said here; what is left is to go. */
static int train_failed(const Options *o, const Training *training, const Plan *plan, const RunResult *result)
{
    /* Others were faster: as it would have been said before. */
    if (result->status == ERROR_MEMORY && !result->memory.reserved && check_machine(o, plan, 0))
        return EXIT_NO;
    if (result->status == ERROR_RANKS && result->seconds <= 0 && !speaks_alone())
        return EXIT_NO; /* before the script began: plans differ, which rank 0 says */
    complain_of_run(result->status, result->error);
    say_saved(o, training->saving);
    return EXIT_NO;
}

/* Trains what was planned. */
static int train_planned(const Options *o, Training *training, const Plan *plan)
{
    RunResult result;
    RunOptions run = run_options(o);
    if (!o->json)
        print_start(o, training, plan);
    run.panel = !has_ranks(o); /* a launcher's pipe looks like a terminal */
    run.quiet = run.quiet || !speaks_alone();
    run.steps = training->steps;
    if (o->epochs && !o->every)
        run.every = (int)(training->steps / 20) + 1;
    saving_catch_signals(training->saving);
    plan_execute(training_script, training, &run, plan, &result);
    saving_release_signals(training->saving);
    train_log_close(training->log, plan, &result);
    if (result.status)
        return train_failed(o, training, plan, &result);
    RankFigures figures;
    if (ranks_figures(o, plan, &result, &figures)) {
        ranks_figures_free(&figures);
        complain_of_run(ERROR_RANKS,
                        "the run is at its end, but the figures of the other ranks cannot be reached");
        return EXIT_NO;
    }
    if (o->json)
        json_print(train_json(o, training, plan, &result, &figures));
    else
        print_result(o, training, plan, &result, &figures);
    ranks_figures_free(&figures);
    return exit_code(training);
}

static int train(const Options *options)
{
    Options o = *options;
    TrainLog log;
    Saving saving;
    Training training = {.options = &o, .log = &log, .saving = &saving};
    Plan plan;
    if (resolve_checkpoint(&o) || train_log_prepare(&log, &o))
        return EXIT_NO;
    if (saving_open(&saving, &o)) {
        train_log_close(&log, NULL, NULL);
        saving_close(&saving);
        return EXIT_NO;
    }
    int status = plan_or_say(&o, &training, &plan);
    if (!status)
        status = check_budget(&o, &plan);
    if (!status)
        status = check_machine(&o, &plan, room_in_memory(&o, &training, &plan));
    if (!status && speaks_alone())
        status = check_room(&o, &training, &plan);
    if (!status)
        status = products_or_say();
    if (!status && speaks_alone())
        say_if_tight(&plan, room_in_memory(&o, &training, &plan));
    if (!status)
        status = train_log_open(&log, &training, &plan);
    if (!status)
        status = train_planned(&o, &training, &plan);
    train_log_close(&log, NULL, NULL);
    saving_close(&saving);
    plan_free(&plan);
    return status;
}

int command_train(const Options *options, int count)
{
    (void)count;
    Options o = *options;
    int done, status = ranks_begin(&o, &done);
    if (status || done)
        return status;
    status = train(&o);
    ranks_end(&o, status > 128 ? 0 : status); /* stopped by a signal: all of them */
    return status;
}

int command_demo(const Options *options, int sets)
{
    Options o = *options;
    if (!o.sample && family_of(&o)->writes)
        o.sample = 120;
    int status = command_train(&o, sets);
    if (status || o.json)
        return status;
    static Variant variants[VARIANTS];
    char on[64] = "";
    if (strcmp(o.device, "cpu") != 0)
        snprintf(on, sizeof on, " --device %s", o.device);
    o.sample = 0;
    int count = variants_plan(&o, variants);
    printf("\nWhat each lever would save, planned the same way (brim compare):\n");
    variants_table(stdout, &o, variants, count);
    variants_say_words(stdout, &o);
    variants_free(variants, count);
    printf(
        "\nTry next:\n"
        "  build/brim train%s --model mlp --epochs 3          Fashion-MNIST (package "
        "dataset-fashion-mnist)\n"
        "  build/brim train%s --checkpoint blocks             the same model, and what it really saves\n"
        "  build/brim plan%s --model llama-3.1-8b --seq 4096  what a large one would need, in milliseconds\n",
        on, on, on);
    return EXIT_DONE;
}
