// One pool of threads for every kernel. The caller is thread 0; the others spin for a moment, then sleep.
//
// A region runs one body on every thread. Inside it the threads walk the same list of steps, with barrier()
// between steps, so that a whole decoding step costs one hand-over and one barrier (about a microsecond) per
// step. A kernel is therefore written as a function of (Team&, arguments) which takes its share of chunks; the
// C function opens a region around it, and a program of many operations opens one region around all of them.
#pragma once

#include <stdint.h>

namespace llmc {

struct Pool;

class Team {
 public:
  int rank;
  int size;

  // Waits until every thread of the region is here. All threads must call it the same number of times.
  void barrier();

  // Next free number of the current step: 0, 1, 2 ..., each handed to one thread. A barrier starts again at 0.
  int64_t next();

  // Calls body(begin, end) over pieces of [0, count), `grain` long, each on the first free thread.
  template <typename Body>
  void chunks(int64_t count, int64_t grain, const Body& body) {
    if (size == 1) {
      if (count > 0) body(static_cast<int64_t>(0), count);
      return;
    }
    for (;;) {
      const int64_t begin = next() * grain;
      if (begin >= count) return;
      const int64_t end = begin + grain;
      body(begin, end < count ? end : count);
    }
  }

  // This thread's even share of [0, count), in multiples of `grain`.
  void share(int64_t count, int64_t grain, int64_t* begin, int64_t* end) const {
    const int64_t pieces = (count + grain - 1) / grain;
    const int64_t first = pieces * rank / size * grain, last = pieces * (rank + 1) / size * grain;
    *begin = first < count ? first : count;
    *end = last < count ? last : count;
  }

 private:
  friend struct Pool;
  friend void run_team(void (*body)(Team&, void*), void* context);
  Team(Pool* owner, int rank_, int size_) : rank(rank_), size(size_), pool(owner) {}
  Pool* pool;
  uint32_t step = 0;
  int64_t solo_next = 0;
};

// Runs body on every thread and returns when all are done. A call from inside a region, or while another thread
// of the program holds the pool, runs the body alone on the calling thread: results never depend on the count.
void run_team(void (*body)(Team&, void*), void* context);

template <typename Body>
void team(const Body& body) {
  run_team([](Team& members, void* context) { (*static_cast<const Body*>(context))(members); },
           const_cast<void*>(static_cast<const void*>(&body)));
}

// One loop as its own region: body(begin, end) over pieces of `grain`.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= grain) {
    if (count > 0) body(static_cast<int64_t>(0), count);
    return;
  }
  team([&](Team& members) { members.chunks(count, grain, body); });
}

int thread_count();             // threads of the pool, the caller included
bool set_thread_count(int count);  // false: out of range (1..256) or called from inside a region
int processor_count();          // processors this process may run on

// Pins thread i (i >= 1) to processors[i % count]; the caller's own thread is left alone. count 0: no pinning.
bool set_affinity(const int32_t* processors, int count);

// The processor each thread last ran on; returns how many were written.
int thread_processors(int32_t* out, int capacity);

// How long an idle thread spins before it sleeps; default 1000 microseconds, 0 sleeps at once.
bool set_spin_microseconds(int microseconds);
int spin_microseconds();

}  // namespace llmc
