// Activations of quantised products as planes of signed bytes, for VNNI and AMX.
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
      int32_t total = 0, rest = 0;
      if (planes == 2) {
        for (int64_t i = 0; i < inputs; ++i) {
          const int32_t number = static_cast<int32_t>(numbers[i]);
          const int32_t part = static_cast<int8_t>(number & 255), high = (number - part) >> 8;
          upper[at + i] = static_cast<int8_t>(high);
          lower[at + i] = static_cast<int8_t>(part);
          total += high;
          rest += part;
        }
        sums[g * all_rows + rows + row] = rest;
      } else {
        for (int64_t i = 0; i < inputs; ++i) {
          const int32_t number = static_cast<int32_t>(numbers[i]);
          upper[at + i] = static_cast<int8_t>(number);
          total += number;
        }
      }
      sums[g * all_rows + row] = total;
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
