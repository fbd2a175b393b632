/* Whether a BERT still makes useful embeddings: of twelve sentences in six pairs of one meaning, as
 * sentence-transformers makes them (the hidden states' mean). usage: embeddings ORIGINAL [TUNED …]; each is a
 * directory with a tokenizer.json. Prints a line each: how many sentences have their partner as the nearest,
 * the mean cosine of all pairs (1: they are all the same), the correlation of the cosines with ORIGINAL's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <brim.h>

enum { SENTENCES = 12, PAIRS = SENTENCES * (SENTENCES - 1) / 2, MOST_TOKENS = 64, MOST_DIM = 4096 };

static const char *const sentences[SENTENCES] = {
    "A man is playing a guitar on the stage.", "On stage, someone plays the guitar.",
    "The stock market fell sharply today.",    "Share prices dropped a lot this afternoon.",
    "She is cooking pasta in the kitchen.",    "A woman boils spaghetti at home.",
    "The train to London leaves at noon.",     "At twelve o'clock the London train departs.",
    "Dogs love to run in the park.",           "In the park the dogs enjoy running.",
    "The doctor prescribed a new medicine.",   "A physician gave the patient another drug.",
};

/* The mean over the tokens of a sentence. */
static int embed(Module *model, Tokenizer *tokenizer, const char *text, double *out, int dim)
{
    TokenIds ids = {0};
    if (tokenizer_encode(tokenizer, text, strlen(text), 1, &ids))
        return error_code();
    int count = ids.count < MOST_TOKENS ? (int)ids.count : MOST_TOKENS, scope = tensor_scope_begin();
    Tensor *tokens = tensor_from(DTYPE_I32, SHAPE(1, count), MEM_INPUT, ids.ids);
    const Batch batch = {.ids = tokens};
    Tensor *hidden = nn_forward(model, NULL, &batch); /* (1,T,C) */
    memset(out, 0, (size_t)dim * sizeof *out);
    for (int t = 0; t < count && !error_code(); t++) {
        float row[MOST_DIM];
        const int64_t bytes = dim * (int64_t)sizeof *row;
        tensor_read(hidden, t * bytes, bytes, row);
        for (int c = 0; c < dim; c++)
            out[c] += (double)row[c] / count;
    }
    tensor_scope_end(scope);
    tokenizer_ids_free(tokenizer, &ids);
    return error_code();
}

static double cosine(const double *a, const double *b, int dim)
{
    double ab = 0, aa = 0, bb = 0;
    for (int c = 0; c < dim; c++) {
        ab += a[c] * b[c];
        aa += a[c] * a[c];
        bb += b[c] * b[c];
    }
    return ab / sqrt(aa * bb);
}

static int measure(const char *directory, double cosines[SENTENCES][SENTENCES])
{
    static double vectors[SENTENCES][MOST_DIM];
    IoModel found;
    if (io_read_config(directory, &found))
        return error_code();
    int dim = found.preset.config.bert.dim, scope = tensor_scope_begin();
    found.preset.config.bert.pooler = 1; /* the encoder alone */
    Module *model = nn_model(&found.preset);
    Tokenizer *tokenizer = tokenizer_read(directory);
    if (io_load_weights(model, directory, &(WeightsOptions){.partial = 1}, NULL) || dim > 4096)
        return error_code();
    nn_eval(model);
    tensor_no_grad_begin();
    for (int i = 0; i < SENTENCES; i++)
        if (embed(model, tokenizer, sentences[i], vectors[i], dim))
            return error_code();
    tensor_no_grad_end();
    for (int i = 0; i < SENTENCES; i++)
        for (int j = 0; j < SENTENCES; j++)
            cosines[i][j] = cosine(vectors[i], vectors[j], dim);
    tokenizer_free(tokenizer);
    tensor_scope_end(scope);
    return error_code();
}

static int partners_nearest(double cosines[SENTENCES][SENTENCES])
{
    int right = 0;
    for (int i = 0; i < SENTENCES; i++) {
        int nearest = i ? 0 : 1;
        for (int j = 0; j < SENTENCES; j++)
            if (j != i && cosines[i][j] > cosines[i][nearest])
                nearest = j;
        right += nearest == (i ^ 1);
    }
    return right;
}

static double correlation(const double *x, const double *y)
{
    double sx = 0, sy = 0, xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < PAIRS; i++) {
        sx += x[i] / PAIRS;
        sy += y[i] / PAIRS;
    }
    for (int i = 0; i < PAIRS; i++) {
        xx += (x[i] - sx) * (x[i] - sx);
        yy += (y[i] - sy) * (y[i] - sy);
        xy += (x[i] - sx) * (y[i] - sy);
    }
    return xy / sqrt(xx * yy);
}

int main(int argc, char **argv)
{
    double cosines[SENTENCES][SENTENCES], pairs[PAIRS], original[PAIRS];
    for (int k = 1; k < argc; k++) {
        if (measure(argv[k], cosines)) {
            fprintf(stderr, "%s: %s\n", argv[k], error_message());
            return 1;
        }
        double mean = 0;
        int n = 0;
        for (int i = 0; i < SENTENCES; i++)
            for (int j = i + 1; j < SENTENCES; j++) {
                pairs[n] = cosines[i][j];
                mean += pairs[n++] / PAIRS;
            }
        if (k == 1)
            memcpy(original, pairs, sizeof pairs);
        printf("partners %d mean %.3f correlation %.3f %s\n", partners_nearest(cosines), mean,
               correlation(original, pairs), argv[k]);
    }
    return 0;
}
