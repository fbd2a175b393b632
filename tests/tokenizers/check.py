"""brim's tokenizers against the Python package `tokenizers`: the same ids and texts on a large mixed corpus, the same result
of training, and the speed of both. check.py FOLDER-OF-TOKENIZERS [--part N] [--only GLOB] [--speed]. Prints a line a tokenizer
and closes with "N passed, N failed"."""
import argparse
import glob
import json
import os
import random
import statistics
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

import brim  # noqa: E402
import corpus  # noqa: E402
import exact  # noqa: E402

PASSED = FAILED = 0


def report(right, line):
    global PASSED, FAILED
    PASSED += right
    FAILED += not right
    print(("ok " if right else "not ok ") + line, flush=True)


def open_both(path):
    theirs = Tokenizer.from_file(path)
    theirs.no_truncation()
    theirs.no_padding()
    return theirs, brim.Tokenizer(path)


def same_everywhere(path, texts):
    name = os.path.basename(path)[:-5]
    theirs, ours = open_both(path)
    tokens = wrong = wrong_text = 0
    first = ""
    for i, text in enumerate(texts):
        want = theirs.encode(text, add_special_tokens=i % 2 == 0).ids
        got = ours.encode(text.encode(), i % 2 == 0)
        tokens += len(want)
        if want != got:
            wrong += 1
            k = next((k for k, pair in enumerate(zip(want, got)) if pair[0] != pair[1]), min(len(want), len(got)))
            first = first or f"; text {i}, token {k}: {want[k:k + 4]} here {got[k:k + 4]}"
        if i % 3 == 0:  # the text of its ids, or of the same ids in disorder
            ids = want[:400]
            if i % 6:
                random.Random(i).shuffle(ids)
            wrong_text += theirs.decode(ids, skip_special_tokens=i % 4 == 0) != ours.decode(ids, i % 4 == 0)
    ours.close()
    report(not wrong and not wrong_text, f"{name}: {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes, {tokens} tokens; "
           f"{wrong} encoded and {wrong_text} decoded differently{first}")


def same_training(text, vocab, min_count):
    with tempfile.TemporaryDirectory() as folder:
        path, out = folder + "/text", folder + "/tokenizer.json"
        with open(path, "wb") as file:
            file.write(text.encode())
        start = time.time()
        brim.train(path, out, vocab, min_count)
        middle = time.time()
        theirs = Tokenizer(models.BPE())
        theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        theirs.decoder, theirs.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=True)
        theirs.train([path], trainers.BpeTrainer(
            vocab_size=vocab, min_frequency=min_count, special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        end = time.time()
        a, b = json.load(open(out)), json.loads(theirs.to_str())
    merges = a["model"]["merges"]
    report(a == b, f"trained on {len(text.encode())} bytes to {vocab} tokens: {len(merges)} merges; "
           f"{middle - start:.1f} s, Python package {end - middle:.1f} s")


def speed(path, texts):
    """Processor time of both in turn, medians of five; nothing is decided by it."""
    theirs, ours = open_both(path)
    encoded = [t.encode() for t in texts]
    megabytes = sum(map(len, encoded)) / 1e6
    ways = {"encode": lambda: [theirs.encode(t) for t in texts], "encode_batch_fast": lambda: theirs.encode_batch_fast(texts),
            "brim": lambda: [ours.raw(t) for t in encoded]}
    times = {way: [] for way in ways}
    for _ in range(5):
        for way, run in ways.items():
            start = time.process_time()
            run()
            times[way].append(time.process_time() - start)
    rate = {way: megabytes / statistics.median(t) for way, t in times.items()}
    ours.close()
    print(f"   {os.path.basename(path)[:-5]}: {megabytes:.1f} MB; MB/s: " +
          ", ".join(f"{way} {r:.1f}" for way, r in rate.items()))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("folder")
    options.add_argument("--part", type=int, default=1, help="one in N of the corpus")
    options.add_argument("--only", default="*")
    options.add_argument("--speed", action="store_true")
    options = options.parse_args()
    texts = corpus.docs()
    texts = random.Random(options.part).sample(texts, len(texts) // options.part)
    print(f"Python package tokenizers {tokenizers.__version__}; {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes")
    for path in sorted(glob.glob(f"{options.folder}/{options.only}.json")):
        if not os.path.basename(path).startswith("char_base"):
            same_everywhere(path, texts)
    if options.only == "*":
        count, wrong = exact.clusters(options.part)
        report(not wrong, f"grapheme clusters of every code point: {count} texts; {wrong} mapped differently")
        count, wrong, first = exact.classes(options.part)
        report(not wrong, f"classes made by chance: {count} patterns; {wrong} mean something else {first}")
    words = "\n".join(random.Random(2).sample(texts, len(texts)))
    for vocab, min_count, size in ((300, 2, 200000), (4000, 1, 400000), (8000, 2, 2000000)):
        same_training(words[:size], vocab, min_count)
    if options.speed:
        plain = "".join(t for t in texts if t.isascii())[:2000000]
        for name in ("gpt2", "anthropic", "llama3", "qwen2", "llama2", "minilm", "uni_xlmr", "uni_pegasus", "uni_bytes", "wordlevel"):
            for text in (plain, words[:2000000]):
                if os.path.exists(f"{options.folder}/{name}.json"):
                    speed(f"{options.folder}/{name}.json", [text[i:i + 4000] for i in range(0, len(text), 4000)])
    print(f"{PASSED} passed, {FAILED} failed")
    raise SystemExit(FAILED > 0)


main()
