"""SentencePiece's precompiled_charsmap: from a dictionary of bytes, and back. A double array of 32-bit units (Darts-clone's)
behind its size in bytes, then the texts that characters become, each with a NUL behind it."""
import base64
import json
import struct


def build(pairs):
    """pairs: text to text. The trie is laid out node by node, first fit."""
    blob, places, root = b"", {}, {}
    for key, value in pairs.items():
        value = value.encode()
        if value not in places:
            places[value] = len(blob)
            blob += value + b"\0"
        at = root
        for byte in key.encode():
            at = at.setdefault(byte, {})
        at[0] = places[value]
    units, used, bases, first = {0: 0}, {0}, set(), 1
    todo = [(0, root)]
    while todo:
        at, node = todo.pop()
        while first in used:
            first += 1
        wanted = first
        while True:  # a base at which all children are free, and which the unit can hold
            base = wanted ^ min(node)
            offset = base ^ at
            if base not in bases and all(base ^ byte not in used for byte in node) and (offset < 1 << 21 or not offset & 0xFF):
                break
            wanted += 1
        bases.add(base)
        units[at] |= offset << 10 if offset < 1 << 21 else offset << 2 | 1 << 9
        for byte, child in node.items():
            used.add(base ^ byte)
            if byte == 0:
                units[at] |= 1 << 8
                units[base] = child | 1 << 31
            else:
                units[base ^ byte] = byte
                todo.append((base ^ byte, child))
    size = (max(units) | 0xFF) + 1
    array = struct.pack(f"<{size}I", *(units.get(i, 0) for i in range(size)))
    return struct.pack("<I", len(array)) + array + blob


def read(data):
    """The pairs of a map, in the order of their bytes."""
    size, = struct.unpack_from("<I", data)
    units, blob = struct.unpack_from(f"<{size // 4}I", data, 4), data[4 + size:]

    def offset(unit):
        return unit >> 10 << ((unit & 1 << 9) >> 6)

    pairs, todo = {}, [(offset(units[0]), b"")]
    while todo:
        base, key = todo.pop()
        for byte in range(255, 0, -1):
            unit = units[base ^ byte]
            if unit & (1 << 31 | 0xFF) != byte:
                continue
            child = base ^ byte ^ offset(unit)
            todo.append((child, key + bytes([byte])))
            if unit >> 8 & 1:
                at = units[child] & (1 << 31) - 1
                pairs[(key + bytes([byte])).decode()] = blob[at:blob.index(b"\0", at)].decode()
    return dict(sorted(pairs.items()))


def normalizer(data):
    """For a tokenizer.json."""
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def set_normalizers(tokenizer, steps):
    """The tokenizer's JSON with these normalizers in place of its own."""
    document = json.loads(tokenizer.to_str())
    document["normalizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "normalizers": steps}
    return document
