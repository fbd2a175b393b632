#!/usr/bin/env python3
"""Small checkpoints as transformers writes them with bitsandbytes' quantisation, and the logits that it computes
from them: what tests/test_quantized_files.c reads.

    python3 tests/precision/checkpoints.py     writes tests/precision/fixtures/ckpt_*/

Needs torch, transformers and bitsandbytes. Logits of the Llamas are of bfloat16 (their source is); those of GPT-2,
BERT and the tied Llama are of float32. int8 rounds activations as well."""
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BitsAndBytesConfig

torch.set_num_threads(1)
if torch.backends.cpu.get_cpu_capability() == "AVX512":
    sys.exit("bitsandbytes 0.50.2 decodes blocks that lie across rows wrongly with AVX-512: take another processor")
FOLDER = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "fixtures"


def four_bits(**more):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, **more)


def write(name, model, config, dtype):
    load = AutoModelForMaskedLM if "bert" in name else AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as source:
        model.save_pretrained(source)
        quantised = load.from_pretrained(source, quantization_config=config, device_map={"": "cpu"}, dtype=dtype)
    folder = FOLDER / f"ckpt_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    quantised.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.arange(32).reshape(2, 16)
    with torch.no_grad():
        logits = quantised.eval()(input_ids=ids).logits
    save_file({"ids": ids.int(), "logits": logits.float()}, folder / "logits.safetensors")


sizes = dict(vocab_size=96, max_position_embeddings=64, initializer_range=0.1)
torch.manual_seed(1)
llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    **sizes)).to(torch.bfloat16)
for name, config in {"nf4_dq": four_bits(bnb_4bit_use_double_quant=True), "nf4": four_bits(),
                     "nf4_dq_bf16store": four_bits(bnb_4bit_use_double_quant=True,
                                                   bnb_4bit_quant_storage=torch.bfloat16),
                     "int8": BitsAndBytesConfig(load_in_8bit=True)}.items():
    write(name, llama, config, torch.bfloat16)

torch.manual_seed(1)
models = {
    "nf4_dq_gpt2": transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=96, n_embd=64, n_layer=1, n_head=4, n_positions=64, initializer_range=0.1)),
    "nf4_dq_bert": transformers.BertForMaskedLM(transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, **sizes)),
    "nf4_dq_llama_tied": transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=48, intermediate_size=100, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        tie_word_embeddings=True, **sizes)),
}
for name, model in models.items():
    write(name, model, four_bits(bnb_4bit_use_double_quant=True), torch.float32)
