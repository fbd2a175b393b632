/* The kernels of the .cu files by name: PLAIN(name), and TYPED(name) for those that exist as name_f32,
 * name_bf16 and name_f16. Who includes this defines both. */
/* products */
TYPED(linear_bias)
TYPED(linear_finish)
TYPED(linear_few)
TYPED(product_operand)
PLAIN(product_round)

/* attention */
TYPED(attention_flash)
TYPED(attention_stats)
TYPED(attention_eager)
TYPED(attention_delta)
TYPED(attention_dq)
TYPED(attention_dkv)
TYPED(attention_cached)
PLAIN(attention_append)
PLAIN(attention_token)
PLAIN(attention_join)

/* norms, loss, embedding, rows, rope */
TYPED(norm_forward)
TYPED(norm_backward)
PLAIN(norm_weights)
TYPED(cross_entropy_forward)
PLAIN(cross_entropy_sum)
TYPED(cross_entropy_backward)
TYPED(embedding_forward)
PLAIN(sort_count)
PLAIN(sort_scan)
PLAIN(sort_place)
TYPED(embedding_backward)
TYPED(rope)
PLAIN(labelled_rows)
PLAIN(move_rows)
TYPED(add_to_rows)

/* elements, reductions, random */
TYPED(fill)
PLAIN(copy)
TYPED(add)
PLAIN(accumulate)
TYPED(add_row)
TYPED(column_sum)
PLAIN(column_sum_end)
TYPED(scale)
TYPED(multiply)
TYPED(broadcast)
TYPED(activation_forward)
TYPED(activation_backward)
TYPED(swiglu_forward)
TYPED(swiglu_backward)
TYPED(dropout)
TYPED(sum_part)
PLAIN(sum_end)
PLAIN(find_nonfinite_begin)
TYPED(find_nonfinite)
PLAIN(fill_normal)
PLAIN(fill_uniform)

/* storing */
PLAIN(decode)
PLAIN(decode_transposed)
PLAIN(encode_values)
PLAIN(encode_int8)
PLAIN(encode_nf4)
PLAIN(encode_dynamic8)
PLAIN(encode_offset)
PLAIN(encode_scales)

/* updates */
PLAIN(sgd)
PLAIN(sgd_blocks)
PLAIN(rmsprop)
PLAIN(rmsprop_blocks)
PLAIN(adagrad)
PLAIN(adagrad_blocks)
PLAIN(adam)
PLAIN(adam_blocks)

/* the step: step.h */
PLAIN(step_fault)
PLAIN(step_loss)
PLAIN(step_control)

#undef PLAIN
#undef TYPED
