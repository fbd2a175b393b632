/* What BERT, RoBERTa and DistilBERT share: an encoder with LayerNorm behind each branch, learned positions,
 * and a masked-language-model head whose decoder is the embedding. They differ in what their parts are
 * called, where positions begin, and a few parts that one of them lacks: a family is such a description. */
#ifndef BRIM_ENCODER_INTERNAL_H
#define BRIM_ENCODER_INTERNAL_H

#include "module_.h"

typedef struct Encoder Encoder;
typedef struct EncoderKind {
    const ModuleClass *whole, *block; /* below; the first one's name is the family's */
    AttentionStyle style;
    int plain_attention; /* no dropout behind it */
    int first_position;  /* the row of the positions that is the first token's, unless the model says it */
    void (*begin)(Encoder *self, const BertConfig *config); /* behind the initial values; NULL: nothing */
    /* Of the model: */
    const char *words, *positions, *types, *norm, *dropout; /* types NULL: it has none */
    const char *layers;                                     /* of which each block is a number */
    const char *pooler;                                     /* NULL: it has none */
    /* What has the head's bias and transform; NULL: the model has the transform, and the decoder its bias. */
    const char *predictions;
    const char *transform, *head_norm; /* within that */
    const char *decoder;
    ClassifierKind classifier; /* of a model with classes; out NULL: it has none */
    /* Of a block: */
    const char *attention, *attention_norm, *up, *down, *output_norm;
} EncoderKind;

/* State and forward of a family's two classes. */
typedef struct EncoderBlock {
    const EncoderKind *kind;
    Module *attention, *norm1, *up, *down, *norm2, *dropout;
} EncoderBlock;
Tensor *encoder_block_forward(Module *module, Tensor *x, const Batch *batch); /* (B,T,C) */

struct Encoder {
    const EncoderKind *kind;
    Module *words, *norm, *dropout, *pooler, *transform, *head_norm, *decoder;
    Classifier classifier; /* in place of the decoder, where there are classes */
    Tensor *word_table, *positions, *types, *decoder_bias;
    int first_position;
};
Tensor *encoder_forward(Module *module, Tensor *x,
                        const Batch *batch); /* (B,T,V), (B,classes), or hidden states */

Module *encoder_block(const EncoderKind *kind, const BertConfig *config);
Module *encoder_model(const EncoderKind *kind, const BertConfig *config);
/* The row of the positions that is the first token's. */
int encoder_first_position(const EncoderKind *kind, const BertConfig *config);
/* For the row of a family. */
ModelSizes encoder_sizes(const BertConfig *config);

#endif
