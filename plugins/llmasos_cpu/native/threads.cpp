#include "threads.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <new>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llmc {
namespace {

constexpr int kMaximum = 256;
constexpr int kCounters = 4;
constexpr int64_t kPoliteAfter = 30000;  // nanoseconds of plain spinning before each turn offers the processor

using Word = std::atomic<uint32_t>;

#if defined(__linux__)
void sleep_while(Word& word, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake_all(Word& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}
#else
pthread_mutex_t sleep_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t sleep_condition = PTHREAD_COND_INITIALIZER;
void sleep_while(Word& word, uint32_t value) {
  pthread_mutex_lock(&sleep_mutex);
  while (word.load() == value) pthread_cond_wait(&sleep_condition, &sleep_mutex);
  pthread_mutex_unlock(&sleep_mutex);
}
void wake_all(Word&) {
  pthread_mutex_lock(&sleep_mutex);
  pthread_cond_broadcast(&sleep_condition);
  pthread_mutex_unlock(&sleep_mutex);
}
#endif

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#else
  sched_yield();
#endif
}

int64_t nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

std::atomic<int> spin_limit_us{1000};

// Waits until the word differs from value: spins first, for a sleep and a wake cost about 50 microseconds.
void await_change(Word& word, uint32_t value, std::atomic<int32_t>& sleepers) {
  const int64_t limit = static_cast<int64_t>(spin_limit_us.load(std::memory_order_relaxed)) * 1000;
  int64_t started = 0;
  for (uint32_t turn = 1;; ++turn) {
    if (word.load(std::memory_order_acquire) != value) return;
    relax();
    if ((turn & 63) == 0 || limit == 0) {
      const int64_t now = nanoseconds();
      if (started == 0) started = now;
      if (now - started >= limit) break;
      // The thread waited for may be queued behind this one when the machine is shared: let it pass.
      if (now - started >= kPoliteAfter) sched_yield();
    }
  }
  sleepers.fetch_add(1);
  while (word.load() == value) sleep_while(word, value);
  sleepers.fetch_sub(1);
}

void change(Word& word, std::atomic<int32_t>& sleepers) {
  word.fetch_add(1);
  if (sleepers.load() > 0) wake_all(word);
}

thread_local bool inside_region = false;

struct alignas(64) Counter {
  std::atomic<int64_t> value{0};
};

}  // namespace

struct Pool {
  alignas(64) Word epoch{0};
  std::atomic<int32_t> idle_sleepers{0};
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) Word phase{0};
  std::atomic<int32_t> barrier_sleepers{0};
  Counter counters[kCounters];
  alignas(64) std::atomic<bool> busy{false};
  int size = 1;
  bool stopping = false;
  void (*body)(Team&, void*) = nullptr;
  void* context = nullptr;
  std::atomic<int32_t> processors[kMaximum];
  pthread_t threads[kMaximum];

  void barrier(uint32_t step) {
    const uint32_t now = phase.load(std::memory_order_acquire);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      // Every thread is past this step: its counter is free, and not used again for kCounters steps.
      counters[step % kCounters].value.store(0, std::memory_order_relaxed);
      change(phase, barrier_sleepers);
    } else {
      await_change(phase, now, barrier_sleepers);
    }
  }

  void take_part(int rank) {
#if defined(__linux__)
    processors[rank].store(sched_getcpu(), std::memory_order_relaxed);
#endif
    inside_region = true;
    Team members(this, rank, size);
    body(members, context);
    barrier(members.step);
    inside_region = false;
  }

  void work(int rank) {
    uint32_t seen = 0;
    for (;;) {
      await_change(epoch, seen, idle_sleepers);
      ++seen;
      if (stopping) return;
      take_part(rank);
    }
  }

  void run(void (*work_body)(Team&, void*), void* work_context) {
    body = work_body;
    context = work_context;
    change(epoch, idle_sleepers);
    take_part(0);
  }
};

namespace {

struct Start {
  Pool* pool;
  int rank;
};

void* begin_thread(void* argument) {
  const Start start = *static_cast<Start*>(argument);
  delete static_cast<Start*>(argument);
  start.pool->work(start.rank);
  return nullptr;
}

std::atomic_flag pool_lock = ATOMIC_FLAG_INIT;  // held while the pool is looked up, made or replaced
Pool* current_pool = nullptr;
int wanted = 0;  // 0: one per processor
int32_t pinned[kMaximum];
int pinned_count = 0;

struct Guard {
  Guard() {
    while (pool_lock.test_and_set(std::memory_order_acquire)) sched_yield();
  }
  ~Guard() { pool_lock.clear(std::memory_order_release); }
};

void pin(Pool* pool) {
#if defined(__linux__)
  for (int rank = 1; rank < pool->size; ++rank) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (pinned_count > 0) {
      CPU_SET(pinned[rank % pinned_count], &set);
    } else if (sched_getaffinity(0, sizeof set, &set) != 0) {
      continue;
    }
    pthread_setaffinity_np(pool->threads[rank], sizeof set, &set);
  }
#else
  (void)pool;
#endif
}

