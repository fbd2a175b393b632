/* Of one type: included by attention_backward.cu. */

GLOBAL(TYPED(attention_delta), ATTENTION_THREADS, AttentionArguments)
{
    delta_rows(&a, TYPE);
}

GLOBAL(TYPED(attention_dq), ATTENTION_THREADS, AttentionArguments)
{
    backward_queries(&a, TYPE, COLUMNS / 2);
}

GLOBAL(TYPED(attention_dq_wide), ATTENTION_THREADS, AttentionArguments)
{
    backward_queries(&a, TYPE, COLUMNS);
}

GLOBAL(TYPED(attention_dkv), ATTENTION_THREADS, AttentionArguments)
{
    backward_keys(&a, TYPE, COLUMNS / 2);
}

GLOBAL(TYPED(attention_dkv_wide), ATTENTION_THREADS, AttentionArguments)
{
    backward_keys(&a, TYPE, COLUMNS);
}
