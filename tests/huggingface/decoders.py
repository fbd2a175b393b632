"""Decoders made of Llama's parts, as cases for check.py and generate.py: a name, transformers' class, a configuration."""
from transformers import (GraniteConfig, GraniteForCausalLM, MixtralConfig, MixtralForCausalLM, Olmo2Config,
                          Olmo2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM,
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
