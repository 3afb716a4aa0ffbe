// Kernels written once over the vector of vector.h, for the files gemm_*.cpp to compile for their instructions.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "results.h"

namespace {

// ---- fp32 ----------------------------------------------------------------------------------------------------

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

// Inputs whose products are summed by themselves before they are added to the rest. One chain over thousands of inputs rounds
// several times worse: models have activations in the ten thousands.
constexpr int64_t kRun = 128;

// Sums of R rows over V vectors of outputs: one chain of fused multiply-adds per output and run, in the order of the inputs,
// and runs added in order. Every kernel made of this keeps that order, so a row's result is the same in all of them; tiles
// (split_amx.cpp) have an order of their own, for any number of rows.
template <int R, int V>
inline void fp32_tile(const float* a, const float* b, int64_t words, float* sums, bool resume) {
  Vec sum[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = zero();
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
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      float* at = sums + r * kPanel + v * kLanes;
      store(at, resume ? load(at) + sum[r][v] : sum[r][v]);
    }
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
  static_assert(kChunk % kRun == 0, "runs begin at the same inputs however chunks are called for");
  const int64_t last = smaller(end * kChunk, m.words);
  for (int64_t first = begin * kChunk; first < last; first += kRun)
    kFp32[rows - 1](reinterpret_cast<const float*>(block) + first * rows,
                    reinterpret_cast<const float*>(panel) + first * kPanel, smaller(kRun, last - first), sums, first > 0);
}

// ---- bf16 without bf16 instructions --------------------------------------------------------------------------

// The even and odd halves of 32-bit words, as floats.
#if defined(__AVX512F__)
inline Vec even_halves(Vec w) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(w.v), 16))}; }
inline Vec odd_halves(Vec w) {
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(w.v), mask))};
}
#elif defined(__AVX2__)
inline Vec even_halves(Vec w) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(w.v), 16))}; }
inline Vec odd_halves(Vec w) {
  return {_mm256_and_ps(w.v, _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}
#else
inline Vec even_halves(Vec w) {
  Whole bits;
  memcpy(&bits, &w.v, sizeof bits);
  bits <<= 16;
  memcpy(&w.v, &bits, sizeof bits);
  return w;
}
inline Vec odd_halves(Vec w) {
  Whole bits;
  memcpy(&bits, &w.v, sizeof bits);
  bits &= static_cast<int32_t>(0xffff0000u);
  memcpy(&w.v, &bits, sizeof bits);
  return w;
}
#endif

template <int R, int V>
void bf16_rows(const float* activations, const float* panel, int64_t words, float* out, bool resume) {
  for (int column = 0; column < kPanel; column += V * kLanes) {
    const float* a = activations;
    const float* b = panel + column;
    float* sums = out + column;
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = resume ? load(sums + r * kPanel + v * kLanes) : zero();
    for (int64_t k = 0; k < words; ++k) {
      prefetch_step<R, V>(b);
      Vec even[V], odd[V];
      for (int v = 0; v < V; ++v) {
        const Vec w = load(b + v * kLanes);
        even[v] = even_halves(w);
        odd[v] = odd_halves(w);
      }
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec x = all(a[r]), y = all(a[R + r]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = fma(y, odd[v], fma(x, even[v], sum[r][v]));
      }
      a += 2 * R;
      b += kPanel;
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(sums + r * kPanel + v * kLanes, sum[r][v]);
  }
}

#if defined(__AVX512F__)
constexpr int kWidenedRows = 12;
constexpr Fp32Rows kBf16[kWidenedRows] = {bf16_rows<1, 2>, bf16_rows<2, 2>,  bf16_rows<3, 2>,  bf16_rows<4, 2>,
                                          bf16_rows<5, 2>, bf16_rows<6, 2>,  bf16_rows<7, 2>,  bf16_rows<8, 2>,
                                          bf16_rows<9, 2>, bf16_rows<10, 2>, bf16_rows<11, 2>, bf16_rows<12, 2>};
#else
constexpr int kWidenedRows = 4;
constexpr Fp32Rows kBf16[kWidenedRows] = {bf16_rows<1, 4>, bf16_rows<2, 2>, bf16_rows<3, 2>, bf16_rows<4, 2>};
#endif

inline void multiply_bf16_widened(const Layout& m, const uint8_t* block, int rows, int, const uint8_t* panel,
                                  int64_t begin, int64_t end, float* sums) {
  const int64_t first = begin * kChunk, last = smaller(end * kChunk, m.words);
  kBf16[rows - 1](reinterpret_cast<const float*>(block) + first * 2 * rows,
                  reinterpret_cast<const float*>(panel) + first * kPanel, last - first, sums, begin > 0);
}

void fill_generic(Kernels* table) {
  table->fp32 = {kFloatRows, kFloatRows, 2, floats_chunk_bytes, pack_fp32, multiply_fp32, nullptr, nullptr};
  table->bf16 = {kWidenedRows, kWidenedRows, 2, widened_chunk_bytes, pack_bf16_widened, multiply_bf16_widened,
                 nullptr,      nullptr};
  table->finish = finish;
  table->transpose = transpose_words;
}

}  // namespace
