/* The replay of PyTorch's caching allocator on a card that is full and under each of its settings: after
 * every event the same bytes as PyTorch 2.15's own allocator, which ran on the stand-in runtime of
 * tests/pytorch (allocator.py there recorded it). Then the settings' text, and the limits by their boundary
 * values. */
#include <inttypes.h>
#include <zlib.h>

#include "../estimate/pytorch_allocator.h"
#include "support.h"

#define FIXTURES "tests/pytorch/fixtures/allocator_"
#define KIB(n)   ((uint64_t)(n) << 10)
#define MIB(n)   ((uint64_t)(n) << 20)

static const char *const recorded[] = {
    "plain",
    "streams",
    "full",
    "full_streams",
    "small_only",
    "fraction",
    "split",
    "split_20",
    "split_odd",
    "collect",
    "collect_full",
    "collect_split",
    "roundup",
    "roundup_list",
    "roundup_rest",
    "large_segment",
    "expandable",
    "expandable_full",
    "expandable_streams",
    "expandable_fraction",
    "expandable_split",
    "expandable_collect",
    "expandable_pages",
    "expandable_roundup",
    "fraction_border",
    "expandable_border",
    "split_streams",
    "expandable_alone",
    "everything",
    "collect_full_2.6",
    "roundup_list_2.6",
    "roundup_rest_2.6",
    "everything_2.6",
};

/* ---- PyTorch's own allocator ----------------------------------------------------------------- */

typedef struct Run {
    gzFile file;
    const char *name;
    int line;
    PytorchReplay *replay;
    uint64_t requests, allocated, reserved, ooms;
} Run;

static void run_begin(Run *run, const char *name)
{
    char path[128], text[256];
    PytorchAllocatorOptions options = {.as_2_6 = strstr(name, "_2.6") != NULL};
    *run = (Run){.name = name, .line = 2};
    snprintf(path, sizeof path, FIXTURES "%s.gz", name);
    run->file = gzopen(path, "rb");
    assert_non_null(run->file);
    assert_non_null(gzgets(run->file, text, sizeof text));
    assert_int_equal(strncmp(text, "conf ", 5), 0);
    assert_int_equal(estimate_pytorch_settings(text + 5, &options, NULL, 0), 0);
    assert_non_null(gzgets(run->file, text, sizeof text));
    assert_int_equal(
        sscanf(text, "card %" SCNu64 " %" SCNu64 " %lf", &options.total, &options.limit, &options.fraction),
        3);
    run->replay = estimate_pytorch_create(&options);
    assert_non_null(run->replay);
}

typedef struct Sums {
    uint64_t reserved, allocated, requested, segment, end;
    int any;
} Sums;

/* Blocks tile their segment; only what is mapped is shown, so that pages between may be missing. */
static int add_block(void *user, const PytorchBlock *b)
{
    Sums *sums = user;
    if (sums->any && b->segment == sums->segment)
        assert_true(b->offset >= sums->end);
    else if (sums->any)
        assert_true(b->segment > sums->segment);
    sums->any = 1;
    sums->segment = b->segment;
    sums->end = b->offset + b->bytes;
    sums->reserved += b->bytes;
    sums->allocated += b->serial ? b->bytes : 0;
    sums->requested += b->requested;
    return 0;
}

static void check_blocks(const PytorchReplay *replay)
{
    Sums sums = {0};
    const PytorchBooks *b = estimate_pytorch_books(replay);
    assert_int_equal(estimate_pytorch_blocks(replay, add_block, &sums), 0);
    assert_int_equal(sums.reserved, b->reserved);
    assert_int_equal(sums.allocated, b->allocated);
    assert_int_equal(sums.requested, b->requested);
}

/* Adds what the line says has changed. */
static void changed(Run *run, const char *text, int has_allocated)
{
    int64_t first = 0, second = 0;
    int count = sscanf(text, "%" SCNd64 " %" SCNd64, &first, &second);
    assert_true(count >= 1);
    if (has_allocated) {
        run->allocated += (uint64_t)first;
        run->reserved += count == 2 ? (uint64_t)second : 0;
    } else
        run->reserved += (uint64_t)first;
}

