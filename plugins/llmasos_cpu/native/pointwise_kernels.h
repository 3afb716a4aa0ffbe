// The pointwise kernels, written once; pointwise_avx512.cpp and its kin compile them for one instruction set each.
//
// Numbers are fp32 or bf16 in memory and fp32 in registers; statistics are fp32.
#pragma once

#include "activations.h"
#include "pointwise.h"
#include "vector.h"

namespace {

using llmc::HeadState;

inline int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

// The n numbers at p, n <= kLanes.
template <typename T>
inline Vec load_some(const T* p, int64_t n) {
  return n == kLanes ? load(p) : load(p, static_cast<int>(n));
}
template <typename T>
inline void store_some(T* p, Vec x, int64_t n) {
  if (n == kLanes) {
    store(p, x);
  } else {
    store(p, x, static_cast<int>(n));
  }
}
inline Vec load_typed(const void* p, int64_t at, int64_t n, int32_t type) {
  return type == LLMC_BF16 ? load_some(static_cast<const bf16*>(p) + at, n) : load_some(static_cast<const float*>(p) + at, n);
}
inline void store_typed(void* p, int64_t at, Vec x, int64_t n, int32_t type) {
  if (type == LLMC_BF16) {
    store_some(static_cast<bf16*>(p) + at, x, n);
  } else {
    store_some(static_cast<float*>(p) + at, x, n);
  }
}
// x where i < n, 0 elsewhere.
inline Vec only(Vec x, int64_t n) { return n >= kLanes ? x : select(mask_of((1u << n) - 1u), x, zero()); }

template <typename T>
void norm_rows(const llmc_norm_call& call, int64_t begin, int64_t end) {
  const int64_t width = call.width;
  const float share = 1.0f / static_cast<float>(width);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(call.x) + row * call.x_stride;
    const T* add = call.add ? static_cast<const T*>(call.add) + row * call.add_stride : nullptr;
    T* sum_out = call.sum ? static_cast<T*>(call.sum) + row * call.sum_stride : nullptr;
    T* out = static_cast<T*>(call.out) + row * call.out_stride;
    // With a sum to keep, it is what the norm is taken of, as rounded.
    const T* base = x;
    Vec first = zero(), second = zero();
    const bool centred = call.kind == LLMC_LAYER_NORM;
    for (int64_t e = 0; e < width; e += kLanes) {
      const int64_t n = smaller_of(kLanes, width - e);
      Vec v = load_some(x + e, n);
      if (add) {
        v = v + load_some(add + e, n);
        T* kept = sum_out ? sum_out : out;
        store_some(kept + e, v, n);
        v = load_some(kept + e, n);
      }
      if (centred) {
        first = first + v;
      } else {
        const Vec swap = fma(v, v, second);  // two chains, for one would wait for itself
        second = first;
        first = swap;
      }
    }
    if (add) base = sum_out ? sum_out : out;
    Vec mean = zero();
    if (centred) {
      mean = all(sum(first) * share);
      first = zero();
      second = zero();
      for (int64_t e = 0; e < width; e += kLanes) {
        const int64_t n = smaller_of(kLanes, width - e);
        const Vec v = only(load_some(base + e, n) - mean, n);
        const Vec swap = fma(v, v, second);
        second = first;
        first = swap;
      }
    }
    const float spread = sum(first + second) * share + call.eps;
    const Vec scale = all(1.0f) / square_root(all(spread));
    for (int64_t e = 0; e < width; e += kLanes) {
      const int64_t n = smaller_of(kLanes, width - e);
      Vec v = (load_some(base + e, n) - mean) * scale;
      if (call.weight) v = v * load_typed(call.weight, e, n, call.weight_type);
      if (call.bias) v = v + load_typed(call.bias, e, n, call.weight_type);
      store_some(out + e, v, n);
    }
  }
}

void norm(const llmc_norm_call& call, int64_t begin, int64_t end) {
  if (call.type == LLMC_BF16) {
    norm_rows<bf16>(call, begin, end);
  } else {
    norm_rows<float>(call, begin, end);
  }
}

void rotary(const llmc_rotary_call& call, int64_t begin, int64_t end) {
  const int64_t half = call.turned / 2, width = call.width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t target = call.out_rows ? call.out_rows[row] : row;
    const float* cos = call.cos ? call.cos + row * call.angle_stride : nullptr;
    const float* sin = call.sin ? call.sin + row * call.angle_stride : nullptr;
    for (int64_t head = 0; head < call.heads; ++head) {
      const int64_t x = row * call.x_stride + head * width, out = target * call.out_stride + head * width;
      for (int64_t j = 0; j < half; j += kLanes) {
        const int64_t n = smaller_of(kLanes, half - j);
        const Vec a = load_typed(call.x, x + j, n, call.type), b = load_typed(call.x, x + half + j, n, call.type);
        const Vec c = load_some(cos + j, n), s = load_some(sin + j, n);
        store_typed(call.out, out + j, fma(a, c, zero() - b * s), n, call.out_type);
        store_typed(call.out, out + half + j, fma(b, c, a * s), n, call.out_type);
      }
      if (call.x == call.out && x == out) continue;
      for (int64_t j = 2 * half; j < width; j += kLanes) {
        const int64_t n = smaller_of(kLanes, width - j);
        store_typed(call.out, out + j, load_typed(call.x, x + j, n, call.type), n, call.out_type);
      }
    }
  }
}

