#!/usr/bin/env python3
"""Seed corpora for the fuzz targets, from the tests' own fixtures: seeds.py TARGET FOLDER."""
import glob
import gzip
import json
import os
import re
import struct
import sys
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
PARTS = b"\xff\xff"


def tensors(header, data=b"", pad=0):
    text = (header if isinstance(header, str) else json.dumps(header)).encode() + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def safetensors():
    def tensor(dtype, shape, first, last):
        return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}

    yield tensors({"a": tensor("F32", [2, 3], 0, 24), "b": tensor("BF16", [4], 24, 32)}, bytes(range(32)))
    yield tensors({"__metadata__": {"format": "pt"}, "x": tensor("F16", [], 0, 2)}, b"\0<", pad=6)
    yield tensors({"e": tensor("F32", [0, 4], 0, 0), "i": tensor("I64", [1], 0, 8)}, b"\1" * 8)
    yield tensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"\0" * 6)
    yield tensors({"a": tensor("F64", [1 << 62, 4], 0, 8)}, b"\0" * 8)
    yield tensors({"a": tensor("F32", [2500000000], 0, 10000000000)}, b"\0" * 8)
    yield tensors('{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]},"a":{}}', b"\0")
    yield struct.pack("<Q", 1 << 40) + b"{}"
    yield tensors("[" * 3000)
    yield tensors("{}")


def safetensors_index():
    shard = tensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4)
    for weights in ({"a": "a", "b": "b"}, {"a": "a"}, {"a": "../outside"}, {"a": "/etc/passwd"}, {"a": "..", "b": "b"}):
        yield json.dumps({"metadata": {"total_size": 8}, "weight_map": weights}).encode() + PARTS + shard
    yield b'{"weight_map": {"a": 1}}'


def config():
    """The published configurations of tests/io_support.h, with numbers for the parameters of its macros."""
    source = open(os.path.join(TESTS, "io_support.h"), encoding="utf-8").read().replace("\\\n", "")
    for body in re.findall(r"^#define (?:LLAMA_|MISTRAL_|QWEN2|GPT2|BERT)\w*(?:\([^)]*\))?((?:\s*(?:\"[^\"]*\"|[a-z]+))+)",
                           source, re.M):
        pieces = re.findall(r"\"([^\"]*)\"|([a-z]+)", body)
        text = "".join(a if not b else {"tied": "true", "more": "", "layers": "2", "heads": "8", "kv": "4"}.get(b, "64")
                       for a, b in pieces)
        yield text.replace("'", '"').encode()


def tokenizer():
    for path in sorted(glob.glob(os.path.join(TESTS, "tokenizers", "fixtures", "*.json"))):
        if not path.endswith(".cases.json"):
            data = open(path, "rb").read()
            yield data
            yield data + PARTS + "Abc caf\u00e9 \u4f60\u597d 12345 <s>[MASK]\n\n  x".encode() + b"\xc3\x28"
    words = '{"model":{"type":"WordPiece","unk_token":"u","vocab":{"u":0,"a":1,"##b":2}}}'
    yield words.encode() + PARTS + b"abb ab c"
    yield b'{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}' + PARTS + b"abab"
    yield (b'{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+b|\\\\s+(?!\\\\S)"},"behavior":"Isolated",'
           b'"invert":false},"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}' + PARTS + b"a" * 64)
    grow = ",".join(['{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"}'] * 12)
    for kind, name in (("normalizer", "normalizers"), ("decoder", "decoders")):
        yield ('{"%s":{"type":"Sequence","%s":[%s]},"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]}}'
               % (kind, name, grow)).encode() + PARTS + b"aaaa"


def idx():
    images = struct.pack(">4I", 0x803, 4, 2, 1) + bytes(range(8))
    labels = struct.pack(">2I", 0x801, 4) + bytes([0, 1, 2, 1])
    for data, kind in ((images, 0), (labels, 1)):
        yield bytes([kind]) + data
        yield bytes([kind | 2]) + gzip.compress(data, mtime=0)
        yield bytes([kind | 4]) + data
        yield bytes([kind | 0x40]) + data
        yield bytes([kind | 0x80]) + data
    yield b"\0" + struct.pack(">4I", 0x803, 0x7FFFFFFF, 0x7FFF, 0x7FFF) + b"\0" * 64
    yield b"\2" + gzip.compress(struct.pack(">4I", 0x803, 1 << 20, 28, 28) + b"\0" * (1 << 20), mtime=0)


