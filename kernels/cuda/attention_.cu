/* Of one type: included by attention.cu. A block is a tile of queries of one head. */

GLOBAL(TYPED(attention_flash), ATTENTION_THREADS, AttentionArguments)
{
    flash_forward(&a, TYPE, TYPE, COLUMNS / 2);
}

GLOBAL(TYPED(attention_flash_wide), ATTENTION_THREADS, AttentionArguments)
{
    flash_forward(&a, TYPE, TYPE, COLUMNS);
}

/* Over a cache of another type. */
GLOBAL(TYPED(attention_cached), ATTENTION_THREADS, AttentionArguments)
{
    flash_forward(&a, TYPE, a.d.cached, COLUMNS);
}

GLOBAL(TYPED(attention_stats), ATTENTION_THREADS, AttentionArguments)
{
    eager_stats(&a, TYPE);
}

GLOBAL(TYPED(attention_eager), ATTENTION_THREADS, AttentionArguments)
{
    eager_forward(&a, TYPE, COLUMNS / 2);
}

GLOBAL(TYPED(attention_eager_wide), ATTENTION_THREADS, AttentionArguments)
{
    eager_forward(&a, TYPE, COLUMNS);
}
