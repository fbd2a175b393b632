/* What the stand-in's driver says and refuses, as a card's does: cards and their kinds, memory to the
 * granule, launches, captures and graphs, events, copies. Each case is a process of its own. */
#include "stand_in_support.h"

enum {
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    DEVICE_UNAVAILABLE = 46,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY = 209,
    PTX_VERSION = 222,
    NOT_FOUND = 500,
    NOT_READY = 600,
    OUT_OF_RESOURCES = 701,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_IMPLICIT = 906,
    SAID = 1 << 12,
    MIB = 1 << 20
};

#define SETTINGS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* What fails in the child is shown. */
static void passes(const char *const *settings, void (*run)(void *))
{
    static char said[SAID];
    int code = in_child(said, sizeof said, settings, run, NULL);
    if (code || said[0])
        fail_msg("%s: code %d: %s", settings ? settings[0] : "", code, said);
}

/* In the child: a line for each expectation that does not hold. */
#define EXPECT(is, expected) expect_(__LINE__, #is, (long long)(is), (long long)(expected))
static void expect_(int line, const char *what, long long is, long long expected)
{
    if (is != expected)
        printf("line %d: %s is %lld, not %lld\n", line, what, is, expected);
}

static int attribute(int number, int device)
{
    int value = -1;
    driver.cuDeviceGetAttribute(&value, number, device);
    return value;
}

static int cards(void)
{
    int count = -1, status = driver.cuInit(0);
    return status ? -status : driver.cuDeviceGetCount(&count) ? -1 : count;
}

/* ---- Cards ---- */

static void usual_card(void *unused)
{
    size_t bytes;
    int version;
    char name[64];
    (void)unused;
    load_driver();
    EXPECT(cards(), 1);
    EXPECT(driver.cuDriverGetVersion(&version), 0);
    EXPECT(version, 13000);
    EXPECT(driver.cuDeviceTotalMem_v2(&bytes, 0), 0);
    EXPECT(bytes, 1024ll * MIB);
    EXPECT(attribute(75, 0), 9);
    EXPECT(attribute(76, 0), 0);
    EXPECT(attribute(16, 0), 4);
    EXPECT(attribute(20, 0), 0);
    EXPECT(attribute(97, 0), 227 << 10);
    EXPECT(driver.cuDeviceGetName(name, sizeof name, 0), 0);
    EXPECT(strcmp(name, "stand-in"), 0);
    EXPECT(driver.cuDeviceGetName(name, sizeof name, 1), INVALID_DEVICE);
}

static void other_card(void *unused)
{
    size_t bytes;
    int version;
    (void)unused;
    load_driver();
    EXPECT(cards(), 3);
    driver.cuDriverGetVersion(&version);
    EXPECT(version, 11080);
    driver.cuDeviceTotalMem_v2(&bytes, 2);
    EXPECT(bytes, 40ll * MIB);
    EXPECT(attribute(75, 2), 7);
    EXPECT(attribute(76, 2), 5);
    EXPECT(attribute(16, 2), 40);
    EXPECT(attribute(97, 2), 64 << 10);
}

static void no_card(void *unused)
{
    (void)unused;
    load_driver();
    EXPECT(cards(), -NO_DEVICE);
}

static void broken_driver(void *unused)
{
    (void)unused;
    load_driver();
    EXPECT(cards(), -803);
}

static void two_cards(void *unused)
{
    (void)unused;
    load_driver();
    EXPECT(cards(), 2);
}

static void slice(void *unused)
{
    size_t bytes;
    char name[64];
    (void)unused;
    load_driver();
    EXPECT(cards(), 1);
    driver.cuDeviceTotalMem_v2(&bytes, 0);
    EXPECT(bytes, 100ll * MIB);
    EXPECT(attribute(16, 0), 18);
    driver.cuDeviceGetName(name, sizeof name, 0);
    EXPECT(strcmp(name, "stand-in MIG 1g"), 0);
}

static void taken(void *unused)
{
    void *context;
    (void)unused;
    load_driver();
    EXPECT(cards(), 1);
    EXPECT(attribute(20, 0), strcmp(getenv("STAND_IN_MODE"), "exclusive") == 0 ? 3 : 2);
    EXPECT(driver.cuDevicePrimaryCtxRetain(&context, 0), DEVICE_UNAVAILABLE);
}

