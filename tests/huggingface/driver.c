/* What brim computes with a checkpoint of transformers', for check.py to compare: reads a model's directory
 * and a file of inputs, writes a file with logits (or hidden states), loss, every gradient, and the losses of
 * training steps; and saves the model again.
 *
 *     driver MODEL INPUTS.safetensors OUTPUTS.safetensors [--encoder] [--partial] [--eager] [--chunk ROWS]
 *            [--steps N --batch B --lr X] [--save DIR --dtype f32 --shard BYTES --alone]
 *            [--adapter DIR | --lora RANK] [--save-adapter DIR] [--merge] [--quantized]
 *
 * Inputs (int32): ids, labels (rows,T); mask and types where wanted. With --encoder: upstream (rows,T,C)
 * float32, which takes the place of labels: the loss is the sum of hidden states times it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../brim.h"
#include "../tensor_data.h"
#include "../../base/half_.h"

typedef struct Arguments {
    const char *model, *inputs, *outputs, *save, *dtype, *adapter, *save_adapter;
    int encoder, partial, eager, chunk, steps, batch, shard, lora, merge, quantized, alone;
    float lr;
} Arguments;

typedef struct Run {
    Arguments arguments;
    IoModel described;
    Module *model;
    Safetensors *inputs;
    Tensor *logits; /* or hidden states */
    float loss, *losses;
} Run;

static void die_on_error(void)
{
    if (!error_code())
        return;
    fprintf(stderr, "driver: %s\n", error_message());
    exit(1);
}

static Arguments parse(int argc, char **argv)
{
    Arguments a = {.model = argv[1], .inputs = argv[2], .outputs = argv[3], .dtype = "f32"};
    for (int i = 4; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--encoder"))
            a.encoder = 1;
        else if (!strcmp(argv[i], "--partial"))
            a.partial = 1;
        else if (!strcmp(argv[i], "--eager"))
            a.eager = 1;
        else if (!strcmp(argv[i], "--merge"))
            a.merge = 1;
        else if (!strcmp(argv[i], "--quantized"))
            a.quantized = 1;
        else if (!strcmp(argv[i], "--alone")) /* with a config.json that is not made from the model's */
            a.alone = 1;
        else if (i++, !strcmp(argv[i - 1], "--chunk"))
            a.chunk = atoi(value);
        else if (!strcmp(argv[i - 1], "--steps"))
            a.steps = atoi(value);
        else if (!strcmp(argv[i - 1], "--batch"))
            a.batch = atoi(value);
        else if (!strcmp(argv[i - 1], "--lr"))
            a.lr = (float)atof(value);
        else if (!strcmp(argv[i - 1], "--save"))
            a.save = value;
        else if (!strcmp(argv[i - 1], "--adapter"))
            a.adapter = value;
        else if (!strcmp(argv[i - 1], "--save-adapter"))
            a.save_adapter = value;
        else if (!strcmp(argv[i - 1], "--lora"))
            a.lora = atoi(value);
        else if (!strcmp(argv[i - 1], "--dtype"))
            a.dtype = value;
        else if (!strcmp(argv[i - 1], "--shard"))
            a.shard = atoi(value);
    }
    return a;
}

static void open_model(Run *r)
{
    const Arguments *a = &r->arguments;
    WeightsReport report;
    if (io_find_model(a->model, &r->described))
        return;
    ModelPreset preset = r->described.preset;
    nn_preset_set_dropout(&preset, 0);
    nn_preset_set_attention(&preset, a->eager ? ATTENTION_EAGER : ATTENTION_FLASH);
    if (a->encoder)
        preset.config.bert.pooler = r->described.preset.config.bert.pooler = 1;
    if (a->quantized)
        nn_set_weights(
            &(Weights){.quantized = r->described.quantized, .not_quantized = r->described.not_quantized});
    r->model = nn_model(&preset);
    nn_set_weights(NULL);
    if (io_load_weights(r->model, a->model, &(WeightsOptions){.partial = a->partial}, &report) == 0 &&
        report.note[0])
        printf("driver: %s\n", report.note);
    if (a->adapter)
        io_load_adapter(r->model, a->adapter, NULL, NULL);
    if (a->lora)
        nn_add_lora(r->model, &(Lora){.rank = a->lora, .alpha = 16, .rslora = 1});
    if (a->chunk)
        nn_set_loss_chunk(r->model, a->chunk);
}

/* Rows [first, first + count) of an input; NULL where there is none. */
static Tensor *rows(const Run *r, const char *name, int64_t first, int64_t count)
{
    const SafetensorsEntry *entry = safetensors_find(r->inputs, name);
    if (!entry)
        return NULL;
    int64_t width = entry->numel / entry->dim[0];
    Shape shape = {.ndim = entry->ndim, .dim = {count, 1, 1, 1}};
    for (int i = 1; i < entry->ndim; i++)
        shape.dim[i] = entry->dim[i];
    const char *from = (const char *)entry->data + 4 * first * width;
    return tensor_from(entry->type == SAFETENSORS_F32 ? DTYPE_F32 : DTYPE_I32, shape, MEM_INPUT, from);
}

static Batch batch_of(const Run *r, int64_t first, int64_t count)
{
    Batch batch = {.ids = rows(r, "ids", first, count),
                   .labels = rows(r, "labels", first, count),
                   .mask = rows(r, "mask", first, count),
                   .types = rows(r, "types", first, count)};
    for (int64_t i = 0; i < tensor_numel(batch.labels); i++)
        batch.labels_total += tensor_i32(batch.labels)[i] != BATCH_IGNORE;
    return batch;
}

