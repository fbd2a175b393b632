/* Files of safetensors that lie about themselves: what is refused, with which message, and how little memory
 * it takes. */
#include "json_support.h"
#include "weights_support.h"

/* ---- Files that lie -------------------------------------------------------------------------- */

typedef struct Lie {
    const char *header;
    size_t size;
    const char *word, *other;
} Lie;

static void test_lies(void **state)
{
    (void)state;
    static const Lie lies[] = {
        {"{" F32("w", "[2]", "0", "8") "}", 4, "the tensor \"w\" ends at 8", "only 4 bytes follow"},
        {"{" F32("w", "[2500000000]", "0", "10000000000") "}", 4, "\"w\" ends at 10000000000", ""},
        {"{" F32("w", "[2]", "0", "4") "}", 4, "\"w\" has 4 bytes", "(F32) take 8"},
        {"{" F32("w", "[4294967296,4294967296]", "0", "0") "}", 0, "\"w\" has a shape", "beyond 64 bits"},
        {"{" F32("w", "[9223372036854775807]", "0", "0") "}", 0, "\"w\" has a shape", "beyond 64 bits"},
        {"{" F32("w", "[9223372036854775807,2,0]", "0", "4") "}", 4, "\"w\" has 4 bytes", "take 0"},
        {"{" F32("w", "[-1]", "0", "4") "}", 4, "\"w\" has a shape with -1", ""},
        {"{" F32("w", "[1.0]", "0", "4") "}", 4, "\"w\" has a shape with 1.0", ""},
        {"{" F32("w", "['1']", "0", "4") "}", 4, "\"w\" has a shape with \"1\"", ""},
        {"{" F32("w", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "\"w\" has 9 dimensions", "at most 8"},
        {"{" F32("w", "7", "0", "4") "}", 4, "\"w\" has no shape", ""},
        {"{" F32("w", "[1]", "4", "0") "}", 4, "\"w\" lies from 4 to 0", ""},
        {"{" F32("w", "[1]", "-4", "0") "}", 4, "\"w\" lies from -4 to 0", ""},
        {"{" F32("w", "[1]", "0", "4.0") "}", 4, "\"w\" has no data_offsets", ""},
        {"{" F32("w", "[1]", "0", "99999999999999999999") "}", 4, "is not JSON", "too big"},
        {"{" F32("w", "[1]", "0,4", "8") "}", 4, "\"w\" has no data_offsets", ""},
        {"{'w':{'dtype':'F32','shape':[1]}}", 4, "\"w\" has no data_offsets", ""},
        {"{'w':{'dtype':'F31','shape':[1],'data_offsets':[0,4]}}", 4, "the dtype \"F31\"", "BF16"},
        {"{'w':{'shape':[1],'data_offsets':[0,4]}}", 4, "the dtype absent", ""},
        {"{'w':{'dtype':4,'shape':[1],'data_offsets':[0,4]}}", 4, "the dtype 4", ""},
        {"{'w':3}", 0, "\"w\" is 3 in the header", ""},
        {"{" F32("a", "[2]", "0", "8") "," F32("b", "[2]", "4", "12") "}", 12, "\"b\" overlaps \"a\"", ""},
        {"{" F32("a", "[2]", "0", "8") "," F32("b", "[2]", "0", "8") "}", 8, "\"b\" overlaps \"a\"", ""},
        {"{" F32("b", "[3]", "0", "12") "," F32("a", "[1]", "4", "8") "}", 12, "\"a\" overlaps \"b\"", ""},
        {"{" F32("a", "[1]", "0", "4") "," F32("b", "[1]", "8", "12") "}", 12, "\"b\" begins at 8",
         "4 bytes before"},
        {"{" F32("a", "[1]", "4", "8") "}", 8, "\"a\" begins at 4", "to no tensor"},
        {"{" F32("a", "[1]", "0", "4") "}", 8, "the last tensor ends 4 bytes before", ""},
        {"{}", 1, "ends 1 byte before", ""},
        {"{" F32("a", "[1]", "0", "4") "," F32("a", "[1]", "4", "8") "}", 8, "is not JSON", "duplicate"},
        {"{" F32("a\\u0000b", "[1]", "0", "4") "}", 4, "is not JSON", "u0000"},
        {"{'__metadata__':{'x':1}}", 0, "__metadata__ must be", "\"x\" is 1"},
        {"{'__metadata__':[]}", 0, "__metadata__ must be an object", ""},
        {"{'w':", 0, "is not JSON", ""},
        {"{} x", 0, "is not JSON", ""},
        {" {}", 0, "must begin with '{'", ""},
        {"[]", 0, "must begin with '{'", ""},
        {"", 0, "must begin with '{'", ""},
        {"", 5, "must begin with '{'", ""},
        {"{'\xff':1}", 0, "is not JSON", "0xff"},
    };
    for (size_t i = 0; i < COUNT(lies); i++) {
        craft("lie.safetensors", lies[i].header, lies[i].size);
        if (safetensors_open(at("lie.safetensors")))
            fail_msg("%s was read", lies[i].header);
        assert_error(ERROR_DATA, "lie.safetensors", lies[i].word, lies[i].other);
    }
}

static void test_lengths(void **state)
{
    (void)state;
    unsigned char bytes[100] = {0};
    uint64_t lengths[] = {93, 10000000000, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        memcpy(bytes, &lengths[i], 8);
        put_file(at("long"), bytes, sizeof bytes);
        assert_refused(at("long"), ERROR_DATA, "long has 100 bytes", "header has");
    }
    for (size_t n = 1; n < 8; n++) {
        put_file(at("short"), bytes, n);
        assert_refused(at("short"), ERROR_DATA, "short is not a safetensors file: it has",
                       "begins with 8 of length");
    }
    put_file(at("zip"), "PK\3\4 and so on, as torch.save writes", 37);
    assert_refused(at("zip"), ERROR_DATA, "pickle of PyTorch");
    put_file(at("lfs"), "version https://git-lfs.github.com/spec/v1\noid sha256:0", 55);
    assert_refused(at("lfs"), ERROR_DATA, "pointer of Git LFS");
    char text[64] = "{\"a\0b\":1}";
    uint64_t n = 9;
    memcpy(bytes, &n, 8);
    memcpy(bytes + 8, text, 9);
    put_file(at("nul"), bytes, 17);
    assert_refused(at("nul"), ERROR_DATA, "is not JSON");
    put_file(at("empty"), "", 0);
    assert_refused(at("empty"), ERROR_FILE, "is empty");
    assert_refused(at("none"), ERROR_FILE, "No such file");
    assert_refused("/dev/zero", ERROR_FILE, "/dev/zero is not a file");
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    assert_refused(at("pipe"), ERROR_FILE, "is not a file");
    assert_refused(folder, ERROR_FILE, "no model.safetensors");
    put_file(at("pytorch_model.bin"), "x", 1);
    assert_refused(folder, ERROR_FILE, "in a pickle (pytorch_model.bin)", "safe_serialization");
    assert_refused(NULL, ERROR_ARGUMENT, "path is NULL");
    char path[6000];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    assert_refused(path, ERROR_FILE, "too long");
}

/* ---- Memory of hostile files ----------------------------------------------------------------- */

static size_t json_now, json_most;

static void *counted_malloc(size_t bytes)
{
    size_t *block = malloc(bytes + 16);
    json_now += bytes;
    json_most = json_now > json_most ? json_now : json_most;
    return block ? (*block = bytes, (char *)block + 16) : NULL;
}

static void counted_free(void *block)
{
    if (!block)
        return;
    size_t *real = (size_t *)(void *)((char *)block - 16);
    json_now -= *real;
    free(real);
}

/* Whatever a header says, reading it takes a small multiple of its bytes. */
static void test_no_memory_for_claims(void **state)
{
    (void)state;
    enum { MOST = 60000 };
    static char deep[MOST + 1], wide[MOST + 1];
    size_t n = 0;
    memset(deep, '[', MOST);
    memcpy(deep, "{'a':", 5);
    n += (size_t)sprintf(wide, "{'a':[");
    while (n < MOST - 10)
        n += (size_t)sprintf(wide + n, "[],");
    strcpy(wide + n, "0]}");
    const char *const headers[] = {deep, wide, "{" F32("w", "[2500000000]", "0", "10000000000") "}",
                                   "{" F32("w", "[1000000,1000000,1000000]", "0", "4000000000000000000") "}"};
    json_set_alloc_funcs(counted_malloc, counted_free);
    for (size_t i = 0; i < COUNT(headers); i++) {
        Visit v = visit(&(ContextOptions){.threads = 1});
        uint64_t before = memtrack_host_peak(context_tracker(context_current()));
        json_most = 0;
        craft("lie", headers[i], 4);
        assert_null(safetensors_open(at("lie")));
        assert_int_equal(error_code(), ERROR_DATA);
        error_clear();
        uint64_t size = strlen(headers[i]);
        assert_true(memtrack_host_peak(context_tracker(context_current())) - before < 2 * size + 1000);
        assert_true(json_most < 100 * size + 4000);
        assert_int_equal(json_now, 0);
        leave(v);
    }
    json_set_alloc_funcs(malloc, free);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_lies),
        TEST(test_lengths),
        TEST(test_no_memory_for_claims),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
