#include "attention_kernels.h"

namespace llmc {
const AttentionKernels attention_avx512 = LLMC_ATTENTION_KERNELS;
}
