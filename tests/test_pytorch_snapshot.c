/* Memory snapshots of PyTorch: the reader of pickles, which executes nothing and refuses what is hostile;
 * real snapshots of PyTorch 2.15, made by tests/pytorch/snapshot.py, with the figures of PyTorch's own
 * statistics; and what `brim report` says of them. */
#include <zlib.h>

#include "../estimate/pytorch_allocator.h"
#include "../report/torch_snapshot_read.h"
#include "cli_support.h"

#define FIXTURE(name) "tests/pytorch/fixtures/snapshot_" name ".pickle.gz"

/* ---- Pickles --------------------------------------------------------------------------------- */

static char why[512];

static Pickle *read_bytes(const char *bytes, size_t count)
{
    FILE *file = tmpfile();
    assert_true(file && fwrite(bytes, 1, count, file) == count);
    rewind(file);
    why[0] = 0;
    Pickle *pickle = report_pickle_read(file, why, sizeof why);
    fclose(file);
    assert_int_equal(pickle == NULL, why[0] != 0);
    return pickle;
}

#define READ(text) read_bytes(text, sizeof text - 1)

static void scalars(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t count;
        int64_t value;
    } rows[] = {
        {"\x80\2K\xff.", 5, 255},
        {"\x80\2M\xff\xff.", 6, 65535},
        {"\x80\4J\xff\xff\xff\xff.", 8, -1},
        {"\x80\4\x95\0\0\0\0\0\0\0\0J\0\0\0\x80.", 17, INT32_MIN},
        {"\x80\5\x8a\0.", 5, 0},
        {"\x80\2\x8a\1\xff.", 6, -1},
        {"\x80\2\x8a\6\0\0\0\0\0\x70.", 11, INT64_C(0x700000000000)},
        {"\x80\2\x8b\2\0\0\0\xff\xff.", 10, -1},
        {"\x80\2\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x0f.", 13, (INT64_C(1) << 60) - 1},
        {"\x80\2\x88.", 4, 1},
        {"\x80\2\x89.", 4, 0},
        {"\x80\2N.", 4, -77},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        Pickle *p = read_bytes(rows[i].bytes, rows[i].count);
        assert_non_null(p);
        assert_int_equal(report_pickle_integer(report_pickle_root(p), -77), rows[i].value);
        report_pickle_free(p);
    }
    Pickle *p = READ("\x80\2G\x3f\xe0\0\0\0\0\0\0.");
    assert_true(report_pickle_float(p, report_pickle_root(p), 0) == 0.5);
    report_pickle_free(p);
    p = READ("\x80\2\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f."); /* beyond 61 bits */
    assert_true(report_pickle_float(p, report_pickle_root(p), 0) == 9223372036854775808.0);
    report_pickle_free(p);
}

/* {'a': [1, (2, 3), 'a'], 'b': {}, 'a2': same list} and later items of a list that was begun before. */
static void containers(void **state)
{
    (void)state;
    Pickle *p = READ("\x80\4}\x94(\x8c\1a\x94]\x94(K\1K\2K\3\x86\x94h\1e\x8c\1b}\x8c\2a2h\2u\x8c\1cN\x87.");
    assert_non_null(p); /* a tuple of the dict and two more */
    assert_int_equal(report_pickle_count(p, report_pickle_root(p)), 3);
    report_pickle_free(p);
    p = READ("\x80\4}\x94(\x8c\1a\x94]\x94(K\1K\2K\3\x86\x94h\1e\x8c\1b}X\2\0\0\0a2h\2u.");
    assert_non_null(p);
    PickleValue root = report_pickle_root(p), list = report_pickle_at(p, root, "a");
    assert_int_equal(report_pickle_count(p, root), 3);
    assert_int_equal(report_pickle_type(list), PICKLE_LIST);
    assert_int_equal(report_pickle_count(p, list), 3);
    assert_true(report_pickle_at(p, root, "a2") == list);
    assert_int_equal(report_pickle_integer(report_pickle_item(p, report_pickle_item(p, list, 1), 1), 0), 3);
    assert_string_equal(report_pickle_text(p, report_pickle_item(p, list, 2)), "a");
    assert_int_equal(report_pickle_type(report_pickle_item(p, list, 3)), PICKLE_NONE);
    assert_int_equal(report_pickle_type(report_pickle_at(p, root, "none")), PICKLE_NONE);
    assert_int_equal(report_pickle_count(p, report_pickle_at(p, root, "b")), 0);
    report_pickle_free(p);
    p = READ("\x80\2](K\1K\2e(K\3e](K\4ea(K\5e.");
    root = report_pickle_root(p);
    assert_int_equal(report_pickle_count(p, root), 5);
    assert_int_equal(report_pickle_integer(report_pickle_item(p, root, 2), 0), 3);
    assert_int_equal(report_pickle_integer(report_pickle_item(p, report_pickle_item(p, root, 3), 0), 0), 4);
    assert_int_equal(report_pickle_integer(report_pickle_item(p, root, 4), 0), 5);
    report_pickle_free(p);
    p = READ("\x80\2}(X\1\0\0\0aK\1X\1\0\0\0aK\2u."); /* the last of a key */
    assert_int_equal(report_pickle_integer(report_pickle_at(p, report_pickle_root(p), "a"), 0), 2);
    report_pickle_free(p);
    p = READ("\x80\2(K\1l(K\2t\x86(X\0\0\0\0K\3d\x86.");
    assert_int_equal(report_pickle_count(p, report_pickle_root(p)), 2);
    report_pickle_free(p);
}

