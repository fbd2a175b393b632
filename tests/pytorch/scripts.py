"""What the scripts of published measurements do beside what loop.py and trainer.py do."""
import torch


def pin_efficient():
    """Attention by PyTorch's memory-efficient kernel alone, keys and values repeated before it where heads share them: what
    fitcheck's script pins for its rows of "sdpa"."""
    from torch.nn import functional
    from torch.nn.attention import SDPBackend, sdpa_kernel
    plain = functional.scaled_dot_product_attention

    def attention(query, key, value, *args, **kwargs):
        if key.size(-3) != query.size(-3):
            groups = query.size(-3) // key.size(-3)
            key, value = (t.repeat_interleave(groups, dim=-3) for t in (key, value))
            kwargs.pop('enable_gqa', None)
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            return plain(query, key, value, *args, **kwargs)
    functional.scaled_dot_product_attention = attention


def flash_attn():
    """transformers' flash_attention_2 where the package flash-attn is not: PyTorch's own copy of its kernel, on the package's
    layout (batch, rows, heads, width), does what the package's function does."""
    import sys
    import transformers
    from transformers import modeling_flash_attention_utils as utils

    def flash_attn_func(query, key, value, dropout_p=0.0, softmax_scale=None, causal=False, **kwargs):
        return torch.ops.aten._flash_attention_forward(query, key, value, None, None, query.shape[1], key.shape[1], dropout_p,
                                                       causal, False, scale=softmax_scale)[0]
    utils.flash_attn_func, utils._flash_supports_window_size = flash_attn_func, False
    for module in [m for n, m in sys.modules.items() if n.startswith('transformers.models.')]:
        if 'modeling_' in module.__name__:
            module._flash_attention_forward = utils._flash_attention_forward

    def enable(cls, config, *args, **kwargs):
        config._attn_implementation = 'flash_attention_2'
        return config
    transformers.PreTrainedModel._check_and_enable_flash_attn_2 = classmethod(enable)


def sft(model):
    """What SFTTrainer of trl (to 0.13) does with a 4-bit model under bf16, after PEFT's preparation: norms to fp32, and the
    embedding and the head, which the preparation made fp32, to bf16."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm) or 'norm' in name:
            module.to(torch.float32)
        elif any(part in name for part in ('lm_head', 'embed_tokens', 'wte', 'wpe')):
            if getattr(module, 'weight', None) is not None and module.weight.dtype == torch.float32:
                module.to(torch.bfloat16)
