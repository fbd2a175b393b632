/* state.json of a saved run: as it is, and with the checksum that belongs to it, so that what lies behind the
 * checksum is read too; then compared with a run, and loaded into it. It is given as a whole document; its last
 * brace comes with the checksum. The strings "@MODEL@" and "@OTHER@" in it are the size and checksum of the
 * tensors' files, which a run wrote; after two bytes 0xFF the input may have a header of
 * its own for the optimizer's, and after two more that file's bytes. */
#include <inttypes.h>
#include <zlib.h>

#include "../../io/saved_run_.h"
#include "fuzz_json.h"

#define TAIL ",\n\"crc32\": \"%08" PRIx32 "\"}\n"

typedef struct Bytes {
    uint8_t at[1 << 16];
    size_t size;
} Bytes;

static void read_file(const char *path, Bytes *bytes)
{
    FILE *file = fopen(path, "rb");
    fuzz_check(file != NULL, path);
    bytes->size = fread(bytes->at, 1, sizeof bytes->at, file);
    fclose(file);
}

static Module *small_model(void)
{
    return nn_mlp(&(MlpConfig){.sizes = {3, 2}});
}

static Loader *small_data(void)
{
    static const float features[12] = {1, 2, 3};
    static const int32_t labels[4] = {0, 1, 1, 0};
    return data_table(
        &(TableOptions){.features = features, .labels = labels, .count = 4, .width = 3, .batch = 2});
}

/* The files of a run that was saved before its first step. */
static void make_files(Bytes *model, Bytes *other)
{
    fuzz_begin(0);
    Module *made = small_model();
    SavedRun run = {.model = made, .optimizer = optim_by_name("adamw", nn_parameters(made), 0, 0)};
    fuzz_check(!io_save_run(fuzz_path("real"), &run), "no run is saved");
    fuzz_end();
    read_file(fuzz_path("real/step-00000000/model.safetensors"), model);
    read_file(fuzz_path("real/step-00000000/optimizer.safetensors"), other);
}

/* A header with its length before it. */
static void put_header(Bytes *to, FuzzParts parts)
{
    uint64_t length = parts.first_size;
    memcpy(to->at, &length, sizeof length);
    memcpy(to->at + sizeof length, parts.first, parts.first_size);
    memcpy(to->at + sizeof length + parts.first_size, parts.second, parts.second_size);
    to->size = sizeof length + parts.first_size + parts.second_size;
}

/* The text with what "@MODEL@" and "@OTHER@" stand for, and without its last brace. */
static void put_sums(Bytes *to, FuzzParts text, const Bytes *model, const Bytes *other)
{
    enum { MARK = 9 };
    size_t end = text.first_size && text.first[text.first_size - 1] == '}' ? text.first_size - 1 : text.first_size;
    to->size = 0;
    for (size_t i = 0; i < end && to->size + 64 < sizeof to->at;) {
        const uint8_t *at = text.first + i;
        int marked = end - i >= MARK;
        const Bytes *sum = marked && !memcmp(at, "\"@MODEL@\"", MARK)   ? model
                           : marked && !memcmp(at, "\"@OTHER@\"", MARK) ? other
                                                                        : NULL;
        if (sum)
            to->size += (size_t)sprintf((char *)to->at + to->size, "{\"bytes\": %zu, \"crc32\": %" PRIu32 "}",
                                        sum->size, (uint32_t)crc32_z(0, sum->at, sum->size));
        else
            to->at[to->size++] = *at;
        i += sum ? MARK : 1;
    }
}

static void load(const SavedRun *run)
{
    SavedRunState state;
    SavedRunFound found;
    const char *directory = fuzz_path("saved"), *saved = fuzz_path("saved/step-00000001");
    fuzz_agree(saved_run_state_read(saved, &state) != 0);
    if (!error_code()) {
        fuzz_agree(saved_run_state_compare("state.json", run, &state) != 0);
        error_clear();
        fuzz_agree(saved_run_check_files(saved, &state, 1) != 0);
        saved_run_state_free(&state);
    }
    error_clear();
    fuzz_agree(io_find_saved_run(directory, &found) != 0);
    error_clear();
    fuzz_agree(io_find_saved_run(saved, &found) != 0);
    error_clear();
    fuzz_agree(io_load_run(run->loader ? directory : saved, run, &found) != 0);
    for (int step = 0; run->loader && !error_code() && step < 2; step++)
        while (data_next(run->loader))
            ;
    error_clear();
}

static void one(const void *data, size_t size, int meta)
{
    static const SavedRunSetting settings[] = {{"model", "mlp"}, {"batch", "2"}};
    fuzz_put("saved/step-00000001/state.json", data, size);
    fuzz_begin(meta);
    Module *model = small_model();
    SavedRun run = {.model = model,
                         .optimizer = optim_by_name("adamw", nn_parameters(model), 0, 0),
                         .loader = memmem(data, size, "\"data\"", 6) ? small_data() : NULL,
                         .settings = settings,
                         .setting_count = 2};
    fuzz_fail_one(data, size);
    load(&run);
    fuzz_end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Bytes model, written, other, text;
    FuzzParts parts = fuzz_parts(data, size);
    if (!model.size)
        make_files(&model, &written);
    other = written;
    if (parts.second_size)
        put_header(&other, fuzz_parts(parts.second, parts.second_size));
    put_sums(&text, parts, &model, &other);
    mkdir(fuzz_path("saved"), 0700);
    mkdir(fuzz_path("saved/step-00000001"), 0700);
    fuzz_put("saved/step-00000001/model.safetensors", model.at, model.size);
    fuzz_put("saved/step-00000001/optimizer.safetensors", other.at, other.size);
    one(text.at, text.size, 0);
    text.size += (size_t)sprintf((char *)text.at + text.size, TAIL, (uint32_t)crc32_z(0, text.at, text.size));
    one(text.at, text.size, size & 1);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 0, 0);
}
