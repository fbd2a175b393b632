/* Reading and writing adapters where calls fail, memory runs out or the process dies: directories never hold
 * a mixture, and models no part of an adapter. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "../base/file_.h"
#include "json_support.h"
#include "lora_support.h"

/* ---- Failing and dying ----------------------------------------------------------------------- */

static FileCalls real;
static int calls, failing, dying;

/* Before this call. */
static int stops(void)
{
    calls++;
    if (calls == dying)
        kill(getpid(), SIGKILL);
    errno = calls == failing ? EIO : errno;
    return calls == failing;
}

#define STOPPING(type, name, parameters, arguments)                                                          \
    static type stopping_##name parameters                                                                   \
    {                                                                                                        \
        return stops() ? -1 : real.name arguments;                                                           \
    }
STOPPING(int, open, (const char *path, int flags, mode_t mode), (path, flags, mode))
STOPPING(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count))
STOPPING(int, rename, (const char *from, const char *to), (from, to))
STOPPING(int, unlink, (const char *path), (path))

static int stopping_fsync(int file) /* a disk is slow */
{
    return stops() ? -1 : file < 0 ? -1 : 0;
}

static void replace_calls(int fail_at, int die_at)
{
    calls = 0;
    failing = fail_at;
    dying = die_at;
    file_calls.open = stopping_open;
    file_calls.write = stopping_write;
    file_calls.rename = stopping_rename;
    file_calls.unlink = stopping_unlink;
    file_calls.fsync = stopping_fsync;
}

/* What a reader finds: 0 none, 1 the old one, 2 the new one; a mixture fails. Only loading tells. */
static int found(const char *old)
{
    int scope = tensor_scope_begin();
    Module *model = base_model("llama");
    AdapterReport report;
    int status = io_load_adapter(model, at("d"), NULL, &report), there = 0;
    if (status)
        assert_true(error_code() == ERROR_FILE);
    error_clear();
    if (!status) {
        int is_old = logits_off(model, run_of(old), "logits") <= 1e-5;
        int is_new = logits_off(model, run_of("llama_all"), "logits") <= 1e-5;
        assert_true(is_old != is_new);
        there = is_old ? 1 : 2;
    }
    tensor_scope_end(scope);
    return there;
}

static int dies(Module *model, int which)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        replace_calls(0, which);
        _exit(io_save_adapter(model, at("d"), &(AdapterSaving){.overwrite = 1}) != 0);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

/* Over another adapter; over itself with other values, where an adapter is there at any moment. */
static void test_death_in_every_call(void **state)
{
    (void)state;
    static const char *const olds[] = {"llama_default", "llama_all_rslora"};
    Module *model = adapted_model("llama_all");
    real = file_calls;
    for (int i = 0; i < 2; i++) {
        int seen[3] = {0}, which = 1;
        for (;; which++) {
            copy_adapter(olds[i], "d");
            if (!dies(model, which))
                break;
            seen[found(olds[i])]++;
        }
        assert_int_equal(found(olds[i]), 2);
        assert_true(which > 8 && seen[1] > 4 && seen[2] > 0);
        count_more(COUNTED_DEATHS, which - 1);
    }
    copy_adapter("llama_all", "d");
    assert_int_equal(io_save_adapter(model, at("d"), &(AdapterSaving){.overwrite = 1}), 0);
    for (int which = 1; dies(model, which); which++) /* only values are written again */
        assert_int_equal(found("llama_default"), 2);
}

static void test_failure_in_every_call(void **state)
{
    (void)state;
    Module *model = adapted_model("llama_all");
    real = file_calls;
    for (int which = 1;; which++) {
        copy_adapter("llama_default", "d");
        replace_calls(which, 0);
        int status = io_save_adapter(model, at("d"), &(AdapterSaving){.overwrite = 1});
        file_calls = real;
        error_clear();
        if (calls < which) {
            assert_int_equal(status, 0);
            break;
        }
        int there = found("llama_default");
        assert_true(status || there == 2);
        assert_true(files_in(at("d")) <= 3); /* with one that could not be removed */
        count_more(COUNTED_CALLS, 1);
    }
    assert_int_equal(found("llama_default"), 2);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Every allocation in turn; what was not loaded is not there, and nothing is left. */
static void test_no_memory(void **state)
{
    (void)state;
    static const char *const some[] = {"llama_tied_embed", "gpt2_bias_lora_only"};
    for (int i = 0; i < 2; i++) {
        int n = 1;
        for (int passed = 0; !passed; n++) {
            Visit v = visit(&(ContextOptions){.threads = 1});
            Module *model = base_model(some[i]);
            memtrack_fail_nth((uint64_t)n);
            int status = io_load_adapter(model, start_of(some[i]).text, NULL, NULL);
            passed = memtrack_fail_pending();
            memtrack_fail_nth(0);
            assert_true(passed ? !status : status == ERROR_HOST_MEMORY || status == ERROR_MEMORY);
            error_clear();
            leave(v);
        }
        count_more(COUNTED_ALLOCATIONS, n - 1);
        assert_true(n > 20);
    }
}

static void test_no_memory_to_save(void **state)
{
    (void)state;
    Module *model = adapted_model("llama_tied_embed");
    int n = 1;
    for (int passed = 0; !passed; n++) {
        memtrack_fail_nth((uint64_t)n);
        int status = io_save_adapter(model, at("m"), NULL);
        passed = memtrack_fail_pending();
        memtrack_fail_nth(0);
        assert_int_equal(status, passed ? 0 : ERROR_HOST_MEMORY);
        error_clear();
    }
    assert_true(n > 4);
    assert_int_equal(files_in(at("m")), 2);
}

/* Of jansson's: the file is whole, or it is not written. */
static void test_no_memory_for_json(void **state)
{
    (void)state;
    Module *model = adapted_model("gpt2_bias_lora_only");
    size_t size, now;
    int failed = 0;
    assert_int_equal(io_save_adapter(model, at("m"), NULL), 0);
    unsigned char *whole = get_file(at("m/adapter_config.json"), &size);
    for (int n = 1, passed = 0; !passed; n++) {
        json_fail_nth(n);
        failed += io_save_adapter(model, at("m"), &(AdapterSaving){.overwrite = 1}) != 0;
        passed = json_fail_pending();
        json_allow_all();
        assert_int_equal(json_live, 0);
        error_clear();
        unsigned char *text = get_file(at("m/adapter_config.json"), &now);
        assert_int_equal(now, size);
        assert_memory_equal(text, whole, size);
        test_free(text);
    }
    test_free(whole);
    assert_true(failed > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_death_in_every_call), TEST(test_failure_in_every_call), TEST(test_no_memory),
        TEST(test_no_memory_to_save),   TEST(test_no_memory_for_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
