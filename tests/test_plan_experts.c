/* The plan is the run with experts too, whose work depends on the routing, and memory does not. */
#include "plan_cases.h"

/* Each lever, every convention, adapters. */
static void mixtures(void **state)
{
    (void)state;
    static const char *const names[] = {NULL,         "bf16-mixed", "bf16", "bf16-autocast",
                                        "fp16-mixed", NULL,         NULL};
    for (int i = 0; i < 28; i++) {
        int rest = i / 7;
        static const ModelFamily families[] = {MODEL_MIXTRAL, MODEL_QWEN3_MOE, MODEL_QWEN2_MOE};
        Case c = {.family = families[i % 3],
                  .balance = rest & 1 ? 0.1f : 0,
                  .checkpoint = rest >> 1,
                  .accumulate = i % 3 ? 1 : 3,
                  .attention = i % 5 == 2 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .precision = names[i % 7],
                  .chunk = i % 4 == 1 ? 7 : 0,
                  .every = i % 6 == 5 ? 2 : 0,
                  .selective = i % 5 == 3,
                  .in_backward = i % 3 && i % 4 == 0 && i % 7 != 4,
                  .keep_zeros = i % 3 == 0 && i % 2,
                  .optimizer = optim_rule_at(i % optimizer_count())->name,
                  .epochs = 1};
        if (i % 7 == 6) {
            c.lora = "all";
            c.weights = (Weights){.dtype = DTYPE_BF16, .quantized = DTYPE_NF4, .frozen = 1};
        }
        check_case(&c, 1 + i % 2, i % 3 == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mixtures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
