"""Adapters against PEFT itself, for check.py: PEFT's are read by brim, with equal logits and gradients; what brim writes PEFT
loads, with the same values; what brim trained is the same in both; and merged models are equal."""
import json
import os
import tempfile
import warnings

import torch
import transformers
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM,
                          MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig,
                          Qwen2MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

TOLERANCE = 2e-5
SMALL = {'vocab_size': 61, 'max_position_embeddings': 64, 'initializer_range': 0.1}
LLAMA = {**SMALL, 'hidden_size': 32, 'intermediate_size': 48, 'num_hidden_layers': 3, 'num_attention_heads': 4,
         'num_key_value_heads': 2, 'tie_word_embeddings': False}


def llama():
    return LlamaForCausalLM(LlamaConfig(**LLAMA))


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**{**LLAMA, 'tie_word_embeddings': True}))


def mixtral():
    return MixtralForCausalLM(MixtralConfig(**LLAMA, num_local_experts=4))


def qwen2_moe():
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20,
                                              shared_expert_intermediate_size=24, mlp_only_layers=[1]))


def qwen3_moe():
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20,
                                              norm_topk_prob=True, mlp_only_layers=[1]))


def decoder(name, **more):
    """A class of decoders.py's kind, by the beginning of its name."""
    small = {k: v for k, v in {**LLAMA, 'pad_token_id': 0, **more}.items() if v is not None}
    return lambda: getattr(transformers, name + 'ForCausalLM')(
        getattr(transformers, ('Gemma3Text' if name == 'Gemma3' else name) + 'Config')(**small))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0,
                                      embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1))


