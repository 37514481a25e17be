// The circuit's pointwise kernels, with or without batch normalisation (NORM), on folded activities
// (N, K, P), P a multiple of 64. docs/kernels.md has the equations.
//
// A warp takes 16 pixels and all channels. With pixels as the matrix unit's rows, what a thread holds
// of a left operand and of a result are the same numbers once channels are permuted within eights:
// lane (g, q) holds pixels 2g, 2g + 1 of channels 8j + 2q + {0, 1}. So a tensor is loaded once, as
// pairs of pixels, and serves the product and all that is pointwise; products can follow one another.
//
// Gates are sigmoid(scale (U h - middle)), convolutions enter as c - middle: `scale` and `middle` are
// a normalisation's, or 1 and minus the bias, and 0. Backward treats them as constants. What a
// normalisation adds, a linear function of what it took, is taken off where that is next at hand: the
// `correction` (K, K + 1) is a matrix and a constant. Padding is 0: with NORM, where `valid` is.
//
// Macros besides: STRICT and TANH; GAIN, MIX … the blocks of each kernel that a multiprocessor is to hold.
#define NT ((K + 7) / 8)  // channels in eights
#define KP (8 * NT)
#define MT ((K + 15) / 16)
#define WARPS 4
#define PIXELS (16 * WARPS)
#define PITCH (PIXELS + 4)
#define OWN ((MT * NT + WARPS - 1) / WARPS)

#if STRICT
typedef float Stored;  // of a convolution's result
#else
typedef half Stored;
#endif
typedef float Tile[NT][2][2];  // [eight][channel of the pair][pixel of the pair]
typedef const float* __restrict__ In;
typedef float* __restrict__ Out;

__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.f + fast_exp(-x)); }
__device__ __forceinline__ float f(float z) {
  if (!TANH) return fmaxf(z, 0.f);
  float size = fabsf(z), e = fast_exp(-2.f * size), far = (1.f - e) * reciprocal(1.f + e), s = z * z;
  float series = -17.f / 315.f + s * (62.f / 2835.f);
  float near = size + size * s * (-1.f / 3.f + s * (2.f / 15.f + s * series));
  return copysignf(size < .25f ? near : far, z);
}
// f'(z) from h = f(z)
__device__ __forceinline__ float slope(float h) { return TANH ? 1.f - h * h : (h > 0.f ? 1.f : 0.f); }
// For a matrix unit, which cuts off what is below TF32's digits.
__device__ __forceinline__ float rounded(float x) { return __int_as_float(__float_as_int(x) + 0x1000); }

#define EACH _Pragma("unroll") for (int j = 0; j < NT; j++) _Pragma("unroll") for (int e = 0; e < 2; e++) if (8 * j + e < K)
#define EACH_PIXEL EACH _Pragma("unroll") for (int r = 0; r < 2; r++)
#define CHANNEL (8 * j + 2 * q + e)
#define KNOWN (8 * j + 8 <= K || CHANNEL < K)

// The tiles of a block's warps, in turn.
#define TILES                                                                                    \
  int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, warp = threadIdx.x / 32;               \
  for (int tile = blockIdx.x, image, pixel; tile < images * (P / PIXELS); tile += gridDim.x)      \
    if (image = tile / (P / PIXELS), pixel = tile % (P / PIXELS) * PIXELS + 16 * warp + 2 * g, true)
#define AT ((long)image * K * P + 2 * q * P + pixel)  // of a lane's first number
#define OFFSET ((8 * j + e) * P)

// A lane's pair of pixels of a channel, from AT on.
#define PAIR(from) (KNOWN ? *(const float2*)((from) + AT + OFFSET) : make_float2(0.f, 0.f))
#define PUT(to, a, b) if (KNOWN) *(float2*)((to) + AT + OFFSET) = make_float2(a, b)
#define LOAD(tile, from) EACH { float2 v = PAIR(from); tile[j][e][0] = v.x, tile[j][e][1] = v.y; }
#define STORE(to, tile) EACH PUT(to, tile[j][e][0], tile[j][e][1])

// A convolution's result among a kernel's arguments, and the unit of an image's numbers.
#define CONVOLVED(name) const Stored* __restrict__ name, const float* name##_largest, const float* name##_scale
#define UNIT(name) float name##_unit = STRICT ? 1.f : unit(name##_largest[image], *name##_scale)

