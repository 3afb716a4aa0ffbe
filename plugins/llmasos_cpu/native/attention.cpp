// Attention: checks a layout, cuts it into blocks and hands them to the threads.
#include "attention.h"

#include "features.h"
#include "scratch.h"
#include "threads.h"

namespace llmc {

namespace {

constexpr int64_t kLargest = int64_t{1} << 40;    // of sizes and strides, so that products stay in range
constexpr int64_t kMostKeys = int64_t{1} << 24;   // of one sequence: places are kept as floats
constexpr int64_t kShortestChunk = 64, kLongestChunk = 512;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Keys of one piece of a sequence with few queries. It depends on the sequence alone, and so do the results.
int64_t chunk_of(int64_t keys) {
  return most(kShortestChunk, least(kLongestChunk, keys / 8 / kShortestChunk * kShortestChunk));
}

llmc_status describe(const llmc_layout& layout, int64_t b, int64_t key_rows, AttentionSequence* s) {
  s->q_begin = layout.q_starts[b];
  s->queries = layout.q_starts[b + 1] - s->q_begin;
  s->own_begin = layout.k_starts[b];
  s->spans = nullptr;
  s->span_count = 0;
  s->before = 0;
  s->visible = nullptr;
  s->causal = layout.causal != 0;
  s->window = layout.window;
  if (layout.span_starts) {
    const int64_t first = layout.span_starts[b];
    s->span_count = layout.span_starts[b + 1] - first;
    if (first < 0 || s->span_count < 0 || (s->span_count > 0 && !layout.spans)) return LLMC_BAD_SHAPE;
    s->spans = layout.spans + 2 * first;
    for (int64_t i = 0; i < s->span_count; ++i) {
      const int64_t begin = s->spans[2 * i], end = s->spans[2 * i + 1];
      if (begin < 0 || end < begin || end > key_rows) return LLMC_BAD_SHAPE;
      s->before += end - begin;
      if (s->before > kMostKeys) return LLMC_BAD_SHAPE;
    }
    s->own = s->queries;
    s->causal = true;
    if (layout.visible) s->visible = layout.visible[b];
  } else {
    s->own = layout.k_lengths ? layout.k_lengths[b] : layout.k_starts[b + 1] - s->own_begin;
  }
  if (s->queries == 0) return LLMC_OK;
  if (s->own_begin < 0 || s->own < 0 || s->own > key_rows || s->own_begin > key_rows - s->own) return LLMC_BAD_SHAPE;
  s->keys = s->before + s->own;
  if (s->keys > kMostKeys || (s->causal && s->keys < s->queries)) return LLMC_BAD_SHAPE;
  return LLMC_OK;
}

}  // namespace

struct AttentionPlan {
  const AttentionKernels* kernels;
  AttentionSequence* sequences;
  AttentionBlock* blocks;      // wide ones, then narrow ones
  int64_t wide_blocks, narrow_blocks;
  int64_t* partial_at;         // of each sequence that is cut into chunks: first float of its partial results
  int32_t* pending;            // [sequences, key_heads]: chunks not yet done, back at their number after each step
  float* partials;
  int64_t key_heads, scratch_bytes;
};

const AttentionKernels& attention_kernels(int64_t width) {
#if defined(__x86_64__)
  if (isa() >= kAmx && width <= attention_amx_width) return attention_amx;
  if (isa() >= kAvx512) return attention_avx512;
  if (isa() == kAvx2) return attention_avx2;
#endif
  return attention_portable;
}

llmc_status attention_plan(const llmc_layout& layout, int64_t query_rows, int64_t key_rows, int64_t query_heads,
                           int64_t key_heads, int64_t width, bool slopes, AttentionPlan** out) {
  const int64_t count = layout.sequences;
  if (count < 0 || query_heads < 1 || key_heads < 1 || width < 1 || query_rows < 0 || key_rows < 0) return LLMC_BAD_ARGUMENT;
  if (query_heads % key_heads != 0 || query_heads > 65536 || width > 4096 || query_rows > INT32_MAX || count > INT32_MAX)
    return LLMC_BAD_SHAPE;
  if (key_rows > kLargest || layout.window < 0 || layout.window > kLargest) return LLMC_BAD_SHAPE;
  if (!layout.q_starts || (count > 0 && !layout.k_starts) || (layout.k_lengths && layout.span_starts)) return LLMC_BAD_ARGUMENT;
  if (layout.visible && !layout.span_starts) return LLMC_BAD_ARGUMENT;
  // Neither is defined where places in the sequence do not follow from places in memory.
  if (layout.span_starts && (layout.window > 0 || slopes)) return LLMC_UNSUPPORTED;
  if (layout.window > 0 && !layout.causal) return LLMC_UNSUPPORTED;
  if (layout.q_starts[0] < 0 || layout.q_starts[count] > query_rows) return LLMC_BAD_SHAPE;
  for (int64_t b = 0; b < count; ++b)
    if (layout.q_starts[b + 1] < layout.q_starts[b]) return LLMC_BAD_SHAPE;

  const AttentionKernels& kernels = attention_kernels(width);
  const int64_t group = query_heads / key_heads;
  int64_t blocks = 0, partial_floats = 0, most_own = 0;
  for (int64_t b = 0; b < count; ++b) {
    AttentionSequence s;
    const llmc_status status = describe(layout, b, key_rows, &s);
    if (status != LLMC_OK) return status;
    if (s.queries == 0) continue;
    const int64_t rows = s.queries * group;
    if (rows > INT32_MAX) return LLMC_BAD_SHAPE;
    if (s.visible) most_own = most(most_own, s.own);
    if (rows <= kernels.narrow_rows) {
      const int64_t chunk = chunk_of(s.keys), chunks = most(1, (s.keys + chunk - 1) / chunk);
      blocks += chunks;
      if (chunks > 1) partial_floats += chunks * rows * kernels.partial_floats(width) * key_heads;
    } else {
      blocks += (rows + kernels.wide_rows - 1) / kernels.wide_rows;
    }
  }
  const int64_t bytes = static_cast<int64_t>(sizeof(AttentionPlan)) + 64 + count * static_cast<int64_t>(sizeof(AttentionSequence)) +
                        blocks * static_cast<int64_t>(sizeof(AttentionBlock)) + count * 8 + (count * key_heads + 1) / 2 * 8 +
                        partial_floats * 4;
  char* memory = static_cast<char*>(thread_scratch(kPlanScratch, static_cast<size_t>(bytes)));
  if (!memory) return LLMC_NO_MEMORY;
  AttentionPlan* plan = reinterpret_cast<AttentionPlan*>(memory);
  plan->kernels = &kernels;
  plan->key_heads = key_heads;
  memory += (sizeof(AttentionPlan) + 63) / 64 * 64;
  plan->partials = reinterpret_cast<float*>(memory);
  memory += partial_floats * 4;
  plan->sequences = reinterpret_cast<AttentionSequence*>(memory);
  memory += count * static_cast<int64_t>(sizeof(AttentionSequence));
  plan->partial_at = reinterpret_cast<int64_t*>(memory);
  memory += count * 8;
  plan->pending = reinterpret_cast<int32_t*>(memory);
  memory += (count * key_heads + 1) / 2 * 8;
  plan->blocks = reinterpret_cast<AttentionBlock*>(memory);

  // The blocks of few rows are placed from the end, so that one pass over the sequences finds both kinds.
  int64_t wide = 0, narrow = blocks, partial = 0;
  for (int64_t b = 0; b < count; ++b) {
    AttentionSequence& s = plan->sequences[b];
    describe(layout, b, key_rows, &s);
    if (s.queries == 0) continue;
    const int64_t rows = s.queries * group;
    const int32_t index = static_cast<int32_t>(b);
    if (rows <= kernels.narrow_rows) {
      const int64_t from = s.window > 0 ? most(0, s.keys - s.queries + 1 - s.window) : 0;
      const int64_t seen = s.keys - from, chunk = chunk_of(s.keys), chunks = most(1, (seen + chunk - 1) / chunk);
      for (int64_t c = chunks; c-- > 0;) {
        const int64_t begin = from + c * chunk;
        plan->blocks[--narrow] = {index, 0, static_cast<int32_t>(rows), static_cast<int32_t>(begin),
                                  static_cast<int32_t>(least(s.keys, begin + chunk)), static_cast<int32_t>(c),
                                  static_cast<int32_t>(chunks)};
      }
      for (int64_t h = 0; h < key_heads; ++h) plan->pending[b * key_heads + h] = static_cast<int32_t>(chunks);
      plan->partial_at[b] = partial;
      if (chunks > 1) partial += chunks * rows * kernels.partial_floats(width) * key_heads;
      continue;
    }
    // The last queries first: under a causal mask they have the most to do, and the short ones fill the gaps at the end.
    for (int64_t row = (rows - 1) / kernels.wide_rows * kernels.wide_rows; row >= 0; row -= kernels.wide_rows) {
      const int64_t here = least(kernels.wide_rows, rows - row);
      const int64_t last = s.causal ? s.keys - s.queries + (row + here - 1) / group + 1 : s.keys;
      if (here <= kernels.narrow_rows) {
        const int64_t from = s.window > 0 ? most(0, s.keys - s.queries + row / group + 1 - s.window) : 0;
        plan->blocks[--narrow] = {index, static_cast<int32_t>(row), static_cast<int32_t>(here), static_cast<int32_t>(from),
                                  static_cast<int32_t>(last), 0, 1};
      } else {
        plan->blocks[wide++] = {index, static_cast<int32_t>(row), static_cast<int32_t>(here), 0, static_cast<int32_t>(last), 0, 1};
      }
    }
  }
  // Fewer narrow blocks than counted where a window hides keys: close the gap.
  plan->wide_blocks = wide;
  plan->narrow_blocks = blocks - narrow;
  for (int64_t i = 0; i < plan->narrow_blocks; ++i) plan->blocks[wide + i] = plan->blocks[narrow + i];
  plan->scratch_bytes = most(wide > 0 ? kernels.wide_scratch(width, most_own) : 0, kernels.narrow_scratch(width));
  *out = plan;
  return LLMC_OK;
}

bool attention_step(Team& team, const AttentionPlan& plan, const AttentionCall& call) {
  if (plan.wide_blocks + plan.narrow_blocks == 0) return true;
  void* scratch = thread_scratch(kKernelScratch, static_cast<size_t>(plan.scratch_bytes));
  if (!scratch) return false;
  const AttentionKernels& kernels = *plan.kernels;
  const int64_t heads = plan.key_heads, row_floats = kernels.partial_floats(call.width);
  const int64_t wide = plan.wide_blocks * heads, narrow = plan.narrow_blocks * heads;
  // A narrow block takes about a microsecond: hand out several at a time where there are many.
  const int64_t grain = most(1, narrow / (team.size * 16)), pieces = wide + (narrow + grain - 1) / grain;
  for (int64_t piece = team.next(); piece < pieces; piece = team.next()) {
    if (piece < wide) {
      const AttentionBlock& block = plan.blocks[piece / heads];
      kernels.wide(call, plan.sequences[block.sequence], block, piece % heads, scratch);
      continue;
    }
    const int64_t begin = (piece - wide) * grain, end = least(narrow, begin + grain);
    for (int64_t i = begin; i < end; ++i) {
      const AttentionBlock& block = plan.blocks[plan.wide_blocks + i / heads];
      const AttentionSequence& s = plan.sequences[block.sequence];
      const int64_t head = i % heads, step = block.rows * row_floats;
      if (block.chunks == 1) {
        kernels.narrow(call, s, block, head, scratch, nullptr);
        continue;
      }
      float* partials = plan.partials + plan.partial_at[block.sequence] + head * block.chunks * step;
      kernels.narrow(call, s, block, head, scratch, partials + block.chunk * step);
      int32_t* pending = &plan.pending[block.sequence * heads + head];
      if (__atomic_sub_fetch(pending, 1, __ATOMIC_ACQ_REL) == 0) {
        // The last one merges, always in the order of the keys.
        __atomic_store_n(pending, block.chunks, __ATOMIC_RELAXED);
        kernels.merge(call, s, block, head, partials);
      }
    }
  }
  return true;
}

}  // namespace llmc

