/* safetensors: what is written is read back in place, a good file with any bytes changed is read within
 * itself or refused by name, and a write that fails leaves the old file whole. */
#include <math.h>
#include <signal.h>

#include "../io/safetensors_.h"
#include "json_support.h"
#include "weights_support.h"

/* ---- Round trip ------------------------------------------------------------------------------ */

static const int64_t words[6] = {1, -2, 3, 4, 5, 6};
static const float numbers[6] = {1.5f, -2, 0.1f, 65504, 1e-7f, 0};

static const SafetensorsItem several[] = {
    {"b.f32", SAFETENSORS_F32, 2, {2, 3}, .data = numbers},
    {"a.f32", SAFETENSORS_F32, 1, {5}, .data = numbers},
    {"a.f16", SAFETENSORS_F16, 1, {5}, .data = numbers},
    {"bf16 Ω \"\\", SAFETENSORS_BF16, 2, {3, 2}, .data = numbers},
    {"i64", SAFETENSORS_I64, 3, {1, 6, 1}, .data = words},
    {"i32", SAFETENSORS_I32, 1, {12}, .data = words},
    {"u8", SAFETENSORS_U8, 1, {7}, .data = words},
    {"scalar", SAFETENSORS_F64, 0, {0}, .data = words},
    {"empty", SAFETENSORS_F32, 2, {0, 5}, .data = NULL},
    {"bool", SAFETENSORS_BOOL, 1, {1}, .data = words},
};

static void write_several(const char *path)
{
    if (safetensors_write(path, several, COUNT(several)))
        fail_msg("%s", error_message());
}

static void test_round_trip(void **state)
{
    (void)state;
    write_several(at("a.safetensors"));
    Safetensors *s = safetensors_open(at("a.safetensors"));
    assert_fine();
    assert_int_equal(safetensors_count(s), COUNT(several));
    const char *end = NULL;
    for (size_t i = 0; i < COUNT(several); i++) {
        const SafetensorsEntry *e = safetensors_find(s, several[i].name),
                               *inorder = safetensors_at(s, (int)i);
        assert_non_null(e);
        assert_int_equal(e->type, several[i].type);
        assert_int_equal(e->ndim, several[i].ndim);
        assert_memory_equal(e->dim, several[i].dim, sizeof e->dim);
        assert_string_equal(e->file, "a.safetensors");
        assert_true(!end || inorder->data == end); /* in the order of their bytes */
        end = (const char *)inorder->data + inorder->bytes;
        if (e->type > SAFETENSORS_BF16)
            assert_memory_equal(e->data, words, e->bytes);
    }
    assert_null(safetensors_find(s, "a.f3"));
    assert_null(safetensors_find(s, "zzz"));
    assert_null(safetensors_at(s, -1));
    assert_null(safetensors_at(s, COUNT(several)));
    const float *in_place = safetensors_f32(safetensors_find(s, "b.f32"));
    assert_ptr_equal(in_place, safetensors_find(s, "b.f32")->data); /* nothing is copied */
    assert_memory_equal(in_place, numbers, sizeof numbers);
    assert_null(safetensors_f32(safetensors_find(s, "a.f16")));
    float read[6];
    assert_int_equal(safetensors_read(s, safetensors_find(s, "b.f32"), read), 0);
    assert_memory_equal(read, numbers, sizeof numbers);
    assert_int_equal(safetensors_read(s, safetensors_find(s, "a.f16"), read), 0);
    assert_true(read[0] == 1.5f && read[2] == 0x1.998p-4f && read[3] == 65504 && read[4] == 0x1p-23f);
    assert_int_equal(safetensors_read(s, safetensors_find(s, "bf16 Ω \"\\"), read), 0);
    assert_true(read[1] == -2 && read[2] == 0x1.9ap-4f && read[3] == 65536);
    assert_int_equal(safetensors_read(s, safetensors_find(s, "i64"), read), ERROR_DATA);
    assert_error(ERROR_DATA, "\"i64\" is I64", "F32, F16 and BF16");
    safetensors_close(s);
}

