// Products of bf16 pairs with AVX-512 BF16.
#include "results.h"

namespace {

template <int R>
void pair_rows(const int32_t* a, const uint8_t* b, int64_t words, float* sums, bool resume) {
  __m512 sum[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[r][v] = resume ? _mm512_loadu_ps(sums + r * kPanel + v * 16) : _mm512_setzero_ps();
  for (int64_t k = 0; k < words; ++k) {
    const __m512bh w0 = (__m512bh)_mm512_loadu_si512(b), w1 = (__m512bh)_mm512_loadu_si512(b + 64);
    _mm_prefetch(reinterpret_cast<const char*>(b) + 16384, _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(b) + 16448, _MM_HINT_T1);
    if (R > 4) {
      _mm_prefetch(reinterpret_cast<const char*>(b) + 1024, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(b) + 1088, _MM_HINT_T0);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(a[r]);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, w0);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, w1);
    }
    a += R;
    b += llmc::kStepBytes;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(sums + r * kPanel + v * 16, sum[r][v]);
}

using PairRows = void (*)(const int32_t* a, const uint8_t* b, int64_t words, float* sums, bool resume);
constexpr int kRows = 14;
constexpr PairRows kPairs[kRows] = {pair_rows<1>,  pair_rows<2>,  pair_rows<3>,  pair_rows<4>, pair_rows<5>,
                                    pair_rows<6>,  pair_rows<7>,  pair_rows<8>,  pair_rows<9>, pair_rows<10>,
                                    pair_rows<11>, pair_rows<12>, pair_rows<13>, pair_rows<14>};

void multiply_pairs(const Layout& m, const uint8_t* block, int rows, int, const uint8_t* panel, int64_t begin,
                    int64_t end, float* sums) {
  const int64_t first = begin * kChunk, last = smaller(end * kChunk, m.words);
  kPairs[rows - 1](reinterpret_cast<const int32_t*>(block) + first * rows, panel + first * llmc::kStepBytes,
                   last - first, sums, begin > 0);
}

}  // namespace

namespace llmc {

void fill_avx512_bf16(Kernels* table) {
  table->bf16 = {kRows, kRows, 2, words_chunk_bytes, pack_bf16_pairs, multiply_pairs, nullptr, nullptr};
  table->finish = finish;
}

}  // namespace llmc
