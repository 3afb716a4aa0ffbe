// Norms, rotary angles and activations, and the reduction of vocabulary scores, over rows: steps of a region.
#pragma once

#include <stdint.h>

#include "llmasos_cpu.h"

namespace llmc {

// What is known of the scores of one row so far: the largest, where it first occurs, and the sum of exp(score - largest).
struct HeadState {
  float peak, total;
  int64_t place;
};

struct PointwiseKernels {
  void (*norm)(const llmc_norm_call&, int64_t begin, int64_t end);
  void (*rotary)(const llmc_rotary_call&, int64_t begin, int64_t end);
  void (*activation)(const llmc_activation_call&, int64_t begin, int64_t end);
  // out = in + table[index], for a row of fp32 numbers and one of a table of `type`.
  void (*add_row)(float* out, const float* in, const void* table, int64_t row, int64_t width, int32_t type);
  // out = act(gate) * up, rows [count][columns] of the given strides.
  void (*gate)(float* out, int64_t out_stride, const float* gate, const float* up, int64_t stride, int64_t count,
               int64_t columns, int32_t activation);
  // Takes in scores [rows][stride] of the vocabulary entries column to column + columns; `bias` is already moved to the first
  // of them, or null, and added to the scores in place. Without `sums` only the largest is looked for.
  void (*take_scores)(float* scores, int64_t stride, int64_t rows, const float* bias, int64_t column, int32_t columns,
                      bool sums, HeadState* states);
};

extern const PointwiseKernels pointwise_portable;
#if defined(__x86_64__)
extern const PointwiseKernels pointwise_avx2;
extern const PointwiseKernels pointwise_avx512;
#endif
const PointwiseKernels& pointwise_kernels();

int32_t check_norm(const llmc_norm_call& call);
int32_t check_rotary(const llmc_rotary_call& call);
int32_t check_activation(const llmc_activation_call& call);

}  // namespace llmc
