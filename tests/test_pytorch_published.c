/* What others measured on real cards (tests/pytorch/published.txt), beside what is predicted for the same
 * settings. Prints the table of docs/pytorch.md. */
#include <math.h>

#include "../estimate/pytorch/summary.h"
#include "support.h"

typedef struct Named {
    const char *name;
    PytorchModel model;
} Named;

#define LLAMA(v, d, n, h, kv, f)                                                                             \
    {                                                                                                        \
        .family = PYTORCH_LLAMA, .vocab = v, .hidden = d, .layers = n, .heads = h, .kv_heads = kv,           \
        .head_dim = d / h, .intermediate = f, .positions = 8192, .tied = 1                                   \
    }

static const Named models[] = {
    {"smollm2-135m", LLAMA(49152, 576, 30, 9, 3, 1536)},
    {"smollm2-360m", LLAMA(49152, 960, 32, 15, 5, 2560)},
    {"smollm2-1.7b", LLAMA(49152, 2048, 24, 32, 32, 8192)},
    {"tinyllama-1.1b",
     {.family = PYTORCH_LLAMA,
      .vocab = 32000,
      .hidden = 2048,
      .layers = 22,
      .heads = 32,
      .kv_heads = 4,
      .head_dim = 64,
      .intermediate = 5632,
      .positions = 2048}},
    {"qwen2.5-1.5b",
     {.family = PYTORCH_QWEN2,
      .vocab = 151936,
      .hidden = 1536,
      .layers = 28,
      .heads = 12,
      .kv_heads = 2,
      .head_dim = 128,
      .intermediate = 8960,
      .positions = 32768,
      .tied = 1}},
};

typedef struct Row {
    char model[64], attention[16], base[16];
    int batch, seq;
    double allocated, reserved; /* MiB, of the second step */
} Row;

/* The settings of all rows of the first section: fitcheck's, on one Tesla T4. Those with "sdpa" pin a kernel
 * and repeat keys and values before it, which is what transformers does only where there are as many key
 * heads. */
static int job_of(const Row *row, PytorchJob *job)
{
    for (size_t i = 0; i < COUNT(models); i++) {
        const PytorchModel *m = &models[i].model;
        int eager = !strcmp(row->attention, "eager"), nf4 = !strcmp(row->base, "nf4");
        if (strcmp(models[i].name, row->model) || (!eager && m->heads != m->kv_heads))
            continue;
        *job = (PytorchJob){.model = *m,
                            .precision = PYTORCH_FP16,
                            .weights = PYTORCH_WEIGHTS_FP16,
                            .attention = eager ? PYTORCH_EAGER : PYTORCH_SDPA,
                            .checkpoint = PYTORCH_CHECKPOINT,
                            .quantize = nf4 ? PYTORCH_NF4_SINGLE : PYTORCH_PLAIN,
                            .kbit_prepare = nf4,
                            .capability = 75,
                            .batch = row->batch,
                            .seq = row->seq,
                            .accumulate = 1,
                            .steps = 2,
                            .lora_rank = 32,
                            .lora_targets = PYTORCH_Q | PYTORCH_K | PYTORCH_V | PYTORCH_O,
                            .hold = PYTORCH_HOLD_STEP};
        for (int d = 0; !job->dialect && estimate_pytorch_dialect_at(d); d++)
            if (!strcmp(estimate_pytorch_versions(estimate_pytorch_dialect_at(d)).transformers, "5.17"))
                job->dialect = estimate_pytorch_dialect_at(d);
        return job->dialect != NULL;
    }
    return 0;
}

static void second_step(const PytorchJob *job, double *allocated, double *reserved)
{
    PytorchSummary s;
    assert_int_equal(estimate_pytorch_summary(job, NULL, &s), 0);
    *allocated = *reserved = 0;
    for (int i = 0; i < s.moment_count; i++) {
        if (s.moments[i].step != 1)
            continue;
        *allocated = fmax(*allocated, (double)s.moments[i].allocated / 1048576);
        *reserved = fmax(*reserved, (double)s.moments[i].reserved / 1048576);
    }
    estimate_pytorch_summary_free(&s);
}

/* LoRA and NF4 with LoRA within 0.25 % of what the card allocated; what it reserved, within 10 %. */
static void a_card_measured_the_same(void **state)
{
    (void)state;
    FILE *file = fopen("tests/pytorch/published.txt", "r");
    assert_non_null(file);
    char line[600];
    int rows = 0;
    print_message(
        "Tesla T4, MiB                          allocated  predicted    error   reserved  predicted\n");
    while (fgets(line, sizeof line, file)) {
        Row row;
        PytorchJob job = {.seq = 0};
        if (sscanf(line, "%63s %dx%d %15s %15s %lf %lf", row.model, &row.batch, &row.seq, row.attention,
                   row.base, &row.allocated, &row.reserved) != 7 ||
            !job_of(&row, &job))
            continue;
        double allocated, reserved;
        second_step(&job, &allocated, &reserved);
        double error = allocated / row.allocated - 1;
        print_message("%-15s %dx%-5d %-6s %-5s %12.2f %10.2f %+7.3f %% %8.0f %10.0f\n", row.model, row.batch,
                      row.seq, row.attention, row.base, row.allocated, allocated, 100 * error, row.reserved,
                      reserved);
        assert_true(fabs(error) < 0.0025);
        assert_true(fabs(reserved / row.reserved - 1) < 0.1);
        rows++;
    }
    fclose(file);
    assert_int_equal(rows, 18);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(a_card_measured_the_same)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