static void request(Run *run, const char *text)
{
    uint64_t bytes, stream;
    int used;
    assert_int_equal(sscanf(text + 1, "%" SCNu64 " %" SCNu64 " %n", &bytes, &stream, &used), 2);
    int fails = text[0] == '!';
    int status = estimate_pytorch_alloc_on(run->replay, stream, ++run->requests, bytes);
    assert_int_equal(status, fails ? PYTORCH_OUT_OF_MEMORY : 0);
    changed(run, text + 1 + used, !fails);
    run->ooms += (uint64_t)fails;
}

static void statistics(Run *run, const char *text)
{
    uint64_t v[7];
    assert_int_equal(
        sscanf(text, "= %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
               &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6]),
        7);
    const PytorchBooks *b = estimate_pytorch_books(run->replay);
    assert_int_equal(b->requested, v[0]);
    assert_int_equal(b->allocated, v[1]);
    assert_int_equal(b->reserved, v[2]);
    assert_int_equal(b->retries, v[3]);
    assert_int_equal(b->ooms, v[4]);
    assert_int_equal(b->device_allocs, v[5]);
    assert_int_equal(b->device_frees, v[6]);
    check_blocks(run->replay);
}

static void peaks(const Run *run, const char *text)
{
    uint64_t requested, allocated, reserved;
    assert_int_equal(
        sscanf(text, "peaks %" SCNu64 " %" SCNu64 " %" SCNu64, &requested, &allocated, &reserved), 3);
    const PytorchBooks *b = estimate_pytorch_books(run->replay);
    assert_int_equal(b->peak_requested, requested);
    assert_int_equal(b->peak_allocated, allocated);
    assert_int_equal(b->peak_reserved, reserved);
}

static void apply(Run *run, const char *text)
{
    char *end;
    if (text[0] == '+' || text[0] == '!')
        request(run, text);
    else if (text[0] == '-') {
        assert_int_equal(estimate_pytorch_free(run->replay, strtoull(text + 1, &end, 10)), 0);
        changed(run, end, 1);
    } else if (text[0] == 'e') {
        assert_int_equal(estimate_pytorch_empty_cache(run->replay), 0);
        changed(run, text + 1, 0);
    } else if (text[0] == '=')
        statistics(run, text);
    else
        peaks(run, text);
    const PytorchBooks *b = estimate_pytorch_books(run->replay);
    if (b->allocated != run->allocated || b->reserved != run->reserved)
        fail_msg("%s, line %d, %s: allocated %" PRIu64 " for %" PRIu64 ", reserved %" PRIu64 " for %" PRIu64,
                 run->name, run->line, text, b->allocated, run->allocated, b->reserved, run->reserved);
}

static void as_pytorch_after_every_event(void **state)
{
    (void)state;
    uint64_t failed = 0, retries = 0;
    for (size_t i = 0; i < COUNT(recorded); i++) {
        Run run;
        char text[256];
        run_begin(&run, recorded[i]);
        while (gzgets(run.file, text, sizeof text)) {
            run.line++;
            apply(&run, text);
        }
        gzclose(run.file);
        assert_true(run.line > 300);
        failed += run.ooms;
        retries += estimate_pytorch_books(run.replay)->retries;
        assert_int_equal(estimate_pytorch_books(run.replay)->allocated, 0);
        estimate_pytorch_destroy(run.replay);
        assert_int_equal(memtrack_process_live(), 0);
    }
    assert_true(failed > 100 && retries > failed);
}

/* ---- Limits ---------------------------------------------------------------------------------- */

static const PytorchBooks *books_of(PytorchReplay *r, uint64_t serial, uint64_t bytes, int status)
{
    assert_int_equal(estimate_pytorch_alloc(r, serial, bytes), status);
    return estimate_pytorch_books(r);
}

static void to_the_last_byte(void **state)
{
    (void)state;
    for (int less = 0; less < 2; less++) {
        PytorchAllocatorOptions options = {.limit = MIB(42) - (uint64_t)less};
        PytorchReplay *r = estimate_pytorch_create(&options);
        books_of(r, 1, MIB(20), 0);
        books_of(r, 2, KIB(1), 0);
        const PytorchBooks *b = books_of(r, 3, MIB(19), less ? PYTORCH_OUT_OF_MEMORY : 0);
        assert_int_equal(b->ooms, less);
        assert_int_equal(b->retries, less);
        assert_int_equal(b->reserved, less ? MIB(22) : MIB(42));
        estimate_pytorch_destroy(r);
    }
}

