#include "gemm.h"

namespace llmc {

void fill_portable(Kernels* table) { fill_generic(table); }

}  // namespace llmc
