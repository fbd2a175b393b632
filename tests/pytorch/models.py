"""The models: small ones of each family, and published sizes."""
import inspect
import logging
import os
import sys
import tempfile

import torch
import transformers

import scripts

CLASSES = {'llama': 'Llama', 'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'mistral': 'Mistral', 'gpt2': 'GPT2', 'bert': 'Bert'}
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
SMALL = dict(vocab_size=1031, hidden_size=192, intermediate_size=344, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=512)
LARGE = dict(max_position_embeddings=131072)
MODELS = {  # family, configuration
    'llama': ('llama', dict(SMALL)),
    'qwen2': ('qwen2', dict(SMALL)),
    'qwen3': ('qwen3', dict(SMALL, head_dim=40)),
    'mistral': ('mistral', dict(SMALL, sliding_window=4096)),
    'gpt2': ('gpt2', dict(vocab_size=1031, n_embd=180, n_layer=2, n_head=5, n_positions=512, bos_token_id=0, eos_token_id=0)),
    'bert': ('bert', dict(vocab_size=1031, hidden_size=180, num_hidden_layers=2, num_attention_heads=5, intermediate_size=344,
                          max_position_embeddings=512)),
    'llama-3.2-1b': ('llama', dict(LARGE, vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True)),
    'llama-3.2-3b': ('llama', dict(LARGE, vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8, head_dim=128, tie_word_embeddings=True)),
    'llama-2-7b': ('llama', dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=4096)),
    'llama-3.1-8b': ('llama', dict(LARGE, vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)),
    'llama-3-70b': ('llama', dict(LARGE, vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8)),
    'tinyllama-1.1b': ('llama', dict(vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048)),
    'qwen2.5-0.5b': ('qwen2', dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True)),
    'qwen2.5-7b': ('qwen2', dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4)),
    'qwen3-8b': ('qwen3', dict(vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960)),
    'mistral-7b': ('mistral', dict(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, sliding_window=4096)),
    'smollm2-135m': ('llama', dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True)),
    'smollm2-360m': ('llama', dict(vocab_size=49152, hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5, max_position_embeddings=8192, tie_word_embeddings=True)),
    'smollm2-1.7b': ('llama', dict(vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=8192, tie_word_embeddings=True)),
    'qwen2.5-1.5b': ('qwen2', dict(vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True)),
    'deepseek-coder-1.3b': ('llama', dict(vocab_size=32256, hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=16384)),
    'gpt2-base': ('gpt2', dict()),
    'gpt2-medium': ('gpt2', dict(n_embd=1024, n_layer=24, n_head=16)),
    'bert-base': ('bert', dict()),
    'bert-large': ('bert', dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)),
}
ATTENTIONS = {'flash': 'flash_attention_2'}
DROPOUTS = ('attn_pdrop', 'embd_pdrop', 'resid_pdrop', 'hidden_dropout_prob', 'attention_probs_dropout_prob', 'attention_dropout')


def prepare():
    for name in CLASSES.values():
        getattr(transformers, name + 'ForSequenceClassification', None)
    transformers.utils.logging.disable_progress_bar()


def without_triton():
    """Triton's kernels do nothing either, so that none is compiled: PyTorch 2.15 has an outer product of its own in it."""
    try:
        from triton.runtime import autotuner, jit
    except ImportError:
        return
    for kind in (jit.JITFunction, autotuner.Autotuner, autotuner.Heuristics):
        kind.run = lambda self, *args, **kwargs: None


def prepare_card():
    without_triton()
    logging.getLogger('bitsandbytes.autograd._functions').setLevel(logging.ERROR)
    transformers.Trainer
    import peft
    import bitsandbytes


def family_of(a):
    return MODELS[a.model][0]


def missing(a):
    """Why this version cannot make the model, or nothing."""
    kind = CLASSES[family_of(a)]
    return '' if hasattr(transformers, kind + 'Config') else f'transformers {transformers.__version__} has no {kind}'


