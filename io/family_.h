/* What the files of io that know one family share. A family is a row, made in a file of its own, and the
 * lists of all are in families.c. */
#ifndef BRIM_FAMILY_INTERNAL_H
#define BRIM_FAMILY_INTERNAL_H

#include "io_.h"

/* No published model comes near; beyond them a byte count could overflow. */
enum {
    MOST_WIDTH = 1 << 20,
    MOST_FFN = 1 << 22,
    MOST_LAYERS = 10000,
    MOST_HEADS = 1 << 16,
    MOST_VOCAB = 1 << 26,
    MOST_POSITIONS = 1 << 28,
    MOST_TYPES = 1 << 16,
    MOST_EXPERTS = 1024 /* that a layer can have here */
};

/* A model_type. */
typedef struct ConfigType {
    const char *model_type;   /* "mistral" */
    const char *architecture; /* the class of transformers that is meant */
    /* Fills f->model->preset.config and raises what is not computed. kind: what sets this type apart from
     * others with the same reader. */
    void (*read)(Fields *f, const void *kind);
    const void *kind;
    const char *classifier; /* the class with a head of labels in place of the architecture's; NULL = none */
} ConfigType;

typedef struct TiedName {
    const char *name, *parameter; /* stored beside it, or instead of it */
} TiedName;

/* What files call the parts of experts. Here those of a layer are two parameters, …mlp.experts.gate_up_proj
 * and …mlp.experts.down_proj; there each expert's matrices are tensors of their own,
 * …mlp.experts.0.w1.weight. */
typedef struct ExpertNames {
    const char *block; /* "mlp", or what it is there: "block_sparse_moe" */
    const char *gate, *up, *down;
} ExpertNames;

enum { FAMILY_TYPES = 4, IGNORED_MOST = 5 };

/* What a family's tensors are called, beside the names of the parameters here. */
typedef struct FamilyNames {
    const char *prefix; /* that files of the bare body lack */
    TiedName tied[2];
    const char *buffers[IGNORED_MOST];     /* endings */
    const char *other_heads[IGNORED_MOST]; /* beginnings, with or without the prefix */
    /* Beginnings of a classifier's parameters: a file of another head has none of the first, and may lack the
     * second; then they are new. */
    const char *classifier[2];
    const char *head;    /* what files call lm_head.weight; NULL = that */
    ExpertNames experts; /* NULLs: there are none */
} FamilyNames;

/* All zero for what transformers does not have. */
typedef struct FamilyFiles {
    ConfigType types[FAMILY_TYPES];
    /* Every field that decides something, whatever transformers' default is. */
    void (*write)(json_t **object, const ModelPreset *preset);
    int (*check)(const ModelPreset *preset); /* raises for what transformers cannot build; NULL = nothing */
    FamilyNames names;
    const char *adapted[2]; /* the modules that PEFT adapts where an adapter names none */
    int padding_places; /* pad_token_id says where positions begin: it is the model's, not a tokenizer's */
} FamilyFiles;

/* The row of a family, by its number or the name of its modules' class; NULL = none. (families.c) */
const FamilyFiles *family_files(ModelFamily family);
const FamilyFiles *family_files_named(const char *model);

/* Raises what is missing for a model_type that is known and not read, and what is near; 0 for any other.
 * (unread.c) */
int unread_family(Fields *f, const char *type);
/* A type that is not read, as one that is and from which it differs little: fills the model, approximate too,
 * and returns the class of transformers that is meant; NULL: it differs in more than that. And as which type
 * that would be. (approximate.c) */
const char *approximate_read(Fields *f, const char *type);
const char *approximate_as(const char *type);
/* The type of this name, and its family's number; NULL = none, as for a name that is NULL. */
const ConfigType *config_type(const char *name, ModelFamily *family);

/* ---- For readers ----------------------------------------------------------------------------- */

/* Attention has no dropout here; what the file says of it becomes a note. */
void note_attention_dropout(Fields *f, const char *name, double otherwise);
/* One of the known ones, NULL at the end; the first where it is absent. wanted: how a message says them. */
void read_activation(Fields *f, const char *name, const char *const *known, const char *wanted);
/* The heads must divide the width. */
void check_heads(Fields *f, const char *heads_name, int heads, const char *width_name, int width);

/* BERT's fields, which others of its kind have too: vocab is the default, title the family's in messages.
 * (family_bert.c) */
void read_encoder(Fields *f, BertConfig *c, int vocab, const char *title);
/* What the field says of a classifier's dropout, as BertConfig.head_dropout has it. */
float read_head_dropout(Fields *f, const char *name, double otherwise);
void write_encoder(json_t **object, const BertConfig *c, int positions); /* rows of their table */

/* Where the file is of a classifier: its classes, and what it learns. (labels.c) */
void read_classes(Fields *f, const ConfigType *type);

/* ---- For writers ----------------------------------------------------------------------------- */

/* Without memory for it there is no object any more. */
void config_put(json_t **object, const char *name, json_t *value);
/* id2label and label2id, where they are not the source's already; names NULL: LABEL_0 and so on. (labels.c)
 */
void put_labels(json_t **set, const json_t *source, const ModelPreset *preset, const char *const *names);
/* The class of transformers that the preset is. */
const char *config_class(const ConfigType *type, const ModelPreset *preset);
/* A float as its shortest decimal: 1e-5, not 9.99999974e-06. */
json_t *config_decimal(float value);

/* ---- The rows, each at the end of its file: mlp_files, bert_files, … -------------------------- */

#define FAMILY_FILES(id, config, name) extern const FamilyFiles name##_files;
MODEL_FAMILIES(FAMILY_FILES)

#endif
