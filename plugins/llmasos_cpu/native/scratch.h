// Working memory of the calling thread, kept from call to call.
#pragma once

#include <stddef.h>

namespace llmc {

// At least `bytes` bytes, 64-aligned, whose content is undefined; the same memory for the same slot until more is asked
// for. Null when memory is out. Slots keep users apart who need their memory at the same time.
enum ScratchSlot { kPlanScratch = 0, kKernelScratch = 1, kHeadScratch = 2, kLinearScratch = 3, kProgramScratch = 4, kOwnScratch = 5,
                   kScratchSlots = 6 };
void* thread_scratch(ScratchSlot slot, size_t bytes);

}  // namespace llmc
