// At each pair of frequencies in half precision: the product with the kernel's spectrum, and the sum of
// products that is its gradient (docs/kernels.md). Four parts pp, qp, pq, qq stand for the complex numbers at
// (u, v) and (u, -v); plus_i is that of the first without its sign.
//
// A warp is a block. It takes IMAGES images of a pair of frequencies after the other, and while it computes, what
// it takes next is on its way to shared memory.
//
// Macros: OUT, IN channels of the kernel; IMAGES, 16 or 32.
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < n; i++)
#define SIXTEENS(n) (((n) + 15) / 16)
#define EIGHTS (IMAGES / 8)

// Where eight images of a row stand: such that what a warp reads at once falls on all banks.
__device__ __forceinline__ half* place(half* x, unsigned row, unsigned eight) {
  return x + row * IMAGES + (eight ^ (row * EIGHTS / 8 & EIGHTS - 1)) * 8;
}

// The complex numbers of 2 neighbours from their four parts, times `weight`.
__device__ __forceinline__ void join(const unsigned* parts, int step, unsigned* plus_r, unsigned* plus_i, unsigned* minus_r, unsigned* minus_i) {
  unsigned pp = parts[0], qp = parts[step], pq = parts[2 * step], qq = parts[3 * step];
  *plus_r = add_pair(pp, negative_pair(qq)), *plus_i = add_pair(qp, pq);
  *minus_r = add_pair(pp, qq), *minus_i = add_pair(pq, negative_pair(qp));
}

// Begins to fetch the four parts of `channels` rows, each part to its own PART rows.
template <int channels, int PART> __device__ __forceinline__ void fetch(half* to, const half* from, unsigned images, unsigned lane) {
  _Pragma("unroll 4") for (unsigned c = lane; c < 4 * EIGHTS * channels; c += 32) {
    unsigned row = c / EIGHTS, eight = c % EIGHTS;
    copy_later(place(to, row / channels * PART + row % channels, eight), from + row * images + eight * 8);
  }
}

// Of `unit`: which frequencies, and its first image.
struct Unit { unsigned f, n; };
__device__ __forceinline__ Unit at(unsigned unit, unsigned images) {
  return {unit / (images / IMAGES), unit % (images / IMAGES) * IMAGES};
}

