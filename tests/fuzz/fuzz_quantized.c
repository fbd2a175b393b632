/* A checkpoint that bitsandbytes quantised, loaded into a small model: a file that is right, edited. The
 * first byte says which model and how it is loaded, then come edits of four bytes each. What stands after two
 * bytes 0xFF takes the place of a quant_state. What does not load must be refused with a message. */
#include "../../base/quant_codes_.h"
#include "../../io/safetensors_.h"
#include "../../io/weights.h"
#include "fuzz_json.h"

enum { ITEMS = 96, NAME = 112, BYTES = 2048 };

static const ModelPreset models[] = {
    {"llama", "", .batch = 1, .seq = 4, .family = MODEL_LLAMA,
     .config.llama = {.vocab = 5, .dim = 4, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 3}},
    {"gpt2", "", .batch = 1, .seq = 4, .family = MODEL_GPT2,
     .config.gpt2 = {.vocab = 5, .dim = 12, .layers = 1, .heads = 2, .ffn = 7, .max_seq = 4}},
};

typedef struct Item {
    char name[NAME];
    SafetensorsItem item;
    _Alignas(8) unsigned char bytes[BYTES];
} Item;

static Item items[ITEMS];
static int count;

static void add(const char *name, const char *end, SafetensorsType type, int64_t rows, int64_t cols,
                const void *bytes)
{
    Item *to = &items[count++];
    snprintf(to->name, NAME, "%.90s%s", name, end);
    to->item = (SafetensorsItem){to->name, type, cols ? 2 : 1, {rows, cols}, .data = to->bytes};
    for (int i = 0; i < BYTES; i++)
        to->bytes[i] = (unsigned char)(i % 4 == 3 ? 61 : i * 7); /* floats around 0.1 */
    if (bytes)
        memcpy(to->bytes, bytes, (size_t)(rows * 4));
}

/* What belongs to a quantised weight (rows, cols). */
static void add_quantized(const char *name, DType dtype, int64_t rows, int64_t cols)
{
    QuantLayout l = quant_layout(dtype, rows, cols);
    char state[256], module[NAME];
    snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - strlen(".weight")), name);
    if (dtype == DTYPE_INT8) {
        add(name, "", SAFETENSORS_I8, rows, cols, NULL);
        add(module, ".SCB", SAFETENSORS_F32, rows, 0, NULL);
        return;
    }
    int nested = dtype == DTYPE_NF4;
    add(name, "", SAFETENSORS_U8, (int64_t)l.codes_bytes, 1, NULL);
    add(name, ".absmax", nested ? SAFETENSORS_U8 : SAFETENSORS_F32, l.blocks, 0, NULL);
    add(name, ".quant_map", SAFETENSORS_F32, 16, 0, nf4_code);
    int n = snprintf(
        state, sizeof state,
        "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", \"shape\": [%d, %d]%s}",
        (int)rows, (int)cols,
        nested ? ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.25" : "");
    add(name, ".quant_state.bitsandbytes__nf4", SAFETENSORS_U8, n, 0, NULL);
    memcpy(items[count - 1].bytes, state, (size_t)n);
    if (nested) {
        add(name, ".nested_absmax", SAFETENSORS_F32, l.groups, 0, NULL);
        add(name, ".nested_quant_map", SAFETENSORS_F32, 256, 0, dynamic_code);
    }
}

static void right(Module *model, DType dtype)
{
    TensorList list = nn_parameters(model);
    count = 0;
    for (int i = 0; i < list.count; i++) {
        const Tensor *t = list.items[i];
        Shape s = tensor_shape(t);
        if (dtype_is_quantized(tensor_dtype(t)))
            add_quantized(tensor_name(t), dtype, s.dim[0], s.dim[1]);
        else
            add(tensor_name(t), "", SAFETENSORS_F32, s.dim[0], s.ndim > 1 ? s.dim[1] : 0, NULL);
    }
}

