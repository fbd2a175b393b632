/* How fast weights come in and what the process holds meanwhile: plans a script that makes a model and loads
 * it, runs it in what the plan says, and prints gigabytes a second of the file, the plan's need, and the
 * highest resident set. bench/load.py does the same with safetensors and PyTorch.
 *
 *     build/bench/load DIRECTORY [rounds]   (a config.json and its weights; run it twice: the first time
 * reads the disk)
 */
#include <stdio.h>
#include <stdlib.h>

#include "../base/clock_.h"
#include "../brim.h"

typedef struct Load {
    const char *directory;
    IoModel model;
    int rounds;
    double seconds; /* the fastest */
    uint64_t bytes, resident, peak;
} Load;

static uint64_t file_bytes(const char *directory)
{
    Safetensors *file = safetensors_open(directory);
    uint64_t bytes = 0;
    for (int i = 0; i < safetensors_count(file); i++)
        bytes += safetensors_at(file, i)->bytes;
    safetensors_close(file);
    return bytes;
}

static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file && fputs("5", file) >= 0)
        fclose(file);
}

static int script(void *config)
{
    Load *load = config;
    Module *model = nn_model(&load->model.preset);
    int meta = context_is_meta(context_current());
    nn_parameters(model);
    load->bytes = file_bytes(load->directory);
    load->resident = memtrack_process_resident();
    reset_peak();
    for (int i = 0; i < (meta ? 1 : load->rounds) && !error_code(); i++) {
        double start = clock_now();
        io_load_weights(model, load->directory, NULL, NULL);
        double took = clock_now() - start;
        load->seconds = i == 0 || took < load->seconds ? took : load->seconds;
    }
    load->peak = memtrack_process_resident_peak();
    return error_code();
}

int main(int argc, char **argv)
{
    Load load = {.directory = argv[1], .rounds = argc > 2 ? atoi(argv[2]) : 5};
    RunOptions options = {.quiet = 1, .seed = 1};
    Plan plan;
    RunResult result;
    if (argc < 2 || io_read_config(argv[1], &load.model)) {
        fprintf(stderr, "load: %s\n", argc < 2 ? "load DIRECTORY [rounds]" : error_message());
        return 1;
    }
    if (plan_script(script, &load, &options, &plan) ||
        plan_execute(script, &load, &options, &plan, &result)) {
        fprintf(stderr, "load: %s\n", plan.status ? plan.error : result.error);
        return 1;
    }
    const double mib = 1 << 20;
    printf("%.1f MiB of weights in %.3f s: %.2f GB/s; planned %.1f MiB, measured %.1f MiB; "
           "resident before %.1f MiB, highest while loading %.1f MiB\n",
           (double)load.bytes / mib, load.seconds, 1e-9 * (double)load.bytes / load.seconds,
           (double)plan.memory.stats.needs / mib, (double)result.memory.stats.peak / mib,
           (double)load.resident / mib, (double)load.peak / mib);
    plan_free(&plan);
    return 0;
}
