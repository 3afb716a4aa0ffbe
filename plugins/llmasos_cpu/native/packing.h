// Packing activations, written once over the vector of vector.h.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"
#include "vector.h"

namespace {

using llmc::Kernels;
using llmc::kChunk;
using llmc::kChunkGroups;
using llmc::kGroup;
using llmc::kGroupWords;
using llmc::kPanel;
using llmc::Layout;
using llmc::Method;
using llmc::Rows;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t chunk_words(const Layout& m, int64_t chunk) { return smaller(kChunk, m.words - chunk * kChunk); }

inline Vec load_as_float(const Rows& x, int64_t row, int64_t column, int count) {
  const int64_t at = row * x.stride + column;
  if (x.type == LLMC_BF16) {
    const bf16* p = static_cast<const bf16*>(x.data) + at;
    return count == kLanes ? load(p) : load(p, count);
  }
  const float* p = static_cast<const float*>(x.data) + at;
  return count == kLanes ? load(p) : load(p, count);
}

// out[step * out_stride + row] = words[row * stride + step].
inline void transpose_words(const float* words, int64_t stride, int rows, int64_t steps, float* out, int64_t out_stride) {
  for (int64_t step = 0; step < steps; step += kLanes) {
    const int columns = static_cast<int>(smaller(kLanes, steps - step));
    for (int row = 0; row < rows; row += kLanes) {
      const int count = rows - row < kLanes ? rows - row : kLanes;
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const float* p = words + (row + i) * stride + step;
        tile[i] = i >= count ? zero() : columns == kLanes ? load(p) : load(p, columns);
      }
      transpose(tile);
      for (int i = 0; i < columns; ++i) {
        float* p = out + (step + i) * out_stride + row;
        if (count == kLanes) {
          store(p, tile[i]);
        } else {
          store(p, tile[i], count);
        }
      }
    }
  }
}

// ---- fp32: [word][rows] -------------------------------------------------------------------------------------

inline int64_t floats_chunk_bytes(const Layout&, int rows, int) { return kChunk * rows * 4; }

inline void pack_fp32(const Layout& m, const Rows& x, int64_t first, int rows, int, int64_t chunk, uint8_t* out) {
  const int64_t column = chunk * kChunk, words = chunk_words(m, chunk);
  float* target = reinterpret_cast<float*>(out);
  if (x.type == LLMC_FP32) {
    const float* from = static_cast<const float*>(x.data) + first * x.stride + column;
    if (rows == 1) {
      memcpy(target, from, static_cast<size_t>(words) * 4);
    } else {
      transpose_words(from, x.stride, rows, words, target, rows);
    }
    return;
  }
  for (int row = 0; row < rows; ++row) {
    float wide[kChunk];
    for (int64_t i = 0; i < words; i += kLanes) {
      const int count = static_cast<int>(smaller(kLanes, words - i));
      store(wide + i, load_as_float(x, first + row, column + i, count), count);
    }
    for (int64_t i = 0; i < words; ++i) target[i * rows + row] = wide[i];
  }
}

// ---- bf16 ----------------------------------------------------------------------------------------------------

// Inputs [chunk * 512, ...) of a row rounded to bf16, zeros behind the last, `words` words.
inline void round_row(const Layout& m, const Rows& x, int64_t row, int64_t chunk, int64_t words, bf16* out) {
  const int64_t column = chunk * kChunk * 2, present = smaller(2 * words, m.inputs - column);
  int64_t i = 0;
  for (; i + kLanes <= present; i += kLanes) store(out + i, load_as_float(x, row, column + i, kLanes));
  for (; i < 2 * words; i += kLanes) {
    const int64_t left = present - i;
    const int count = static_cast<int>(left < 0 ? 0 : left);
    store(out + i, count > 0 ? load_as_float(x, row, column + i, count) : zero());
  }
}

// For kernels that multiply pairs: [word][rows].
inline int64_t words_chunk_bytes(const Layout&, int rows, int) { return kChunk * rows * 4; }

inline void pack_bf16_pairs(const Layout& m, const Rows& x, int64_t first, int rows, int, int64_t chunk,
                            uint8_t* out) {
  const int64_t words = chunk_words(m, chunk);
  if (rows == 1) return round_row(m, x, first, chunk, words, reinterpret_cast<bf16*>(out));
  alignas(64) float pairs[16][kChunk];
  for (int row = 0; row < rows; ++row)
    round_row(m, x, first + row, chunk, words, reinterpret_cast<bf16*>(pairs[row]));
  transpose_words(pairs[0], kChunk, rows, words, reinterpret_cast<float*>(out), rows);
}

// For kernels that widen to fp32: [word][2][rows] floats of bf16 values.
inline int64_t widened_chunk_bytes(const Layout&, int rows, int) { return kChunk * rows * 8; }

inline void pack_bf16_widened(const Layout& m, const Rows& x, int64_t first, int rows, int, int64_t chunk,
                              uint8_t* out) {
  const int64_t words = chunk_words(m, chunk);
  alignas(64) bf16 rounded[2 * kChunk];
  float* target = reinterpret_cast<float*>(out);
  for (int row = 0; row < rows; ++row) {
    round_row(m, x, first + row, chunk, words, rounded);
    for (int64_t i = 0; i < 2 * words; ++i) target[i * rows + row] = widen(rounded[i]);
  }
}

}  // namespace
