#include "attention_kernels.h"

namespace llmc {
const AttentionKernels attention_portable = LLMC_ATTENTION_KERNELS;
}
