/* The generic loader, mostly over a table whose features say which row they are. */
#include "test_data_.h"

#define ROWS  23
#define WIDTH 3

static float features[ROWS * WIDTH];
static int32_t labels[ROWS];

static int prepare(void **state)
{
    for (int i = 0; i < ROWS; i++) {
        labels[i] = i % 4;
        for (int j = 0; j < WIDTH; j++)
            features[i * WIDTH + j] = (float)(100 * i + j);
    }
    return make_directory(state);
}

static Loader *table(int batch, int accumulate, uint64_t seed)
{
    return data_table(&(TableOptions){.features = features,
                                      .labels = labels,
                                      .count = ROWS,
                                      .width = WIDTH,
                                      .batch = batch,
                                      .accumulate = accumulate,
                                      .seed = seed});
}

/* Which row of the table a row of the batch is; checks that it is whole. */
static int row_of(const Batch *b, int i)
{
    const float *x = tensor_f32(b->features) + i * WIDTH;
    int row = (int)x[0] / 100;
    for (int j = 0; j < WIDTH; j++)
        assert_true(x[j] == features[row * WIDTH + j]);
    assert_int_equal(tensor_i32(b->labels)[i], labels[row]);
    return row;
}

/* Rows of the next `steps` steps, in order. */
static int rows_of_steps(Loader *loader, int steps, int rows[])
{
    int n = 0;
    for (int s = 0; s < steps; s++)
        for (const Batch *b; (b = data_next(loader));)
            for (int i = 0; i < tensor_dim(b->features, 0); i++)
                rows[n++] = row_of(b, i);
    return n;
}

static void test_table(void **state)
{
    (void)state;
    Loader *loader = table(4, 3, 1);
    assert_int_equal(data_samples(loader), ROWS);
    assert_int_equal(data_steps_per_epoch(loader), 2);
    assert_int_equal(data_classes(loader), 4);
    assert_int_equal(data_width(loader), WIDTH);
    const Batch *b = data_next(loader);
    assert_non_null(b);
    assert_null(b->ids);
    assert_null(b->types);
    assert_null(b->mask);
    assert_int_equal(tensor_dim(b->features, 0), 4);
    assert_int_equal(tensor_dim(b->features, 1), WIDTH);
    assert_int_equal(tensor_shape(b->labels).ndim, 1);
    assert_int_equal(tensor_dim(b->labels, 0), 4);
    assert_int_equal(b->labels_counted, 4);
    assert_int_equal(b->labels_total, 12);
    assert_int_equal(b->tokens, 4);
    assert_int_equal(error_code(), 0);
}

static void test_short_batches_and_groups(void **state)
{
    (void)state;
    /* 23 samples in steps of 3 x 4: micro-batches of 4 4 4, then 4 4 3; in steps of 2 x 5: 5 5, 5 5, 3 */
    static const int first[] = {4, 4, 4, 0, 4, 4, 3, 0}, second[] = {5, 5, 0, 5, 5, 0, 3, 0};
    static const struct {
        int batch, accumulate, steps, count;
        const int *sizes;
    } cases[] = {{4, 3, 2, 8, first}, {5, 2, 3, 8, second}};
    for (size_t c = 0; c < COUNT(cases); c++) {
        Loader *loader = table(cases[c].batch, cases[c].accumulate, 7);
        for (int epoch = 0, step = 0; epoch < 3; epoch++) {
            assert_int_equal(data_epoch(loader), epoch);
            for (int i = 0, micro = 0, first_sample = 0; i < cases[c].count; i++) {
                int size = cases[c].sizes[i], last = step % cases[c].steps == cases[c].steps - 1;
                if (micro == 0)
                    assert_int_equal(data_next_step_is_short(loader), last);
                const Batch *b = data_next(loader);
                assert_int_equal(b ? tensor_dim(b->features, 0) : 0, size);
                if (!b) {
                    assert_int_equal(data_step_tokens(loader), first_sample);
                    assert_int_equal(data_step_labels(loader), first_sample);
                    micro = first_sample = 0;
                    step++;
                    continue;
                }
                assert_int_equal(b->step, step);
                assert_int_equal(b->micro, micro++);
                assert_int_equal(b->first_sample, first_sample);
                first_sample += size;
            }
        }
        loader_free(loader);
    }
    Loader *all = table(ROWS, 2, 7); /* one step holds everything: there is no other to be shorter than */
    assert_int_equal(data_steps_per_epoch(all), 1);
    assert_int_equal(data_next_step_is_short(all), 0);
}

