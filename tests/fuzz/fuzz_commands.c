/* Whole commands, an argument a line, an empty line between two, in a folder with small files of every kind:
 * directories of models (l, g, b, one whose name is no UTF-8), a tokenizer, a text, ids, images, a run log.
 * With --json what is done prints one object. Commands that would take long are not run. */
#include "../../cli/cli.h"
#include "fuzz_folder.h"

int brim_main(int argc, char **argv);
#define main brim_main
#include "../../cli/main.c"
#undef main

enum { COMMANDS = 4, LOG_ROOM = 1 << 17 };

/* ---- The folder ------------------------------------------------------------------------------ */

static const ModelPreset small[] = {
    {"l", "", .batch = 1, .seq = 8, .family = MODEL_LLAMA,
     .config.llama =
         {.vocab = 260, .dim = 8, .layers = 2, .heads = 2, .kv_heads = 1, .hidden = 8, .max_seq = 64}},
    {"g", "", .batch = 1, .seq = 8, .family = MODEL_GPT2,
     .config.gpt2 = {.vocab = 260, .dim = 8, .layers = 1, .heads = 2, .ffn = 8, .max_seq = 64}},
    {"b", "", .batch = 1, .seq = 8, .family = MODEL_BERT,
     .config.bert = {.vocab = 260, .dim = 8, .layers = 1, .heads = 2, .ffn = 8, .max_seq = 64}},
};
enum { SMALL = sizeof small / sizeof small[0] };

typedef struct Kept {
    const char *name;
    char *bytes;
    size_t size;
} Kept;

static void keep(Kept *kept, const char *name, const char *path)
{
    char *bytes = malloc(LOG_ROOM);
    FILE *file = fopen(path, "rb");
    fuzz_check(file != NULL, path);
    *kept = (Kept){name, bytes, fread(bytes, 1, LOG_ROOM, file)};
    fclose(file);
}

static void put(const char *name, const void *bytes, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "work/%s", name);
    fuzz_put(path, bytes, size);
}

static void put_images(void)
{
    uint8_t images[16 + 4 * 784] = {0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 28, 0, 0, 0, 28};
    static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 9, 0};
    memset(images + 16, 7, sizeof images - 16);
    put("i/train-images-idx3-ubyte", images, sizeof images);
    put("i/train-labels-idx1-ubyte", labels, sizeof labels);
    put("i/t10k-images-idx3-ubyte", images, sizeof images);
    put("i/t10k-labels-idx1-ubyte", labels, sizeof labels);
}

/* What is made once: the models' directories, written by the library, and a run log. */
static int make_kept(Kept *kept, const char *log)
{
    static const char *const files[SMALL][2] = {{"l/config.json", "l/model.safetensors"},
                                                {"g/config.json", "g/model.safetensors"},
                                                {"b/config.json", "b/model.safetensors"}};
    int count = 0;
    keep(&kept[count++], "run.jsonl", log);
    for (int i = 0; i < SMALL; i++) {
        fuzz_begin(0);
        fuzz_check(!io_save_weights(nn_model(&small[i]), &small[i], fuzz_path(small[i].name), NULL),
                   "a model is not written");
        fuzz_end();
        keep(&kept[count++], files[i][0], fuzz_path(files[i][0]));
        keep(&kept[count++], files[i][1], fuzz_path(files[i][1]));
    }
    return count;
}

static void fill(void)
{
    static const char tokenizer[] =
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1,"
        "\"b\":2,\"ab\":3,\"T\":4,\"h\":5,\"e\":6,\"[CLS]\":7,\"[SEP]\":8,\"[MASK]\":9},\"merges\":[\"a "
        "b\"]}}";
    static const char pairs[] = "{\"prompt\": \"ab \", \"completion\": \"Th\"}\n{\"ids\": [1, 2, 3, 4, 5, 6]}\n"
                                "{\"ids\": [7, 8, 9], \"labels\": [-100, -100, 1]}\n{\"prompt\": \"\", "
                                "\"completion\": \"The abe\"}\n";
    static const char *const folders[] = {"l", "g", "b", "i", "\xe9"};
    static Kept kept[1 + 2 * SMALL];
    static char text[1024], ids[sizeof text];
    static int count;
    if (!count) {
        count = make_kept(kept, "tests/fuzz/run.jsonl");
        data_corpus(1, text, sizeof text);
        for (size_t i = 0; i < sizeof ids; i += 2)
            ids[i] = text[i];
    }
    fuzz_folder_empty();
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        fuzz_check(!mkdir(folders[i], 0700), "no folder");
    for (int i = 0; i < count; i++)
        put(kept[i].name, kept[i].bytes, kept[i].size);
    put("\xe9/config.json", kept[1].bytes, kept[1].size);
    put("t.json", tokenizer, sizeof tokenizer - 1);
    put("text", text, sizeof text);
    put("p", pairs, sizeof pairs - 1);
    put("x.bin", ids, sizeof ids);
    put_images();
}

