#!/usr/bin/env python3
"""Seed corpora for the fuzz targets, from the tests' own fixtures and found/TARGET-*, inputs that once failed:
seeds.py TARGET FOLDER."""
import base64
import glob
import gzip
import json
import os
import pickle as pickles
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


WRONG = (None, True, -1, 0, 1 << 40, (1 << 63) - 1, 0.5, "x", "", [], {}, [None], "\u0130\0 \U0001f600")


def twisted(document, most=6):
    """The document with one value gone, twice or wrong, each in turn; of long objects and lists the first few."""
    def places(value, path):
        items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
        for key, inner in items[:most]:
            yield path + [key]
            yield from places(inner, path + [key])

    text = json.dumps(document)
    for path in places(document, []):
        for wrong in (..., *WRONG):
            copy = json.loads(text)
            at = copy
            for key in path[:-1]:
                at = at[key]
            if wrong is not ...:
                at[path[-1]] = wrong
            elif isinstance(at, dict):
                at["other"] = at.pop(path[-1])
            else:
                at.append(at.pop(path[-1]))
                at.append(at[-1])
            yield json.dumps(copy, ensure_ascii=False).encode("utf-8", "surrogatepass")


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
    header = {"__metadata__": {"a": "b"}, "a": tensor("F32", [2, 3], 0, 24), "b": tensor("BF16", [4], 24, 32)}
    for text in twisted(header):
        yield tensors(text.decode(), bytes(32))
    yield tensors({"a": tensor("F32", [1] * 9, 0, 4)}, bytes(4))
    yield tensors({"a": tensor("F64", [1 << 62, 4], 0, 0)})
    yield b"PK\3\4" + b"x" * 20
    yield b"version https://git-lfs.github.com/spec/v1"


def safetensors_index():
    shard = tensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4)
    for weights in ({"a": "a", "b": "b"}, {"a": "a"}, {"a": "../outside"}, {"a": "/etc/passwd"}, {"a": "..", "b": "b"}):
        yield json.dumps({"metadata": {"total_size": 8}, "weight_map": weights}).encode() + PARTS + shard
    yield b'{"weight_map": {"a": 1}}'
    for text in twisted({"metadata": {"total_size": 8}, "weight_map": {"a": "a", "b": "b"}}):
        yield text + PARTS + shard
    two = tensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"c":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}', bytes(8))
    yield b'{"weight_map": {"a": "a", "b": "b"}}' + PARTS + two
    yield b'{"weight_map": {"a": "a", "c": "b"}}' + PARTS + two
    yield json.dumps({"weight_map": {str(i): str(i) for i in range(4200)}}).encode()[:-2] + b"}}"


