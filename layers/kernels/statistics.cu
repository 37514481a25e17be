// Batch normalisation by the batch at hand: its own kernels, and the small sums between those of a
// circuit with it. docs/kernels.md has the equations. Blocks have 128 threads, where nothing else is
// said. `of` (4, K) are a normalisation's scale w r, mean, r = 1 / sqrt(variance + epsilon), and
// variance. A plane's chunks are CHUNK pixels, the last one fewer.
#define CHUNK 2048
#define EACH for (int i = 0; i < CHUNK / 128; i++)
#define PIXEL pixel<1>(i)
#define AT ((long)blockIdx.x * pixels + PIXEL)

// The i-th pixel of a thread in its block's chunk, of which threads take so many side by side.
template <int TOGETHER> __device__ int pixel(int i) {
  return blockIdx.y * CHUNK + (i / TOGETHER * 128 + threadIdx.x) * TOGETHER + i % TOGETHER;
}

// A sum over a block, in a fixed order, for all of its threads.
__device__ float block_sum(float x) {
  __shared__ float of_warps[32];
  for (int i = 16; i; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = of_warps[0];
  for (int w = 1; w < (int)blockDim.x / 32; w++) x += of_warps[w];
  return x;
}

__device__ void put_statistics(float* of, int k, int channels, float mean, float variance, const float* weight, float epsilon) {
  float inverse = 1.f / sqrtf(variance + epsilon);
  of[k] = weight[k] * inverse, of[channels + k] = mean, of[2 * channels + k] = inverse, of[3 * channels + k] = variance;
}

// Of each chunk of planes (grid: planes, chunks): the mean, and the squared differences from it.
template <int TOGETHER> __device__ __forceinline__ void put_moments(const float* v, float2* parts, int pixels) {
  float mean = 0.f, spread = 0.f;
  int count = min(CHUNK, pixels - (int)blockIdx.y * CHUNK);
#pragma unroll
  EACH mean += v[i];
  mean = block_sum(mean) / count;
#pragma unroll
  EACH if (pixel<TOGETHER>(i) < pixels) spread += (v[i] - mean) * (v[i] - mean);
  spread = block_sum(spread);
  if (!threadIdx.x) parts[blockIdx.x * gridDim.y + blockIdx.y] = make_float2(mean, spread);
}
extern "C" __global__ void chunk_moments(const float* x, float2* parts, int pixels) {
  float v[CHUNK / 128];
#pragma unroll
  EACH v[i] = PIXEL < pixels ? x[AT] : 0.f;
  put_moments<1>(v, parts, pixels);
}
// The same of a convolution's halves, a multiple of four a plane.
extern "C" __global__ void chunk_moments_half(const half* x, const float* largest, const float* kernel_scale,
                                              float2* parts, int channels, int pixels) {
  float v[CHUNK / 128] = {}, of = unit(largest[blockIdx.x / channels], *kernel_scale);
#pragma unroll
  for (int i = 0; i < CHUNK / 128; i += 4) {
    int p = pixel<4>(i);
    if (p < pixels) *(float4*)&v[i] = four(x + (long)blockIdx.x * pixels + p, of);
  }
  put_moments<4>(v, parts, pixels);
}

// Statistics from those (grid: channels), of `known` pixels a plane; the others are padding and 0.
extern "C" __global__ void chunk_statistics(const float2* parts, const float* weight, float epsilon,
                                            int images, int pixels, int known, float* of) {
  int k = blockIdx.x, channels = gridDim.x, chunks = (pixels + CHUNK - 1) / CHUNK;
  float mean = 0.f, spread = 0.f, all = (float)images * known;
  for (int pass = 0; pass < 2; pass++) {
    for (int i = threadIdx.x; i < images * chunks; i += 128) {
      float2 part = parts[(i / chunks * channels + k) * chunks + i % chunks];
      float count = min(CHUNK, pixels - i % chunks * CHUNK), away = part.x - mean;
      if (pass) spread += part.y + count * away * away; else spread += count * part.x;
    }
    spread = block_sum(spread);
    if (!pass) mean = spread / all, spread = 0.f;
  }
  spread -= (float)images * (pixels - known) * mean * mean;
  if (!threadIdx.x) put_statistics(of, k, channels, mean, spread / all, weight, epsilon);
}

// -- of several processes --------------------------------------------------------------------------
typedef unsigned long long Word;  // a float32 number, and above it the use that it belongs to
#define CHANNELS 128              // blocks that may exchange at a time
#define WORDS 4                   // numbers of a thread in one use
#define AREA (512 * WORDS)        // and of a block, at most
struct Peers { Word* of[8]; };    // every rank's memory, by this one's addresses

// Give numbers begin ... begin + WORDS blockDim - 1, then those `step` after them, up to `end` to all
// ranks, and take theirs: take(rank, w, number's place, number), of a thread's w-th number rank by rank.
//
// Each block has a channel of its own: in every rank's memory an area for each rank and for uses of
// even and of odd number, and after all areas the count of its uses so far. A number and the
// count stand in one word, so a word that has the count is there: no order of words matters. Nothing
// comes from the host, so a graph may hold this, and all ranks count alike as all make the same
// exchanges in the same order.
// No word is written over that another rank still waits for: use n + 2 of a channel comes after n + 1
// is complete here, so every rank has begun n + 1; and it began that after all of its threads had left
// use n, by __syncthreads or because one kernel ended before the next.
template <class Take>
__device__ __forceinline__ void exchange(const Peers& peers, int rank, int ranks, const float* own,
                                         long begin, long end, long step, Take take) {
  Word *mine = peers.of[rank], *uses = mine + 2L * CHANNELS * ranks * AREA + blockIdx.x;
  unsigned use = *uses;
#define EACH_WORD \
  _Pragma("unroll") for (int w = 0; w < WORDS; w++) if (long at = w * blockDim.x + threadIdx.x; begin + at < end)
  for (; begin < end; begin += step) {
    long areas = (2L * blockIdx.x + ++use % 2) * ranks * AREA;
    Word words[WORDS];
    EACH_WORD words[w] = (Word)use << 32 | (unsigned)__float_as_int(own[begin + at]);
    for (int r = 0; r < ranks; r++) {
      Word* to = peers.of[r] + areas + rank * AREA;
      EACH_WORD put_word(to + at, words[w]);
    }
    for (int r = 0; r < ranks; r++) {
      for (bool there = false; !there;) {
        there = true;
        EACH_WORD words[w] = look(mine + areas + r * AREA + at);
        EACH_WORD there = there && words[w] >> 32 == use;
        if (!there) __nanosleep(20);
      }
      EACH_WORD take(r, w, begin + at, __int_as_float((int)words[w]));
    }
    __syncthreads();
  }
  if (!threadIdx.x) *uses = use;
}

// Every rank's numbers as rows, or their sum over ranks, in the order of ranks: the same bits on all.
extern "C" __global__ void exchange_ranks(const float* own, int count, float* to, int rows, Peers peers, int rank, int ranks) {
  int piece = WORDS * blockDim.x;
  float sums[WORDS];
  exchange(peers, rank, ranks, own, (long)blockIdx.x * piece, count, (long)gridDim.x * piece,
           [&](int r, int w, long at, float x) {
             if (rows) to[(long)r * count + at] = x;
             else sums[w] = r ? sums[w] + x : x;
             if (!rows && r == ranks - 1) to[at] = sums[w];
           });
}

// Statistics over all processes (grid: one or two normalisations, each with its epsilon) from the
// `rows` of each, of which it has a share of the values. Unless `rank` is below 0 they come through peers.
extern "C" __global__ void join_ranks(float* rows, const float* shares, int ranks, int channels, const float* weight,
                                      float first_epsilon, float last_epsilon, float* of, Peers peers, int rank) {
  int size = 4 * channels, row = size * gridDim.x;
  rows += blockIdx.x * size, of += blockIdx.x * size, weight += blockIdx.x * channels;
  if (rank >= 0)
    exchange(peers, rank, ranks, of, 0, size, WORDS * blockDim.x,
             [=](int r, int, long at, float x) { rows[(long)r * row + at] = x; });
  for (int k = threadIdx.x; k < channels; k += 128) {
    float mean = 0.f, variance = 0.f;
    for (int r = 0; r < ranks; r++) mean += shares[r] * rows[r * row + channels + k];
    for (int r = 0; r < ranks; r++) {
      float away = rows[r * row + channels + k] - mean;
      variance += shares[r] * (rows[r * row + 3 * channels + k] + away * away);
    }
    put_statistics(of, k, channels, mean, variance, weight, blockIdx.x ? last_epsilon : first_epsilon);
  }
}

// Running averages move by so many steps' statistics, which lie `stride` numbers apart; the mean is less
// `bias`, where there is one, and the variance over `values`.
extern "C" __global__ void move_averages(const float* of, int steps, int stride, const float* bias, const float* values,
                                         int biased, float momentum, float* mean, float* variance, int channels) {
  int k = blockIdx.x * 128 + threadIdx.x;
  if (k >= channels) return;
  float m = mean[k], v = variance[k], n = *values, factor = biased ? 1.f : n / max(n - 1.f, 1.f);
  for (; steps--; of += stride) {
    m += momentum * (of[channels + k] + (bias ? bias[k] : 0.f) - m);
    v += momentum * (of[3 * channels + k] * factor - v);
  }
  mean[k] = m, variance[k] = v;
}

// y = scale (x - mean) + bias (grid: planes, chunks).
extern "C" __global__ void normalise(const float* x, const float* of, const float* bias, float* y, int channels, int pixels) {
  int k = blockIdx.x % channels;
  float scale = of[k], mean = of[channels + k], shift = bias ? bias[k] : 0.f;
#pragma unroll
  EACH if (PIXEL < pixels) y[AT] = scale * (x[AT] - mean) + shift;
}

// Of each chunk: the sums of g and of g (x - mean).
extern "C" __global__ void chunk_sums(const float* g, const float* x, const float* of, float2* parts, int channels, int pixels) {
  float mean = of[channels + blockIdx.x % channels], sum = 0.f, product = 0.f;
#pragma unroll
  EACH if (PIXEL < pixels) {
    float d = g[AT];
    sum += d, product += d * (x[AT] - mean);
  }
  sum = block_sum(sum), product = block_sum(product);
  if (!threadIdx.x) parts[blockIdx.x * gridDim.y + blockIdx.y] = make_float2(sum, product);
}

// From those (grid: channels): the gradients of weight and bias, and the means over the batch (2, K).
extern "C" __global__ void chunk_means(const float2* parts, const float* of, const float* values, int images, int chunks,
                                       float* dweight, float* dbias, float* means) {
  int k = blockIdx.x, channels = gridDim.x;
  float sum = 0.f, product = 0.f;
  for (int i = threadIdx.x; i < images * chunks; i += 128) {
    float2 part = parts[(i / chunks * channels + k) * chunks + i % chunks];
    sum += part.x, product += part.y;
  }
  sum = block_sum(sum), product = block_sum(product);
  if (threadIdx.x) return;
  dweight[k] = of[2 * channels + k] * product, dbias[k] = sum;
  means[k] = sum / *values, means[channels + k] = product / *values;
}

// dx = scale (g - level - slope (x - mean)).
extern "C" __global__ void normalise_back(const float* g, const float* x, const float* of, const float* means, float* dx,
                                          int channels, int pixels) {
  int k = blockIdx.x % channels;
  float scale = of[k], mean = of[channels + k], inverse = of[2 * channels + k];
  float level = means[k], slope = means[channels + k] * inverse * inverse;
#pragma unroll
  EACH if (PIXEL < pixels) dx[AT] = scale * (g[AT] - level - slope * (x[AT] - mean));
}

// -- of a circuit: K of at most 32 channels --------------------------------------------------------
#define K ((int)gridDim.x)
#define SCALE (of[k])
#define MEAN (of[K + k])
#define INVERSE (of[2 * K + k])

// A row of squares (K, K + 1) from its parts (blocks, K, K + 1). With `of`, the means over the batch
// of g and of g (U h - mean), (2, K), from the squares of g and h. 512 threads.
extern "C" __global__ void add_squares(const float* parts, int blocks, float* squares, const float* u,
                                       const float* of, const float* values, float* means) {
  __shared__ float all[16][33];
  int k = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float product = 0.f, g = 0.f;
  for (int c = lane; c <= K; c += 32) {
    float sum = 0.f;
    const float* at = parts + k * (K + 1) + c;
#pragma unroll 8
    for (int b = warp; b < blocks; b += 16) sum += at[(long)b * K * (K + 1)];
    all[warp][c] = sum;
  }
  __syncthreads();
  for (int c = threadIdx.x; c <= K; c += blockDim.x) {
    float sum = 0.f;
    for (int w = 0; w < 16; w++) sum += all[w][c];
    squares[k * (K + 1) + c] = sum;
    if (of) product += c < K ? u[k * K + c] * sum : -MEAN * sum;
    if (c == K) g = sum;
  }
  if (!of) return;
  product = block_sum(product), g = block_sum(g);
  if (!threadIdx.x) means[k] = g / *values, means[K + k] = product / *values;
}

// A matrix of up to 32 rows into shared memory.
__device__ void take(float (*to)[33], const float* from, int columns) {
  for (int i = threadIdx.x; i < K * columns; i += 128) to[i / columns][i % columns] = from[i];
}

// Statistics of U h from h's squares over so many values.
extern "C" __global__ void gate_statistics(const float* squares, const float* u, const float* weight,
                                           float epsilon, int count, float* of) {
  __shared__ float s[32][33];
  __shared__ double parts[32];
  int k = blockIdx.x, i = threadIdx.x;
  double mean = 0., variance = 0.;
  take(s, squares, K + 1);
  __syncthreads();
  if (i < K) {
    for (int j = 0; j < K; j++) variance += u[k * K + j] * ((double)s[i][j] - (double)s[i][K] * s[j][K] / count);
    parts[i] = u[k * K + i] * variance;
  }
  __syncthreads();
  if (i) return;
  variance = 0.;
  for (int j = 0; j < K; j++) variance += parts[j], mean += (double)u[k * K + j] * s[j][K];
  put_statistics(of, k, K, mean / count, variance > 0. ? variance / count : 0., weight, epsilon);
}

// What a gate's normalisation adds to h's gradient, the correction (K, K + 1); added to the gradient
// of U; the gradient of the normalisation's weight. `squares` of g and h, `taken` of h itself.
extern "C" __global__ void gate_correction(const float* squares, const float* taken, const float* u,
                                           const float* of, const float* means, float* correction,
                                           float* du, float* dweight) {
  __shared__ float su[32][33], sh[32][33], back[32], level[32], slope[32];
  int r = blockIdx.x, c = threadIdx.x, k = c;
  take(su, u, K), take(sh, taken, K + 1);
  if (k < K) level[k] = means[k], slope[k] = means[K + k] * INVERSE * INVERSE;
  __syncthreads();
  if (k < K) back[k] = su[k][r] * SCALE;
  __syncthreads();
  if (c > K) return;
  float sum = 0.f;
  if (c < K) for (k = 0; k < K; k++) sum += back[k] * slope[k] * su[k][c];
  else for (k = 0; k < K; k++) sum += back[k] * (level[k] - slope[k] * MEAN);
  correction[r * (K + 1) + c] = sum;
  k = r;
  if (c < K) {
    float h = sh[c][K], away = -MEAN * h;
    for (int i = 0; i < K; i++) away += su[k][i] * sh[i][c];
    du[k * K + c] += SCALE * (squares[k * (K + 1) + c] - level[k] * h - slope[k] * away);
    return;
  }
  float product = -MEAN * squares[k * (K + 1) + K];
  for (int i = 0; i < K; i++) product += su[k][i] * squares[k * (K + 1) + i];
  dweight[k] = INVERSE * product;
}

// From the sums' parts (blocks, count, K) of a convolution's letters, the last of them of its gradient
// (inhibition, two letters) or of E's (mixing, gamma): added to the letters' gradients (count - 1, K),
// the gradient of the normalisation's weight, and the means of c's gradient and of it times c - mean.
extern "C" __global__ void line_means(const float* parts, int blocks, int count, const float* first,
                                      const float* second, const float* of, const float* values,
                                      float* letters, float* dweight, float* means) {
  int k = blockIdx.x;
  float sums[4];
  for (int s = 0; s < 4; s++) {
    float sum = 0.f;
#pragma unroll 4
    for (int b = threadIdx.x; s < count && b < blocks; b += 128) sum += parts[((long)b * count + s) * K + k];
    sums[s] = block_sum(sum);
  }
  if (threadIdx.x) return;
  float products = first[k] * sums[0] + (second ? second[k] * sums[1] : 0.f);
  letters[k] += SCALE * sums[0];
  letters[K + k] += (second ? SCALE : 1.f) * sums[1];
  if (!second) letters[2 * K + k] += sums[2];
  dweight[k] = INVERSE * products;
  means[k] = (second ? sums[2] : first[k] * SCALE * sums[3]) / *values;
  means[K + k] = SCALE * products / *values;
}
