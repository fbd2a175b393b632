/* --lora, --adapter, --export-adapter and --merge: what they say, and what they do to a model. */
#ifndef BRIM_CLI_LORA_H
#define BRIM_CLI_LORA_H

#include "cli.h"

enum { LORA_TARGETS = 512 };

/* What --lora says. */
typedef struct LoraChoice {
    Lora lora; /* its targets are those below */
    char targets[LORA_TARGETS];
} LoraChoice;

/* Reads "r=16,alpha=32,dropout=0.05,targets=q_proj,v_proj,rslora". 0, or EXIT_USAGE after saying why. */
int lora_parse(const char *text, LoraChoice *out);
/* Whether the model has adapters, new ones or some that are read. */
int has_adapters(const Options *o);
/* What is wrong with these options together; 0 or EXIT_USAGE. */
int check_adapters(const Options *o);
/* Gives the model its adapters; nothing where none are asked for. Raises. */
void add_adapters(const Options *o, Module *model);
/* "LoRA r 16, alpha 32 of all layers" and "adapter DIR"; "" where there are none. */
LeverText lora_title(const Options *o);
LeverText adapter_title(const Options *o);
AdapterSaving adapter_saving(const Options *o);

#endif
