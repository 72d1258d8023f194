"""Measure how fast one core of this host computes and copies, as JSON. `hardware.py` runs this file as a program.

It is a separate process because a BLAS library reads its number of threads only once, when it is loaded. `core_tflops`
is the best of several products of two 384 × 384 matrices in float32. `gb_s` is the best of several passes over a block
of 32 MB in which every second number is copied onto its neighbour, so that one core reads and writes the whole block.
Large caches hold such a block, and several cores together may move more. Neither is corrected, since training on a
processor reads and writes blocks of this kind. The block is written first, and the first passes do not count, because
allocating its pages during the copy would make it many times too slow.
"""

import json
import time
from collections.abc import Callable

SIZE = 384
NUMBERS = 8_000_000


def main() -> None:
    import numpy as np

    a = np.full((SIZE, SIZE), 0.5, np.float32)
    b = np.empty_like(a)
    block = np.full(NUMBERS, 0.5, np.float32)
    tflops = 2 * SIZE**3 / _best_s(lambda: np.matmul(a, a, out=b)) / 1e12
    gb_s = 2 * block.nbytes / _best_s(lambda: np.copyto(block[::2], block[1::2])) / 1e9
    print(json.dumps({"core_tflops": tflops, "gb_s": gb_s}))


def _best_s(work: Callable[[], object], budget_s: float = 0.05, least: int = 5) -> float:
    """Return the fastest of several tries: the first ones fill the caches, and other load disturbs some."""
    best, done, until = float("inf"), 0, time.perf_counter() + budget_s
    while done < least or time.perf_counter() < until:
        start = time.perf_counter()
        work()
        best, done = min(best, time.perf_counter() - start), done + 1
    return best


if __name__ == "__main__":
    main()
