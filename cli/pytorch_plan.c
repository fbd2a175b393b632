/* brim plan --framework pytorch: what a job of PyTorch would need, and where; and brim's own plan beside it.
 */
#include <string.h>

#include "precision.h"
#include "pytorch_tables.h"

/* ---- Planning -------------------------------------------------------------------------------- */

static void plan_brim(PytorchPlan *p)
{
    static Options brim;
    Training training = {.options = &brim};
    p->brim.status = ERROR_ARGUMENT;
    if (pytorch_to_brim(p->options, p->card, p->job.model.dropout, &brim, &p->why_no_brim))
        return;
    RunOptions run = run_options(&brim);
    memset(&p->brim, 0, sizeof p->brim);
    if (plan_script(training_script, &training, &run, &p->brim)) {
        p->why_no_brim = lever_say("%.800s", p->brim.error);
        error_clear();
    }
    p->parameters = training.parameters;
}

int pytorch_one_card(const Options *o, const Card **card)
{
    *card = NULL;
    if (o->memories)
        return usage(
            "--memory belongs to `brim fit`; `brim plan` takes --budget SIZE for what PyTorch may reserve");
    if (!o->cards)
        return 0;
    if (strchr(o->cards, ','))
        return usage("--card %s: a plan is for one card; `brim fit --framework pytorch` takes several",
                     o->cards);
    if (!(*card = device_card(o->cards)))
        return usage("--card: %s", device_card_unknown(o->cards).text);
    uint64_t context = pytorch_context(o, *card).high;
    if ((*card)->bytes <= context)
        return usage("--reserve %s leaves nothing of the %s of %s", report_size(context).text,
                     report_size((*card)->bytes).text, (*card)->name);
    return 0;
}

static int judge(PytorchPlan *p)
{
    const Options *o = p->options;
    p->context = pytorch_context(o, p->card);
    if (!p->card && !o->budget)
        return 0;
    PytorchBooks books;
    PytorchVerdict with_pages;
    PytorchAllocatorOptions pages = p->allocator;
    p->limit = o->budget ? o->budget : p->card->bytes - p->context.high;
    p->has_verdict = 1;
    if (estimate_pytorch_verdict(&p->job, &p->allocator, p->limit, &books, &p->verdict))
        return -1;
    if (p->verdict.answer == PYTORCH_RUNS_OUT && !pages.expandable_segments) {
        pages.expandable_segments = p->pages_tried = 1;
        if (estimate_pytorch_verdict(&p->job, &pages, p->limit, &books, &with_pages))
            return -1;
        p->pages_help = pytorch_fits(&with_pages);
    }
    if (o->budget || pytorch_fits(&p->verdict))
        return 0;
    uint64_t most = p->card->bytes - p->context.low;
    return estimate_pytorch_verdict(&p->job, &p->allocator, most, &books, &p->at_most);
}

/* ---- As text --------------------------------------------------------------------------------- */

static void print_title_line(const PytorchPlan *p)
{
    SayLine line = {""};
    line_add(&line, "%s", p->options->model);
    if (p->parameters)
        line_add(&line, "  %s parameters", report_count(p->parameters).text);
    line_add(&line, "  %.800s", pytorch_title(p->options, &p->job).text);
    say_line(&line);
    SayLine predicted = {""};
    line_add(&predicted, "PREDICTED for %s; no card has confirmed it.  On %s.",
             pytorch_versions(&p->job).text, pytorch_on_what(p).text);
    say_line(&predicted);
    pytorch_print_unverified(&p->job, "");
    pytorch_print_data(p->options);
    printf("\n");
}

static void print_verdict(const PytorchPlan *p)
{
    SayLine line = {""};
    if (p->options->budget)
        line_add(&line, "A budget of %s for what is reserved.", report_size(p->limit).text);
    else
        line_add(&line, "%s has %.2f GiB; the context takes %s: %.2f GiB are left.", p->card->name,
                 (double)p->card->bytes / 0x1p30, pytorch_context_text(p->context).text,
                 (double)p->limit / 0x1p30);
    printf("\n%s\n%s\n", line.text,
           pytorch_verdict_text(&p->summary.books, &p->verdict, p->limit, p->options->accumulate).text);
    if (!pytorch_fits(&p->verdict) && !p->options->budget && p->context.low < p->context.high &&
        pytorch_fits(&p->at_most))
        printf("With a context of %.2f GiB it would fit.\n", (double)p->context.low / 0x1p30);
    if (p->pages_help)
        printf("With PYTORCH_ALLOC_CONF=expandable_segments:True it would fit.\n");
}

/* ---- The command ----------------------------------------------------------------------------- */

int command_plan_pytorch(const Options *o)
{
    static PytorchPlan plan;
    PytorchPlan *p = &plan;
    plan = (PytorchPlan){.options = o};
    if (pytorch_one_card(o, &p->card) || pytorch_job(o, p->card, &p->job) ||
        pytorch_allocator(o, p->card, &p->allocator))
        return EXIT_USAGE;
    if (estimate_pytorch_summary(&p->job, &p->allocator, &p->summary) || judge(p)) {
        estimate_pytorch_summary_free(&p->summary);
        complain("there is no memory to predict this with");
        return EXIT_NO;
    }
    plan_brim(p);
    if (o->json) {
        json_print(pytorch_plan_json(p));
    } else {
        print_title_line(p);
        pytorch_print_components(p);
        if (p->has_verdict)
            print_verdict(p);
        pytorch_print_more(p);
        pytorch_print_largest(p);
        pytorch_print_layers(p);
        pytorch_print_moments(p);
    }
    int written = !o->html || !pytorch_write_page(p);
    if (o->html && written && !o->json)
        printf("\n%s is written; open it in a browser\n", o->html);
    int fits = written && (!p->has_verdict || pytorch_fits(&p->verdict));
    estimate_pytorch_summary_free(&p->summary);
    if (!p->brim.status)
        plan_free(&p->brim);
    return fits ? EXIT_DONE : EXIT_NO;
}