// Tiles on their way: what a block takes next is copied to shared memory, so many tensors one after the
// other, while it computes. A row is a channel's pixels, and as long as keeps a warp's pairs in different
// banks. FETCHING begins that for `TILES`, for so many float32 tensors and so many of convolutions;
// ARRIVED: the tile's numbers are there; GO_ON: they have been read, the next ones may take their place.
template <class T> struct Row { static constexpr int SIZE = PIXELS * sizeof(T) + 16; };
template <class T> __device__ __forceinline__ char* fetch(char* to, const T* from, int tile) {
  constexpr int PARTS = PIXELS * sizeof(T) / 16, ROWS = 32 * WARPS / PARTS;  // a thread takes one of each so-many-th row
  int k = threadIdx.x / PARTS, part = threadIdx.x % PARTS;
  from += (long)(tile / (P / PIXELS)) * K * P + tile % (P / PIXELS) * PIXELS + k * P + part * 16 / (int)sizeof(T);
#pragma unroll
  for (int n = 0; n < K; n += ROWS)
    if (n + ROWS <= K || n + k < K) copy_later(to + (n + k) * Row<T>::SIZE + part * 16, from + n * P);
  return to + K * Row<T>::SIZE;
}
#define FETCH(to, from) fetch(to, from, tile)
#define FETCHING(floats, convolved, all)                                                                       \
  SHARED(memory);                                                                                              \
  char* fetched = memory;                                                                                      \
  auto go_on = [&](int tile) { if (tile < images * (P / PIXELS)) { all; } };                                    \
  go_on(blockIdx.x);
#define ARRIVED copies_arrive(), __syncthreads()
#define GO_ON __syncthreads(), go_on(tile + gridDim.x)
// Of the n-th float32 tensor, or of the m-th convolution after so many of those.
#define FETCHED(n, m, T) (const T*)(fetched + K * (n * Row<float>::SIZE + m * Row<Stored>::SIZE) + CHANNEL * Row<T>::SIZE) + 16 * warp + 2 * g
#define NEXT_PAIR(n, from) (KNOWN ? two(FETCHED(n, 0, float), 1.f) : make_float2(0.f, 0.f))
#define NEXT_C_PAIR(n, m, name) (KNOWN ? two(FETCHED(n, m, Stored), name##_unit) : make_float2(0.f, 0.f))
#define NEXT_LOAD(tile, n, from) EACH { float2 v = NEXT_PAIR(n, from); tile[j][e][0] = v.x, tile[j][e][1] = v.y; }

// A number a channel, in shared memory.
struct __align__(16) Vector { float of[KP]; };
__device__ void stage(Vector& to, const float* from, int step = 1) {
  for (int k = threadIdx.x; k < KP; k += blockDim.x) to.of[k] = k < K ? from[k * step] : 0.f;
}

// A matrix as the right operand: of eight j of the inputs and eight l of the outputs, a lane's two
// numbers; what rounding leaves of them comes after all of those. Inputs are multiplied by `factors`.
struct Matrix { float2 of[1 + STRICT][NT][NT][32]; };
__device__ void stage(Matrix& m, const float* u, int output, int input, const float* factors = nullptr, float factor = 1.f) {
  for (int at = threadIdx.x; at < NT * NT * 32; at += blockDim.x) {
    int lane = at % 32, l = at / 32 % NT, j = at / 32 / NT;
    int o = 8 * l + lane / 4, i = 8 * j + 2 * (lane % 4);
    float a[2];
    for (int e = 0; e < 2; e++)
      a[e] = o < K && i + e < K ? (factors ? factors[i + e] : factor) * u[o * output + (i + e) * input] : 0.f;
    m.of[0][j][l][lane] = make_float2(tf32(a[0]), tf32(a[1]));
    if (STRICT) m.of[STRICT][j][l][lane] = make_float2(a[0] - tf32(a[0]), a[1] - tf32(a[1]));
  }
}

// sum += a b, a product of TF32 or three of them for float32.
__device__ __forceinline__ void multiply_add(float* sum, const float* a, const float* b, const float* b_low) {
  if (STRICT) {
    float high[4], low[4];
    for (int i = 0; i < 4; i++) high[i] = tf32(a[i]), low[i] = a[i] - high[i];
    mma_tf32(sum, low, b[0], b[1]);
    mma_tf32(sum, high, b_low[0], b_low[1]);
    mma_tf32(sum, high, b[0], b[1]);
  } else {
    mma_tf32(sum, a, b[0], b[1]);
  }
}