static void test_each_sample_once_an_epoch(void **state)
{
    (void)state;
    Loader *loader = table(5, 2, 3);
    int before[ROWS] = {0};
    for (int epoch = 0; epoch < 4; epoch++) {
        int rows[ROWS], seen[ROWS] = {0}, moved = 0;
        assert_int_equal(rows_of_steps(loader, 3, rows), ROWS);
        for (int i = 0; i < ROWS; i++) {
            seen[rows[i]]++;
            moved += rows[i] != i;
        }
        for (int i = 0; i < ROWS; i++)
            assert_int_equal(seen[i], 1);
        assert_true(moved > ROWS / 2);
        assert_memory_not_equal(rows, before, sizeof rows);
        memcpy(before, rows, sizeof rows);
    }
    assert_int_equal(data_epoch(loader), 4);
}

/* Every place gets every sample about as often. */
static void test_shuffle_is_fair(void **state)
{
    (void)state;
    enum { EPOCHS = 4600 };
    static int seen[ROWS][ROWS];
    Loader *loader = table(ROWS, 1, 11);
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        int rows[ROWS];
        rows_of_steps(loader, 1, rows);
        for (int i = 0; i < ROWS; i++)
            seen[i][rows[i]]++;
    }
    double chi = 0, expected = (double)EPOCHS / ROWS;
    for (int i = 0; i < ROWS * ROWS; i++)
        chi += (seen[i / ROWS][i % ROWS] - expected) * (seen[i / ROWS][i % ROWS] - expected) / expected;
    assert_true(chi > 484 - 6 * 31 && chi < 484 + 6 * 31); /* 22 * 22 degrees of freedom, sigma sqrt(968) */
}

static void test_order_does_not_depend_on_batching(void **state)
{
    (void)state;
    int whole[3 * ROWS], parts[3 * ROWS], other[3 * ROWS];
    assert_int_equal(rows_of_steps(table(12, 1, 5), 6, whole), 3 * ROWS);
    assert_int_equal(rows_of_steps(table(4, 3, 5), 6, parts), 3 * ROWS);
    assert_memory_equal(whole, parts, sizeof whole);
    rows_of_steps(table(4, 3, 6), 6, other);
    assert_memory_not_equal(whole, other, sizeof whole);
}

static void test_labels_total_counts_the_whole_step(void **state)
{
    (void)state;
    int32_t some[ROWS];
    int counted = 0;
    for (int i = 0; i < ROWS; i++) {
        some[i] = i % 3 ? i % 2 : BATCH_IGNORE;
        counted += i % 3 != 0;
    }
    Loader *loader = data_table(&(TableOptions){
        .features = features, .labels = some, .count = ROWS, .width = WIDTH, .batch = 4, .accumulate = 3});
    int all = 0;
    for (int step = 0; step < 2; step++) {
        int64_t sum = 0, total = 0;
        for (const Batch *b; (b = data_next(loader));) {
            int64_t here = 0;
            for (int i = 0; i < tensor_numel(b->labels); i++)
                here += tensor_i32(b->labels)[i] != BATCH_IGNORE;
            assert_int_equal(b->labels_counted, here);
            assert_true(total == 0 || b->labels_total == total);
            total = b->labels_total;
            sum += here;
        }
        assert_int_equal(sum, total);
        assert_int_equal(data_step_labels(loader), total);
        all += (int)sum;
    }
    assert_int_equal(all, counted);
}

