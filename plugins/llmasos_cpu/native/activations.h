// The activations of llmasos_cpu.h over one vector; for files compiled for one instruction set.
#pragma once

#include "llmasos_cpu.h"
#include "vector.h"

namespace {

inline Vec sigmoid(Vec x) { return all(1.0f) / (all(1.0f) + exp(zero() - x)); }

template <int Activation>
inline Vec activate(Vec x) {
  switch (Activation) {
    case LLMC_RELU: return select(x < zero(), zero(), x);
    case LLMC_RELU2: return select(x < zero(), zero(), x) * select(x < zero(), zero(), x);
    case LLMC_GELU: return all(0.5f) * x * (all(1.0f) + erf(x * all(0.70710678f)));
    case LLMC_GELU_TANH:
      return all(0.5f) * x * (all(1.0f) + tanh(all(0.79788456f) * fma(all(0.044715f) * x * x, x, x)));
    case LLMC_SILU: return x * sigmoid(x);
    case LLMC_GELU_QUICK: return x * sigmoid(all(1.702f) * x);
    case LLMC_TANH: return tanh(x);
    default: return x;
  }
}

}  // namespace
