"""Small tokenizers and what the Python package makes of some texts, for the tests that run offline: generate.py FOLDER."""
import json
import random
import sys
import unicodedata

import charsmap
import corpus
from tokenizers import (AddedToken, Regex, Tokenizer, decoders as d, models, normalizers as n, pre_tokenizers as p,
                        processors as post, trainers as tr)

out = sys.argv[1]
r = random.Random(7)
ENGLISH = """The miller's daughter didn't know that we're late; they've 12 horses, 3,400 sheep and 5 geese.
In the beginning the river was wide and the road was long. He said: "I'll come again, won't I?" She'd gone.
Überall läßt sich Größe finden. El niño comió. Где мой дом? 日本語の文章 です。 हिन्दी में 한국어 שלום مرحبا
def function(argument):\n    return argument ** 2  # a comment\n\n\tx = [1, 22, 333, 4444]\n"""
text = [ENGLISH] * 3 + [" ".join(r.choice(ENGLISH.split()) for _ in range(400)) for _ in range(4)]
CASES = ENGLISH.split("\n") + [
    ENGLISH, "", " ", "\0", "a\0b", "  two  spaces ", "\n\n\r\n\t x", "don't DON'T we'Ll it'ſ", "x" * 50, "the" * 60, "é" * 70,
    "e\u0301 a\u0323\u0307 q\u0307\u0323 \u0301", "ﬁ ﬃ ſ K Å ǅ İ I ı ß ẞ Σς", "\u1e9b\u0323 ㍿ ｶﾞ Ⅷ ½",
    "\U0001F468\u200d\U0001F469\u200d\U0001F467 \U0001F3F3\ufe0f\u200d\U0001F308 \U0001F1E9\U0001F1EA",
    "\ufeff\ufffd\u200b\u180e\u2028\x85\x1b\x7f", "▁a ▁▁ b▁ <0x41>", "[MASK] [CLS]x <s></s> <|endoftext|>y <mask>  z single singles",
    "1234567890 ٣३½ 3.14e10", "a_b-c.d,e!f", "\U000e0001\U0010ffff\uffff\ue000", "abc中文字def", "  right  ", "né Né",
    "\u1c89 \U00016ea0 \U00010d50 \U0001e030 \u0897 \U00011938", "x\u034f\u0345"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
          r"|\s+")


def save(t, name):
    j = json.loads(t.to_str())
    if isinstance(j["model"]["vocab"], dict):
        j["model"]["vocab"] = dict(sorted(j["model"]["vocab"].items(), key=lambda item: item[1]))
    json.dump(j, open(f"{out}/{name}.json", "w"), ensure_ascii=False, separators=(",", ":"))
    t = Tokenizer.from_file(f"{out}/{name}.json")
    cases = []
    for i, case in enumerate(CASES + [corpus.synth(r, 120) for _ in range(5)]):
        ids = t.encode(case, add_special_tokens=i % 2 == 0).ids
        cases.append([case, i % 2 == 0, ids, t.decode(ids, skip_special_tokens=i % 3 == 0), i % 3 == 0])
    json.dump(cases, open(f"{out}/{name}.cases.json", "w"), ensure_ascii=True, separators=(",", ":"))


def byte_level(vocab, special, **more):
    return tr.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=p.ByteLevel.alphabet(),
                         show_progress=False, **more)


t = Tokenizer(models.BPE())
t.pre_tokenizer, t.decoder = p.ByteLevel(add_prefix_space=False), d.ByteLevel()
t.train_from_iterator(text, byte_level(420, ["<|endoftext|>"]))
save(t, "gpt2")
t.pre_tokenizer = p.ByteLevel(add_prefix_space=True)
t.post_processor = post.RobertaProcessing(("<|endoftext|>", 0), ("a", t.token_to_id("a")))
t.add_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("single", single_word=True),
              AddedToken("  right", rstrip=True), "né", AddedToken("a  b", normalized=False)])
save(t, "roberta")

t = Tokenizer(models.BPE(ignore_merges=True))
t.normalizer, t.decoder = n.NFC(), d.ByteLevel()
t.pre_tokenizer = p.Sequence([p.Split(Regex(LLAMA3), "isolated"), p.ByteLevel(add_prefix_space=False, use_regex=False)])
t.train_from_iterator(text, byte_level(420, ["<s>", "<|endoftext|>"]))
t.post_processor = post.Sequence([post.ByteLevel(), post.TemplateProcessing(
    single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 0)])])
save(t, "llama3")

t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
t.pre_tokenizer = p.Split("▁", "merged_with_next")
t.normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
t.train_from_iterator(text, tr.BpeTrainer(
    vocab_size=520, special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)], show_progress=False,
    limit_alphabet=60))
t.pre_tokenizer = None
t.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
t.post_processor = post.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
j = json.loads(t.to_str())
j["added_tokens"] = j["added_tokens"][:3]
save(Tokenizer.from_str(json.dumps(j)), "llama2")
j["model"]["vocab"] = {k: v for k, v in j["model"]["vocab"].items() if not (k.startswith("<0x") and int(k[3:5], 16) % 3 == 0)}
j["normalizer"] = None
j["pre_tokenizer"] = json.loads(p.Metaspace(prepend_scheme="first").__getstate__())
j["decoder"] = json.loads(d.Metaspace(prepend_scheme="first").__getstate__())
save(Tokenizer.from_str(json.dumps(j)), "metaspace")

t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=40))
t.normalizer, t.pre_tokenizer, t.decoder = n.BertNormalizer(), p.BertPreTokenizer(), d.WordPiece()
t.train_from_iterator(text, tr.WordPieceTrainer(
    vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False, limit_alphabet=90))
