/* Run logs made into a page: one, or two separated by two bytes 0xFF. */
#include "../../report/html.h"
#include "../../estimate/page_replay_.h"
#include "fuzz_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *nowhere;
    char why[512] = "";
    uint64_t before = memtrack_process_live();
    FuzzParts parts = fuzz_parts(data, size);
    const char *paths[2] = {fuzz_put("a.jsonl", parts.first, parts.first_size),
                            fuzz_put("b.jsonl", parts.second, parts.second_size)};
    nowhere = nowhere ? nowhere : fopen("/dev/null", "wb");
    fuzz_fail_one(data, size);
    int failed = report_html(nowhere, paths, parts.second_size ? 2 : 1, &estimate_pytorch_page, why, sizeof why) != 0;
    memtrack_fail_nth(0);
    fuzz_check(failed == (why[0] != 0), "result and message do not agree");
    fuzz_check(memtrack_process_live() == before, "memory is left");
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    return fuzz_json_mutate(data, size, max, seed, 0, 1);
}