static void test_cards(void **state)
{
    (void)state;
    passes(NULL, usual_card);
    passes(SETTINGS("STAND_IN_CARDS=3", "STAND_IN_DRIVER=11080", "STAND_IN_MEMORY=40",
                    "STAND_IN_CAPABILITY=75", "STAND_IN_SMS=40"),
           other_card);
    passes(SETTINGS("STAND_IN_CARDS=0"), no_card);
    passes(SETTINGS("STAND_IN_INIT=803"), broken_driver);
    passes(SETTINGS("STAND_IN_MODE=exclusive"), taken);
    passes(SETTINGS("STAND_IN_MODE=prohibited"), taken);
}

static void test_visible_cards(void **state)
{
    (void)state;
    passes(SETTINGS("CUDA_VISIBLE_DEVICES="), no_card);
    passes(SETTINGS("CUDA_VISIBLE_DEVICES=-1", "STAND_IN_CARDS=4"), no_card);
    passes(SETTINGS("CUDA_VISIBLE_DEVICES=3,1", "STAND_IN_CARDS=4"), two_cards);
    passes(SETTINGS("CUDA_VISIBLE_DEVICES=0,2,9,1", "STAND_IN_CARDS=4"),
           two_cards); /* up to what is not there */
    passes(SETTINGS("CUDA_VISIBLE_DEVICES=MIG-7c34", "STAND_IN_MEMORY=700", "STAND_IN_SMS=132"), slice);
}

/* ---- Memory ---- */

static size_t bytes_free(void)
{
    size_t some = 0, all;
    driver.cuMemGetInfo_v2(&some, &all);
    return some;
}

static void memory(void *unused)
{
    void *context;
    Pointer p, q;
    float x[2];
    (void)unused;
    load_driver();
    EXPECT(driver.cuMemAlloc_v2(&p, 1), 3); /* not initialised */
    EXPECT(cards(), 1);
    EXPECT(driver.cuMemAlloc_v2(&p, 1), INVALID_CONTEXT);
    EXPECT(driver.cuDevicePrimaryCtxRetain(&context, 0), 0);
    EXPECT(driver.cuMemAlloc_v2(&p, 1), INVALID_CONTEXT);
    EXPECT(driver.cuCtxSetCurrent(context), 0);
    EXPECT(bytes_free(), 24 * MIB); /* the context has 16 of 40 */
    EXPECT(driver.cuMemAlloc_v2(&p, 0), INVALID_VALUE);
    EXPECT(driver.cuMemAlloc_v2(&p, 1), 0);
    EXPECT(p % 256, 0);
    EXPECT(bytes_free(), 22 * MIB);
    EXPECT(driver.cuMemAlloc_v2(&q, 22 * MIB + 1), OUT_OF_MEMORY);
    EXPECT(driver.cuMemAlloc_v2(&q, 22 * MIB), 0);
    EXPECT(bytes_free(), 0);
    EXPECT(driver.cuMemcpyDtoHAsync_v2(x, q, sizeof x, (void *)1), 0);
    EXPECT(x[0] != x[0], 1); /* garbage: NaN */
    EXPECT(driver.cuMemcpyDtoHAsync_v2(x, q + 22 * MIB - 4, 8, (void *)1), INVALID_VALUE);
    EXPECT(driver.cuMemFree_v2(q + 4), INVALID_VALUE);
    EXPECT(driver.cuMemFree_v2(q), 0);
    EXPECT(driver.cuMemFree_v2(q), INVALID_VALUE);
    EXPECT(bytes_free(), 22 * MIB);
    driver.stand_in_fail_nth(2);
    EXPECT(driver.cuMemAlloc_v2(&q, 4), 0);
    EXPECT(driver.cuMemAlloc_v2(&q, 4), OUT_OF_MEMORY);
    EXPECT(driver.cuMemAlloc_v2(&q, 4), 0);
    EXPECT(driver.cuDevicePrimaryCtxRelease_v2(0), 0);
    EXPECT(driver.cuMemAlloc_v2(&p, 1), INVALID_CONTEXT);
}

static void test_memory(void **state)
{
    (void)state;
    passes(SETTINGS("STAND_IN_MEMORY=40"), memory);
}

/* ---- Images ---- */

