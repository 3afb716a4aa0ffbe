// A whole forward pass as one region of the threads: every thread walks the list of steps and takes its share of each.
//
// Barriers are put where a step reads or overwrites what other threads may still write or read, and nowhere else. Two kinds
// of sharing are told apart: by rows, where a thread later meets the rows that it has written itself, and freely. Where rows
// are few, a norm and the packing of a product's input cost less than a barrier: then every thread does all of them for
// itself, and only products, attention and what lies between them are waited for.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "attention.h"
#include "linear.h"
#include "matrix.h"
#include "pointwise.h"
#include "scratch.h"
#include "threads.h"

namespace llmc {
namespace {

constexpr int kMostBuffers = 62;
constexpr int32_t kMostSteps = 1 << 20;
constexpr uint64_t kCache = uint64_t{1} << 62;  // the cache, as a buffer of its own
constexpr int64_t kFewRows = 64, kFewNumbers = 8192;
constexpr int kKinds = LLMC_STEP_GATHER + 1;

thread_local double* profile = nullptr;

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

int64_t round64(int64_t bytes) { return (bytes + 63) / 64 * 64; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
uint64_t bit(int32_t buffer) { return buffer < 0 ? 0 : uint64_t{1} << buffer; }

// What a step touches: shared by rows, or by anything else.
struct Touch {
  uint64_t reads_row, reads, writes_row, writes;
  bool counter;  // takes numbers from the team's counter, which only a barrier sets back
};

// What has been touched since the last barrier.
struct Pending {
  Touch since{};

  bool conflicts(const Touch& t) const {
    return ((t.reads_row & since.writes) | (t.reads & (since.writes | since.writes_row)) |
            (t.writes_row & (since.writes | since.reads)) |
            (t.writes & (since.writes | since.writes_row | since.reads | since.reads_row))) != 0 ||
           (t.counter && since.counter);
  }
  void add(const Touch& t) {
    since.reads_row |= t.reads_row;
    since.reads |= t.reads;
    since.writes_row |= t.writes_row;
    since.writes |= t.writes;
    since.counter |= t.counter;
  }
};

}  // namespace
}  // namespace llmc

using namespace llmc;

struct llmc_program {
  llmc_step* steps;
  llmc_buffer* buffers;
  int32_t step_count, buffer_count;
  uint64_t norms_only;   // buffers written by norms and read by products: each thread may have its own
  int32_t attention;     // a step with attention, or -1: all have the same heads and window
  int32_t layers;        // of a cache
  bool any_external;
};

namespace llmc {
namespace {

// The rows of one pass, and where they lie.
struct Rows {
  float* data[kMostBuffers];
  int64_t stride[kMostBuffers];
  uint64_t own;  // buffers that each thread has for itself
};

struct Running {
  const llmc_program* program;
  const llmc_pass* pass;
  const AttentionPlan* plan;
  Rows rows;
  void* linear;  // working memory of products, shared
  int64_t own_bytes;  // of one thread: buffers, then working memory
  int32_t status;
};

int64_t row_count(const llmc_program& p, const llmc_pass& pass, int32_t buffer) {
  return p.buffers[buffer].wanted && pass.wanted ? pass.wanted_count : pass.rows;
}

bool few(int64_t rows, int64_t width) { return rows <= kFewRows && rows * width <= kFewNumbers; }

llmc_linear_call linear_call(const llmc_program& p, const llmc_pass& pass, const llmc_step& s, const Rows& rows) {
  llmc_linear_call call{};
  call.matrix = s.weight;
  call.x = rows.data[s.in];
  call.x_stride = rows.stride[s.in];
  call.y = rows.data[s.out];
  call.y_stride = rows.stride[s.out];
  call.rows = row_count(p, pass, s.in);
  call.activation_bits = s.activation_bits;
  if (s.op == LLMC_STEP_GATED) {
    call.y_stride = INT64_MAX;  // the sink writes
    return call;
  }
  call.bias = static_cast<const float*>(s.bias);
  call.activation = s.kind;
  if (s.other >= 0) {
    call.residual = rows.data[s.other];
    call.residual_stride = rows.stride[s.other];
  }
  return call;
}

// ---- steps ---------------------------------------------------------------------------------------------------

void embed(Team& team, const llmc_program& p, const llmc_pass& pass, const llmc_step& s, const Rows& rows) {
  int64_t begin, end;
  team.share(pass.rows, 1, &begin, &end);
  const int64_t width = p.buffers[s.out].width;
  const PointwiseKernels& kernels = pointwise_kernels();
  Layout m;
  if (s.kind == LLMC_PACKED) read_layout(s.weight, &m);
  for (int64_t i = begin; i < end; ++i) {
    float* out = rows.data[s.out] + i * rows.stride[s.out];
    if (s.kind == LLMC_PACKED) {
      unpack_row(m, pass.tokens[i], out);
    } else {
      memset(out, 0, static_cast<size_t>(width) * sizeof *out);
      kernels.add_row(out, out, s.weight, pass.tokens[i], width, s.kind);
    }
    if (s.number != 0.0f)
      for (int64_t e = 0; e < width; ++e) out[e] *= s.number;
    if (s.extra) kernels.add_row(out, out, s.extra, pass.types ? pass.types[i] : 0, width, s.second_type);
    if (s.bias) kernels.add_row(out, out, s.bias, pass.positions[i], width, s.second_type);
  }
}

void angles(Team& team, const llmc_pass& pass, const llmc_step& s, const Rows& rows) {
  int64_t begin, end;
  team.share(pass.rows, 1, &begin, &end);
  const float* frequencies = static_cast<const float*>(s.weight);
  const int64_t half = s.turned / 2;
  for (int64_t i = begin; i < end; ++i) {
    float* out = rows.data[s.out] + i * rows.stride[s.out];
    for (int64_t j = 0; j < half; ++j) {
      const float angle = static_cast<float>(pass.positions[i]) * frequencies[j];
      out[j] = cosf(angle);
      out[half + j] = sinf(angle);
    }
  }
}

void norm(Team& team, const llmc_program& p, const llmc_pass& pass, const llmc_step& s, const Rows& rows, bool own) {
  llmc_norm_call call{};
  call.out = rows.data[s.out];
  call.out_stride = rows.stride[s.out];
  call.x = rows.data[s.in];
  call.x_stride = rows.stride[s.in];
  call.weight = s.weight;
  call.bias = s.bias;
  call.width = p.buffers[s.in].width;
  call.kind = s.kind;
  call.type = LLMC_FP32;
  call.weight_type = s.second_type;
  call.eps = s.number;
  call.rows = row_count(p, pass, s.in);
  int64_t begin = 0, end = call.rows;
  if (!own) team.share(call.rows, 1, &begin, &end);
  pointwise_kernels().norm(call, begin, end);
}

void store(Team& team, const llmc_pass& pass, const llmc_step& s, const Rows& rows) {
  int64_t begin, end;
  team.share(pass.rows, 1, &begin, &end);
  float* q = rows.data[s.in];
  llmc_rotary_call call{};
  call.x = call.out = q;
  call.x_stride = call.out_stride = rows.stride[s.in];
  call.rows = pass.rows;
  call.heads = s.query_heads;
  call.width = s.width;
  call.turned = s.other >= 0 ? s.turned : 0;
  call.type = call.out_type = LLMC_FP32;
  if (s.other >= 0) {
    call.cos = rows.data[s.other];
    call.sin = call.cos + s.turned / 2;
    call.angle_stride = rows.stride[s.other];
    if (!pass.keys) call.heads += s.key_heads;
    pointwise_kernels().rotary(call, begin, end);
  }
  if (!pass.keys) return;
  call.heads = s.key_heads;
  call.x = q + int64_t{s.query_heads} * s.width;
  call.out_rows = pass.cache_rows;
  call.out_stride = int64_t{s.key_heads} * s.width;
  call.out_type = pass.cache_type;
  const int64_t layer = s.layer * pass.layer_stride * (pass.cache_type == LLMC_BF16 ? 2 : 4);
  call.out = static_cast<char*>(pass.keys) + layer;
  pointwise_kernels().rotary(call, begin, end);
  call.turned = 0;
  call.x = q + int64_t{s.query_heads + s.key_heads} * s.width;
  call.out = static_cast<char*>(pass.values) + layer;
  pointwise_kernels().rotary(call, begin, end);
}

AttentionCall attention_call(const llmc_pass& pass, const llmc_step& s, const Rows& rows) {
  AttentionCall call{};
  const float* q = rows.data[s.in];
  call.q = q;
  call.q_stride = call.k_stride = call.v_stride = rows.stride[s.in];
  call.out = rows.data[s.out];
  call.out_stride = rows.stride[s.out];
  call.type = LLMC_FP32;
  if (pass.keys) {
    const int64_t layer = s.layer * pass.layer_stride * (pass.cache_type == LLMC_BF16 ? 2 : 4);
    call.k = static_cast<char*>(pass.keys) + layer;
    call.v = static_cast<char*>(pass.values) + layer;
    call.k_stride = call.v_stride = int64_t{s.key_heads} * s.width;
    call.key_type = pass.cache_type;
  } else {
    call.k = q + int64_t{s.query_heads} * s.width;
    call.v = q + int64_t{s.query_heads + s.key_heads} * s.width;
    call.key_type = LLMC_FP32;
  }
  call.precision = s.second_type;
  call.query_heads = s.query_heads;
  call.key_heads = s.key_heads;
  call.width = s.width;
  call.scale = s.number;
  call.slopes = static_cast<const float*>(s.extra);
  return call;
}

struct Gated {
  float* out;
  int64_t out_stride;
  int32_t activation;
  const float* gate;
};

// Panels of gate and up alternate, and a piece begins with a gate.
void take_gated(void* self, float* sums, int64_t row, int64_t count, int64_t column, int32_t columns) {
  Gated& g = *static_cast<Gated*>(self);
  if (column / kPanel % 2 == 0) {
    g.gate = sums;
    return;
  }
  float* out = g.out + row * g.out_stride + column / (2 * kPanel) * kPanel;
  pointwise_kernels().gate(out, g.out_stride, g.gate, sums, kPanel, count, columns, g.activation);
}

int64_t gated_piece(const Team& team, const llmc_linear_call& call) {
  Layout m;
  read_layout(call.matrix, &m);
  const int64_t largest = call.rows > 16 ? 8 : most(2, (int64_t{1} << 18) / m.panel_bytes / 2 * 2);
  const int64_t even = m.panels / (team.size * 4) / 2 * 2;
  return even < 2 ? 2 : even > largest ? largest : even;
}

void gather(Team& team, const llmc_program& p, const llmc_pass& pass, const llmc_step& s, const Rows& rows) {
  int64_t begin, end;
  team.share(row_count(p, pass, s.out), 1, &begin, &end);
  const size_t bytes = static_cast<size_t>(p.buffers[s.out].width) * sizeof(float);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t from = pass.wanted ? pass.wanted[i] : i;
    memcpy(rows.data[s.out] + i * rows.stride[s.out], rows.data[s.in] + from * rows.stride[s.in], bytes);
  }
}

Touch touch_of(const llmc_step& s, const llmc_pass& pass, const Rows& rows) {
  const uint64_t in = bit(s.in) & ~rows.own, out = bit(s.out) & ~rows.own, other = bit(s.other);
  const uint64_t cache = pass.keys ? kCache : 0;
  switch (s.op) {
    case LLMC_STEP_EMBED:
    case LLMC_STEP_ANGLES: return {0, 0, out, 0, false};
    case LLMC_STEP_NORM: return (bit(s.out) & rows.own) ? Touch{0, in, 0, 0, false} : Touch{in, 0, out, 0, false};
    case LLMC_STEP_LINEAR: return {0, in | other, 0, out, true};
    case LLMC_STEP_GATED: return {0, in, 0, out, true};
    case LLMC_STEP_STORE: return {in | other, 0, in | cache, 0, false};
    case LLMC_STEP_ATTENTION: return {0, in | cache, 0, out, true};
    default: return {0, in, out, 0, false};
  }
}

void walk(Team& team, Running& run) {
  const llmc_program& p = *run.program;
  const llmc_pass& pass = *run.pass;
  Rows rows = run.rows;
  char* own = nullptr;
  if (run.own_bytes > 0) {
    own = static_cast<char*>(thread_scratch(kOwnScratch, static_cast<size_t>(run.own_bytes)));
    if (!own) __atomic_store_n(&run.status, static_cast<int32_t>(LLMC_NO_MEMORY), __ATOMIC_RELAXED);
    team.barrier();
    if (__atomic_load_n(&run.status, __ATOMIC_RELAXED) != LLMC_OK) return;
    char* next = own;
    for (int32_t b = 0; b < p.buffer_count; ++b) {
      if (!(rows.own & bit(b))) continue;
      rows.data[b] = reinterpret_cast<float*>(next);
      next += round64(row_count(p, pass, b) * rows.stride[b] * 4);
    }
    own = next;
  }
  double* times = team.rank == 0 ? profile : nullptr;
  double started = times ? now() : 0.0;
  Pending pending;
  for (int32_t i = 0; i < p.step_count; ++i) {
    const llmc_step& s = p.steps[i];
    const Touch touch = touch_of(s, pass, rows);
    if (pending.conflicts(touch)) {
      team.barrier();
      pending = Pending{};
    }
    pending.add(touch);
    switch (s.op) {
      case LLMC_STEP_EMBED: embed(team, p, pass, s, rows); break;
      case LLMC_STEP_ANGLES: angles(team, pass, s, rows); break;
      case LLMC_STEP_NORM: norm(team, p, pass, s, rows, (bit(s.out) & rows.own) != 0); break;
      case LLMC_STEP_LINEAR:
      case LLMC_STEP_GATED: {
        const llmc_linear_call call = linear_call(p, pass, s, rows);
        const bool alone = few(call.rows, p.buffers[s.in].width);
        void* scratch = alone ? own : run.linear;
        if (s.op == LLMC_STEP_LINEAR) {
          run_linear(team, call, scratch, nullptr, 0, alone);
        } else {
          Gated gated{rows.data[s.out], rows.stride[s.out], s.kind, nullptr};
          const PanelSink sink{take_gated, &gated};
          run_linear(team, call, scratch, &sink, gated_piece(team, call), alone);
        }
        break;
      }
      case LLMC_STEP_STORE: store(team, pass, s, rows); break;
      case LLMC_STEP_ATTENTION:
        if (!attention_step(team, *run.plan, attention_call(pass, s, rows)))
          __atomic_store_n(&run.status, static_cast<int32_t>(LLMC_NO_MEMORY), __ATOMIC_RELAXED);
        break;
      default: gather(team, p, pass, s, rows); break;
    }
    if (times) {
      const double ended = now();
      times[s.op] += ended - started;
      started = ended;
    }
  }
}

// ---- checks --------------------------------------------------------------------------------------------------

bool is_type(int32_t type) { return type == LLMC_FP32 || type == LLMC_BF16; }

// The matrix of a step, which must turn `in` numbers into `out` (0: any).
int32_t check_matrix(const void* matrix, int64_t in, int64_t out) {
  if (!matrix) return LLMC_BAD_ARGUMENT;
  Layout m;
  if (!read_layout(matrix, &m)) return LLMC_BAD_DATA;
  return m.inputs == in && (out == 0 || m.outputs == out) ? LLMC_OK : LLMC_BAD_SHAPE;
}

int32_t check_heads(const llmc_program& p, const llmc_step& s) {
  if (s.query_heads < 1 || s.key_heads < 1 || s.width < 1 || s.layer < 0 || s.layer >= kMostSteps) return LLMC_BAD_ARGUMENT;
  const int64_t fused = (int64_t{s.query_heads} + 2 * int64_t{s.key_heads}) * s.width;
  if (s.query_heads % s.key_heads != 0 || p.buffers[s.in].width != fused) return LLMC_BAD_SHAPE;
  return LLMC_OK;
}

// A step on its own; `written` holds the buffers that steps before it have filled.
int32_t check_step(const llmc_program& p, const llmc_step& s, uint64_t written) {
  const auto known = [&](int32_t b) { return b >= 0 && b < p.buffer_count; };
  const bool reads = s.op != LLMC_STEP_EMBED && s.op != LLMC_STEP_ANGLES;
  const bool writes = s.op != LLMC_STEP_STORE;
  if (s.op < 0 || s.op >= kKinds) return LLMC_BAD_ARGUMENT;
  if (reads && (!known(s.in) || !(written & bit(s.in)))) return LLMC_BAD_ARGUMENT;
  if (writes && (!known(s.out) || (reads && s.in == s.out))) return LLMC_BAD_ARGUMENT;
  const bool has_other = s.op == LLMC_STEP_LINEAR || s.op == LLMC_STEP_STORE;
  if (has_other ? s.other != -1 && (!known(s.other) || !(written & bit(s.other))) : s.other != -1) return LLMC_BAD_ARGUMENT;
  const llmc_buffer none{};
  const llmc_buffer& in = reads ? p.buffers[s.in] : none;
  const llmc_buffer& out = writes ? p.buffers[s.out] : none;
  if (reads && writes && s.op != LLMC_STEP_GATHER && in.wanted != out.wanted) return LLMC_BAD_SHAPE;
  switch (s.op) {
    case LLMC_STEP_EMBED: {
      if (!s.weight || out.wanted || (s.kind != LLMC_PACKED && !is_type(s.kind)) || !is_type(s.second_type))
        return LLMC_BAD_ARGUMENT;
      if (s.kind == LLMC_PACKED) {
        Layout m;
        if (!read_layout(s.weight, &m)) return LLMC_BAD_DATA;
        if (m.inputs != out.width || m.outputs != s.weight_rows) return LLMC_BAD_SHAPE;
      }
      return s.weight_rows > 0 && (!s.bias || s.bias_rows > 0) && (!s.extra || s.extra_rows > 0) ? LLMC_OK : LLMC_BAD_SHAPE;
    }
    case LLMC_STEP_NORM:
      if ((s.kind != LLMC_RMS_NORM && s.kind != LLMC_LAYER_NORM) || !is_type(s.second_type)) return LLMC_BAD_ARGUMENT;
      return in.width == out.width ? LLMC_OK : LLMC_BAD_SHAPE;
    case LLMC_STEP_LINEAR:
      if (s.kind < LLMC_NONE || s.kind > LLMC_TANH) return LLMC_BAD_ARGUMENT;
      if (s.activation_bits != 0 && s.activation_bits != 8 && s.activation_bits != 16) return LLMC_BAD_ARGUMENT;
      if (s.other >= 0 &&
          (s.other == s.in || p.buffers[s.other].width != out.width || p.buffers[s.other].wanted != out.wanted))
        return LLMC_BAD_SHAPE;
      return check_matrix(s.weight, in.width, out.width);
    case LLMC_STEP_GATED:
      if (s.kind < LLMC_NONE || s.kind > LLMC_TANH || s.bias) return LLMC_BAD_ARGUMENT;
      if (s.activation_bits != 0 && s.activation_bits != 8 && s.activation_bits != 16) return LLMC_BAD_ARGUMENT;
      if (out.width % kPanel != 0) return LLMC_BAD_SHAPE;
      return check_matrix(s.weight, in.width, 2 * out.width);
    case LLMC_STEP_ANGLES:
      if (!s.weight) return LLMC_BAD_ARGUMENT;
      return s.turned > 0 && s.turned % 2 == 0 && out.width == s.turned && !out.wanted ? LLMC_OK : LLMC_BAD_SHAPE;
    case LLMC_STEP_STORE: {
      const int32_t status = check_heads(p, s);
      if (status != LLMC_OK) return status;
      if (in.wanted || in.external) return LLMC_BAD_SHAPE;
      if (s.other < 0) return LLMC_OK;
      return s.turned > 0 && s.turned % 2 == 0 && s.turned <= s.width && p.buffers[s.other].width == s.turned &&
                     !p.buffers[s.other].wanted && s.other != s.in
                 ? LLMC_OK
                 : LLMC_BAD_SHAPE;
    }
    case LLMC_STEP_ATTENTION: {
      const int32_t status = check_heads(p, s);
      if (status != LLMC_OK) return status;
      if (in.wanted || out.width != int64_t{s.query_heads} * s.width) return LLMC_BAD_SHAPE;
      if (s.window < 0 || !is_type(s.second_type)) return LLMC_BAD_ARGUMENT;
      if (p.attention < 0) return LLMC_OK;
      // One plan serves all layers.
      const llmc_step& first = p.steps[p.attention];
      return first.query_heads == s.query_heads && first.key_heads == s.key_heads && first.width == s.width &&
                     first.window == s.window && !first.extra == !s.extra
                 ? LLMC_OK
                 : LLMC_UNSUPPORTED;
    }
    default: return in.width == out.width && !in.wanted && out.wanted ? LLMC_OK : LLMC_BAD_SHAPE;
  }
}

bool inside(const int64_t* values, int64_t count, int64_t limit) {
  if (!values) return false;
  for (int64_t i = 0; i < count; ++i)
    if (values[i] < 0 || values[i] >= limit) return false;
  return true;
}

int32_t check_pass(const llmc_program& p, const llmc_pass& pass) {
  if (pass.rows < 0 || pass.rows > INT32_MAX || pass.wanted_count < 0) return LLMC_BAD_ARGUMENT;
  if (!is_type(pass.cache_type) || (pass.keys && !pass.values)) return LLMC_BAD_ARGUMENT;
  if (pass.wanted && !inside(pass.wanted, pass.wanted_count, pass.rows)) return LLMC_BAD_SHAPE;
  if (p.any_external && !pass.output && (pass.wanted ? pass.wanted_count : pass.rows) > 0) return LLMC_BAD_ARGUMENT;
  if (pass.keys) {
    if (pass.rows > 0 && !pass.cache_rows) return LLMC_BAD_ARGUMENT;
    if (pass.layers < p.layers || pass.cache_count < 0 || pass.layer_stride < 0) return LLMC_BAD_SHAPE;
    if (pass.rows > 0 && !inside(pass.cache_rows, pass.rows, pass.cache_count)) return LLMC_BAD_SHAPE;
  }
  for (int32_t i = 0; i < p.step_count; ++i) {
    const llmc_step& s = p.steps[i];
    if (s.op == LLMC_STEP_EMBED && pass.rows > 0) {
      if (!pass.tokens || (s.bias && !pass.positions)) return LLMC_BAD_ARGUMENT;
      if (!inside(pass.tokens, pass.rows, s.weight_rows)) return LLMC_BAD_SHAPE;
      if (s.bias && !inside(pass.positions, pass.rows, s.bias_rows)) return LLMC_BAD_SHAPE;
      if (s.extra && pass.types && !inside(pass.types, pass.rows, s.extra_rows)) return LLMC_BAD_SHAPE;
    }
    if (s.op == LLMC_STEP_ANGLES && pass.rows > 0 && !inside(pass.positions, pass.rows, int64_t{1} << 24))
      return pass.positions ? LLMC_BAD_SHAPE : LLMC_BAD_ARGUMENT;
    if (s.op == LLMC_STEP_ATTENTION) {
      if (!pass.layout || pass.layout->sequences < 0 || !pass.layout->q_starts) return LLMC_BAD_ARGUMENT;
      // Every row belongs to a sequence, for none may be left as it was.
      if (pass.layout->q_starts[0] != 0 || pass.layout->q_starts[pass.layout->sequences] != pass.rows) return LLMC_BAD_SHAPE;
      const int64_t layer = pass.cache_count * s.key_heads * s.width;
      if (pass.keys && (layer < 0 || pass.layer_stride < layer)) return LLMC_BAD_SHAPE;
    }
  }
  return LLMC_OK;
}

// Places the buffers in scratch memory and checks the calls that are made of them. LLMC_OK, and then `run` is ready.
int32_t prepare(const llmc_program& p, const llmc_pass& pass, Running* run) {
  int64_t bytes = 0, own = 0;
  for (int32_t b = 0; b < p.buffer_count; ++b) {
    const llmc_buffer& buffer = p.buffers[b];
    const int64_t count = row_count(p, pass, b);
    run->rows.stride[b] = (buffer.width + 15) / 16 * 16;
    if (buffer.external) {
      run->rows.data[b] = pass.output;
      run->rows.stride[b] = pass.output_stride;
      if (count > 1 && pass.output_stride < buffer.width) return LLMC_BAD_SHAPE;
    } else if ((p.norms_only & bit(b)) && few(count, buffer.width)) {
      run->rows.own |= bit(b);
      own += round64(count * run->rows.stride[b] * 4);
    } else {
      bytes += round64(count * run->rows.stride[b] * 4);
    }
  }
  // Any address will do to ask how much memory a product needs.
  static float nothing[16];
  Rows asked = run->rows;
  for (int32_t b = 0; b < p.buffer_count; ++b)
    if (!p.buffers[b].external) asked.data[b] = nothing;
  int64_t linear = 0, linear_own = 0;
  for (int32_t i = 0; i < p.step_count; ++i) {
    const llmc_step& s = p.steps[i];
    if (s.op == LLMC_STEP_LINEAR || s.op == LLMC_STEP_GATED) {
      const llmc_linear_call call = linear_call(p, pass, s, asked);
      const int32_t status = check_linear(call);
      if (status != LLMC_OK) return status;
      int64_t& needed = few(call.rows, p.buffers[s.in].width) ? linear_own : linear;
      needed = most(needed, static_cast<int64_t>(linear_scratch(call)));
    }
  }
  char* memory = static_cast<char*>(
      thread_scratch(kProgramScratch, static_cast<size_t>(bytes + round64(linear) + 64)));
  if (!memory) return LLMC_NO_MEMORY;
  for (int32_t b = 0; b < p.buffer_count; ++b) {
    if (p.buffers[b].external || (run->rows.own & bit(b))) continue;
    run->rows.data[b] = reinterpret_cast<float*>(memory);
    memory += round64(row_count(p, pass, b) * run->rows.stride[b] * 4);
  }
  run->linear = memory;
  run->own_bytes = own + round64(linear_own);
  if (p.attention < 0) return LLMC_OK;
  const llmc_step& s = p.steps[p.attention];
  llmc_layout layout = *pass.layout;
  layout.window = s.window;
  AttentionPlan* plan = nullptr;
  const llmc_status status = attention_plan(layout, pass.rows, pass.keys ? pass.cache_count : pass.rows, s.query_heads,
                                            s.key_heads, s.width, s.extra != nullptr, &plan);
  run->plan = plan;
  return status;
}

}  // namespace
}  // namespace llmc