template <int Activation, typename T>
void activate_rows(const llmc_activation_call& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(call.x) + row * call.x_stride;
    const T* up = call.up ? static_cast<const T*>(call.up) + row * call.up_stride : nullptr;
    T* out = static_cast<T*>(call.out) + row * call.out_stride;
    for (int64_t e = 0; e < call.width; e += kLanes) {
      const int64_t n = smaller_of(kLanes, call.width - e);
      Vec v = activate<Activation>(load_some(x + e, n));
      if (up) v = v * load_some(up + e, n);
      store_some(out + e, v, n);
    }
  }
}

template <typename T>
void activate_as(const llmc_activation_call& call, int64_t begin, int64_t end) {
  switch (call.activation) {
    case LLMC_RELU: return activate_rows<LLMC_RELU, T>(call, begin, end);
    case LLMC_RELU2: return activate_rows<LLMC_RELU2, T>(call, begin, end);
    case LLMC_GELU: return activate_rows<LLMC_GELU, T>(call, begin, end);
    case LLMC_GELU_TANH: return activate_rows<LLMC_GELU_TANH, T>(call, begin, end);
    case LLMC_SILU: return activate_rows<LLMC_SILU, T>(call, begin, end);
    case LLMC_GELU_QUICK: return activate_rows<LLMC_GELU_QUICK, T>(call, begin, end);
    case LLMC_TANH: return activate_rows<LLMC_TANH, T>(call, begin, end);
    default: return activate_rows<LLMC_NONE, T>(call, begin, end);
  }
}

void activation(const llmc_activation_call& call, int64_t begin, int64_t end) {
  if (call.type == LLMC_BF16) {
    activate_as<bf16>(call, begin, end);
  } else {
    activate_as<float>(call, begin, end);
  }
}

void gate_rows(float* out, int64_t out_stride, const float* gate, const float* up, int64_t stride, int64_t count,
               int64_t columns, int32_t kind) {
  const llmc_activation_call call = {out, gate, up, count, columns, out_stride, stride, stride, LLMC_FP32, kind};
  activate_as<float>(call, 0, count);
}

void add_row(float* out, const float* in, const void* table, int64_t row, int64_t width, int32_t type) {
  for (int64_t e = 0; e < width; e += kLanes) {
    const int64_t n = smaller_of(kLanes, width - e);
    store_some(out + e, load_some(in + e, n) + load_typed(table, row * width + e, n, type), n);
  }
}

void take_scores(float* scores, int64_t stride, int64_t rows, const float* bias, int64_t column, int32_t columns,
                 bool sums, HeadState* states) {
  const float lowest_score = -__builtin_inff();
  const Vec lowest = all(lowest_score);
  for (int64_t row = 0; row < rows; ++row) {
    float* at = scores + row * stride;
    HeadState& state = states[row];
    Vec high = lowest, total = zero();
    uint32_t numbers = ~0u;  // a NaN must not be lost among the maxima
    for (int32_t i = 0; i < columns; i += kLanes) {
      const int64_t n = smaller_of(kLanes, columns - i);
      Vec v = load_some(at + i, n);
      if (bias) {
        v = v + load_some(bias + i, n);
        store_some(at + i, v, n);
      }
      numbers &= bits_of(v == v);
      high = max(high, n == kLanes ? v : select(mask_of((1u << n) - 1u), v, lowest));
    }
    const float best = largest(high);
    if ((numbers & ((1u << kLanes) - 1u)) != (1u << kLanes) - 1u) {
      // The first one counts as the largest, as it does in torch.
      bool found = state.total != state.total || state.peak != state.peak;
      for (int32_t i = 0; i < columns && !found; ++i)
        if (at[i] != at[i]) {
          state.place = column + i;
          found = true;
        }
      if (found) {
        state.peak = __builtin_nanf("");
        state.total = __builtin_nanf("");
        continue;
      }
    }
    if (state.peak != state.peak) continue;
    if (best > state.peak || state.place < 0) {
      for (int32_t i = 0; i < columns; ++i)
        if (at[i] == best) {
          state.place = column + i;
          break;
        }
      if (sums) {
        const Vec factor = exp(all(state.peak - best));
        float factors[kLanes];
        store(factors, factor);
        state.total = state.total == 0.0f ? 0.0f : state.total * factors[0];
      }
      state.peak = best;
    }
    if (!sums || !(lowest_score < state.peak)) continue;
    const Vec peak = all(state.peak);
    for (int32_t i = 0; i < columns; i += kLanes) {
      const int64_t n = smaller_of(kLanes, columns - i);
      total = total + only(exp(load_some(at + i, n) - peak), n);
    }
    state.total += sum(total);
  }
}

}  // namespace

#define LLMC_POINTWISE_KERNELS {norm, rotary, activation, add_row, gate_rows, take_scores}