typedef struct Hostile {
    const char *bytes;
    size_t count;
    const char *says;
} Hostile;
#define HOSTILE(text, says)                                                                                  \
    {                                                                                                        \
        text, sizeof text - 1, says                                                                          \
    }

static void hostile_files(void **state)
{
    (void)state;
    static const Hostile rows[] = {
        HOSTILE("", "ends at byte 0"),
        HOSTILE("{\"kind\":\"run\"}", "no pickle"),
        HOSTILE("\x80", "ends at byte 1"),
        HOSTILE("\x80\1.", "protocol 1"),
        HOSTILE("\x80\x06.", "protocol 6"),
        HOSTILE("\x80\2.", "0 values instead of one"),
        HOSTILE("\x80\2K\1K\2.", "2 values instead of one"),
        HOSTILE("\x80\2(K\1.", "instead of one"),
        HOSTILE("\x80\4\x8c\x02os\x8c\x06system\x93\x8c\4true\x85R.", "at byte 14: STACK_GLOBAL would make"),
        HOSTILE("\x80\2cos\nsystem\nX\4\0\0\0true\x85R.",
                "at byte 2: GLOBAL would make an object of the file"),
        HOSTILE("\x80\2K\1R.", "REDUCE would make"),
        HOSTILE("\x80\2}b.", "BUILD would make"),
        HOSTILE("\x80\2\x81.", "NEWOBJ would make"),
        HOSTILE("\x80\4\x92.", "NEWOBJ_EX would make"),
        HOSTILE("\x80\2(i", "INST would make"),
        HOSTILE("\x80\2\x82\1.", "EXT1 would make"),
        HOSTILE("\x80\2Q.", "BINPERSID would make"),
        HOSTILE("\x80\2K\1\x30.", "POP is not read"),
        HOSTILE("\x80\5\x96", "BYTEARRAY8 is not read"),
        HOSTILE("\x80\5\x97", "NEXT_BUFFER is not read"),
        HOSTILE("\x80\4\x8f.", "EMPTY_SET is not read"),
        HOSTILE("\x80\2C\1a.", "SHORT_BINBYTES is not read"),
        HOSTILE("\x80\2\xff.", "0xff is no opcode"),
        HOSTILE("\x80\2e.", "without its beginning"),
        HOSTILE("\x80\2(e.", "finds no value"),
        HOSTILE("\x80\2a.", "finds no value"),
        HOSTILE("\x80\2K\1(K\2e.", "a list finds none below"),
        HOSTILE("\x80\2}(K\2e.", "a list finds none below"),
        HOSTILE("\x80\2](K\1K\2u.", "a dict finds none below"),
        HOSTILE("\x80\2}(K\1u.", "a dict finds none below"),
        HOSTILE("\x80\2K\1(\x86.", "finds no value"), /* what is below a mark is not its */
        HOSTILE("\x80\2]q\0h\0a.", "part of another is changed"),
        HOSTILE("\x80\2]q\0]q\1ah\1h\0a.", "part of another is changed"),
        HOSTILE("\x80\2}q\0X\1\0\0\0ah\0s.", "part of another is changed"),
        HOSTILE("\x80\2h\0.", "the memo has no 0"),
        HOSTILE("\x80\2K\1q\5h\4.", "the memo has no 4"),
        HOSTILE("\x80\2K\1r\xff\xff\xff\xff.", "4294967295 is no number of the memo"),
        HOSTILE("\x80\2q\0.", "finds no value"),
        HOSTILE("\x80\4\x8c\x05"
                "abc",
                "ends inside the text"),
        HOSTILE("\x80\2X\xff\xff\xff\x7f"
                "abc",
                "a text of 2147483647 bytes"),
        HOSTILE("\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "a text of 18446744073709551615 bytes"),
        HOSTILE("\x80\2X\xff\xff\xff\0"
                "abc",
                "ends inside the text"),
        HOSTILE("\x80\2\x8b\xff\xff\xff\x7f", "a whole number of 2147483647 bytes"),
        HOSTILE("\x80\2\x8a\x09", "a whole number of 9 bytes"),
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        Pickle *p = read_bytes(rows[i].bytes, rows[i].count);
        if (p || !strstr(why, rows[i].says))
            fail_msg("row %zu (%s): %s", i, rows[i].says, why);
        assert_int_equal(memtrack_process_live(), 0);
    }
}

/* Whatever a short file asks for, its memory is in proportion to its bytes. */
static void bounded(void **state)
{
    (void)state;
    static char bytes[1 << 18];
    static const struct {
        char fill;
        const char *says;
    } rows[] = {{'(', "more than 200 containers"},
                {'N', "ends at byte"},
                {']', "ends at byte"},
                {'}', "ends at byte"},
                {'a', "finds no value"}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        memset(bytes, rows[i].fill, sizeof bytes);
        memcpy(bytes, "\x80\2", 2);
        assert_null(read_bytes(bytes, sizeof bytes));
        assert_non_null(strstr(why, rows[i].says));
        assert_int_equal(memtrack_process_live(), 0);
    }
    static const char *const items[] = {"]a", "}a", "Na", "K\1a", ")a", "(lq\1a", "\x8a\1\1a"};
    for (size_t i = 0; i < COUNT(items); i++) {
        size_t length = strlen(items[i]), end = 3;
        memcpy(bytes, "\x80\2]", 3);
        for (; end + length < sizeof bytes; end += length)
            memcpy(bytes + end, items[i], length);
        bytes[end++] = '.';
        Pickle *p = read_bytes(bytes, end);
        assert_non_null(p);
        assert_int_equal(report_pickle_count(p, report_pickle_root(p)), (end - 4) / length);
        assert_true(memtrack_process_live() <= 64 * end);
        report_pickle_free(p);
    }
    size_t at = 3; /* one dict, of entries without end */
    memcpy(bytes, "\x80\2}", 3);
    for (int i = 0; i < 300; i++, at += 3)
        memcpy(bytes + at, "NNs", 3);
    assert_null(read_bytes(bytes, at));
    assert_non_null(strstr(why, "a dict of more than 256 entries"));
    static char many[3 + (1 << 20) + 8];
    memset(many, 'N', sizeof many);
    memcpy(many, "\x80\2(", 3);
    assert_null(read_bytes(many, sizeof many));
    assert_non_null(strstr(why, "wait for their container"));
}

/* ---- Real snapshots -------------------------------------------------------------------------- */

static const char *unpack(const char *fixture, const char *name)
{
    static char buffer[1 << 17];
    gzFile in = gzopen(fixture, "rb");
    assert_non_null(in);
    int count = gzread(in, buffer, sizeof buffer);
    assert_true(count > 0 && count < (int)sizeof buffer);
    gzclose(in);
    return make_file(name, buffer, (size_t)count);
}

/* From tests/pytorch/snapshot.py: requested, allocated and reserved, at the end and at their peaks. */
typedef struct Figures {
    const char *fixture;
    uint64_t end[3], peak[3];
    size_t events, before;
    uint64_t ooms;
} Figures;
static const Figures figures[] = {
    {FIXTURE("whole"), {0, 0, 4194304}, {38417640, 38418944, 58720256}, 181, 0, 1},
    {FIXTURE("frames"), {0, 0, 4194304}, {2230404, 0, 58720256}, 22, 19, 1},
    {FIXTURE("late"), {27000, 27648, 4194304}, {2809404, 0, 46137344}, 33, 26, 1},
};

static int add_move(void *user, const TorchMove *move)
{
    return move->is_free ? estimate_pytorch_free(user, move->serial)
                         : estimate_pytorch_alloc_on(user, move->stream, move->serial, move->bytes);
}

static void as_pytorch_counts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(figures); i++) {
        const Figures *f = &figures[i];
        TorchSnapshot s;
        TorchPeak peak;
        assert_int_equal(report_torch_read(unpack(f->fixture, "s.pickle"), &s, why, sizeof why), 0);
        assert_int_equal(report_torch_peak(&s, &peak), 0);
        assert_int_equal(s.requested, f->end[0]);
        assert_int_equal(s.allocated, f->end[1]);
        assert_int_equal(s.reserved, f->end[2]);
        assert_int_equal(peak.level.requested, f->peak[0]);
        assert_int_equal(peak.reserved, f->peak[2]);
        assert_int_equal(s.event_count, f->events);
        assert_int_equal(s.before_count, f->before);
        assert_int_equal(s.ooms, f->ooms);
        assert_int_equal(s.events[s.first_oom].bytes, UINT64_C(3) << 30);
        TorchLevel level = report_torch_begin(&s);
        for (size_t at = 0; at < s.event_count; at++)
            report_torch_apply(&level, &s.events[at]);
        assert_int_equal(level.requested, f->end[0]);
        assert_int_equal(level.reserved, f->end[2]);
        uint64_t alive = 0, kinds = 0, places = 0;
        for (size_t at = 0; at < peak.live_count; at++)
            alive += peak.live[at].bytes;
        for (size_t at = 0; at < peak.kinds.count; at++)
            kinds += peak.kinds.items[at].bytes;
        for (size_t at = 0; at < peak.places.count; at++)
            places += peak.places.items[at].bytes;
        assert_true(alive == f->peak[0] && kinds == alive && places == alive);
        report_torch_peak_free(&peak);
        report_torch_free(&s);
        assert_int_equal(memtrack_process_live(), 0);
    }
}