def value(text):
    words = {'True': True, 'False': False, 'None': None}
    try:
        return words[text] if text in words else int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def inner(model):
    return model.get_base_model() if hasattr(model, 'get_base_model') else model


def make_config(a):
    family, settings = MODELS[a.model]
    settings = dict(settings)
    for item in filter(None, a.set.split(',')):
        k, v = item.split('=')
        settings[k] = value(v)
    config = getattr(transformers, CLASSES[family] + 'Config')(**settings)
    if a.dropout is not None:
        for k in DROPOUTS:
            if hasattr(config, k):
                setattr(config, k, a.dropout)
    config._attn_implementation = ATTENTIONS.get(a.attention, a.attention)
    head = 'ForSequenceClassification' if a.task else {'gpt2': 'LMHeadModel', 'bert': 'ForMaskedLM'}.get(family, 'ForCausalLM')
    if a.task and config.pad_token_id is None:
        config.pad_token_id = 0
    return config, getattr(transformers, CLASSES[family] + head)


def from_config(kind, config, a):
    dtype = DTYPES[a.weights]
    if hasattr(config, 'dtype'):
        return kind._from_config(config, attn_implementation=ATTENTIONS.get(a.attention, a.attention), dtype=dtype)
    return kind._from_config(config, attn_implementation=ATTENTIONS.get(a.attention, a.attention), torch_dtype=dtype)


def to_device(model, device='cuda'):
    """What .to(device) does, from the meta device: children first, tied weights once."""
    memo = {}

    def there(t, parameter):
        if id(t) not in memo:
            new = torch.empty_like(t, device=device)
            memo[id(t)] = t, torch.nn.Parameter(new, requires_grad=t.requires_grad) if parameter else new
        return memo[id(t)][1]

    def apply(module):
        for child in module.children():
            apply(child)
        for kind, parameter in ((module._parameters, True), (module._buffers, False)):
            for name, t in kind.items():
                if t is not None and t.device.type == 'meta':
                    kind[name] = there(t, parameter)
    apply(model)
    memo.clear()  # `apply` is in a cycle with itself, and would keep it
    return model


def compute_dtype(a):
    return torch.float16 if 'fp16' in (a.precision, a.weights) or a.precision == 'fp16-autocast' else torch.bfloat16


def quantized_large(kind, config, a):
    """What from_pretrained leaves of a model too large to write: one matrix after the other goes through the host."""
    import bitsandbytes as bnb
    dtype = DTYPES[a.weights]
    with torch.device('meta'):
        model = from_config(kind, config, a)
    for module in list(model.modules()):
        for name, linear in list(module.named_children()):
            if not isinstance(linear, torch.nn.Linear) or name in ('lm_head', 'score'):
                continue
            new = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None, quant_type='nf4',
                                    compute_dtype=compute_dtype(a), compress_statistics=a.quantize == 'nf4', device='meta')
            weight = bnb.nn.Params4bit(torch.empty(linear.out_features, linear.in_features, dtype=dtype), requires_grad=False,
                                       compress_statistics=a.quantize == 'nf4', quant_type='nf4', module=new)
            new.weight = weight.to('cuda')
            if linear.bias is not None:
                new.bias = torch.nn.Parameter(torch.empty(linear.out_features, dtype=dtype, device='cuda'), requires_grad=False)
            setattr(module, name, new)
    model.is_loaded_in_4bit = True
    for parameter in to_device(model).parameters():
        parameter.requires_grad = False
    return model