t.post_processor = post.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
t.add_tokens(["newtok", AddedToken("[X]", lstrip=True, rstrip=True)])
save(t, "bert")

t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
t.normalizer = n.Sequence([n.NFKD(), n.StripAccents(), n.Lowercase(), n.Strip(), n.Replace(Regex(r"\s+"), " ")])
t.pre_tokenizer, t.decoder = p.Whitespace(), d.BPEDecoder("</w>")
t.train_from_iterator(text, tr.BpeTrainer(vocab_size=420, special_tokens=["<unk>"], show_progress=False, limit_alphabet=60,
                                          continuing_subword_prefix="##", end_of_word_suffix="</w>"))
save(t, "affixes")
t.pre_tokenizer = p.Sequence([p.WhitespaceSplit(), p.Digits(True), p.Punctuation("merged_with_previous"),
                              p.Split(Regex(r"\p{Lu}|\p{Han}|\S\b"), "merged_with_next"), p.Split("e", "contiguous"),
                              p.CharDelimiterSplit("_"), p.Split(Regex(r"\w+|\h"), "removed", invert=True)])
t.normalizer = n.NFKC()
t.decoder = None
save(t, "splits")

# What the trainer is compared with.
open(f"{out}/train.txt", "w").write(ENGLISH * 3 + "aaaaaaaaaaaa aaaa ababababab abcabcabc\n" * 5 + " ".join(
    r.choice(ENGLISH.split()) for _ in range(300)) + "\n")
t = Tokenizer(models.BPE())
t.pre_tokenizer, t.decoder = p.ByteLevel(add_prefix_space=False), d.ByteLevel()
t.post_processor = post.ByteLevel(trim_offsets=True)
t.train([f"{out}/train.txt"], byte_level(500, ["<|endoftext|>"], min_frequency=2))
json.dump(json.loads(t.to_str()), open(f"{out}/train.json", "w"), ensure_ascii=False, separators=(",", ":"))

# Unigram, with a map of characters like SentencePiece's nmt_nfkc: what is in the texts, and all below U+0530.
seen = [chr(c) for c in range(1, 0x530)] + sorted(set("".join(CASES)) - {"\0"}) + ["e\u0301", "a\u0323\u0307", "ｶﾞ"]
pairs = {c: unicodedata.normalize("NFKC", c) for c in seen}
pairs |= {chr(c): "" for c in (*range(1, 9), 11, *range(14, 32), 127, 143, 159)}
pairs |= {c: " " for c in "\t\n\f\r\u00a0\u1680\u200b\u200e\u2028\u2029\u3000\ufeff\ufffd"}
sentencepiece = charsmap.normalizer(charsmap.build({k: v for k, v in pairs.items() if k != v}))
CASES += ["²\u0301 A\u0301\r\nb\rc", "\u0600²\u0301x", "\u0301²", "क्\u0958\u0301 \u0958\u0301", "™\u200d™\u0301", "\u1100\u1161\u0301\uac01\u0301",
          "a" * 33 + "-" * 90 + "=" * 17, "<unk>x<unk>", "漢<unk>字 a漢字b"]


def unigram(vocab, special):
    return tr.UnigramTrainer(vocab_size=vocab, special_tokens=special, unk_token="<unk>", show_progress=False, max_piece_length=12)


t = Tokenizer(models.Unigram())
t.pre_tokenizer, t.decoder = p.Sequence([p.WhitespaceSplit(), p.Metaspace()]), d.Metaspace()
t.train_from_iterator([x.replace("日本語", "").lower() for x in text], unigram(420, ["<s>", "<pad>", "</s>", "<unk>"]))
t.post_processor = post.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
                                           special_tokens=[("<s>", 0), ("</s>", 2)])
t.add_special_tokens([AddedToken("<mask>", lstrip=True)])
spaces = json.loads(n.Replace(Regex(" {2,}"), " ").__getstate__())
save(Tokenizer.from_str(json.dumps(charsmap.set_normalizers(t, [sentencepiece, spaces]))), "unigram")
t.pre_tokenizer = p.Metaspace(prepend_scheme="first", split=False)
t.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
t.normalizer = n.Nmt()
j = json.loads(t.to_str())
j["model"]["byte_fallback"] = True
j["model"]["vocab"] += [["<0x%02X>" % i, -20.5 - i / 7] for i in range(256) if i != 0xEF]
j["added_tokens"][-1]["id"] = len(j["model"]["vocab"])
save(Tokenizer.from_str(json.dumps(j)), "unigram_bytes")

t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
t.normalizer, t.pre_tokenizer = n.Lowercase(), p.Whitespace()
t.train_from_iterator(text, tr.WordLevelTrainer(vocab_size=150, special_tokens=["[UNK]", "[MASK]"], show_progress=False))
t.add_tokens(["river bank", AddedToken("né", normalized=False)])
save(t, "wordlevel")

# Classes in classes, as in the patterns of newer models.
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}[\p{Lm}\p{Lo}\p{M}]&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}[\p{M}]]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
t = Tokenizer(models.BPE())
t.decoder = d.ByteLevel()
t.pre_tokenizer = p.Sequence([p.Split(Regex(r"[[:digit:]_&&[^0]]|[^\W\d[e-z]]"), "isolated"), p.Split(Regex(KIMI), "isolated"),
                              p.ByteLevel(add_prefix_space=False, use_regex=False)])
t.train_from_iterator(text, byte_level(420, ["<|endoftext|>"]))
save(t, "classes")
