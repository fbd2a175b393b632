/* state.json of a saved run: as it is, and with the checksum that belongs to it, so that what lies behind the
 * checksum is read too; then compared with a run, and loaded into it. */
#include <inttypes.h>
#include <zlib.h>

#include "../../io/checkpoint_.h"
#include "fuzz.h"

#define TAIL ",\n\"crc32\": \"%08" PRIx32 "\"}\n"

static void load(const CheckpointRun *run)
{
    CheckpointState state;
    CheckpointFound found;
    const char *directory = fuzz_path("saved"), *checkpoint = fuzz_path("saved/step-00000001");
    fuzz_agree(checkpoint_state_read(checkpoint, &state) != 0);
    if (!error_code()) {
        fuzz_agree(checkpoint_state_compare("state.json", run, &state) != 0);
        error_clear();
        fuzz_agree(checkpoint_check_files(checkpoint, &state, 1) != 0);
        checkpoint_state_free(&state);
    }
    error_clear();
    fuzz_agree(io_find_checkpoint(directory, &found) != 0);
    error_clear();
    fuzz_agree(io_load_checkpoint(checkpoint, run, &found) != 0);
    error_clear();
}

static void one(const void *data, size_t size, int meta)
{
    static const CheckpointSetting settings[] = {{"model", "mlp"}, {"batch", "2"}};
    fuzz_put("saved/step-00000001/state.json", data, size);
    fuzz_begin(meta);
    Module *model = nn_mlp(&(MlpConfig){.sizes = {3, 2}});
    CheckpointRun run = {.model = model,
                         .optimizer = optim_by_name("adamw", nn_parameters(model), 0, 0),
                         .settings = settings,
                         .setting_count = 2};
    load(&run);
    fuzz_end();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char tail[32];
    uint8_t *summed = malloc(size + sizeof tail);
    mkdir(fuzz_path("saved"), 0700);
    mkdir(fuzz_path("saved/step-00000001"), 0700);
    fuzz_put("saved/step-00000001/model.safetensors", "12345678", 8);
    fuzz_put("saved/step-00000001/optimizer.safetensors", "12345678", 8);
    int length = snprintf(tail, sizeof tail, TAIL, (uint32_t)crc32_z(0, data, size));
    memcpy(summed, data, size);
    memcpy(summed + size, tail, (size_t)length);
    one(data, size, 0);
    one(summed, size + (size_t)length, size & 1);
    free(summed);
    return 0;
}
