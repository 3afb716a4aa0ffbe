// Products of quantised matrices: integer sums over a group of inputs, folded into fp32 with the group's scales.
//
// A row of activations is rounded, group by group, to whole multiples of a scale of its own: at most +-127 (8 bits) or
// +-32512 (16 bits). With w = s * (q - zero) + minimum and x = t * p,
//   sum(w * x) = s * t * (sum(q * p) - zero * sum(p)) + minimum * t * sum(p),
// and all that is in parentheses is exact. Matrices with one scale per output have no groups of their own; their
// activations are grouped all the same, as many words together as the kernel's integers can hold.
#pragma once

#include "packing.h"

namespace {

constexpr float kLargest8 = 127.0f, kLargest16 = 32512.0f;  // 127 * 256: the upper plane then fits 8 bits

inline float half_to_float(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const uint32_t exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(fraction) * 5.9604644775390625e-08f;  // 2^-24
  } else {
    const uint32_t bits = ((exponent == 31 ? 255u : exponent + 112) << 23) | (fraction << 13);
    memcpy(&value, &bits, sizeof value);
  }
  return half & 0x8000u ? -value : value;
#endif
}

inline void halves_to_floats(const uint8_t* from, float* out) {
#if defined(__AVX512F__)
  for (int i = 0; i < kPanel; i += 16)
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 2 * i))));
#elif defined(__AVX2__)
  for (int i = 0; i < kPanel; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i))));
#else
  for (int i = 0; i < kPanel; ++i) {
    uint16_t half;
    memcpy(&half, from + 2 * i, 2);
    out[i] = half_to_float(half);
  }
#endif
}

// Bytes of weights in a group.
inline int64_t group_data_bytes(const Layout& m) {
  return (m.kind == LLMC_MATRIX_INT8 ? kGroupWords : kGroupWords / 2) * llmc::kStepBytes;
}

inline int zero_point(const Layout& m) {
  return m.kind == LLMC_MATRIX_INT8 ? 128 : m.kind == LLMC_MATRIX_INT4 ? 8 : 0;
}

inline bool has_minima(const Layout& m) { return m.kind == LLMC_MATRIX_Q4_1 || m.kind == LLMC_MATRIX_Q4_K; }

// Scales and minima [group][32] of groups [first, first + count) of a panel.
inline void decode_scales(const Layout& m, const uint8_t* panel, int64_t first, int64_t count, float* scales,
                          float* minima) {
  const int64_t data = group_data_bytes(m);
  alignas(64) float block_scale[kPanel] = {}, block_minimum[kPanel] = {};
  for (int64_t g = 0; g < count; ++g, scales += kPanel, minima += kPanel) {
    const uint8_t* group = group_at(m, panel, first + g);
    if (m.kind == LLMC_MATRIX_Q4_K) {
      if ((first + g) % llmc::kBlockGroups == 0) {
        halves_to_floats(group - llmc::kBlockHeader, block_scale);
        halves_to_floats(group - llmc::kBlockHeader + 64, block_minimum);
      }
      for (int i = 0; i < kPanel; ++i) scales[i] = block_scale[i] * static_cast<float>(group[data + i]);
      for (int i = 0; i < kPanel; ++i) minima[i] = block_minimum[i] * -static_cast<float>(group[data + kPanel + i]);
    } else {
      halves_to_floats(group + data, scales);
      if (m.kind == LLMC_MATRIX_Q4_1) halves_to_floats(group + data + 64, minima);
    }
  }
}

// One group of a row rounded to whole numbers, which are left in `out` as floats; returns the scale. Zeros behind the
// last input. A row with NaN or infinity gets a NaN scale.
inline float round_group(const Rows& x, int64_t row, int64_t column, int64_t present, int64_t inputs, float top,
                         float* out) {
  Vec most = zero(), poison = zero();
  for (int64_t i = 0; i < inputs; i += kLanes) {
    const int64_t left = present - i;
    const Vec v = left >= kLanes ? load_as_float(x, row, column + i, kLanes)
                  : left > 0     ? load_as_float(x, row, column + i, static_cast<int>(left))
                                 : zero();
    store(out + i, v);
    most = max(absolute(v), most);
    poison = fma(v, zero(), poison);
  }
  const float range = largest(most), bad = sum(poison);
  if (bad != 0.0f) {
    memset(out, 0, static_cast<size_t>(inputs) * 4);
    return NAN;
  }
  const float scale = range < 1e-30f ? 0.0f : range / top;
  const Vec inverse = all(range < 1e-30f ? 0.0f : top / range);
  for (int64_t i = 0; i < inputs; i += kLanes) store(out + i, nearest(load(out + i) * inverse));
  return scale;
}

// ---- kernels without VNNI: activations as pairs of 16-bit numbers --------------------------------------------