// c += x times the matrix
__device__ __forceinline__ void multiply(Tile c, const Tile x, const Matrix& m, int lane) {
  Tile y;
  for (int j = 0; j < NT; j++)
    for (int i = 0; i < 4; i++) y[j][i / 2][i % 2] = STRICT ? x[j][i / 2][i % 2] : rounded(x[j][i / 2][i % 2]);
#pragma unroll
  for (int l = 0; l < NT; l++) {
    float sum[4] = {c[l][0][0], c[l][1][0], c[l][0][1], c[l][1][1]};
#pragma unroll
    for (int j = 0; j < NT; j++) {
      float2 b = m.of[0][j][l][lane], low = m.of[STRICT][j][l][lane];
      multiply_add(sum, &y[j][0][0], &b.x, &low.x);
    }
    c[l][0][0] = sum[0], c[l][1][0] = sum[1], c[l][0][1] = sum[2], c[l][1][1] = sum[3];
  }
}

// scale (U x - middle): a gate before its sigmoid
__device__ __forceinline__ void drive(Tile a, const Tile x, const Matrix& u, const Vector& scale, const Vector& middle, int lane) {
  int q = lane % 4;
  for (int j = 0; j < NT; j++)
    for (int e = 0; e < 2; e++) a[j][e][0] = a[j][e][1] = -middle.of[CHANNEL];
  multiply(a, x, u, lane);
  EACH_PIXEL a[j][e][r] *= scale.of[CHANNEL];
}

// Sums over pixels of left right^T, and of left: the block's warps share its squares and rows.
struct Waiting { __align__(16) float left[KP][PITCH], right[KP][PITCH]; };
struct Square { float of[OWN][4], row; };
__device__ __forceinline__ void put(float (*to)[PITCH], const Tile x, int lane) {
  int g = lane / 4, q = lane % 4, at = threadIdx.x / 32 * 16 + 2 * g;
  for (int j = 0; j < NT; j++)
    for (int e = 0; e < 2; e++) {
      float a = x[j][e][0], b = x[j][e][1];
      *(float2*)&to[CHANNEL][at] = STRICT ? make_float2(a, b) : make_float2(tf32(a), tf32(b));
    }
}
__device__ __forceinline__ void gather(Square& square, Waiting& waiting, const Tile left, const Tile right, int lane) {
  unsigned warp = threadIdx.x / 32;
  bool same = left == right;
  float (*b_of)[PITCH] = same ? waiting.left : waiting.right;
  __syncthreads();
  put(waiting.left, left, lane);
  if (!same) put(waiting.right, right, lane);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    unsigned s = warp + WARPS * i, m = s / NT, l = s % NT;
    // The rows of eight that lane 8n + r points at: of the left side two by two pixels, of the right two.
    const float* a_at = waiting.left[min(16 * m + lane % 16, KP - 1u)] + lane / 16 * 4;
    const float* b_at = b_of[8 * l + lane % 8] + lane / 8 * 4;
    float sum[4] = {};
    if (s < MT * NT)
#pragma unroll
      for (int p = 0; p < PIXELS; p += 16) {
        float a[2][4], b[4], low[4];
        load_rows((unsigned*)a[0], a_at + p), load_rows((unsigned*)a[1], a_at + p + 8);
        load_rows((unsigned*)b, b_at + p);
        for (int n = 0; STRICT && n < 4; n++) low[n] = b[n] - tf32(b[n]), b[n] = tf32(b[n]);
        multiply_add(sum, a[0], b, low);
        multiply_add(sum, a[1], b + 2, low + 2);
      }
    for (int n = 0; n < 4; n++) square.of[i][n] += sum[n];
  }
  int row = threadIdx.x / 4;
#pragma unroll
  for (int p = 0; p < PIXELS; p += 16)
    if (row < KP) {
      float4 x = *(float4*)&waiting.left[row][p + threadIdx.x % 4 * 4];
      square.row += (x.x + x.y) + (x.z + x.w);
    }
}
// Into the block's own place (K, K + 1), or added to what stands there.
__device__ void put_square(float* squares, const Square& square, bool add, int lane) {
  float* place = squares + (long)blockIdx.x * K * (K + 1);
  int g = lane / 4, q = lane % 4, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < OWN; i++)
#pragma unroll
    for (int n = 0; n < 4; n++) {
      int s = warp + WARPS * i, o = s / NT * 16 + g + 8 * (n / 2), c = s % NT * 8 + 2 * q + n % 2;
      if (s >= MT * NT || o >= K || c >= K) continue;
      place[o * (K + 1) + c] = square.of[i][n] + (add ? place[o * (K + 1) + c] : 0.f);
    }
  float row = square.row;
  for (int i = 1; i < 4; i *= 2) row += __shfl_xor_sync(~0u, row, i);
  int o = threadIdx.x / 4;
  if (threadIdx.x % 4 == 0 && o < K) place[o * (K + 1) + K] = row + (add ? place[o * (K + 1) + K] : 0.f);
}