int32_t llmc_program_new(const llmc_step* steps, int32_t step_count, const llmc_buffer* buffers, int32_t buffer_count,
                         llmc_program** out) {
  if (!steps || !buffers || !out || step_count < 1 || step_count > kMostSteps || buffer_count < 1 ||
      buffer_count > kMostBuffers)
    return LLMC_BAD_ARGUMENT;
  llmc_program* p = static_cast<llmc_program*>(calloc(1, sizeof *p));
  if (!p) return LLMC_NO_MEMORY;
  p->steps = static_cast<llmc_step*>(malloc(static_cast<size_t>(step_count) * sizeof *steps));
  p->buffers = static_cast<llmc_buffer*>(malloc(static_cast<size_t>(buffer_count) * sizeof *buffers));
  if (!p->steps || !p->buffers) {
    llmc_program_free(p);
    return LLMC_NO_MEMORY;
  }
  memcpy(p->steps, steps, static_cast<size_t>(step_count) * sizeof *steps);
  memcpy(p->buffers, buffers, static_cast<size_t>(buffer_count) * sizeof *buffers);
  p->step_count = step_count;
  p->buffer_count = buffer_count;
  p->attention = -1;
  int32_t status = LLMC_OK;
  for (int32_t b = 0; b < buffer_count; ++b) {
    if (buffers[b].width < 1 || buffers[b].width > (1 << 28)) status = LLMC_BAD_SHAPE;
    p->any_external |= buffers[b].external != 0;
  }
  uint64_t written = 0, normed = 0, others = 0;
  for (int32_t i = 0; i < step_count && status == LLMC_OK; ++i) {
    const llmc_step& s = p->steps[i];
    status = check_step(*p, s, written);
    if (status != LLMC_OK) break;
    const bool product = s.op == LLMC_STEP_LINEAR || s.op == LLMC_STEP_GATED;
    if (s.op == LLMC_STEP_ATTENTION && p->attention < 0) p->attention = i;
    if (s.op == LLMC_STEP_STORE || s.op == LLMC_STEP_ATTENTION) p->layers = s.layer + 1 > p->layers ? s.layer + 1 : p->layers;
    if (s.op == LLMC_STEP_NORM) {
      normed |= bit(s.out);
    } else if (s.op != LLMC_STEP_STORE) {
      others |= bit(s.out);
    }
    if (!product && s.op != LLMC_STEP_EMBED && s.op != LLMC_STEP_ANGLES) others |= bit(s.in);
    others |= bit(s.other);
    if (s.op != LLMC_STEP_STORE) written |= bit(s.out);
  }
  for (int32_t b = 0; b < buffer_count; ++b)
    if (buffers[b].external) others |= bit(b);
  p->norms_only = normed & ~others;
  if (status != LLMC_OK) {
    llmc_program_free(p);
    return status;
  }
  *out = p;
  return LLMC_OK;
}

void llmc_program_free(llmc_program* program) {
  if (!program) return;
  free(program->steps);
  free(program->buffers);
  free(program);
}

int32_t llmc_program_run(const llmc_program* program, const llmc_pass* pass) {
  if (!program || !pass) return LLMC_BAD_ARGUMENT;
  int32_t status = check_pass(*program, *pass);
  if (status != LLMC_OK || pass->rows == 0) return status;
  Running run{};
  run.program = program;
  run.pass = pass;
  status = prepare(*program, *pass, &run);
  if (status != LLMC_OK) return status;
  team([&](Team& members) { walk(members, run); });
  return run.status;
}

void llmc_program_profile(double* nanoseconds) { profile = nanoseconds; }
