#include "head.h"

#include <math.h>

#include "matrix.h"
#include "pointwise.h"
#include "scratch.h"

namespace llmc {
namespace {

constexpr int64_t kPiecePanels = 16;  // entries that one thread reduces in order, the unit whatever the number of threads
constexpr int64_t kPieceColumns = kPiecePanels * kPanel;
constexpr int64_t kMostRows = 1024;   // whose states are kept at a time

struct Work {
  const llmc_head_call* call;
  HeadState* states;    // [pieces][rows]
  int64_t rows;         // of this turn
  int64_t first_row;
  float* sums;          // [all rows]: log-sum-exp
  int64_t* first;       // [panels + 1]: where the targets of each panel begin in `order`
  int64_t* order;       // [targets], by panel, then as given
  float* chosen;        // [targets]: scores
  Layout m;
  int64_t pieces;
};

int64_t round64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// The linear product of rows [first, first + rows); y is not written but must be something.
llmc_linear_call product(const llmc_head_call& c, int64_t first, int64_t rows) {
  llmc_linear_call call{};
  call.matrix = c.matrix;
  const int64_t size = c.x_type == LLMC_BF16 ? 2 : 4;
  call.x = static_cast<const char*>(c.x) + first * c.x_stride * size;
  call.y = const_cast<void*>(c.x);
  call.rows = rows;
  call.x_stride = c.x_stride;
  call.y_stride = INT64_MAX;
  call.x_type = c.x_type;
  call.activation_bits = c.activation_bits;
  return call;
}

int64_t turn_rows(const llmc_head_call& c) { return c.rows < kMostRows ? c.rows : kMostRows; }

int64_t target_row(const llmc_head_call& c, int64_t i) { return c.target_rows ? c.target_rows[i] : i; }

void sort_targets(const Work& w) {
  const llmc_head_call& c = *w.call;
  for (int64_t p = 0; p <= w.m.panels; ++p) w.first[p] = 0;
  for (int64_t i = 0; i < c.target_count; ++i) ++w.first[c.targets[i] / kPanel + 1];
  for (int64_t p = 0; p < w.m.panels; ++p) w.first[p + 1] += w.first[p];
  for (int64_t i = 0; i < c.target_count; ++i) w.order[w.first[c.targets[i] / kPanel]++] = i;
  for (int64_t p = w.m.panels; p > 0; --p) w.first[p] = w.first[p - 1];
  w.first[0] = 0;
}

void take(void* self, float* sums, int64_t row, int64_t count, int64_t column, int32_t columns) {
  const Work& w = *static_cast<const Work*>(self);
  const llmc_head_call& c = *w.call;
  HeadState* states = w.states + column / kPieceColumns * w.rows + row;
  if (column % kPieceColumns == 0)
    for (int64_t i = 0; i < count; ++i) states[i] = {-INFINITY, 0.0f, -1};
  pointwise_kernels().take_scores(sums, kPanel, count, c.bias ? c.bias + column : nullptr, column, columns,
                                  w.sums != nullptr, states);
  if (!w.chosen) return;
  const int64_t panel = column / kPanel;
  for (int64_t i = w.first[panel]; i < w.first[panel + 1]; ++i) {
    const int64_t at = target_row(c, w.order[i]) - w.first_row - row;
    if (at >= count) break;
    if (at >= 0) w.chosen[w.order[i]] = sums[at * kPanel + c.targets[w.order[i]] - column];
  }
}

// Joins the states of a row's pieces, in order.
void join(const Work& w, int64_t row) {
  HeadState best = w.states[row];
  for (int64_t p = 1; p < w.pieces; ++p) {
    const HeadState& state = w.states[p * w.rows + row];
    if (best.peak != best.peak) break;
    if (state.peak > best.peak || state.peak != state.peak) best = state;
  }
  const int64_t at = w.first_row + row;
  if (w.call->best) w.call->best[at] = best.place;
  if (!w.sums) return;
  float total = 0.0f;
  for (int64_t p = 0; p < w.pieces; ++p) {
    const HeadState& state = w.states[p * w.rows + row];
    if (state.total != 0.0f) total += state.total * expf(state.peak - best.peak);
  }
  w.sums[at] = logf(total) + best.peak;
}

}  // namespace


int32_t check_head(const llmc_head_call& c) {
  if (c.rows < 0 || c.target_count < 0) return LLMC_BAD_ARGUMENT;
  if (c.target_count > 0 && (!c.targets || !c.logprobs)) return LLMC_BAD_ARGUMENT;
  const int32_t status = check_linear(product(c, 0, c.rows));
  if (status != LLMC_OK) return status;
  Layout m;
  read_layout(c.matrix, &m);
  if (!c.target_rows && c.target_count > c.rows) return LLMC_BAD_SHAPE;
  for (int64_t i = 0; i < c.target_count; ++i) {
    if (c.targets[i] < 0 || c.targets[i] >= m.outputs) return LLMC_BAD_SHAPE;
    if (c.target_rows &&
        (c.target_rows[i] < (i > 0 ? c.target_rows[i - 1] : 0) || c.target_rows[i] >= c.rows))
      return LLMC_BAD_SHAPE;
  }
  return LLMC_OK;
}

size_t head_scratch(const llmc_head_call& c) {
  if (c.rows == 0) return 0;
  Layout m;
  read_layout(c.matrix, &m);
  const int64_t pieces = (m.panels + kPiecePanels - 1) / kPiecePanels;
  return linear_scratch(product(c, 0, turn_rows(c))) + static_cast<size_t>(
      64 + round64(pieces * turn_rows(c) * static_cast<int64_t>(sizeof(HeadState))) + round64(c.rows * 4) +
      round64((m.panels + 1) * 8) + round64(c.target_count * 8));
}

void run_head(Team& members, const llmc_head_call& c, void* scratch) {
  if (c.rows == 0) return;
  Work w{};
  w.call = &c;
  read_layout(c.matrix, &w.m);
  w.pieces = (w.m.panels + kPiecePanels - 1) / kPiecePanels;
  const bool targets = c.target_count > 0;
  char* memory = static_cast<char*>(scratch);
  w.states = reinterpret_cast<HeadState*>(memory);
  memory += round64(w.pieces * turn_rows(c) * static_cast<int64_t>(sizeof(HeadState)));
  if (c.sums || targets) w.sums = c.sums ? c.sums : reinterpret_cast<float*>(memory);
  memory += round64(c.rows * 4);
  w.first = reinterpret_cast<int64_t*>(memory);
  memory += round64((w.m.panels + 1) * 8);
  w.order = reinterpret_cast<int64_t*>(memory);
  memory += round64(c.target_count * 8);
  w.chosen = targets ? c.logprobs : nullptr;
  if (targets && members.rank == 0) sort_targets(w);  // read after the barrier that every product has
  for (w.first_row = 0; w.first_row < c.rows; w.first_row += kMostRows) {
    w.rows = c.rows - w.first_row < kMostRows ? c.rows - w.first_row : kMostRows;
    if (w.first_row > 0) members.barrier();
    const PanelSink sink{take, &w};
    run_linear(members, product(c, w.first_row, w.rows), memory, &sink, kPiecePanels);
    members.barrier();
    int64_t begin, end;
    members.share(w.rows, 1, &begin, &end);
    for (int64_t row = begin; row < end; ++row) join(w, row);
  }
  if (!targets) return;
  members.barrier();
  int64_t begin, end;
  members.share(c.target_count, 16, &begin, &end);
  for (int64_t i = begin; i < end; ++i) c.logprobs[i] -= w.sums[target_row(c, i)];
}

}  // namespace llmc

int32_t llmc_head(const llmc_head_call* call) {
  using namespace llmc;
  if (!call) return LLMC_BAD_ARGUMENT;
  const int32_t status = check_head(*call);
  if (status != LLMC_OK || call->rows == 0) return status;
  void* scratch = thread_scratch(kHeadScratch, head_scratch(*call));
  if (!scratch) return LLMC_NO_MEMORY;
  team([&](Team& members) { run_head(members, *call, scratch); });
  return LLMC_OK;
}
