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

// The share of one thread in a checked call. Every thread of the team must call it; a barrier must lie between it and
// whatever wrote x before, or reads y after.
void run_linear(Team& members, const llmc_linear_call& call, void* scratch);

}  // namespace llmc