static void first_gradients(Run *r, int64_t count)
{
    Batch batch = batch_of(r, 0, count);
    tensor_no_grad_begin();
    r->logits = nn_forward(r->model, NULL, &batch);
    tensor_no_grad_end();
    Tensor *loss =
        r->arguments.encoder
            ? tensor_sum(tensor_mul(nn_forward(r->model, NULL, &batch), rows(r, "upstream", 0, count)))
            : nn_loss(r->model, &batch);
    r->loss = tensor_item(loss);
    tensor_backward(loss);
}

static void train(Run *r)
{
    const Arguments *a = &r->arguments;
    Optimizer *optimizer = optim_by_name("adamw", nn_parameters(r->model), a->lr, -1);
    for (int step = 0; step < a->steps && !error_code(); step++) {
        int scope = tensor_scope_begin();
        Batch batch = batch_of(r, (int64_t)step * a->batch, a->batch);
        tensor_backward(nn_loss(r->model, &batch));
        r->losses[step] = (float)tensor_step_loss();
        optim_step(optimizer);
        optim_zero_grad(optimizer);
        tensor_scope_end(scope);
    }
}

static SafetensorsItem item_of(const char *name, Shape shape, const void *data)
{
    SafetensorsItem item = {.name = name, .type = SAFETENSORS_F32, .ndim = shape.ndim, .data = data};
    memcpy(item.dim, shape.dim, sizeof shape.dim);
    return item;
}

enum { TENSORS_MOST = 4096, NAME_MOST = 160 };

static void write_outputs(Run *r)
{
    static SafetensorsItem items[TENSORS_MOST];
    static char names[TENSORS_MOST][NAME_MOST];
    TensorList list = nn_parameters(r->model);
    int count = 0;
    if (r->arguments.steps)
        items[count++] = item_of("losses", SHAPE(r->arguments.steps), r->losses);
    if (r->logits) {
        items[count++] = item_of("logits", tensor_shape(r->logits), tensor_f32(r->logits));
        items[count++] = item_of("loss", SHAPE(1), &r->loss);
    }
    for (int i = 0; i < list.count && r->logits; i++) {
        if (!tensor_has_grad(list.items[i]))
            continue;
        snprintf(names[count], NAME_MOST, "grad.%s", tensor_name(list.items[i]));
        items[count] = item_of(names[count], tensor_shape(list.items[i]), grad_f32(list.items[i]));
        count++;
    }
    die_on_error();
    safetensors_write(r->arguments.outputs, items, count);
}

/* driver --halves INPUTS OUTPUTS: floats to bits of both 16-bit types, and those bits to floats, with nothing
 * that io refuses in between. Inputs: floats (n) F32, bits (n) I32, one pattern each. */
static int halves(const char *inputs, const char *outputs)
{
    context_use(context_create(&(ContextOptions){.threads = 1}));
    Safetensors *file = safetensors_open(inputs);
    const SafetensorsEntry *floats = safetensors_find(file, "floats"), *bits = safetensors_find(file, "bits");
    die_on_error();
    size_t n = (size_t)floats->numel, m = (size_t)bits->numel;
    uint16_t *f16 = malloc(2 * n), *bf16 = malloc(2 * n), *patterns = malloc(2 * m);
    float *from_f16 = malloc(4 * m), *from_bf16 = malloc(4 * m);
    for (size_t i = 0; i < m; i++)
        patterns[i] = (uint16_t)((const int32_t *)bits->data)[i];
    half_encode_f16(n, floats->data, f16);
    half_encode_bf16(n, floats->data, bf16);
    half_decode_f16(m, patterns, from_f16);
    half_decode_bf16(m, patterns, from_bf16);
    const SafetensorsItem items[] = {{"f16", SAFETENSORS_I16, 1, {(int64_t)n}, .data = f16},
                                     {"bf16", SAFETENSORS_I16, 1, {(int64_t)n}, .data = bf16},
                                     {"from_f16", SAFETENSORS_F32, 1, {(int64_t)m}, .data = from_f16},
                                     {"from_bf16", SAFETENSORS_F32, 1, {(int64_t)m}, .data = from_bf16}};
    safetensors_write(outputs, items, 4);
    die_on_error();
    return 0; /* and with it all memory goes */
}

int main(int argc, char **argv)
{
    static float losses[1024];
    if (argc == 4 && !strcmp(argv[1], "--halves"))
        return halves(argv[2], argv[3]);
    if (argc < 4) {
        fprintf(stderr, "driver MODEL INPUTS.safetensors OUTPUTS.safetensors […]\n");
        return 2;
    }
    Run run = {.arguments = parse(argc, argv), .losses = losses};
    const Arguments *a = &run.arguments;
    context_use(context_create(&(ContextOptions){.threads = 2, .seed = 1}));
    open_model(&run);
    run.inputs = safetensors_open(a->inputs);
    die_on_error();
    if (a->steps)
        train(&run);
    else
        first_gradients(&run, safetensors_find(run.inputs, "ids")->dim[0]);
    die_on_error();
    write_outputs(&run);
    if (a->save_adapter)
        io_save_adapter(run.model, a->save_adapter, &(AdapterSaving){.base = a->model, .overwrite = 1});
    if (a->merge)
        nn_merge(run.model, DTYPE_F32);
    const WeightsSaving how = {.type = (SafetensorsType)safetensors_type_of(a->dtype),
                               .shard = (uint64_t)a->shard,
                               .source = a->alone ? NULL : a->model,
                               .overwrite = 1};
    if (a->save)
        io_save_weights(run.model, &run.described.preset, a->save, &how);
    die_on_error();
    context_destroy(context_current());
    return 0;
}
