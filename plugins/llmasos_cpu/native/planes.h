// Activations of quantised products as planes of signed bytes, for the AVX-512 VNNI and AMX kernels.
//
// 16-bit activations are two rows of bytes, 256 * upper + lower, both signed; 8-bit ones are one. A packed chunk is the
// bytes, then [group][rows] scales, then [group][planes][rows] sums. The bytes are [word][planes][rows] words for VNNI,
// [tile][planes][rows][64 or 32] for AMX.
#pragma once

#include "integer.h"

namespace {

inline int64_t plane_groups(const Layout& m) { return m.grouped() ? kChunkGroups : 1; }

inline int64_t planes_chunk_bytes(const Layout& m, int rows, int planes) {
  return kChunk * rows * planes * 4 + plane_groups(m) * rows * (1 + planes) * 4;
}

template <int P>
inline float plane_sum(const int32_t* sums, int rows) {
  return P == 1 ? static_cast<float>(sums[0]) : 256.0f * static_cast<float>(sums[0]) + static_cast<float>(sums[rows]);
}

// Tile: bytes of a row of a tile, or 0 for words.
template <int Tile>
void pack_planes(const Layout& m, const Rows& x, int64_t first, int rows, int planes, int64_t chunk, uint8_t* out) {
  const int64_t words = chunk_words(m, chunk), groups = m.grouped() ? words / kGroupWords : 1;
  const int64_t inputs = m.grouped() ? kGroup : words * 4;
  float* scales = reinterpret_cast<float*>(out + kChunk * rows * planes * 4);
  int32_t* sums = reinterpret_cast<int32_t*>(scales + plane_groups(m) * rows);
  const int all_rows = rows * planes;
  constexpr int kMost = 64;
  alignas(64) int8_t bytes[Tile ? 2 : kMost][kChunk * 4];
  alignas(64) float numbers[kChunk * 4];
  for (int row = 0; row < rows; ++row) {
    int8_t* upper = bytes[Tile ? 0 : row];
    int8_t* lower = bytes[Tile ? 1 : rows + row];
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = g * inputs, column = chunk * kChunk * 4 + at;
      scales[g * rows + row] = round_group(x, first + row, column, m.inputs - column, inputs,
                                           planes == 2 ? kLargest16 : kLargest8, numbers);
      // Both loops go 16 at a time: groups are 32 inputs, or whole tiles of 64.
      __m512i total = _mm512_setzero_si512(), rest = _mm512_setzero_si512();
      for (int64_t i = 0; i < inputs; i += 16) {
        __m512i number = _mm512_cvtps_epi32(_mm512_load_ps(numbers + i));
        if (planes == 2) {
          const __m512i part = _mm512_srai_epi32(_mm512_slli_epi32(number, 24), 24);
          number = _mm512_srai_epi32(_mm512_sub_epi32(number, part), 8);
          rest = _mm512_add_epi32(rest, part);
          _mm_store_si128(reinterpret_cast<__m128i*>(lower + at + i), _mm512_cvtepi32_epi8(part));
        }
        total = _mm512_add_epi32(total, number);
        _mm_store_si128(reinterpret_cast<__m128i*>(upper + at + i), _mm512_cvtepi32_epi8(number));
      }
      if (planes == 2) sums[g * all_rows + rows + row] = _mm512_reduce_add_epi32(rest);
      sums[g * all_rows + row] = _mm512_reduce_add_epi32(total);
    }
    if constexpr (Tile > 0) {
      for (int64_t tile = 0; tile < words * 4 / Tile; ++tile)
        for (int p = 0; p < planes; ++p)
          memcpy(out + ((tile * planes + p) * rows + row) * Tile, bytes[p] + tile * Tile, Tile);
    }
  }
  if (!Tile) {
    if (all_rows == 1) {
      memcpy(out, bytes[0], static_cast<size_t>(words) * 4);
    } else {
      transpose_words(reinterpret_cast<const float*>(bytes[0]), kChunk, all_rows, words, reinterpret_cast<float*>(out),
                      all_rows);
    }
  }
}

}  // namespace
