"""Decoders made of Llama's parts, as cases for check.py and generate.py: a name, transformers' class, a configuration."""
from transformers import (Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GemmaConfig,
                          GemmaForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, GraniteConfig, GraniteForCausalLM, MinistralConfig,
                          MinistralForCausalLM, MistralConfig, MistralForCausalLM,
                          MixtralConfig, MixtralForCausalLM, Olmo2Config, Olmo2ForCausalLM, Olmo3Config,
                          Olmo3ForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM,
                          SmolLM3Config, SmolLM3ForCausalLM)

SMALL = dict(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             intermediate_size=80, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
             attn_implementation='eager')


def cases():
    yield 'qwen3', Qwen3ForCausalLM, Qwen3Config(**SMALL, head_dim=12)
    yield 'qwen3, biases, tied', Qwen3ForCausalLM, Qwen3Config(
        **SMALL, head_dim=8, attention_bias=True, tie_word_embeddings=True)
    yield 'olmo2', Olmo2ForCausalLM, Olmo2Config(**SMALL)
    yield 'olmo2, biases', Olmo2ForCausalLM, Olmo2Config(**SMALL, attention_bias=True, rope_theta=5000.0)
    yield 'smollm3', SmolLM3ForCausalLM, SmolLM3Config(**SMALL, no_rope_layer_interval=2)
    yield 'smollm3, a list', SmolLM3ForCausalLM, SmolLM3Config(
        **SMALL, no_rope_layers=[0, 1, 1], tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    yield 'granite', GraniteForCausalLM, GraniteConfig(
        **SMALL, embedding_multiplier=12.0, residual_multiplier=0.22, attention_multiplier=0.1, logits_scaling=8.0)
    # Windows: shorter than a text, as long, of one token, and one token longer than that.
    for window in (17, 59, 60, 61, 1, 2):
        yield f'mistral, a window of {window}', MistralForCausalLM, MistralConfig(**SMALL, sliding_window=window)
    yield 'ministral, windows in some layers', MinistralForCausalLM, MinistralConfig(
        **SMALL, head_dim=8, sliding_window=10,
        layer_types=['sliding_attention', 'full_attention', 'sliding_attention'])
    yield 'qwen2, a window in some layers', Qwen2ForCausalLM, Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=13, max_window_layers=1)
    yield 'qwen3, a window in the layers listed', Qwen3ForCausalLM, Qwen3Config(
        **SMALL, head_dim=8, use_sliding_window=True, sliding_window=7,
        layer_types=['sliding_attention', 'full_attention', 'sliding_attention'])
    yield 'smollm3, windows', SmolLM3ForCausalLM, SmolLM3Config(
        **SMALL, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=9)
    yield 'olmo3', Olmo3ForCausalLM, Olmo3Config(
        **SMALL, sliding_window=11, layer_types=['sliding_attention', 'sliding_attention', 'full_attention'])
    yield 'olmo3, yarn in layers without windows', Olmo3ForCausalLM, Olmo3Config(
        **SMALL, sliding_window=16, layer_types=['sliding_attention', 'full_attention', 'full_attention'],
        rope_scaling={'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32, 'beta_fast': 16.0,
                      'beta_slow': 1.0, 'attention_factor': 1.2})
    yield 'phi3, a window, partial rotary', Phi3ForCausalLM, Phi3Config(
        **SMALL, sliding_window=20, partial_rotary_factor=0.5)
    yield 'phi3, longrope, as many key heads', Phi3ForCausalLM, Phi3Config(
        **{**SMALL, 'num_key_value_heads': 6}, original_max_position_embeddings=32,
        rope_scaling={'type': 'longrope', 'short_factor': [1.0, 1.1, 1.3, 2.0], 'long_factor': [1.0, 2.0, 4.0, 9.0]})
    yield 'gemma', GemmaForCausalLM, GemmaConfig(**SMALL, head_dim=10)
    yield 'gemma2, windows, caps', Gemma2ForCausalLM, Gemma2Config(
        **SMALL, head_dim=10, sliding_window=9, query_pre_attn_scalar=12, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0)
    yield 'gemma2, without caps, untied', Gemma2ForCausalLM, Gemma2Config(
        **SMALL, head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=False)
    yield 'gemma3', Gemma3ForCausalLM, Gemma3TextConfig(
        **SMALL, head_dim=12, sliding_window=9,
        layer_types=['sliding_attention', 'full_attention', 'sliding_attention'])
    yield 'gemma3, scaled positions', Gemma3ForCausalLM, Gemma3TextConfig(
        **SMALL, head_dim=12, sliding_window=16, rope_scaling={'rope_type': 'linear', 'factor': 8.0},
        rope_theta=5000.0, rope_local_base_freq=300.0,
        layer_types=['sliding_attention', 'full_attention', 'full_attention'])
    neox = {k: v for k, v in SMALL.items() if k != 'num_key_value_heads'}
    yield 'gpt_neox', GPTNeoXForCausalLM, GPTNeoXConfig(**neox)
    yield 'gpt_neox, one branch after the other, without biases', GPTNeoXForCausalLM, GPTNeoXConfig(
        **{**neox, 'num_attention_heads': 4}, use_parallel_residual=False, attention_bias=False, rotary_pct=0.5,
        rotary_emb_base=500, layer_norm_eps=1e-3)
    yield 'gpt_neox, tied, whole heads turn, GELU by tanh', GPTNeoXForCausalLM, GPTNeoXConfig(
        **neox, tie_word_embeddings=True, rotary_pct=1.0, hidden_act='gelu_fast')
    yield 'gpt_neox, stretched positions, one head', GPTNeoXForCausalLM, GPTNeoXConfig(
        **{**neox, 'num_attention_heads': 1}, rope_scaling={'rope_type': 'linear', 'factor': 2.5})
    yield 'mixtral', MixtralForCausalLM, MixtralConfig(**SMALL, num_local_experts=5)
    yield 'mixtral, tied, one expert a token', MixtralForCausalLM, MixtralConfig(
        **SMALL, num_local_experts=3, num_experts_per_tok=1, tie_word_embeddings=True, head_dim=12)
    yield 'mixtral, balanced', MixtralForCausalLM, MixtralConfig(
        **SMALL, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.3)
    yield 'qwen3_moe', Qwen3MoeForCausalLM, Qwen3MoeConfig(
        **SMALL, head_dim=12, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, norm_topk_prob=True)
    yield 'qwen3_moe, dense layers, biases', Qwen3MoeForCausalLM, Qwen3MoeConfig(
        **SMALL, num_experts=6, num_experts_per_tok=6, moe_intermediate_size=36, mlp_only_layers=[2],
        decoder_sparse_step=2, attention_bias=True)
    yield 'qwen3_moe, balanced, weights that do not sum to 1', Qwen3MoeForCausalLM, Qwen3MoeConfig(
        **SMALL, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20, norm_topk_prob=False,
        output_router_logits=True, router_aux_loss_coef=0.1)
    yield 'qwen2_moe', Qwen2MoeForCausalLM, Qwen2MoeConfig(
        **SMALL, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, shared_expert_intermediate_size=36)
    yield 'qwen2_moe, dense layers, a window, no biases', Qwen2MoeForCausalLM, Qwen2MoeConfig(
        **{**SMALL, 'num_hidden_layers': 4}, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=28,
        shared_expert_intermediate_size=12, norm_topk_prob=True, qkv_bias=False, mlp_only_layers=[2],
        decoder_sparse_step=1, use_sliding_window=True, sliding_window=9, max_window_layers=3)
    yield 'qwen2_moe, balanced, tied', Qwen2MoeForCausalLM, Qwen2MoeConfig(
        **SMALL, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=40,
        decoder_sparse_step=2, tie_word_embeddings=True, output_router_logits=True, router_aux_loss_coef=0.1)
