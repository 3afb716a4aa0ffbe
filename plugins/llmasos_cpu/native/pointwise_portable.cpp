#include "pointwise_kernels.h"

namespace llmc {
const PointwiseKernels pointwise_portable = LLMC_POINTWISE_KERNELS;
}
