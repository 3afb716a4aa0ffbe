// Attention of many queries with AMX tiles: fp32 as sums of bf16 parts, see split_amx.cpp; bf16 keys and values as they are, with
// queries and weights in two parts. Everything but the two products is that of attention_kernels.h: queries along the lanes, online
// softmax by tiles of keys. Keys and values are split once for all queries of a block, of which there are therefore many.
#include "attention_kernels.h"
#include "split.h"
#include "tiles.h"

namespace {

constexpr int64_t kMostWidth = 256;
constexpr int64_t kTileBytes = 1024;
constexpr int kLanesBlock = 12;                       // vectors of queries in a block
constexpr int64_t kKeyTiles = kTile / 16, kValueSteps = kTile / 32;

constexpr float kRise = 8.0f;                         // of scores times log2(e)

inline int64_t steps_of(int64_t n) { return (n + 31) / 32; }

// Tiles 0-3: sums; 4-6: parts of the right side; 7: of the left.
#define LLMC_PRODUCTS(sums, a)          \
  _tile_loadd(7, a, 64);                \
  _tile_dpbf16ps(sums, 7, 4);           \
  _tile_dpbf16ps(sums, 7, 5);           \
  if (Parts == 3) {                     \
    _tile_dpbf16ps(sums, 7, 6);         \
    _tile_loadd(7, (a) + kTileBytes, 64); \
    _tile_dpbf16ps(sums, 7, 4);         \
    _tile_dpbf16ps(sums, 7, 5);         \
    _tile_loadd(7, (a) + 2 * kTileBytes, 64); \
    _tile_dpbf16ps(sums, 7, 4);         \
  }

// sums[i] (+)= left[i] right for up to four tiles: left [i][steps][Parts], `next` bytes from i to i; right [steps][kParts]; sums
// [i][16][16]. With one part on the left, two of the right count.
//
// `meanwhile` is called between tiles and has work for the vector units: the tile unit needs a hundred cycles for each.
template <int64_t Parts, typename Work>
inline void multiply_tiles(const uint8_t* left, int64_t next, const uint8_t* right, int64_t steps, int64_t count, float* sums,
                           bool resume, Work&& meanwhile) {
  // Tiles read what was stored before and are read when they are stored; to the compiler they are calls without memory.
  __asm__ volatile("" : : "r"(left), "r"(right), "r"(sums) : "memory");
  if (resume) {
    _tile_loadd(0, sums, 64);
    if (count > 1) _tile_loadd(1, sums + 256, 64);
    if (count > 2) _tile_loadd(2, sums + 512, 64);
    if (count > 3) _tile_loadd(3, sums + 768, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t step = 0; step < steps; ++step, left += Parts * kTileBytes, right += kParts * kTileBytes) {
    _tile_loadd(4, right, 64);
    _tile_loadd(5, right + kTileBytes, 64);
    if (Parts == 3) _tile_loadd(6, right + 2 * kTileBytes, 64);
    LLMC_PRODUCTS(0, left)
    meanwhile();
    if (count > 1) {
      LLMC_PRODUCTS(1, left + next)
      meanwhile();
    }
    if (count > 2) {
      LLMC_PRODUCTS(2, left + 2 * next)
      meanwhile();
    }
    if (count > 3) {
      LLMC_PRODUCTS(3, left + 3 * next)
      meanwhile();
    }
  }
  _tile_stored(0, sums, 64);
  if (count > 1) _tile_stored(1, sums + 256, 64);
  if (count > 2) _tile_stored(2, sums + 512, 64);
  if (count > 3) _tile_stored(3, sums + 768, 64);
  __asm__ volatile("" : : "r"(sums) : "memory");
}

#undef LLMC_PRODUCTS

// Working memory of a block.
struct Tiles {
  uint8_t *queries;   // [vectors][steps of the width][kParts] tiles of [16 pairs of elements][16 queries]
  uint8_t *keys;      // [kKeyTiles][steps of the width][Parts] tiles of [16 keys][32 elements]
  uint8_t *values;    // [sixteens of the width][kValueSteps][Parts] tiles of [16 elements][32 keys]
  uint8_t *weights;   // [2][kValueSteps][kParts] tiles of [16 pairs of keys][16 queries]
  float *scores;      // [2][kTile keys][16 queries]
  float *results;     // [vectors][width, in sixteens][16 queries]
  int64_t* rows;
  uint16_t* columns;

  static int64_t bytes(int64_t width, int64_t own) {
    const int64_t steps = steps_of(width), tiles = (kLanesBlock + kKeyTiles) * steps * kParts +
                                                   (rounded(width) / 16 + 2) * kValueSteps * kParts;
    return tiles * kTileBytes + 2 * kTile * 64 + kLanesBlock * rounded(width) * 64 + kTile * 8 + kLanesBlock * own * 2 + 64;
  }
  Tiles(void* memory, int64_t width) {
    const int64_t steps = steps_of(width);
    queries = static_cast<uint8_t*>(memory);
    keys = queries + kLanesBlock * steps * kParts * kTileBytes;
    values = keys + kKeyTiles * steps * kParts * kTileBytes;
    weights = values + rounded(width) / 16 * kValueSteps * kParts * kTileBytes;
    scores = reinterpret_cast<float*>(weights + 2 * kValueSteps * kParts * kTileBytes);
    results = scores + 2 * kTile * 16;
    rows = reinterpret_cast<int64_t*>(results + kLanesBlock * rounded(width) * 16);
    columns = reinterpret_cast<uint16_t*>(rows + kTile);
  }
};

template <int64_t Parts, typename T>
void split_keys(const T* k, int64_t stride, int64_t width, const int64_t* rows, int64_t count, uint8_t* out) {
  const int64_t steps = steps_of(width);
  for (int64_t i = 0; i < (count + 15) / 16 * 16; ++i)
    for (int64_t step = 0; step < steps; ++step) {
      uint8_t* to = out + (i / 16 * steps + step) * Parts * kTileBytes + i % 16 * 64;
      const int64_t left = i < count ? width - step * 32 : 0;
      const T* from = k + (i < count ? rows[i] * stride + step * 32 : 0);
      if (left >= 32) {
        split_row<Parts>(load(from).v, load(from + 16).v, to, kTileBytes);
        continue;
      }
      const Vec low = left > 0 ? load(from, static_cast<int>(least(16, left))) : zero();
      const Vec high = left > 16 ? load(from + 16, static_cast<int>(least(16, left - 16))) : zero();
      split_row<Parts>(low.v, high.v, to, kTileBytes);
    }
}

// Values of 32 keys and 16 elements become tiles whose rows are elements: pairs of keys are put side by side, then turned.
template <int64_t Parts, typename T>
void split_values(const T* v, int64_t stride, int64_t width, const int64_t* rows, int64_t count, uint8_t* out) {
  for (int64_t e = 0; e < width; e += 16) {
    const int n = static_cast<int>(least(16, width - e));
    for (int64_t step = 0; step < steps_of(count); ++step) {
      alignas(64) uint8_t pairs[kParts][kTileBytes];
      for (int64_t pair = 0; pair < 16; ++pair) {
        const int64_t i = step * 32 + pair * 2;
        const bool whole = n == 16 && i + 1 < count;
        const Vec first = whole ? load(v + rows[i] * stride + e) : i < count ? load(v + rows[i] * stride + e, n) : zero();
        const Vec second = whole ? load(v + rows[i + 1] * stride + e) : i + 1 < count ? load(v + rows[i + 1] * stride + e, n) : zero();
        if (Parts == 3) {
          split_pair(first.v, second.v, pairs[0] + pair * 64, kTileBytes);
        } else {
          _mm512_store_si512(pairs[0] + pair * 64, paired(rounded(first.v), rounded(second.v)));
        }
      }
      for (int64_t part = 0; part < Parts; ++part) {
        Vec t[16];
        for (int i = 0; i < 16; ++i) t[i] = load(reinterpret_cast<const float*>(pairs[part]) + i * 16);
        transpose(t);
        float* to = reinterpret_cast<float*>(out + ((e / 16 * kValueSteps + step) * Parts + part) * kTileBytes);
        for (int i = 0; i < 16; ++i) store(to + i * 16, t[i]);
      }
    }
  }
}

// The softmax of one vector of queries over a tile of keys, in pieces of a few keys whose weights go to the right side of the next
// product.
struct Softening {
  static constexpr int64_t kPiece = 4;
  const float* scores;
  uint8_t* weights;
  int64_t seen, next, end;  // keys: visible, and of the next piece
  Vec best, sum_even, sum_odd;

  Vec weight(int64_t i) const { return i < seen ? exp2_negative(load(scores + i * 16) - best) : zero(); }
  void operator()() {
    if (next >= end) return;
    for (int64_t i = next; i < next + kPiece; i += 2) {
      const Vec x = weight(i), y = weight(i + 1);
      sum_even = sum_even + x;
      sum_odd = sum_odd + y;
      split_pair(x.v, y.v, weights + i / 32 * kParts * kTileBytes + i % 32 / 2 * 64, kTileBytes);
    }
    next += kPiece;
  }
};

template <typename T>
void prefetch_rows(const T* from, int64_t stride, int64_t width, const int64_t* rows, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) prefetch(from + rows[i] * stride, width);
}

template <int64_t Parts, typename T>
void tile_block(const AttentionCall& call, const AttentionSequence& s, const AttentionBlock& block, int64_t head,
                void* scratch) {
  const int64_t width = call.width, group = call.query_heads / call.key_heads, last_row = block.row + block.rows;
  const int64_t steps = steps_of(width), sixteens = rounded(width) / 16;
  const Tiles w(scratch, width);
  const T* keys = static_cast<const T*>(call.k) + head * width;
  const T* values = static_cast<const T*>(call.v) + head * width;
  const int vectors = static_cast<int>((block.rows + kLanes - 1) / kLanes);
  const auto row_of = [&](int v) { return block.row + v * kLanes; };
  Vec peak[kLanesBlock], total[kLanesBlock];
  Standing standing[kLanesBlock];
  int64_t from = s.keys, end = 0;
  for (int v = 0; v < vectors; ++v) {
    standing[v] = standing_of(call, s, row_of(v), last_row, head);
    from = least(from, standing[v].least_from);
    end = most(end, standing[v].most_last);
    peak[v] = all(kLowest);
    total[v] = zero();
    if (s.visible) see_columns(s, row_of(v), last_row, group, w.columns + v * s.own);
    uint8_t* to = w.queries + v * steps * kParts * kTileBytes;
    Vec even = zero();
    const auto put = [&](int64_t e, Vec x) {
      if (e % 2 == 0) {
        even = x;
      } else {
        split_pair(even.v, x.v, to + e / 32 * kParts * kTileBytes + e % 32 / 2 * 64, kTileBytes);
      }
    };
    read_queries(call, s, row_of(v), last_row, head, all(call.scale * kLog2E), put);
    for (int64_t e = rounded(width); e < steps * 32; ++e) put(e, zero());
  }
  memset(w.results, 0, static_cast<size_t>(vectors * sixteens) * kTileBytes);
  configure_tiles(kRows, 16);

  for (int64_t begin = from; begin < end; begin += kTile) {
    const int64_t count = least(kTile, end - begin), ahead = least(kTile, end - begin - count);
    key_rows(s, begin, count, w.rows);
    split_keys<Parts>(keys, call.k_stride, width, w.rows, count, w.keys);
    split_values<Parts>(values, call.v_stride, width, w.rows, count, w.values);
    key_rows(s, begin + count, ahead, w.rows);
    const auto seen_by = [&](int v) { return most(0, least(count, standing[v].most_last - begin)); };
    const auto scores_of = [&](int v) { return w.scores + v % 2 * kTile * 16; };
    const auto weights_of = [&](int v) { return w.weights + v % 2 * kValueSteps * kParts * kTileBytes; };
    const auto score = [&](int v, auto& meanwhile) {
      multiply_tiles<Parts>(w.keys, steps * Parts * kTileBytes, w.queries + v * steps * kParts * kTileBytes, steps,
                            (seen_by(v) + 15) / 16, scores_of(v), false, meanwhile);
    };
    const auto mix = [&](int v, auto& meanwhile) {
      for (int64_t e = 0; e < sixteens; e += 4)
        multiply_tiles<Parts>(w.values + e * kValueSteps * Parts * kTileBytes, kValueSteps * Parts * kTileBytes, weights_of(v),
                              steps_of(seen_by(v)), least(4, sixteens - e), w.results + (v * sixteens + e) * 256, true,
                              meanwhile);
    };
    const auto nothing = [] {};
    int first = 0;
    while (seen_by(first) == 0) ++first;  // it never falls from vector to vector
    score(first, nothing);
    // While the softmax of a vector goes on, the tiles have the scores of the next and the values of the one before.
    for (int v = first; v < vectors; ++v) {
      const int64_t seen = seen_by(v);
      float* column = scores_of(v);
      adjust(call, s, standing[v], w.columns + v * s.own, begin, seen, column, 16);
      // Where the highest score rises but a little, weights are let grow beyond one, and what was summed stays as it is.
      const Vec highest_yet = highest(column, 16, seen, peak[v]);
      const Vec best = select(peak[v] + all(kRise) < highest_yet, highest_yet, peak[v]), factor = exp2_negative(peak[v] - best);
      Softening soften{column, weights_of(v), seen, 0, steps_of(seen) * 32, best, zero(), zero()};
      if (v + 1 < vectors) score(v + 1, soften);
      if (v > first) mix(v - 1, soften);
      while (soften.next < soften.end) soften();
      peak[v] = best;
      total[v] = fma(total[v], factor, soften.sum_even + soften.sum_odd);
      float* result = w.results + v * sixteens * 256;
      if (_mm512_cmp_ps_mask(factor.v, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ))
        for (int64_t e = 0; e < width; ++e) store(result + e * 16, load(result + e * 16) * factor);
      prefetch_rows(keys, call.k_stride, width, w.rows, ahead * (v - first) / (vectors - first), ahead * (v - first + 1) / (vectors - first));
      prefetch_rows(values, call.v_stride, width, w.rows, ahead * (v - first) / (vectors - first), ahead * (v - first + 1) / (vectors - first));
    }
    mix(vectors - 1, nothing);
  }
  _tile_release();
  for (int v = 0; v < vectors; ++v)
    write_results(call, s, row_of(v), last_row, head, total[v],
                  [&](int64_t e) { return load(w.results + (v * sixteens * 16 + e) * 16); });
}

void wide_tiles(const AttentionCall& call, const AttentionSequence& s, const AttentionBlock& block, int64_t head,
                void* scratch) {
  (call.key_type == LLMC_BF16    ? tile_block<1, bf16>
   : call.precision == LLMC_BF16 ? tile_block<1, float>
                                 : tile_block<3, float>)(call, s, block, head, scratch);
}

}  // namespace

namespace llmc {
const AttentionKernels attention_amx = {
    kLanesBlock * kLanes, kNarrowRows, Tiles::bytes, narrow_scratch, partial_floats, wide_tiles, narrow_block, merge};
const int64_t attention_amx_width = kMostWidth;
}  // namespace llmc