/* The moves, replayed by the allocator's rules: what PyTorch says it allocated and reserved. */
static void moves_are_replayed(void **state)
{
    (void)state;
    TorchSnapshot s;
    assert_int_equal(report_torch_read(unpack(FIXTURE("whole"), "s.pickle"), &s, why, sizeof why), 0);
    PytorchReplay *replay = estimate_pytorch_create(NULL);
    assert_int_equal(report_torch_moves(&s, add_move, replay), 0);
    const PytorchBooks *b = estimate_pytorch_books(replay);
    assert_int_equal(b->requested, 0);
    assert_int_equal(b->peak_requested, figures[0].peak[0]);
    assert_int_equal(b->peak_allocated, figures[0].peak[1]);
    assert_int_equal(b->peak_reserved, figures[0].peak[2]);
    estimate_pytorch_destroy(replay);
    report_torch_free(&s);
    assert_int_equal(report_torch_read(unpack(FIXTURE("late"), "s.pickle"), &s, why, sizeof why), 0);
    replay = estimate_pytorch_create(NULL);
    assert_int_equal(report_torch_moves(&s, add_move, replay), 0);
    assert_int_equal(estimate_pytorch_books(replay)->requested, figures[2].end[0]);
    estimate_pytorch_destroy(replay);
    report_torch_free(&s);
}