/* The first request that fails is kept, with what was there once all that could be was given back. */
static void out_of_memory_is_a_result(void **state)
{
    (void)state;
    PytorchAllocatorOptions options = {.limit = MIB(50)};
    PytorchReplay *r = estimate_pytorch_create(&options);
    books_of(r, 1, MIB(12), 0);
    books_of(r, 2, MIB(20) + 1, 0); /* 22 */
    estimate_pytorch_free(r, 1);
    const PytorchBooks *b = books_of(r, 7, MIB(30), PYTORCH_OUT_OF_MEMORY);
    assert_int_equal(b->first_oom.event, 3);
    assert_int_equal(b->first_oom.serial, 7);
    assert_int_equal(b->first_oom.requested, MIB(30));
    assert_int_equal(b->first_oom.segment, MIB(30));
    assert_int_equal(b->first_oom.allocated, MIB(20) + 512);
    assert_int_equal(b->first_oom.reserved, MIB(22)); /* the segment of 12 is given back */
    assert_int_equal(estimate_pytorch_free(r, 7), PYTORCH_REFUSED);
    b = books_of(r, 7, MIB(28), 0); /* as much as is left */
    assert_int_equal(b->reserved, MIB(50));
    books_of(r, 8, 1, PYTORCH_OUT_OF_MEMORY);
    assert_int_equal(b->ooms, 2);
    assert_int_equal(b->first_oom.serial, 7);
    check_blocks(r);
    estimate_pytorch_destroy(r);
}

/* A segment of which a block is in use stays. */
static void what_is_split_stays(void **state)
{
    (void)state;
    PytorchAllocatorOptions options = {.limit = MIB(40)};
    PytorchReplay *r = estimate_pytorch_create(&options);
    books_of(r, 1, MIB(8), 0);
    books_of(r, 2, MIB(8), 0); /* in the same 20 */
    estimate_pytorch_free(r, 1);
    const PytorchBooks *b = books_of(r, 3, MIB(22), PYTORCH_OUT_OF_MEMORY);
    assert_int_equal(b->reserved, MIB(20));
    estimate_pytorch_free(r, 2);
    assert_int_equal(books_of(r, 3, MIB(22), 0)->reserved, MIB(22));
    assert_int_equal(b->device_frees, 1);
    estimate_pytorch_destroy(r);
}

/* What may not be split goes first, but only of the request's own stream; another's goes with all the rest.
 */
static void oversize_first(void **state)
{
    (void)state;
    for (uint64_t stream = 0; stream < 2; stream++) {
        PytorchAllocatorOptions options = {.limit = MIB(130), .max_split_size = MIB(32)};
        PytorchReplay *r = estimate_pytorch_create(&options);
        assert_int_equal(estimate_pytorch_alloc_on(r, 1, 1, MIB(100)), 0);
        assert_int_equal(estimate_pytorch_alloc_on(r, 0, 2, MIB(20)), 0);
        estimate_pytorch_free(r, 1);
        estimate_pytorch_free(r, 2);
        assert_int_equal(estimate_pytorch_alloc_on(r, stream, 3, MIB(60)), 0);
        const PytorchBooks *b = estimate_pytorch_books(r);
        assert_int_equal(b->retries, stream == 0);
        assert_int_equal(b->reserved, stream ? MIB(80) : MIB(60));
        estimate_pytorch_destroy(r);
    }
}

/* Pages are given back one by one, and a hole is filled before the segment grows. */
static void pages(void **state)
{
    (void)state;
    PytorchAllocatorOptions options = {.limit = MIB(100), .total = MIB(200), .expandable_segments = 1};
    PytorchReplay *r = estimate_pytorch_create(&options);
    for (uint64_t i = 1; i <= 5; i++)
        assert_int_equal(books_of(r, i, MIB(20), 0)->reserved, i * MIB(20));
    estimate_pytorch_free(r, 2);
    estimate_pytorch_free(r, 4);
    const PytorchBooks *b = books_of(r, 6, MIB(40), 0); /* both pages come back, behind the fifth */
    assert_int_equal(b->retries, 1);
    assert_int_equal(b->reserved, MIB(100));
    assert_int_equal(b->device_frees, 2);
    assert_int_equal(b->large_segments, 1);
    check_blocks(r);
    for (uint64_t i = 1; i <= 6; i++)
        estimate_pytorch_free(r, i);
    assert_int_equal(estimate_pytorch_empty_cache(r), 0);
    assert_int_equal(b->reserved, 0);
    assert_int_equal(b->large_segments, 0);
    estimate_pytorch_destroy(r);
}

