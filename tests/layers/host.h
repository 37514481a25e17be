// A kernel's blocks on the CPU, to test its arithmetic and indices where there is no CUDA device.
// The threads of a block are contexts of one system thread, which run in turn from one meeting point
// to the next, in order or in reverse (REVERSE): what one thread reads of another without a
// meeting point in between is then wrong in one of the two.
#pragma once
#include <sched.h>
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static thread_local
#define __align__(n) alignas(n)
#define SHARED(name) char* name = host_shared
using std::max;
using std::min;
struct Index { int x = 0, y = 0, z = 0; };
// Several system threads may each run a kernel, as several devices do.
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;
static thread_local char* host_shared;
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct uchar4 { unsigned char x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static float2 make_float2(float a, float b) { return {a, b}; }
static float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
static uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
static uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
static int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }
static float __int_as_float(int x) { float i; memcpy(&i, &x, 4); return i; }
#define __expf expf
static float fast_exp(float x) { return expf(x); }
static float reciprocal(float x) { return 1 / x; }
typedef unsigned short half;
static float2 to_floats(unsigned x) { _Float16 h[2]; memcpy(h, &x, 4); return {h[0], h[1]}; }
static unsigned pack(float low, float high) { _Float16 h[2] = {(_Float16)low, (_Float16)high}; unsigned x; memcpy(&x, h, 4); return x; }
static unsigned add_pair(unsigned a, unsigned b) {
  float2 x = to_floats(a), y = to_floats(b);
  return pack(x.x + y.x, x.y + y.y);
}
static unsigned times_pair(unsigned a, unsigned b) {
  float2 x = to_floats(a), y = to_floats(b);
  return pack(x.x * y.x, x.y * y.y);
}

// -- threads --
struct Meeting { int expected = 0, here = 0, time = 0; };
struct Copy { void* to; const void* from; int bytes, group; };
struct Thread {
  ucontext_t context; std::vector<char> stack; Meeting* at = nullptr; int time = 0; bool done = false;
  std::vector<Copy> copies;
  int group = 0;
};
struct Warp { Meeting meeting; unsigned words[32][8]; const void* at[32]; };
static thread_local std::vector<Thread> threads;
static thread_local std::vector<Warp> warps;
static thread_local Meeting whole;
static thread_local ucontext_t main_context;
static thread_local std::function<void()> host_body;
static Warp& mine() { return warps[threadIdx.x / 32]; }
static void arrive(Meeting& m) {
  if (++m.here >= m.expected) m.here = 0, m.time++;
}
static void meet(Meeting& m) {
  Thread& t = threads[threadIdx.x];
  t.at = &m, t.time = m.time;
  arrive(m);
  swapcontext(&t.context, &main_context);
}
static void __syncthreads() { meet(whole); }
static void maybe_yield() {  // to another device's system thread, at random
  static thread_local unsigned random = 1;
  if (!(rand_r(&random) % 512)) sched_yield();
}
static void __nanosleep(unsigned) {
  maybe_yield();
  swapcontext(&threads[threadIdx.x].context, &main_context);
}
static void put_word(unsigned long long* at, unsigned long long x) {
  maybe_yield();  // words do not arrive at once
  __atomic_store_n(at, x, __ATOMIC_RELAXED);
}
static unsigned long long look(const unsigned long long* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
static void __syncwarp(unsigned = ~0u) { meet(mine().meeting); }
static float __shfl_xor_sync(unsigned, float x, int by) {
  Warp& w = mine();
  memcpy(w.words[threadIdx.x % 32], &x, 4);
  __syncwarp();
  memcpy(&x, w.words[threadIdx.x % 32 ^ by], 4);
  __syncwarp();
  return x;
}
template <class T> static T atomicMax(T* at, T x) { T o = *at; *at = max(o, x); return o; }
static float atomicAdd(float* at, float x) { float o = *at; *at = o + x; return o; }
static void body() {
  host_body();
  Thread& t = threads[threadIdx.x];
  t.done = true;
  for (Meeting* m : {&whole, &mine().meeting})  // the others no longer wait for this one
    if (--m->expected && m->here >= m->expected) m->here = 0, m->time++;
  swapcontext(&t.context, &main_context);
}
template <class F> static void host_launch(Index grid, int count, int bytes, F call) {
  blockDim = {count, 1, 1}, gridDim = grid;
  std::vector<uint4> shared(bytes / 16 + 1);
  host_shared = (char*)shared.data();
  host_body = call;
  for (long b = 0; b < (long)grid.x * grid.y * grid.z; b++) {
    memset(host_shared, 0xff, bytes);  // NaN
    blockIdx = {int(b % grid.x), int(b / grid.x % grid.y), int(b / grid.x / grid.y)};
    threads = std::vector<Thread>(count);
    warps = std::vector<Warp>((count + 31) / 32);
    whole = Meeting{count};
    for (int i = 0; i < count; i++) {
      Thread& t = threads[i];
      t.stack.resize(1 << 16);
      warps[i / 32].meeting.expected++;
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.data(), t.context.uc_stack.ss_size = t.stack.size();
      makecontext(&t.context, body, 0);
    }
    for (int left = count, moved; left;) {
      moved = 0;
      for (int n = 0; n < count; n++) {
#ifdef REVERSE
        int i = count - 1 - n;
#else
        int i = n;
#endif
        Thread& t = threads[i];
        if (t.done || (t.at && t.at->time == t.time)) continue;
        threadIdx = {i, 0, 0};
        swapcontext(&main_context, &t.context);
        moved++, left -= t.done;
      }
      if (!moved) fprintf(stderr, "threads wait at different places\n"), abort();
    }
  }
}
template <class... A, size_t... I>
static void host_call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
  kernel(*(std::remove_reference_t<A>*)values[I]...);
}
template <class... A> static void host_run(void (*kernel)(A...), const int* size, void** values) {
  host_launch(Index{size[0], size[1], size[2]}, size[3], size[4],
      [=] { host_call(kernel, values, std::index_sequence_for<A...>()); });
}