// So many sums a channel, over the lanes that hold it and over warps, into the block's own place.
template <int COUNT>
__device__ void put_sums(float* sums, float (&sum)[COUNT][NT][2], bool add, int lane) {
  __shared__ float all[WARPS][COUNT][KP];
  int g = lane / 4, q = lane % 4, warp = threadIdx.x / 32;
  for (int s = 0; s < COUNT; s++) EACH {
    for (int i = 4; i < 32; i *= 2) sum[s][j][e] += __shfl_xor_sync(~0u, sum[s][j][e], i);
    if (g == 0) all[warp][s][CHANNEL] = sum[s][j][e];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < COUNT * K; i += blockDim.x) {
    float total = 0.f, *to = sums + blockIdx.x * COUNT * K + i;
    for (int w = 0; w < WARPS; w++) total += all[w][i / K][i % K];
    *to = total + (add ? *to : 0.f);
  }
}

__device__ __forceinline__ void put_largest(float* largest, int image, float x, int lane) {
  for (int i = 16; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
  if (!lane && x > *(volatile float*)(largest + image)) atomicMax((int*)largest + image, __float_as_int(x));
}

// h becomes h times its gate, of which `a` is what goes into the sigmoid; the largest of it.
__device__ __forceinline__ float gated(Tile h, const Tile a) {
  float most = 0.f;
  EACH_PIXEL {
    h[j][e][r] *= sigmoid(a[j][e][r]);
    most = fmaxf(most, fabsf(h[j][e][r]));
  }
  return most;
}

// P = H2 G1, its largest pixels too.
extern "C" __global__ void __launch_bounds__(32 * WARPS, GAIN)
gain(In h2, const float* u1, const float* scale, const float* middle, Out out, float* largest, int images) {
  __shared__ Matrix w;
  __shared__ Vector s, m;
  stage(w, u1, K, 1), stage(s, scale), stage(m, middle);
  __syncthreads();
  FETCHING(1, 0, FETCH(fetched, h2))
  TILES {
    Tile h = {}, a;
    ARRIVED;
    NEXT_LOAD(h, 0, h2)
    GO_ON;
    drive(a, h, w, s, m, lane);
    float most = gated(h, a);
    STORE(out, h);
    put_largest(largest, image, most, lane);
  }
}

#if NORM
// The squares of h (K, K) and its sums, of pixels of all images.
extern "C" __global__ void __launch_bounds__(32 * WARPS, SQUARES)
squares(In h, float* out, int images) {
  __shared__ Waiting waiting;
  Square square = {};
  TILES {
    Tile x = {};
    LOAD(x, h)
    gather(square, waiting, x, x, lane);
  }
  put_square(out, square, false, lane);
}

// H1 = f(X - (alpha H2 + mu) (C1 - middle)), its largest pixels, its squares.
extern "C" __global__ void __launch_bounds__(32 * WARPS, INHIBIT)
inhibit(In x, In h2, CONVOLVED(c1), const float* alpha, const float* mu, const float* middle,
                  const unsigned char* valid, Out h1, float* largest, float* squares, int images) {
  __shared__ Vector sa, sm, sc;
  __shared__ Waiting waiting;
  stage(sa, alpha), stage(sm, mu), stage(sc, middle);
  __syncthreads();
  Square square = {};
  FETCHING(2, 1, FETCH(FETCH(FETCH(fetched, x), h2), c1))
  TILES {
    Tile z = {};
    float most = 0.f;
    UNIT(c1);
    ARRIVED;
    EACH {
      float2 X = NEXT_PAIR(0, x), H = NEXT_PAIR(1, h2), C = NEXT_C_PAIR(2, 0, c1);
      float A = sa.of[CHANNEL], M = sm.of[CHANNEL], middle = sc.of[CHANNEL];
      z[j][e][0] = f(X.x - (A * H.x + M) * (C.x - middle));
      z[j][e][1] = f(X.y - (A * H.y + M) * (C.y - middle));
      for (int r = 0; r < 2; r++) {
        if (!valid[pixel + r]) z[j][e][r] = 0.f;
        most = fmaxf(most, fabsf(z[j][e][r]));
      }
    }
    GO_ON;
    STORE(h1, z);
    put_largest(largest, image, most, lane);
    gather(square, waiting, z, z, lane);
  }
  put_square(squares, square, false, lane);
}
#endif

// The next H2 = eta (G2 H2 + (1 - G2) f(kappa (H1 + E) + omega H1 E)), E = gamma (C2 - middle_c); and
// unless they are null, with NORM its squares, otherwise P of it and its largest pixels.
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIX)
mix(In h1, In h2, CONVOLVED(c2), const float* gamma, const float* kappa, const float* omega, const float* eta,
              const float* middle_c, const float* u2, const float* scale2, const float* middle2, const float* u1,
              const float* scale1, const float* middle1, const unsigned char* valid, Out out, Out p, float* largest,
              float* squares, int images) {
  __shared__ Matrix w1, w2;
  __shared__ Vector sg, sk, so, sc, s2, m2, s1, m1;
  __shared__ Waiting waiting;
  stage(sg, gamma), stage(sk, kappa), stage(so, omega), stage(sc, middle_c);
  stage(w2, u2, K, 1), stage(s2, scale2), stage(m2, middle2);
  if (p) stage(w1, u1, K, 1), stage(s1, scale1), stage(m1, middle1);
  __syncthreads();
  float n = *eta;
  Square square = {};
  FETCHING(2, 1, FETCH(FETCH(FETCH(fetched, h1), h2), c2))
  TILES {
    Tile x1 = {}, h = {}, a;
    UNIT(c2);
    ARRIVED;
    NEXT_LOAD(x1, 0, h1)
    drive(a, x1, w2, s2, m2, lane);
    EACH {
      float2 H = NEXT_PAIR(1, h2), C = NEXT_C_PAIR(2, 0, c2);
      int k = CHANNEL;
      float c[2] = {C.x, C.y}, old[2] = {H.x, H.y};
      for (int r = 0; r < 2; r++) {
        float gate = sigmoid(a[j][e][r]), x = x1[j][e][r], E = sg.of[k] * (c[r] - sc.of[k]);
        float candidate = f(sk.of[k] * (x + E) + so.of[k] * x * E);
        h[j][e][r] = NORM && !valid[pixel + r] ? 0.f : n * (gate * old[r] + (1.f - gate) * candidate);
      }
    }
    GO_ON;
    STORE(out, h);
    if (NORM && squares) gather(square, waiting, h, h, lane);
    if (!NORM && p) {
      drive(a, h, w1, s1, m1, lane);
      float most = gated(h, a);
      STORE(p, h);
      put_largest(largest, image, most, lane);
    }
  }
  if (NORM && squares) put_square(squares, square, false, lane);
}

