#!/usr/bin/env python3
"""Compares two folders of fixtures: compare.py A B prints a line a file and exits with 1 when they differ.

An element may differ from A's by 1e-4 of itself plus 1e-5 of its tensor's largest magnitude (of 1e-2, where all are
smaller: a gradient that is mathematically zero is rounding noise). Integers and texts must be equal.
"""
import os
import sys

import numpy as np

from fixture import read

RTOL, ATOL, FLOOR = 1e-4, 1e-5, 1e-2


def difference(a, b):
    """(text of the first mismatch or None, largest error as a fraction of what is allowed)"""
    if len(a) != len(b):
        return f'{len(a)} records, {len(b)} records', 0.0
    case, worst = '', 0.0
    for (name, x), (other, y) in zip(a, b):
        where = f'{case} {name}'.strip()
        if name != other or type(x) is not type(y):
            return f'{where} against {other}', worst
        if isinstance(x, str):
            if x != y:
                return f'{where}: "{x}", "{y}"', worst
            case = x if name == 'case' else case
            continue
        if x.shape != y.shape or x.dtype != y.dtype:
            return f'{where}: {x.dtype}{x.shape}, {y.dtype}{y.shape}', worst
        if x.dtype.kind == 'i':
            if (x != y).any():
                return f'{where}: integers differ', worst
            continue
        allowed = RTOL * np.abs(x) + ATOL * max(float(np.abs(x).max()), FLOOR)
        error = np.abs(x.astype(np.float64) - y) / allowed
        if not (error <= 1).all():
            i = int(np.nanargmax(np.where(np.isnan(error), np.inf, error)))
            return f'{where}[{i}]: {x.flat[i]:.9g}, {y.flat[i]:.9g}', worst
        worst = max(worst, float(error.max()))
    return None, worst


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.split('\n')[0])
    folders, failed = sys.argv[1:], False
    names = sorted({f for folder in folders for f in os.listdir(folder) if f.endswith('.bin')})
    for name in names:
        paths = [os.path.join(folder, name) for folder in folders]
        missing = [p for p in paths if not os.path.exists(p)]
        text, worst = (f'no {missing[0]}', 0.0) if missing else difference(*map(read, paths))
        failed |= text is not None
        print(f'{name}: differs: {text}' if text else f'{name}: equal (largest error {worst:.2g} of the allowed)')
    sys.exit(1 if failed or not names else 0)


if __name__ == '__main__':
    main()
