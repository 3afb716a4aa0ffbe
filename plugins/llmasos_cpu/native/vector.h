// One vector of floats, the widest that the file's instruction set has, and the functions the kernels are made of.
//
// Everything lies in an anonymous namespace: each file gets its own copy, compiled for its own instructions.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own headers say `__Y = __Y`
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

struct bf16 {
  uint16_t bits;
};

inline float widen(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to the nearest, ties to even; a NaN stays one.
inline bf16 narrow(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

#if defined(__AVX512F__)

constexpr int kLanes = 16;
struct Vec {
  __m512 v;
};
using Mask = __mmask16;

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec all(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load(const bf16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline Mask first(int n) { return static_cast<Mask>((1u << n) - 1u); }
// The first n elements, 0 <= n <= kLanes; the rest are 0 and not read.
inline Vec load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline Vec load(const bf16* p, int n) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
#if defined(__AVX512BF16__)
// Numbers below 2^-126 become 0.
inline __m256i narrow(Vec x) { return (__m256i)_mm512_cvtneps_pbh(x.v); }
#else
inline __m256i narrow(Vec x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const Mask nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, kept), 16));
}
#endif
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
inline void store(bf16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
inline void store(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first(n), x.v); }
inline void store(bf16* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow(x)); }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// The second argument where either is NaN.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Mask operator<(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline Mask operator<=(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
inline Mask operator==(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
inline Mask both(Mask a, Mask b) { return a & b; }
inline bool any(Mask m) { return m != 0; }
inline uint32_t bits_of(Mask m) { return m; }
inline Mask mask_of(uint32_t bits) { return static_cast<Mask>(bits); }
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m, no.v, yes.v)}; }
inline Vec absolute(Vec a) { return {_mm512_abs_ps(a.v)}; }
inline Vec with_sign_of(Vec a, Vec sign) {
  const __m512i bit = _mm512_set1_epi32(static_cast<int>(0x80000000u));
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a.v), _mm512_and_si512(bit, _mm512_castps_si512(sign.v))))};
}
// 2^n for whole -127 <= n <= 127; 0 for -127.
inline Vec power_of_two(Vec n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
// y * 2^n where x >= -126 or NaN, 0 elsewhere; n is whole.
inline Vec scaled(Vec y, Vec n, Vec x) {
  return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), y.v, n.v)};
}
inline Vec square_root(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a.v); }

// Sums of four vectors, in order.
inline void sums(const Vec* a, float* out) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a[0].v, a[1].v), _mm512_unpackhi_ps(a[0].v, a[1].v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(a[2].v, a[3].v), _mm512_unpackhi_ps(a[2].v, a[3].v));
  const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

