// fp32 products with AMX tiles of bf16: every fp32 number is the sum of three bf16 numbers, so a product of two is a sum of
// nine products of bf16, of which six matter in fp32.
//
// A number is split from above: the nearest bf16, the nearest (or next smaller) bf16 of what is left, and what is left then,
// which is itself a bf16 (8 + 8 + 8 bits, and signs). The three products left out are below 2^-22 of the whole at worst and
// about 2^-26 as a rule, and of either sign; the tiles add in fp32. So the results are as near to the true ones as those of
// fp32 instructions, and come 2.7 times as fast at best: 6 tile instructions do the work of 16 vector ones.
//
// Numbers below 2^-126, of which tiles know nothing, count as zero. That touches the lowest part of weights below 1e-33.
// Infinities become NaN, as they do anywhere in a sum with one of the other sign.
//
// Weights stay in memory as they are, for two bytes more each would cost decoding a third of its speed: they are split for all
// the rows that are there, 512 inputs at a time, and for few rows 32 at a time, while the tiles multiply the 32 before.
#include "packing.h"
#include "split.h"
#include "tiles.h"

namespace {

constexpr int64_t kRunWords = 512;     // inputs split at a time
constexpr int64_t kTileInputs = 32;
constexpr int64_t kPartBytes = kTileInputs * kPanel * 2;  // of a tile's weights, outputs side by side
constexpr int64_t kTileBytes = kParts * kPartBytes;
constexpr int64_t kFar = 4096, kNear = 512;  // numbers ahead, for the second and the first cache

thread_local int configured = 0;

void enter(int rows) {
  configure_tiles(rows, kTileInputs / 2);
  configured = rows;
}

void leave() {
  _tile_release();
  configured = 0;
}

inline int64_t run_words(const Layout& m, int64_t run) { return smaller(kRunWords, m.words - run * kRunWords); }
inline int64_t run_tiles(const Layout& m, int64_t run) { return (run_words(m, run) + kTileInputs - 1) / kTileInputs; }

// ---- activations: [tile][part][rows][32 inputs] --------------------------------------------------------------

inline int64_t run_bytes(const Layout&, int rows, int) { return kRunWords * rows * kParts * 2; }

void pack(const Layout& m, const Rows& x, int64_t first, int rows, int, int64_t run, uint8_t* out) {
  const int64_t column = run * kRunWords, words = run_words(m, run);
  for (int64_t tile = 0; tile < run_tiles(m, run); ++tile)
    for (int row = 0; row < rows; ++row) {
      __m512 rest[2];
      for (int half = 0; half < 2; ++half) {
        const int64_t at = tile * kTileInputs + half * kLanes, left = words - at;
        rest[half] = left <= 0 ? _mm512_setzero_ps()
                               : load_as_float(x, first + row, column + at,
                                               static_cast<int>(smaller(kLanes, left))).v;
      }
      split_row<kParts>(rest[0], rest[1], out + (tile * kParts * rows + row) * 64, rows * 64);
    }
}

// ---- weights: [tile][part][32 inputs, in pairs][32 outputs] --------------------------------------------------

constexpr int kPieces = kTileInputs * kPanel / 32;  // of a tile: two inputs of 16 outputs

// Pieces [begin, end) of a tile with the weights of `words` inputs from `from`, all of it but where a panel ends.
inline void split_pieces(const float* from, int64_t words, uint8_t* out, int begin, int end) {
  if (words >= kTileInputs) {
#pragma GCC unroll 6
    for (int i = begin; i < end; ++i) {
      const float* at = from + i / 2 * 2 * kPanel + i % 2 * 16;
      for (int row = 0; row < 2; ++row) {
        _mm_prefetch(reinterpret_cast<const char*>(at + row * kPanel + kFar), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(at + row * kPanel + kNear), _MM_HINT_T0);
      }
      split_pair(_mm512_load_ps(at), _mm512_load_ps(at + kPanel), out + i * 64, kPartBytes);
    }
    return;
  }
  for (int i = begin; i < end; ++i) {
    const float* at = from + i / 2 * 2 * kPanel + i % 2 * 16;
    const int64_t first = i / 2 * 2;
    split_pair(first < words ? _mm512_load_ps(at) : _mm512_setzero_ps(),
               first + 1 < words ? _mm512_load_ps(at + kPanel) : _mm512_setzero_ps(), out + i * 64, kPartBytes);
  }
}

// ---- products ------------------------------------------------------------------------------------------------

template <bool Two>
inline void multiply_tiles() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  if (Two) {
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// The six products of 32 inputs; each step changes one side. `meanwhile` has work for the vector units.
template <bool Two, typename Work>
inline void sum_tile(const uint8_t* a, const uint8_t* b, int rows, const Work& meanwhile) {
  const auto activations = [&](int64_t part) {
    _tile_loadd(4, a + part * rows * 64, 64);
    if (Two) _tile_loadd(5, a + (part * rows + kTileRows) * 64, 64);
  };
  const auto weights = [&](int64_t part) {
    _tile_loadd(6, b + part * kPartBytes, 128);
    _tile_loadd(7, b + part * kPartBytes + 64, 128);
  };
  activations(0), weights(2), multiply_tiles<Two>(), meanwhile(0, 6);
  weights(1), multiply_tiles<Two>(), meanwhile(6, 12);
  activations(1), multiply_tiles<Two>(), meanwhile(12, 17);
  weights(0), multiply_tiles<Two>(), meanwhile(17, 22);
  activations(2), multiply_tiles<Two>(), meanwhile(22, 27);
  activations(0), multiply_tiles<Two>(), meanwhile(27, kPieces);
}

constexpr int kSumStride = kPanel * 4;

template <bool Two>
inline void begin_sums(const float* sums, bool resume) {
  if (!resume) {
    _tile_zero(0);
    _tile_zero(1);
    if (Two) {
      _tile_zero(2);
      _tile_zero(3);
    }
    return;
  }
  _tile_loadd(0, sums, kSumStride);
  _tile_loadd(1, sums + 16, kSumStride);
  if (Two) {
    _tile_loadd(2, sums + kTileRows * kPanel, kSumStride);
    _tile_loadd(3, sums + kTileRows * kPanel + 16, kSumStride);
  }
}

template <bool Two>
inline void end_sums(float* sums) {
  _tile_stored(0, sums, kSumStride);
  _tile_stored(1, sums + 16, kSumStride);
  if (Two) {
    _tile_stored(2, sums + kTileRows * kPanel, kSumStride);
    _tile_stored(3, sums + kTileRows * kPanel + 16, kSumStride);
  }
}

// Weights of a run are split while tiles of the run are multiplied with the first block of rows. Tiles are loaded from the
// cache, not from the stores under way: so two tiles ahead.
struct Split {
  const float* panel;
  int64_t words, tiles;
  uint8_t* out;
  int64_t buffers;  // tiles kept

  void operator()(int64_t tile, int begin, int end) const {
    if (tile < tiles)
      split_pieces(panel + tile * kTileInputs * kPanel, words - tile * kTileInputs, out + tile % buffers * kTileBytes, begin, end);
  }
};

template <bool Two>
void multiply_and_split(const uint8_t* a, int rows, const Split& split, float* sums, bool resume) {
  begin_sums<Two>(sums, resume);
  split(0, 0, kPieces);
  split(1, 0, kPieces);
  for (int64_t tile = 0; tile < split.tiles; ++tile, a += kParts * rows * 64) {
    // The tiles read what was stored before; to the compiler they are calls without memory.
    __asm__ volatile("" : : "r"(split.out) : "memory");
    sum_tile<Two>(a, split.out + tile % split.buffers * kTileBytes, rows,
                  [&](int begin, int end) { split(tile + 2, begin, end); });
  }
  end_sums<Two>(sums);
}

template <bool Two>
void multiply_run(const uint8_t* a, const uint8_t* b, int rows, int64_t tiles, float* sums, bool resume) {
  begin_sums<Two>(sums, resume);
  for (int64_t tile = 0; tile < tiles; ++tile, a += kParts * rows * 64, b += kTileBytes)
    sum_tile<Two>(a, b, rows, [](int, int) {});
  end_sums<Two>(sums);
}

void multiply(const Layout& m, const uint8_t* blocks, int64_t stride, int64_t rows, const uint8_t* panel, int64_t begin,
              int64_t end, float* sums) {
  const float* from = reinterpret_cast<const float*>(panel);
  const int first = static_cast<int>(smaller(rows, kRows));
  if (first != configured) enter(first);
  if (rows <= kRows) {  // the whole panel at once
    alignas(64) uint8_t weights[3 * kTileBytes];
    const Split split{from, m.words, (m.words + kTileInputs - 1) / kTileInputs, weights, 3};
    return (rows > kTileRows ? multiply_and_split<true> : multiply_and_split<false>)(blocks, first, split, sums, false);
  }
  alignas(64) uint8_t weights[kRunWords / kTileInputs * kTileBytes];
  for (int64_t run = begin; run < end; ++run) {
    const int64_t tiles = run_tiles(m, run);
    const uint8_t* a = blocks + run * run_bytes(m, kRows, 1);
    multiply_and_split<true>(a, kRows, Split{from + run * kRunWords * kPanel, run_words(m, run), tiles, weights, tiles}, sums, run > 0);
    for (int64_t row = kRows; row < rows; row += kRows) {
      const int count = static_cast<int>(smaller(kRows, rows - row));
      if (count != configured) enter(count);
      a = blocks + row / kRows * stride + run * run_bytes(m, count, 1);
      (count > kTileRows ? multiply_run<true> : multiply_run<false>)(a, weights, count, tiles, sums + row * kPanel, run > 0);
    }
    if (configured != kRows) enter(kRows);
  }
}

}  // namespace

namespace llmc {

void fill_split_amx(Kernels* table) {
  table->fp32 = {kRows, kRows, 1, run_bytes, pack, nullptr, enter, leave, kRunWords, multiply};
}

}  // namespace llmc
