#include "matrix.h"

#include <string.h>

#include "kernels.h"
#include "llmasos_cpu.h"
#include "threads.h"

namespace llmc {
namespace {

constexpr char kMagic[8] = {'L', 'L', 'M', 'C', 'P', 'A', 'C', 'K'};
constexpr int32_t kVersion = 1;
constexpr int64_t kLargest = int64_t{1} << 31;  // of either dimension

int64_t rounded_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (fraction << 13);
  } else if (exponent > 0) {
    bits = sign | ((exponent + 112) << 23) | (fraction << 13);
  } else {
    const float value = static_cast<float>(fraction) * 5.9604644775390625e-08f;  // 2^-24
    memcpy(&bits, &value, sizeof bits);
    bits |= sign;
  }
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Nearest, ties to even.
uint16_t float_to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits >= 0x477ff000u) return sign | 0x7c00u;
  if (bits < 0x38800000u) {  // below 2^-14: whole multiples of 2^-24
    float size;
    memcpy(&size, &bits, sizeof size);
    size += 0.5f;  // the sum's lowest bit is 2^-24
    uint32_t sum;
    memcpy(&sum, &size, sizeof sum);
    return sign | static_cast<uint16_t>(sum - 0x3f000000u);
  }
  bits += 0xfffu + ((bits >> 13) & 1u);
  return sign | static_cast<uint16_t>((bits - 0x38000000u) >> 13);
}

float bf16_to_float(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t float_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void read_numbers(const uint8_t* from, int32_t source, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    if (source == LLMC_SOURCE_FP32) {
      memcpy(out + i, from + 4 * i, 4);
    } else {
      uint16_t half;
      memcpy(&half, from + 2 * i, 2);
      out[i] = source == LLMC_SOURCE_BF16 ? bf16_to_float(half) : half_to_float(half);
    }
  }
}

struct Task {
  Layout layout;
  uint8_t* data;
  int64_t first, count;
  int32_t source;
  const uint8_t* rows;
  int64_t row_bytes;
};

// Rows [begin, end) of the task, all of one panel, of a kind whose words are plain numbers.
void set_dense(const Task& task, uint8_t* panel, int64_t begin, int64_t end) {
  const Layout& m = task.layout;
  const int64_t per_word = inputs_per_word(m.kind);
  constexpr int64_t kPiece = 64;
  for (int64_t step = 0; step < m.words; step += kPiece) {
    const int64_t steps = m.words - step < kPiece ? m.words - step : kPiece;
    float words[kPanel][kPiece];
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* from = task.rows + (row - task.first) * task.row_bytes;
      const int64_t column = step * per_word;
      const int64_t present = m.inputs - column < steps * per_word ? m.inputs - column : steps * per_word;
      const int64_t width = task.source == LLMC_SOURCE_FP32 ? 4 : 2;
      float* target = words[row - begin];
      if (present < steps * per_word) memset(target, 0, sizeof words[0]);
      const bool same = (m.kind == LLMC_MATRIX_FP32) == (task.source == LLMC_SOURCE_FP32) &&
                        task.source != LLMC_SOURCE_FP16;
      if (same) {
        memcpy(target, from + column * width, static_cast<size_t>(present * width));
        continue;
      }
      float numbers[2 * kPiece];
      read_numbers(from + column * width, task.source, present, numbers);
      if (m.kind == LLMC_MATRIX_FP32) {
        memcpy(target, numbers, static_cast<size_t>(present) * 4);
      } else {
        uint16_t halves[2 * kPiece] = {};
        for (int64_t i = 0; i < present; ++i) halves[i] = float_to_bf16(numbers[i]);
        memcpy(target, halves, static_cast<size_t>(steps) * 4);
      }
    }
    float* out = reinterpret_cast<float*>(panel) + step * kPanel + begin % kPanel;
    kernels().transpose(words[0], kPiece, static_cast<int>(end - begin), steps, out, kPanel);
  }
}

}  // namespace

bool make_layout(int32_t kind, int32_t group, int64_t outputs, int64_t inputs, Layout* layout) {
  if (kind < LLMC_MATRIX_FP32 || kind > LLMC_MATRIX_Q4_K) return false;
  if (group != 0 && !(kind == LLMC_MATRIX_INT8 && group == kGroup)) return false;
  if (outputs < 1 || inputs < 1 || outputs > kLargest || inputs > kLargest) return false;
  if (kind == LLMC_MATRIX_Q4_K && inputs % (kGroup * kBlockGroups) != 0) return false;
  Layout m{};
  m.kind = kind;
  m.group = kind >= LLMC_MATRIX_INT4 ? kGroup : group;
  m.outputs = outputs;
  m.inputs = inputs;
  m.panels = (outputs + kPanel - 1) / kPanel;
  if (m.group) {
    const int64_t groups = (inputs + kGroup - 1) / kGroup;
    m.words = groups * kGroupWords;
    const int64_t steps = kind == LLMC_MATRIX_INT8 ? kGroupWords : kGroupWords / 2;
    m.group_bytes = steps * kStepBytes + (kind == LLMC_MATRIX_Q4_1 ? 128 : 64);
    m.panel_bytes = groups * m.group_bytes;
    if (kind == LLMC_MATRIX_Q4_K) m.panel_bytes += groups / kBlockGroups * kBlockHeader;
  } else {
    const int64_t per_word = inputs_per_word(kind);
    m.words = (inputs + per_word - 1) / per_word;
    if (kind != LLMC_MATRIX_FP32) m.words = rounded_up(m.words, 16);
    m.panel_bytes = m.words * kStepBytes + (kind == LLMC_MATRIX_INT8 ? kPanel * 4 : 0);
  }
  *layout = m;
  return true;
}