template <bool ADJOINT> struct Product {
  static constexpr int FROM = ADJOINT ? OUT : IN, TO = ADJOINT ? IN : OUT, DEEP = SIXTEENS(FROM), HIGH = SIXTEENS(TO);
  static constexpr int PART = 16 * (DEEP > HIGH ? DEEP : HIGH), WEIGHTS = 3 * IN * OUT + 16 * SIXTEENS(OUT) * IN + 16;
  half x[2][4 * PART * IMAGES], w[2][(WEIGHTS + 7) / 8 * 8];

  __device__ __forceinline__ void begin(int stage, const half* kernel, const half* spectrum, Unit u, unsigned images, unsigned lane) {
    fetch<FROM, PART>(x[stage], spectrum + (size_t)u.f * 4 * FROM * images + u.n, images, lane);
    for (unsigned c = lane; c < IN * OUT; c += 32) copy_eight_later(w[stage] + 4 * c, kernel + ((size_t)u.f * IN * OUT + c) * 4);
    close_copies();
  }

  // Row m of the left factor, columns k and k + 1.
  __device__ __forceinline__ static unsigned weight(const half* w, unsigned m, unsigned k) {
    unsigned low = ADJOINT ? w[k * IN + m] : w[m * IN + k], high = ADJOINT ? w[(k + 1) * IN + m] : w[m * IN + k + 1];
    return low | high << 16;
  }

  // out[o, n] = sum over i of kernel[o, i] spectrum[i, n], or by the conjugate transpose.
  __device__ __forceinline__ void run(const half* kernel, const half* spectrum, half* out, unsigned units, unsigned images) {
    unsigned lane = threadIdx.x, g = lane / 4, q = lane % 4, stage = 0;
    for (unsigned i = lane; i < sizeof(*this) / 4; i += 32) ((unsigned*)this)[i] = 0;  // rows beyond the last channel
    __syncwarp();
    if (blockIdx.x < units) begin(0, kernel, spectrum, at(blockIdx.x, images), images, lane);
    for (unsigned unit = blockIdx.x; unit < units; unit += gridDim.x) {
      if (unit + gridDim.x < units) begin(1 - stage, kernel, spectrum, at(unit + gridDim.x, images), images, lane);
      else close_copies();
      earlier_copies_arrive();
      __syncwarp();
      half* own = x[stage];
      unsigned plus_r[DEEP][EIGHTS][2], plus_i[DEEP][EIGHTS][2], minus_r[DEEP][EIGHTS][2], minus_i[DEEP][EIGHTS][2];
      EACH(k, DEEP) EACH(pair, EIGHTS / 2) {
        unsigned parts[4][4];
        EACH(part, 4) load_transposed(parts[part], place(own, part * PART + 16 * k + lane % 16, 2 * pair + lane / 16));
        EACH(e, 4) {
          int t = 2 * pair + e / 2, h = e % 2;
          join(&parts[0][e], 4, &plus_r[k][t][h], &plus_i[k][t][h], &minus_r[k][t][h], &minus_i[k][t][h]);
        }
      }
      __syncwarp();  // from here on it is the place of what comes out
      EACH(m, HIGH) {
        float yp_r[EIGHTS][4] = {}, yp_i[EIGHTS][4] = {}, ym_r[EIGHTS][4] = {}, ym_i[EIGHTS][4] = {};  // yp_i without its sign, too
        EACH(k, DEEP) {
          unsigned re[2][4], im[2][4], minus[2][4];  // of v and of -v
          EACH(s, 2) EACH(e, 4) {
            unsigned row = 16 * m + g + e % 2 * 8, column = 16 * k + 2 * q + e / 2 * 8;
            const half* of = w[stage] + 2 * s * IN * OUT;
            re[s][e] = weight(of, row, column), im[s][e] = weight(of + IN * OUT, row, column);
            if (ADJOINT) im[s][e] = negative_pair(im[s][e]);
            minus[s][e] = negative_pair(im[s][e]);
          }
          EACH(t, EIGHTS) {
            mma_half(yp_r[t], re[0], plus_r[k][t][0], plus_r[k][t][1]);
            mma_half(yp_i[t], re[0], plus_i[k][t][0], plus_i[k][t][1]);
            mma_half(ym_r[t], re[1], minus_r[k][t][0], minus_r[k][t][1]);
            mma_half(ym_i[t], re[1], minus_i[k][t][0], minus_i[k][t][1]);
            mma_half(yp_r[t], im[0], plus_i[k][t][0], plus_i[k][t][1]);
            mma_half(yp_i[t], minus[0], plus_r[k][t][0], plus_r[k][t][1]);
            mma_half(ym_r[t], minus[1], minus_i[k][t][0], minus_i[k][t][1]);
            mma_half(ym_i[t], im[1], minus_r[k][t][0], minus_r[k][t][1]);
          }
        }
        EACH(t, EIGHTS) EACH(h, 2) {
          unsigned row = 16 * m + g + 8 * h;
          const float *pr = yp_r[t] + 2 * h, *pi = yp_i[t] + 2 * h, *mr = ym_r[t] + 2 * h, *mi = ym_i[t] + 2 * h;
          if (row < TO) {
            ((unsigned*)place(own, row, t))[q] = pack(pr[0] + mr[0], pr[1] + mr[1]);
            ((unsigned*)place(own, PART + row, t))[q] = pack(pi[0] - mi[0], pi[1] - mi[1]);
            ((unsigned*)place(own, 2 * PART + row, t))[q] = pack(mi[0] + pi[0], mi[1] + pi[1]);
            ((unsigned*)place(own, 3 * PART + row, t))[q] = pack(mr[0] - pr[0], mr[1] - pr[1]);
          }
        }
      }
      __syncwarp();
      Unit u = at(unit, images);
      half* to = out + (size_t)u.f * 4 * TO * images + u.n;
      for (unsigned c = lane; c < 4 * EIGHTS * TO; c += 32) {
        unsigned row = c / EIGHTS, eight = c % EIGHTS;
        store16(to + row * images + eight * 8, *(const uint4*)place(own, row / TO * PART + row % TO, eight));
      }
      if (TO > FROM) {  // rows beyond the last channel are zeros again
        __syncwarp();
        for (unsigned c = lane; c < 4 * PART * EIGHTS; c += 32)
          if (c / EIGHTS % PART >= FROM) *(uint4*)place(own, c / EIGHTS, c % EIGHTS) = make_uint4(0, 0, 0, 0);
      }
      __syncwarp();
      stage = 1 - stage;
    }
  }
};

extern "C" __global__ void __launch_bounds__(32) product(const half* kernel, const half* spectrum, half* out, unsigned units, unsigned images) {
  __align__(16) __shared__ Product<false> shared;
  shared.run(kernel, spectrum, out, units, images);
}

extern "C" __global__ void __launch_bounds__(32) product_adjoint(const half* kernel, const half* spectrum, half* out, unsigned units, unsigned images) {
  __align__(16) __shared__ Product<true> shared;
  shared.run(kernel, spectrum, out, units, images);
}

// Tensors of the same shape, so many numbers apart; images' largest pixels, `scale_step` apart.
struct Pairs {
  const half *gradient, *spectrum;
  long long gradient_step, spectrum_step;
  unsigned images, inner;
  __device__ __forceinline__ void begin(half* g, half* s, unsigned unit, unsigned lane) const {
    unsigned f = blockIdx.x + unit / inner * gridDim.x;
    Unit u = at(unit % inner, images);
    fetch<OUT, OUT>(g, gradient + u.f * gradient_step + (size_t)f * 4 * OUT * images + u.n, images, lane);
    fetch<IN, IN>(s, spectrum + u.f * spectrum_step + (size_t)f * 4 * IN * images + u.n, images, lane);
    close_copies();
  }
};

