// Kernels written once over the vector of vector.h, for the files gemm_*.cpp to compile for their instructions.
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
using llmc::kGroupWords;
using llmc::kPanel;
using llmc::Layout;
using llmc::Method;
using llmc::Rows;

constexpr int kPanelVectors = kPanel / kLanes;

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
void transpose_words(const float* words, int64_t stride, int rows, int64_t steps, float* out, int64_t out_stride) {
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

// ---- fp32 ----------------------------------------------------------------------------------------------------

int64_t floats_chunk_bytes(const Layout&, int rows, int) { return kChunk * rows * 4; }

void pack_fp32(const Layout& m, const Rows& x, int64_t first, int rows, int, int64_t chunk, uint8_t* out) {
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

// Into the first-level cache, a few steps ahead; into the second-level one, far enough ahead to hide the memory.
constexpr int64_t kNear = 256, kFar = 4096;
inline void prefetch_near(const float* p) { __builtin_prefetch(p + kNear, 0, 3); }
inline void prefetch_far(const float* p) { __builtin_prefetch(p + kFar, 0, 2); }

// The words of one step, for V vectors of outputs.
template <int R, int V>
inline void prefetch_step(const float* b) {
  prefetch_far(b);
  if (V * kLanes > 16) prefetch_far(b + 16);
  if (R > 4) {
    prefetch_near(b);
    if (V * kLanes > 16) prefetch_near(b + 16);
  }
}

// Sums of R rows over V vectors of outputs: one chain of fused multiply-adds per output, in the order of the inputs.
// Every kernel for fp32 keeps that order, so a row's result is the same in all of them.
template <int R, int V>
inline void fp32_tile(const float* a, const float* b, int64_t words, float* sums, bool resume) {
  Vec sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = resume ? load(sums + r * kPanel + v * kLanes) : zero();
  for (int64_t k = 0; k < words; ++k) {
    Vec w[V];
    for (int v = 0; v < V; ++v) w[v] = load(b + v * kLanes);
    prefetch_step<R, V>(b);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec x = all(a[r]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = fma(x, w[v], sum[r][v]);
    }
    a += R;
    b += kPanel;
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(sums + r * kPanel + v * kLanes, sum[r][v]);
}

template <int R, int V>
void fp32_rows(const float* a, const float* b, int64_t words, float* sums, bool resume) {
  for (int column = 0; column < kPanel; column += V * kLanes)
    fp32_tile<R, V>(a, b + column, words, sums + column, resume);
}

using Fp32Rows = void (*)(const float* a, const float* b, int64_t words, float* sums, bool resume);

// The kernel for each number of rows, chosen so that the sums fit the registers.
#if defined(__AVX512F__)
constexpr int kFloatRows = 14;
constexpr Fp32Rows kFp32[kFloatRows] = {fp32_rows<1, 2>,  fp32_rows<2, 2>,  fp32_rows<3, 2>,  fp32_rows<4, 2>,
                                        fp32_rows<5, 2>,  fp32_rows<6, 2>,  fp32_rows<7, 2>,  fp32_rows<8, 2>,
                                        fp32_rows<9, 2>,  fp32_rows<10, 2>, fp32_rows<11, 2>, fp32_rows<12, 2>,
                                        fp32_rows<13, 2>, fp32_rows<14, 2>};
#elif defined(__AVX2__)
constexpr int kFloatRows = 6;
constexpr Fp32Rows kFp32[kFloatRows] = {fp32_rows<1, 4>, fp32_rows<2, 4>, fp32_rows<3, 4>,
                                        fp32_rows<4, 2>, fp32_rows<5, 2>, fp32_rows<6, 2>};
#else
constexpr int kFloatRows = 4;
constexpr Fp32Rows kFp32[kFloatRows] = {fp32_rows<1, 8>, fp32_rows<2, 4>, fp32_rows<3, 4>, fp32_rows<4, 2>};
#endif

void multiply_fp32(const Layout& m, const uint8_t* block, int rows, int, const uint8_t* panel, int64_t begin,
                   int64_t end, float* sums) {
  const int64_t first = begin * kChunk, last = smaller(end * kChunk, m.words);
  kFp32[rows - 1](reinterpret_cast<const float*>(block) + first * rows,
                  reinterpret_cast<const float*>(panel) + first * kPanel, last - first, sums, begin > 0);
}

// ---- results -------------------------------------------------------------------------------------------------

inline Vec sigmoid(Vec x) { return all(1.0f) / (all(1.0f) + exp(zero() - x)); }

template <int Activation>
inline Vec activate(Vec x) {
  switch (Activation) {
    case LLMC_RELU: return select(x < zero(), zero(), x);
    case LLMC_RELU2: return select(x < zero(), zero(), x) * select(x < zero(), zero(), x);
    case LLMC_GELU: return all(0.5f) * x * (all(1.0f) + erf(x * all(0.70710678f)));
    case LLMC_GELU_TANH:
      return all(0.5f) * x * (all(1.0f) + tanh(all(0.79788456f) * fma(all(0.044715f) * x * x, x, x)));
    case LLMC_SILU: return x * sigmoid(x);
    case LLMC_GELU_QUICK: return x * sigmoid(all(1.702f) * x);
    default: return x;
  }
}

template <int Activation, typename Number>
void finish_rows(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
                 int columns) {
  const Number* residual = static_cast<const Number*>(call.residual);
  const Number* factor = static_cast<const Number*>(call.multiply);
  for (int row = 0; row < count; ++row) {
    Number* y = static_cast<Number*>(call.y) + (first + row) * call.y_stride + column;
    for (int i = 0; i < columns; i += kLanes) {
      const int n = columns - i < kLanes ? columns - i : kLanes;
      const bool whole = n == kLanes;
      Vec value = load(sums + row * kPanel + i);
      if (call.bias) value = value + (whole ? load(call.bias + column + i) : load(call.bias + column + i, n));
      value = activate<Activation>(value);
      if (factor) {
        const Number* p = factor + (first + row) * call.multiply_stride + column + i;
        value = value * (whole ? load(p) : load(p, n));
      }
      if (residual) {
        const Number* p = residual + (first + row) * call.residual_stride + column + i;
        value = value + (whole ? load(p) : load(p, n));
      }
      if (whole) {
        store(y + i, value);
      } else {
        store(y + i, value, n);
      }
    }
  }
}

template <typename Number>
void finish_as(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
               int columns) {
  switch (call.activation) {
    case LLMC_RELU: return finish_rows<LLMC_RELU, Number>(call, sums, first, count, column, columns);
    case LLMC_RELU2: return finish_rows<LLMC_RELU2, Number>(call, sums, first, count, column, columns);
    case LLMC_GELU: return finish_rows<LLMC_GELU, Number>(call, sums, first, count, column, columns);
    case LLMC_GELU_TANH: return finish_rows<LLMC_GELU_TANH, Number>(call, sums, first, count, column, columns);
    case LLMC_SILU: return finish_rows<LLMC_SILU, Number>(call, sums, first, count, column, columns);
    case LLMC_GELU_QUICK: return finish_rows<LLMC_GELU_QUICK, Number>(call, sums, first, count, column, columns);
    default: return finish_rows<LLMC_NONE, Number>(call, sums, first, count, column, columns);
  }
}

void finish(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
            int columns) {
  if (call.y_type == LLMC_BF16) {
    finish_as<bf16>(call, sums, first, count, column, columns);
  } else {
    finish_as<float>(call, sums, first, count, column, columns);
  }
}

void fill_generic(Kernels* table) {
  table->fp32 = {kFloatRows, kFloatRows, floats_chunk_bytes, pack_fp32, multiply_fp32, nullptr, nullptr};
  table->finish = finish;
  table->transpose = transpose_words;
}

}  // namespace
