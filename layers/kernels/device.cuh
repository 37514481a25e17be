// What the CUDA C++ files share: the matrix units and their layouts, half precision, shared memory.
// A lane is (g, q) = (lane / 4, lane % 4). tests/layers/host.h has the same for a CPU, where HOST is
// defined.
#ifndef HOST
typedef unsigned short half;  // its bits
#define SHARED(name) extern __shared__ __align__(16) char name[]
// Two halves.
__device__ __forceinline__ float2 to_floats(unsigned x) {
  float2 y;
  asm("{.reg .f16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}" : "=f"(y.x), "=f"(y.y) : "r"(x));
  return y;
}
__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned x;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
  return x;
}
// Sums and products of two halves.
__device__ __forceinline__ unsigned add_pair(unsigned a, unsigned b) {
  unsigned c;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
__device__ __forceinline__ unsigned times_pair(unsigned a, unsigned b) {
  unsigned c;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
// c += a b of half precision, 16 x 16 times 16 x 8. Rows of a: g, g + 8, g, g + 8; columns (pairs) 2q,
// 2q, 2q + 8, 2q + 8; b: rows (pairs) 2q and 2q + 8, column g; c as below.
__device__ __forceinline__ void mma_half(float* c, const unsigned* a, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// c += a b of TF32, 16 x 8 times 8 x 8. Rows of a: g, g + 8, g, g + 8; columns q, q, q + 4, q + 4;
// b: rows q and q + 4, column g; c: (g, 2q), (g, 2q + 1), then row g + 8. What is below TF32's digits
// is cut off.
__device__ __forceinline__ void mma_tf32(float* c, const float* a, float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_int(a[0])), "r"(__float_as_int(a[1])), "r"(__float_as_int(a[2])),
        "r"(__float_as_int(a[3])), "r"(__float_as_int(b0)), "r"(__float_as_int(b1)));
}
// exp(x) and 1 / x to two units in the last place; what is below 2^-126 is 0.
__device__ __forceinline__ float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Four 8 x 4 blocks of 32 bits in shared memory, at a lane's row of 16 bytes (lane 8n + r: row r of
// block n): a lane receives of each block column q of row g.
__device__ __forceinline__ void load_rows(unsigned* x, const void* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"((unsigned)__cvta_generic_to_shared(at)) : "memory");
}
// Four 8 x 8 blocks of halves likewise, transposed: a lane receives of each block rows 2q and 2q + 1 of
// column g.
__device__ __forceinline__ void load_transposed(unsigned* x, const void* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"((unsigned)__cvta_generic_to_shared(at)) : "memory");
}
// Sixteen bytes in one store (the compiler would split it).
__device__ __forceinline__ void store16(void* to, uint4 x) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" :: "l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
// Sixteen bytes from global to shared memory, some time before `copies_arrive` for the same thread.
__device__ __forceinline__ void copy_later(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
      :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void copy_eight_later(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;"
      :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
// Copies since the last of these are a group; all groups but the last one have arrived.
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void earlier_copies_arrive() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }
__device__ __forceinline__ void copies_arrive() { asm volatile("cp.async.wait_all;" ::: "memory"); }
// Eight bytes, whole, into and from memory that several devices write and read.
__device__ __forceinline__ void put_word(unsigned long long* at, unsigned long long x) {
  asm volatile("st.relaxed.sys.global.b64 [%0], %1;" :: "l"(at), "l"(x) : "memory");
}
__device__ __forceinline__ unsigned long long look(const unsigned long long* at) {
  unsigned long long x;
  asm volatile("ld.relaxed.sys.global.b64 %0, [%1];" : "=l"(x) : "l"(at) : "memory");
  return x;
}
#endif

__device__ __forceinline__ unsigned negative_pair(unsigned a) { return a ^ 0x80008000u; }

// What a half of a convolution's result is in units of: the image's own, of its activity's largest pixel
// and the kernel's scale (Plan.rows_back in spectral.py).
__device__ __forceinline__ float unit(float largest, float kernel_scale) {
  int exponent = (min(__float_as_int(largest), 0x7D000000) & 0x7F800000) + 0x00800000;
  return __int_as_float(exponent) * kernel_scale * (1.f / 16384.f);
}
// Two and four neighbours of a convolution's result, halves in such units or float32.
__device__ __forceinline__ float2 two(const float* at, float) { return *(const float2*)at; }
__device__ __forceinline__ float2 two(const half* at, float unit) {
  float2 x = to_floats(*(const unsigned*)at);
  return make_float2(unit * x.x, unit * x.y);
}
__device__ __forceinline__ float4 four(const float* at, float) { return *(const float4*)at; }
__device__ __forceinline__ float4 four(const half* at, float unit) {
  uint2 x = *(const uint2*)at;
  float2 a = to_floats(x.x), b = to_floats(x.y);
  return make_float4(unit * a.x, unit * a.y, unit * b.x, unit * b.y);
}

// The nearest TF32 value.
__device__ __forceinline__ float tf32(float x) { return __int_as_float((__float_as_int(x) + 0x1000) & ~0x1fff); }