/* Four bytes: which tensor, what, where and how. */
static void edit(const uint8_t *bytes)
{
    Item *to = &items[bytes[0] % count];
    SafetensorsItem *item = &to->item;
    switch (bytes[1] % 8) {
    case 0:
        snprintf(to->name, NAME, "gone.%d", bytes[0]);
        break;
    case 1:
        item->type = bytes[3] % SAFETENSORS_TYPE_COUNT;
        break;
    case 2:
        item->dim[bytes[2] % 2] = bytes[3];
        break;
    case 3:
        item->ndim = bytes[3] % 4;
        break;
    case 4: /* the place of another */
        memmove(to->name, items[bytes[3] % count].name, NAME);
        break;
    case 5:
        to->bytes[bytes[2]] = bytes[3];
        break;
    case 6: /* an exponent, mostly */
        to->bytes[bytes[2] * 4 + 3] = bytes[3];
        break;
    case 7:
        to->name[bytes[2] % (strlen(to->name) + 1)] = (char)bytes[3];
        break;
    }
}

static void replace_state(FuzzParts parts)
{
    for (int i = 0; i < count && parts.second_size; i++)
        if (strstr(items[i].name, ".quant_state.")) {
            size_t n = parts.second_size < BYTES ? parts.second_size : BYTES;
            memcpy(items[i].bytes, parts.second, n);
            items[i].item.dim[0] = (int64_t)n;
            return;
        }
}

/* Bytes that the writer reads of an element. */
static int64_t unit_of(SafetensorsType type)
{
    return type <= SAFETENSORS_BF16 ? 4 : safetensors_type_bytes(type);
}

/* Tensors of more elements than there are bytes for would be read beyond them. */
static int write_items(void)
{
    static SafetensorsItem all[ITEMS];
    for (int i = 0; i < count; i++) {
        int64_t n = 1;
        for (int k = 0; k < items[i].item.ndim; k++)
            n *= items[i].item.dim[k];
        if (n * unit_of(items[i].item.type) > BYTES)
            items[i].item.ndim = 0;
        all[i] = items[i].item;
        all[i].name = items[i].name;
    }
    int failed = safetensors_write(fuzz_path("quantized.safetensors"), all, count) != 0;
    fuzz_agree(failed);
    error_clear(); /* names that are no UTF-8, or twice */
    return failed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const DType dtypes[] = {DTYPE_INT8, DTYPE_NF4, DTYPE_NF4_PLAIN};
    if (size < 1)
        return 0;
    DType stored = dtypes[data[0] / 2 % 3], held = data[0] & 16 ? DTYPE_F32 : stored;
    int partial = data[0] & 32, meta = data[0] & 64;
    FuzzParts parts = fuzz_parts(data + 1, size - 1);
    fuzz_begin(meta != 0);
    nn_set_weights(&(Weights){.dtype = data[0] & 128 ? DTYPE_BF16 : DTYPE_F32, .quantized = stored});
    Module *model = nn_model(&models[data[0] % 2]);
    right(model, stored);
    if (held == DTYPE_F32) {
        nn_set_weights(NULL);
        model = nn_model(&models[data[0] % 2]);
    }
    for (size_t i = 0; i + 3 < parts.first_size && i < 256; i += 4)
        edit(parts.first + i);
    replace_state(parts);
    if (!write_items()) {
        fuzz_fail_one(data, size);
        WeightsReport report = {0};
        int failed = io_load_weights(model, fuzz_path("quantized.safetensors"),
                                     &(WeightsOptions){.partial = partial != 0}, &report) != 0;
        fuzz_agree(failed);
        fuzz_check(failed || report.loaded + report.missing == nn_parameters(model).count,
                   "parameters are not counted");
        fuzz_check(failed || size > 1 || report.missing == 0, "a file that is right does not load");
    }
    fuzz_end();
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 1, 0);
}