static void test_step_without_labels_is_an_error(void **state)
{
    (void)state;
    static const int32_t one[4] = {BATCH_IGNORE, 0, BATCH_IGNORE, BATCH_IGNORE};
    Loader *loader = data_table(
        &(TableOptions){.features = features, .labels = one, .count = 4, .width = WIDTH, .batch = 2});
    int refused = 0;
    for (int step = 0; step < 2; step++) {
        while (data_next(loader))
            ;
        refused += error_code() == ERROR_DATA;
        error_clear();
    }
    assert_int_equal(refused, 1);
    assert_int_equal(data_epoch(loader), 1);
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static void test_finish_step(void **state)
{
    (void)state;
    Loader *loader = table(4, 3, 1);
    data_finish_step(loader); /* between steps: nothing to end */
    assert_int_equal(data_next(loader)->step, 0);
    assert_int_equal(data_next(loader)->micro, 1);
    assert_int_equal(data_next_step_is_short(loader), 1); /* the one after this */
    data_finish_step(loader);
    assert_int_equal(data_step_tokens(loader), 8);
    DataCursor cursor = data_cursor(loader);
    assert_int_equal(cursor.position, 12);
    assert_int_equal(cursor.step, 1);
    const Batch *b = data_next(loader);
    assert_int_equal(b->step, 1);
    assert_int_equal(b->micro, 0);
    data_finish_step(NULL);
}

static void test_batches_belong_to_the_loader(void **state)
{
    (void)state;
    const MemStats *stats = memtrack_stats(context_ledger(context_current()));
    Loader *loader = table(4, 2, 1);
    int scope = tensor_scope_begin();
    const Batch *b = data_next(loader);
    tensor_scope_end(scope);
    row_of(b, 3); /* still there */
    uint64_t one = stats->live;
    assert_int_equal(one, stats->live_by[MEM_INPUT]);
    assert_int_equal(one, 64 + 64); /* 48 bytes of features, 16 of labels, rounded up */
    data_next(loader);
    assert_int_equal(stats->live, one);
    assert_null(data_next(loader));
    assert_int_equal(stats->live, 0);
    data_next(loader);
    loader_free(loader);
    assert_int_equal(stats->live, 0);
    scope = tensor_scope_begin();
    data_next(table(4, 2, 1)); /* goes with its scope, in the middle of a step */
    tensor_scope_end(scope);
    assert_int_equal(stats->live, 0);
    assert_int_equal(stats->peak, one);
}

static void test_phases(void **state)
{
    (void)state;
    MemTracker *tracker = context_tracker(context_current());
    Loader *loader = table(4, 2, 1);
    data_next(loader);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
    data_finish_step(loader);
    tensor_no_grad_begin();
    data_next(loader);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_EVALUATE);
    data_finish_step(loader);
    tensor_no_grad_end();
    data_next(loader);
    assert_int_equal(memtrack_phase(tracker), MEM_PHASE_FORWARD);
}

static void test_errors_end_the_step(void **state)
{
    (void)state;
    assert_null(data_next(NULL));
    assert_int_equal(error_code(), 0);
    Loader *loader = table(4, 3, 1);
    assert_non_null(data_next(loader));
    error_raise(ERROR_STATE, "of the test");
    assert_null(data_next(loader));
    assert_null(data_next(loader));
    error_clear();
    assert_int_equal(data_next(loader)->step, 1); /* the first was given up, not repeated */
    data_finish_step(loader);

    Context *here = context_use(context_create(&(ContextOptions){.threads = 1}));
    assert_null(data_next(loader));
    assert_error(ERROR_STATE, "data_next", "another context");
    context_destroy(context_use(here));
}

/* ---- Cursor ---------------------------------------------------------------------------------- */

static void test_cursor_continues(void **state)
{
    (void)state;
    enum { STEPS = 9 };
    for (int cut = 0; cut < STEPS; cut++) {
        uint64_t straight[4 * STEPS] = {0}, resumed[4 * STEPS] = {0};
        int from = 0, n = 0, m = 0;
        DataCursor cursor = {0};
        Loader *loader = table(3, 2, 9);
        for (int step = 0; step < STEPS; step++) {
            if (step == cut) {
                cursor = data_cursor(loader);
                from = n;
            }
            for (const Batch *b; (b = data_next(loader));)
                straight[n++] = digest_batch(b);
        }
        loader_free(loader);
        Loader *again = table(3, 2, 1234); /* the cursor brings the seed */
        assert_non_null(data_next(again)); /* and ends a step that is under way */
        assert_int_equal(data_seek(again, cursor), 0);
        for (int step = cut; step < STEPS; step++)
            for (const Batch *b; (b = data_next(again));)
                resumed[m++] = digest_batch(b);
        loader_free(again);
        assert_int_equal(m, n - from);
        assert_memory_equal(straight + from, resumed, (size_t)m * sizeof *resumed);
    }
}

