"""The Triton kernels of spectral.py, which describes their layouts."""

import triton
import triton.language as tl

# -- what kernels share ----------------------------------------------------------------------------


@triton.jit
def rounded(x):
    """To the nearest TF32 value. (The matrix units would cut the digits off: a bias.)"""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def split(x, PRECISION: tl.constexpr):
    """x as a product with :func:`add_product` takes it, and what that leaves out."""
    if PRECISION == "half":
        return x.to(tl.float16), x
    else:
        high = rounded(x)
        return high, x - high


@triton.jit
def add_product(high, low, m_high, m_low, sum, PRECISION: tl.constexpr):
    """sum + (high + low) @ (m_high + m_low): three products of TF32; in half precision, one of what
    is high."""
    if PRECISION == "half":
        return tl.dot(high, m_high, sum)
    else:
        sum = tl.dot(low, m_high, sum, input_precision="tf32")
        sum = tl.dot(high, m_low, sum, input_precision="tf32")
        return tl.dot(high, m_high, sum, input_precision="tf32")


@triton.jit
def power_above(x):
    """The power of two above x ≥ 0 (2⁻¹²⁶ for 0)."""
    # Of a float32, bits 23 to 30 are the exponent: kept, and one more. 0x7D000000 is 2¹²³: NaN,
    # infinity and what is near them count as that, so that the result stays finite.
    bits = tl.minimum(x.to(tl.int32, bitcast=True), 0x7D000000)
    return ((bits & 0x7F800000) + 0x00800000).to(tl.float32, bitcast=True)


@triton.jit
def image_scale(largest, n, mask, PRECISION: tl.constexpr):
    """What images n were divided by: a power of two above their `largest` pixels."""
    if PRECISION == "half":
        return power_above(tl.load(largest + n, mask=mask, other=1.0))
    else:
        return tl.where(mask, 1.0, 1.0)


# -- transforms ------------------------------------------------------------------------------------
#
# A transform's matrix is square, HALF × HALF, larger than a power of two as a rule: a program
# covers FIRST + SECOND of its columns, two powers of two side by side (SECOND 0: only one).