int32_t llmc_attention(const llmc_attention_call* given, const llmc_layout* layout) {
  using namespace llmc;
  if (!given || !layout) return LLMC_BAD_ARGUMENT;
  const llmc_attention_call& c = *given;
  if ((c.type != LLMC_FP32 && c.type != LLMC_BF16) || (c.key_type != LLMC_FP32 && c.key_type != LLMC_BF16))
    return LLMC_BAD_ARGUMENT;
  if (c.query_heads < 1 || c.key_heads < 1 || c.width < 1 || c.queries < 0 || c.keys < 0) return LLMC_BAD_ARGUMENT;
  if ((c.queries > 0 && (!c.q || !c.out)) || (c.keys > 0 && (!c.k || !c.v))) return LLMC_BAD_ARGUMENT;
  const int64_t query_width = int64_t{c.query_heads} * c.width, key_width = int64_t{c.key_heads} * c.width;
  if (c.q_stride < query_width || c.out_stride < query_width || c.k_stride < key_width || c.v_stride < key_width ||
      c.q_stride > kLargest || c.out_stride > kLargest || c.k_stride > kLargest || c.v_stride > kLargest)
    return LLMC_BAD_SHAPE;
  AttentionPlan* plan = nullptr;
  const llmc_status status =
      attention_plan(*layout, c.queries, c.keys, c.query_heads, c.key_heads, c.width, c.slopes != nullptr, &plan);
  if (status != LLMC_OK) return status;
  const AttentionCall call = {c.out,  c.q,        c.k,        c.v,           c.out_stride, c.q_stride, c.k_stride, c.v_stride,
                              c.type, c.key_type, c.key_type, c.query_heads, c.key_heads,  c.width,    c.scale,    c.slopes};
  bool done = true;
  team([&](Team& members) {
    if (!attention_step(members, *plan, call)) __atomic_store_n(&done, false, __ATOMIC_RELAXED);
  });
  return done ? LLMC_OK : LLMC_NO_MEMORY;
}
