// The part of the C interface that describes the library and its threads.
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "features.h"
#include "llmasos_cpu.h"
#include "threads.h"

namespace {

const char* list_features() {
  static char text[128];
  const llmc::Features& f = llmc::features();
  snprintf(text, sizeof text, "%s%s%s%s%s%s%s", f.avx2 ? "avx2 " : "", f.avx_vnni ? "avx_vnni " : "",
           f.avx512 ? "avx512 " : "", f.avx512_vnni ? "avx512_vnni " : "", f.avx512_bf16 ? "avx512_bf16 " : "",
           f.amx_int8 ? "amx_int8 " : "", f.amx_bf16 ? "amx_bf16 " : "");
  const size_t length = strlen(text);
  if (length > 0) text[length - 1] = '\0';
  return text;
}

double now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

}  // namespace

int32_t llmc_abi(void) { return LLMC_ABI; }
const char* llmc_isa(void) { return llmc::isa_name(llmc::isa()); }
const char* llmc_machine_isa(void) { return llmc::isa_name(llmc::isa_of_machine()); }

const char* llmc_features(void) {
  static const char* text = list_features();
  return text;
}

const char* llmc_status_text(int32_t status) {
  switch (status) {
    case LLMC_OK: return "ok";
    case LLMC_BAD_ARGUMENT: return "a bad argument: a null pointer, a negative size or an unknown code";
    case LLMC_BAD_SHAPE: return "sizes that do not fit each other or the kind of matrix";
    case LLMC_UNSUPPORTED: return "a combination that no kernel covers";
    case LLMC_NO_MEMORY: return "out of memory";
    case LLMC_BAD_DATA: return "packed or quantised bytes that are not what they claim to be";
    default: return "an unknown status";
  }
}

int32_t llmc_processors(void) { return llmc::processor_count(); }
int32_t llmc_threads(void) { return llmc::thread_count(); }

int32_t llmc_set_threads(int32_t count) {
  return llmc::set_thread_count(count) ? LLMC_OK : LLMC_BAD_ARGUMENT;
}

int32_t llmc_set_affinity(const int32_t* processors, int32_t count) {
  return llmc::set_affinity(processors, count) ? LLMC_OK : LLMC_BAD_ARGUMENT;
}

int32_t llmc_thread_processors(int32_t* out, int32_t capacity) {
  return out && capacity > 0 ? llmc::thread_processors(out, capacity) : 0;
}

int32_t llmc_set_spin(int32_t microseconds) {
  return llmc::set_spin_microseconds(microseconds) ? LLMC_OK : LLMC_BAD_ARGUMENT;
}

double llmc_threads_cost(int32_t count, int32_t barriers) {
  if (count < 1) return 0.0;
  const double begin = now_ns();
  if (barriers) {
    llmc::team([&](llmc::Team& members) {
      for (int32_t i = 0; i < count; ++i) members.barrier();
    });
  } else {
    for (int32_t i = 0; i < count; ++i) llmc::team([](llmc::Team&) {});
  }
  return (now_ns() - begin) / count;
}
