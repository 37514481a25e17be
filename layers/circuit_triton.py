"""The whole circuit as one operation on a CUDA device, in Triton.

Computes what HGRU.forward computes (the equations stand there) for the circuits without batch
normalisation, with its own backward pass. A program holds all channels of rows of pixels: it brings
a convolution's result back from its row spectrum, does all that is pointwise or joins channels (the
gates' 1×1 products), and takes the next convolution's input to its row spectrum, so that each half
of a step reads and writes every tensor once.

Kept for backward at each step are H2, H1, C1, C2 and the spectra of the two convolutions' inputs,
or only H2 when `recompute` is asked for. Inside, both image axes are folded (see
layers/spectral_triton.py); the padding holds zeros and stays so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from layers import spectral_triton as spectral
from layers.horizontal import refuse_double_backward
from layers.spectral_triton import (
    STEP, Kernel, Plan, Rows, Sizes, Spectrum,
    add_pairs, lines, matmul, row_spectra, store_row_spectrum, times_waves,
)  # fmt: skip

PROGRAMS = 528  # that share the rows of the backward pass, each summing the parameters' gradients
TOGETHER = 2  # steps whose kernel gradients are taken together


@triton.jit
def _f(z, TANH: tl.constexpr):
    if TANH:
        size = tl.abs(z)
        e = tl.exp(-2.0 * size)
        far = (1.0 - e) / (1.0 + e)
        s = z * z
        series = -17.0 / 315.0 + s * (62.0 / 2835.0)
        near = size + size * s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * series))
        t = tl.where(size < 0.25, near, far)
        return tl.where(z < 0, -t, t)
    else:
        return tl.maximum(z, 0.0)


@triton.jit
def _f_slope(h, TANH: tl.constexpr):
    """f'(z) from h = f(z)."""
    if TANH:
        return 1.0 - h * h
    else:
        return tl.where(h > 0, 1.0, 0.0)


