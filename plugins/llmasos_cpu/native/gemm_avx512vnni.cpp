// Products of quantised matrices with AVX-512 VNNI.
#include "integer.h"
#include "planes.h"

namespace {

// One chunk of one block of R rows, each in P planes, V vectors of outputs at a time.
template <int R, int P, int V, bool Nibbles>
void plane_rows(const Layout& m, const uint8_t* block, const uint8_t* panel, int64_t chunk, const float* scales,
                int64_t scale_stride, const float* minima, float* out, bool resume) {
  const int64_t words = chunk_words(m, chunk), groups = m.grouped() ? words / kGroupWords : 1;
  const int64_t count = m.grouped() ? kGroupWords : words;
  const float* row_scales = reinterpret_cast<const float*>(block + kChunk * R * P * 4);
  const int32_t* row_sums = reinterpret_cast<const int32_t*>(row_scales + plane_groups(m) * R);
  const __m512i low = _mm512_set1_epi8(15);
  const int zero_weight = zero_point(m);
  for (int column = 0; column < kPanel; column += V * 16) {
    __m512 total[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        total[r][v] = resume ? _mm512_loadu_ps(out + r * kPanel + column + v * 16) : _mm512_setzero_ps();
    const int32_t* a = reinterpret_cast<const int32_t*>(block);
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* b =
          (m.grouped() ? group_at(m, panel, chunk * kChunkGroups + g) : panel + chunk * kChunk * llmc::kStepBytes) +
          column * 4;
      __m512i sum[R * P][V];
      for (int r = 0; r < R * P; ++r)
        for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_si512();
      for (int64_t k = 0; k < count; k += Nibbles ? 2 : 1) {
        __m512i w[V];
        for (int v = 0; v < V; ++v) {
          w[v] = _mm512_loadu_si512(b + v * 64);
          _mm_prefetch(reinterpret_cast<const char*>(b) + v * 64 + 8192, _MM_HINT_T1);
          if (R > 2) _mm_prefetch(reinterpret_cast<const char*>(b) + v * 64 + 1024, _MM_HINT_T0);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R * P; ++r) {
          const __m512i x = _mm512_set1_epi32(a[r]);
          for (int v = 0; v < V; ++v)
            sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], Nibbles ? _mm512_and_si512(w[v], low) : w[v], x);
        }
        if (Nibbles) {
          for (int v = 0; v < V; ++v) w[v] = _mm512_and_si512(_mm512_srli_epi16(w[v], 4), low);
#pragma GCC unroll 16
          for (int r = 0; r < R * P; ++r) {
            const __m512i x = _mm512_set1_epi32(a[R * P + r]);
            for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], w[v], x);
          }
        }
        b += llmc::kStepBytes;
        a += (Nibbles ? 2 : 1) * R * P;
      }
      for (int r = 0; r < R; ++r) {
        const __m512i correction = _mm512_set1_epi32(row_sums[g * R * P + r] * zero_weight);
        const __m512 scale = _mm512_set1_ps(row_scales[g * R + r]);
        for (int v = 0; v < V; ++v) {
          __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[r][v], correction));
          if (P == 2) {
            const __m512i below = _mm512_set1_epi32(row_sums[g * R * P + R + r] * zero_weight);
            value = _mm512_fmadd_ps(value, _mm512_set1_ps(256.0f),
                                    _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[R * (P - 1) + r][v], below)));
          }
          const int64_t at = g * scale_stride + column + v * 16;
          total[r][v] = _mm512_fmadd_ps(_mm512_mul_ps(value, scale), _mm512_loadu_ps(scales + at), total[r][v]);
          if (minima) {
            const float inputs = row_scales[g * R + r] * plane_sum<P>(row_sums + g * R * P + r, R);
            total[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(inputs), _mm512_loadu_ps(minima + at), total[r][v]);
          }
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + r * kPanel + column + v * 16, total[r][v]);
  }
}

using PlaneRows = void (*)(const Layout& m, const uint8_t* block, const uint8_t* panel, int64_t chunk,
                           const float* scales, int64_t scale_stride, const float* minima, float* out, bool resume);

constexpr int kOnePlane = 12, kTwoPlanes = 8;
#define LLMC_ONE(r, n) plane_rows<r, 1, 2, n>
#define LLMC_TWO(r, n) plane_rows<r, 2, (r <= 6 ? 2 : 1), n>
#define LLMC_EIGHT(f, n) f(1, n), f(2, n), f(3, n), f(4, n), f(5, n), f(6, n), f(7, n), f(8, n)
constexpr PlaneRows kOne8[kOnePlane] = {LLMC_EIGHT(LLMC_ONE, false), LLMC_ONE(9, false), LLMC_ONE(10, false),
                                        LLMC_ONE(11, false), LLMC_ONE(12, false)};
constexpr PlaneRows kOne4[kOnePlane] = {LLMC_EIGHT(LLMC_ONE, true), LLMC_ONE(9, true), LLMC_ONE(10, true),
                                        LLMC_ONE(11, true), LLMC_ONE(12, true)};
constexpr PlaneRows kTwo8[kTwoPlanes] = {LLMC_EIGHT(LLMC_TWO, false)};
constexpr PlaneRows kTwo4[kTwoPlanes] = {LLMC_EIGHT(LLMC_TWO, true)};
#undef LLMC_ONE
#undef LLMC_TWO
#undef LLMC_EIGHT

void multiply_planes(const Layout& m, const uint8_t* block, int rows, int planes, const uint8_t* panel,
                     int64_t begin, int64_t end, float* sums) {
  alignas(64) float scales[kChunkGroups * kPanel], minima[kChunkGroups * kPanel];
  const bool nibbles = m.kind != LLMC_MATRIX_INT8;
  const PlaneRows kernel = planes == 2 ? (nibbles ? kTwo4 : kTwo8)[rows - 1] : (nibbles ? kOne4 : kOne8)[rows - 1];
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const uint8_t* activations = block + chunk * planes_chunk_bytes(m, rows, planes);
    if (m.grouped()) {
      decode_scales(m, panel, chunk * kChunkGroups, chunk_words(m, chunk) / kGroupWords, scales, minima);
      kernel(m, activations, panel, chunk, scales, kPanel, has_minima(m) ? minima : nullptr, sums, chunk > 0);
    } else {
      const float* own = reinterpret_cast<const float*>(panel + m.words * llmc::kStepBytes);
      kernel(m, activations, panel, chunk, own, 0, nullptr, sums, chunk > 0);
    }
  }
}

void pack_planes_words(const Layout& m, const Rows& x, int64_t first, int rows, int planes, int64_t chunk,
                       uint8_t* out) {
  pack_planes<0>(m, x, first, rows, planes, chunk, out);
}

}  // namespace

namespace llmc {

void fill_avx512_vnni(Kernels* table) {
  const Method method = {kOnePlane,       kTwoPlanes, 1, planes_chunk_bytes, pack_planes_words,
                         multiply_planes, nullptr,    nullptr};
  table->rowwise = table->grouped = table->grouped_few = method;
}

}  // namespace llmc
