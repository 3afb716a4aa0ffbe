#include "gemm.h"

namespace llmc {

void fill_avx512(Kernels* table) { fill_generic(table); }

}  // namespace llmc
