// Linear layers as steps of a region: see threads.h.
#pragma once

#include <stddef.h>

#include "llmasos_cpu.h"
#include "threads.h"

namespace llmc {

// LLMC_OK, or what is wrong with the call.
int32_t check_linear(const llmc_linear_call& call);

// Bytes of working memory that run_linear needs, shared by all threads and aligned to 64.
size_t linear_scratch(const llmc_linear_call& call);

// Takes the sums [count][32] of rows [row, row + count) and outputs [column, column + columns), where y is not wanted: no
// bias, activation, factor or residual is applied. It may change them.
struct PanelSink {
  void (*take)(void* self, float* sums, int64_t row, int64_t count, int64_t column, int32_t columns);
  void* self;
};

// The share of one thread in a checked call. Every thread of the team must call it; a barrier must lie between it and
// whatever wrote x before, or reads y after.
//
// With a sink, each run of `piece` panels goes to it from one thread, in order. `own`, for calls that are `packed_at_once`:
// x and scratch belong to the calling thread alone, which packs all rows for itself, and no barrier is needed for that.
void run_linear(Team& members, const llmc_linear_call& call, void* scratch, const PanelSink* sink = nullptr,
                int64_t piece = 0, bool own = false);
bool packed_at_once(const llmc_linear_call& call);

}  // namespace llmc
