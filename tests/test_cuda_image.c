/* The kernels that the library carries: whole, for each card the right ones, and all that the table asks for.
 */
#include "card_support.h"

#include <string.h>

#include "memtrack/memtrack.h"

static void test_text_for_each_card(void **state)
{
    static const struct {
        int capability;
        const char *target, *version;
    } cards[] = {{75, "\n.target sm_75\n", ".version 7."},
                 {80, "\n.target sm_80\n", ".version 7."},
                 {90, "\n.target sm_80\n", ".version 7."},
                 {120, "\n.target sm_80\n", ".version 7."}};
    (void)state;
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        size_t bytes, end;
        char *text = kernels_cuda_unpack(cards[i].capability, 0, &bytes);
        assert_non_null(text);
        end = strlen(text);
        assert_true(end > 1000 && end < bytes);
        assert_int_equal(text[end - 1], '\n');
        assert_ptr_equal(strstr(text, ".version "), text + strspn(text, "\n"));
        assert_non_null(strstr(text, cards[i].version));
        assert_non_null(strstr(text, cards[i].target));
        assert_null(strstr(text, "\n#"));
        memtrack_host_free(NULL, text, bytes);
        assert_null(kernels_cuda_unpack(cards[i].capability, 1, &bytes));
        assert_int_equal(bytes, 0);
    }
}

static void test_every_kernel_is_in_it(void **state)
{
    static const char *const names[] = {
#define PLAIN(name) #name,
#define TYPED(name) #name "_f32", #name "_bf16", #name "_f16",
#include "kernels/cuda/list.h"
    };
    (void)state;
    for (int capability = 75; capability <= 80; capability += 5) {
        size_t bytes;
        char *text = kernels_cuda_unpack(capability, 0, &bytes), entry[128];
        assert_non_null(text);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            snprintf(entry, sizeof entry, ".entry %s(", names[i]);
            if (!strstr(text, entry))
                fail_msg("sm_%d: no kernel %s", capability, names[i]);
        }
        memtrack_host_free(NULL, text, bytes);
    }
}

static void test_no_memory(void **state)
{
    size_t bytes;
    char why[1200];
    CudaDevice device;
    (void)state;
    card();
    for (int64_t nth = 1;; nth++) {
        memtrack_fail_nth((uint64_t)nth);
        char *text = kernels_cuda_unpack(80, 0, &bytes);
        memtrack_fail_nth(0);
        if (text) {
            memtrack_host_free(NULL, text, bytes);
            assert_true(nth > 2); /* the text, and zlib's */
            break;
        }
        assert_true(bytes > 0);
    }
    assert_int_equal(kernels_cuda_open(&device, 0, why, sizeof why), 0);
    cuda_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_for_each_card),
        cmocka_unit_test(test_every_kernel_is_in_it),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
