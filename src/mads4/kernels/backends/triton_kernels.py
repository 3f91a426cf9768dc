"""Device code of the ``cuda`` backend, in Triton; imported at the first launch.

Complex arrays come as pairs of reals (``torch.view_as_real``), contiguous. All kernels accumulate
in registers and write each result once: no atomics, so the same input gives the same bits.

Powers ``d^l`` are built as ``2^(l log2|d|)`` and a turn of ``l arg(d) / 2π``. Logarithm and angle
come in float64 and the multiple of the angle is reduced to half a turn in float64 as well, since at
l = 16 000 a float32 product would keep three digits of the phase; what follows the reduction is
computed in the precision of the result. The logarithm of a zero base is finite, but so low that
every power but the zeroth underflows to zero.

Axes: ``H`` channels, ``M`` sequences with the same base, ``N`` conjugate pairs, ``L`` time.
The first axis of a launch grid runs over ``H M``, as it alone may exceed 65 535.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

_SIZES = ("sequences", "modes", "length")
"""Arguments that are not compiled in: sequence lengths vary, and each variant costs a second."""


@triton.jit
def _power(log2_modulus, turns, exponent, dtype: tl.constexpr):
    """Return real and imaginary part of base^exponent in `dtype`, from float64 logarithms."""
    modulus = tl.exp2((exponent * log2_modulus).to(dtype))
    phase = exponent * turns
    phase -= tl.floor(phase + 0.5)
    # A float literal would be rounded to float32 by some versions of Triton.
    angle = (phase * tl.full((1, 1), 6.283185307179586, tl.float64)).to(dtype)
    return modulus * tl.cos(angle), modulus * tl.sin(angle)


@triton.jit
def _accumulate(left, right, total):
    """Return total + left @ right without rounding to TF32."""
    if total.dtype == tl.float64:
        # Triton 3.2, which PyTorch 2.6 ships, has no tl.dot of float64.
        result = total + tl.sum(left[:, :, None] * right[None, :, :], axis=1)
    else:
        result = tl.dot(left, right, total, input_precision="ieee")
    return result


@triton.jit(do_not_specialize=_SIZES)
def vandermonde_kernel(
    weight,
    log2_modulus,
    turns,
    out,
    sequences,
    modes,
    length,
    BLOCK_A: tl.constexpr,  # noqa: N803 - constants of compilation are upper case in Triton
    BLOCK_B: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
):
    """Write 2 Re Σ_n w_n d_n^l for one row (h, m) and BLOCK_A BLOCK_B consecutive l.

    With l = a + b, a a multiple of BLOCK_B, the tile is the product of an (A, N) and an (N, B)
    factor, which takes (1/A + 1/B) N exponentials for each of its elements instead of N.

    Args:
        weight: w, (H M, N, 2).
        log2_modulus: log2 |d|, (H, N) float64.
        turns: arg(d) / 2π, (H, N) float64.
        out: (H M, L).
        sequences: M.
        modes: N.
        length: L.
        BLOCK_A: Rows of a tile.
        BLOCK_B: Columns of a tile.
        BLOCK_N: Pairs per step of the sum.
    """
    row = tl.program_id(0).to(tl.int64)
    base = row // sequences * modes
    dtype: tl.constexpr = out.dtype.element_ty
    a = tl.program_id(1) * (BLOCK_A * BLOCK_B) + tl.arange(0, BLOCK_A) * BLOCK_B
    b = tl.arange(0, BLOCK_B)
    # Exponents past the end are not stored, but could overflow.
    outer_exponent = tl.minimum(a, length - 1)[:, None]
    inner_exponent = tl.minimum(b, length - 1)[None, :]
    total = tl.zeros((BLOCK_A, BLOCK_B), dtype)
    for first in range(0, modes, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        inside = n < modes
        log2 = tl.load(log2_modulus + base + n, mask=inside, other=0.0)
        turn = tl.load(turns + base + n, mask=inside, other=0.0)
        pair = weight + 2 * (row * modes + n)
        w_re = tl.load(pair, mask=inside, other=0.0)[None, :]
        w_im = tl.load(pair + 1, mask=inside, other=0.0)[None, :]
        outer_re, outer_im = _power(log2[None, :], turn[None, :], outer_exponent, dtype)
        inner_re, inner_im = _power(log2[:, None], turn[:, None], inner_exponent, dtype)
        total = _accumulate(w_re * outer_re - w_im * outer_im, inner_re, total)
        total = _accumulate(-w_re * outer_im - w_im * outer_re, inner_im, total)
    index = a[:, None] + b[None, :]
    tl.store(out + row * length + index, 2.0 * total, mask=index < length)


@triton.jit(do_not_specialize=_SIZES)
def vandermonde_transposed_kernel(
    values,
    log2_modulus,
    turns,
    out,
    sequences,
    modes,
    length,
    BLOCK_A: tl.constexpr,  # noqa: N803
    BLOCK_B: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
):
    """Write Σ_l u_l d_n^l for one row (h, m) and BLOCK_N consecutive n.

    The inner powers d^b stay in registers for all tiles of u; only the outer ones are computed per
    tile, and the sum over a comes last.

    Arguments are as above, except for u, (H M, L), ``out``, (H M, N, 2), and BLOCK_N, the pairs per
    program.
    """
    row = tl.program_id(0).to(tl.int64)
    dtype: tl.constexpr = values.dtype.element_ty
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = n < modes
    base = row // sequences * modes + n
    log2 = tl.load(log2_modulus + base, mask=inside, other=0.0)[None, :]
    turn = tl.load(turns + base, mask=inside, other=0.0)[None, :]
    b = tl.arange(0, BLOCK_B)
    inner_re, inner_im = _power(log2, turn, tl.minimum(b, length - 1)[:, None], dtype)
    zero = tl.zeros((BLOCK_A, BLOCK_N), dtype)
    total_re, total_im = zero, zero
    for first in range(0, length, BLOCK_A * BLOCK_B):
        a = first + tl.arange(0, BLOCK_A) * BLOCK_B
        index = a[:, None] + b[None, :]
        u = tl.load(values + row * length + index, mask=index < length, other=0.0)
        part_re = _accumulate(u, inner_re, zero)
        part_im = _accumulate(u, inner_im, zero)
        outer_re, outer_im = _power(log2, turn, tl.minimum(a, length - 1)[:, None], dtype)
        total_re += part_re * outer_re - part_im * outer_im
        total_im += part_re * outer_im + part_im * outer_re
    pair = out + 2 * (row * modes + n)
    tl.store(pair, tl.sum(total_re, axis=0), mask=inside)
    tl.store(pair + 1, tl.sum(total_im, axis=0), mask=inside)
