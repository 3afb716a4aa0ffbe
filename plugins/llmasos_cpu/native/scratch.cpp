#include "scratch.h"

#include <stdlib.h>

namespace llmc {
namespace {

struct Buffers {
  void* memory[kScratchSlots] = {};
  size_t sizes[kScratchSlots] = {};
  ~Buffers() {
    for (void* part : memory) free(part);
  }
};

thread_local Buffers buffers;

}  // namespace

void* thread_scratch(ScratchSlot slot, size_t bytes) {
  if (bytes <= buffers.sizes[slot]) return buffers.memory[slot];
  free(buffers.memory[slot]);
  buffers.sizes[slot] = 0;
  // Room to grow, so that a slowly growing batch does not ask each time.
  const size_t wanted = (bytes + bytes / 4 + 4095) / 4096 * 4096;
  if (posix_memalign(&buffers.memory[slot], 64, wanted) != 0) {
    buffers.memory[slot] = nullptr;
    return nullptr;
  }
  buffers.sizes[slot] = wanted;
  return buffers.memory[slot];
}

}  // namespace llmc