@triton.jit
def _gate_matrix(u, channels, K: tl.constexpr, ROWS: tl.constexpr):
    """A gate's U (out, in) for each of the rows of pixels that a program holds: a block diagonal
    matrix (ROWS, ROWS)."""
    r = tl.arange(0, ROWS)
    k = r % K
    mask = (k < channels)[:, None] & (k < channels)[None, :]
    mask &= (r // K)[:, None] == (r // K)[None, :]
    return tl.load(u + k[:, None] * channels + k[None, :], mask=mask, other=0.0)


@triton.jit
def _letter(letter, k, known):
    return tl.load(letter + k, mask=known, other=0.0)[:, None]


@triton.jit
def _spectrum(
    spectrum, line, known, HALF: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """The row spectra of a program's rows: FIRST frequencies of p and q, and SECOND more."""
    u = tl.arange(0, FIRST)
    at = spectrum + line[:, None] + u[None, :]
    p1 = tl.load(at, mask=known[:, None], other=0.0)
    q1 = tl.load(at + HALF, mask=known[:, None], other=0.0)
    p2, q2 = p1, q1
    if SECOND > 0:
        u = FIRST + tl.arange(0, SECOND)
        at = spectrum + line[:, None] + u[None, :]
        mask = known[:, None] & (u < HALF)[None, :]
        p2 = tl.load(at, mask=mask, other=0.0)
        q2 = tl.load(at + HALF, mask=mask, other=0.0)
    return p1, q1, p2, q2


@triton.jit
def _pairs(
    p1, q1, p2, q2, waves, j, factor, ODD: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The pairs j of pixels of these row spectra times `factor`, right and left."""
    WIDTH: tl.constexpr = FIRST + SECOND
    SIZE: tl.constexpr = WIDTH * WIDTH
    wave = waves + tl.arange(0, FIRST)[:, None] * WIDTH + j[None, :]
    even = tl.zeros((p1.shape[0], j.shape[0]), tl.float32)
    odd = tl.zeros((p1.shape[0], j.shape[0]), tl.float32)
    even = times_waves(p1, wave, even, 2 * SIZE, PRECISION)
    odd = times_waves(q1, wave + SIZE, odd, 2 * SIZE, PRECISION)
    if SECOND > 0:
        wave = waves + (FIRST + tl.arange(0, SECOND))[:, None] * WIDTH + j[None, :]
        even = times_waves(p2, wave, even, 2 * SIZE, PRECISION)
        odd = times_waves(q2, wave + SIZE, odd, 2 * SIZE, PRECISION)
    far, near = (even + odd) * factor, (even - odd) * factor
    if ODD:
        near = tl.where((j == 0)[None, :], 0.0, near)
    return far, near


# -- forward ---------------------------------------------------------------------------------------
#
# A program takes ROWS // K rows of pixels in all channels, and goes through their pairs STEP by
# STEP. `at` is where the right pixels of these pairs stand in a folded activity, `at` + RUN the
# left ones. The arguments that end each kernel's list are Plan.row_options.


@triton.jit
def _gain(at, mask, h2, u1, b1, PRECISION: tl.constexpr):
    """P = H2 σ(U1 H2 + b_gain)."""
    h = tl.load(h2 + at, mask=mask, other=0.0)
    return h * tl.sigmoid(matmul(u1, h, PRECISION) + b1)


@triton.jit
def _gain_kernel(
    h2, u1, b1, out, row_scales, image_scales, waves_there, unit, height, channels,
    RUN: tl.constexpr, ODD: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """H2 → the row spectrum of P = H2 G1."""
    n = tl.program_id(1)
    r = tl.arange(0, ROWS)
    k, y = r % K, tl.program_id(0) * (ROWS // K) + r // K
    known = k < channels
    line = lines(n, y, k, height, channels, 2 * RUN)
    b1 = _letter(b1, k, known)
    u1 = _gate_matrix(u1, channels, K, ROWS)
    p1 = tl.zeros((ROWS, FIRST), tl.float32)
    q1 = tl.zeros((ROWS, FIRST), tl.float32)
    p2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    q2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    for start in range(0, RUN, STEP):
        j = start + tl.arange(0, STEP)
        at, mask = line[:, None] + j[None, :], known[:, None] & (j < RUN)[None, :]
        far = _gain(at, mask, h2, u1, b1, PRECISION)
        near = _gain(at + RUN, mask, h2, u1, b1, PRECISION)
        p1, q1, p2, q2 = add_pairs(
            p1, q1, p2, q2, far, near, waves_there, j, FIRST, SECOND, FIRST + SECOND, PRECISION
        )
    store_row_spectrum(
        p1, q1, p2, q2, out, row_spectra(n, y, k, height, channels, HALF), known, 0,
        row_scales + n * height + y, image_scales + n, unit, HALF, FIRST, SECOND, PRECISION,
    )  # fmt: skip


@triton.jit
def _inhibit(at, mask, c, α, μ, x, h2, c1, h1, TANH: tl.constexpr, KEEP: tl.constexpr):
    h = tl.load(h2 + at, mask=mask, other=0.0)
    h = _f(tl.load(x + at, mask=mask, other=0.0) - (α * h + μ) * c, TANH)
    if KEEP:
        tl.store(c1 + at, c, mask=mask)
    tl.store(h1 + at, h, mask=mask)
    return h


@triton.jit
def _inhibit_kernel(
    spectrum, in_scales, kernel_scale, x, h2, alpha, mu, c1, h1, out, row_scales, image_scales,
    waves_back, waves_there, back, unit, height, channels,
    TANH: tl.constexpr, KEEP: tl.constexpr,
    RUN: tl.constexpr, ODD: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectrum of C1 → C1 (with KEEP), H1 = f(X − (α H2 + μ) C1) and H1's row spectrum."""
    n = tl.program_id(1)
    r = tl.arange(0, ROWS)
    k, y = r % K, tl.program_id(0) * (ROWS // K) + r // K
    known = k < channels
    line = lines(n, y, k, height, channels, 2 * RUN)
    line_u = row_spectra(n, y, k, height, channels, HALF)
    α, μ = _letter(alpha, k, known), _letter(mu, k, known)
    factor = back * tl.load(kernel_scale) * tl.load(in_scales + n)
    sp1, sq1, sp2, sq2 = _spectrum(spectrum, line_u, known, HALF, FIRST, SECOND)
    p1 = tl.zeros((ROWS, FIRST), tl.float32)
    q1 = tl.zeros((ROWS, FIRST), tl.float32)
    p2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    q2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    for start in range(0, RUN, STEP):
        j = start + tl.arange(0, STEP)
        at, mask = line[:, None] + j[None, :], known[:, None] & (j < RUN)[None, :]
        far, near = _pairs(
            sp1, sq1, sp2, sq2, waves_back, j, factor, ODD, FIRST, SECOND, PRECISION
        )
        far = _inhibit(at, mask, far, α, μ, x, h2, c1, h1, TANH, KEEP)
        near = _inhibit(at + RUN, mask, near, α, μ, x, h2, c1, h1, TANH, KEEP)
        p1, q1, p2, q2 = add_pairs(
            p1, q1, p2, q2, far, near, waves_there, j, FIRST, SECOND, FIRST + SECOND, PRECISION
        )
    store_row_spectrum(
        p1, q1, p2, q2, out, line_u, known, 0, row_scales + n * height + y, image_scales + n,
        unit, HALF, FIRST, SECOND, PRECISION,
    )  # fmt: skip


@triton.jit
def _mix(
    at, mask, c, γ, κ, ω, η, u1, b1, u2, b2, h1, h2, c2, h2_next,
    TANH: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    x = tl.load(h1 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    gate = tl.sigmoid(matmul(u2, x, PRECISION) + b2)
    e = γ * c
    candidate = _f(κ * (x + e) + ω * x * e, TANH)
    h = η * (gate * h + (1.0 - gate) * candidate)
    if KEEP:
        tl.store(c2 + at, c, mask=mask)
    tl.store(h2_next + at, h, mask=mask)
    if LAST:
        return h
    else:
        return h * tl.sigmoid(matmul(u1, h, PRECISION) + b1)


@triton.jit
def _mix_kernel(
    spectrum, in_scales, kernel_scale, h1, h2, gamma, kappa, omega, eta, u1, b1, u2, b2,
    c2, h2_next, out, row_scales, image_scales,
    waves_back, waves_there, back, unit, height, channels,
    TANH: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    RUN: tl.constexpr, ODD: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row spectrum of C2 → C2 (with KEEP), the next H2 and, unless LAST, P's row spectrum."""
    n = tl.program_id(1)
    r = tl.arange(0, ROWS)
    k, y = r % K, tl.program_id(0) * (ROWS // K) + r // K
    known = k < channels
    line = lines(n, y, k, height, channels, 2 * RUN)
    line_u = row_spectra(n, y, k, height, channels, HALF)
    γ, κ, ω = _letter(gamma, k, known), _letter(kappa, k, known), _letter(omega, k, known)
    b1, b2, η = _letter(b1, k, known), _letter(b2, k, known), tl.load(eta)
    u1, u2 = _gate_matrix(u1, channels, K, ROWS), _gate_matrix(u2, channels, K, ROWS)
    factor = back * tl.load(kernel_scale) * tl.load(in_scales + n)
    sp1, sq1, sp2, sq2 = _spectrum(spectrum, line_u, known, HALF, FIRST, SECOND)
    p1 = tl.zeros((ROWS, FIRST), tl.float32)
    q1 = tl.zeros((ROWS, FIRST), tl.float32)
    p2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    q2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
    for start in range(0, RUN, STEP):
        j = start + tl.arange(0, STEP)
        at, mask = line[:, None] + j[None, :], known[:, None] & (j < RUN)[None, :]
        far, near = _pairs(
            sp1, sq1, sp2, sq2, waves_back, j, factor, ODD, FIRST, SECOND, PRECISION
        )
        far = _mix(
            at, mask, far, γ, κ, ω, η, u1, b1, u2, b2, h1, h2, c2, h2_next,
            TANH, KEEP, LAST, PRECISION,
        )  # fmt: skip
        near = _mix(
            at + RUN, mask, near, γ, κ, ω, η, u1, b1, u2, b2, h1, h2, c2, h2_next,
            TANH, KEEP, LAST, PRECISION,
        )  # fmt: skip
        if not LAST:
            p1, q1, p2, q2 = add_pairs(
                p1, q1, p2, q2, far, near, waves_there, j, FIRST, SECOND, FIRST + SECOND,
                PRECISION,
            )  # fmt: skip
    if not LAST:
        store_row_spectrum(
            p1, q1, p2, q2, out, line_u, known, 0, row_scales + n * height + y, image_scales + n,
            unit, HALF, FIRST, SECOND, PRECISION,
        )  # fmt: skip


# -- backward --------------------------------------------------------------------------------------
#
# Programs share the rows out among them and add the parameters' gradients up, each in its own
# place, so that the order of the sums does not depend on chance.


@triton.jit
def _add_gate_sums(sums, du, db, ROWS: tl.constexpr):
    """Add a gate's gradients to the program's sums (ROWS, ROWS + 1): U's (the blocks of its
    diagonal count), and b's at the end of the rows."""
    r = tl.arange(0, ROWS)
    own = sums + tl.program_id(0) * (ROWS * (ROWS + 1))
    at = own + r[:, None] * (ROWS + 1) + r[None, :]
    tl.store(at, tl.load(at) + du)
    at = own + r * (ROWS + 1) + ROWS
    tl.store(at, tl.load(at) + db)


@triton.jit
def _add_sums(sums, which: tl.constexpr, d, ROWS: tl.constexpr):
    """Add to the program's sums of letter number `which` (5, ROWS)."""
    at = sums + tl.program_id(0) * (5 * ROWS) + which * ROWS + tl.arange(0, ROWS)
    tl.store(at, tl.load(at) + d)


@triton.jit
def _gain_back(at, mask, d, h2, u1, u1_t, b1, grad, du, db, PRECISION: tl.constexpr):
    """P's gradient d: H2's is that which `grad` holds and P's share."""
    h = tl.load(h2 + at, mask=mask, other=0.0)
    gate = tl.sigmoid(matmul(u1, h, PRECISION) + b1)
    da = d * h * gate * (1.0 - gate)
    g = tl.load(grad + at, mask=mask, other=0.0) + d * gate + matmul(u1_t, da, PRECISION)
    tl.store(grad + at, g, mask=mask)
    return du + matmul(da, tl.trans(h), PRECISION), db + tl.sum(da, 1)


@triton.jit
def _gain_back_kernel(
    spectrum, in_scales, kernel_scale, h2, u1, b1, grad, sums,
    waves_back, back, groups, height, channels,
    RUN: tl.constexpr, ODD: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backward of P = H2 G1: the row spectrum of P's gradient → H2's, added to `grad`."""
    r = tl.arange(0, ROWS)
    k = r % K
    known = k < channels
    b1 = _letter(b1, k, known)
    u1 = _gate_matrix(u1, channels, K, ROWS)
    u1_t = tl.trans(u1)
    du = tl.zeros((ROWS, ROWS), tl.float32)
    db = tl.zeros((ROWS,), tl.float32)
    for group in range(tl.program_id(0), groups, tl.num_programs(0)):
        n = group // (height // (ROWS // K))
        y = group % (height // (ROWS // K)) * (ROWS // K) + r // K
        line = lines(n, y, k, height, channels, 2 * RUN)
        line_u = row_spectra(n, y, k, height, channels, HALF)
        factor = back * tl.load(kernel_scale) * tl.load(in_scales + n)
        sp1, sq1, sp2, sq2 = _spectrum(spectrum, line_u, known, HALF, FIRST, SECOND)
        for start in range(0, RUN, STEP):
            j = start + tl.arange(0, STEP)
            at, mask = line[:, None] + j[None, :], known[:, None] & (j < RUN)[None, :]
            far, near = _pairs(
                sp1, sq1, sp2, sq2, waves_back, j, factor, ODD, FIRST, SECOND, PRECISION
            )
            du, db = _gain_back(at, mask, far, h2, u1, u1_t, b1, grad, du, db, PRECISION)
            du, db = _gain_back(at + RUN, mask, near, h2, u1, u1_t, b1, grad, du, db, PRECISION)
    _add_gate_sums(sums, du, db, ROWS)


@triton.jit
def _mix_back(
    at, mask, h2, h1, c2, γ, κ, ω, η, u2, u2_t, b2, grad, dh1, du, db, dγ, dκ, dω, dη,
    TANH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`grad`, the gradient of the H2 that a step makes, gives way to that of the H2 that it begins
    with, but for the other paths to it, as H1's in `dh1`. Returns C2's, and adds the parameters'
    to theirs."""
    g = tl.load(grad + at, mask=mask, other=0.0)
    x = tl.load(h1 + at, mask=mask, other=0.0)
    c = tl.load(c2 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    gate = tl.sigmoid(matmul(u2, x, PRECISION) + b2)
    e = γ * c
    candidate = _f(κ * (x + e) + ω * x * e, TANH)
    dη += tl.sum(g * (gate * h + (1.0 - gate) * candidate), 1)
    g *= η
    ds = g * (1.0 - gate) * _f_slope(candidate, TANH)
    de = ds * (κ + ω * x)
    da = g * (h - candidate) * gate * (1.0 - gate)
    tl.store(grad + at, g * gate, mask=mask)
    tl.store(dh1 + at, ds * (κ + ω * e) + matmul(u2_t, da, PRECISION), mask=mask)
    dγ += tl.sum(de * c, 1)
    dκ += tl.sum(ds * (x + e), 1)
    dω += tl.sum(ds * x * e, 1)
    return γ * de, du + matmul(da, tl.trans(x), PRECISION), db + tl.sum(da, 1), dγ, dκ, dω, dη


@triton.jit
def _mix_back_kernel(
    h2, h1, c2, gamma, kappa, omega, eta, u2, b2, grad, dh1, out, row_scales, image_scales,
    gate_sums, letter_sums, eta_sums, waves_there, unit, groups, height, channels,
    TANH: tl.constexpr,
    RUN: tl.constexpr, ODD: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backward of a step's mixing (see _mix_back) → the row spectrum of C2's gradient."""
    r = tl.arange(0, ROWS)
    k = r % K
    known = k < channels
    γ, κ, ω = _letter(gamma, k, known), _letter(kappa, k, known), _letter(omega, k, known)
    b2, η = _letter(b2, k, known), tl.load(eta)
    u2 = _gate_matrix(u2, channels, K, ROWS)
    u2_t = tl.trans(u2)
    du = tl.zeros((ROWS, ROWS), tl.float32)
    db = tl.zeros((ROWS,), tl.float32)
    dγ = tl.zeros((ROWS,), tl.float32)
    dκ = tl.zeros((ROWS,), tl.float32)
    dω = tl.zeros((ROWS,), tl.float32)
    dη = tl.zeros((ROWS,), tl.float32)
    for group in range(tl.program_id(0), groups, tl.num_programs(0)):
        n = group // (height // (ROWS // K))
        y = group % (height // (ROWS // K)) * (ROWS // K) + r // K
        line = lines(n, y, k, height, channels, 2 * RUN)
        p1 = tl.zeros((ROWS, FIRST), tl.float32)
        q1 = tl.zeros((ROWS, FIRST), tl.float32)
        p2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
        q2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
        for start in range(0, RUN, STEP):
            j = start + tl.arange(0, STEP)
            at, mask = line[:, None] + j[None, :], known[:, None] & (j < RUN)[None, :]
            far, du, db, dγ, dκ, dω, dη = _mix_back(
                at, mask, h2, h1, c2, γ, κ, ω, η, u2, u2_t, b2, grad, dh1,
                du, db, dγ, dκ, dω, dη, TANH, PRECISION,
            )  # fmt: skip
            near, du, db, dγ, dκ, dω, dη = _mix_back(
                at + RUN, mask, h2, h1, c2, γ, κ, ω, η, u2, u2_t, b2, grad, dh1,
                du, db, dγ, dκ, dω, dη, TANH, PRECISION,
            )  # fmt: skip
            p1, q1, p2, q2 = add_pairs(
                p1, q1, p2, q2, far, near, waves_there, j, FIRST, SECOND, FIRST + SECOND,
                PRECISION,
            )  # fmt: skip
        store_row_spectrum(
            p1, q1, p2, q2, out, row_spectra(n, y, k, height, channels, HALF), known, 0,
            row_scales + n * height + y, image_scales + n, unit, HALF, FIRST, SECOND, PRECISION,
        )  # fmt: skip
    _add_gate_sums(gate_sums, du, db, ROWS)
    _add_sums(letter_sums, 2, dγ, ROWS)
    _add_sums(letter_sums, 3, dκ, ROWS)
    _add_sums(letter_sums, 4, dω, ROWS)
    tl.store(eta_sums + tl.program_id(0) * ROWS + r, dη)


@triton.jit
def _inhibit_back(
    at, mask, through, dh1, h1, c1, h2, α, μ, dx, grad, dα, dμ,
    TANH: tl.constexpr, BEGIN: tl.constexpr,
):  # fmt: skip
    d = through + tl.load(dh1 + at, mask=mask, other=0.0)
    dz = d * _f_slope(tl.load(h1 + at, mask=mask, other=0.0), TANH)
    c = tl.load(c1 + at, mask=mask, other=0.0)
    h = tl.load(h2 + at, mask=mask, other=0.0)
    tl.store(grad + at, tl.load(grad + at, mask=mask, other=0.0) - dz * α * c, mask=mask)
    if BEGIN:
        tl.store(dx + at, dz, mask=mask)
    else:
        tl.store(dx + at, tl.load(dx + at, mask=mask, other=0.0) + dz, mask=mask)
    return -dz * (α * h + μ), dα - tl.sum(dz * c * h, 1), dμ - tl.sum(dz * c, 1)


@triton.jit
def _inhibit_back_kernel(
    spectrum, in_scales, kernel_scale, dh1, h1, c1, h2, alpha, mu, dx, grad, out, row_scales,
    image_scales, letter_sums, waves_back, waves_there, back, unit, groups, height, channels,
    TANH: tl.constexpr, BEGIN: tl.constexpr,
    RUN: tl.constexpr, ODD: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr,
    SECOND: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Backward of H1 = f(X − (α H2 + μ) C1): the row spectrum of what reaches H1 through its
    convolution, and `dh1`, what reaches it otherwise → the row spectrum of C1's gradient. Adds to
    `dx` (puts, with BEGIN) and to `grad`, H2's."""
    r = tl.arange(0, ROWS)
    k = r % K
    known = k < channels
    α, μ = _letter(alpha, k, known), _letter(mu, k, known)
    dα = tl.zeros((ROWS,), tl.float32)
    dμ = tl.zeros((ROWS,), tl.float32)
    for group in range(tl.program_id(0), groups, tl.num_programs(0)):
        n = group // (height // (ROWS // K))
        y = group % (height // (ROWS // K)) * (ROWS // K) + r // K
        line = lines(n, y, k, height, channels, 2 * RUN)
        line_u = row_spectra(n, y, k, height, channels, HALF)
        factor = back * tl.load(kernel_scale) * tl.load(in_scales + n)
        sp1, sq1, sp2, sq2 = _spectrum(spectrum, line_u, known, HALF, FIRST, SECOND)
        p1 = tl.zeros((ROWS, FIRST), tl.float32)
        q1 = tl.zeros((ROWS, FIRST), tl.float32)
        p2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
        q2 = tl.zeros((ROWS, SECOND if SECOND > 0 else 1), tl.float32)
        for start in range(0, RUN, STEP):
            j = start + tl.arange(0, STEP)
            at, mask = line[:, None] + j[None, :], known[:, None] & (j < RUN)[None, :]
            far, near = _pairs(
                sp1, sq1, sp2, sq2, waves_back, j, factor, ODD, FIRST, SECOND, PRECISION
            )
            far, dα, dμ = _inhibit_back(
                at, mask, far, dh1, h1, c1, h2, α, μ, dx, grad, dα, dμ, TANH, BEGIN
            )
            near, dα, dμ = _inhibit_back(
                at + RUN, mask, near, dh1, h1, c1, h2, α, μ, dx, grad, dα, dμ, TANH, BEGIN
            )
            p1, q1, p2, q2 = add_pairs(
                p1, q1, p2, q2, far, near, waves_there, j, FIRST, SECOND, FIRST + SECOND,
                PRECISION,
            )  # fmt: skip
        store_row_spectrum(
            p1, q1, p2, q2, out, line_u, known, 0, row_scales + n * height + y, image_scales + n,
            unit, HALF, FIRST, SECOND, PRECISION,
        )  # fmt: skip
    _add_sums(letter_sums, 0, dα, ROWS)
    _add_sums(letter_sums, 1, dμ, ROWS)


@triton.jit
def _fold_kernel(
    x, folded, total, height, width, right_y, left_y, right, left,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD: tl.constexpr, ODD_Y: tl.constexpr,
    UNFOLD: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """So many numbers of the folded layout from an activity (planes, height, width), or back."""
    place = tl.program_id(0).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    row = (place // (2 * RUN)).to(tl.int32)
    j = (place % (2 * RUN)).to(tl.int32)
    y = row % (2 * RUN_Y)
    known = (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
    known &= (j < width - right) | ((j >= RUN + ODD) & (j <= RUN + left))
    known &= place < total
    y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
    column = tl.where(j < RUN, right + j, left - (j - RUN))
    at = x + ((row // (2 * RUN_Y)).to(tl.int64) * height + y) * width + column
    if UNFOLD:
        tl.store(at, tl.load(folded + place, mask=known, other=0.0), mask=known)
    else:
        tl.store(folded + place, tl.load(at, mask=known, other=0.0), mask=place < total)


# -- launching -------------------------------------------------------------------------------------

# Warps and pipeline stages of a program, from measurements on an H200.
LAUNCH = {
    "gain": (4, 1),
    "inhibit": (4, 1),
    "mix": (4, 1),
    "gain_back": (4, 1),
    "mix_back": (4, 1),
    "inhibit_back": (4, 1),
}


def fold(x: Tensor, sizes: Sizes) -> Tensor:
    """Activity (N, K, H, W) → folded (N, K, H', W')."""
    out = x.new_empty(*x.shape[:2], sizes.y.pitch, sizes.x.pitch)
    _launch_fold(x.contiguous(), out, sizes, False)
    return out


def unfold(folded: Tensor, sizes: Sizes) -> Tensor:
    """Folded (N, K, H', W') → activity (N, K, H, W)."""
    out = folded.new_empty(*folded.shape[:2], sizes.y.size, sizes.x.size)
    _launch_fold(out, folded, sizes, True)
    return out


def _launch_fold(x: Tensor, folded: Tensor, sizes: Sizes, unfold: bool) -> None:
    y, x_axis = sizes.y, sizes.x
    _fold_kernel[(triton.cdiv(folded.numel(), 1024),)](
        x, folded, folded.numel(), y.size, x_axis.size, y.right, y.left, x_axis.right, x_axis.left,
        RUN=x_axis.run, RUN_Y=y.run, ODD=x_axis.odd, ODD_Y=y.odd, UNFOLD=unfold,
        CHUNK=1024, num_warps=4,
    )  # fmt: skip


class Gates(NamedTuple):
    """U1 (K, K), b_gain (K,), U2 (K, K), b_mix (K,)."""

    U1: Tensor
    b_gain: Tensor
    U2: Tensor
    b_mix: Tensor


class Letters(NamedTuple):
    """Each (K,)."""

    alpha: Tensor
    mu: Tensor
    gamma: Tensor
    kappa: Tensor
    omega: Tensor


class Step(NamedTuple):
    """What a step leaves for backward: activities, folded, and the spectra of what its two
    convolutions took."""

    h2: Tensor  # the hidden state that the step began with
    h1: Tensor
    c1: Tensor
    c2: Tensor


class _Pass:
    """One forward or backward pass: its parameters, and the launches of its kernels.

    Activities are folded. The spectra of the convolutions' inputs (two a step: of P and of H1) go
    side by side into `spectra`, if there are places for them, and so do their images' scales.
    """

    def __init__(self, plan: Plan, tanh: bool, gates: Gates, letters: Letters, eta: Tensor,
                 kernels: tuple[Kernel, Kernel], like: Tensor):  # fmt: skip
        self.plan, self.tanh = plan, tanh
        self.gates, self.letters, self.eta, self.kernels = gates, letters, eta, kernels
        self.images, self.channels, self.height = like.shape[:3]
        self.device = like.device
        self.there = plan.waves(plan.sizes.x, True, like.device)
        self.back = plan.waves(plan.sizes.x, False, like.device)

    def _options(self, name: str, **more) -> dict:
        warps, stages = LAUNCH[name]
        return dict(
            self.plan.row_options(self.channels), num_warps=warps, num_stages=stages, **more,
        )  # fmt: skip

    def new_rows(self, image_scales: Tensor) -> Rows:
        return self.plan.new_rows(self.images, self.channels, image_scales)

    def convolve(self, which: int, rows: Rows, out: Tensor | None) -> Rows:
        """By W1 (0) or W2 (1); the input's spectra go into `out`."""
        return self.plan.convolve(rows, self.kernels[which], out)[0]

    def convolve_back(self, which: int, rows: Rows, out: Tensor) -> Rows:
        """Row spectra of a convolution's gradient → those of its input's; its spectra → `out`."""
        spectrum = self.plan.columns_there(rows, out)
        return self.plan.columns_back(
            self.plan.product(self.kernels[which], spectrum, adjoint=True)
        )

    def gain(self, h2: Tensor, image_scales: Tensor) -> Rows:
        """H2 → the row spectra of P = H2 G1."""
        rows = self.new_rows(image_scales)
        _gain_kernel[(self.plan.row_programs(self.channels), self.images)](
            h2, self.gates.U1, self.gates.b_gain, *rows, self.there, self.plan.unit_x,
            self.height, self.channels, **self._options("gain"),
        )  # fmt: skip
        return rows

    def inhibit(self, rows: Rows, x, h2, c1, h1, image_scales: Tensor) -> Rows:
        """C1's row spectra → C1 (None: not kept), H1, and H1's row spectra."""
        out = self.new_rows(image_scales)
        _inhibit_kernel[(self.plan.row_programs(self.channels), self.images)](
            rows.values, rows.images, self.kernels[0].scale, x, h2, self.letters.alpha,
            self.letters.mu, c1, h1, *out, self.back, self.there, self.plan.back,
            self.plan.unit_x, self.height, self.channels,
            **self._options("inhibit", TANH=self.tanh, KEEP=c1 is not None),
        )  # fmt: skip
        return out

    def mix(self, t: int, rows: Rows, h1, h2, c2, h2_next, image_scales: Tensor | None):
        """C2's row spectra → C2 (None: not kept), the next H2, and the row spectra of the next
        step's P; after the last step there are no scales to put, and None is returned."""
        out = None if image_scales is None else self.new_rows(image_scales)
        letters, gates = self.letters, self.gates
        _mix_kernel[(self.plan.row_programs(self.channels), self.images)](
            rows.values, rows.images, self.kernels[1].scale, h1, h2,
            letters.gamma, letters.kappa, letters.omega, self.eta[t], *gates, c2, h2_next,
            *(out or (None, None, None)), self.back, self.there, self.plan.back,
            self.plan.unit_x, self.height, self.channels,
            **self._options("mix", TANH=self.tanh, KEEP=c2 is not None, LAST=out is None),
        )  # fmt: skip
        return out

    def gain_back(self, rows: Rows, h2: Tensor, grad: Tensor, sums: _Sums) -> None:
        """The row spectra of P's gradient: adds H2's to `grad`."""
        grid, groups = self._shares()
        _gain_back_kernel[grid](
            rows.values, rows.images, self.kernels[0].scale, h2, self.gates.U1,
            self.gates.b_gain, grad, sums.gates[0], self.back, self.plan.back,
            groups, self.height, self.channels, **self._options("gain_back"),
        )  # fmt: skip

    def mix_back(self, t: int, step: Step, grad, dh1, image_scales: Tensor, sums: _Sums) -> Rows:
        """`grad`, of the H2 that step t made, gives way to its share in that of the H2 before; puts
        `dh1`. Returns the row spectra of C2's gradient."""
        out = self.new_rows(image_scales)
        letters, (grid, groups) = self.letters, self._shares()
        _mix_back_kernel[grid](
            step.h2, step.h1, step.c2, letters.gamma, letters.kappa, letters.omega, self.eta[t],
            self.gates.U2, self.gates.b_mix, grad, dh1, *out, sums.gates[1], sums.letters,
            sums.eta[t], self.there, self.plan.unit_x, groups, self.height, self.channels,
            **self._options("mix_back", TANH=self.tanh),
        )  # fmt: skip
        return out

    def inhibit_back(self, rows: Rows, step: Step, dh1, dx, grad, begin: bool,
                     image_scales: Tensor, sums: _Sums) -> Rows:  # fmt: skip
        """The row spectra of H1's gradient, as far as it comes through its convolution: adds to
        `dx` and `grad`. Returns the row spectra of C1's gradient."""
        out = self.new_rows(image_scales)
        grid, groups = self._shares()
        _inhibit_back_kernel[grid](
            rows.values, rows.images, self.kernels[1].scale, dh1, step.h1, step.c1, step.h2,
            self.letters.alpha, self.letters.mu, dx, grad, *out, sums.letters,
            self.back, self.there, self.plan.back, self.plan.unit_x,
            groups, self.height, self.channels,
            **self._options("inhibit_back", TANH=self.tanh, BEGIN=begin),
        )  # fmt: skip
        return out

    def _shares(self) -> tuple[tuple[int], int]:
        """How many programs share the groups of rows, and how many of these there are."""
        groups = self.images * self.plan.row_programs(self.channels)
        return (min(PROGRAMS, groups),), groups


class _Sums:
    """The parameters' gradients, summed over pixels and steps in each program's own places."""

    def __init__(self, timesteps: int, channels: int, device: torch.device):
        self.channels, self.K = channels, spectral.block(channels)
        rows = max(self.K, spectral.ROWS)
        self.gates = torch.zeros(2, PROGRAMS, rows, rows + 1, device=device)
        self.letters = torch.zeros(PROGRAMS, 5, rows, device=device)
        self.eta = torch.zeros(timesteps, PROGRAMS, rows, device=device)

    def of_gates(self) -> list[Tensor]:
        """The gradients of U1, b_gain, U2, b_mix."""
        found = []
        for total in self.gates.sum(1):
            starts = range(0, len(total), self.K)
            blocks = [total[s : s + self.channels, s : s + self.channels] for s in starts]
            found += [sum(blocks[1:], blocks[0]), self._by_channel(total[:, -1])]
        return found

    def of_letters(self) -> tuple[Tensor, ...]:
        """The gradients of α, μ, γ, κ, ω, each (K,)."""
        return self._by_channel(self.letters.sum(0)).unbind()

    def of_eta(self) -> Tensor:
        """The gradient of η (T,)."""
        return self.eta.sum((1, 2))

    def _by_channel(self, total: Tensor) -> Tensor:
        """The sums of a program's rows (…, ROWS) → (…, K)."""
        return total.unflatten(-1, (-1, self.K)).sum(-2)[..., : self.channels]


class _CircuitFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, X, H0, W1, W2, U1, b1, U2, b2, α, μ, γ, κ, ω, η, tanh, recompute, keep):
        plan = Plan(Sizes.of(*X.shape[-2:], *W1.shape[-2:]), spectral.chosen_precision())
        kernel = plan.kernel(W1)
        kernels = (kernel, kernel if W2 is None else plan.kernel(W2))
        gates = Gates(*(p.contiguous() for p in (U1, b1, U2, b2)))
        x, h2 = fold(X, plan.sizes), fold(H0, plan.sizes)
        run = _Pass(plan, tanh, gates, Letters(α, μ, γ, κ, ω), η.contiguous(), kernels, x)
        T, keep_all = len(η), keep and not recompute
        scales = plan.image_scales(2 * T, run.images, x.device)
        spectra = plan.new_spectra(
            2 * T if keep_all else 0, run.channels, run.images, x.device
        )
        steps: list[Step] = []
        rows = run.gain(h2, scales[0])
        for t in range(T):
            own = spectra[2 * t : 2 * t + 2] if keep_all else (None, None)
            step = _new_step(h2, keep_all)
            rows = run.convolve(0, rows, own[0])
            rows = run.inhibit(rows, x, h2, step.c1, step.h1, scales[2 * t + 1])
            rows = run.convolve(1, rows, own[1])
            h2 = torch.empty_like(x)
            ahead = scales[2 * t + 2] if t + 1 < T else None
            rows = run.mix(t, rows, step.h1, step.h2, step.c2, h2, ahead)
            if keep:
                steps.append(step if keep_all else Step(step.h2, None, None, None))
        if keep:
            ctx.run, ctx.x, ctx.steps = run, x, steps
            ctx.spectra, ctx.scales, ctx.recompute = spectra, scales, recompute
            ctx.save_for_backward(W1, W2)
        return unfold(h2, plan.sizes)

    @staticmethod
    def backward(ctx, grad_out):
        refuse_double_backward()
        run, x, steps = ctx.run, ctx.x, ctx.steps
        plan, T = run.plan, len(steps)
        W1, W2 = ctx.saved_tensors
        gradient = _KernelGradients(run, T, W2 is not None, 1 if ctx.recompute else TOGETHER)
        sums = _Sums(T, run.channels, x.device)
        grad = fold(grad_out, plan.sizes)
        dx, dh1 = torch.empty_like(x), torch.empty_like(x)
        for t in reversed(range(T)):
            step, spectra, scales = _kept(ctx, t)
            rows = run.mix_back(t, step, grad, dh1, gradient.scales[2 * t + 1], sums)
            rows = run.convolve_back(1, rows, gradient.place(t, 1))
            begin = t + 1 == T
            rows = run.inhibit_back(
                rows, step, dh1, dx, grad, begin, gradient.scales[2 * t], sums
            )
            rows = run.convolve_back(0, rows, gradient.place(t, 0))
            run.gain_back(rows, step.h2, grad, sums)
            gradient.take(t, spectra, scales)
            steps[t] = None
        needs = ctx.needs_input_grad
        return (
            unfold(dx, plan.sizes) if needs[0] else None,
            unfold(grad, plan.sizes) if needs[1] else None,
            *gradient.of_kernels(W1, W2), *sums.of_gates(), *sums.of_letters(), sums.of_eta(),
            None, None, None,
        )  # fmt: skip


class _KernelGradients:
    """The kernels' gradients in the frequency domain, `together` steps at a time.

    The spectra of the convolutions' gradients are kept until their steps' turn comes, in the order
    of the inputs' spectra: two a step, of C1's and of C2's.
    """

    def __init__(self, run: _Pass, timesteps: int, separate: bool, together: int):
        self.run, self.separate, self.together = run, separate, together
        self.spectra = run.plan.new_spectra(2 * together, run.channels, run.images, run.device)
        self.scales = run.plan.image_scales(2 * timesteps, run.images, run.device)
        self.totals: list[Tensor | None] = [None, None]

    def place(self, t: int, which: int) -> Tensor:
        """Where the spectra of step t's gradient of C1 (0) or C2 (1) go."""
        return self.spectra[2 * (t % self.together) + which]

    def take(self, t: int, spectra: Tensor, scales: Tensor) -> None:
        """Join the steps from t on that wait, at the first of each `together`.

        Args:
            t: the step at hand.
            spectra, scales: of the inputs, from step t's on.
        """
        if t % self.together:
            return
        count = 2 * min(self.together, len(self.scales) // 2 - t)
        kernels = (0, 1) if self.separate else (0,)
        for which in kernels:
            stride = len(kernels)
            taken = slice(which, count)
            self.totals[which] = self.run.plan.correlate(
                Spectrum(self.spectra[taken], self.scales[2 * t :][taken]),
                Spectrum(spectra[taken], scales[taken]),
                self.totals[which], self.run.kernels[which], stride,
            )  # fmt: skip

    def of_kernels(self, W1: Tensor, W2: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The gradients of W1 and W2."""
        plan = self.run.plan
        dW1 = plan.kernel_gradient(self.totals[0], W1)
        return dW1, None if W2 is None else plan.kernel_gradient(self.totals[1], W2)


def _new_step(h2: Tensor, keep: bool) -> Step:
    c1, c2 = (torch.empty_like(h2) if keep else None for _ in range(2))
    return Step(h2, torch.empty_like(h2), c1, c2)


def _kept(ctx, t: int) -> tuple[Step, Tensor, Tensor]:
    """What step t left for backward, or what it would have left; and the spectra of its
    convolutions' inputs with their scales, the later steps' after them where they were kept."""
    if not ctx.recompute:
        return ctx.steps[t], ctx.spectra[2 * t :], ctx.scales[2 * t :]
    run, h2 = ctx.run, ctx.steps[t].h2
    step = _new_step(h2, True)
    scales = run.plan.image_scales(2, run.images, run.device)
    spectra = run.plan.new_spectra(2, run.channels, run.images, run.device)
    rows = run.convolve(0, run.gain(h2, scales[0]), spectra[0])
    rows = run.inhibit(rows, ctx.x, h2, step.c1, step.h1, scales[1])
    rows = run.convolve(1, rows, spectra[1])
    run.mix(t, rows, step.h1, h2, step.c2, torch.empty_like(h2), None)
    return step, spectra, scales

def circuit(
    X: Tensor,
    H0: Tensor,
    kernels: tuple[Tensor, Tensor | None],
    gates: tuple[Tensor, Tensor, Tensor, Tensor],
    letters: list[Tensor],
    eta: Tensor,
    *,
    tanh: bool,
    recompute: bool = False,
) -> Tensor:
    """The hidden state after len(eta) steps.

    Args:
        X: feedforward drive (N, K, H, W), float32 on a CUDA device.
        H0: the hidden state before the first step, likewise.
        kernels: W1 (K, K, h, w) and W2, None where W1 serves for both.
        gates: U1 (K, K), b_gain (K,), U2 (K, K), b_mix (K,).
        letters: α, μ, γ, κ, ω, each (K,); constants as well.
        eta: η (T,), ones without adaptation.
        tanh: whether f is tanh; relu otherwise.
        recompute: keep only H2 of each step and compute the rest again in backward: a fifth of the
            memory for about a third more time.

    Precision is that of PyTorch's own convolutions on the device (TF32 where they may use it).
    Raises RuntimeError from a double backward.
    """
    keep = torch.is_grad_enabled()  # within the function it is off
    return _CircuitFunction.apply(X, H0, *kernels, *gates, *letters, eta, tanh, recompute, keep)
