#include "pointwise_kernels.h"

namespace llmc {
const PointwiseKernels pointwise_avx2 = LLMC_POINTWISE_KERNELS;
}
