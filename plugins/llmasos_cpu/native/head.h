// The vocabulary head as a step of a region: scores are reduced panel by panel and never kept.
#pragma once

#include "linear.h"

namespace llmc {

// LLMC_OK, or what is wrong with the call.
int32_t check_head(const llmc_head_call& call);
// Bytes of working memory that run_head needs, shared by all threads and aligned to 64.
size_t head_scratch(const llmc_head_call& call);
// The share of one thread in a checked call; `scratch` is that of all threads. Holds barriers of its own, the last of
// which comes before the results are complete.
void run_head(Team& members, const llmc_head_call& call, void* scratch);

}  // namespace llmc
