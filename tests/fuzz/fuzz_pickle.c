/* A memory snapshot of PyTorch, read, with its peak and its moves. */
#include "../../estimate/pytorch_allocator.h"
#include "../../report/torch_snapshot_read.h"
#include "fuzz.h"

typedef struct Moves {
    PytorchReplay *replay;
    uint64_t live, count;
} Moves;

static int move(void *user, const TorchMove *m)
{
    Moves *moves = user;
    int status = m->is_free ? estimate_pytorch_free(moves->replay, m->serial)
                            : estimate_pytorch_alloc_on(moves->replay, m->stream, m->serial, m->bytes);
    fuzz_check(m->bytes == 0 || status == 0, "a move that the allocator refuses");
    moves->live += m->is_free ? 0 - m->bytes : m->bytes;
    return 0;
}

static void check_frames(const TorchSnapshot *s)
{
    char text[64];
    for (size_t i = 0; i < s->event_count && i < 100; i++) {
        report_torch_place(s, s->events[i].frames, text, sizeof text);
        report_torch_annotation(s, s->events[i].time_us);
    }
}

static void check(const TorchSnapshot *s)
{
    Moves moves = {.replay = estimate_pytorch_create(NULL)};
    TorchLevel level = report_torch_begin(s);
    TorchPeak peak;
    uint64_t alive = 0, kinds = 0, places = 0;
    for (size_t i = 0; i < s->event_count; i++) {
        size_t pair = s->events[i].pair;
        fuzz_check(pair == TORCH_NONE || s->events[pair].pair == i, "a pair that is none");
        report_torch_apply(&level, &s->events[i]);
    }
    fuzz_check(moves.replay && report_torch_moves(s, move, &moves) == 0, "moves that stop");
    fuzz_check(moves.live == level.requested, "moves that do not sum to what is live");
    estimate_pytorch_destroy(moves.replay);
    fuzz_check(report_torch_peak(s, &peak) == 0, "no peak");
    for (size_t i = 0; i < peak.live_count; i++)
        alive += peak.live[i].bytes;
    for (size_t i = 0; i < peak.kinds.count; i++)
        kinds += peak.kinds.items[i].bytes;
    for (size_t i = 0; i < peak.places.count; i++)
        places += peak.places.items[i].bytes;
    fuzz_check(alive == peak.level.requested && kinds == alive && places == alive, "a peak that is no sum");
    report_torch_peak_free(&peak);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[512] = "";
    uint64_t before = memtrack_process_live();
    TorchSnapshot s;
    const char *path = fuzz_put("s.pickle", data, size);
    fuzz_fail_one(data, size);
    int failed = report_torch_read(path, &s, why, sizeof why) != 0;
    memtrack_fail_nth(0);
    fuzz_check(failed == (why[0] != 0), "result and message do not agree");
    fuzz_check(failed || report_torch_is_snapshot(path), "a snapshot that does not begin like one");
    fuzz_check(memtrack_process_live() - before <= 256 * (uint64_t)size + 65536, "too much memory");
    if (!failed) {
        check(&s);
        check_frames(&s);
    }
    report_torch_free(&s);
    fuzz_check(memtrack_process_live() == before, "memory is left");
    return 0;
}
