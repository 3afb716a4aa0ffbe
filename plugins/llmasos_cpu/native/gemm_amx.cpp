// Products with AMX tiles: 16 rows of activations by 16 outputs by 64 bytes of inputs at a time.
//
// A block has up to 32 rows: two tiles of activations times two of weights (one panel) give four tiles of sums, so
// that each loaded tile is used twice. The tiles hold exactly as many rows as the block has.
#include "planes.h"
#include "tiles.h"

namespace {

constexpr int64_t kTileWords = 16;                     // words of activations in a tile
constexpr int64_t kTileBytes = kTileWords * 128;       // of a panel: two tiles, 128 bytes from row to row

thread_local int configured = 0;

constexpr int kGroupsConfigured = 1000;  // added to the rows for tiles of 32 inputs

void configure(int rows) {
  configure_tiles(rows, kTileWords);
  configured = rows;
}

void configure_groups(int rows) {
  configure_tiles(rows, kGroupWords);
  configured = rows + kGroupsConfigured;
}

void enter(int rows) { configure(rows); }

void leave() {
  _tile_release();
  configured = 0;
}

inline void prefetch_tiles(const uint8_t* b) {
  for (int i = 0; i < kTileBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(b) + 16384 + i, _MM_HINT_T1);
}

// ---- bf16: activations as [tile][rows][32 inputs] ------------------------------------------------------------

void pack_bf16_tiles(const Layout& m, const Rows& x, int64_t first, int rows, int, int64_t chunk, uint8_t* out) {
  const int64_t words = chunk_words(m, chunk);
  alignas(64) bf16 rounded[2 * kChunk];
  for (int row = 0; row < rows; ++row) {
    round_row(m, x, first + row, chunk, words, rounded);
    for (int64_t tile = 0; tile < words / kTileWords; ++tile)
      memcpy(out + (tile * rows + row) * 64, rounded + tile * 32, 64);
  }
}

void multiply_bf16_tiles(const Layout& m, const uint8_t* block, int rows, int, const uint8_t* panel, int64_t begin,
                         int64_t end, float* sums) {
  if (rows != configured) configure(rows);
  const int64_t first = begin * kChunk, last = smaller(end * kChunk, m.words);
  const int64_t tiles = (last - first) / kTileWords;
  const uint8_t* a = block + first * rows * 4;
  const uint8_t* b = panel + first * llmc::kStepBytes;
  constexpr int kSumStride = kPanel * 4;
  float* lower = sums + kTileRows * kPanel;
  if (rows <= kTileRows) {
    if (begin > 0) {
      _tile_loadd(0, sums, kSumStride);
      _tile_loadd(1, sums + 16, kSumStride);
    } else {
      _tile_zero(0);
      _tile_zero(1);
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      prefetch_tiles(b);
      _tile_loadd(4, a, 64);
      _tile_loadd(6, b, 128);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, b + 64, 128);
      _tile_dpbf16ps(1, 4, 7);
      a += rows * 64;
      b += kTileBytes;
    }
    _tile_stored(0, sums, kSumStride);
    _tile_stored(1, sums + 16, kSumStride);
    return;
  }
  if (begin > 0) {
    _tile_loadd(0, sums, kSumStride);
    _tile_loadd(1, sums + 16, kSumStride);
    _tile_loadd(2, lower, kSumStride);
    _tile_loadd(3, lower + 16, kSumStride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + kTileRows * 64, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, b + 64, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    a += rows * 64;
    b += kTileBytes;
  }
  _tile_stored(0, sums, kSumStride);
  _tile_stored(1, sums + 16, kSumStride);
  _tile_stored(2, lower, kSumStride);
  _tile_stored(3, lower + 16, kSumStride);
}

// ---- int8 with a scale per output ----------------------------------------------------------------------------

void pack_planes_tiles(const Layout& m, const Rows& x, int64_t first, int rows, int planes, int64_t chunk,
                       uint8_t* out) {
  pack_planes<64>(m, x, first, rows, planes, chunk, out);
}

// Adds products [planes * rows][32] into fp32 sums: in the order and with the operations of the VNNI kernels, so that
// both give the same numbers.
template <int P>
inline void fold(const int32_t (*products)[kPanel], const float* row_scales, const int32_t* row_sums, int rows,
                 int zero_weight, const float* scales, const float* minima, float* out, bool resume) {
  const __m512 scale0 = _mm512_loadu_ps(scales), scale1 = _mm512_loadu_ps(scales + 16);
  for (int r = 0; r < rows; ++r) {
    const __m512i correction = _mm512_set1_epi32(row_sums[r] * zero_weight);
    __m512 value0 = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(products[r]), correction));
    __m512 value1 = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(products[r] + 16), correction));
    if (P == 2) {
      const __m512i below = _mm512_set1_epi32(row_sums[rows + r] * zero_weight);
      const __m512i rest0 = _mm512_sub_epi32(_mm512_load_si512(products[rows + r]), below);
      const __m512i rest1 = _mm512_sub_epi32(_mm512_load_si512(products[rows + r] + 16), below);
      const __m512 step = _mm512_set1_ps(256.0f);
      value0 = _mm512_fmadd_ps(value0, step, _mm512_cvtepi32_ps(rest0));
      value1 = _mm512_fmadd_ps(value1, step, _mm512_cvtepi32_ps(rest1));
    }
    float* p = out + r * kPanel;
    const __m512 scale = _mm512_set1_ps(row_scales[r]);
    __m512 total0 = resume ? _mm512_loadu_ps(p) : _mm512_setzero_ps();
    __m512 total1 = resume ? _mm512_loadu_ps(p + 16) : _mm512_setzero_ps();
    total0 = _mm512_fmadd_ps(_mm512_mul_ps(value0, scale), scale0, total0);
    total1 = _mm512_fmadd_ps(_mm512_mul_ps(value1, scale), scale1, total1);
    if (minima) {
      const __m512 inputs = _mm512_set1_ps(row_scales[r] * plane_sum<P>(row_sums + r, rows));
      total0 = _mm512_fmadd_ps(inputs, _mm512_loadu_ps(minima), total0);
      total1 = _mm512_fmadd_ps(inputs, _mm512_loadu_ps(minima + 16), total1);
    }
    _mm512_storeu_ps(p, total0);
    _mm512_storeu_ps(p + 16, total1);
  }
}