// What an image's numbers were divided by (power_above in spectral.py).
__device__ __forceinline__ float power_above(float x) {
  return __int_as_float((min(__float_as_int(x), 0x7D000000) & 0x7F800000) + 0x00800000);
}

// out (f, 4, O, I) = (or with `add` +=) the sum over pairs and images of conj(gradient) spectrum.
extern "C" __global__ void __launch_bounds__(32) correlate(const half* gradient, const half* spectrum, const float* gradient_largest, const float* spectrum_largest, float* out, int add, unsigned frequencies, unsigned images, unsigned pairs, long long gradient_step, long long spectrum_step, unsigned scale_step) {
  __align__(16) __shared__ half gs[2][(3 * OUT + 32) * IMAGES];
  __align__(16) __shared__ half ss[2][(3 * IN + 32) * IMAGES];
  unsigned lane = threadIdx.x, g = lane / 4, q = lane % 4, stage = 0;
  auto scale = [&](unsigned n) { return power_above(gradient_largest[n]) * power_above(spectrum_largest[n]); };
  float largest = 1e-37f;
  for (unsigned i = lane; i < pairs * images; i += 32) largest = max(largest, scale(i / images * scale_step + i % images));
  for (int by = 1; by < 32; by *= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, by));
  unsigned inner = pairs * (images / IMAGES), all = (frequencies + gridDim.x - 1 - blockIdx.x) / gridDim.x * inner;
  Pairs taken{gradient, spectrum, gradient_step, spectrum_step, images, inner};
  if (all) taken.begin(gs[0], ss[0], 0, lane);
  float sum[4][2][4][4] = {};  // plus and minus, real and imaginary; rows o, columns i
  for (unsigned unit = 0; unit < all; unit++) {
    if (unit + 1 < all) taken.begin(gs[1 - stage], ss[1 - stage], unit + 1, lane);
    else close_copies();
    earlier_copies_arrive();
    __syncwarp();
    Unit now = at(unit % inner, images);
#pragma unroll 1
    for (int k = 0; k < IMAGES / 16; k++) {
      unsigned b[4][4][2], weight[2];
      EACH(h, 2) {
        unsigned n = now.f * scale_step + now.n + 16 * k + 8 * h + 2 * q;
        weight[h] = pack(scale(n) / largest, scale(n + 1) / largest);
      }
      EACH(pair, 2) {
        unsigned parts[4][4];
        EACH(part, 4) load_rows(parts[part], place(ss[stage], part * IN + 16 * pair + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
        EACH(e, 4) {
          int t = 2 * pair + e / 2, h = e % 2;
          join(&parts[0][e], 4, &b[0][t][h], &b[1][t][h], &b[2][t][h], &b[3][t][h]);
        }
      }
      EACH(m, 2) {
        unsigned parts[4][4], a[4][4], minus[2][4];
        EACH(part, 4) load_rows(parts[part], place(gs[stage], part * OUT + 16 * m + lane / 8 % 2 * 8 + lane % 8, 2 * k + lane / 16));
        EACH(e, 4) {
          join(&parts[0][e], 4, &a[0][e], &a[1][e], &a[2][e], &a[3][e]);
          EACH(s, 4) a[s][e] = times_pair(a[s][e], weight[e / 2]);
          minus[0][e] = negative_pair(a[0][e]), minus[1][e] = negative_pair(a[3][e]);
        }
        EACH(t, 4) {
          mma_half(sum[0][m][t], a[0], b[0][t][0], b[0][t][1]);
          mma_half(sum[1][m][t], a[1], b[0][t][0], b[0][t][1]);
          mma_half(sum[2][m][t], a[2], b[2][t][0], b[2][t][1]);
          mma_half(sum[3][m][t], a[2], b[3][t][0], b[3][t][1]);
          mma_half(sum[0][m][t], a[1], b[1][t][0], b[1][t][1]);
          mma_half(sum[1][m][t], minus[0], b[1][t][0], b[1][t][1]);
          mma_half(sum[2][m][t], a[3], b[3][t][0], b[3][t][1]);
          mma_half(sum[3][m][t], minus[1], b[2][t][0], b[2][t][1]);
        }
      }
    }
    if (unit % inner == inner - 1) {
      unsigned f = blockIdx.x + unit / inner * gridDim.x;
      EACH(s, 4) EACH(m, 2) EACH(t, 4) EACH(e, 4) {
        unsigned o = 16 * m + g + e / 2 * 8, i = 8 * t + 2 * q + e % 2;
        float *to = out + ((size_t)(4 * f + s) * OUT + o) * IN + i, x = sum[s][m][t][e] * largest;
        if (o < OUT && i < IN && add) atomicAdd(to, x);  // nobody else does: it need not wait for what was there
        else if (o < OUT && i < IN) *to = x;
        sum[s][m][t][e] = 0;
      }
    }
    __syncwarp();
    stage = 1 - stage;
  }
}
