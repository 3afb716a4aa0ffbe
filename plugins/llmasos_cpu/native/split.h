// fp32 numbers as sums of three bf16 numbers, for AMX tiles: split_amx.cpp says why that is exact.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int64_t kParts = 3;

inline __m512 widened(__m256i halves) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)); }

// 32 numbers in a row, as the left side of a product: the first `Parts` parts, `stride` bytes apart.
template <int64_t Parts>
inline void split_row(__m512 low, __m512 high, uint8_t* out, int64_t stride) {
  for (int64_t part = 0; part < Parts; ++part) {
    const __m512i nearest = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    _mm512_store_si512(out + part * stride, nearest);
    low = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(nearest)));
    high = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(nearest, 1)));
  }
}

inline __m512i upper_halves(__m512i bits) { return _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))); }

// The upper halves of two numbers side by side: the first below.
inline __m512i paired(__m512i first, __m512i second) {
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_ternarylogic_epi32(mask, second, _mm512_srli_epi32(first, 16), 0xea);  // (mask & second) | first
}

// The nearest bf16 as the upper half; the lower is anything.
inline __m512i rounded(__m512 value) {
  return _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
}

// 16 numbers of one row and 16 of the next, side by side, as the right side of a product: all parts, `stride` bytes apart.
inline void split_pair(__m512 first, __m512 second, uint8_t* out, int64_t stride) {
  const __m512i a = rounded(first), b = rounded(second);
  _mm512_store_si512(out, paired(a, b));
  first = _mm512_sub_ps(first, _mm512_castsi512_ps(upper_halves(a)));
  second = _mm512_sub_ps(second, _mm512_castsi512_ps(upper_halves(b)));
  // Cut, not rounded: what is left then fits as well.
  const __m512i c = _mm512_castps_si512(first), d = _mm512_castps_si512(second);
  _mm512_store_si512(out + stride, paired(c, d));
  first = _mm512_sub_ps(first, _mm512_castsi512_ps(upper_halves(c)));
  second = _mm512_sub_ps(second, _mm512_castsi512_ps(upper_halves(d)));
  _mm512_store_si512(out + 2 * stride, paired(_mm512_castps_si512(first), _mm512_castps_si512(second)));
}

}  // namespace