inline void fold_planes(const int32_t (*products)[kPanel], const float* row_scales, const int32_t* row_sums, int rows,
                        int planes, int zero_weight, const float* scales, const float* minima, float* out,
                        bool resume) {
  (planes == 2 ? fold<2> : fold<1>)(products, row_scales, row_sums, rows, zero_weight, scales, minima, out, resume);
}

void multiply_int8_tiles(const Layout& m, const uint8_t* block, int rows, int planes, const uint8_t* panel,
                         int64_t begin, int64_t end, float* sums) {
  const int all_rows = rows * planes;
  if (all_rows != configured) configure(all_rows);
  const float* scales = reinterpret_cast<const float*>(panel + m.words * llmc::kStepBytes);
  alignas(64) int32_t products[kRows][kPanel];
  constexpr int kStride = kPanel * 4;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const uint8_t* a = block + chunk * planes_chunk_bytes(m, rows, planes);
    const float* row_scales = reinterpret_cast<const float*>(a + kChunk * all_rows * 4);
    const int32_t* row_sums = reinterpret_cast<const int32_t*>(row_scales + rows);
    const uint8_t* b = panel + chunk * kChunk * llmc::kStepBytes;
    const int64_t tiles = chunk_words(m, chunk) / kTileWords;
    _tile_zero(0);
    _tile_zero(1);
    if (all_rows <= kTileRows) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        prefetch_tiles(b);
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 128);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(7, b + 64, 128);
        _tile_dpbsud(1, 4, 7);
        a += all_rows * 64;
        b += kTileBytes;
      }
    } else {
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 128);
        _tile_dpbsud(0, 4, 6);
        _tile_loadd(5, a + kTileRows * 64, 64);
        _tile_dpbsud(2, 5, 6);
        _tile_loadd(7, b + 64, 128);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(3, 5, 7);
        a += all_rows * 64;
        b += kTileBytes;
      }
      _tile_stored(2, products[kTileRows], kStride);
      _tile_stored(3, products[kTileRows] + 16, kStride);
    }
    _tile_stored(0, products[0], kStride);
    _tile_stored(1, products[0] + 16, kStride);
    fold_planes(products, row_scales, row_sums, rows, planes, 128, scales, nullptr, sums, chunk > 0);
  }
}

// ---- scales per group of 32: half tiles, whose sums are folded group by group --------------------------------

