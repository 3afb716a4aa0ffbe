#include "linear.h"

#include "features.h"
#include "kernels.h"
#include "matrix.h"
#include "scratch.h"

namespace llmc {
namespace {

constexpr int64_t kRowsAtOnce = 280;  // rows packed before they are multiplied: their block stays in the caches
constexpr int64_t kPanelsAtOnce = 8;

Kernels make_table() {
  Kernels table{};
  fill_portable(&table);
#if defined(__x86_64__)
  const Features& f = features();
  if (f.avx2) fill_avx2(&table);
  if (f.avx512) fill_avx512(&table);
  if (f.avx512_vnni) fill_avx512_vnni(&table);
  if (f.avx512_bf16) fill_avx512_bf16(&table);
  if (f.amx_bf16 && f.amx_int8) {
    fill_amx(&table);
    fill_split_amx(&table);
  }
#endif
  return table;
}

struct Plan {
  Layout m;
  const Method* method;
  int planes;
  int64_t block_rows;
  int64_t rows_at_once;  // a whole number of blocks
  int64_t chunks;
};

Plan make_plan(const llmc_linear_call& call) {
  Plan plan{};
  read_layout(call.matrix, &plan.m);
  const Kernels& table = kernels();
  plan.planes = plan.m.integer() && call.activation_bits != 8 ? 2 : 1;
  // Where both exist, tiles pay from here on (measured): 4-bit weights must be spread for them first.
  const bool few = call.rows * plan.planes <= (plan.m.kind == LLMC_MATRIX_INT8 ? 4 : 8);
  plan.method = plan.m.kind == LLMC_MATRIX_FP32   ? &table.fp32
                : plan.m.kind == LLMC_MATRIX_BF16 ? &table.bf16
                : !plan.m.grouped()               ? &table.rowwise
                : few                             ? &table.grouped_few
                                                  : &table.grouped;
  plan.chunks = (plan.m.words + plan.method->chunk_words - 1) / plan.method->chunk_words;
  plan.block_rows = plan.planes == 2 ? plan.method->rows_two_planes : plan.method->rows;
  // Passes over the matrix of equal length, each a whole number of blocks.
  const int64_t most = kRowsAtOnce / plan.block_rows * plan.block_rows;
  const int64_t passes = (call.rows + most - 1) / most, each = (call.rows + passes - 1) / passes;
  plan.rows_at_once = (each + plan.block_rows - 1) / plan.block_rows * plan.block_rows;
  return plan;
}

// The rows [0, rows) in blocks: of nearly equal size, or, where a change of size costs time, all full but the last.
struct Blocks {
  int64_t rows, most, count;
  bool full;
  Blocks(int64_t rows_, const Plan& plan)
      : rows(rows_), most(plan.block_rows), count((rows_ + most - 1) / most), full(plan.method->enter != nullptr) {}
  int64_t begin(int64_t i) const { return i == count ? rows : full ? i * most : rows * i / count; }
  int size(int64_t i) const { return static_cast<int>(begin(i + 1) - begin(i)); }
};

// Where block i begins: blocks lie one behind the other.
struct Packed {
  const Plan& plan;
  const Blocks& blocks;
  uint8_t* memory;
  int64_t stride;  // bytes of the largest block
  Packed(const Plan& plan_, const Blocks& blocks_, void* scratch)
      : plan(plan_), blocks(blocks_), memory(static_cast<uint8_t*>(scratch)) {
    const int most = static_cast<int>(blocks.full ? blocks.begin(1) : (blocks.rows + blocks.count - 1) / blocks.count);
    stride = plan.method->chunk_bytes(plan.m, most, plan.planes) * plan.chunks;
  }
  uint8_t* block(int64_t i) const { return memory + i * stride; }
  uint8_t* chunk(int64_t i, int64_t c) const {
    return block(i) + c * plan.method->chunk_bytes(plan.m, blocks.size(i), plan.planes);
  }
};

using PanelSums = float[kRowsAtOnce][kPanel];

void multiply_panels(const Plan& plan, const llmc_linear_call& call, const Blocks& blocks, const Packed& packed,
                     int64_t row, int64_t begin, int64_t end, const PanelSink* sink) {
  const Layout& m = plan.m;
  alignas(64) PanelSums sums[kPanelsAtOnce];
  const int64_t chunks = plan.chunks;
  for (int64_t p = begin; p < end; p += kPanelsAtOnce) {
    const int64_t count = end - p < kPanelsAtOnce ? end - p : kPanelsAtOnce;
    const auto multiply = [&](int64_t i, int64_t c, int64_t last) {
      const uint8_t* panel = m.data + (p + i) * m.panel_bytes;
      if (plan.method->multiply_all)
        return plan.method->multiply_all(m, packed.memory, packed.stride, blocks.rows, panel, c, last, sums[i][0]);
      for (int64_t b = 0; b < blocks.count; ++b)
        plan.method->multiply(m, packed.block(b), blocks.size(b), plan.planes, panel, c, last, sums[i][blocks.begin(b)]);
    };
    // A few chunks of one panel stay in the caches while all blocks of rows pass them; for one block, memory is read in order.
    const int64_t step = blocks.count > 1 ? plan.method->chunks : chunks;
    for (int64_t c = 0; c < chunks; c += step)
      for (int64_t i = 0; i < count; ++i) multiply(i, c, c + step < chunks ? c + step : chunks);
    const auto columns = [&](int64_t i) {
      const int64_t left = m.outputs - (p + i) * kPanel;
      return static_cast<int>(left < kPanel ? left : kPanel);
    };
    if (sink) {
      for (int64_t i = 0; i < count; ++i)
        sink->take(sink->self, sums[i][0], row, blocks.rows, (p + i) * kPanel, columns(i));
      continue;
    }
    // A few rows of all panels at a time: each row of y is another page.
    constexpr int64_t kFinishRows = 4;
    for (int64_t r = 0; r < blocks.rows; r += kFinishRows) {
      const int rows = static_cast<int>(blocks.rows - r < kFinishRows ? blocks.rows - r : kFinishRows);
      for (int64_t i = 0; i < count; ++i)
        kernels().finish(call, sums[i][r], row + r, rows, (p + i) * kPanel, columns(i));
    }
  }
}

}  // namespace

const Kernels& kernels() {
  static const Kernels table = make_table();
  return table;
}

int32_t check_linear(const llmc_linear_call& call) {
  if (!call.matrix || call.rows < 0) return LLMC_BAD_ARGUMENT;
  Layout m;
  if (!read_layout(call.matrix, &m)) return LLMC_BAD_DATA;
  if (call.x_type != LLMC_FP32 && call.x_type != LLMC_BF16) return LLMC_BAD_ARGUMENT;
  if (call.y_type != LLMC_FP32 && call.y_type != LLMC_BF16) return LLMC_BAD_ARGUMENT;
  if (call.activation < LLMC_NONE || call.activation > LLMC_TANH) return LLMC_BAD_ARGUMENT;
  if (call.activation_bits != 0 && call.activation_bits != 8 && call.activation_bits != 16) return LLMC_BAD_ARGUMENT;
  if (call.rows == 0) return LLMC_OK;
  if (!call.x || !call.y) return LLMC_BAD_ARGUMENT;
  const bool wide = call.x_stride >= m.inputs && call.y_stride >= m.outputs &&
                    (!call.residual || call.residual_stride >= m.outputs) &&
                    (!call.multiply || call.multiply_stride >= m.outputs);
  if (!wide && call.rows > 1) return LLMC_BAD_SHAPE;
  const Plan plan = make_plan(call);
  return plan.method->pack ? LLMC_OK : LLMC_UNSUPPORTED;
}

size_t linear_scratch(const llmc_linear_call& call) {
  if (call.rows == 0) return 0;
  const Plan plan = make_plan(call);
  const int64_t rows = call.rows < plan.rows_at_once ? call.rows : plan.rows_at_once;
  const Blocks blocks(rows, plan);
  return static_cast<size_t>(Packed(plan, blocks, nullptr).stride * blocks.count);
}

bool packed_at_once(const llmc_linear_call& call) { return call.rows <= make_plan(call).rows_at_once; }

void run_linear(Team& members, const llmc_linear_call& call, void* scratch, const PanelSink* sink, int64_t piece,
                bool own) {
  if (call.rows == 0) return;
  const Plan plan = make_plan(call);
  const Layout& m = plan.m;
  const Rows x{call.x, call.x_stride, call.x_type};
  for (int64_t row = 0; row < call.rows; row += plan.rows_at_once) {
    const int64_t left = call.rows - row;
    const Blocks blocks(left < plan.rows_at_once ? left : plan.rows_at_once, plan);
    const Packed packed(plan, blocks, scratch);
    const int64_t chunks = plan.chunks;
    if (row > 0) members.barrier();  // the blocks packed before are still read
    const auto pack = [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t b = unit / chunks, c = unit % chunks;
        plan.method->pack(m, x, row + blocks.begin(b), blocks.size(b), plan.planes, c, packed.chunk(b, c));
      }
    };
    if (own) {
      pack(0, blocks.count * chunks);
    } else {
      members.chunks(blocks.count * chunks, 1, pack);
      members.barrier();
    }
    // Pieces small enough to share out evenly; of few rows large enough to read memory in long runs, of many to use what
    // the cache has of them for some panels.
    const bool many = blocks.count > 1;
    const int64_t most = many ? kPanelsAtOnce : 1 + (int64_t{1} << 18) / m.panel_bytes;
    const int64_t even = many ? (m.panels + members.size * 3 - 1) / (members.size * 3) : m.panels / (members.size * 4);
    const int64_t grain = piece > 0 ? piece : even < 1 ? 1 : even > most ? most : even;
    if (plan.method->enter) plan.method->enter(blocks.size(0));
    members.chunks(m.panels, grain, [&](int64_t begin, int64_t end) {
      multiply_panels(plan, call, blocks, packed, row, begin, end, sink);
    });
    if (plan.method->leave) plan.method->leave();
  }
}

}  // namespace llmc

using namespace llmc;

int32_t llmc_linears(const llmc_linear_call* calls, int32_t count) {
  if (count < 0 || (count > 0 && !calls)) return LLMC_BAD_ARGUMENT;
  size_t bytes = 0;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t status = check_linear(calls[i]);
    if (status != LLMC_OK) return status;
    const size_t needed = linear_scratch(calls[i]);
    bytes = needed > bytes ? needed : bytes;
  }
  if (bytes == 0) return LLMC_OK;
  void* scratch = thread_scratch(kLinearScratch, bytes);
  if (!scratch) return LLMC_NO_MEMORY;
  team([&](Team& members) {
    for (int32_t i = 0; i < count; ++i) {
      if (i > 0) members.barrier();
      run_linear(members, calls[i], scratch);
    }
  });
  return LLMC_OK;
}

int32_t llmc_linear(const llmc_linear_call* call) {
  return call ? llmc_linears(call, 1) : static_cast<int32_t>(LLMC_BAD_ARGUMENT);
}