def quantized(kind, config, a):
    """from_pretrained of a checkpoint just written, quantized on its way to the card."""
    if a.peaks:
        return quantized_large(kind, config, a)
    dtype, compute = DTYPES[a.weights], compute_dtype(a)
    if a.quantize == 'int8':
        how = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        how = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=compute,
                                              bnb_4bit_use_double_quant=a.quantize == 'nf4')
    with tempfile.TemporaryDirectory(dir='/dev/shm' if os.path.isdir('/dev/shm') else None) as folder:
        with torch.device('meta'):
            model = from_config(kind, config, a)
        model.to_empty(device='cpu').tie_weights()  # the values are of no matter, and take a minute to make
        model.save_pretrained(folder)
        del model
        named = {'dtype' if hasattr(config, 'dtype') else 'torch_dtype': dtype}
        return kind.from_pretrained(folder, quantization_config=how, device_map={'': 0}, attn_implementation=ATTENTIONS.get(a.attention, a.attention), **named)


def make(a):
    config, kind = make_config(a)
    if a.quantize != 'none':
        model = quantized(kind, config, a)
    elif a.peaks:
        with torch.device('meta'):
            model = from_config(kind, config, a)
        model.tie_weights()  # which transformers 5.0 leaves to from_pretrained
        to_device(model, 'cpu' if a.parallel == 'fsdp2' else 'cuda')
    else:
        model = from_config(kind, config, a)
        if a.script == 'loop' and a.parallel != 'fsdp2':  # fully_shard moves what it shards
            model.to('cuda')
    if a.lora:
        import peft
        if a.kbit_prepare == 'on':
            model = peft.prepare_model_for_kbit_training(
                model, use_gradient_checkpointing=a.checkpoint != 'none',
                gradient_checkpointing_kwargs={'use_reentrant': a.checkpoint == 'reentrant'})
        elif a.sft and a.checkpoint == 'reentrant':
            model.enable_input_require_grads()
        how = peft.LoraConfig(r=a.lora, lora_alpha=16, lora_dropout=a.lora_dropout, bias='none',
                              target_modules='all-linear' if a.targets == 'all-linear' else a.targets.split(','),
                              task_type='SEQ_CLS' if a.task else None if family_of(a) == 'bert' else 'CAUSAL_LM')
        model = peft.get_peft_model(model, how, autocast_adapter_dtype=a.lora_weights == 'fp32')
        if a.sft and a.kbit_prepare == 'on' and a.precision == 'bf16-autocast':
            scripts.sft(model)
    if a.checkpoint != 'none' and a.script == 'loop':
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': a.checkpoint == 'reentrant'})
        model.config.use_cache = False
        if a.lora:
            model.enable_input_require_grads()
    model.train()
    return model


def answer_reads(a):
    """What the device answers, where the host reads a value: 0 everywhere, but the truth about masks and packed rows."""
    if 'STAND_IN_READ' not in os.environ:
        return  # a card, which knows
    truth = {'find_packed_sequence_indices': '1'}
    for name in ('_ignore_causal_mask_sdpa', '_ignore_bidirectional_mask_sdpa', '_prepare_4d_attention_mask_for_sdpa',
                 '_prepare_4d_causal_attention_mask_for_sdpa', 'prepare_padding_mask', '_flash_attention_forward'):
        truth[name] = '0' if a.mask == 'padding' else '1'

    def answering(function, byte):
        def wrapped(*args, **kwargs):
            before = os.environ['STAND_IN_READ']
            os.environ['STAND_IN_READ'] = byte
            try:
                return function(*args, **kwargs)
            finally:
                os.environ['STAND_IN_READ'] = before
        return wrapped

    made = {}
    for module in [m for n, m in sys.modules.items() if n.startswith('transformers.')]:
        for name, byte in truth.items():
            function = vars(module).get(name)
            if inspect.isfunction(function):
                made.setdefault(function, answering(function, byte))
                setattr(module, name, made[function])
    converter = vars(sys.modules.get('transformers.modeling_attn_mask_utils', transformers)).get('AttentionMaskConverter')
    if converter is not None and hasattr(converter, '_ignore_causal_mask_sdpa'):
        converter._ignore_causal_mask_sdpa = staticmethod(answering(converter._ignore_causal_mask_sdpa, truth['_ignore_causal_mask_sdpa']))
