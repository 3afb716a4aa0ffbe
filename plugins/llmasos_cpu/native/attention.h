// Attention over packed sequences: what the driver, the kernels of each instruction set and programs share.
#pragma once

#include <stdint.h>

#include "llmasos_cpu.h"

namespace llmc {

class Team;

struct AttentionCall {
  void* out;
  const void* q;
  const void* k;
  const void* v;
  int64_t out_stride, q_stride, k_stride, v_stride;  // elements from token to token
  int32_t type;      // of q and out
  int32_t key_type;  // of k and v
  int32_t precision; // LLMC_BF16: k and v may be rounded to it
  int32_t query_heads, key_heads, width;
  float scale;
  const float* slopes;  // ALiBi, [query_heads], or null
};

// One sequence, as the plan sees it. Its keys are the rows of `spans`, then `own` rows from `own_begin` on.
struct AttentionSequence {
  int64_t q_begin, queries;
  const int64_t* spans;  // pairs (begin, end)
  int64_t span_count;
  int64_t own_begin, own;
  int64_t before, keys;    // keys in the spans, and in all
  const uint8_t* visible;  // [own, own], or null
  bool causal;
  int64_t window;  // 0: none
};

// Rows `row` to `row + rows` of one sequence and key head, where row r is query r / G with query head head * G + r % G;
// few rows meet the keys first_key to last_key, and leave a partial result when that is not all of them.
struct AttentionBlock {
  int32_t sequence, row, rows;
  int32_t first_key, last_key;
  int32_t chunk, chunks;
};

// Partial result of one chunk of keys: rows x (width rounded up, then maximum and sum), see attention_kernels.h.
struct AttentionKernels {
  int32_t wide_rows;    // rows of a block of many
  int32_t narrow_rows;  // at most so many rows are few
  int64_t (*wide_scratch)(int64_t width, int64_t own);  // bytes
  int64_t (*narrow_scratch)(int64_t width);
  int64_t (*partial_floats)(int64_t width);  // a row
  void (*wide)(const AttentionCall&, const AttentionSequence&, const AttentionBlock&, int64_t head, void* scratch);
  void (*narrow)(const AttentionCall&, const AttentionSequence&, const AttentionBlock&, int64_t head, void* scratch,
                 float* partial);
  void (*merge)(const AttentionCall&, const AttentionSequence&, const AttentionBlock&, int64_t head, const float* partials);
};

extern const AttentionKernels attention_portable;
#if defined(__x86_64__)
extern const AttentionKernels attention_avx2;
extern const AttentionKernels attention_avx512;
extern const AttentionKernels attention_amx;
extern const int64_t attention_amx_width;  // the widest heads it is for
#endif
const AttentionKernels& attention_kernels(int64_t width);

// How the queries of one layout are shared out: made once, used for every layer.
struct AttentionPlan;
// LLMC_OK and a plan, or what is wrong with the layout. The plan keeps pointers into the layout, lies in scratch memory of
// the calling thread and lasts until that thread makes the next one. `slopes`: there will be an ALiBi bias.
llmc_status attention_plan(const llmc_layout& layout, int64_t query_rows, int64_t key_rows, int64_t query_heads,
                           int64_t key_heads, int64_t width, bool slopes, AttentionPlan** plan);
// One step of a region: every thread of the team calls it with the same arguments. False when memory is out.
bool attention_step(Team& team, const AttentionPlan& plan, const AttentionCall& call);

}  // namespace llmc
