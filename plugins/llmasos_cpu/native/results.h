// From sums to results: bias, activation, factor, residual, rounding.
#pragma once

#include "activations.h"
#include "packing.h"

namespace {

template <int Activation, typename Number>
void finish_rows(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
                 int columns) {
  const Number* residual = static_cast<const Number*>(call.residual);
  const Number* factor = static_cast<const Number*>(call.multiply);
  for (int row = 0; row < count; ++row) {
    Number* y = static_cast<Number*>(call.y) + (first + row) * call.y_stride + column;
    for (int i = 0; i < columns; i += kLanes) {
      const int n = columns - i < kLanes ? columns - i : kLanes;
      const bool whole = n == kLanes;
      Vec value = load(sums + row * kPanel + i);
      if (call.bias) value = value + (whole ? load(call.bias + column + i) : load(call.bias + column + i, n));
      value = activate<Activation>(value);
      if (factor) {
        const Number* p = factor + (first + row) * call.multiply_stride + column + i;
        value = value * (whole ? load(p) : load(p, n));
      }
      if (residual) {
        const Number* p = residual + (first + row) * call.residual_stride + column + i;
        value = value + (whole ? load(p) : load(p, n));
      }
      if (whole) {
        store(y + i, value);
      } else {
        store(y + i, value, n);
      }
    }
  }
}

template <typename Number>
void finish_as(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
               int columns) {
  switch (call.activation) {
    case LLMC_RELU: return finish_rows<LLMC_RELU, Number>(call, sums, first, count, column, columns);
    case LLMC_RELU2: return finish_rows<LLMC_RELU2, Number>(call, sums, first, count, column, columns);
    case LLMC_GELU: return finish_rows<LLMC_GELU, Number>(call, sums, first, count, column, columns);
    case LLMC_GELU_TANH: return finish_rows<LLMC_GELU_TANH, Number>(call, sums, first, count, column, columns);
    case LLMC_SILU: return finish_rows<LLMC_SILU, Number>(call, sums, first, count, column, columns);
    case LLMC_GELU_QUICK: return finish_rows<LLMC_GELU_QUICK, Number>(call, sums, first, count, column, columns);
    case LLMC_TANH: return finish_rows<LLMC_TANH, Number>(call, sums, first, count, column, columns);
    default: return finish_rows<LLMC_NONE, Number>(call, sums, first, count, column, columns);
  }
}

inline void finish(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
            int columns) {
  if (call.y_type == LLMC_BF16) {
    finish_as<bf16>(call, sums, first, count, column, columns);
  } else {
    finish_as<float>(call, sums, first, count, column, columns);
  }
}

}  // namespace
