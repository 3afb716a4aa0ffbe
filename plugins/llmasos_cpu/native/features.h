// What the processor and the operating system allow, found once.
#pragma once

#include <stdint.h>

namespace llmc {

enum Isa : int32_t { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAmx = 3 };

struct Features {
  bool avx2;         // AVX2, FMA and F16C
  bool avx_vnni;     // 256-bit VNNI, VEX encoded
  bool avx512;       // F, BW, CD, DQ, VL
  bool avx512_vnni;  // 8-bit dot products
  bool avx512_bf16;  // bf16 dot products
  bool amx_int8;     // tiles, and the kernel's permission to use them
  bool amx_bf16;
  uint32_t vector_bytes;  // width of the kernels chosen: 64, 32 or 16
};

// The features in use: those of the machine, lowered by LLMASOS_CPU_ISA=portable|avx2|avx512|amx when it is set.
const Features& features();

// The level in use and the highest one the machine has.
Isa isa();
Isa isa_of_machine();
const char* isa_name(Isa level);

}  // namespace llmc