def config():
    """The published configurations of tests/io_support.h, with numbers for the parameters of its macros."""
    source = open(os.path.join(TESTS, "io_support.h"), encoding="utf-8").read().replace("\\\n", "")
    for body in re.findall(r"^#define (?:LLAMA_|MISTRAL_|QWEN2|GPT2|BERT)\w*(?:\([^)]*\))?((?:\s*(?:\"[^\"]*\"|[a-z]+))+)",
                           source, re.M):
        pieces = re.findall(r"\"([^\"]*)\"|([a-z]+)", body)
        text = "".join(a if not b else {"tied": "true", "more": "", "layers": "2", "heads": "8", "kv": "4"}.get(b, "64")
                       for a, b in pieces)
        text = text.replace("'", '"')
        yield text.encode()
        for other in twisted(json.loads(text), most=40):
            yield other
    llama = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "auto_map": {"AutoConfig": "x.Y"}}
    scaling = {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32}
    longrope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4}
    for more in ({"rope_scaling": scaling}, {"rope_scaling": scaling, "rope_parameters": scaling}, {"rope_scaling": longrope},
                 {"rope_parameters": {**scaling, "mscale": 1, "truncate": False}, "original_max_position_embeddings": 32}, {"head_dim": 1 << 20},
                 {"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_scaling": {"type": "dynamic", "factor": 2}},
                 {"model_type": "mistral", "sliding_window": 8, "bos_token_id": 1, "x_token_id": 2},
                 {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
                 {"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]},
                 {"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 500, "use_parallel_residual": False, "hidden_act": "gelu_fast"},
                 {"model_type": "gpt_neox", "rope_parameters": {"rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.25, "rope_theta": 9}},
                 {"model_type": "mixtral", "num_local_experts": 4, "router_aux_loss_coef": 0.1, "output_router_logits": True},
                 {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "attention_bias": True},
                 {"model_type": "stablelm", "use_parallel_residual": True, "qk_layernorm": True, "hidden_dropout": 0.1},
                 {"model_type": "exaone4", "sliding_window": 8, "sliding_window_pattern": 2}, {"model_type": "olmo", "clip_qkv": 8.0},
                 {"model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 8, "use_sliding_window": True, "max_window_layers": 2},
                 {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0, 7], "decoder_sparse_step": 2},
                 {"model_type": "qwen2", "layer_types": ["full_attention", "x"]}, {"model_type": "qwen2", "layer_types": [1]}):
        yield json.dumps({**llama, **more}).encode()


# What the reader of patterns refuses, what it rewrites, and what PCRE2 does not compile.
PATTERNS = r"""\s+ \S \w \W+ \d{1,3} \D \h \H [\W] [\D] [\H] [\w\d\s\S] \pL \p{L} \P{Lu} \p{^L} [\p{^L}] \p{Han} \p{Alphabetic} \p{None}
a\ (*FAIL) (?=a) (?!a) (?<=a) (?<!a) (?>a|b) (?i:A) (?i)a (?<n>a)\k<n> (a)\1 (?#c) [a&&b] [[:alpha:]] []a] [^a-z] [a-\x41] a{1,2}+ a++ a*? (a (
[ {1} a{,2} a{99999} \x{41} \u0041 \Qa\E ^a$ \ba\B \A \z . (?s). (?m)^ \R \X \K \G (?R) (?1) (a|ab)(c|bcd)* x{1000}{1000} \e\a\t\n\r\f\v \cA \0 \101
[a[bc]] [a-z&&[^b]]+ [^a[^b]] [[^a]&&[^b]] [\W&&[^\s]x] [^\P{L}\d] [[:^digit:][:punct:]] [a-[b]] [a&&] [[[[a]]]] (?i:[a[^b]]) (?<=[a&&b])c [..] \u0061""".split()


def small(document):
    """A tokenizer with only the first tokens of its vocabulary, and the merges among them."""
    model = document["model"]
    if isinstance(model["vocab"], list):  # Unigram's
        model["vocab"] = model["vocab"][:24]
    else:
        model["vocab"] = {token: i for token, i in model["vocab"].items() if i < 24}
    if "merges" in model:
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        known = set(model["vocab"])
        model["merges"] = [m for m, (a, b) in zip(model["merges"], pairs) if {a, b, a + b} <= known]
    document["added_tokens"] = [t for t in document.get("added_tokens", []) if t["id"] < 24]
    return document


def charsmaps():
    """SentencePiece's map of characters: a whole one, and one that is broken in each of a few ways."""
    units = [0] * 256
    units[ord("a")] = ord("a") | 1 << 8 | (ord("a") ^ 1) << 10
    units[1] = 1 << 31

    def packed(array, text):
        return struct.pack(f"<{len(array) + 1}I", 4 * len(array), *array) + text

    yield packed(units, b"xy\0")
    yield packed(units[:100], b"xy\0")
    yield packed(units, b"xy\xff")
    for place, unit in ((1, 1 << 31 | 9), (0, 1 << 20), (ord("a"), ord("a") | ord("a") << 10), (ord("b"), ord("b") | 1 << 9 | 1 << 30)):
        yield packed(units[:place] + [unit] + units[place + 1:], b"xy\0")
    yield b"\xff\xff\xff\x7f"
    sys.path.insert(0, os.path.join(TESTS, "tokenizers"))
    import charsmap
    yield charsmap.build({"A": "a", "e\u0301": "\u00e9", "\u2122": "TM", "\r": " ", "\u1100\u1161": "\uac00"})


def tokenizer():
    for path in sorted(glob.glob(os.path.join(TESTS, "tokenizers", "fixtures", "*.json"))):
        if not path.endswith(".cases.json"):
            yield from twisted(small(json.load(open(path, encoding="utf-8"))), most=4)
    byte_level = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
    for pattern in PATTERNS:
        for behavior in ("Isolated", "MergedWithNext"):
            split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
            yield json.dumps({"pre_tokenizer": split, "model": byte_level}).encode() + PARTS + b"ab a\nAB 12 c"
        replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "a"}
        yield json.dumps({"normalizer": replace, "decoder": replace, "model": byte_level}).encode() + PARTS + b"ab"
    for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        yield json.dumps({"normalizer": {"type": kind}, "model": byte_level}).encode() + PARTS + (
            "I\u0130\u01c5\ufb01\u1e9b\u0323 \u03a3 \u03b1\u03c2 \ud55c\u0344 \u00e9" .encode() * 3)
    for data in charsmaps():
        mapped = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
        yield json.dumps({"normalizer": mapped, "model": byte_level}).encode() + PARTS + "a e\u0301\r\n\u2122\u200d\u2122\u0301\u1100\u1161 A\u0301".encode()
    for vocab in ([["?", 0], ["a", -1.5], ["aa", -2], ["\u2581a", -1]], [["a", -1], ["a", -2]], [["", 0]], [["?", 0], ["a" * 1025, -1]]):
        for more in ({}, {"unk_id": 0}, {"unk_id": 0, "byte_fallback": True}, {"unk_id": 9}):
            for cut in ("first", "always", "never"):
                yield json.dumps({"pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": cut, "split": cut == "always"},
                                  "normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "Strip"}, {"type": "ByteLevel"}]},
                                  "model": {"type": "Unigram", "vocab": vocab, **more}}).encode() + PARTS + b" aaa ab\tcaaaaaa"
    yield json.dumps({"model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1}}}).encode() + PARTS + b"a"
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}
    split = {"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed", "invert": True}
    deep = step
    for _ in range(80):
        deep = {"type": "Sequence", "normalizers": [deep]}
    for part in ({"normalizer": deep}, {"normalizer": {"type": "Sequence", "normalizers": [step] * 70}},
                 {"decoder": {"type": "Sequence", "decoders": [step] * 70}},
                 {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split] * 70}},
                 {"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}}, {"pre_tokenizer": {"type": "Metaspace", "replacement": ""}},
                 {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
                 {"normalizer": {"type": "Replace", "pattern": {"Regex": "b*"}, "content": "x"},
                  "added_tokens": [{"content": "\u0301", "id": 0, "normalized": True}]},
                 {"decoder": {"type": "Strip", "content": "a", "start": "x", "stop": -1}},
                 {"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] + [
                     {"SpecialToken": {"id": "b", "type_id": 0}}] * 2, "special_tokens": {"b": {"id": "b", "ids": [1] * 3000}}}},
                 {"pre_tokenizer": {**split, "pattern": {"Regex": "a" * 9000}}},
                 {"normalizer": {"type": "Strip", "strip_left": True}, "added_tokens": [{"content": " ", "id": 2, "normalized": True}]},
                 {"decoder": {"type": "CTC"}}, {"added_tokens": [{"content": "new", "id": 0}]},
                 {"added_tokens": [{"content": "new", "id": 2}, {"content": "new", "id": 3}]}):
        yield json.dumps({**part, "model": byte_level}).encode() + PARTS + b" a b\xe2\x80\x83 " + b"a" * 400
    yield b"[1]"
    yield b'{"model":{"type":"BPE","unk_token":"none","vocab":{"a":0},"merges":[]}}' + PARTS + b"b"
    words = {"content": "ab", "id": 0, "single_word": True, "lstrip": True, "rstrip": True, "normalized": False}
    yield json.dumps({"added_tokens": [words], "model": {"vocab": {"ab": 0, "b": 1}, "merges": []}}).encode() + PARTS + (
        "ab cab ab\u00e9  ab \u2003ab\u3000x".encode())
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
    for width, order in ((4, "little"), (8, "little"), (2, "big"), (4, "big"), (8, "big")):  # as other tools write them
        for how in (0, 4):
            yield bytes([how, 5]) + b"".join((i * 37 % 251 + 1).to_bytes(width, order) for i in range(200))
    for head, width in (((20240520, 1, 300), 2), ((20240801, 7, 300), 4), ((20240520, 1, 9), 2)):
        words = list(head) + [0] * (256 - len(head))
        yield bytes([0, 5]) + struct.pack("<256i", *words) + bytes(i % 200 if i % width == 0 else 0 for i in range(300 * width))
    for begin in (b"\x93NUMPY\1\0", b"PK\3\4", b"\x80\4\x95", b"\x1f\x8b\x08\0", b"\xff" * 4 + b"\x78\2\0\0\x10\0\0\0", b"A text. " * 20):
        yield bytes([0, 5]) + begin + bytes(100)


def runlog():
    log = open(os.path.join(HERE, "run.jsonl"), "rb").read()
    lines = log.splitlines(True)
    yield log
    yield b"".join(lines[:1])
    yield b"".join(lines[:6])
    yield log[: len(log) // 2]
    ranks = (b'"ranks":{"rank":0,"size":4,"run":"0","data":2,"tensor":1,"stages":2,"strategy":"zero1","schedule":"1f1b",'
             b'"micro_batches":3,"sent_bytes_per_step":9,"like":[0,1]},"planned":true,"model"')
    yield log.replace(b'"model"', ranks, 1)
    for i in range(1, len(lines)):
        yield lines[0] + lines[i]
    for i, line in enumerate(lines):
        before = b"".join(lines[:i]) if i < 4 else lines[0]
        for text in twisted(json.loads(line), most=3 if i else 12):
            yield before + text + b"\n" + b"".join(lines[i + 1 : i + 2])


def pickle():
    frames = [{"name": "forward", "filename": "/x-packages/y/m.py", "line": 3}, {"name": "f()", "filename": "??", "line": 0}]

    def event(action, addr, size):
        return {"action": action, "addr": addr, "size": size, "stream": 0, "time_us": 7, "frames": frames, "user_metadata": "",
                "category": "unknown"}

    def block(address, size, state):
        return {"address": address, "size": size, "requested_size": size - 5, "state": state, "frames": frames}

    snapshot = {
        "segments": [{"device": 0, "address": 4096, "total_size": 1 << 21, "allocated_size": 512, "requested_size": 507, "stream": 0,
                      "blocks": [block(4096, 512, "active_allocated"), block(4608, 1024, "active_awaiting_free"),
                                 block(5632, (1 << 21) - 1536, "inactive")]}],
        "device_traces": [[event("segment_alloc", 4096, 1 << 21), event("alloc", 4096, 507), event("free_completed", 9000, 77),
                           event("alloc", 9000, 1 << 40), event("oom", 0, 1 << 41), event("free_requested", 9000, 5),
                           event("free_completed", 9000, 5), event("segment_unmap", 9, 9), event("alloc", 9000, 0)], []],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        "external_annotations": [{"stage": "START", "name": "a", "device": 0, "time_us": 1},
                                 {"stage": "END", "name": "a", "device": 0, "time_us": 9}],
    }
    for path in sorted(glob.glob(os.path.join(TESTS, "pytorch", "fixtures", "snapshot_*.gz"))):
        yield gzip.open(path).read()
    for protocol in (2, 4, 5):
        yield pickles.dumps(snapshot, protocol)
    for value in ([], (), {}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [[]] * 3, 1 << 70, -(1 << 63), 0.5, b"x", {1}, print, object(), "\u20ac" * 300):
        yield pickles.dumps(value, 4)
    for text in twisted(snapshot, most=4):
        yield pickles.dumps(json.loads(text), 4)


def html():
    for i, log in enumerate(runlog()):
        if i < 20 or i % 7 == 0:
            yield log
    log = open(os.path.join(HERE, "run.jsonl"), "rb").read()
    yield log + PARTS + log
    yield log.replace(b'"train"', '"\u2028</script><!--\u2029\x7f"'.encode())


def weights():
    """Right files of each model, with each edit, strict and partial; a file and a header by themselves."""
    for model in range(8):
        for kind in (2, 3):
            yield bytes([model, kind])
            yield bytes([model | 16, kind])
            for what in range(10):
                for how in (1, 66):
                    yield bytes([model | (32 if how > 1 else 0), kind, what, what, how])
        for i in range(12):
            yield bytes([model, 2, 0, 9, i | (128 if model else 0)])
        yield bytes([model, 2]) + b"".join(bytes([i, 4, 0]) for i in range(12))  # the prefix gone
    header = {"layers.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
              "layers.0.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]}}
    yield b"\0\0" + tensors(header, bytes(28))
    yield b"\0\1" + json.dumps(header).encode() + PARTS + bytes(28)
    header["layers.0.bias"]["dtype"] = "F16"
    yield b"\0\1" + json.dumps(header).encode() + PARTS + bytes(28)
    header["layers.0.bias"]["shape"] = [2, 1]
    yield b"\x20\1" + json.dumps(header).encode() + PARTS + bytes(28)


def quantized():
    """Right checkpoints of each kind, with each edit, into quantised models and others."""
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4, 4]}
    for how in range(256):
        yield bytes([how])
        yield bytes([how, how % 31, how % 8, how % 5, how])
    for change in ({}, {"blocksize": 128}, {"shape": [4]}, {"shape": [2**62, 8]}, {"quant_type": "fp4"}, {"nested_offset": 1e400},
                   {"nested_offset": 0.5, "nested_blocksize": 256}, {"nested_offset": 0.5}, {"shape": "4,4"}, {"blocksize": None}):
        yield bytes([4]) + PARTS + json.dumps(state | change).encode()
        yield bytes([2]) + PARTS + json.dumps(state | change).encode()


TEXTS = (b"", b"a", b"abab. Ab, \xc3\xa9\xe4\xbd\xa0 the end\n" * 6, b"\xff\xc3(\xe2\x28\xa1\xf0\x9f\x98 x\0y" * 9,
         "don't we'll 12345   caf\u00e9 \u4f60\u597d \U0001f600\r\n\t<s>[MASK]".encode() * 5, bytes(range(256)))


def text():
    for how in (0, 1, 4, 8, 12, 16, 20, 32, 128, 136):
        for tokenizer in range(4):
            for i, data in enumerate(TEXTS):
                yield bytes([how, 3 + i * 4, tokenizer | (4 if i & 1 else 0)]) + data
    yield bytes([0, 0, 0]) + TEXTS[2]
    yield bytes([0, 0x43, 0x80]) + TEXTS[2]
    for data in (gzip.compress(TEXTS[2]), TEXTS[2].decode("utf-8", "replace").encode("utf-16"), b'{"text": "a"}\n' * 9, b"a,b\n" * 9):
        for tokenizer in (0, 1):
            yield bytes([0, 3, tokenizer]) + data


LINES = ({"prompt": "ab ", "completion": "ab"}, {"prompt": "", "completion": "<s>ab</s>"}, {"ids": [1, 2, 3]},
         {"ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [3, 4], "labels": [-100, -100]},
         {"messages": [{"role": "user", "content": "a"}]}, {"prompt": "\u00e9\0\U0001f600", "completion": "b" * 40})


def pairs():
    lines = [json.dumps(line).encode() for line in LINES]
    whole = b"\n".join(lines[:4] + lines[6:])
    for how in (0, 4, 8, 16, 24, 32, 40, 104, 128, 136, 168):
        for more in (0, 3, 7, 35, 64, 67, 128, 192, 195):
            yield bytes([how, more]) + whole
    for line in lines:
        yield bytes([32, 0]) + line
        yield bytes([32, 64]) + b"\xef\xbb\xbf" + line + b"\r\n\n" + lines[0]
    for line in LINES:
        for i, text in enumerate(twisted(line)):
            yield bytes([32 | i % 2 * 64, i % 3 * 64]) + text + b"\n" + lines[2]
    for data in (gzip.compress(whole), whole.decode().encode("utf-16"), whole.replace(b"ab", b"\xff\xc3"), b"[" * 3000,
                 b'{"ids":' + b"[" * 3000, b"[" + b",".join(lines) + b"]", b"{\n" + lines[0][1:]):
        for how in (32, 96):
            yield bytes([how, 0]) + data


TABLES = (b"text,label\nab,good\n\"a, \"\"b\"\"\",bad\nb a,good\n", b"label,idx,sentence\r\n0,1,a\r\n2.0,2,\"b\nb\"\r\n1,,\r\n",
          b"\xef\xbb\xbfsentence2,label,sentence1\na b a b a b a b,1,a\nb,0,a b a b a b\n", b"text\tlabel\na\tx\n\"b\tb\"\ty\n")


def csv():
    for how in (32, 36, 40, 56, 96, 128, 160, 168):
        for more in (0, 9, 41, 64, 73, 128, 137, 169, 192, 201, 208):
            for table in TABLES:
                yield bytes([how, more]) + table
    for table in TABLES:
        for broken in (table[:-1], table[1:], table.replace(b'"', b""), table.replace(b"\n", b"\r"), table + table,
                       table.replace(b"a", b"\xff"), table.replace(b"\n", b"\n\n"), table.replace(b",", b",,"), gzip.compress(table),
                       table.replace(b"1", b"-1"), table.replace(b"1", b"0.5"), table.replace(b"1", b"9" * 30), table + b'"' + b"a" * 3000):
            for more in (9, 73, 137):
                yield bytes([32, more]) + broken


def bpe_train():
    for data in TEXTS:
        for vocab, how in ((3, 0), (10, 1), (255, 0), (40, 4), (40, 12), (40, 28)):
            yield bytes([vocab, how]) + data
    yield bytes([255, 0]) + b"a" * 4000
    yield bytes([255, 0]) + b" the<s>theethe the" * 40


STATE = """{"saved_run": {
 "version": 2, "brim": "0.2.0", "step": 1, "threads": 2,
 "settings": {"model": "mlp", "batch": "2"},
 "optimizer": {"name": "adamw", "lr": 0.001, "kept": ["layers.0.weight"]},
 "random": {"seed": 1, "fills": 4, "step": 1, "first_sample": 0, "layer": 3},
 "files": {"model.safetensors": {"bytes": 8, "crc32": %d}, "optimizer.safetensors": {"bytes": 8, "crc32": %d}},
 "command": "brim train", "data": {"order": 2, "seed": 1, "epoch": 0, "position": 2, "step": 1, "samples": 60000}}"""


def state():
    crc = zlib.crc32(b"12345678")
    body = (STATE % (crc, crc)).encode()
    yield body + b"}"
    yield body.replace(b'"data"', b'"other"') + b"}"
    yield body.replace(b'"bytes": 8', b'"bytes": -1') + b"}"
    yield body + b',\n"crc32": "%08x"}\n' % zlib.crc32(body)
    yield b'{"saved_run": {}}'
    yield b'{"checkpoint": {}}'
    yield body.replace(b'"saved_run"', b'"checkpoint"').replace(b'"version": 2', b'"version": 1').replace(
        b'"order": 2, ', b"") + b"}"
    yield body.replace(b'"bytes": 8,', b'"bytes": 8, "parts": [[3, 1], [5, 2]],') + b"}"
    crc32 = {"bytes": 8, "crc32": crc}
    right = STATE.replace('"random": {"seed": 1', '"random": {"seed": 0').replace("60000", "4")
    for text in twisted(json.loads(right.split(": ", 1)[1] % (crc, crc)), most=10):
        yield b'{"saved_run": ' + text.replace(json.dumps(crc32).encode(), b'"@MODEL@"', 1).replace(
            json.dumps(crc32).encode(), b'"@OTHER@"') + b"}"
    # With the sizes and checksums that the target's own files have, and with a file of the optimizer's.
    body = re.sub(r'{"bytes": 8, "crc32": [0-9]+}', lambda _: '"@SUM@"', right % (crc, crc)) + "}"
    body = body.replace("@SUM@", "@MODEL@", 1).replace("@SUM@", "@OTHER@", 1).encode()
    yield body
    yield body.replace(b'"threads": 2', b'"threads": 1').replace(b'"data"', b'"no data"')
    of_each = (("exp_avg", "F32", 24, 8), ("exp_avg_sq", "F32", 24, 8), ("step", "I64", 8, 8))
    header, at = {}, 0
    for parameter, shape, which in (("layers.0.weight", [2, 3], 2), ("layers.0.bias", [2], 3)):
        for entry in of_each:
            size = entry[which]
            header[f"{parameter}.{entry[0]}"] = {"dtype": entry[1], "shape": shape if entry[1] == "F32" else [],
                                                 "data_offsets": [at, at + size]}
            at += size
    yield body + PARTS + json.dumps(header).encode() + PARTS + bytes(at)
    yield body + PARTS + json.dumps(header).encode().replace(b"I64", b"U64") + PARTS + bytes(at)
    yield body + PARTS + json.dumps(header).encode() + PARTS + b"\xff" * at
    for text in twisted(header, most=8):
        yield body + PARTS + text + PARTS + bytes(at)
    for gone, size in (("layers.0.bias.step", at - 8), ("none", at)):
        yield body + PARTS + json.dumps({k: v for k, v in header.items() if k != gone}).encode() + PARTS + bytes(size)


def adapter():
    """PEFT's configurations of the fixtures with rank 2, before a right file with edits, a header, or bytes."""
    header = {"base_model.model.0.lora_A.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
              "base_model.model.0.lora_B.weight": {"dtype": "F16", "shape": [2, 2], "data_offsets": [24, 32]}}
    folder = os.path.join(TESTS, "lora", "*", "adapter_start", "adapter_config.json")
    for path in sorted(glob.glob(folder)):
        with open(path, encoding="utf-8") as file:
            config = {**json.load(file), "r": 2}
        model = {"gpt2": 2, "bert": 3}.get(path.split(os.sep)[-3].split("_")[0], 1 if "tied" in path else 0)
        for targets in (config["target_modules"], "all-linear", ".*_proj|.*dense|.*c_attn"):
            for edits in (b"", bytes([0, 0, 0]), bytes([1, 1, 9, 2, 4, 3]), bytes([3, 6, 0, 0, 2, 33])):
                yield bytes([model, 2]) + json.dumps({**config, "target_modules": targets}).encode() + PARTS + edits
        if "default" in path:
            for text in twisted(config, most=50):
                yield bytes([model, 2]) + text + PARTS
    plain = {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"}
    for more in ({"rank_pattern": {"0": 3}}, {"alpha_pattern": {".*": 0.5}}, {"layers_to_transform": [0], "target_modules": ["0"]},
                 {"layers_to_transform": 1, "layers_pattern": ["layers", "h"], "target_modules": ["q_proj", "up_proj"]},
                 {"exclude_modules": "(a*)*b"}, {"exclude_modules": ["0"]}, {"modules_to_save": ["0", "lm_head"]},
                 {"bias": "all"}, {"use_rslora": True, "lora_dropout": 0.5}, {"target_modules": None}):
        for model in range(5):
            yield bytes([model, 2]) + json.dumps({**plain, **more}).encode() + PARTS
            yield bytes([model + 16, 2]) + json.dumps({**plain, **more}).encode() + PARTS
    for text in twisted(header):
        yield bytes([4, 1]) + json.dumps(plain).encode() + PARTS + text + PARTS + bytes(32)
    yield bytes([4, 0]) + json.dumps(plain).encode() + PARTS + tensors(header, bytes(32))
    yield bytes([4, 1]) + json.dumps(plain).encode() + PARTS + json.dumps(header).encode() + PARTS + bytes(32)


COMMANDS = (
    "train", "plan\n--model\nllama-tiny\n--batch\n4\n--seq\n64\n--checkpoint\nselective+2\n--json",
    "compare\n--batch\n1,2,4\n--seq\n32,64\n--optimizer\nadamw,sgd", "fit\n--model\nbert-tiny\n--budget\n2GiB",
    "generate\n--model\ngpt2-tiny\n--prompt\nOnce\n--tokens\n10\n--top-k\n5\n--top-p\n0.9\n--temperature\n0",
    "plan\n--budget\n1.5GB\n--checkpoint\nauto\n--attention\nflash\n--zero-grad\nkeep\n--lr\n1e-3\n--clip\n0",
    "train\n--optimizer-in-backward\n--accumulate\n4", "train\n--data\nx.bin\n--vocab\n300\n--save\nd\n--save-every\n10\n--keep\n3",
    "train\n--model=mlp\n--epochs=2\n--seed\n18446744073709551615\n--warmup\n10\n--schedule\nlinear", "gpus\n--json",
    "plan\n--inference\n--reserve\n0\n--loss-chunk\n16\n--dropout\n0.1\n--weight-decay\n-1", "models",
    "train\n--steps\n9223372036854775807\n--max-samples\n-1\n--threads\n999999999999",
    "compare\n--batch\n,,,,\n--model\nmlp,,gpt2", "train\n--init\nd\n--init-partial\n--export\nx\n--export-dtype\nbf16",
    "tokenize\n--train\nkjv.txt\n--vocab\n4096\n--min-count\n3\n--special\n<s>,</s>\n--out\nt.json\n--json",
    "tokenize\n--tokenizer\nt.json\n--decode\n1\n2\n3", "tokenize\n--tokenizer\nt.json\ntext\n-o\nids.bin", "tokenize\n-",
    "report\nrun.jsonl\n--html=o\n--csv\nc\n--torch-snapshot\ns", "report\na.jsonl\nb.jsonl\n--html\nboth", "report\na\nb\nc",
    "report\n--massif\nrun.jsonl\n--jsonl", "help\ntrain", "help\nnone", "help", "fit\n--card\nt4,h100\n--memory\n4GiB,,1B\n--reserve\n0",
    "compare\n--checkpoint\nnone,blocks,cc+.,selective\n--csv\n--run\n2", "plan\n--textbook\n--cpu\n-1",
    "plan\n--precision\nfp16-mixed\n--loss-scale\n1024\n--grad-dtype\n32", "compare\n--precision\nbf16,bf16-autocast\n--rounding\nnearest", "fit\n--precision\nbf16\n--optimizer\nadamw8bit",
    "plan\n--lora\nr=4,alpha=8,dropout=0.1,targets=q_proj,v_proj,rslora\n--weights\nbf16\n--quantize\nnf4",
    "compare\n--lora\ntargets=all,r=2\n--weights\nfp32,fp16\n--quantize\nnone,int8,nf4-plain", "compare\n--four-ways\n--seq\n9", "plan\n--lora\nr=4,alpha=2.5,dropout=0.5,targets=q_proj,v_proj,rslora\n--json", "train\n--lora\nr=2\n--merge\n--export\nx\n--export-adapter\na",
    "generate\n--adapter\na\n--init\nl", "train\n--resume\nd\n--quiet")

# With the folder of fuzz_commands.c.
LEVERS = "--batch\n2\n--seq\n8\n--steps\n2\n--threads\n1"
FOLDER = (
    f"train\n--model\nl\n{LEVERS}\n--data\ntext\n--log\no.jsonl\n\nreport\no.jsonl\n--html\np\n--trace\nq\n--massif\nr",
    f"train\n--init\nl\n{LEVERS}\n--save\ns\n--save-every\n1\n--steps\n1\n\ntrain\n--init\nl\n{LEVERS}\n--save\ns\n--resume\ns",
    f"train\n--init\ng\n{LEVERS}\n--export\ne\n--export-dtype\nbf16\n--sample\n4\n--prompt\nab\n\ngenerate\n--init\ne\n--tokens\n3",
    f"train\n--model\nb\n{LEVERS}\n--tokenizer\nt.json\n--data\ntext\n--json\n--accumulate\n2\n--evaluate-every\n1",
    f"train\n--model\nl\n{LEVERS}\n--data\np\n--save\ns\n\ntrain\n--model\nl\n{LEVERS}\n--data\np\n--resume\ns\n--steps\n3\n\n"
    f"compare\n--model\ng\n{LEVERS}\n--data\np\n--pack\n\ntrain\n--model\nb\n{LEVERS}\n--data\np",
    f"train\n--model\ng\n{LEVERS}\n--tokenizer\nt.json\n--data\np\n--pack\n--accumulate\n2\n--json\n\ntrain\n--model\nl\n{LEVERS}\n--pack",
    f"train\n--model\nl\n{LEVERS}\n--data\nx.bin\n--checkpoint\nblocks\n--attention\neager\n--loss-chunk\n4\n--dropout\n0",
    "train\n--model\nmlp\n--data\ni\n--steps\n1\n--batch\n2\n--optimizer\nsgd-momentum\n--optimizer-in-backward\n--threads\n1",
    "generate\n--init\nl\n--tokenizer\nt.json\n--prompt\nThe ab\n--tokens\n4\n--json\n--batch\n2",
    "generate\n--init\ng\n--prompt\n\xc3\xff\n--tokens\n8\n--seq\n6\n--prefill\n2\n--temperature\n0",
    "tokenize\n--train\ntext\n--vocab\n300\n--out\nn.json\n\ntokenize\n--tokenizer\nn.json\ntext\n-o\nn.bin\n\n"
    f"train\n--model\nl\n--vocab\n300\n--tokenizer\nn.json\n--data\nn.bin\n{LEVERS}",
    "tokenize\n--tokenizer\nt.json\ntext\n--json\n\ntokenize\n--tokenizer\nt.json\n--decode\n1\n2\n3\n--json",
    "report\nrun.jsonl\n\nreport\nrun.jsonl\n--torch-snapshot\ns\n--csv\nc\n--jsonl\nj\n\nreport\nrun.jsonl\nrun.jsonl\n--html\nh",
    "plan\n--model\nl\n--batch\n2\n--seq\n8\n--textbook\n--steps\n2\n\nplan\n--model\nl\n--inference\n--seq\n8\n--steps\n2\n--json",
    f"plan\n--model\nl\n{LEVERS}\n--checkpoint\nauto\n--budget\n100kB\n\nplan\n--model\nl\n{LEVERS}\n--budget\n1kB\n--json",
    f"compare\n--model\nl\n{LEVERS}\n\ncompare\n--model\nl\n{LEVERS}\n--batch\n1,2\n--csv", "models\n--json\n\ngpus\n\nversion\n\nhelp",
    f"compare\n--model\ng,b\n{LEVERS}\n--json\n\nhelp\nfit\n\n--help\n\nplan\n-h",
    f"fit\n--model\ng\n{LEVERS}\n--memory\n2MiB\n--reserve\n0\n\nfit\n--model\nl\n{LEVERS}\n--card\nt4\n--json",
    "plan\n--model\n\xe9\n--json\n\nplan\n--model\n\xe9\n--inference\n--json\n\ngenerate\n--model\n\xe9\n--tokens\n2\n--json\n--prompt\n\xe9\xc3",
    f"compare\n--model\n\xe9,g\n--json\n{LEVERS}\n\nfit\n--model\n\xe9\n{LEVERS}\n--json\n--memory\n1MB\n--reserve\n0",
    f"train\n--model\n\xe9\n{LEVERS}\n--json\n--log\no\n--data\ntext\n--schedule\nconstant\n--lr\n1e18\n\nreport\no\n--jsonl\nq\n\nreport\no",
    "tokenize\n--train\ntext\n--vocab\n300\n--out\n\xe9x\n--json\n--special\n\xe9,<s>\n\ntokenize\n--tokenizer\n\xe9x\ntext\n-o\n\xe9y\n--json",
    "plan\n--textbook\n--json\n--model\ng\n\nplan\n--textbook\n--model\nb\n\nplan\n--textbook\n--model\nmlp\n--data\ni",
    "generate\n--init\nl\n--tokenizer\nt.json\n--prompt\nThe\n--tokens\n8\n\ngenerate\n--model\ng\n--batch\n2\n--tokens\n2\n--budget\n1kB",
    "generate\n--model\nl\n--seq\n2\n--prompt\nlonger\n\ngenerate\n--model\nb\n\nplan\n--inference\n--model\nl\n--budget\n1kB",
    f"train\n--model\nl\n{LEVERS}\n--save\ns\n--save-every\n1\n--keep\n1\n\ntrain\n--model\nl\n{LEVERS}\n--save\ns\n\n"
    f"train\n--model\nl\n{LEVERS}\n--resume\nr\n\ntrain\n--model\nl\n{LEVERS}\n--resume\ns\n--seed\n2",
    f"train\n--model\nl\n{LEVERS}\n--log\nrun.jsonl\n--save\ns\n\ntrain\n--model\nl\n{LEVERS}\n--save\ns\n--resume\ns\n--log\nrun.jsonl",
    "fit\n--model\nmlp\n--data\ni\n--batch\n2\n--card\nnone\n\nfit\n--model\nmlp\n--data\ni\n--memory\n1B\n\nfit\n--card\n,,\n--model\ng",
    "generate\n--init\nl\n--tokenizer\nt.json\n--prompt\nab\n--tokens\n4\n--batch\n2\n\ngenerate\n--init\nl\n--tokenizer\nx.bin\n\n"
    "generate\n--model\nl\n--vocab\n4\n--tokenizer\nt.json\n\ngenerate\n--init\nl\n--prompt\nlong\n--tokens\n4\n--seq\n2",
    f"train\n--model\nl\n{LEVERS}\n--tokenizer\nt.json\n--data\ntext\n--sample\n9\n--max-samples\n3\n--epochs\n1\n--zero-grad\nkeep",
    f"train\n--model\nl\n--vocab\n100\n{LEVERS}\n--data\ntext\n\ntrain\n--init\nx.bin\n--init-partial\n--model\nl\n{LEVERS}",
    f"train\n--model\nl\n--init\ng\n--init-partial\n{LEVERS}\n\nplan\n--model\nl\n{LEVERS}\n--budget\n1GiB\n--textbook",
    f"train\n--init\nl\n{LEVERS}\n--lora\nr=2\n--export-adapter\na\n\ntrain\n--init\nl\n{LEVERS}\n--adapter\na\n--merge\n--export\nm\n\n"
    f"generate\n--init\nl\n--adapter\na\n--tokens\n2\n\nfit\n--model\nl\n{LEVERS}\n--lora\nr=1\n--memory\n2MiB\n--reserve\n0",
    f"train\n--model\nl\n{LEVERS}\n--lr\n1\n--weight-decay\n0.1\n--warmup\n1\n--save\ns\n--json\n\ntrain\n--model\nl\n{LEVERS}\n"
    "--lr\n1\n--weight-decay\n0.1\n--warmup\n1\n--resume\ns\n--json",
    "report\nrun.jsonl\n--csv\nrun.jsonl\n\nreport\ntext\n\nreport\nl\n--massif\nm\n\nreport\nrun.jsonl\n--massif\nl",
    f"demo\n--model\nl\n{LEVERS}\n--data\ntext", "plan\n--model\nl/config.json\n--steps\n1\n--init\nl/model.safetensors\n--init-partial")


def cli():
    for line in COMMANDS + FOLDER:
        yield line.split("\n\n", maxsplit=1)[0].encode("latin1")


def commands():
    for line in FOLDER + COMMANDS:
        yield line.encode("latin1")


def main():
    """Beside the folder, FOLDER.dict: the strings of the seeds and what breaks numbers, for libFuzzer."""
    name, folder = sys.argv[1:]
    words = {b"-1", b"1e999", b"9223372036854775807", b"18446744073709551616", b"null", b"[]", b"{}", b"\\u0000", b"0.5",
             b"2147483647", PARTS}
    os.makedirs(folder, exist_ok=True)
    found = [open(path, "rb").read() for path in sorted(glob.glob(os.path.join(HERE, "found", name + "-*")))]
    for i, data in enumerate(list(globals()[name]()) + found):
        with open(os.path.join(folder, f"seed-{i:05}"), "wb") as file:
            file.write(data)
        words.update(re.findall(rb'"[\w. #<>\[\]/-]{1,28}"|--[a-z-]+', data))
    with open(folder + ".dict", "w", encoding="ascii") as file:
        for word in sorted(words)[:1500]:
            file.write('"' + "".join(f"\\x{b:02x}" for b in word) + '"\n')


main()