// -- matrix units and shared memory --
static void mma(float* c, int depth, float (*of)(unsigned, int), const unsigned* a, unsigned b0, unsigned b1) {
  Warp& w = mine();
  int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, each = depth / 8;
  unsigned b[2] = {b0, b1};
  memcpy(w.words[lane], a, 16);
  memcpy(w.words[lane] + 4, b, 8);
  __syncwarp();
  for (int i = 0; i < 4; i++) {
    int row = g + 8 * (i / 2), column = 2 * q + i % 2;
    double sum = 0;
    for (int k = 0; k < depth; k++) {
      int p = k / each, e = k % each;
      sum += (double)of(w.words[4 * (row % 8) + p % 4][row / 8 + 2 * (p / 4)], e) *
             of(w.words[4 * column + p % 4][4 + p / 4], e);
    }
    c[i] += sum;
  }
  __syncwarp();
}
static void mma_half(float* c, const unsigned* a, unsigned b0, unsigned b1) {
  mma(c, 16, [](unsigned x, int e) { return e ? to_floats(x).y : to_floats(x).x; }, a, b0, b1);
}
static void mma_tf32(float* c, const float* a, float b0, float b1) {
  auto of = [](unsigned x, int) { return __int_as_float(x & ~0x1fff); };
  mma(c, 8, of, (const unsigned*)a, __float_as_int(b0), __float_as_int(b1));
}
static void load_transposed(unsigned* x, const void* at) {
  Warp& w = mine();
  int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  w.at[lane] = at;
  __syncwarp();
  for (int m = 0; m < 4; m++)
    x[m] = ((const half*)w.at[8 * m + 2 * q])[g] | (unsigned)((const half*)w.at[8 * m + 2 * q + 1])[g] << 16;
  __syncwarp();
}
static void load_rows(unsigned* x, const void* at) {
  Warp& w = mine();
  int lane = threadIdx.x % 32;
  w.at[lane] = at;
  __syncwarp();
  for (int m = 0; m < 4; m++) x[m] = ((const unsigned*)w.at[8 * m + lane / 4])[lane % 4];
  __syncwarp();
}
static void copies_arrive(int until) {
  Thread& t = threads[threadIdx.x];
  std::vector<Copy> rest;
  for (Copy& c : t.copies)
    if (c.group < until) memcpy(c.to, c.from, c.bytes);
    else rest.push_back(c);
  t.copies = rest;
}
static void copies_arrive() { copies_arrive(1 << 30); }
static void close_copies() { threads[threadIdx.x].group++; }
static void earlier_copies_arrive() { copies_arrive(threads[threadIdx.x].group - 1); }
static void copy(void* to, const void* from, int bytes) {
  Thread& t = threads[threadIdx.x];
  t.copies.push_back({to, from, bytes, t.group});
}
static void copy_later(void* to, const void* from) { copy(to, from, 16); }
static void copy_eight_later(void* to, const void* from) { copy(to, from, 8); }
static void store16(void* to, uint4 x) { *(uint4*)to = x; }
