#include "gemm.h"
#include "integer.h"

namespace llmc {

void fill_avx2(Kernels* table) {
  fill_generic(table);
  fill_integer(table);
}

}  // namespace llmc
