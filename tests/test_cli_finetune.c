/* README's `brim train --init DIR --data TEXT --export DIR` keeps what a model knows: by default the weights
 * of a BERT that was trained here move little, so that the embeddings of its sentences stay near to what they
 * were. With the rate that trains from random weights they do not. */
#include <math.h>

#include "cli_support.h"

#include "../brim.h"

enum { SENTENCES = 8, TOKENS = 24, DIM = 96 };

/* The mean of the hidden states of each sentence, less the mean of all: what tells them apart. */
static void embed(const char *directory, double out[SENTENCES][DIM])
{
    static const char *const sentences[SENTENCES] = {
        "the river and the mill, 12 geese", "the mill and the river, 12 geese",
        "a road to the harbour at night.",  "at night a road to the harbour..",
        "seven stones lay on the table...", "on the table lay seven stones...",
        "nobody had seen the old captain.", "the old captain, nobody saw him."};
    IoModel found;
    assert_int_equal(io_read_config(directory, &found), 0);
    int scope = tensor_scope_begin();
    found.preset.config.bert.pooler = 1; /* the encoder alone */
    Module *model = nn_model(&found.preset);
    assert_int_equal(io_load_weights(model, directory, &(WeightsOptions){.partial = 1}, NULL), 0);
    nn_eval(model);
    tensor_no_grad_begin();
    for (int i = 0; i < SENTENCES; i++) {
        int32_t ids[TOKENS];
        for (int t = 0; t < TOKENS; t++)
            ids[t] = (unsigned char)sentences[i][t];
        Batch batch = {.ids = tensor_from(DTYPE_I32, SHAPE(1, TOKENS), MEM_INPUT, ids)};
        const float *hidden = tensor_f32(nn_forward(model, NULL, &batch)); /* (1,T,C) */
        assert_non_null(hidden);
        for (int c = 0; c < DIM; c++) {
            out[i][c] = 0;
            for (int t = 0; t < TOKENS; t++)
                out[i][c] += (double)hidden[t * DIM + c] / TOKENS;
        }
    }
    tensor_no_grad_end();
    tensor_scope_end(scope);
    for (int c = 0; c < DIM; c++) {
        double mean = 0;
        for (int i = 0; i < SENTENCES; i++)
            mean += out[i][c] / SENTENCES;
        for (int i = 0; i < SENTENCES; i++)
            out[i][c] -= mean;
    }
}

/* How much of the embeddings is where it was: 1 is all. */
static double kept(const char *before, const char *after)
{
    static double a[SENTENCES][DIM], b[SENTENCES][DIM];
    double ab = 0, aa = 0, bb = 0;
    embed(before, a);
    embed(after, b);
    for (int i = 0; i < SENTENCES; i++)
        for (int c = 0; c < DIM; c++) {
            ab += a[i][c] * b[i][c];
            aa += a[i][c] * a[i][c];
            bb += b[i][c] * b[i][c];
        }
    return ab / sqrt(aa * bb);
}

static void trained_weights_are_kept(void **state)
{
    (void)state;
    char base[192], tuned[192], wrecked[192], text[192], other[192];
    strcpy(base, in_folder("base"));
    strcpy(tuned, in_folder("tuned"));
    strcpy(wrecked, in_folder("wrecked"));
    strcpy(text, make_text("text", 60000));
    strcpy(other, "README.md");
    expect_code(RUN("train", make_model("bert"), "--data", text, "--batch", "8", "--seq", "32", "--steps",
                    "120", "--max-samples", "512", "--quiet", "--export", base),
                0);
    Outcome *o = expect_code(RUN("train", "--init", base, "--data", other, "--batch", "8", "--seq", "32",
                                 "--steps", "40", "--max-samples", "256", "--quiet", "--export", tuned),
                             0);
    assert_non_null(strstr(o->out, "lr 2e-05"));
    expect_code(RUN("train", "--init", base, "--data", other, "--batch", "8", "--seq", "32", "--steps", "40",
                    "--max-samples", "256", "--lr", "1e-3", "--quiet", "--export", wrecked),
                0);
    double by_default = kept(base, tuned), from_scratch = kept(base, wrecked);
    if (by_default < 0.98 || from_scratch > 0.9)
        fail_msg("kept %.3f by default and %.3f with 1e-3", by_default, from_scratch);
    assert_float_equal(kept(base, base), 1, 1e-9);
}

static void the_headline_says_so(void **state)
{
    (void)state;
    char base[192];
    strcpy(base, in_folder("base"));
    static const struct {
        const char *optimizer, *lr;
    } rows[] = {{"adamw", "lr 2e-05  "},
                {"adam", "lr 2e-05  "},
                {"rmsprop", "lr 2e-05  "},
                {"sgd", "lr 0.05  "},
                {"sgd-momentum", "lr 0.005  "}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        Outcome *o = expect_code(RUN("plan", "--init", base, "--optimizer", rows[i].optimizer), 0);
        if (!strstr(o->out, rows[i].lr))
            fail_msg("%s: %.200s", rows[i].optimizer, o->out);
    }
    Outcome *o = expect_code(RUN("plan", "--init", base, "--lr", "0.25"), 0);
    assert_non_null(strstr(o->out, "lr 0.25  "));
    o = expect_code(RUN("plan", "bert-tiny", "--dropout", "0.25"), 0);
    assert_non_null(strstr(o->out, "lr 0.001  dropout 0.25  "));
    o = expect_code(RUN("plan", "llama-tiny"), 0);
    assert_non_null(strstr(o->out, "lr 0.002  no dropout  "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(trained_weights_are_kept),
                                       cmocka_unit_test(the_headline_says_so)};
    return cmocka_run_group_tests_name("finetune", tests, make_folder, remove_folder);
}
