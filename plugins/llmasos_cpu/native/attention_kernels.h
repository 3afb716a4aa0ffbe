// The attention kernels, written once; attention_avx512.cpp and its kin compile them for one instruction set each.
//
// Many rows ("wide"): queries lie along the lanes. Q is transposed once, keys and values are read where they lie, one
// element at a time for all queries of the block, and the softmax needs no step across lanes. Softmax is online (Dao et
// al. 2022), by tiles of kTile keys. Few rows ("narrow"): the head's elements lie along the lanes, and long sequences
// are cut into chunks of keys whose partial results are merged in order, so that threads can share one head.
//
// Scores are kept times log2(e), so that the exponential is a power of two.
#pragma once

#include "attention.h"
#include "vector.h"

namespace {

using llmc::AttentionBlock;
using llmc::AttentionCall;
using llmc::AttentionSequence;

#if defined(__AVX512F__)
constexpr int kStep = 8;        // keys, or elements of values, that one register tile holds
constexpr int kNarrowRows = 12; // at most so many rows are few
constexpr int kGroup = 4;       // rows that share a loaded key
#elif defined(__AVX2__)
constexpr int kStep = 4;
constexpr int kNarrowRows = 6;
constexpr int kGroup = 2;
#else
constexpr int kStep = 4;
constexpr int kNarrowRows = 4;
constexpr int kGroup = 2;
#endif
constexpr int kVectors = 3;  // vectors of queries in a register tile
constexpr int kBlock = kVectors * kLanes;
constexpr int kTile = 64;        // keys of one step of the online softmax
constexpr int kNarrowTile = 256;  // keys whose scores a narrow block holds at a time
constexpr float kLowest = -1e30f; // below every score, and finite: differences of it are numbers
constexpr float kLog2E = 1.44269504f;

inline int64_t rounded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

inline Vec load_any(const void* p, int64_t at, int n, int32_t type) {
  return type == LLMC_BF16 ? load(static_cast<const bf16*>(p) + at, n) : load(static_cast<const float*>(p) + at, n);
}
inline void store_any(void* p, int64_t at, Vec x, int n, int32_t type) {
  if (type == LLMC_BF16) {
    store(static_cast<bf16*>(p) + at, x, n);
  } else {
    store(static_cast<float*>(p) + at, x, n);
  }
}

// Keys `begin` to `begin + count` of a sequence are these rows of the buffers.
void key_rows(const AttentionSequence& s, int64_t begin, int64_t count, int64_t* rows) {
  int64_t span = 0, skipped = begin;
  while (span < s.span_count && skipped >= s.spans[2 * span + 1] - s.spans[2 * span]) {
    skipped -= s.spans[2 * span + 1] - s.spans[2 * span];
    ++span;
  }
  for (int64_t done = 0; done < count; ++span, skipped = 0) {
    const bool in_span = span < s.span_count;
    const int64_t first_row = (in_span ? s.spans[2 * span] : s.own_begin) + skipped;
    const int64_t here = least(count - done, in_span ? s.spans[2 * span + 1] - first_row : count - done);
    for (int64_t i = 0; i < here; ++i) rows[done + i] = first_row + i;
    done += here;
  }
}

// How many keys query i sees, counted from the first (a mask and a window may hide some of them), and which is the first.
inline int64_t visible_keys(const AttentionSequence& s, int64_t i) {
  return s.causal ? most(0, s.keys - s.queries + i + 1) : s.keys;
}
inline int64_t first_key(const AttentionSequence& s, int64_t i) {
  return s.window > 0 ? most(0, s.keys - s.queries + i + 1 - s.window) : 0;
}

// ---- many rows -----------------------------------------------------------------------------------------------

template <int Keys, int Vectors>
void score_tile(const float* qt, int64_t width, const float* const* k, float* scores) {
  Vec acc[Keys][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Keys; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[i][v] = zero();
  for (int64_t e = 0; e < width; ++e) {
    Vec q[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) q[v] = load(qt + e * kBlock + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Keys; ++i) {
      const Vec x = all(k[i][e]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) acc[i][v] = fma(x, q[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Keys; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(scores + i * kBlock + v * kLanes, acc[i][v]);
}

// out[e] = out[e] * factor + sum over keys of p[key] * v[key][e]
template <int Elements, int Vectors>
void value_tile(const float* p, const float* const* values, int64_t e, int64_t begin, int64_t end, float* out,
                const Vec* factor) {
  Vec acc[Elements][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Elements; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[i][v] = load(out + i * kBlock + v * kLanes) * factor[v];
  for (int64_t key = begin; key < end; ++key) {
    const float* row = values[key] + e;
    Vec x[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) x[v] = load(p + key * kBlock + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Elements; ++i) {
      const Vec y = all(row[i]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) acc[i][v] = fma(y, x[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Elements; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + i * kBlock + v * kLanes, acc[i][v]);
}

using ScoreTile = void (*)(const float*, int64_t, const float* const*, float*);
using ValueTile = void (*)(const float*, const float* const*, int64_t, int64_t, int64_t, float*, const Vec*);

#define LLMC_ROW(tile, n) {tile<n, 1>, tile<n, 2>, tile<n, 3>}
constexpr ScoreTile kScoreTiles[kStep][kVectors] = {
    LLMC_ROW(score_tile, 1), LLMC_ROW(score_tile, 2), LLMC_ROW(score_tile, 3), LLMC_ROW(score_tile, 4),
#if defined(__AVX512F__)
    LLMC_ROW(score_tile, 5), LLMC_ROW(score_tile, 6), LLMC_ROW(score_tile, 7), LLMC_ROW(score_tile, 8),
#endif
};
constexpr ValueTile kValueTiles[kStep][kVectors] = {
    LLMC_ROW(value_tile, 1), LLMC_ROW(value_tile, 2), LLMC_ROW(value_tile, 3), LLMC_ROW(value_tile, 4),
#if defined(__AVX512F__)
    LLMC_ROW(value_tile, 5), LLMC_ROW(value_tile, 6), LLMC_ROW(value_tile, 7), LLMC_ROW(value_tile, 8),
#endif
};
#undef LLMC_ROW

// Working memory of one wide block, cut from one piece.
struct Wide {
  float *qt, *ot, *scores, *keys, *values;
  const float **k, **v;
  int64_t* rows;
  uint16_t* columns;  // [vectors, own keys], see see_columns

  static int64_t bytes(int64_t width, int64_t own) {
    const int64_t floats = 2 * rounded(width) * kBlock + kTile * kBlock + 2 * kTile * rounded(width);
    return floats * 4 + kTile * 24 + kVectors * own * 2 + 256;
  }
  Wide(void* memory, int64_t width) {
    const int64_t size = rounded(width);
    qt = static_cast<float*>(memory);
    ot = qt + size * kBlock;
    scores = ot + size * kBlock;
    keys = scores + kTile * kBlock;
    values = keys + kTile * size;
    k = reinterpret_cast<const float**>(values + kTile * size);
    v = k + kTile;
    rows = reinterpret_cast<int64_t*>(v + kTile);
    columns = reinterpret_cast<uint16_t*>(rows + kTile);
  }
};

// Where the queries of one vector stand, as floats: exact up to 2^24 keys.
struct Standing {
  float last[kLanes], from[kLanes], place[kLanes], slope[kLanes];
  int64_t least_last, most_last, least_from, most_from;
};

// Rows from `row` on of a sequence, up to `end`; further lanes repeat the last.
inline Standing standing_of(const AttentionCall& call, const AttentionSequence& s, int64_t row, int64_t end, int64_t head) {
  const int64_t group = call.query_heads / call.key_heads;
  Standing x;
  x.least_last = x.least_from = s.keys;
  x.most_last = x.most_from = 0;
  for (int l = 0; l < kLanes; ++l) {
    const int64_t at = least(row + l, end - 1), i = at / group;
    const int64_t last = visible_keys(s, i), from = first_key(s, i);
    x.last[l] = static_cast<float>(last);
    x.from[l] = static_cast<float>(from);
    x.place[l] = static_cast<float>(s.keys - s.queries + i);
    x.slope[l] = call.slopes ? call.slopes[head * group + at % group] * kLog2E : 0.0f;
    x.least_last = least(x.least_last, last);
    x.most_last = most(x.most_last, last);
    x.least_from = least(x.least_from, from);
    x.most_from = most(x.most_from, from);
  }
  return x;
}

// Of each own key, the lanes that see it, for the rows [row, end) of a sequence with a mask.
inline void see_columns(const AttentionSequence& s, int64_t row, int64_t end, int64_t group, uint16_t* columns) {
  memset(columns, 0, static_cast<size_t>(s.own) * sizeof *columns);
  for (int64_t r = row; r < least(end, row + kLanes); ++r) {
    const uint8_t* seen = s.visible + r / group * s.own;
    for (int64_t j = 0; j < s.own; ++j) columns[j] |= static_cast<uint16_t>(static_cast<unsigned>(seen[j] != 0) << (r - row));
  }
}

// Points k and v at `count` keys from `begin` on, widening bf16.
void fetch_keys(const AttentionCall& call, const AttentionSequence& s, int64_t begin, int64_t count, int64_t head,
                const Wide& w) {
  key_rows(s, begin, count, w.rows);
  const int64_t at = head * call.width;
  if (call.key_type == LLMC_FP32) {
    for (int64_t i = 0; i < count; ++i) {
      w.k[i] = static_cast<const float*>(call.k) + w.rows[i] * call.k_stride + at;
      w.v[i] = static_cast<const float*>(call.v) + w.rows[i] * call.v_stride + at;
    }
    return;
  }
  const int64_t size = rounded(call.width);
  for (int64_t i = 0; i < count; ++i) {
    const bf16* k = static_cast<const bf16*>(call.k) + w.rows[i] * call.k_stride + at;
    const bf16* v = static_cast<const bf16*>(call.v) + w.rows[i] * call.v_stride + at;
    for (int64_t e = 0; e < call.width; e += kLanes) {
      const int n = static_cast<int>(least(kLanes, call.width - e));
      store(w.keys + i * size + e, load(k + e, n));
      store(w.values + i * size + e, load(v + e, n));
    }
    w.k[i] = w.keys + i * size;
    w.v[i] = w.values + i * size;
  }
}

// Hides what a lane may not see among the scores of `count` keys from `begin` on, `stride` apart, and adds the ALiBi bias.
inline void adjust(const AttentionCall& call, const AttentionSequence& s, const Standing& standing, const uint16_t* columns,
                   int64_t begin, int64_t count, float* scores, int64_t stride) {
  const int64_t end = begin + count;
  if (end <= standing.least_last && begin >= standing.most_from && !call.slopes && !(s.visible && end > s.before)) return;
  const Vec last = load(standing.last), from = load(standing.from);
  const Vec place = load(standing.place), slope = load(standing.slope);
  const Vec hidden = all(-__builtin_inff());
  int64_t i = 0;
  if (!call.slopes && s.window <= 0) {
    // Only the keys that some lane does not see: those past its last, and its own ones when there is a mask.
    i = most(0, standing.least_last - begin);
    if (s.visible) i = most(0, least(i, s.before - begin));
  }
  for (; i < count; ++i) {
    const int64_t key = begin + i;
    const Vec j = all(static_cast<float>(key));
    float* at = scores + i * stride;
    Vec x = load(at);
    if (call.slopes) x = fma(slope, j - place, x);
    Mask seen = both(j < last, from <= j);
    if (s.visible && key >= s.before) seen = both(seen, mask_of(columns[key - s.before]));
    store(at, select(seen, x, hidden));
  }
}

// The highest of `count` scores and `peak`.
inline Vec highest(const float* column, int64_t stride, int64_t count, Vec peak) {
  Vec best = peak, other = peak;
  int64_t i = 0;
  for (; i + 1 < count; i += 2) {
    best = max(best, load(column + i * stride));
    other = max(other, load(column + (i + 1) * stride));
  }
  if (i < count) best = max(best, load(column + i * stride));
  return max(best, other);
}

// One step of the online softmax: scores become weights. The factor by which what was summed before shrinks.
inline Vec soften(float* column, int64_t stride, int64_t count, Vec* peak, Vec* total) {
  const Vec best = highest(column, stride, count, *peak);
  const Vec factor = exp2_negative(*peak - best);
  *peak = best;
  Vec sum_even = zero(), sum_odd = zero();
  int64_t i = 0;
  for (; i + 1 < count; i += 2) {
    const Vec x = exp2_negative(load(column + i * stride) - best);
    const Vec y = exp2_negative(load(column + (i + 1) * stride) - best);
    store(column + i * stride, x);
    store(column + (i + 1) * stride, y);
    sum_even = sum_even + x;
    sum_odd = sum_odd + y;
  }
  if (i < count) {
    const Vec x = exp2_negative(load(column + i * stride) - best);
    store(column + i * stride, x);
    sum_even = sum_even + x;
  }
  *total = fma(*total, factor, sum_even + sum_odd);
  return factor;
}

// Rows [row, end) of a sequence, at most a vector of them, times `factor`: out[e] is element e of all.
template <typename Put>
inline void read_queries(const AttentionCall& call, const AttentionSequence& s, int64_t row, int64_t end, int64_t head,
                         Vec factor, const Put& put) {
  const int64_t group = call.query_heads / call.key_heads;
  for (int64_t e = 0; e < call.width; e += kLanes) {
    const int n = static_cast<int>(least(kLanes, call.width - e));
    Vec t[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      const int64_t r = row + l;
      const int64_t at = (s.q_begin + r / group) * call.q_stride + (head * group + r % group) * call.width + e;
      t[l] = r < end ? load_any(call.q, at, n, call.type) * factor : zero();
    }
    transpose(t);
    for (int l = 0; l < kLanes; ++l) put(e + l, t[l]);
  }
}

// The other way: get(e) is element e of all rows.
template <typename Get>
inline void write_results(const AttentionCall& call, const AttentionSequence& s, int64_t row, int64_t end, int64_t head,
                          Vec total, const Get& get) {
  const int64_t group = call.query_heads / call.key_heads;
  const Vec share = select(zero() == total, zero(), all(1.0f) / total);
  for (int64_t e = 0; e < call.width; e += kLanes) {
    const int n = static_cast<int>(least(kLanes, call.width - e));
    Vec t[kLanes];
    for (int l = 0; l < kLanes; ++l) t[l] = get(e + l) * share;
    transpose(t);
    for (int64_t r = row; r < least(end, row + kLanes); ++r) {
      const int64_t at = (s.q_begin + r / group) * call.out_stride + (head * group + r % group) * call.width + e;
      store_any(call.out, at, t[r - row], n, call.type);
    }
  }
}

[[maybe_unused]] void wide_block(const AttentionCall& call, const AttentionSequence& s, const AttentionBlock& block,
                                 int64_t head, void* scratch) {
  const int64_t width = call.width, group = call.query_heads / call.key_heads, last_row = block.row + block.rows;
  const Wide w(scratch, width);
  const int vectors = static_cast<int>((block.rows + kLanes - 1) / kLanes);
  Standing standing[kVectors];
  int64_t from = s.keys, end = 0;
  for (int v = 0; v < vectors; ++v) {
    standing[v] = standing_of(call, s, block.row + v * kLanes, last_row, head);
    from = least(from, standing[v].least_from);
    end = most(end, standing[v].most_last);
    if (s.visible) see_columns(s, block.row + v * kLanes, last_row, group, w.columns + v * s.own);
    read_queries(call, s, block.row + v * kLanes, last_row, head, all(call.scale * kLog2E),
                 [&](int64_t e, Vec x) { store(w.qt + e * kBlock + v * kLanes, x); });
  }
  memset(w.ot, 0, static_cast<size_t>(rounded(width) * kBlock) * sizeof *w.ot);
  Vec peak[kVectors], total[kVectors], factor[kVectors];
  for (int v = 0; v < vectors; ++v) {
    peak[v] = all(kLowest);
    total[v] = zero();
  }

  for (int64_t begin = from; begin < end; begin += kTile) {
    const int64_t count = least(kTile, end - begin);
    fetch_keys(call, s, begin, count, head, w);
    int64_t seen[kVectors];  // keys of the tile that some lane of a vector sees; never falls from vector to vector
    for (int v = 0; v < vectors; ++v) seen[v] = most(0, least(count, standing[v].most_last - begin));
    for (int64_t i = 0; i < count; i += kStep) {
      int v = 0;
      while (seen[v] <= i) ++v;
      const int64_t keys = least(kStep, count - i);
      for (int64_t ahead = i + kStep; ahead < least(count, i + 2 * kStep); ++ahead)
        for (int64_t e = 0; e < width; e += 16) {
          __builtin_prefetch(w.k[ahead] + e);
          __builtin_prefetch(w.v[ahead - kStep] + e);
        }
      kScoreTiles[keys - 1][vectors - v - 1](w.qt + v * kLanes, width, w.k + i, w.scores + i * kBlock + v * kLanes);
    }
    for (int v = 0; v < vectors; ++v) {
      factor[v] = all(1.0f);
      if (seen[v] == 0) continue;
      float* column = w.scores + v * kLanes;
      adjust(call, s, standing[v], w.columns + v * s.own, begin, seen[v], column, kBlock);
      factor[v] = soften(column, kBlock, seen[v], &peak[v], &total[v]);
    }
    // Keys that all vectors see, then those that all but the first see, and so on.
    int64_t done = 0;
    for (int v = 0; v < vectors; ++v) {
      if (seen[v] == done) continue;
      for (int64_t e = 0; e < width; e += kStep) {
        const int64_t elements = least(kStep, width - e);
        kValueTiles[elements - 1][vectors - v - 1](w.scores + v * kLanes, w.v, e, done, seen[v],
                                                   w.ot + e * kBlock + v * kLanes, factor + v);
      }
      for (int u = v; u < vectors; ++u) factor[u] = all(1.0f);
      done = seen[v];
    }
  }

  for (int v = 0; v < vectors; ++v)
    write_results(call, s, block.row + v * kLanes, last_row, head, total[v],
                  [&](int64_t e) { return load(w.ot + e * kBlock + v * kLanes); });
}

// ---- few rows ------------------------------------------------------------------------------------------------

// scores[r][i] = q[r] . k[i] for four keys and Rows rows.
template <int Rows, typename T>
void dot_tile(const float* q, int64_t size, int64_t width, const T* const* k, float* scores) {
  Vec acc[Rows][4];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc[r][i] = zero();
  int64_t e = 0;
  for (; e + kLanes <= width; e += kLanes) {
    Vec x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) x[i] = load(k[i] + e);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Vec y = load(q + r * size + e);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[r][i] = fma(x[i], y, acc[r][i]);
    }
  }
  if (e < width) {
    const int n = static_cast<int>(width - e);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Vec y = load(q + r * size + e);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) acc[r][i] = fma(load(k[i] + e, n), y, acc[r][i]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) sums(acc[r], scores + r * kNarrowTile);
}

// out[r] += sum over keys of p[r][key] * v[key], for up to four vectors of elements from e on.
template <int Rows, int Vectors, typename T>
void mix_tile(const float* p, const T* const* values, int64_t e, int tail, int64_t count, float* out, int64_t size) {
  Vec acc[Rows][Vectors];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[r][v] = load(out + r * size + e + v * kLanes);
  for (int64_t key = 0; key < count; ++key) {
    const T* row = values[key] + e;
    Vec x[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v)
      x[v] = v + 1 < Vectors || tail == kLanes ? load(row + v * kLanes) : load(row + v * kLanes, tail);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const Vec y = all(p[r * kNarrowTile + key]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) acc[r][v] = fma(y, x[v], acc[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + r * size + e + v * kLanes, acc[r][v]);
}

template <int Rows, typename T>
void mix_rows(const float* p, const T* const* values, int64_t width, int64_t count, float* out, int64_t size) {
  for (int64_t e = 0; e < width; e += 4 * kLanes) {
    const int64_t left = least(4 * kLanes, width - e);
    const int vectors = static_cast<int>((left + kLanes - 1) / kLanes);
    const int tail = static_cast<int>(left - (vectors - 1) * kLanes);
    switch (vectors) {
      case 1: mix_tile<Rows, 1>(p, values, e, tail, count, out, size); break;
      case 2: mix_tile<Rows, 2>(p, values, e, tail, count, out, size); break;
      case 3: mix_tile<Rows, 3>(p, values, e, tail, count, out, size); break;
      default: mix_tile<Rows, 4>(p, values, e, tail, count, out, size); break;
    }
  }
}

// Keys whose scores are not computed yet are read ahead of time, for rows of a cache lie far apart.
template <typename T>
void prefetch(const T* row, int64_t width) {
  for (int64_t e = 0; e < width; e += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + e);
}

// A partial result has `rows` accumulators of rounded(width) floats, then their maxima, then their sums.
inline int64_t partial_floats(int64_t width) { return rounded(width) + 2; }

template <typename T>
void narrow_keys(const AttentionCall& call, const AttentionSequence& s, const AttentionBlock& block, int64_t head,
                 float* q, float* scores, int64_t* rows, const T** keys, const T** values, float* partial) {
  const int64_t width = call.width, size = rounded(width), group = call.query_heads / call.key_heads;
  float* peaks = partial + block.rows * size;
  float* totals = peaks + block.rows;
  memset(partial, 0, static_cast<size_t>(block.rows * size) * sizeof *partial);
  for (int64_t r = 0; r < block.rows; ++r) {
    peaks[r] = kLowest;
    totals[r] = 0.0f;
  }
  for (int64_t begin = block.first_key; begin < block.last_key; begin += kNarrowTile) {
    const int64_t count = least(kNarrowTile, block.last_key - begin);
    key_rows(s, begin, count, rows);
    for (int64_t i = 0; i < count; ++i) {
      keys[i] = static_cast<const T*>(call.k) + rows[i] * call.k_stride + head * width;
      values[i] = static_cast<const T*>(call.v) + rows[i] * call.v_stride + head * width;
    }
    for (int64_t i = count; i < count + 3; ++i) keys[i] = keys[count - 1];
    for (int64_t i = 0; i < count; i += 4) {
      for (int64_t ahead = i + 8; ahead < least(count, i + 12); ++ahead) prefetch(keys[ahead], width);
      for (int64_t ahead = i; ahead < least(count, i + 4); ++ahead) prefetch(values[ahead], width);
      for (int64_t r = 0; r < block.rows; r += kGroup) {
        float* at = scores + r * kNarrowTile + i;
        switch (least(kGroup, block.rows - r)) {
          case 1: dot_tile<1>(q + r * size, size, width, keys + i, at); break;
          case 2: dot_tile<2>(q + r * size, size, width, keys + i, at); break;
#if defined(__AVX512F__)
          case 3: dot_tile<3>(q + r * size, size, width, keys + i, at); break;
          default: dot_tile<4>(q + r * size, size, width, keys + i, at); break;
#endif
        }
      }
    }
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t query = (block.row + r) / group, place = s.keys - s.queries + query;
      float* row = scores + r * kNarrowTile;
      const float infinity = __builtin_inff();
      if (call.slopes) {
        const float slope = call.slopes[head * group + (block.row + r) % group] * kLog2E;
        for (int64_t i = 0; i < count; ++i) row[i] += slope * static_cast<float>(begin + i - place);
      }
      for (int64_t i = 0; i < least(count, first_key(s, query) - begin); ++i) row[i] = -infinity;
      if (s.visible) {
        const uint8_t* seen = s.visible + query * s.own - s.before + begin;
        for (int64_t i = most(0, s.before - begin); i < count; ++i)
          if (!seen[i]) row[i] = -infinity;
      }
      const int64_t padded = rounded(count);
      for (int64_t i = most(0, least(count, visible_keys(s, query) - begin)); i < padded; ++i) row[i] = -infinity;
      Vec high = all(peaks[r]);
      for (int64_t i = 0; i < padded; i += kLanes) high = max(high, load(row + i));
      const float best = largest(high);
      const Vec base = all(best);
      Vec total = zero();
      for (int64_t i = 0; i < padded; i += kLanes) {
        const Vec x = exp2_negative(load(row + i) - base);
        store(row + i, x);
        total = total + x;
      }
      float factor[kLanes];
      store(factor, exp2_negative(all(peaks[r] - best)));
      if (begin > block.first_key)
        for (int64_t e = 0; e < size; e += kLanes)
          store(partial + r * size + e, load(partial + r * size + e) * all(factor[0]));
      totals[r] = totals[r] * factor[0] + sum(total);
      peaks[r] = best;
    }
    for (int64_t r = 0; r < block.rows; r += kGroup) {
      const float* p = scores + r * kNarrowTile;
      float* out = partial + r * size;
      switch (least(kGroup, block.rows - r)) {
        case 1: mix_rows<1>(p, values, width, count, out, size); break;
        case 2: mix_rows<2>(p, values, width, count, out, size); break;
#if defined(__AVX512F__)
        case 3: mix_rows<3>(p, values, width, count, out, size); break;
        default: mix_rows<4>(p, values, width, count, out, size); break;
#endif
      }
    }
  }
}

int64_t narrow_scratch(int64_t width) {
  return (kNarrowRows * (2 * rounded(width) + 2 + kNarrowTile + 3)) * 4 + (kNarrowTile + 3) * 24 + 256;
}

// Weighs the partial results of a block's chunks, in their order, and writes what they make.
void merge(const AttentionCall& call, const AttentionSequence& s, const AttentionBlock& block, int64_t head,
           const float* partials) {
  const int64_t rows = block.rows, chunks = block.chunks;
  const int64_t width = call.width, size = rounded(width), group = call.query_heads / call.key_heads;
  const int64_t step = rows * partial_floats(width);
  for (int64_t r = 0; r < rows; ++r) {
    const float* peaks = partials + rows * size + r;
    float best = kLowest;
    for (int64_t c = 0; c < chunks; ++c) best = peaks[c * step] < best ? best : peaks[c * step];
    float total = 0.0f, weights[kLanes];
    const int64_t row = block.row + r;
    const int64_t out = (s.q_begin + row / group) * call.out_stride + (head * group + row % group) * width;
    for (int64_t e = 0; e < width; e += 4 * kLanes) {
      const int64_t left = least(4 * kLanes, size - e);
      Vec acc[4] = {zero(), zero(), zero(), zero()};
      total = 0.0f;
      for (int64_t c = 0; c < chunks; ++c) {
        const float* part = partials + c * step;
        store(weights, exp2_negative(all(peaks[c * step] - best)));
        total += weights[0] * peaks[c * step + rows];
        for (int64_t v = 0; v * kLanes < left; ++v)
          acc[v] = fma(all(weights[0]), load(part + r * size + e + v * kLanes), acc[v]);
      }
      const Vec share = all(total == 0.0f ? 0.0f : 1.0f / total);
      for (int64_t v = 0; v * kLanes < left; ++v) {
        const int n = static_cast<int>(least(kLanes, width - e - v * kLanes));
        store_any(call.out, out + e + v * kLanes, acc[v] * share, n, call.type);
      }
    }
  }
}

void narrow_block(const AttentionCall& call, const AttentionSequence& s, const AttentionBlock& block, int64_t head,
                  void* scratch, float* partial) {
  const int64_t width = call.width, size = rounded(width), group = call.query_heads / call.key_heads;
  float* q = static_cast<float*>(scratch);
  float* scores = q + kNarrowRows * size;
  float* own = scores + kNarrowRows * kNarrowTile + kLanes;
  int64_t* rows = reinterpret_cast<int64_t*>(own + (kNarrowRows * partial_floats(width) + 1) / 2 * 2);
  const Vec scale = all(call.scale * kLog2E);
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t row = block.row + r;
    const int64_t at = (s.q_begin + row / group) * call.q_stride + (head * group + row % group) * width;
    for (int64_t e = 0; e < size; e += kLanes) {
      const int n = static_cast<int>(most(0, least(kLanes, width - e)));
      store(q + r * size + e, load_any(call.q, at + e, n, call.type) * scale);
    }
  }
  float* result = block.chunks > 1 ? partial : own;
  if (call.key_type == LLMC_BF16) {
    const bf16** keys = reinterpret_cast<const bf16**>(rows + kNarrowTile + 3);
    narrow_keys(call, s, block, head, q, scores, rows, keys, keys + kNarrowTile + 3, result);
  } else {
    const float** keys = reinterpret_cast<const float**>(rows + kNarrowTile + 3);
    narrow_keys(call, s, block, head, q, scores, rows, keys, keys + kNarrowTile + 3, result);
  }
  if (block.chunks == 1) merge(call, s, block, head, own);
}

}  // namespace

#define LLMC_ATTENTION_KERNELS                                                                              \
  {                                                                                                         \
    kBlock, kNarrowRows, Wide::bytes, narrow_scratch, partial_floats, wide_block, narrow_block, merge       \
  }