def bin():
    for how in (0, 4, 8, 16, 32, 64, 128, 12, 24):
        yield bytes([how, 5]) + bytes(i % 251 if i % 2 == 0 else 0 for i in range(400))
    yield b"\0\0\1"


def runlog():
    log = open(os.path.join(HERE, "run.jsonl"), "rb").read()
    lines = log.splitlines(True)
    yield log
    yield b"".join(lines[:1])
    yield b"".join(lines[:6])
    yield log[: len(log) // 2]
    for i in range(1, len(lines)):
        yield lines[0] + lines[i]


def html():
    for log in runlog():
        yield log
    log = open(os.path.join(HERE, "run.jsonl"), "rb").read()
    yield log + PARTS + log


STATE = """{"checkpoint": {
 "version": 1, "brim": "0.1.0", "step": 1, "threads": 2,
 "settings": {"model": "mlp", "batch": "2"},
 "optimizer": {"name": "adamw", "lr": 0.001, "kept": ["layers.0.weight"]},
 "random": {"seed": 1, "fills": 4, "step": 1, "first_sample": 0, "layer": 3},
 "files": {"model.safetensors": {"bytes": 8, "crc32": %d}, "optimizer.safetensors": {"bytes": 8, "crc32": %d}},
 "command": "brim train", "data": {"seed": 1, "epoch": 0, "position": 2, "step": 1, "samples": 60000}}"""


def state():
    crc = zlib.crc32(b"12345678")
    body = (STATE % (crc, crc)).encode()
    yield body
    yield body.replace(b'"data"', b'"other"')
    yield body.replace(b'"bytes": 8', b'"bytes": -1')
    yield body + b',\n"crc32": "%08x"}\n' % zlib.crc32(body)
    yield b'{"checkpoint": {}'


def cli():
    lines = (
        "train", "plan\n--model\nllama-tiny\n--batch\n4\n--seq\n64\n--checkpoint\nselective+2\n--json",
        "compare\n--batch\n1,2,4\n--seq\n32,64\n--optimizer\nadamw,sgd", "fit\n--model\nbert-tiny\n--budget\n2GiB",
        "generate\n--model\ngpt2-tiny\n--prompt\nOnce\n--tokens\n10\n--top-k\n5\n--top-p\n0.9\n--temperature\n0",
        "plan\n--budget\n1.5GB\n--checkpoint\nauto\n--attention\nflash\n--zero-grad\nkeep\n--lr\n1e-3\n--clip\n0",
        "train\n--fused-step\n--accumulate\n4", "train\n--data\nx.bin\n--vocab\n300\n--save\nd\n--save-every\n10\n--keep\n3",
        "train\n--model=mlp\n--epochs=2\n--seed\n18446744073709551615\n--warmup\n10\n--schedule\nlinear", "gpus\n--json",
        "plan\n--inference\n--reserve\n0\n--loss-chunk\n16\n--dropout\n0.1\n--weight-decay\n-1", "models",
        "train\n--steps\n9223372036854775807\n--max-samples\n-1\n--threads\n999999999999",
        "compare\n--batch\n,,,,\n--model\nmlp,,gpt2", "train\n--init\nd\n--init-partial\n--export\nx\n--export-dtype\nbf16")
    for line in lines:
        yield line.encode()


def main():
    """Beside the folder, FOLDER.dict: the strings of the seeds and what breaks numbers, for libFuzzer."""
    name, folder = sys.argv[1:]
    words = {b"-1", b"1e999", b"9223372036854775807", b"18446744073709551616", b"null", b"[]", b"{}", b"\\u0000", b"0.5",
             b"2147483647", PARTS}
    os.makedirs(folder, exist_ok=True)
    for i, data in enumerate(globals()[name]()):
        with open(os.path.join(folder, f"seed-{i:02}"), "wb") as file:
            file.write(data)
        words.update(re.findall(rb'"[\w. #<>\[\]/-]{1,28}"|--[a-z-]+', data))
    with open(folder + ".dict", "w", encoding="ascii") as file:
        for word in sorted(words)[:1500]:
            file.write('"' + "".join(f"\\x{b:02x}" for b in word) + '"\n')


main()
