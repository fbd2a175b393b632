/* DistilBERT: BERT's layers under names of its own, without token types, with no dropout behind attention. */
#include <math.h>

#include "encoder_.h"

static const ModuleClass distilbert_class = {"distilbert", sizeof(Encoder), encoder_forward};
static const ModuleClass block_class = {"distilbert_block", sizeof(EncoderBlock), encoder_block_forward};

/* ---- Positions that begin as sines ----------------------------------------------------------- */

/* Of each pair of columns a sine and a cosine, of a frequency of their own (Vaswani et al., arXiv
 * 1706.03762).
 */
static float sine(int64_t position, int64_t column, int64_t width)
{
    double angle = (double)position / pow(10000, (double)(column / 2 * 2) / (double)width);
    return (float)(column % 2 ? cos(angle) : sin(angle));
}

static int sines(void *user, int64_t first, int64_t count, float *values)
{
    const Tensor *table = user;
    int64_t width = table->shape.dim[1];
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done;
        int64_t place = tensor_place_(table, first + done, &n);
        for (int64_t i = 0; i < n; i++)
            values[done + i] = sine((place + i) / width, (place + i) % width, width);
    }
    return 0;
}

static void begin(Encoder *self, const BertConfig *c)
{
    if (c->sinusoidal)
        tensor_store_(self->positions, sines, self->positions);
}

/* ---- The model ------------------------------------------------------------------------------- */

static const EncoderKind distilbert = {
    .whole = &distilbert_class,
    .block = &block_class,
    .style = ATTENTION_DISTILBERT,
    .plain_attention = 1,
    .begin = begin,
    .words = "distilbert.embeddings.word_embeddings",
    .positions = "distilbert.embeddings.position_embeddings",
    .norm = "distilbert.embeddings.LayerNorm",
    .dropout = "distilbert.embeddings.dropout",
    .layers = "distilbert.transformer.layer",
    .transform = "vocab_transform",
    .head_norm = "vocab_layer_norm",
    .decoder = "vocab_projector",
    .classifier = {.dense = "pre_classifier", .out = "classifier", .act = TENSOR_RELU, .dense_stays = 1},
    .attention = "attention",
    .attention_norm = "sa_layer_norm",
    .up = "ffn.lin1",
    .down = "ffn.lin2",
    .output_norm = "output_layer_norm",
};

Module *nn_distilbert(const BertConfig *config)
{
    return encoder_model(&distilbert, config);
}

/* ---- The family ------------------------------------------------------------------------------ */

static Module *make(const ModelPreset *preset)
{
    return nn_distilbert(&preset->config.distilbert);
}

static ModelSizes sizes(const ModelPreset *preset)
{
    return encoder_sizes(&preset->config.distilbert);
}

const ModelFamilyRow distilbert_family = {
    .name = "distilbert",
    .reads = MODEL_READS_TEXT,
    .objective = OBJECTIVE_MASKED,
    .gpt_block = 1,
    .lr = 1e-3f,
    .make = make,
    .sizes = sizes,
    .vocab_at = offsetof(ModelPreset, config.distilbert.vocab),
    .attention_at = offsetof(ModelPreset, config.distilbert.attention),
    .dropout_at = offsetof(ModelPreset, config.distilbert.dropout),
    .classes_at = offsetof(ModelPreset, config.distilbert.classes),
    .head_dropout_at = offsetof(ModelPreset, config.distilbert.head_dropout),
};
