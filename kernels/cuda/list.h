/* The kernels of the .cu files by name: PLAIN(name), and TYPED(name) for those that exist as name_f32,
 * name_bf16 and name_f16. Who includes this defines both. */
/* products */
TYPED(linear_bias)
TYPED(linear_finish)
TYPED(product_operand)
TYPED(column_parts)
PLAIN(column_total)
PLAIN(product_round)

/* attention */
TYPED(attention_flash)
TYPED(attention_stats)
TYPED(attention_eager)
TYPED(attention_delta)
TYPED(attention_dq)
TYPED(attention_dkv)

/* norms, loss, embedding, rows, rope */

/* elements, reductions, random */
TYPED(fill)
TYPED(scale)

/* storing */

/* updates */

#undef PLAIN
#undef TYPED
