"""What both sides agree on: the hash that makes values, and the container that fixtures are kept in (README.md)."""
import struct

import numpy as np

MAGIC = b'BRIMFIX1'
F32, I32, TEXT = 0, 1, 2


def hash32(x):
    """The lowbias32 mixer, on arrays of integers modulo 2^32."""
    x = np.asarray(x, np.uint64).astype(np.uint32)
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7feb352d)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846ca68b)
    return x ^ (x >> np.uint32(16))


def values(stream, shape, scale=1.0, offset=0.0):
    """float32 in offset + [-scale, scale): element i from hash32(stream * 0x9E3779B9 + i), in double, rounded once."""
    count = int(np.prod(shape))
    index = (stream * 0x9E3779B9 + np.arange(count, dtype=np.uint64)) & np.uint64(0xffffffff)
    u = hash32(index).astype(np.float64) / 2.0**32
    return ((u - 0.5) * 2 * scale + offset).astype(np.float32).reshape(shape)


def integers(stream, shape, below):
    """int32 in [0, below): element i from hash32(stream * 1000003 + i)."""
    index = (stream * 1000003 + np.arange(int(np.prod(shape)), dtype=np.uint64)) & np.uint64(0xffffffff)
    return (hash32(index) % np.uint32(below)).astype(np.int32).reshape(shape)


def attributes(kind, **items):
    """'linear act=gelu bias=1'; floats as Python writes them: the shortest text that gives the double back."""
    return ' '.join([kind] + [f'{k}={v}' for k, v in items.items()])


def padded(data):
    return data + b'\0' * (-len(data) % 8)


class Writer:
    """Records in the order added; write() at the end."""

    def __init__(self, path):
        self.path, self.parts = path, [MAGIC]

    def add(self, name, value):
        if isinstance(value, str):
            data = value.encode()
            kind, dims, data = TEXT, (len(data),), data + b'\0'
        else:
            value = np.asarray(value)
            kind = I32 if value.dtype.kind in 'iu' else F32
            value = np.ascontiguousarray(value, '<i4' if kind == I32 else '<f4')
            dims, data = value.shape or (1,), value.tobytes()
        label = padded(name.encode() + b'\0')
        self.parts.append(struct.pack(f'<IIII{len(dims)}q', len(label), kind, len(dims), 0, *dims))
        self.parts += [label, padded(data)]

    def write(self):
        with open(self.path, 'wb') as f:
            f.write(b''.join(self.parts))


def read(path):
    """[(name, str or array)] in file order."""
    with open(path, 'rb') as f:
        data = f.read()
    if data[:8] != MAGIC:
        raise ValueError(f'{path}: not a fixture')
    at, records = 8, []
    while at < len(data):
        label, kind, ndim, _ = struct.unpack_from('<IIII', data, at)
        dims = struct.unpack_from(f'<{ndim}q', data, at + 16)
        at += 16 + 8 * ndim
        name = data[at:at + label].split(b'\0')[0].decode()
        at += label
        count = int(np.prod(dims))
        if kind == TEXT:
            value, size = data[at:at + count].decode(), count + 1
        else:
            value = np.frombuffer(data, '<i4' if kind == I32 else '<f4', count, at).reshape(dims)
            size = 4 * count
        at += size + -size % 8
        records.append((name, value))
    return records