@triton.jit
def _waves(waves, column, depth, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """A block (depth, column) of cosines and sines: high, high, low, low."""
    at = waves + column[:, None] * HALF + depth[None, :]
    mask = (column < HALF)[:, None] & (depth < HALF)[None, :]
    size: tl.constexpr = HALF * HALF
    c = tl.trans(tl.load(at, mask=mask, other=0.0))
    s = tl.trans(tl.load(at + size, mask=mask, other=0.0))
    if PRECISION == "half":
        return c, s, c, s
    else:
        c_low = tl.trans(tl.load(at + 2 * size, mask=mask, other=0.0))
        s_low = tl.trans(tl.load(at + 3 * size, mask=mask, other=0.0))
        return c, s, c_low, s_low


@triton.jit
def _add_waves(
    even, odd, waves, column, depth, p, q, HALF: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """p + even @ cosines and q + odd @ sines of these (depth, column)."""
    even, even_low = split(even, PRECISION)
    odd, odd_low = split(odd, PRECISION)
    c, s, c_low, s_low = _waves(waves, column, depth, HALF, PRECISION)
    p = add_product(even, even_low, c, c_low, p, PRECISION)
    return p, add_product(odd, odd_low, s, s_low, q, PRECISION)


@triton.jit
def _line(
    r, inside, rows, planes, images, channels, batch, height, width, right_y, left_y,
    RUN: tl.constexpr, RUN_Y: tl.constexpr, ODD_Y: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """Where rows of pixels begin, and which of them there are.

    FOLDED: rows of 2 · RUN numbers, (batch, pq, N, K) of them taken in the order (pq, K, N).
    Otherwise an activity (planes, height, width), whose rows are taken in the order of the folded
    column axis of 2 · RUN_Y.
    """
    if FOLDED:
        plane = r % planes
        row = r - plane + plane % images * channels + plane // images
        return (batch * rows + row) * (2 * RUN), inside
    else:
        y = r % (2 * RUN_Y)
        inside &= (y < height - right_y) | ((y >= RUN_Y + ODD_Y) & (y <= RUN_Y + left_y))
        y = tl.where(y < RUN_Y, right_y + y, left_y - (y - RUN_Y))
        return ((r // (2 * RUN_Y)).to(tl.int64) * height + y) * width, inside


@triton.jit
def _put_frequencies(to, r, rows, u, p, q, HALF: tl.constexpr):
    at = to + r[:, None] + u[None, :].to(tl.int64) * (2 * rows)
    mask = (r < rows)[:, None] & (u < HALF)[None, :]
    tl.store(at, p.to(to.dtype.element_ty), mask=mask)
    tl.store(at + rows, q.to(to.dtype.element_ty), mask=mask)


@triton.jit
def _put_pixels(
    to, j, far, near, inside, width, right, left,
    RUN: tl.constexpr, ODD: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """The pairs j of rows at `to`, right and left."""
    kind: tl.constexpr = to.dtype.element_ty
    if FOLDED:
        if ODD:
            near = tl.where((j == 0)[None, :], 0.0, near)
        keep = inside[:, None] & (j < RUN)[None, :]
        tl.store(to[:, None] + j[None, :], far.to(kind), mask=keep)
        tl.store(to[:, None] + RUN + j[None, :], near.to(kind), mask=keep)
    else:
        keep = inside[:, None] & (j < width - right)[None, :]
        tl.store(to[:, None] + (right + j)[None, :], far, mask=keep)
        keep = inside[:, None] & ((j >= ODD) & (j <= left))[None, :]
        tl.store(to[:, None] + (left - j)[None, :], near, mask=keep)


@triton.jit
def there_kernel(
    x, out, waves, largest, unit, per_image, rows, planes, images, channels, height, width,
    right_y, left_y, right, left,
    HALF: tl.constexpr, RUN: tl.constexpr, RUN_Y: tl.constexpr, FOLDED: tl.constexpr,
    ODD: tl.constexpr, ODD_Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of pixels (see _line) → (frequency, pq, rows), for each of a batch. They are multiplied
    by `unit` and, where the `largest` pixels of their images, of so many rows each, are given,
    divided by a power of two above those."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    batch = tl.program_id(1).to(tl.int64)
    u1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    p1 = tl.zeros((ROWS, FIRST), tl.float32)
    q1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        u2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        p2 = tl.zeros((ROWS, SECOND), tl.float32)
        q2 = tl.zeros((ROWS, SECOND), tl.float32)
    line, inside = _line(
        r, inside, rows, planes, images, channels, batch, height, width, right_y, left_y,
        RUN, RUN_Y, ODD_Y, FOLDED,
    )  # fmt: skip
    at = x + line[:, None]
    factor = unit
    if PRECISION == "half" and largest is not None:
        factor = (unit / image_scale(largest, r // per_image, inside, PRECISION))[:, None]
    for start in range(0, HALF, DEPTH):
        j = start + tl.arange(0, DEPTH)
        if FOLDED:
            mask = inside[:, None] & (j < RUN)[None, :]
            far = tl.load(at + j[None, :], mask=mask, other=0.0)
            near = tl.load(at + RUN + j[None, :], mask=mask, other=0.0)
        else:
            mask = inside[:, None] & (j < width - right)[None, :]
            far = tl.load(at + (right + j)[None, :], mask=mask, other=0.0)
            mask = inside[:, None] & ((j >= ODD) & (j <= left))[None, :]
            near = tl.load(at + (left - j)[None, :], mask=mask, other=0.0)
        far, near = far.to(tl.float32), near.to(tl.float32)
        even, odd = (far + near) * factor, (far - near) * factor
        p1, q1 = _add_waves(even, odd, waves, u1, j, p1, q1, HALF, PRECISION)
        if SECOND > 0:
            p2, q2 = _add_waves(even, odd, waves, u2, j, p2, q2, HALF, PRECISION)
    to = out + batch * (2 * HALF) * rows
    _put_frequencies(to, r, rows, u1, p1, q1, HALF)
    if SECOND > 0:
        _put_frequencies(to, r, rows, u2, p2, q2, HALF)


@triton.jit
def back_kernel(
    spectrum, x, waves, largest, kernel_scale, unit, per_image, rows, planes, images, channels,
    height, width, right_y, left_y, right, left,
    HALF: tl.constexpr, RUN: tl.constexpr, RUN_Y: tl.constexpr, FOLDED: tl.constexpr,
    ODD: tl.constexpr, ODD_Y: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(frequency, pq, rows) → rows of pixels (see _line), for each of a batch. They are multiplied
    by `unit` and, if given, by the kernel's scale and their images'."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = r < rows
    batch = tl.program_id(1).to(tl.int64)
    factor = unit
    if largest is not None:
        scale = image_scale(largest, r // per_image, inside, PRECISION)
        factor = (unit * tl.load(kernel_scale) * scale)[:, None]
    j1 = tl.program_id(2) * (FIRST + SECOND) + tl.arange(0, FIRST)
    even1 = tl.zeros((ROWS, FIRST), tl.float32)
    odd1 = tl.zeros((ROWS, FIRST), tl.float32)
    if SECOND > 0:
        j2 = tl.program_id(2) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        even2 = tl.zeros((ROWS, SECOND), tl.float32)
        odd2 = tl.zeros((ROWS, SECOND), tl.float32)
    at = spectrum + batch * (2 * HALF) * rows + r[:, None]
    for start in range(0, HALF, DEPTH):
        u = start + tl.arange(0, DEPTH)
        mask = (r < rows)[:, None] & (u < HALF)[None, :]
        here = at + u[None, :].to(tl.int64) * (2 * rows)
        p = tl.load(here, mask=mask, other=0.0)
        q = tl.load(here + rows, mask=mask, other=0.0)
        even1, odd1 = _add_waves(p, q, waves, j1, u, even1, odd1, HALF, PRECISION)
        if SECOND > 0:
            even2, odd2 = _add_waves(p, q, waves, j2, u, even2, odd2, HALF, PRECISION)
    even1, odd1 = even1 * factor, odd1 * factor
    far1, near1 = even1 + odd1, even1 - odd1
    if SECOND > 0:
        even2, odd2 = even2 * factor, odd2 * factor
        far2, near2 = even2 + odd2, even2 - odd2
    line, inside = _line(
        r, inside, rows, planes, images, channels, batch, height, width, right_y, left_y,
        RUN, RUN_Y, ODD_Y, FOLDED,
    )  # fmt: skip
    _put_pixels(x + line, j1, far1, near1, inside, width, right, left, RUN, ODD, FOLDED)
    if SECOND > 0:
        _put_pixels(x + line, j2, far2, near2, inside, width, right, left, RUN, ODD, FOLDED)


# -- columns in half precision ---------------------------------------------------------------------
#
# The same transforms as products with one matrix: twice the work for the matrix units, which idle,
# but numbers go from memory to them as they are. A program keeps the matrix in shared memory and
# takes a tile of rows after the other; those of the next ones are on their way meanwhile.


@triton.jit
def _row_of(r, images, channels):
    """Where row r of the order (pq, K, N) stands in (pq, N, K)."""
    plane = r % (images * channels)
    return r - plane + plane % images * channels + plane // images


@triton.jit
def _matrix(matrix, A1: tl.constexpr, A2: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr):
    """A matrix (A1 + A2, B1 + B2) in four blocks, and where their rows and columns stand."""
    a1, a2 = tl.arange(0, A1), A1 + tl.arange(0, A2)
    b1, b2 = tl.arange(0, B1), B1 + tl.arange(0, B2)
    above, below = matrix + a1[:, None] * (B1 + B2), matrix + a2[:, None] * (B1 + B2)
    m11, m12 = tl.load(above + b1[None, :]), tl.load(above + b2[None, :])
    m21, m22 = tl.load(below + b1[None, :]), tl.load(below + b2[None, :])
    return m11, m12, m21, m22, a1, a2, b1, b2


@triton.jit
def _tile(tile, count, ROWS: tl.constexpr):
    """A tile's row frequency, its rows, and which of them there are."""
    per_u = tl.cdiv(count, ROWS)
    r = tile % per_u * ROWS + tl.arange(0, ROWS)
    return (tile // per_u).to(tl.int64), r, (r < count)[:, None]


@triton.jit
def columns_there_kernel(
    x, out, matrix, count, images, channels, tiles,
    PITCH: tl.constexpr, LINES: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    F1: tl.constexpr, F2: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Row spectra (u, pq, N, K, PITCH) → spectra (u, LINES, pq, K, N), `count` of pq, K, N."""
    m11, m12, m21, m22, j1, j2, u1, u2 = _matrix(matrix, P1, P2, F1, F2)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        u, r, inside = _tile(tile, count, ROWS)
        at = x + ((u * count + _row_of(r, images, channels)) * PITCH)[:, None]
        x1 = tl.load(at + j1[None, :], mask=inside & (j1 < PITCH)[None, :], other=0.0)
        x2 = tl.load(at + j2[None, :], mask=inside & (j2 < PITCH)[None, :], other=0.0)
        to = out + u * LINES * count + r[:, None]
        y = tl.dot(x2, m21, tl.dot(x1, m11)).to(tl.float16)
        mask = inside & (u1 < LINES)[None, :]
        tl.store(to + u1[None, :].to(tl.int64) * count, y, mask=mask)
        y = tl.dot(x2, m22, tl.dot(x1, m12)).to(tl.float16)
        mask = inside & (u2 < LINES)[None, :]
        tl.store(to + u2[None, :].to(tl.int64) * count, y, mask=mask)


@triton.jit
def columns_back_kernel(
    spectrum, x, matrix, unit, count, images, channels, tiles,
    PITCH: tl.constexpr, LINES: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    F1: tl.constexpr, F2: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Spectra (u, LINES, pq, K, N) → row spectra (u, pq, N, K, PITCH), times `unit`."""
    m11, m12, m21, m22, u1, u2, j1, j2 = _matrix(matrix, F1, F2, P1, P2)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        u, r, inside = _tile(tile, count, ROWS)
        at = spectrum + u * LINES * count + r[:, None]
        mask = inside & (u1 < LINES)[None, :]
        y1 = tl.load(at + u1[None, :].to(tl.int64) * count, mask=mask, other=0.0)
        mask = inside & (u2 < LINES)[None, :]
        y2 = tl.load(at + u2[None, :].to(tl.int64) * count, mask=mask, other=0.0)
        to = x + ((u * count + _row_of(r, images, channels)) * PITCH)[:, None]
        out = (tl.dot(y2, m21, tl.dot(y1, m11)) * unit).to(tl.float16)
        tl.store(to + j1[None, :], out, mask=inside & (j1 < PITCH)[None, :])
        out = (tl.dot(y2, m22, tl.dot(y1, m12)) * unit).to(tl.float16)
        tl.store(to + j2[None, :], out, mask=inside & (j2 < PITCH)[None, :])


# -- products at each frequency --------------------------------------------------------------------


@triton.jit
def _join(spectrum, at, size, mask):
    """The complex values at (u, v) and (u, −v) from the four real numbers of a pair (see
    docs/kernels.md)."""
    pp = tl.load(spectrum + at, mask=mask, other=0.0).to(tl.float32)
    qp = tl.load(spectrum + at + size, mask=mask, other=0.0).to(tl.float32)
    pq = tl.load(spectrum + at + 2 * size, mask=mask, other=0.0).to(tl.float32)
    qq = tl.load(spectrum + at + 3 * size, mask=mask, other=0.0).to(tl.float32)
    return pp - qq, -qp - pq, pp + qq, pq - qp


@triton.jit
def _complex_product(a_r, a_i, b_r, b_i, sum_r, sum_i, PRECISION: tl.constexpr):
    """sum + a @ b."""
    ar, ar_low = split(a_r, PRECISION)
    ai, ai_low = split(a_i, PRECISION)
    br, br_low = split(b_r, PRECISION)
    bi, bi_low = split(b_i, PRECISION)
    sum_r = add_product(ar, ar_low, br, br_low, sum_r, PRECISION)
    sum_i = add_product(ar, ar_low, bi, bi_low, sum_i, PRECISION)
    sum_r = add_product(-ai, -ai_low, bi, bi_low, sum_r, PRECISION)
    sum_i = add_product(ai, ai_low, br, br_low, sum_i, PRECISION)
    return sum_r, sum_i


@triton.jit
def _kernel_times(
    kernel, at, size, mask, x_r, x_i, CONJUGATE: tl.constexpr, PRECISION: tl.constexpr
):
    re = tl.load(kernel + at, mask=mask, other=0.0)
    im = tl.load(kernel + at + size, mask=mask, other=0.0)
    if CONJUGATE:
        im = -im
    zero = tl.zeros((re.shape[0], x_r.shape[1]), tl.float32)
    return _complex_product(re, im, x_r, x_i, zero, zero, PRECISION)


@triton.jit
def product_kernel(
    kernel, spectrum, out, images, inputs, outputs, stride_out, stride_in,
    CONJUGATE: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, n] = Σ_i kernel[o, i] spectrum[i, n] at one pair of frequencies, with the kernel's
    conjugate if CONJUGATE. The kernel's strides make it transposed or not."""
    blocks = tl.cdiv(images, IMAGES)
    f = tl.program_id(0) // blocks
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    n = tl.program_id(0) % blocks * IMAGES + tl.arange(0, IMAGES)
    size = inputs * outputs
    w = f * 4 * size + o[:, None] * stride_out + i[None, :] * stride_in
    w_mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    x = f * 4 * inputs * images + i[:, None] * images + n[None, :]
    x_mask = (i < inputs)[:, None] & (n < images)[None, :]
    plus_r, plus_i, minus_r, minus_i = _join(spectrum, x, inputs * images, x_mask)
    yp_r, yp_i = _kernel_times(kernel, w, size, w_mask, plus_r, plus_i, CONJUGATE, PRECISION)
    w += 2 * size
    ym_r, ym_i = _kernel_times(kernel, w, size, w_mask, minus_r, minus_i, CONJUGATE, PRECISION)
    step = outputs * images
    y = out + f * 4 * step + o[:, None] * images + n[None, :]
    y_mask = (o < outputs)[:, None] & (n < images)[None, :]
    kind: tl.constexpr = out.dtype.element_ty
    tl.store(y, (yp_r + ym_r).to(kind), mask=y_mask)
    tl.store(y + step, (-yp_i - ym_i).to(kind), mask=y_mask)
    tl.store(y + 2 * step, (ym_i - yp_i).to(kind), mask=y_mask)
    tl.store(y + 3 * step, (ym_r - yp_r).to(kind), mask=y_mask)


@triton.jit
def correlate_kernel(
    gradient, spectrum, gradient_largest, spectrum_largest, out, images, inputs, outputs,
    pairs, gradient_step, spectrum_step, scale_step,
    ADD: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, IMAGES: tl.constexpr,
    ALL_IMAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[o, i] (+)= Σ_pairs Σ_n conj(gradient[o, n]) spectrum[i, n] at one pair of frequencies.
    The pairs lie so many numbers apart."""
    f = tl.program_id(0)
    o = tl.arange(0, OUT)
    i = tl.arange(0, IN)
    largest = 1e-37
    every = tl.arange(0, ALL_IMAGES)
    for pair in range(0, pairs):
        at = pair * scale_step + every
        scale = image_scale(gradient_largest, at, every < images, PRECISION)
        scale *= image_scale(spectrum_largest, at, every < images, PRECISION)
        largest = tl.maximum(largest, tl.max(tl.where(every < images, scale, 0.0), 0))
    plus_r = tl.zeros((OUT, IN), tl.float32)
    plus_i = tl.zeros((OUT, IN), tl.float32)
    minus_r = tl.zeros((OUT, IN), tl.float32)
    minus_i = tl.zeros((OUT, IN), tl.float32)
    for _ in range(0, pairs):
        for start in range(0, images, IMAGES):
            n = start + tl.arange(0, IMAGES)
            inside = n < images
            weight = image_scale(gradient_largest, n, inside, PRECISION)
            weight *= image_scale(spectrum_largest, n, inside, PRECISION)
            weight = (weight / largest)[None, :]
            g = f * 4 * outputs * images + o[:, None] * images + n[None, :]
            mask = (o < outputs)[:, None] & inside[None, :]
            gp_r, gp_i, gm_r, gm_i = _join(gradient, g, outputs * images, mask)
            gp_r, gp_i, gm_r, gm_i = gp_r * weight, gp_i * weight, gm_r * weight, gm_i * weight
            x = f * 4 * inputs * images + i[None, :] * images + n[:, None]
            mask = (i < inputs)[None, :] & inside[:, None]
            xp_r, xp_i, xm_r, xm_i = _join(spectrum, x, inputs * images, mask)
            plus_r, plus_i = _complex_product(gp_r, -gp_i, xp_r, xp_i, plus_r, plus_i, PRECISION)
            minus_r, minus_i = _complex_product(
                gm_r, -gm_i, xm_r, xm_i, minus_r, minus_i, PRECISION
            )
        gradient += gradient_step
        spectrum += spectrum_step
        gradient_largest += scale_step
        spectrum_largest += scale_step
    size = inputs * outputs
    a = out + f * 4 * size + o[:, None] * inputs + i[None, :]
    mask = (o < outputs)[:, None] & (i < inputs)[None, :]
    _put(a, plus_r * largest, mask, ADD)
    _put(a + size, plus_i * largest, mask, ADD)
    _put(a + 2 * size, minus_r * largest, mask, ADD)
    _put(a + 3 * size, minus_i * largest, mask, ADD)


@triton.jit
def _put(at, x, mask, ADD: tl.constexpr):
    if ADD:
        x += tl.load(at, mask=mask, other=0.0)
    tl.store(at, x, mask=mask)