static void places_by_frames(void **state)
{
    (void)state;
    TorchSnapshot s;
    TorchPeak peak;
    assert_int_equal(report_torch_read(unpack(FIXTURE("whole"), "s.pickle"), &s, why, sizeof why), 0);
    assert_int_equal(report_torch_peak(&s, &peak), 0);
    assert_int_equal(peak.kinds.count, 1);
    assert_string_equal(peak.kinds.items[0].name, "unknown");
    int found = 0;
    for (size_t i = 0; i < peak.places.count; i++)
        found |= !strncmp(peak.places.items[i].name, "train (snapshot.py:", 19) ? 1
                 : !strcmp(peak.places.items[i].name, "without frames")         ? 2
                                                                                : 4;
    assert_int_equal(found, 3);
    assert_string_equal(report_torch_annotation(&s, INT64_MAX), "");
    report_torch_peak_free(&peak);
    report_torch_free(&s);
    assert_int_equal(report_torch_read(unpack(FIXTURE("frames"), "s.pickle"), &s, why, sizeof why), 0);
    char text[200];
    for (size_t i = 0; i < s.event_count; i++) {
        report_torch_place(&s, s.events[i].frames, text, sizeof text);
        assert_non_null(strstr(text, "snapshot.py:")); /* below C++ and torch/optim */
    }
    report_torch_free(&s);
}