/* ---- Which commands are short ---------------------------------------------------------------- */

static int small_model(const ModelPreset *p)
{
    const LlamaConfig *l = &p->config.llama;
    const Gpt2Config *g = &p->config.gpt2;
    const BertConfig *b = &p->config.bert;
    switch (p->family) {
    case MODEL_LLAMA:
        return l->dim <= 16 && l->layers <= 2 && l->vocab <= 512;
    case MODEL_GPT2:
        return g->dim <= 16 && g->layers <= 2 && g->vocab <= 512;
    case MODEL_BERT:
        return b->dim <= 16 && b->layers <= 2 && b->vocab <= 512;
    default:
        return p->config.mlp.sizes[1] <= 512;
    }
}

static int is_short(const Options *o, int trains)
{
    int64_t samples = (int64_t)o->batch * o->accumulate;
    if (!small_model(&o->preset) || samples > 16 || o->seq > 64 || o->run_steps || o->threads > 2)
        return 0;
    if (o->generate)
        return o->tokens <= 16;
    return !trains ||
           (o->sample <= 16 && o->steps <= 2 && (!o->epochs || (o->epochs == 1 && samples * o->seq >= 64)));
}

/* Commands that print alone, or have options of their own, are. */
static int runs_briefly(FuzzArguments *a)
{
    static Options sets[SETS_MAX];
    static const char *const long_ones[] = {"train", "demo", "plan", "compare", "fit", "generate"};
    for (size_t i = 0; i < sizeof long_ones / sizeof long_ones[0]; i++) {
        if (strcmp(a->item[0], long_ones[i]))
            continue;
        char text[sizeof a->text]; /* lists are cut in place */
        memcpy(text, a->text, sizeof text);
        int found = options_parse(sets, !strcmp(a->item[0], "compare") ? SETS_MAX : 1, a->item[0],
                                  a->count - 1, a->item + 1);
        memcpy(a->text, text, sizeof text);
        for (int k = 0; k < found; k++)
            if (found > 4 || !is_short(&sets[k], i < 2))
                return 0;
    }
    return 1;
}

static int has(const FuzzArguments *a, const char *argument)
{
    for (int i = 0; i < a->count; i++)
        if (!strcmp(a->item[i], argument))
            return 1;
    return 0;
}

/* Whether what is printed, when the command is done, is to be an object. */
static int prints_json(const FuzzArguments *a)
{
    static const char *const others[] = {"help", "version", "--version", "report", "demo"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (!strcmp(a->item[0], others[i]))
            return 0;
    return has(a, "--json") && !has(a, "--help") && !has(a, "-h");
}

/* Runs the command; returns its exit code, and what it printed, to be freed. */
static int run_command(int count, char **all, char **printed, size_t *size)
{
    FILE *real = stdout;
    stdout = open_memstream(printed, size);
    int status = brim_main(count, all);
    fclose(stdout);
    stdout = real;
    return status;
}

static void run_line(const char *data, size_t size)
{
    static FuzzArguments a;
    char *all[FUZZ_ARGUMENTS + 2] = {(char[]){"brim"}}, *printed = NULL;
    size_t length = 0;
    fuzz_arguments(&a, data, size);
    if (!runs_briefly(&a))
        return;
    memcpy(all + 1, a.item, sizeof a.item);
    int json = prints_json(&a), status = run_command(a.count + 1, all, &printed, &length);
    fuzz_check(status == EXIT_DONE || status == EXIT_NO || status == EXIT_USAGE,
               "an exit code of no meaning");
    if (json && status == EXIT_DONE) {
        json_t *object = json_loadb(printed, length, JSON_ALLOW_NUL, NULL);
        fuzz_check(object != NULL, "what --json prints is no JSON");
        json_decref(object);
    }
    free(printed);
    error_clear();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *at = (const char *)data, *end = at + size;
    fill();
    fuzz_begin(0);
    for (int i = 0; i < COMMANDS && at < end; i++) {
        const char *gap = memmem(at, (size_t)(end - at), "\n\n", 2);
        run_line(at, (size_t)((gap ? gap : end) - at));
        at = gap ? gap + 2 : end;
    }
    fuzz_end();
    return 0;
}