/* The same items in another order are the same file; the tensors begin at a multiple of eight. */
static void test_order(void **state)
{
    (void)state;
    SafetensorsItem reversed[COUNT(several)];
    size_t n, m;
    uint64_t length;
    for (size_t i = 0; i < COUNT(several); i++)
        reversed[i] = several[COUNT(several) - 1 - i];
    write_several(at("a"));
    assert_int_equal(safetensors_write(at("b"), reversed, COUNT(reversed)), 0);
    unsigned char *a = get_file(at("a"), &n), *b = get_file(at("b"), &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    memcpy(&length, a, 8);
    assert_int_equal(length % 8, 0);
    assert_non_null(
        strstr((char *)a + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"i64\":{\"dtype\":\"I64\","));
    test_free(a);
    test_free(b);
    assert_int_equal(safetensors_write(at("none"), NULL, 0), 0);
    assert_int_equal(safetensors_count(safetensors_open(at("none"))), 0); /* goes with the scope */
    assert_fine();
}

/* A tensor is written and read wherever it lies as the same floats in memory are, in pieces. */
static void test_tensors(void **state)
{
    (void)state;
    enum { N = 20001 };
    static float floats[N];
    size_t n, m;
    Tensor *from = values(SHAPE(N), 1, 9), *to = values(SHAPE(N + 3), 2, 1);
    for (SafetensorsType type = SAFETENSORS_F32; type <= SAFETENSORS_BF16; type++) {
        const SafetensorsItem tensor = {"w", type, 1, {N}, .tensor = from},
                              memory = {"w", type, 1, {N}, .data = tensor_f32(from)};
        assert_int_equal(safetensors_write(at("a"), &tensor, 1), 0);
        assert_int_equal(safetensors_write(at("b"), &memory, 1), 0);
        unsigned char *a = get_file(at("a"), &n), *b = get_file(at("b"), &m);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        test_free(a);
        test_free(b);
        Safetensors *file = safetensors_open(at("a"));
        tensor_fill(to, 5);
        assert_int_equal(safetensors_read(file, safetensors_find(file, "w"), floats), 0);
        assert_int_equal(safetensors_read_tensor(file, safetensors_find(file, "w"), to), 0);
        assert_memory_equal(tensor_f32(to), floats, sizeof floats);
        assert_true(tensor_f32(to)[N] == 5 && tensor_f32(to)[N + 2] == 5); /* those behind stay */
        safetensors_close(file);
    }
    Tensor *gone = tensor_scale(from, 1);
    tensor_drop_data(gone, DATA_DONATED);
    const SafetensorsItem item = {"w", SAFETENSORS_F32, 1, {N}, .tensor = gone};
    assert_int_not_equal(safetensors_write(at("a"), &item, 1), 0);
    assert_error(ERROR_STATE, "given away");
    assert_int_equal(files_in(folder), 2);
}

/* Tensors that others did not align are read all the same, but not in place. */
static void test_unaligned(void **state)
{
    (void)state;
    craft("odd",
          "{'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]},"
          "'f':{'dtype':'F32','shape':[2],'data_offsets':[3,11]}, '__metadata__':{'x':'y'}}   ",
          11);
    Safetensors *s = safetensors_open(at("odd"));
    const SafetensorsEntry *e = safetensors_find(s, "f");
    float read[2], expected[2];
    assert_non_null(e);
    assert_true((uintptr_t)e->data % 4 == 0 || !safetensors_f32(e));
    assert_int_equal(safetensors_read(s, e, read), 0);
    memcpy(expected, e->data, sizeof expected);
    assert_memory_equal(read, expected, sizeof expected);
    safetensors_close(s);
}

/* ---- An index -------------------------------------------------------------------------------- */

#define INDEX "model.safetensors.index.json"

static void make_shards(void)
{
    craft("one.safetensors", "{" F32("a", "[1]", "0", "4") "," F32("b", "[1]", "4", "8") "}", 8);
    craft("two.safetensors", "{" F32("c", "[1]", "0", "4") "}", 4);
}

static void test_index(void **state)
{
    (void)state;
    make_shards();
    put_text(INDEX, "{'metadata':{'total_size':12},'weight_map':{'b':'one.safetensors','c':'two.safetensors',"
                    "'a':'one.safetensors'}}");
    const char *const paths[] = {folder, at(INDEX)};
    for (int i = 0; i < 2; i++) {
        Safetensors *s = safetensors_open(paths[i]);
        assert_fine();
        assert_int_equal(safetensors_count(s), 3);
        assert_string_equal(safetensors_find(s, "a")->file, "one.safetensors");
        assert_string_equal(safetensors_find(s, "c")->file, "two.safetensors");
        assert_string_equal(safetensors_at(s, 2)->name, "c");
        float value;
        assert_int_equal(safetensors_read(s, safetensors_find(s, "c"), &value), 0);
        assert_memory_equal(&value, "\0\1\2\3", 4);
        safetensors_close(s);
    }
    assert_int_equal(chdir(folder), 0); /* without a directory in the path */
    Safetensors *s = safetensors_open(INDEX);
    assert_int_equal(safetensors_count(s), 3);
    safetensors_close(s);
    assert_int_equal(chdir("/"), 0);
    /* A snapshot of the hub is made of links; the names in the index are still plain. */
    assert_int_equal(rename(at("two.safetensors"), at("blob")), 0);
    assert_int_equal(symlink("blob", at("two.safetensors")), 0);
    s = safetensors_open(folder);
    assert_int_equal(safetensors_count(s), 3);
    safetensors_close(s);
    craft("model.safetensors", "{" F32("x", "[1]", "0", "4") "}", 4); /* goes before an index */
    assert_int_equal(safetensors_count(safetensors_open(folder)), 1);
}

static void test_bad_indexes(void **state)
{
    (void)state;
    static const struct {
        const char *map;
        int code;
        const char *word, *other;
    } bad[] = {
        {"{'a':'../one.safetensors'}", ERROR_DATA, "the tensor \"a\"", "\"../one.safetensors\""},
        {"{'a':'/etc/passwd'}", ERROR_DATA, "the tensor \"a\"", "\"/etc/passwd\"; the name of a file beside"},
        {"{'a':'x/one.safetensors'}", ERROR_DATA, "the tensor \"a\"", "beside the index"},
        {"{'a':'..'}", ERROR_DATA, "the tensor \"a\"", "\"..\""},
        {"{'a':'.'}", ERROR_DATA, "the tensor \"a\"", "\".\""},
        {"{'a':''}", ERROR_DATA, "the tensor \"a\"", "beside the index"},
        {"{'a':3}", ERROR_DATA, "the tensor \"a\"", "in 3;"},
        {"{'a':'three.safetensors'}", ERROR_FILE, "three.safetensors", "the first is"},
        {"{'a':'one.safetensors'}", ERROR_DATA, "the tensor \"b\" is in one.safetensors", "not in the index"},
        {"{'a':'one.safetensors','b':'one.safetensors','z':'one.safetensors'}", ERROR_DATA,
         "the tensor \"z\"", "and is not"},
        {"{'a':'one.safetensors','b':'two.safetensors','c':'two.safetensors'}", ERROR_DATA,
         "the tensor \"b\"", "and is not"},
        {"{'a':'one.safetensors','c':'same.safetensors'}", ERROR_DATA, "the tensor \"a\"",
         "in both one.safetensors and same.safetensors"},
        {"{}", ERROR_DATA, "weight_map", ""},
        {"[]", ERROR_DATA, "weight_map", ""},
        {"{'a':'one.safetensors','a':'one.safetensors'}", ERROR_DATA, "duplicate", ""},
        {"{'a':'one\\u0000.safetensors'}", ERROR_DATA, "is not JSON", ""},
        {"{'a':'" INDEX "'}", ERROR_DATA, INDEX, ""},
    };
    char text[512];
    make_shards();
    craft("same.safetensors", "{" F32("a", "[1]", "0", "4") "}", 4);
    for (size_t i = 0; i < COUNT(bad); i++) {
        snprintf(text, sizeof text, "{'weight_map':%s}", bad[i].map);
        put_text(INDEX, text);
        assert_refused(folder, bad[i].code, bad[i].word, bad[i].other);
    }
    put_text(INDEX, "{}");
    assert_refused(folder, ERROR_DATA, "has no weight_map");
    put_text(INDEX, "[1]");
    assert_refused(folder, ERROR_DATA, "is one object");
}

/* ---- Writing that fails ---------------------------------------------------------------------- */

static void test_bad_items(void **state)
{
    (void)state;
    SafetensorsItem twice[] = {{"a", SAFETENSORS_F32, 1, {1}, .data = numbers},
                               {"a", SAFETENSORS_F32, 1, {1}, .data = numbers}};
    assert_int_equal(safetensors_write(at("x"), twice, 2), ERROR_DATA);
    assert_error(ERROR_DATA, "\"a\" occurs twice");
    SafetensorsItem text = {"\xff", SAFETENSORS_F32, 1, {1}, .data = numbers};
    assert_int_equal(safetensors_write(at("x"), &text, 1), ERROR_DATA);
    assert_error(ERROR_DATA, "not UTF-8");
    SafetensorsItem no_data = {"a", SAFETENSORS_F32, 1, {1}, .data = NULL};
    assert_int_equal(safetensors_write(at("x"), &no_data, 1), ERROR_DATA);
    assert_error(ERROR_DATA, "\"a\" has no name, no data");
    SafetensorsItem negative = {"a", SAFETENSORS_F32, 1, {-1}, .data = numbers};
    assert_int_equal(safetensors_write(at("x"), &negative, 1), ERROR_DATA);
    assert_error(ERROR_DATA, "\"a\"");
    float large = 1e6f;
    SafetensorsItem beyond = {"a", SAFETENSORS_F16, 1, {1}, .data = &large};
    assert_int_equal(safetensors_write(at("x"), &beyond, 1), ERROR_NONFINITE);
    assert_error(ERROR_NONFINITE, "\"a\" holds 1e+06", "F16 cannot", "bf16 or f32");
    assert_int_equal(safetensors_write(NULL, several, 1), ERROR_ARGUMENT);
    assert_error(ERROR_ARGUMENT, "path is NULL");
    assert_int_equal(files_in(folder), 0);
}

/* The disk is full after any number of bytes: an error, the old file whole, nothing left beside it. */
static void test_full_disk(void **state)
{
    (void)state;
    enum { N = 20000 };
    static float values[N];
    fill_values(values, N, 1, 1, 0);
    const SafetensorsItem item = {"w", SAFETENSORS_F32, 1, {N}, .data = values},
                          half = {"w", SAFETENSORS_BF16, 1, {N}, .data = values};
    size_t n, m;
    write_several(at("model.safetensors"));
    unsigned char *old = get_file(at("model.safetensors"), &n);
    struct rlimit limit, outside;
    getrlimit(RLIMIT_FSIZE, &outside);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t most = 0; most < N * 4; most = most * 2 + 1) {
        limit = (struct rlimit){most, outside.rlim_max};
        setrlimit(RLIMIT_FSIZE, &limit);
        int status = safetensors_write(at("model.safetensors"), most % 4 == 3 ? &item : &half, 1);
        setrlimit(RLIMIT_FSIZE, &outside);
        if (most < N * 2)
            assert_int_equal(status, ERROR_FILE);
        if (!status)
            break;
        assert_error(ERROR_FILE, "cannot write", "model.safetensors: File too large", "is unchanged");
        unsigned char *now = get_file(at("model.safetensors"), &m);
        assert_int_equal(m, n);
        assert_memory_equal(now, old, n);
        test_free(now);
        assert_int_equal(files_in(folder), 1);
    }
    signal(SIGXFSZ, SIG_DFL);
    test_free(old);
}