def bert():
    return BertForMaskedLM(BertConfig(**SMALL, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                      num_attention_heads=4, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


CASES = [
    ('llama, all-linear', llama, {'target_modules': 'all-linear', 'r': 3, 'lora_alpha': 5}),
    ('llama, patterns and a whole head', llama,
     {'target_modules': r'.*\.(q_proj|up_proj)', 'rank_pattern': {'q_proj': 2, r'.*\.1\.mlp\.up_proj': 5},
      'alpha_pattern': {'layers.0.self_attn.q_proj': 3}, 'modules_to_save': ['lm_head']}),
    ('llama, some layers', llama, {'target_modules': ['v_proj', 'down_proj'], 'layers_to_transform': [0, 2],
                                   'use_rslora': True}),
    ('qwen2, biases and a tied embedding', qwen2, {'target_modules': ['k_proj', 'embed_tokens'], 'bias': 'lora_only'}),
    ('gpt2, biases', gpt2, {'target_modules': ['c_attn', 'mlp.c_proj'], 'bias': 'all', 'fan_in_fan_out': True}),
    # (all-linear adapts experts too, as parameters: that is refused.)
    ('mixtral, attention', mixtral, {'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj'], 'r': 3}),
    ('qwen3_moe, some layers', qwen3_moe, {'target_modules': ['q_proj', 'k_proj'], 'layers_to_transform': [0, 2]}),
    ('qwen2_moe, the shared expert and its gate', qwen2_moe,
     {'target_modules': ['q_proj', 'gate_proj', 'up_proj', 'down_proj', 'shared_expert_gate'], 'r': 3}),
    ('qwen3, all-linear', decoder('Qwen3', head_dim=12), {'target_modules': 'all-linear', 'r': 3}),
    ('smollm3, some layers', decoder('SmolLM3'), {'target_modules': ['o_proj', 'gate_proj'], 'layers_to_transform': [1]}),
    ('olmo2, all-linear', decoder('Olmo2'), {'target_modules': 'all-linear'}),
    ('granite, all-linear', decoder('Granite', attention_multiplier=0.2, residual_multiplier=0.3),
     {'target_modules': 'all-linear'}),
    ('phi3, fused projections', decoder('Phi3'), {'target_modules': ['qkv_proj', 'gate_up_proj', 'down_proj'], 'r': 3}),
    ('gpt_neox, all-linear', decoder('GPTNeoX', num_key_value_heads=None, rotary_pct=0.5), {'target_modules': 'all-linear', 'r': 3}),
    ('gpt_neox, by default, a whole head', decoder('GPTNeoX', num_key_value_heads=None, use_parallel_residual=False),
     {'modules_to_save': ['lm_head']}),
    ('gemma2, all-linear', decoder('Gemma2', head_dim=12, sliding_window=8, query_pre_attn_scalar=12),
     {'target_modules': 'all-linear'}),
    ('gemma3, all-linear', decoder('Gemma3', head_dim=12, sliding_window=8), {'target_modules': 'all-linear', 'r': 2}),
    ('bert, all-linear', bert, {'target_modules': 'all-linear', 'r': 4}),
]


def loss_of(model, inputs):
    logits = model(input_ids=inputs['ids'].long()).logits
    return logits, F.cross_entropy(logits.flatten(0, 1), inputs['labels'].long().flatten(), ignore_index=-100)


def ours_name(name):
    """PEFT's name of a parameter in training as brim's."""
    for gone in ('base_model.model.', '.default', '.base_layer', '.modules_to_save'):
        name = name.replace(gone, '')
    return name


def draw(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if 'lora_' in name or p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)


def check_case(what, make, options, check, driver, worst, random_inputs, folder):
    torch.manual_seed(3)
    base, at = make(), {n: os.path.join(folder, n) for n in ('base', 'adapter', 'out', 'in', 'got', 'merged', 'trained')}
    base.save_pretrained(at['base'])
    model = get_peft_model(base, LoraConfig(task_type=None if 'MaskedLM' in type(base).__name__ else 'CAUSAL_LM', **options)).eval()
    draw(model, 7)
    model.save_pretrained(at['adapter'])
    inputs = random_inputs(61, 2, 16, False)
    save_file(inputs, at['in'])
    driver(at['base'], at['in'], at['got'], '--adapter', at['adapter'], '--save-adapter', at['out'])
    ours = load_file(at['got'])
    logits, loss = loss_of(model, inputs)
    loss.backward()
    _, r = worst({'': ours['logits']}, {'': logits.detach()})
    check(f'adapter of {what}: logits', r < TOLERANCE, f'relative {r:.2g}')
    theirs = {ours_name(n): p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    theirs = {n: g.T if n.endswith('lora_embedding_A') else g for n, g in theirs.items()}
    mine = {n[5:]: g for n, g in ours.items() if n.startswith('grad.')}
    _, r = worst(mine, theirs) if mine.keys() == theirs.keys() else (0, 1)
    check(f'adapter of {what}: gradients of {len(theirs)} parameters', r < 10 * TOLERANCE, f'relative {r:.2g}')
    again = PeftModel.from_pretrained(make().from_pretrained(at['base']), at['out']).eval()
    with torch.no_grad():
        same = torch.equal(loss_of(again, inputs)[0], loss_of(model, inputs)[0])
    config = json.load(open(os.path.join(at['out'], 'adapter_config.json'), encoding='utf-8'))
    check(f'adapter of {what}: written by brim, loaded by PEFT, the same logits',
          same and config['base_model_name_or_path'] == at['base'])
    if 'tied' in what:
        return
    driver(at['base'], at['in'], at['got'], '--adapter', at['adapter'], '--merge', '--save', at['merged'])
    merged, reference = make().from_pretrained(at['merged']), model.merge_and_unload()
    _, r = worst(dict(merged.named_parameters()), {n: p.detach() for n, p in reference.named_parameters()})
    check(f'adapter of {what}: merged as PEFT merges', r < TOLERANCE, f'relative {r:.2g}')


def check_trained(what, make, check, driver, random_inputs, folder):
    """New adapters in brim, two steps of AdamW; PEFT has brim's loss with what was saved."""
    torch.manual_seed(4)
    at = {n: os.path.join(folder, n) for n in ('base', 'out', 'in', 'got')}
    base = make()
    base.save_pretrained(at['base'])
    inputs = random_inputs(61, 4, 16, False)
    save_file(inputs, at['in'])
    driver(at['base'], at['in'], at['got'], '--lora', 4, '--steps', 2, '--batch', 2, '--lr', 1e-2, '--save-adapter', at['out'])
    driver(at['base'], at['in'], at['got'], '--adapter', at['out'])
    ours = float(load_file(at['got'])['loss'])
    model = PeftModel.from_pretrained(base, at['out']).eval()
    with torch.no_grad():
        theirs, plain = float(loss_of(model, inputs)[1]), float(loss_of(make().from_pretrained(at['base']), inputs)[1])
    check(f'adapter of {what}: trained by brim, the same loss in PEFT',
          abs(ours - theirs) < TOLERANCE * theirs and abs(plain - theirs) > 1e-3, f'{ours:.6f} {theirs:.6f}, without {plain:.6f}')


def check_adapters(check, driver, worst, random_inputs):
    warnings.filterwarnings('ignore')
    for what, make, options in CASES:
        with tempfile.TemporaryDirectory() as folder:
            check_case(what, make, options, check, driver, worst, random_inputs, folder)
    for what, make in (('llama', llama), ('gpt2', gpt2), ('bert', bert)):
        with tempfile.TemporaryDirectory() as folder:
            check_trained(what, make, check, driver, random_inputs, folder)
