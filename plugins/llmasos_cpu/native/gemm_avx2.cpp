#include "gemm.h"

namespace llmc {

void fill_avx2(Kernels* table) { fill_generic(table); }

}  // namespace llmc