static void test_bad_cursor(void **state)
{
    (void)state;
    Loader *loader = table(4, 1, 1);
    assert_int_equal(data_seek(loader, (DataCursor){.position = ROWS}), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "data_seek", "sample 23", "23 samples");
    data_seek(loader, (DataCursor){.position = -1});
    assert_error(ERROR_ARGUMENT, "sample -1");
    data_seek(loader, (DataCursor){.epoch = -1});
    assert_error(ERROR_ARGUMENT, "epoch -1");
    data_seek(loader, (DataCursor){.step = -5});
    assert_error(ERROR_ARGUMENT, "step -5");
    assert_int_equal(data_cursor(loader).position, 0);
}

/* ---- Meta ------------------------------------------------------------------------------------ */

static Loader *make_table(void)
{
    return table(5, 2, 1);
}

static Loader *make_text(void)
{
    return data_text("builtin", &(TextOptions){.batch = 4, .seq = 31, .accumulate = 3, .corpus_bytes = 3000});
}

static Loader *make_masked(void)
{
    return data_text("builtin",
                     &(TextOptions){.batch = 4, .seq = 31, .corpus_bytes = 3000, .mask_probability = 0.15f});
}

static Loader *make_held_out(void)
{
    return data_text("builtin",
                     &(TextOptions){.batch = 2, .seq = 31, .corpus_bytes = 9999, .split = DATA_HELD_OUT});
}

/* Shapes and counts of three epochs; what needs data is left out. */
static int trace(Loader *(*make)(void), int meta, int64_t shapes[][8], int room)
{
    Context *outside = context_use(context_create(&(ContextOptions){.meta = meta, .threads = 1}));
    Loader *loader = make();
    int n = 0;
    while (data_epoch(loader) < 3) {
        int is_short = data_next_step_is_short(loader);
        for (const Batch *b; (b = data_next(loader));) {
            assert_true(n < room);
            Tensor *x = b->ids ? b->ids : b->features;
            int64_t row[8] = {tensor_dim(x, 0), tensor_dim(x, 1), tensor_numel(b->labels),
                              b->step,          b->first_sample,  b->micros,
                              b->tokens,        is_short};
            memcpy(shapes[n++], row, sizeof row);
            assert_true(meta ? b->labels_total == 1 : b->labels_total > 0);
            assert_int_equal(b->labels_counted != 0, !meta);
            assert_int_equal(tensor_data(x) != NULL, !meta);
        }
        assert_int_equal(error_code(), 0);
    }
    shapes[n][0] = data_samples(loader);
    shapes[n][1] = data_classes(loader);
    shapes[n++][2] = data_steps_per_epoch(loader);
    const MemStats *stats = memtrack_stats(context_ledger(context_current()));
    shapes[n][0] = (int64_t)stats->peak;
    shapes[n][1] = (int64_t)stats->needs;
    shapes[n++][2] = (int64_t)stats->event_hash;
    context_destroy(context_use(outside));
    return n;
}

static void test_meta_is_real(void **state)
{
    (void)state;
    Loader *(*const makers[])(void) = {make_table, make_text, make_masked, make_held_out};
    static int64_t real[1000][8], meta[1000][8];
    for (size_t i = 0; i < COUNT(makers); i++) {
        memset(real, 0, sizeof real);
        memset(meta, 0, sizeof meta);
        int n = trace(makers[i], 0, real, 998);
        assert_int_equal(trace(makers[i], 1, meta, 998), n);
        assert_memory_equal(real, meta, sizeof real);
    }
}

