#include "features.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace llmc {
namespace {

struct Found {
  Features machine;
  Features used;
  Isa machine_level;
  Isa used_level;
};

#if defined(__x86_64__)
uint64_t enabled_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux hands out the large tile state only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM, state 18).
bool tiles_permitted() {
#if defined(__linux__)
  constexpr long kRequest = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

Features probe() {
  Features found{};
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool osxsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave || !avx) return found;
  const uint64_t states = enabled_states();
  if ((states & 0x6) != 0x6) return found;
  uint32_t a7, b7, c7, d7, a71 = 0, b71, c71, d71;
  if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return found;
  if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  found.avx2 = (b7 & (1u << 5)) && fma && f16c;
  found.avx_vnni = found.avx2 && (a71 & (1u << 4));
  constexpr uint32_t kBase = (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31);  // F DQ CD BW VL
  found.avx512 = found.avx2 && (b7 & kBase) == kBase && (states & 0xe0) == 0xe0;
  found.avx512_vnni = found.avx512 && (c7 & (1u << 11));
  found.avx512_bf16 = found.avx512 && (a71 & (1u << 5));
  if (found.avx512_vnni && found.avx512_bf16 && (d7 & (1u << 24)) && (states & 0x60000) == 0x60000 &&
      tiles_permitted()) {
    found.amx_bf16 = d7 & (1u << 22);
    found.amx_int8 = d7 & (1u << 25);
  }
  return found;
}
#else
Features probe() { return Features{}; }
#endif

Isa level_of(const Features& f) {
  if (f.amx_bf16 && f.amx_int8) return kAmx;
  if (f.avx512) return kAvx512;
  return f.avx2 ? kAvx2 : kPortable;
}

Isa requested() {
  const char* wish = getenv("LLMASOS_CPU_ISA");
  if (wish)
    for (int level = kPortable; level < kAmx; ++level)
      if (strcmp(wish, isa_name(static_cast<Isa>(level))) == 0) return static_cast<Isa>(level);
  return kAmx;
}

Found find() {
  Found found{};
  found.machine = found.used = probe();
  found.machine_level = level_of(found.machine);
  const Isa wish = requested();
  Features& used = found.used;
  if (wish < kAmx) used.amx_int8 = used.amx_bf16 = false;
  if (wish < kAvx512) used.avx512 = used.avx512_vnni = used.avx512_bf16 = false;
  if (wish < kAvx2) used.avx2 = used.avx_vnni = false;
  found.used_level = level_of(used);
  used.vector_bytes = used.avx512 ? 64 : used.avx2 ? 32 : 16;
  return found;
}

const Found& found() {
  static const Found once = find();
  return once;
}

}  // namespace

const Features& features() { return found().used; }
Isa isa() { return found().used_level; }
Isa isa_of_machine() { return found().machine_level; }

const char* isa_name(Isa level) {
  switch (level) {
    case kAmx: return "amx";
    case kAvx512: return "avx512";
    case kAvx2: return "avx2";
    case kPortable: break;
  }
  return "portable";
}

}  // namespace llmc