static void test_bad_places(void **state)
{
    (void)state;
    assert_int_equal(safetensors_write(at("no/where"), several, 1), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot create", "no/where: No such file");
    assert_int_equal(mkdir(at("taken"), 0777), 0);
    put_file(at("taken/x"), "x", 1);
    assert_int_equal(safetensors_write(at("taken"), several, 1), ERROR_FILE);
    assert_error(ERROR_FILE, "taken", "a directory, not a file");
    assert_int_equal(files_in(folder), 1);
    assert_int_equal(safetensors_write("/proc/x.safetensors", several, 1), ERROR_FILE);
    assert_error(ERROR_FILE, "/proc/x.safetensors");
    if (geteuid() == 0)
        return; /* permissions do not hold root */
    assert_int_equal(chmod(folder, 0500), 0);
    assert_int_equal(safetensors_write(at("x"), several, 1), ERROR_FILE);
    assert_error(ERROR_FILE, "cannot create", "Permission denied");
    assert_int_equal(chmod(folder, 0700), 0);
}

/* ---- No memory ------------------------------------------------------------------------------- */

static int open_and_write(void)
{
    Safetensors *s = safetensors_open(at("old"));
    int opened = s != NULL, status = safetensors_write(at("new"), several, COUNT(several));
    safetensors_close(s);
    return opened ? status : error_code();
}

static void test_no_memory(void **state)
{
    (void)state;
    write_several(at("old"));
    craft("new", "{" F32("a", "[1]", "0", "4") "}", 4);
    uint64_t live = memtrack_process_live();
    int n = 1;
    for (int passed = 0; !passed; n++) {
        memtrack_fail_nth((uint64_t)n);
        int status = open_and_write();
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        assert_int_equal(memtrack_process_live(), live);
        error_clear();
        Safetensors *s = safetensors_open(at("new")); /* the old one or the new one */
        assert_int_equal(safetensors_count(s), passed ? COUNT(several) : 1);
        safetensors_close(s);
    }
    assert_true(n > 6);
    int status = 1;
    for (n = 0; status; n++) {
        json_allow(n);
        status = open_and_write();
        if (json_live || memtrack_process_live() != live)
            break;
        error_clear();
    }
    json_allow_all();
    assert_int_equal(json_live, 0);
    assert_int_equal(memtrack_process_live(), live);
    assert_int_equal(status, 0);
    assert_int_equal(files_in(folder), 2);
    assert_true(n > 100);
}

/* ---- Any file -------------------------------------------------------------------------------- */

static uint32_t draw(uint32_t *from, uint32_t below)
{
    return hash32((*from)++) % below;
}

/* Reads all that a file says it has. */
static void read_all(const Safetensors *s, const unsigned char *unused)
{
    (void)unused;
    float read[64];
    for (int i = 0; i < safetensors_count(s); i++) {
        const SafetensorsEntry *e = safetensors_at(s, i);
        uint64_t sum = 0;
        for (uint64_t j = 0; j < e->bytes; j++)
            sum += ((const unsigned char *)e->data)[j];
        assert_true(sum <= 255 * e->bytes && safetensors_find(s, e->name) == e);
        if (e->numel <= 64 && e->type <= SAFETENSORS_BF16)
            assert_int_equal(safetensors_read(s, e, read), 0);
    }
}

/* A good file with some bytes changed, removed or repeated: read within itself, or refused by name. */
static void test_mutations(void **state)
{
    (void)state;
    enum { ROUNDS = 6000 };
    size_t size;
    uint32_t from = 1;
    int opened = 0;
    write_several(at("good"));
    unsigned char *good = get_file(at("good"), &size), *bad = test_malloc(2 * size);
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = size;
        memcpy(bad, good, size);
        for (uint32_t k = 1 + draw(&from, 3); k > 0; k--) {
            size_t where = draw(&from, (uint32_t)n), length = 1 + draw(&from, 9);
            length = where + length > n ? n - where : length;
            switch (draw(&from, 4)) {
            case 0:
                bad[where] = (unsigned char)draw(&from, 256);
                break;
            case 1:
                where = 8 + draw(&from, (uint32_t)size - 8) % 700;
                while (where < n && (bad[where] < '0' || bad[where] > '9'))
                    where++;
                if (where < n)
                    bad[where] = (unsigned char)('0' + draw(&from, 10));
                break;
            case 2:
                memmove(bad + where, bad + where + length, n - where - length);
                n -= length;
                break;
            default:
                if (n + length > 2 * size)
                    break;
                memmove(bad + where + length, bad + where, n - where);
                n += length;
            }
            n = n ? n : 1;
        }
        put_file(at("bad.safetensors"), bad, n);
        Safetensors *s = safetensors_open(at("bad.safetensors"));
        if (s) {
            opened++;
            read_all(s, NULL);
            safetensors_close(s);
            continue;
        }
        if (!strstr(error_message(), "bad.safetensors") || error_code() == ERROR_HOST_MEMORY)
            fail_msg("%s", error_message());
        error_clear();
    }
    assert_true(opened > ROUNDS / 50 && opened < ROUNDS);
    test_free(good);
    test_free(bad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip), TEST(test_order),       TEST(test_tensors),   TEST(test_unaligned),
        TEST(test_index),      TEST(test_bad_indexes), TEST(test_bad_items), TEST(test_full_disk),
        TEST(test_bad_places), TEST(test_no_memory),   TEST(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