inline void transpose(Vec* a) {
  __m512 b[16], c[16];
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i].v, a[i + 1].v);
    b[i + 1] = _mm512_unpackhi_ps(a[i].v, a[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    c[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
    c[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
    c[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    c[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_f32x4(c[i], c[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_f32x4(c[i], c[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_f32x4(c[i + 8], c[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_f32x4(c[i + 8], c[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    a[i].v = _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88);
    a[i + 4].v = _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0x88);
    a[i + 8].v = _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd);
    a[i + 12].v = _mm512_shuffle_f32x4(b[i + 4], b[i + 12], 0xdd);
  }
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
struct Vec {
  __m256 v;
};
struct Mask {
  __m256 v;
};

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec all(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec load(const bf16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
// The first n elements, 0 <= n <= kLanes; the rest are 0 and not read.
inline Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
inline Vec load(const bf16* p, int n) {
  bf16 copy[8] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i];
  return load(copy);
}
inline __m128i narrow(Vec x) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i kept = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, kept, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
inline void store(bf16* p, Vec x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
inline void store(float* p, Vec x, int n) { _mm256_maskstore_ps(p, first(n), x.v); }
inline void store(bf16* p, Vec x, int n) {
  bf16 copy[8];
  store(copy, x);
  for (int i = 0; i < n; ++i) p[i] = copy[i];
}
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// The second argument where either is NaN.
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Mask operator<(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator<=(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator==(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline Mask both(Mask a, Mask b) { return {_mm256_and_ps(a.v, b.v)}; }
inline uint32_t bits_of(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.v)); }
inline bool any(Mask m) { return bits_of(m) != 0; }
inline Mask mask_of(uint32_t bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i kept = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(kept, lane))};
}
inline Vec select(Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.v, yes.v, m.v)}; }
inline Vec absolute(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
inline Vec with_sign_of(Vec a, Vec sign) { return {_mm256_or_ps(a.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))}; }
// 2^n for whole -127 <= n <= 127; 0 for -127.
inline Vec power_of_two(Vec n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
}
inline Vec square_root(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
inline float sum(Vec a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
inline float largest(Vec a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}

// Sums of four vectors, in order.
inline void sums(const Vec* a, float* out) {
  const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a[0].v, a[1].v), _mm256_hadd_ps(a[2].v, a[3].v));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

inline void transpose(Vec* a) {
  __m256 b[8], c[8];
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i].v, a[i + 1].v);
    b[i + 1] = _mm256_unpackhi_ps(a[i].v, a[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    c[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    c[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    c[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    c[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    a[i].v = _mm256_permute2f128_ps(c[i], c[i + 4], 0x20);
    a[i + 4].v = _mm256_permute2f128_ps(c[i], c[i + 4], 0x31);
  }
}

#else

constexpr int kLanes = 4;
typedef float Lanes __attribute__((vector_size(16)));
typedef int32_t Whole __attribute__((vector_size(16)));
struct Vec {
  Lanes v;
};
struct Mask {
  Whole v;
};

inline Vec zero() { return {Lanes{0, 0, 0, 0}}; }
inline Vec all(float x) { return {Lanes{x, x, x, x}}; }
inline Vec load(const float* p) {
  Vec x;
  memcpy(&x.v, p, sizeof x.v);
  return x;
}
inline Vec load(const bf16* p) { return {Lanes{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}}; }
// The first n elements, 0 <= n <= kLanes; the rest are 0 and not read.
inline Vec load(const float* p, int n) {
  Vec x = zero();
  for (int i = 0; i < n; ++i) x.v[i] = p[i];
  return x;
}
inline Vec load(const bf16* p, int n) {
  Vec x = zero();
  for (int i = 0; i < n; ++i) x.v[i] = widen(p[i]);
  return x;
}
inline void store(float* p, Vec x) { memcpy(p, &x.v, sizeof x.v); }
inline void store(float* p, Vec x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
inline void store(bf16* p, Vec x, int n) {
  for (int i = 0; i < n; ++i) p[i] = narrow(x.v[i]);
}
inline void store(bf16* p, Vec x) { store(p, x, kLanes); }
inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
// The second argument where either is NaN.
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Mask operator<(Vec a, Vec b) { return {a.v < b.v}; }
inline Mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
inline Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
inline Mask both(Mask a, Mask b) { return {a.v & b.v}; }
inline uint32_t bits_of(Mask m) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (m.v[i] ? 1u : 0u) << i;
  return bits;
}
inline bool any(Mask m) { return bits_of(m) != 0; }
inline Mask mask_of(uint32_t bits) {
  const Whole lane = {1, 2, 4, 8};
  const int32_t x = static_cast<int32_t>(bits);
  return {(Whole{x, x, x, x} & lane) == lane};
}
inline Vec select(Mask m, Vec yes, Vec no) { return {m.v ? yes.v : no.v}; }
inline Vec absolute(Vec a) {
  Whole bits;
  memcpy(&bits, &a.v, sizeof bits);
  bits &= 0x7fffffff;
  memcpy(&a.v, &bits, sizeof bits);
  return a;
}
inline Vec with_sign_of(Vec a, Vec sign) {
  Whole bits, other;
  memcpy(&bits, &a.v, sizeof bits);
  memcpy(&other, &sign.v, sizeof other);
  bits |= other & static_cast<int32_t>(0x80000000u);
  memcpy(&a.v, &bits, sizeof bits);
  return a;
}
// 2^n for whole -127 <= n <= 127; 0 for -127.
inline Vec power_of_two(Vec n) {
  const Whole biased = (__builtin_convertvector(n.v, Whole) + 127) << 23;
  memcpy(&n.v, &biased, sizeof biased);
  return n;
}
inline Vec square_root(Vec a) {
  for (int i = 0; i < kLanes; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float largest(Vec a) {
  const float x = a.v[0] > a.v[2] ? a.v[0] : a.v[2], y = a.v[1] > a.v[3] ? a.v[1] : a.v[3];
  return x > y ? x : y;
}

// Sums of four vectors, in order.
inline void sums(const Vec* a, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(a[i]);
}

inline void transpose(Vec* a) {
  const Lanes x = __builtin_shuffle(a[0].v, a[1].v, Whole{0, 4, 1, 5}), y = __builtin_shuffle(a[0].v, a[1].v, Whole{2, 6, 3, 7});
  const Lanes z = __builtin_shuffle(a[2].v, a[3].v, Whole{0, 4, 1, 5}), w = __builtin_shuffle(a[2].v, a[3].v, Whole{2, 6, 3, 7});
  a[0].v = __builtin_shuffle(x, z, Whole{0, 1, 4, 5});
  a[1].v = __builtin_shuffle(x, z, Whole{2, 3, 6, 7});
  a[2].v = __builtin_shuffle(y, w, Whole{0, 1, 4, 5});
  a[3].v = __builtin_shuffle(y, w, Whole{2, 3, 6, 7});
}

#endif

// ---- functions -----------------------------------------------------------------------------------------------

// The nearest whole number, for |x| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
inline Vec nearest(Vec x) {
  const Vec big = all(12582912.0f);
  return (x + big) - big;
}

// 2^x for x <= 0, at most 1 ulp off; 0 below 2^-126 (no denormal results), NaN for NaN.
inline Vec exp2_negative(Vec x) {
#if defined(__AVX512F__)
  const Vec inside = x;  // what falls out of range is masked when it is scaled
#else
  const Vec inside = max(all(-126.0f), x);
#endif
  const Vec n = nearest(inside);
  const Vec f = inside - n;
  Vec y = fma(all(1.534581104e-04f), f, all(1.339993120e-03f));
  y = fma(y, f, all(9.618488960e-03f));
  y = fma(y, f, all(5.550328777e-02f));
  y = fma(y, f, all(2.402264689e-01f));
  y = fma(y, f, all(6.931472057e-01f));
  y = fma(y, f, all(1.0f));
#if defined(__AVX512F__)
  return scaled(y, n, x);
#else
  return select(x < all(-126.0f), zero(), y * power_of_two(n));
#endif
}

// e^x, at most 2 ulp off; 0 below 2^-126 (no denormal results), infinity above e^88.72, NaN for NaN. ln 2 is taken
// off in two parts, of which the first has so few bits that its multiples are exact.
inline Vec exp(Vec x) {
  const Vec inside = min(all(88.8f), max(all(-87.33654f), x));
  const Vec n = nearest(inside * all(1.44269504f));
  const Vec r = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), inside));
  Vec y = fma(all(1.383684513e-03f), r, all(8.374815791e-03f));
  y = fma(y, r, all(4.166822558e-02f));
  y = fma(y, r, all(1.666642017e-01f));
  y = fma(y, r, all(4.999999208e-01f));
  y = fma(y, r, all(1.0f));
  y = fma(y, r, all(1.0f));
  // In two steps, for 2^128 is out of range where the result is not.
  y = select(x < all(-87.33654f), zero(), y * power_of_two(n - all(1.0f)) * all(2.0f));
  return select(all(88.7228394f) < x, all(__builtin_inff()), y);
}

// Hyperbolic tangent, at most 3 ulp off.
inline Vec tanh(Vec x) {
  const Vec size = absolute(x);
  const Vec z = x * x;
  Vec small = fma(all(-5.717045183e-03f), z, all(2.065058745e-02f));
  small = fma(small, z, all(-5.374349815e-02f));
  small = fma(small, z, all(1.333149129e-01f));
  small = fma(small, z, all(-3.333328393e-01f));
  small = fma(small * z, x, x);
  const Vec large = with_sign_of(all(1.0f) - all(2.0f) / (exp(size + size) + all(1.0f)), x);
  return select(size < all(0.625f), small, select(x == x, large, x));
}

// The error function, at most 2e-7 off.
inline Vec erf(Vec x) {
  const Vec size = absolute(x);
  const Vec z = x * x;
  Vec small = fma(all(7.889122857e-05f), z, all(-8.020842267e-04f));
  small = fma(small, z, all(5.189535449e-03f));
  small = fma(small, z, all(-2.685444465e-02f));
  small = fma(small, z, all(1.128360018e-01f));
  small = fma(small, z, all(-3.761262714e-01f));
  small = fma(small, z, all(1.128379166e+00f)) * x;
  const Vec far = min(size, all(4.2f));
  const Vec u = all(2.0f) / (far + all(2.0f));
  Vec tail = fma(all(6.651584521e-03f), u, all(-2.540837459e-01f));
  tail = fma(tail, u, all(6.705421486e-01f));
  tail = fma(tail, u, all(-9.065291812e-02f));
  tail = fma(tail, u, all(4.081648118e-01f));
  tail = fma(tail, u, all(2.570795512e-01f));
  tail = fma(tail, u, all(2.073614839e-03f));
  const Vec large = with_sign_of(all(1.0f) - tail * exp(zero() - far * far), x);
  return select(size < all(1.0f), small, select(x == x, large, x));
}

}  // namespace