void pack_planes_groups(const Layout& m, const Rows& x, int64_t first, int rows, int planes, int64_t chunk,
                        uint8_t* out) {
  pack_planes<32>(m, x, first, rows, planes, chunk, out);
}

void enter_groups(int rows) { configure_groups(rows); }

// Spreads a group's 4-bit weights over bytes [8 words][32 outputs].
inline void spread_nibbles(const uint8_t* from, uint8_t* to) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 128; half += 64) {
      const __m512i w = _mm512_loadu_si512(from + i * 128 + half);
      _mm512_store_si512(to + i * 256 + half, _mm512_and_si512(w, low));
      _mm512_store_si512(to + i * 256 + 128 + half, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
    }
  }
}

void multiply_groups(const Layout& m, const uint8_t* block, int rows, int planes, const uint8_t* panel, int64_t begin,
                     int64_t end, float* sums) {
  const int all_rows = rows * planes;
  if (all_rows + kGroupsConfigured != configured) configure_groups(all_rows);
  const bool nibbles = m.kind != LLMC_MATRIX_INT8;
  const int zero_weight = zero_point(m);
  const int64_t group_bytes = m.group_bytes;
  alignas(64) float scales[kChunkGroups * kPanel], minima[kChunkGroups * kPanel];
  alignas(64) int32_t products[2][kRows][kPanel];
  alignas(64) uint8_t spread[2][kGroupWords * 128];
  constexpr int kStride = kPanel * 4;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t groups = chunk_words(m, chunk) / kGroupWords;
    const uint8_t* a = block + chunk * planes_chunk_bytes(m, rows, planes);
    const float* row_scales = reinterpret_cast<const float*>(a + kChunk * all_rows * 4);
    const int32_t* row_sums = reinterpret_cast<const int32_t*>(row_scales + kChunkGroups * rows);
    decode_scales(m, panel, chunk * kChunkGroups, groups, scales, minima);
    const auto fold_group = [&](int64_t g) {
      fold_planes(products[g & 1], row_scales + g * rows, row_sums + g * all_rows, rows, planes, zero_weight,
                  scales + g * kPanel, has_minima(m) ? minima + g * kPanel : nullptr, sums, chunk + g > 0);
    };
    for (int64_t g = 0; g < groups; ++g, a += all_rows * 32) {
      const uint8_t* b = group_at(m, panel, chunk * kChunkGroups + g);
      for (int64_t i = 0; i < group_bytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(b) + 8192 + i, _MM_HINT_T1);
      if (nibbles) {
        spread_nibbles(b, spread[g & 1]);
        b = spread[g & 1];
        // The tile loads below read what was stored here; to the compiler they are calls without memory.
        __asm__ volatile("" : : "r"(b) : "memory");
      }
      int32_t(*out)[kPanel] = products[g & 1];
      _tile_loadd(4, a, 32);
      _tile_loadd(6, b, 128);
      _tile_loadd(7, b + 64, 128);
      _tile_zero(0);
      _tile_dpbsud(0, 4, 6);
      _tile_zero(1);
      _tile_dpbsud(1, 4, 7);
      if (all_rows > kTileRows) {
        _tile_loadd(5, a + kTileRows * 32, 32);
        _tile_zero(2);
        _tile_dpbsud(2, 5, 6);
        _tile_zero(3);
        _tile_dpbsud(3, 5, 7);
        _tile_stored(2, out[kTileRows], kStride);
        _tile_stored(3, out[kTileRows] + 16, kStride);
      }
      _tile_stored(0, out[0], kStride);
      _tile_stored(1, out[0] + 16, kStride);
      // One group late: its products have arrived by then.
      if (g > 0) fold_group(g - 1);
    }
    fold_group(groups - 1);
  }
}

}  // namespace

namespace llmc {

void fill_amx(Kernels* table) {
  table->bf16 = {kRows, kRows, 2, words_chunk_bytes, pack_bf16_tiles, multiply_bf16_tiles, enter, leave};
  table->rowwise = {kRows, kRows / 2, 1, planes_chunk_bytes, pack_planes_tiles, multiply_int8_tiles, enter, leave};
  table->grouped = {kRows,           kRows / 2,    1, planes_chunk_bytes, pack_planes_groups,
                    multiply_groups, enter_groups, leave};
}

}  // namespace llmc