// Backward of `mix`: `grad` is of the H2 that it makes. With NORM, `correction` is that of its gradient, or
// null, and it puts the gate's squares (before its scale), the sums for gamma, kappa, omega and of E's
// gradient, and for eta (blocks,); otherwise it adds to them, and unless `dp` is null, `grad` is what
// `gain_back` takes, which is done first.
extern "C" __global__ void __launch_bounds__(32 * WARPS, MIX_BACK)
mix_back(In grad, In h2, In h1, CONVOLVED(c2), const float* gamma, const float* kappa, const float* omega,
                   const float* eta, const float* middle_c, const float* u2, const float* scale2,
                   const float* middle2, const float* correction, const unsigned char* valid, CONVOLVED(dp),
                   const float* u1, const float* scale1, const float* middle1, float* squares1, Out dh2, Out dh1,
                   Out dc2, float* largest, float* squares, float* sums, float* etas, int images) {
  __shared__ Matrix w, back, matrix, back1;
  __shared__ Vector sg, sk, so, sc, s2, m2, constant, s1;
  __shared__ Waiting waiting;
  __shared__ float eta_of[WARPS];
  stage(w, u2, K, 1), stage(back, u2, 1, K, scale2), stage(s2, scale2), stage(m2, middle2);
  stage(sg, gamma), stage(sk, kappa), stage(so, omega), stage(sc, middle_c);
  bool before = NORM ? correction != nullptr : !STRICT && dp != nullptr;
  // With NORM what is to be taken off, hence the signs; otherwise the gain's gate.
  if (NORM && before) stage(matrix, correction, K + 1, 1, nullptr, -1.f), stage(constant, correction + K, K + 1);
  if (!NORM && before) stage(matrix, u1, K, 1), stage(back1, u1, 1, K, scale1), stage(s1, scale1), stage(constant, middle1);
  __syncthreads();
  float n = *eta, sum_eta = 0.f;
  Square square = {}, square1 = {};
  float sum[3 + NORM][NT][2] = {};
  FETCHING(3, (2 - NORM), char* to = FETCH(FETCH(FETCH(FETCH(fetched, h1), h2), grad), c2); if (!NORM && before) FETCH(to, dp))
  TILES {
    Tile G = {}, x1 = {}, a;
    float most = 0.f;
    UNIT(c2);
    ARRIVED;
    NEXT_LOAD(x1, 0, h1)
    drive(a, x1, w, s2, m2, lane);
    EACH_PIXEL a[j][e][r] = sigmoid(a[j][e][r]);
    if (before) {
      Tile made = {};
      EACH {
        float2 H = NEXT_PAIR(1, h2), C = NEXT_C_PAIR(3, 0, c2);
        int k = CHANNEL;
        float c[2] = {C.x, C.y}, h[2] = {H.x, H.y};
        for (int r = 0; r < 2; r++) {
          float x = x1[j][e][r], E = sg.of[k] * (c[r] - sc.of[k]);
          float candidate = f(sk.of[k] * (x + E) + so.of[k] * x * E);
          made[j][e][r] = n * (a[j][e][r] * h[r] + (1.f - a[j][e][r]) * candidate);
          if (NORM) G[j][e][r] = -constant.of[k];
        }
      }
      if (NORM) {
        multiply(G, made, matrix, lane);
      } else {
        UNIT(dp);
        Tile d;
        drive(d, made, matrix, s1, constant, lane);
        EACH {
          float2 T = NEXT_PAIR(2, grad), D = NEXT_C_PAIR(3, 1, dp);
          float t[2] = {T.x, T.y}, through[2] = {D.x, D.y};
          for (int r = 0; r < 2; r++) {
            float gate = sigmoid(d[j][e][r]);
            G[j][e][r] = t[r] + through[r] * gate;
            d[j][e][r] = through[r] * made[j][e][r] * gate * (1.f - gate);
          }
        }
        multiply(G, d, back1, lane);
        gather(square1, waiting, d, made, lane);
      }
      asm volatile("" : "+r"(g));  // what follows is read and computed again: registers are few
    }
    EACH {
      float2 H = NEXT_PAIR(1, h2), D = NEXT_PAIR(2, grad), C = NEXT_C_PAIR(3, 0, c2);
      int k = CHANNEL;
      float c[2] = {C.x, C.y}, h[2] = {H.x, H.y}, d[2] = {D.x, D.y};
      for (int r = 0; r < 2; r++) {
        float gate = a[j][e][r], x = x1[j][e][r], away = c[r] - sc.of[k], E = sg.of[k] * away;
        float candidate = f(sk.of[k] * (x + E) + so.of[k] * x * E);
        if (NORM) d[r] = valid[pixel + r] ? d[r] + G[j][e][r] : 0.f;
        else if (before) d[r] = G[j][e][r];
        sum_eta += d[r] * (gate * h[r] + (1.f - gate) * candidate);
        d[r] *= n;
        float ds = d[r] * (1.f - gate) * slope(candidate), de = ds * (sk.of[k] + so.of[k] * x);
        sum[0][j][e] += de * away;
        sum[1][j][e] += ds * (x + E);
        sum[2][j][e] += ds * x * E;
        if (NORM) sum[2 + NORM][j][e] += de;
        G[j][e][r] = d[r] * (h[r] - candidate) * gate * (1.f - gate);  // the gate's
        a[j][e][r] = ds * (sk.of[k] + so.of[k] * E);                   // dh1, its own part
        h[r] = d[r] * gate;                                            // dh2
        c[r] = sg.of[k] * de;                                          // dc2
        most = fmaxf(most, fabsf(c[r]));
      }
      PUT(dh2, h[0], h[1]);
      PUT(dc2, c[0], c[1]);
    }
    GO_ON;
    if (!NORM) put_largest(largest, image, most, lane);
    multiply(a, G, back, lane);
    STORE(dh1, a);
    gather(square, waiting, G, x1, lane);
  }
  put_square(squares, square, !NORM, lane);
  if (!NORM && before) put_square(squares1, square1, true, lane);
  put_sums<3 + NORM>(sums, sum, !NORM, lane);
  for (int i = 1; i < 32; i *= 2) sum_eta += __shfl_xor_sync(~0u, sum_eta, i);
  if (!lane) eta_of[threadIdx.x / 32] = sum_eta;
  __syncthreads();
  if (!threadIdx.x) {
    sum_eta = 0.f;
    for (int w = 0; w < WARPS; w++) sum_eta += eta_of[w];
    etas[blockIdx.x] = sum_eta;
  }
}

