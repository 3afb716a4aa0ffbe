#include "pointwise_kernels.h"

namespace llmc {
const PointwiseKernels pointwise_avx512 = LLMC_POINTWISE_KERNELS;
}
