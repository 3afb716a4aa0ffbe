// Products with AMX tiles: 16 rows of activations by 16 outputs by 64 bytes of inputs at a time.
//
// A block has up to 32 rows: two tiles of activations times two of weights (one panel) give four tiles of sums, so
// that each loaded tile is used twice. The tiles hold exactly as many rows as the block has.
#include "planes.h"

namespace {

constexpr int kTileRows = 16, kRows = 32;
constexpr int64_t kTileWords = 16;                     // words of activations in a tile
constexpr int64_t kTileBytes = kTileWords * 128;       // of a panel: two tiles, 128 bytes from row to row

struct alignas(64) TileConfiguration {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t column_bytes[16];
  uint8_t rows[16];
};

thread_local int configured = 0;

// Tiles 0-3: sums; 4, 5: activations; 6, 7: weights.
void configure(int rows) {
  const uint8_t first = static_cast<uint8_t>(rows < kTileRows ? rows : kTileRows);
  const uint8_t second = static_cast<uint8_t>(rows > kTileRows ? rows - kTileRows : 1);
  TileConfiguration c{};
  c.palette = 1;
  for (int i = 0; i < 8; ++i) c.column_bytes[i] = 64;
  c.rows[0] = c.rows[1] = c.rows[4] = first;
  c.rows[2] = c.rows[3] = c.rows[5] = second;
  c.rows[6] = c.rows[7] = kTileRows;
  // The compiler knows of no more than eight bytes that the instruction reads.
  __asm__ volatile("" : : "r"(&c) : "memory");
  _tile_loadconfig(&c);
  configured = rows;
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
  pack_planes<true>(m, x, first, rows, planes, chunk, out);
}

// Adds one chunk's sums [rows * planes][32] of products into fp32.
void fold(const int32_t (*products)[kPanel], const float* row_scales, const int32_t* row_sums, int rows, int planes,
          const float* scales, float* out, bool resume) {
  for (int r = 0; r < rows; ++r) {
    const __m512i correction = _mm512_set1_epi32(row_sums[r] * 128);
    const __m512 scale = _mm512_set1_ps(row_scales[r]);
    for (int i = 0; i < kPanel; i += 16) {
      __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(products[r] + i), correction));
      if (planes == 2) {
        const __m512i below = _mm512_set1_epi32(row_sums[rows + r] * 128);
        const __m512i rest = _mm512_sub_epi32(_mm512_load_si512(products[rows + r] + i), below);
        value = _mm512_fmadd_ps(value, _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(rest));
      }
      float* p = out + r * kPanel + i;
      const __m512 before = resume ? _mm512_loadu_ps(p) : _mm512_setzero_ps();
      _mm512_storeu_ps(p, _mm512_fmadd_ps(_mm512_mul_ps(value, scale), _mm512_loadu_ps(scales + i), before));
    }
  }
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
    fold(products, row_scales, row_sums, rows, planes, scales, sums, chunk > 0);
  }
}

}  // namespace

namespace llmc {

void fill_amx(Kernels* table) {
  table->bf16 = {kRows, kRows, words_chunk_bytes, pack_bf16_tiles, multiply_bf16_tiles, enter, leave};
  table->rowwise = {kRows, kRows / 2, planes_chunk_bytes, pack_planes_tiles, multiply_int8_tiles, enter, leave};
}

}  // namespace llmc