#if NORM
// Backward of `inhibit`. H1's gradient is `through`, which came through its convolution, and `dh1`
// with its correction. Adds to `dh2` and, unless `first`, to `dx`; sums for alpha, mu and of dc1.
extern "C" __global__ void __launch_bounds__(32 * WARPS, INHIBIT_BACK)
inhibit_back(CONVOLVED(through), In dh1, In h1, CONVOLVED(c1), In h2, const float* alpha, const float* mu, const float* middle,
                       const float* correction, const unsigned char* valid, Out dx, Out dh2, Out dc1,
                       float* sums, int first, int images) {
  __shared__ Matrix matrix;
  __shared__ Vector sa, sm, sc, constant;
  stage(sa, alpha), stage(sm, mu), stage(sc, middle);
  stage(matrix, correction, K + 1, 1, nullptr, -1.f), stage(constant, correction + K, K + 1);
  __syncthreads();
  float sum[3][NT][2] = {};
  FETCHING(5, 2, FETCH(FETCH(FETCH(FETCH(FETCH(FETCH(FETCH(fetched, dx), h1), dh1), h2), dh2), through), c1))
  TILES {
    Tile x = {}, off = {};
    UNIT(through);
    UNIT(c1);
    ARRIVED;
    NEXT_LOAD(x, 1, h1)
    EACH_PIXEL off[j][e][r] = -constant.of[CHANNEL];
    multiply(off, x, matrix, lane);
    EACH {
      float2 S = NEXT_PAIR(2, dh1), H = NEXT_PAIR(3, h2), T = NEXT_PAIR(4, dh2), D = NEXT_C_PAIR(5, 0, through), C = NEXT_C_PAIR(5, 1, c1);
      float2 X = !first ? NEXT_PAIR(0, dx) : make_float2(0.f, 0.f);
      int k = CHANNEL;
      float d[2] = {D.x + S.x, D.y + S.y}, c[2] = {C.x, C.y}, h[2] = {H.x, H.y}, t[2] = {T.x, T.y};
      for (int r = 0; r < 2; r++) {
        d[r] = valid[pixel + r] ? d[r] + off[j][e][r] : 0.f;
        float dz = d[r] * slope(x[j][e][r]), through_c = dz * (c[r] - sc.of[k]);
        d[r] = dz;
        c[r] = -dz * (sa.of[k] * h[r] + sm.of[k]);
        t[r] -= sa.of[k] * through_c;
        sum[0][j][e] -= h[r] * through_c;
        sum[1][j][e] -= through_c;
        sum[2][j][e] += c[r];
      }
      PUT(dc1, c[0], c[1]);
      PUT(dh2, t[0], t[1]);
      PUT(dx, X.x + d[0], X.y + d[1]);
    }
    GO_ON;
  }
  put_sums<3>(sums, sum, false, lane);
}
#endif

