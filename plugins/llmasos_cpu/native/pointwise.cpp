// Norms, rotary angles and activations as C functions.
#include "pointwise.h"

#include "features.h"
#include "threads.h"

namespace llmc {

namespace {

bool is_type(int32_t type) { return type == LLMC_FP32 || type == LLMC_BF16; }

// About 16 KiB of numbers: less would cost more to hand out than to compute.
int64_t grain_of(int64_t width) { return width >= 4096 ? 1 : 4096 / width; }

}  // namespace

const PointwiseKernels& pointwise_kernels() {
#if defined(__x86_64__)
  if (isa() >= kAvx512) return pointwise_avx512;
  if (isa() == kAvx2) return pointwise_avx2;
#endif
  return pointwise_portable;
}

int32_t check_norm(const llmc_norm_call& c) {
  if (!is_type(c.type) || !is_type(c.weight_type) || (c.kind != LLMC_RMS_NORM && c.kind != LLMC_LAYER_NORM))
    return LLMC_BAD_ARGUMENT;
  if (c.rows < 0 || c.width < 1 || c.width > INT32_MAX) return LLMC_BAD_ARGUMENT;
  if (c.rows == 0) return LLMC_OK;
  if (!c.x || !c.out || (c.sum && !c.add)) return LLMC_BAD_ARGUMENT;
  if (c.rows > 1 && (c.x_stride < c.width || c.out_stride < c.width || (c.add && c.add_stride < c.width) ||
                     (c.sum && c.sum_stride < c.width)))
    return LLMC_BAD_SHAPE;
  return LLMC_OK;
}

int32_t check_rotary(const llmc_rotary_call& c) {
  if (!is_type(c.type) || !is_type(c.out_type)) return LLMC_BAD_ARGUMENT;
  if (c.rows < 0 || c.heads < 1 || c.width < 1 || c.turned < 0) return LLMC_BAD_ARGUMENT;
  if (c.turned > c.width || c.turned % 2 != 0) return LLMC_BAD_SHAPE;
  if (c.rows == 0) return LLMC_OK;
  if (!c.x || !c.out || (c.turned > 0 && (!c.cos || !c.sin))) return LLMC_BAD_ARGUMENT;
  const int64_t row = int64_t{c.heads} * c.width;
  if (c.rows > 1 && (c.x_stride < row || (c.turned > 0 && c.angle_stride < c.turned / 2))) return LLMC_BAD_SHAPE;
  if ((c.rows > 1 || c.out_rows) && c.out_stride < row) return LLMC_BAD_SHAPE;
  if (c.out_rows)
    for (int64_t i = 0; i < c.rows; ++i)
      if (c.out_rows[i] < 0 || c.out_rows[i] >= c.out_count) return LLMC_BAD_SHAPE;
  return LLMC_OK;
}

int32_t check_activation(const llmc_activation_call& c) {
  if (!is_type(c.type) || c.activation < LLMC_NONE || c.activation > LLMC_TANH) return LLMC_BAD_ARGUMENT;
  if (c.rows < 0 || c.width < 1) return LLMC_BAD_ARGUMENT;
  if (c.rows == 0) return LLMC_OK;
  if (!c.x || !c.out) return LLMC_BAD_ARGUMENT;
  if (c.rows > 1 && (c.x_stride < c.width || c.out_stride < c.width || (c.up && c.up_stride < c.width)))
    return LLMC_BAD_SHAPE;
  return LLMC_OK;
}

}  // namespace llmc

using namespace llmc;

int32_t llmc_norm(const llmc_norm_call* call) {
  if (!call) return LLMC_BAD_ARGUMENT;
  const int32_t status = check_norm(*call);
  if (status == LLMC_OK)
    parallel_for(call->rows, grain_of(call->width),
                 [&](int64_t begin, int64_t end) { pointwise_kernels().norm(*call, begin, end); });
  return status;
}

int32_t llmc_rotary(const llmc_rotary_call* call) {
  if (!call) return LLMC_BAD_ARGUMENT;
  const int32_t status = check_rotary(*call);
  if (status == LLMC_OK)
    parallel_for(call->rows, grain_of(int64_t{call->heads} * call->width),
                 [&](int64_t begin, int64_t end) { pointwise_kernels().rotary(*call, begin, end); });
  return status;
}

int32_t llmc_activation(const llmc_activation_call* call) {
  if (!call) return LLMC_BAD_ARGUMENT;
  const int32_t status = check_activation(*call);
  if (status == LLMC_OK)
    parallel_for(call->rows, grain_of(call->width),
                 [&](int64_t begin, int64_t end) { pointwise_kernels().activation(*call, begin, end); });
  return status;
}