// A packed chunk is [word][2][rows] pairs (inputs 0 and 2 of the word, then 1 and 3), then [group][rows] scales, then
// [group][rows] sums.
constexpr int64_t kFoldWords = 32;  // 128 inputs * 255 * 32512 fit 31 bits

inline int64_t fold_words(const Layout& m) { return m.grouped() ? kGroupWords : kFoldWords; }
inline int64_t folds(const Layout& m, int64_t words) { return (words + fold_words(m) - 1) / fold_words(m); }

inline int64_t pairs_chunk_bytes(const Layout& m, int rows, int) {
  return rows * (kChunk * 8 + folds(m, kChunk) * 8);
}

inline void pack_pairs(const Layout& m, const Rows& x, int64_t first, int rows, int planes, int64_t chunk,
                       uint8_t* out) {
  const int64_t words = chunk_words(m, chunk), group = fold_words(m), groups = folds(m, words);
  int32_t* pairs = reinterpret_cast<int32_t*>(out);
  float* scales = reinterpret_cast<float*>(out + kChunk * rows * 8);
  int32_t* sums = reinterpret_cast<int32_t*>(scales + folds(m, kChunk) * rows);
  alignas(64) float numbers[kFoldWords * 4];
  for (int row = 0; row < rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t word = g * group, count = smaller(group, words - word), column = (chunk * kChunk + word) * 4;
      scales[g * rows + row] = round_group(x, first + row, column, m.inputs - column, count * 4,
                                           planes == 2 ? kLargest16 : kLargest8, numbers);
      int32_t total = 0;
      for (int64_t w = 0; w < count; ++w) {
        int32_t p[4];
        for (int i = 0; i < 4; ++i) {
          p[i] = static_cast<int32_t>(numbers[w * 4 + i]);
          total += p[i];
        }
        int32_t* target = pairs + (word + w) * 2 * rows + row;
        target[0] = (p[0] & 0xffff) | static_cast<int32_t>(static_cast<uint32_t>(p[2]) << 16);
        target[rows] = (p[1] & 0xffff) | static_cast<int32_t>(static_cast<uint32_t>(p[3]) << 16);
      }
      sums[g * rows + row] = total;
    }
  }
}

#if !defined(__AVX512F__)

#if defined(__AVX2__)
struct Integers {
  __m256i v;
};
inline Integers no_integers() { return {_mm256_setzero_si256()}; }
inline Integers load_words(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
inline Integers all_words(int32_t x) { return {_mm256_set1_epi32(x)}; }
inline Integers even_bytes(Integers w) { return {_mm256_and_si256(w.v, _mm256_set1_epi32(0x00ff00ff))}; }
inline Integers odd_bytes(Integers w) { return {_mm256_srli_epi16(w.v, 8)}; }
inline Integers low_nibbles(Integers w) { return {_mm256_and_si256(w.v, _mm256_set1_epi8(15))}; }
inline Integers high_nibbles(Integers w) {
  return {_mm256_and_si256(_mm256_srli_epi16(w.v, 4), _mm256_set1_epi8(15))};
}
inline Integers add_products(Integers sum, Integers a, Integers b) {
  return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(a.v, b.v))};
}
inline Vec minus_as_floats(Integers a, int32_t b) {
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(a.v, _mm256_set1_epi32(b)))};
}
#else
struct Integers {
  Whole v;
};
inline Integers no_integers() { return {Whole{0, 0, 0, 0}}; }
inline Integers load_words(const uint8_t* p) {
  Integers w;
  memcpy(&w.v, p, sizeof w.v);
  return w;
}
inline Integers all_words(int32_t x) { return {Whole{x, x, x, x}}; }
inline Integers even_bytes(Integers w) { return {w.v & 0x00ff00ff}; }
inline Integers odd_bytes(Integers w) { return {(w.v >> 8) & 0x00ff00ff}; }
inline Integers low_nibbles(Integers w) { return {w.v & 0x0f0f0f0f}; }
inline Integers high_nibbles(Integers w) { return {(w.v >> 4) & 0x0f0f0f0f}; }
inline Integers add_products(Integers sum, Integers a, Integers b) {
#if defined(__SSE2__)
  typedef short Shorts __attribute__((vector_size(16)));
  const auto products = __builtin_ia32_pmaddwd128((Shorts)a.v, (Shorts)b.v);
  return {sum.v + (Whole)products};
#else
  return {sum.v + (a.v & 0xffff) * ((b.v << 16) >> 16) + (a.v >> 16) * (b.v >> 16)};
#endif
}
inline Vec minus_as_floats(Integers a, int32_t b) { return {__builtin_convertvector(a.v - b, Lanes)}; }
#endif