// Backward of `gain`: out = dh2 + P's share. Puts or adds the gate's squares (before its scale).
extern "C" __global__ void __launch_bounds__(32 * WARPS, GAIN_BACK)
gain_back(In dh2, CONVOLVED(dp), In h2, const float* u1, const float* scale, const float* middle, Out out,
                    float* squares, int add, int images) {
  __shared__ Matrix w, back;
  __shared__ Vector s, m;
  __shared__ Waiting waiting;
  stage(w, u1, K, 1), stage(back, u1, 1, K, scale), stage(s, scale), stage(m, middle);
  __syncthreads();
  Square square = {};
  FETCHING(2, 1, FETCH(FETCH(FETCH(fetched, h2), dh2), dp))
  TILES {
    Tile G = {}, d = {}, h = {}, a;
    UNIT(dp);
    ARRIVED;
    NEXT_LOAD(h, 0, h2)
    drive(a, h, w, s, m, lane);
    EACH {
      float2 D = NEXT_C_PAIR(2, 0, dp), T = NEXT_PAIR(1, dh2);
      float through[2] = {D.x, D.y}, t[2] = {T.x, T.y};
      for (int r = 0; r < 2; r++) {
        float gate = sigmoid(a[j][e][r]);
        G[j][e][r] = t[r] + through[r] * gate;
        d[j][e][r] = through[r] * h[j][e][r] * gate * (1.f - gate);
      }
    }
    GO_ON;
    multiply(G, d, back, lane);
    STORE(out, G);
    gather(square, waiting, d, h, lane);
  }
  put_square(squares, square, add, lane);
}

// -- by planes: what joins no channels -------------------------------------------------------------
// Grid: planes, and so many blocks of 256 threads a plane (blockIdx.y); a thread takes four pixels at a time.
#define PLANE int plane = blockIdx.x, k = plane % K, image = plane / K; const long start = (long)plane * P
#define FOURS for (int p = 4 * (blockIdx.y * 256 + threadIdx.x); p < P; p += 1024 * gridDim.y)
#define FOUR(from) (*(const float4*)((from) + start + p))
#define C_FOUR(name) four(name + start + p, name##_unit)

