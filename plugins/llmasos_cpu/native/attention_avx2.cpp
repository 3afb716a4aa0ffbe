#include "attention_kernels.h"

namespace llmc {
const AttentionKernels attention_avx2 = LLMC_ATTENTION_KERNELS;
}