/* Whatever the options say, nothing crashes and the books balance. */
static void any_options(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 60; seed++) {
        static const uint64_t sizes[] = {0, 1, MIB(1), MIB(7) + 5, MIB(64), UINT64_MAX};
        uint32_t x = hash32(seed);
        PytorchAllocatorOptions options = {
            .limit = x % 3 ? MIB(x % 700) : 0,
            .total = sizes[x / 8 % COUNT(sizes)],
            .fraction = x / 64 % 2 ? (x / 128 % 20) / 10.0 : 0,
            .max_split_size = sizes[x / 4096 % COUNT(sizes)],
            .max_non_split_rounding = sizes[x / 32768 % COUNT(sizes)],
            .large_segment_size = sizes[x / 262144 % COUNT(sizes)],
            .garbage_collection_threshold = (x >> 21) % 4 * 0.4,
            .roundup_power2_divisions = {x >> 23, x >> 25, x >> 5, UINT32_MAX},
            .expandable_segments = x >> 31,
            .as_2_6 = x >> 4 & 1,
        };
        PytorchReplay *r = estimate_pytorch_create(&options);
        assert_non_null(r);
        for (uint32_t i = 1; i <= 400; i++) {
            uint32_t y = hash32(seed * 1009 + i);
            uint64_t bytes = i % 101 == 0 ? UINT64_C(1) << (y % 62) : y % (UINT32_C(1) << (y >> 8) % 28);
            if (y >> 30)
                estimate_pytorch_alloc_on(r, y % 3, i, bytes);
            estimate_pytorch_free(r, hash32(y) % (i + 1));
            if (i % 97 == 0)
                assert_int_equal(estimate_pytorch_empty_cache(r), 0);
            check_blocks(r);
        }
        estimate_pytorch_destroy(r);
    }
    assert_int_equal(memtrack_process_live(), 0);
}

/* Each allocation of host memory fails once; what was refused has changed nothing and can be repeated. */
static void failing_allocations(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        PytorchAllocatorOptions options = {.limit = MIB(300), .expandable_segments = 1};
        PytorchReplay *r = estimate_pytorch_create(&options);
        for (uint64_t i = 1; r && i <= 300; i++) {
            PytorchBooks before = *estimate_pytorch_books(r);
            int status = estimate_pytorch_alloc_on(r, i % 2, i, KIB(60) * i);
            if (status < 0) {
                assert_memory_equal(&before, estimate_pytorch_books(r), sizeof before);
                status = estimate_pytorch_alloc_on(r, i % 2, i, KIB(60) * i);
            }
            assert_true(status == 0 || status == PYTORCH_OUT_OF_MEMORY);
            estimate_pytorch_free(r, hash32((uint32_t)i) % i);
            if (i % 50 == 0 && estimate_pytorch_empty_cache(r))
                assert_int_equal(estimate_pytorch_empty_cache(r), 0);
        }
        estimate_pytorch_destroy(r);
        assert_int_equal(memtrack_process_live(), 0);
        int over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        if (over)
            break;
    }
}

/* ---- Settings -------------------------------------------------------------------------------- */

static PytorchAllocatorOptions settings(const char *text)
{
    char error[256] = "";
    PytorchAllocatorOptions options = {.limit = 7, .total = 9, .max_split_size = 5};
    if (estimate_pytorch_settings(text, &options, error, sizeof error))
        fail_msg("'%s': %s", text, error);
    assert_int_equal(options.limit, 7);
    assert_int_equal(options.total, 9);
    return options;
}