static void frames_as_text(void **state)
{
    (void)state;
    static const struct {
        TorchFrame frame;
        const char *text;
        int outer;
    } rows[] = {
        {{"forward", "/x/site-packages/transformers/models/llama/modeling_llama.py", 155},
         "forward (transformers/models/llama/modeling_llama.py:155)",
         1},
        {{"step", "/x/lib/python3/dist-packages/torch/optim/adamw.py", 7},
         "step (torch/optim/adamw.py:7)",
         0},
        {{"main", "/home/me/train.py", 3}, "main (train.py:3)", 1},
        {{"main", "train.py", 3}, "main (train.py:3)", 1},
        {{"f()", "??", 0}, "f()", 0},
        {{"layers.0.attn", "place", 0}, "layers.0.attn", 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[200];
        report_torch_frame_text(&rows[i].frame, text, sizeof text);
        assert_string_equal(text, rows[i].text);
        assert_int_equal(report_torch_frame_is_outer(&rows[i].frame), rows[i].outer);
    }
}

/* However it is cut, a sentence says so; each allocation fails once. */
static void cut_and_without_memory(void **state)
{
    (void)state;
    TorchSnapshot s;
    TorchPeak peak;
    const char *path = unpack(FIXTURE("late"), "s.pickle");
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    for (off_t length = 0; length < status.st_size; length += 1 + length / 50) {
        assert_int_equal(truncate(unpack(FIXTURE("late"), "s.pickle"), length), 0);
        why[0] = 0;
        assert_int_equal(report_torch_read(path, &s, why, sizeof why), -1);
        report_torch_free(&s);
        assert_non_null(strstr(why, "s.pickle: it ends "));
        assert_int_equal(memtrack_process_live(), 0);
    }
    path = unpack(FIXTURE("late"), "s.pickle");
    for (uint64_t n = 1;; n++) {
        memtrack_fail_nth(n);
        int failed = report_torch_read(path, &s, why, sizeof why);
        if (failed)
            assert_non_null(strstr(why, "s.pickle: out of host memory"));
        else {
            failed = report_torch_peak(&s, &peak);
            report_torch_peak_free(&peak);
        }
        report_torch_free(&s);
        int over = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(memtrack_process_live(), 0);
        assert_int_equal(failed != 0, !over);
        if (over)
            break;
    }
}

/* Pickles that are something else, or a snapshot with strange values in it. */
static void strange_snapshots(void **state)
{
    (void)state;
    TorchSnapshot s;
    static const Hostile rows[] = {
        HOSTILE("\x80\2K\1.", "no memory snapshot of PyTorch"),
        HOSTILE("\x80\2}(X\x08\0\0\0segments]u.", "no memory snapshot of PyTorch"),
        HOSTILE("\x80\2}(X\x08\0\0\0segments]X\r\0\0\0device_traces](](K\1eeu.",
                "event 0 of device 0 is no dict"),
        HOSTILE("\x80\2}(X\x08\0\0\0segments]X\r\0\0\0device_traces](](}(X\6\0\0\0action"
                "X\5\0\0\0allocX\4\0\0\0sizeJ\xff\xff\xff\xffueeu.",
                "event 0 of device 0 is of -1 bytes"),
        HOSTILE("\x80\2}(X\x08\0\0\0segments]X\r\0\0\0device_traces]u.", NULL),
        HOSTILE("\x80\2}(X\x08\0\0\0segments](K\1}}(X\6\0\0\0blocks](NKeeeX\r\0\0\0device_traces](NK\1eu.",
                ""),
        HOSTILE("\x80\2}(X\x08\0\0\0segments](K\1}}(X\6\0\0\0blocks](NK\7eue"
                "X\r\0\0\0device_traces](NK\1eu.",
                NULL),
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        TorchPeak peak;
        why[0] = 0;
        int failed =
            report_torch_read(make_file("h.pickle", rows[i].bytes, rows[i].count), &s, why, sizeof why);
        if ((failed != 0) != (rows[i].says != NULL) || (failed && !strstr(why, rows[i].says)))
            fail_msg("row %zu: %s", i, why);
        if (!failed) {
            assert_int_equal(report_torch_peak(&s, &peak), 0);
            report_torch_peak_free(&peak);
        }
        report_torch_free(&s);
        assert_int_equal(memtrack_process_live(), 0);
    }
    assert_int_equal(report_torch_read("/none.pickle", &s, why, sizeof why), -1);
    assert_non_null(strstr(why, "/none.pickle: cannot be read"));
    report_torch_free(&s);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void said_as_text(void **state)
{
    (void)state;
    Outcome *o = expect_code(RUN("report", unpack(FIXTURE("whole"), "a.pickle")), 0);
    static const char *const texts[] = {
        "181 events of device 0",
        "at the peak                       38,417,640        38,418,944        58,720,256",
        "by the allocator's rules                   -                 -        58,720,256",
        "peak: event 90",
        "Out of memory 1 time, first at event 168: 3,221,225,472 bytes asked for",
        "100.0 %        20  unknown",
        "train (snapshot.py:27) < make (snapshot.py:",
        "# live, - reserved",
    };
    for (size_t i = 0; i < COUNT(texts); i++)
        if (!strstr(o->out, texts[i]))
            fail_msg("nothing of '%s' in\n%s", texts[i], o->out);
    o = expect_code(RUN("report", unpack(FIXTURE("late"), "a.pickle")), 0);
    assert_non_null(strstr(o->out, "expandable_segments:True"));
    assert_non_null(strstr(o->out, "The record begins with memory in use"));
    assert_non_null(strstr(o->out, "Optimizer.step#AdamW.step"));
    assert_null(strstr(o->out, "by the allocator's rules"));
}

static void said_as_json(void **state)
{
    (void)state;
    const char *path = unpack(FIXTURE("whole"), "a.pickle");
    json_t *root = json_loads(expect_code(RUN("report", "--json", path), 0)->out, 0, NULL);
    json_int_t event, requested, allocated, reserved, rules;
    assert_int_equal(json_unpack(root, "{s:{s:{s:I, s:I, s:I, s:I}, s:I}}", "snapshot", "peak", "event",
                                 &event, "requested_bytes", &requested, "allocated_bytes", &allocated,
                                 "reserved_bytes", &reserved, "rules_reserved_bytes", &rules),
                     0);
    assert_true(event == 90 && requested == 38417640 && allocated == 38418944);
    assert_true(reserved == 58720256 && rules == 58720256);
    json_t *snapshot = json_object_get(root, "snapshot");
    assert_int_equal(json_array_size(json_object_get(snapshot, "timeline")), 181);
    assert_int_equal(json_array_size(json_object_get(snapshot, "largest")), 20);
    json_decref(root);
}

static void refused(void **state)
{
    (void)state;
    static const char global[] = "\x80\2cos\nsystem\nX\4\0\0\0true\x85R.";
    const char *path = unpack(FIXTURE("whole"), "a.pickle"), *out = in_folder("out");
    const char *log = make_file("log.jsonl", "{}\n", 3);
    assert_non_null(strstr(expect_code(RUN("report", path, "--html", out), 2)->err, "show a run's log"));
    assert_non_null(strstr(expect_code(RUN("report", path, "--csv", out), 2)->err, "show a run's log"));
    assert_int_equal(access(out, F_OK), -1);
    assert_non_null(strstr(expect_code(RUN("report", path, log), 2)->err, "is shown alone"));
    assert_non_null(strstr(expect_code(RUN("report", log, "--json"), 2)->err, "is no memory snapshot"));
    Outcome *o = expect_code(RUN("report", make_file("x.pickle", global, sizeof global - 1)), 1);
    assert_non_null(strstr(o->err, "x.pickle: at byte 2: GLOBAL would make an object"));
    assert_string_equal(o->out, "");
}

/* The snapshot that brim writes of its own run: kinds are components, places are modules. */
static void own_snapshots(void **state)
{
    (void)state;
    const char *log = in_folder("own.jsonl"), *pickle = in_folder("own.pickle");
    expect_code(RUN("train", "--model", make_model("gpt2"), "--steps", "2", "--batch", "2", "--seq", "16",
                    "--log", log),
                0);
    expect_code(RUN("report", log, "--torch-snapshot", pickle), 0);
    Outcome *o = expect_code(RUN("report", pickle), 0);
    assert_non_null(strstr(o->out, "  parameter\n"));
    assert_non_null(strstr(o->out, "  optimizer\n"));
    assert_non_null(strstr(o->out, "  transformer.h.0."));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars),
        cmocka_unit_test(containers),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(bounded),
        cmocka_unit_test(as_pytorch_counts),
        cmocka_unit_test(moves_are_replayed),
        cmocka_unit_test(places_by_frames),
        cmocka_unit_test(frames_as_text),
        cmocka_unit_test(cut_and_without_memory),
        cmocka_unit_test(strange_snapshots),
        cmocka_unit_test(said_as_text),
        cmocka_unit_test(said_as_json),
        cmocka_unit_test(refused),
        cmocka_unit_test(own_snapshots),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