Pool* make_pool(int size) {
  Pool* pool = new (std::nothrow) Pool;
  if (!pool) return nullptr;
  for (auto& processor : pool->processors) processor.store(-1, std::memory_order_relaxed);
  // The workers wait for the first epoch, so the size may still shrink when the system refuses a thread.
  // Kernels keep their tiles on the stack; some systems give new threads very little.
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, size_t{1} << 21);
  int started = 1;
  for (; started < size; ++started) {
    Start* start = new (std::nothrow) Start{pool, started};
    if (!start) break;
    if (pthread_create(&pool->threads[started], &attributes, begin_thread, start) != 0) {
      delete start;
      break;
    }
  }
  pthread_attr_destroy(&attributes);
  pool->size = started;
  if (pinned_count > 0) pin(pool);
  return pool;
}

void destroy(Pool* pool) {
  pool->stopping = true;
  change(pool->epoch, pool->idle_sleepers);
  for (int rank = 1; rank < pool->size; ++rank) pthread_join(pool->threads[rank], nullptr);
  delete pool;
}

// Threads do not survive a fork: the child forgets the pool (its memory is lost) and makes its own when it needs one.
void after_fork_in_child() {
  current_pool = nullptr;
  inside_region = false;
  pool_lock.clear(std::memory_order_release);
}

// The pool, marked busy; null when someone else holds it or memory is out.
Pool* acquire() {
  Guard guard;
  if (!current_pool) {
    static bool registered = pthread_atfork(nullptr, nullptr, after_fork_in_child) == 0;
    (void)registered;
    current_pool = make_pool(wanted > 0 ? wanted : processor_count());
    if (!current_pool) return nullptr;
  }
  bool expected = false;
  return current_pool->busy.compare_exchange_strong(expected, true) ? current_pool : nullptr;
}

// Waits for a running region to end, then takes the pool out of use.
Pool* withdraw() {
  for (;;) {
    {
      Guard guard;
      if (!current_pool) return nullptr;
      bool expected = false;
      if (current_pool->busy.compare_exchange_strong(expected, true)) {
        Pool* pool = current_pool;
        current_pool = nullptr;
        return pool;
      }
    }
    sched_yield();
  }
}

}  // namespace

void Team::barrier() {
  solo_next = 0;
  if (size > 1) pool->barrier(step++);
}

int64_t Team::next() {
  if (size == 1) return solo_next++;
  return pool->counters[step % kCounters].value.fetch_add(1, std::memory_order_relaxed);
}

void run_team(void (*body)(Team&, void*), void* context) {
  Pool* pool = inside_region ? nullptr : acquire();
  if (!pool) {
    const bool nested = inside_region;
    inside_region = true;
    Team alone(nullptr, 0, 1);
    body(alone, context);
    inside_region = nested;
    return;
  }
  pool->run(body, context);
  pool->busy.store(false, std::memory_order_release);
}

int processor_count() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int count = CPU_COUNT(&set);
    if (count > 0) return count < kMaximum ? count : kMaximum;
  }
#endif
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online < 1 ? 1 : online > kMaximum ? kMaximum : static_cast<int>(online);
}

int thread_count() {
  Guard guard;
  if (current_pool) return current_pool->size;
  return wanted > 0 ? wanted : processor_count();
}

bool set_thread_count(int count) {
  if (count < 1 || count > kMaximum || inside_region) return false;
  Pool* old = withdraw();
  {
    Guard guard;
    wanted = count;
  }
  if (old) destroy(old);
  return true;
}

bool set_affinity(const int32_t* processors, int count) {
  if (count < 0 || count > kMaximum || inside_region || (count > 0 && !processors)) return false;
  for (int i = 0; i < count; ++i)
    if (processors[i] < 0 || processors[i] >= 1024) return false;
  Guard guard;
  memcpy(pinned, processors, static_cast<size_t>(count) * sizeof *pinned);
  pinned_count = count;
  if (current_pool) pin(current_pool);
  return true;
}

int thread_processors(int32_t* out, int capacity) {
  Guard guard;
  if (!current_pool) return 0;
  int count = 0;
  for (; count < current_pool->size && count < capacity; ++count)
    out[count] = current_pool->processors[count].load(std::memory_order_relaxed);
  return count;
}

bool set_spin_microseconds(int microseconds) {
  if (microseconds < 0 || microseconds > 1000000) return false;
  spin_limit_us.store(microseconds);
  return true;
}

int spin_microseconds() { return spin_limit_us.load(); }

}  // namespace llmc
