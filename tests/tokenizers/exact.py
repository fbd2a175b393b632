"""What is asked of every code point, and of classes in patterns that are made by chance: grapheme clusters as SentencePiece's
map shows them, and what a class holds. Both through tokenizers of bytes, whose text is what their normalizer makes."""
import json
import os
import random
import tempfile

import brim
import charsmap
from tokenizers import Regex, Tokenizer, normalizers


def of_bytes(normalizer):
    return {"version": "1.0", "added_tokens": [], "normalizer": normalizer,
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "byte_fallback": True, "merges": [], "vocab": {"<0x%02X>" % i: i for i in range(256)}}}


def ours(normalizer):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(of_bytes(normalizer), file)
        file.flush()
        return brim.Tokenizer(file.name)


# Each shows by what becomes of a mapped character whether the one at %s joins it to its neighbours.
CONTEXTS = ("A%s", "%sA\u0301", "%s\u200d\u2122\u0301", "%s\u0308\u200d\u00a9\u0301", "%s\u094d\u0958\u0301", "\u0915%s\u0958\u0301",
            "\u0915\u094d%s\u0958\u0301", "\u0915%s\u094d\u0958\u0301", "%s\u1161\u0301", "%s\u11a8\u0301", "%s\u1100\u0301",
            "%s\uac00\u0301", "%s\uac01\u0301", "\u0600%s", "\u0600%sA\u0301", "e\u0301%s", "\r%s", "\u1161%s\u11a8\u0301")
MAP = {"A": "b", "\u00a9": "c", "\u2122": "t", "\u0958": "q", "\u1100": "g", "\u1161": "v", "\u11a8": "w", "\uac00": "G", "\uac01": "H",
       "\u0915": "k", "\u0600": "p", "\t": "[tab]", "\r": "R", "e\u0301": "E"}
LETTERS = [*MAP, *"\u094d\u200d\u200c\u0301\u0903\n\U0001f468\U0001f1e9\ufe0f\u0bbf\U000113d1\U00016d63x\xad\u1734\u1a60\u0cc0"]


def clusters(part):
    """How many texts, and how many of them differ."""
    step, r = charsmap.normalizer(charsmap.build(MAP)), random.Random(part)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(of_bytes(step), file)
        file.flush()
        theirs, mine = Tokenizer.from_file(file.name).normalizer, brim.Tokenizer(file.name)
    codes = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["|".join(context % c for c in codes[i:i + 3000]) for context in CONTEXTS for i in range(0, len(codes), 3000)]
    texts = texts[::part] + ["".join(r.choice(LETTERS) for _ in range(r.randint(1, 12))) for _ in range(200000 // part)]
    wrong = sum(theirs.normalize_str(t) != bytes(mine.encode(t.encode(), False)).decode() for t in texts)
    mine.close()
    return len(texts), wrong


CHARACTERS = [*"abcdxyzABé漢ſ_09#.", "a-f", "c-m", "A-Z", "0-5", "é-ſ", r"\x{61}-\x{70}", r"\-", r"\]", r"\u0062"]
KINDS = [r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", r"\h", r"\H", r"\p{L}", r"\P{L}", r"\p{^Lu}", r"\p{Lu}", r"\p{N}", r"\p{Han}", r"\P{Han}",
         r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Greek}", r"\P{Greek}", "[:digit:]", "[:^space:]", "[:punct:]", "[:word:]", "[:^xdigit:]",
         "[:ascii:]", "[:blank:]", "[:cntrl:]"]


def a_class(r, depth=0):
    def item():
        choice = r.random()
        if choice < 0.26 and depth < 4:
            return a_class(r, depth + 1)
        return r.choice(CHARACTERS if choice < 0.7 else KINDS)

    parts = ["".join(item() for _ in range(r.randint(1, 3))) for _ in range(r.choice([1, 1, 1, 2, 2, 3]))]
    return "[" + ("^" if r.random() < 0.35 else "") + "&&".join(parts) + "]"


def classes(part):
    """How many patterns, how many of them mean something else to the two, and the first of those."""
    r = random.Random(part)
    some = [chr(c) for c in range(0x20, 0x7F)] + list("éÉßſK\u0301٣\t\n漢\v\u180e\u2028²İⒶ\u1c89\u0897\U00010d40\U0001e030\U00016d63\U0002ebf0")
    some += [chr(r.choice((r.randint(0x80, 0x3000), r.randint(0x3000, 0xD7FF), r.randint(0xE000, 0x33000)))) for _ in range(1500)]
    count, wrong, text = 2000 // part, [], "|".join(some)
    for _ in range(count):
        pattern = r.choice(("%s", "%s+", "x?%s*", "(?<=%s)..?")) % a_class(r)
        mine = ours({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""})
        if normalizers.Replace(Regex(pattern), "").normalize_str(text) != bytes(mine.encode(text.encode(), False)).decode():
            wrong.append(pattern)
        mine.close()
    return count, len(wrong), wrong[:1]