// Over a block, for its first thread: the sum, or the largest of numbers that are not negative.
__device__ float over_block(float x, bool largest = false) {
  __shared__ float of_warps[8];
  for (int i = 16; i; i /= 2) {
    float y = __shfl_xor_sync(~0u, x, i);
    x = largest ? fmaxf(x, y) : x + y;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = of_warps[0];
  for (int w = 1; w < 8; w++) x = largest ? fmaxf(x, of_warps[w]) : x + of_warps[w];
  return x;
}
__device__ void put_block_largest(float* largest, int image, float x) {
  x = over_block(x, true);
  if (!threadIdx.x && x > 0.f) atomicMax((int*)largest + image, __float_as_int(x));
}

#if NORM
// Takes a normalisation's share off dc (N, K, P): `means` over the batch of dc and of dc (c - mean)
// (2, K), `of` c's statistics (4, K); its largest pixels.
extern "C" __global__ void __launch_bounds__(256)
correct(float* dc, CONVOLVED(c), const float* means, const float* of, const unsigned char* valid, float* largest) {
  PLANE;
  float level = means[k], middle = of[K + k], slope = means[K + k] * of[2 * K + k] * of[2 * K + k], most = 0.f;
  UNIT(c);
#pragma unroll 4
  FOURS {
    float4 d = FOUR(dc), x = C_FOUR(c);
    float* to = &d.x;
    const float* from = &x.x;
    uchar4 known = *(const uchar4*)(valid + p);
    const unsigned char* keep = &known.x;
    for (int i = 0; i < 4; i++) {
      to[i] = keep[i] ? to[i] - level - slope * (from[i] - middle) : 0.f;
      most = fmaxf(most, fabsf(to[i]));
    }
    *(float4*)(dc + start + p) = d;
  }
  put_block_largest(largest, image, most);
}

#else
// `inhibit` without normalisation.
extern "C" __global__ void __launch_bounds__(256)
inhibit_plane(In x, In h2, CONVOLVED(c1), const float* alpha, const float* mu, Out h1, float* largest) {
  PLANE;
  float A = alpha[k], M = mu[k], most = 0.f;
  UNIT(c1);
#pragma unroll 2
  FOURS {
    float4 X = FOUR(x), H = FOUR(h2), C = C_FOUR(c1);
    float* z = &X.x;
    const float *h = &H.x, *c = &C.x;
    for (int i = 0; i < 4; i++) {
      z[i] = f(z[i] - (A * h[i] + M) * c[i]);
      most = fmaxf(most, fabsf(z[i]));
    }
    *(float4*)(h1 + start + p) = X;
  }
  put_block_largest(largest, image, most);
}

// `inhibit_back` without normalisation: sums for alpha and mu of each block (N, blocks, 2, K).
extern "C" __global__ void __launch_bounds__(256)
inhibit_back_plane(CONVOLVED(through), In dh1, In h1, CONVOLVED(c1), In h2, const float* alpha, const float* mu, Out dx, Out dh2,
                   Out dc1, float* largest, float* sums, int first) {
  PLANE;
  float A = alpha[k], M = mu[k], most = 0.f, of_alpha = 0.f, of_mu = 0.f;
  UNIT(through);
  UNIT(c1);
  FOURS {
    float4 D = C_FOUR(through), S = FOUR(dh1), Z = FOUR(h1), C = C_FOUR(c1), H = FOUR(h2), T = FOUR(dh2);
    float4 X = !first ? FOUR(dx) : make_float4(0.f, 0.f, 0.f, 0.f);
    float *d = &D.x, *t = &T.x, *c = &C.x, *x = &X.x;
    const float *s = &S.x, *z = &Z.x, *h = &H.x;
    for (int i = 0; i < 4; i++) {
      float dz = (d[i] + s[i]) * slope(z[i]), through_c = dz * c[i];
      c[i] = -dz * (A * h[i] + M);
      t[i] -= A * through_c;
      x[i] += dz;
      of_alpha -= h[i] * through_c, of_mu -= through_c;
      most = fmaxf(most, fabsf(c[i]));
    }
    *(float4*)(dc1 + start + p) = C;
    *(float4*)(dh2 + start + p) = T;
    *(float4*)(dx + start + p) = X;
  }
  put_block_largest(largest, image, most);
  of_alpha = over_block(of_alpha), of_mu = over_block(of_mu);
  float* place = sums + (image * gridDim.y + blockIdx.y) * 2 * K + k;
  if (!threadIdx.x) place[0] += of_alpha, place[K] += of_mu;
}
#endif