static void images(void *unused)
{
    void *module;
    (void)unused;
    open_card();
    EXPECT(driver.cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_80\n", 0, NULL, NULL), 0);
    EXPECT(driver.cuModuleLoadDataEx(&module, ".version 9.0\n.target sm_80\n", 0, NULL, NULL), PTX_VERSION);
    EXPECT(driver.cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_90\n", 0, NULL, NULL), NO_BINARY);
    EXPECT(driver.cuModuleGetFunction(&module, module, "nothing"), NOT_FOUND);
}

static void test_images(void **state)
{
    (void)state;
    passes(SETTINGS("STAND_IN_DRIVER=12000", "STAND_IN_CAPABILITY=80"), images);
}

/* ---- Launches, and what is deferred ---- */

static void launches(void *unused)
{
    Opened o = open_card();
    ElementArguments a = arguments_of(&o);
    void *function;
    unsigned long long counts[5];
    (void)unused;
    EXPECT(launch(&o, "planted_nothing", 1, 65, 0, &a), OUT_OF_RESOURCES);
    EXPECT(launch(&o, "planted_nothing", 1, 1025, 0, &a), INVALID_VALUE);
    EXPECT(launch(&o, "planted_nothing", 0, 64, 0, &a), INVALID_VALUE);
    EXPECT(launch(&o, "planted_beyond_dynamic", 1, 64, 49 << 10, &a), INVALID_VALUE);
    EXPECT(driver.cuModuleGetFunction(&function, o.module, "planted_beyond_dynamic"), 0);
    EXPECT(driver.cuFuncSetAttribute(function, 8, 65 << 10), INVALID_VALUE); /* Turing has 64 KiB */
    EXPECT(driver.cuFuncSetAttribute(function, 8, 64 << 10), 0);
    EXPECT(launch(&o, "planted_beyond_dynamic", 1, 64, 49 << 10, &a), 0);
    EXPECT(launch(&o, "planted_nothing", 1, 64, 0, &(ElementArguments){0}),
           0); /* nothing runs before somebody waits */
    driver.stand_in_counts(counts);
    EXPECT(counts[0], 2);
    EXPECT(counts[2], 0);
}

static void test_launches(void **state)
{
    (void)state;
    passes(SETTINGS("STAND_IN_CAPABILITY=75"), launches);
}

static void copies(void *unused)
{
    Opened o = open_card();
    float *pinned, usual[64], y[64];
    unsigned long long counts[5];
    (void)unused;
    EXPECT(driver.cuMemAllocHost_v2((void **)&pinned, 256), 0);
    for (int i = 0; i < 64; i++)
        pinned[i] = usual[i] = 1;
    EXPECT(driver.cuMemcpyHtoDAsync_v2(o.x, usual, 256, o.stream), 0);
    EXPECT(driver.cuMemcpyHtoDAsync_v2(o.y, pinned, 256, o.stream), 0);
    pinned[0] = usual[0] = 2; /* pinned memory is read when the copy runs */
    driver.stand_in_counts(counts);
    EXPECT(counts[2], 0);
    EXPECT(driver.cuMemcpyDtoHAsync_v2(y, o.x, 256, o.stream), 0); /* waits */
    EXPECT(y[0], 1);
    EXPECT(driver.cuMemcpyDtoHAsync_v2(pinned, o.y, 256, o.stream), 0);
    pinned[0] = 3;
    EXPECT(driver.cuStreamSynchronize(o.stream), 0);
    EXPECT(pinned[0], 2);
    EXPECT(driver.cuMemsetD32Async(o.y, 7, 65, o.stream), INVALID_VALUE);
    EXPECT(driver.cuMemsetD32Async(o.y + 2, 7, 1, o.stream), INVALID_VALUE);
    EXPECT(driver.cuMemsetD32Async(o.y, 0, 64, o.stream), 0);
    EXPECT(driver.cuMemcpyDtoHAsync_v2(y, o.y, 256, o.stream), 0);
    EXPECT(y[63], 0);
    EXPECT(driver.cuMemFreeHost(pinned), 0);
    EXPECT(driver.cuMemFreeHost(pinned), INVALID_VALUE);
}

static void events(void *unused)
{
    Opened o = open_card();
    void *a, *b;
    float milliseconds = -1;
    (void)unused;
    EXPECT(driver.cuEventCreate(&a, 0), 0);
    EXPECT(driver.cuEventCreate(&b, 0), 0);
    EXPECT(driver.cuEventRecord(a, o.stream), 0);
    EXPECT(driver.cuEventRecord(b, o.stream), 0);
    EXPECT(driver.cuEventQuery(b), NOT_READY);
    EXPECT(driver.cuStreamSynchronize(o.stream), 0);
    EXPECT(driver.cuEventQuery(b), 0);
    EXPECT(driver.cuEventElapsedTime_v2(&milliseconds, a, b), 0);
    EXPECT(milliseconds >= 0, 1);
    EXPECT(driver.cuEventDestroy_v2(a), 0);
    EXPECT(driver.cuEventDestroy_v2(b), 0);
}

static void test_copies_and_events(void **state)
{
    (void)state;
    passes(NULL, copies);
    passes(NULL, events);
}

/* ---- Captures ---- */

static void spoiled_captures(void *unused)
{
    Opened o = open_card();
    ElementArguments a = arguments_of(&o);
    void *graph;
    Pointer p;
    (void)unused;
    EXPECT(driver.cuStreamSynchronize(o.stream), 0);
    EXPECT(driver.cuStreamBeginCapture_v2(o.stream, 0), 0);
    EXPECT(driver.cuStreamSynchronize(o.stream), CAPTURE_UNSUPPORTED);
    EXPECT(driver.cuStreamEndCapture(o.stream, &graph), CAPTURE_INVALIDATED);
    EXPECT(driver.cuStreamBeginCapture_v2(o.stream, 0), 0);
    EXPECT(driver.cuMemAlloc_v2(&p, 4), CAPTURE_UNSUPPORTED);
    EXPECT(driver.cuStreamEndCapture(o.stream, &graph), CAPTURE_INVALIDATED);
    EXPECT(driver.cuStreamBeginCapture_v2(o.stream, 0), 0);
    void *stream = o.stream;
    o.stream = NULL;
    EXPECT(launch(&o, "planted_nothing", 1, 64, 0, &a), CAPTURE_IMPLICIT);
    EXPECT(driver.cuStreamEndCapture(stream, &graph), CAPTURE_INVALIDATED);
    EXPECT(driver.cuStreamSynchronize(stream), 0);
}

static float first_of(const Opened *o)
{
    float y[64];
    EXPECT(driver.cuMemcpyDtoHAsync_v2(y, o->y, sizeof y, o->stream), 0);
    return y[0];
}

/* y = 63 - t of x, and 32, each time that the graph runs; then with other arguments. */
static void graphs(void *unused)
{
    Opened o = open_card();
    ElementArguments a = arguments_of(&o);
    void *graph, *ready, *nodes[4], *function;
    size_t count = 4, size = sizeof a, before;
    (void)unused;
    EXPECT(driver.cuMemsetD32Async(o.y, 0, 64, o.stream), 0);
    EXPECT(driver.cuStreamBeginCapture_v2(o.stream, 0), 0);
    EXPECT(launch(&o, "planted_nothing", 1, 64, 0, &a), 0);
    EXPECT(driver.cuStreamEndCapture(o.stream, &graph), 0);
    EXPECT(first_of(&o), 0); /* captured, not done */
    before = bytes_free();
    EXPECT(driver.cuGraphInstantiateWithFlags(&ready, graph, 0), 0);
    EXPECT(before - bytes_free(), 2 * MIB);
    EXPECT(driver.cuGraphLaunch(ready, o.stream), 0);
    EXPECT(first_of(&o), 63 + 32);
    EXPECT(driver.cuGraphGetNodes(graph, nodes, &count), 0);
    EXPECT(count, 1);
    EXPECT(driver.cuModuleGetFunction(&function, o.module, "planted_nothing"), 0);
    a.a = a.y; /* y of what is 95, 94 … 32 */
    void *extra[] = {(void *)1, &a, (void *)2, &size, NULL};
    const struct {
        void *function;
        unsigned grid[3], block[3], dynamic;
        void **parameters, **extra, *kernel, *context;
    } changed = {function, {1, 1, 1}, {64, 1, 1}, 0, NULL, extra, NULL, NULL};
    EXPECT(driver.cuGraphExecKernelNodeSetParams_v2(ready, nodes[0], &changed), 0);
    EXPECT(driver.cuGraphDestroy(graph), 0);
    EXPECT(driver.cuGraphLaunch(ready, o.stream), 0);
    EXPECT(first_of(&o), 32 + 32);
    EXPECT(driver.cuGraphExecDestroy(ready), 0);
    EXPECT(bytes_free(), before);
}

static void test_captures_and_graphs(void **state)
{
    (void)state;
    passes(NULL, spoiled_captures);
    passes(NULL, graphs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cards),
        cmocka_unit_test(test_visible_cards),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_launches),
        cmocka_unit_test(test_copies_and_events),
        cmocka_unit_test(test_captures_and_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
