/* The plan is the run, byte for byte, of every decoder, with what sets its family apart: checkpoints or none
 * x fp32 or bf16 x trained whole or by adapters. */
#include "plan_cases.h"

static const char *const precisions[] = {NULL, "bf16"};

/* Its batch, accumulation and optimizer differ from one to the next, so that they meet too. */
static void check_family(ModelFamily family)
{
    for (int i = 0; i < 8; i++) {
        Case c = {.family = family,
                  .checkpoint = i & 1,
                  .precision = precisions[i >> 1 & 1],
                  .lora = i & 4 ? "all" : NULL,
                  .accumulate = 1 + (i + (int)family) % 2,
                  .attention = (i + (int)family) % 4 == 2 ? ATTENTION_EAGER : ATTENTION_FLASH,
                  .optimizer = optim_rule_at((i + (int)family) % optimizer_count())->name,
                  .epochs = 1};
        check_case(&c, 1, 0);
    }
}

static void every_decoder(void **state)
{
    (void)state;
    int decoders = 0;
    for (int family = 0; family < MODEL_FAMILY_COUNT; family++)
        if (nn_family((ModelFamily)family)->decoder) {
            check_family((ModelFamily)family);
            decoders++;
        }
    assert_true(decoders >= 11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_decoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