static void settings_are_read(void **state)
{
    (void)state;
    PytorchAllocatorOptions o = settings(""); /* back to the defaults, as PyTorch does */
    assert_int_equal(o.max_split_size, 0);
    o = settings(" max_split_size_mb : 128 , expandable_segments:True,");
    assert_int_equal(o.max_split_size, MIB(128));
    assert_int_equal(o.expandable_segments, 1);
    o = settings("garbage_collection_threshold:0.25,per_process_memory_fraction:0.5,backend:native");
    assert_true(o.garbage_collection_threshold == 0.25 && o.fraction == 0.5);
    o = settings("max_split_size_mb:41,max_non_split_rounding_mb:40,large_segment_size_mb:40");
    assert_int_equal(o.large_segment_size, MIB(40));
    assert_int_equal(o.max_non_split_rounding, MIB(40));
    o = settings("roundup_power2_divisions:8,pinned_use_background_threads:True,pinned_free_catch_all:True");
    for (int i = 0; i < PYTORCH_ROUNDUP_INTERVALS; i++)
        assert_int_equal(o.roundup_power2_divisions[i], 8);
    o = settings("roundup_power2_divisions:[4:2,16:8,>:1]");
    static const uint32_t wanted[] = {2, 2, 2, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    assert_memory_equal(o.roundup_power2_divisions, wanted, sizeof wanted);
    o.as_2_6 = 1;
    assert_int_equal(estimate_pytorch_settings("roundup_power2_divisions:[4:2,16:8,>:1]", &o, NULL, 0), 0);
    assert_int_equal(o.roundup_power2_divisions[4], 1); /* "16" too */
    assert_int_equal(o.roundup_power2_divisions[3], 0);
    assert_int_equal(o.as_2_6, 1);
    o = settings("roundup_power2_divisions:[1048576:4]");
    for (int i = 0; i < PYTORCH_ROUNDUP_INTERVALS; i++)
        assert_int_equal(o.roundup_power2_divisions[i], 4);
}

static void settings_are_refused(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"foo:1", "there is no 'foo'"},
        {"max_split_size_mb=128", "there is no 'max_split_size_mb=128'"},
        {"max_split_size_mb", "wants ':' here"},
        {"max_split_size_mb:", "a whole number of MiB"},
        {"max_split_size_mb:12x", "a whole number of MiB, not '12x'"},
        {"max_split_size_mb:-1", "a whole number of MiB, not '-1'"},
        {"max_split_size_mb:99999999999", "a whole number of MiB"},
        {"max_split_size_mb:19", "at least 20 here, not 19"},
        {"large_segment_size_mb:10", "at least 11"},
        {"max_split_size_mb:30,large_segment_size_mb:40", "at least 40 here, not 30"},
        {"large_segment_size_mb", "wants ':'"},
        {"garbage_collection_threshold:1.0", "between 0 and 1"},
        {"garbage_collection_threshold:nan", "is a number"},
        {"garbage_collection_threshold:0.5z", "is a number, not '0.5z'"},
        {"per_process_memory_fraction:1.5", "at most 1"},
        {"expandable_segments:true", "True or False, not 'true'"},
        {"expandable_segments:True,,", "there is no ','"},
        {"expandable_segments:True:", "':' follows its value"},
        {"backend:cudaMallocAsync", "only backend:native"},
        {"throw_on_cudamalloc_oom:True", "not replayed"},
        {"expandable_segments_reserve:0.5", "not replayed"},
        {"pinned_num_register_threads", "wants ':'"},
        {"pinned_num_register_threads:,", "has no value"},
        {"roundup_power2_divisions:3", "powers of two, not '3'"},
        {"roundup_power2_divisions:0", "powers of two, not '0'"},
        {"roundup_power2_divisions:[3:4]", "an interval is a power of two"},
        {"roundup_power2_divisions:[4:3]", "powers of two and 0, not '3'"},
        {"roundup_power2_divisions:[256:1", "does not end with ']'"},
        {"roundup_power2_divisions:[", "an interval"},
        {"roundup_power2_divisions:[256,1]", "wants ':'"},
        {"\033[31m", "there is no '?'"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "a word of more"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char error[256] = "";
        PytorchAllocatorOptions options = {.limit = 3, .max_split_size = 4}, before = options;
        assert_int_equal(estimate_pytorch_settings(rows[i][0], &options, error, sizeof error), -1);
        assert_memory_equal(&options, &before, sizeof options);
        if (!strstr(error, rows[i][1]) || strncmp(error, "PyTorch's allocator settings: ", 30))
            fail_msg("'%s' says: %s", rows[i][0], error);
        assert_int_equal(estimate_pytorch_settings(rows[i][0], &options, NULL, 0), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_pytorch_after_every_event),
        cmocka_unit_test(to_the_last_byte),
        cmocka_unit_test(out_of_memory_is_a_result),
        cmocka_unit_test(what_is_split_stays),
        cmocka_unit_test(oversize_first),
        cmocka_unit_test(pages),
        cmocka_unit_test(any_options),
        cmocka_unit_test(failing_allocations),
        cmocka_unit_test(settings_are_read),
        cmocka_unit_test(settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