static void test_meta_cursor(void **state)
{
    (void)state;
    Context *outside = context_use(context_create(&(ContextOptions){.meta = 1, .threads = 1}));
    Loader *loader = table(4, 3, 1);
    assert_int_equal(data_seek(loader, (DataCursor){.epoch = 2, .position = 12, .step = 5}), 0);
    const Batch *b = data_next(loader);
    assert_int_equal(b->step, 5);
    assert_int_equal(b->micros, 3);
    data_finish_step(loader);
    assert_int_equal(data_epoch(loader), 3);
    context_destroy(context_use(outside));
}

/* ---- Errors ---------------------------------------------------------------------------------- */

static void test_bad_tables(void **state)
{
    (void)state;
    assert_null(data_table(NULL));
    assert_error(ERROR_ARGUMENT, "data_table", "options is NULL");
    TableOptions good = {.features = features, .labels = labels, .count = ROWS, .width = WIDTH}, o = good;
    o.features = NULL;
    assert_null(data_table(&o));
    assert_error(ERROR_ARGUMENT, "features is NULL");
    o = good;
    o.count = 0;
    assert_null(data_table(&o));
    assert_error(ERROR_ARGUMENT, "0 rows");
    o = good;
    o.batch = -2;
    assert_null(data_table(&o));
    assert_error(ERROR_ARGUMENT, "data_table: batch is -2", "1 or more");
    o = good;
    o.accumulate = -1;
    assert_null(data_table(&o));
    assert_error(ERROR_ARGUMENT, "accumulate is -1");
    int32_t bad[ROWS] = {0};
    bad[17] = -1;
    o = good;
    o.labels = bad;
    assert_null(data_table(&o));
    assert_error(ERROR_DATA, "label -1 of row 17 is out of range");
    for (int i = 0; i < ROWS; i++)
        bad[i] = BATCH_IGNORE;
    assert_null(data_table(&o));
    assert_error(ERROR_DATA, "none of the 23 labels counts");
    /* a batch larger than the data is a batch of all of it */
    assert_non_null(table(INT32_MAX, INT32_MAX, 1));
}

static void test_null_loader(void **state)
{
    (void)state;
    assert_int_equal(data_samples(NULL) + data_steps_per_epoch(NULL) + data_classes(NULL) + data_width(NULL),
                     0);
    assert_int_equal(data_epoch(NULL) + data_step_tokens(NULL) + data_step_labels(NULL), 0);
    assert_int_equal(data_next_step_is_short(NULL), 0);
    assert_int_equal(data_cursor(NULL).step, 0);
    assert_int_equal(data_seek(NULL, (DataCursor){0}), 0);
    loader_free(NULL);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    sweep_failures(make_table);
    sweep_failures(make_text);
    sweep_failures(make_masked);
    sweep_failures(make_held_out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_table, begin, end),
        cmocka_unit_test_setup_teardown(test_short_batches_and_groups, begin, end),
        cmocka_unit_test_setup_teardown(test_each_sample_once_an_epoch, begin, end),
        cmocka_unit_test_setup_teardown(test_shuffle_is_fair, begin, end),
        cmocka_unit_test_setup_teardown(test_order_does_not_depend_on_batching, begin, end),
        cmocka_unit_test_setup_teardown(test_labels_total_counts_the_whole_step, begin, end),
        cmocka_unit_test_setup_teardown(test_step_without_labels_is_an_error, begin, end),
        cmocka_unit_test_setup_teardown(test_finish_step, begin, end),
        cmocka_unit_test_setup_teardown(test_batches_belong_to_the_loader, begin, end),
        cmocka_unit_test_setup_teardown(test_phases, begin, end),
        cmocka_unit_test_setup_teardown(test_errors_end_the_step, begin, end),
        cmocka_unit_test_setup_teardown(test_cursor_continues, begin, end),
        cmocka_unit_test_setup_teardown(test_bad_cursor, begin, end),
        cmocka_unit_test_setup_teardown(test_meta_is_real, begin, end),
        cmocka_unit_test_setup_teardown(test_meta_cursor, begin, end),
        cmocka_unit_test_setup_teardown(test_bad_tables, begin, end),
        cmocka_unit_test_setup_teardown(test_null_loader, begin, end),
        cmocka_unit_test_setup_teardown(test_failing_allocations, begin, end),
    };
    return cmocka_run_group_tests_name("data", tests, prepare, remove_directory);
}