// One chunk of one block of R rows, V vectors of outputs at a time.
template <int R, int V, bool Nibbles>
void pairs_rows(const Layout& m, const uint8_t* block, const uint8_t* panel, int64_t chunk, const float* scales,
                int64_t scale_stride, const float* minima, float* out, bool resume) {
  const int64_t words = chunk_words(m, chunk), group = fold_words(m), groups = folds(m, words);
  const float* row_scales = reinterpret_cast<const float*>(block + kChunk * R * 8);
  const int32_t* row_sums = reinterpret_cast<const int32_t*>(row_scales + folds(m, kChunk) * R);
  const int zero_weight = zero_point(m);
  for (int column = 0; column < kPanel; column += V * kLanes) {
    Vec total[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) total[r][v] = resume ? load(out + r * kPanel + column + v * kLanes) : zero();
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* b = (m.grouped() ? group_at(m, panel, chunk * kChunkGroups + g)
                                      : panel + (chunk * kChunk + g * group) * llmc::kStepBytes) +
                         column * 4;
      const int32_t* a = reinterpret_cast<const int32_t*>(block) + g * group * 2 * R;
      const int64_t count = smaller(group, words - g * group);
      Integers sum[R][V];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sum[r][v] = no_integers();
      for (int64_t k = 0; k < count; k += Nibbles ? 2 : 1) {
        for (int v = 0; v < V; ++v) {
          const Integers w = load_words(b + v * kLanes * 4);
          const Integers first = Nibbles ? low_nibbles(w) : w;
          const Integers even = even_bytes(first), odd = odd_bytes(first);
          for (int r = 0; r < R; ++r)
            sum[r][v] = add_products(add_products(sum[r][v], even, all_words(a[r])), odd, all_words(a[R + r]));
          if (Nibbles) {
            const Integers second = high_nibbles(w), even2 = even_bytes(second), odd2 = odd_bytes(second);
            for (int r = 0; r < R; ++r)
              sum[r][v] = add_products(add_products(sum[r][v], even2, all_words(a[2 * R + r])), odd2,
                                       all_words(a[3 * R + r]));
          }
        }
        b += llmc::kStepBytes;
        a += (Nibbles ? 4 : 2) * R;
      }
      __builtin_prefetch(b + 4096, 0, 2);
      for (int r = 0; r < R; ++r) {
        const int32_t correction = row_sums[g * R + r] * zero_weight;
        const Vec scale = all(row_scales[g * R + r]);
        const Vec offset = all(row_scales[g * R + r] * static_cast<float>(row_sums[g * R + r]));
        for (int v = 0; v < V; ++v) {
          const int64_t at = g * scale_stride + column + v * kLanes;
          total[r][v] = fma(minus_as_floats(sum[r][v], correction) * scale, load(scales + at), total[r][v]);
          if (minima) total[r][v] = fma(offset, load(minima + at), total[r][v]);
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) store(out + r * kPanel + column + v * kLanes, total[r][v]);
  }
}

using PairsRows = void (*)(const Layout& m, const uint8_t* block, const uint8_t* panel, int64_t chunk,
                           const float* scales, int64_t scale_stride, const float* minima, float* out, bool resume);
constexpr int kPairsRows = 4;
constexpr PairsRows kPairs8[kPairsRows] = {pairs_rows<1, 2, false>, pairs_rows<2, 2, false>, pairs_rows<3, 1, false>,
                                           pairs_rows<4, 1, false>};
constexpr PairsRows kPairs4[kPairsRows] = {pairs_rows<1, 2, true>, pairs_rows<2, 2, true>, pairs_rows<3, 1, true>,
                                           pairs_rows<4, 1, true>};

inline void multiply_pairs16(const Layout& m, const uint8_t* block, int rows, int planes, const uint8_t* panel,
                             int64_t begin, int64_t end, float* sums) {
  alignas(64) float scales[kChunkGroups * kPanel], minima[kChunkGroups * kPanel];
  const PairsRows kernel = (m.kind == LLMC_MATRIX_INT8 ? kPairs8 : kPairs4)[rows - 1];
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const uint8_t* activations = block + chunk * pairs_chunk_bytes(m, rows, planes);
    if (m.grouped()) {
      decode_scales(m, panel, chunk * kChunkGroups, chunk_words(m, chunk) / kGroupWords, scales, minima);
      kernel(m, activations, panel, chunk, scales, kPanel, has_minima(m) ? minima : nullptr, sums, chunk > 0);
    } else {
      const float* own = reinterpret_cast<const float*>(panel + m.words * llmc::kStepBytes);
      kernel(m, activations, panel, chunk, own, 0, nullptr, sums, chunk > 0);
    }
  }
}

inline void fill_integer(Kernels* table) {
  const Method method = {kPairsRows, kPairsRows, 1, pairs_chunk_bytes, pack_pairs, multiply_pairs16, nullptr, nullptr};
  table->rowwise = table->grouped = table->grouped_few = method;
}

#endif

}  // namespace