bool read_layout(const void* packed, Layout* layout) {
  Header header;
  memcpy(&header, packed, sizeof header);
  if (memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.version != kVersion ||
      header.panel_size != kPanel)
    return false;
  const int32_t group = header.kind == LLMC_MATRIX_INT8 ? header.group : 0;
  if (!make_layout(header.kind, group, header.outputs, header.inputs, layout)) return false;
  if (header.group != layout->group || header.panel_bytes != layout->panel_bytes ||
      header.total_bytes != kHeaderBytes + layout->panels * layout->panel_bytes)
    return false;
  layout->data = static_cast<const uint8_t*>(packed) + kHeaderBytes;
  return true;
}

}  // namespace llmc

using namespace llmc;

int64_t llmc_matrix_bytes(int32_t kind, int32_t group, int64_t outputs, int64_t inputs) {
  Layout m;
  if (!make_layout(kind, group, outputs, inputs, &m)) return LLMC_BAD_SHAPE;
  return kHeaderBytes + m.panels * m.panel_bytes;
}

int32_t llmc_matrix_begin(int32_t kind, int32_t group, int64_t outputs, int64_t inputs, void* packed,
                          int64_t bytes) {
  if (!packed) return LLMC_BAD_ARGUMENT;
  Layout m;
  if (!make_layout(kind, group, outputs, inputs, &m)) return LLMC_BAD_SHAPE;
  Header header{};
  memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.kind = kind;
  header.group = m.group;
  header.panel_size = kPanel;
  header.outputs = outputs;
  header.inputs = inputs;
  header.panel_bytes = m.panel_bytes;
  header.total_bytes = kHeaderBytes + m.panels * m.panel_bytes;
  if (bytes != header.total_bytes) return LLMC_BAD_SHAPE;
  memcpy(packed, &header, sizeof header);
  // Only the outputs that fill up the last panel are never set.
  if (outputs % kPanel)
    memset(static_cast<uint8_t*>(packed) + kHeaderBytes + (m.panels - 1) * m.panel_bytes, 0,
           static_cast<size_t>(m.panel_bytes));
  return LLMC_OK;
}

int32_t llmc_matrix_set_rows(void* packed, int64_t bytes, int64_t first, int64_t count, int32_t source,
                             const void* rows, int64_t row_bytes) {
  llmc_matrix_info info;
  const int32_t status = llmc_matrix_describe(packed, bytes, &info);
  if (status != LLMC_OK) return status;
  if (!rows || source < LLMC_SOURCE_FP32 || source > LLMC_SOURCE_Q4_K) return LLMC_BAD_ARGUMENT;
  if (first < 0 || count < 0 || count > info.outputs - first) return LLMC_BAD_SHAPE;
  Task task{};
  read_layout(packed, &task.layout);
  const int64_t width = source == LLMC_SOURCE_FP32 ? 4 : 2;
  if (task.layout.integer() || source > LLMC_SOURCE_FP16) return LLMC_UNSUPPORTED;
  if (row_bytes < info.inputs * width) return LLMC_BAD_SHAPE;
  task.data = static_cast<uint8_t*>(packed) + kHeaderBytes;
  task.first = first;
  task.count = count;
  task.source = source;
  task.rows = static_cast<const uint8_t*>(rows);
  task.row_bytes = row_bytes;
  if (count == 0) return LLMC_OK;
  const int64_t panel = first / kPanel, panels = (first + count - 1) / kPanel - panel + 1;
  parallel_for(panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = panel + begin; p < panel + end; ++p) {
      const int64_t from = p * kPanel < first ? first : p * kPanel;
      const int64_t to = (p + 1) * kPanel < first + count ? (p + 1) * kPanel : first + count;
      set_dense(task, task.data + p * task.layout.panel_bytes, from, to);
    }
  });
  return LLMC_OK;
}

int32_t llmc_matrix_describe(const void* packed, int64_t bytes, llmc_matrix_info* info) {
  if (!packed || !info) return LLMC_BAD_ARGUMENT;
  Layout m;
  if (bytes < kHeaderBytes || !read_layout(packed, &m)) return LLMC_BAD_DATA;
  if (bytes != kHeaderBytes + m.panels * m.panel_bytes) return LLMC_BAD_DATA;
  *info = {m.kind, m.group, m.outputs, m.inputs, bytes};
  return LLMC_OK;
}

int32_t llmc_matrix_gather(const void* packed, const int64_t* indices, int64_t count, int32_t type, void* out,
                           int64_t out_stride) {
  if (!packed || count < 0 || (count > 0 && (!indices || !out)) || (type != LLMC_FP32 && type != LLMC_BF16))
    return LLMC_BAD_ARGUMENT;
  Layout m;
  if (!read_layout(packed, &m)) return LLMC_BAD_DATA;
  if (m.integer()) return LLMC_UNSUPPORTED;
  if (count > 0 && out_stride < m.inputs) return LLMC_BAD_SHAPE;
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || indices[i] >= m.outputs) return LLMC_BAD_ARGUMENT;
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* word = m.data + indices[i] / kPanel * m.panel_bytes + indices[i] % kPanel * 4;
      for (int64_t column = 0; column < m.inputs; ++column) {
        float value;
        if (m.kind == LLMC_MATRIX_FP32) {
          memcpy(&value, word + column * kStepBytes, 4);
        } else {
          uint16_t half;
          memcpy(&half, word + column / 2 * kStepBytes + column % 2 * 2, 2);
          value = bf16_to_float(half);
        }
        if (type == LLMC_FP32) {
          static_cast<float*>(out)[i * out_stride + column] = value;
        } else {
          static_cast<uint16_t*>(out)[i * out_stride + column] = float_to_bf16(value);
        }
      }
    }
  });
  return LLMC_OK;
}
