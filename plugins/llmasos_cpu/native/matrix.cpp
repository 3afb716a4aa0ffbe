#include "matrix.h"

#include <math.h>
#include <string.h>

#include <atomic>

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

// Bytes of a GGUF block, and the inputs it holds.
struct BlockShape {
  int64_t bytes, inputs;
};

BlockShape block_shape(int32_t source) {
  switch (source) {
    case LLMC_SOURCE_Q8_0: return {34, 32};
    case LLMC_SOURCE_Q4_0: return {18, 32};
    case LLMC_SOURCE_Q4_1: return {20, 32};
    case LLMC_SOURCE_Q4_K: return {144, 256};
    case LLMC_SOURCE_FP32: return {4, 1};
    default: return {2, 1};
  }
}

bool packs_into(int32_t source, const Layout& m) {
  switch (source) {
    case LLMC_SOURCE_Q8_0: return m.kind == LLMC_MATRIX_INT8 && m.grouped();
    case LLMC_SOURCE_Q4_0: return m.kind == LLMC_MATRIX_INT4;
    case LLMC_SOURCE_Q4_1: return m.kind == LLMC_MATRIX_Q4_1;
    case LLMC_SOURCE_Q4_K: return m.kind == LLMC_MATRIX_Q4_K;
    default: return m.kind <= LLMC_MATRIX_INT4;
  }
}

uint16_t read_half(const uint8_t* from) {
  uint16_t half;
  memcpy(&half, from, 2);
  return half;
}

bool finite_half(uint16_t half) { return (half & 0x7c00u) != 0x7c00u; }

// A group of 32 weights: their unsigned numbers, and the bits that go with them.
struct Group {
  uint8_t q[kGroup];
  uint16_t scale, minimum;            // fp16; of the block for Q4_K
  uint8_t small_scale, small_minimum; // Q4_K
};

int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// Symmetric, to 8 bits. False when a number is not finite.
bool quantise8(const float* x, Group* out) {
  float most = 0.0f, poison = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    most = fmaxf(most, fabsf(x[i]));
    poison += x[i] * 0.0f;
  }
  out->scale = float_to_half(most / 127.0f);
  if (poison != 0.0f || !finite_half(out->scale)) return false;
  const float scale = half_to_float(out->scale);
  for (int i = 0; i < kGroup; ++i) {
    const float q = scale > 0.0f ? nearbyintf(x[i] / scale) : 0.0f;
    out->q[i] = static_cast<uint8_t>(clamp(static_cast<int>(q), -127, 127) + 128);
  }
  return true;
}

// To -8..7 multiples of a scale: of the scales near the one that maps the largest number to -8, the one with the least
// squared error.
bool quantise4(const float* x, Group* out) {
  float most = 0.0f, poison = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    if (fabsf(x[i]) > fabsf(most)) most = x[i];
    poison += x[i] * 0.0f;
  }
  if (poison != 0.0f || !finite_half(float_to_half(most / -6.0f))) return false;
  float least = -1.0f;
  for (int step = 0; step <= 8; ++step) {
    const uint16_t half = float_to_half(most / (-9.0f + 0.375f * static_cast<float>(step)));
    const float scale = half_to_float(half), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    uint8_t q[kGroup];
    float error = 0.0f;
    for (int i = 0; i < kGroup; ++i) {
      const int number = clamp(static_cast<int>(nearbyintf(x[i] * inverse)), -8, 7);
      const float off = x[i] - scale * static_cast<float>(number);
      error += off * off;
      q[i] = static_cast<uint8_t>(number + 8);
    }
    if (least < 0.0f || error < least) {
      least = error;
      out->scale = half;
      memcpy(out->q, q, sizeof q);
    }
  }
  return true;
}

// Group g of a row of GGUF blocks. False when a scale is not finite.
bool read_group(int32_t source, const uint8_t* row, int64_t g, Group* out) {
  const BlockShape shape = block_shape(source);
  const uint8_t* block = row + g * kGroup / shape.inputs * shape.bytes;
  out->scale = read_half(block);
  out->minimum = 0;
  if (source == LLMC_SOURCE_Q8_0) {
    for (int i = 0; i < kGroup; ++i) out->q[i] = block[2 + i] ^ 0x80;
    return finite_half(out->scale);
  }
  if (source == LLMC_SOURCE_Q4_K) {
    const int64_t j = g % kBlockGroups;
    const uint8_t* packed = block + 4;
    out->minimum = read_half(block + 2);
    if (j < 4) {
      out->small_scale = packed[j] & 63;
      out->small_minimum = packed[j + 4] & 63;
    } else {
      out->small_scale = static_cast<uint8_t>((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4));
      out->small_minimum = static_cast<uint8_t>((packed[j + 4] >> 4) | (packed[j] >> 6 << 4));
    }
    for (int i = 0; i < kGroup; ++i) {
      const uint8_t pair = block[16 + j / 2 * kGroup + i];
      out->q[i] = j % 2 ? pair >> 4 : pair & 15;
    }
    return finite_half(out->scale) && finite_half(out->minimum);
  }
  const uint8_t* numbers = block + 2;
  if (source == LLMC_SOURCE_Q4_1) {
    out->minimum = read_half(block + 2);
    numbers += 2;
  }
  for (int i = 0; i < kGroup / 2; ++i) {
    out->q[i] = numbers[i] & 15;
    out->q[i + kGroup / 2] = numbers[i] >> 4;
  }
  return finite_half(out->scale) && finite_half(out->minimum);
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

// The same for kinds with a scale per group. False when a number or scale is not finite.
bool set_grouped(const Task& task, uint8_t* panel, int64_t begin, int64_t end) {
  const Layout& m = task.layout;
  const int64_t width = block_shape(task.source).bytes;
  const bool nibbles = m.kind != LLMC_MATRIX_INT8;
  const int64_t steps = nibbles ? kGroupWords / 2 : kGroupWords, data = steps * kStepBytes;
  for (int64_t g = 0; g < m.words / kGroupWords; ++g) {
    uint8_t* group = const_cast<uint8_t*>(group_at(m, panel, g));
    uint8_t words[kPanel][kGroup];
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* from = task.rows + (row - task.first) * task.row_bytes;
      Group numbers{};
      if (task.source > LLMC_SOURCE_FP16) {
        if (!read_group(task.source, from, g, &numbers)) return false;
      } else {
        const int64_t column = g * kGroup, present = m.inputs - column < kGroup ? m.inputs - column : kGroup;
        float values[kGroup] = {};
        read_numbers(from + column * width, task.source, present, values);
        if (!(nibbles ? quantise4(values, &numbers) : quantise8(values, &numbers))) return false;
      }
      const int64_t slot = row % kPanel;
      if (nibbles) {
        for (int64_t i = 0; i < kGroup / 2; ++i) {
          const int64_t at = i / 4 * 8 + i % 4;
          words[row - begin][i] = static_cast<uint8_t>(numbers.q[at] | numbers.q[at + 4] << 4);
        }
      } else {
        memcpy(words[row - begin], numbers.q, kGroup);
      }
      if (m.kind == LLMC_MATRIX_Q4_K) {
        group[data + slot] = numbers.small_scale;
        group[data + kPanel + slot] = numbers.small_minimum;
        if (g % kBlockGroups == 0) {
          memcpy(group - kBlockHeader + 2 * slot, &numbers.scale, 2);
          memcpy(group - kBlockHeader + 64 + 2 * slot, &numbers.minimum, 2);
        }
      } else {
        memcpy(group + data + 2 * slot, &numbers.scale, 2);
        if (m.kind == LLMC_MATRIX_Q4_1) memcpy(group + data + 64 + 2 * slot, &numbers.minimum, 2);
      }
    }
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t row = begin; row < end; ++row)
        memcpy(group + step * kStepBytes + row % kPanel * 4, words[row - begin] + step * 4, 4);
  }
  return true;
}

// The same for int8 with a scale per output.
bool set_rowwise(const Task& task, uint8_t* panel, int64_t begin, int64_t end) {
  const Layout& m = task.layout;
  const int64_t width = block_shape(task.source).bytes;
  constexpr int64_t kPiece = 64;
  float* scales = reinterpret_cast<float*>(panel + m.words * kStepBytes);
  float inverse[kPanel];
  for (int64_t row = begin; row < end; ++row) {
    const uint8_t* from = task.rows + (row - task.first) * task.row_bytes;
    float most = 0.0f, poison = 0.0f;
    for (int64_t column = 0; column < m.inputs; column += kPiece) {
      const int64_t present = m.inputs - column < kPiece ? m.inputs - column : kPiece;
      float values[kPiece];
      read_numbers(from + column * width, task.source, present, values);
      for (int64_t i = 0; i < present; ++i) {
        most = fmaxf(most, fabsf(values[i]));
        poison += values[i] * 0.0f;
      }
    }
    if (poison != 0.0f) return false;
    const float scale = most < 1e-30f ? 0.0f : most / 127.0f;
    memcpy(scales + row % kPanel, &scale, 4);
    inverse[row - begin] = scale > 0.0f ? 127.0f / most : 0.0f;
  }
  for (int64_t word = 0; word < m.words; word += kPiece / 4) {
    const int64_t column = word * 4, left = m.inputs - column;
    const int64_t present = left < 0 ? 0 : left < kPiece ? left : kPiece;
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* from = task.rows + (row - task.first) * task.row_bytes;
      float values[kPiece] = {};
      if (present > 0) read_numbers(from + column * width, task.source, present, values);
      uint8_t q[kPiece];
      for (int i = 0; i < kPiece; ++i)
        q[i] = static_cast<uint8_t>(static_cast<int>(nearbyintf(values[i] * inverse[row - begin])) + 128);
      for (int64_t i = 0; i < kPiece / 4; ++i)
        memcpy(panel + (word + i) * kStepBytes + row % kPanel * 4, q + i * 4, 4);
    }
  }
  return true;
}

// One weight as a number.
float weight_at(const Layout& m, int64_t output, int64_t input) {
  const uint8_t* panel = m.data + output / kPanel * m.panel_bytes;
  const int64_t slot = output % kPanel;
  const auto word = [&](const uint8_t* data, int64_t step) { return data + step * kStepBytes + slot * 4; };
  if (m.kind == LLMC_MATRIX_FP32) {
    float value;
    memcpy(&value, word(panel, input), 4);
    return value;
  }
  if (m.kind == LLMC_MATRIX_BF16) return bf16_to_float(read_half(word(panel, input / 2) + input % 2 * 2));
  if (!m.grouped()) {
    float scale;
    memcpy(&scale, panel + m.words * kStepBytes + slot * 4, 4);
    return scale * static_cast<float>(*(word(panel, input / 4) + input % 4) - 128);
  }
  const int64_t g = input / kGroup, i = input % kGroup;
  const uint8_t* group = group_at(m, panel, g);
  if (m.kind == LLMC_MATRIX_INT8) {
    const float scale = half_to_float(read_half(group + kGroupWords * kStepBytes + 2 * slot));
    return scale * static_cast<float>(*(word(group, i / 4) + i % 4) - 128);
  }
  const uint8_t* scales = group + kGroupWords / 2 * kStepBytes;
  const uint8_t pair = *(word(group, i / 8) + i % 4);
  const float q = static_cast<float>(i % 8 < 4 ? pair & 15 : pair >> 4);
  if (m.kind == LLMC_MATRIX_Q4_K) {
    const uint8_t* header = group_at(m, panel, g / kBlockGroups * kBlockGroups) - kBlockHeader;
    const float scale = half_to_float(read_half(header + 2 * slot)) * static_cast<float>(scales[slot]);
    const float minimum = half_to_float(read_half(header + 64 + 2 * slot)) * static_cast<float>(scales[kPanel + slot]);
    return scale * q - minimum;
  }
  const float scale = half_to_float(read_half(scales + 2 * slot));
  if (m.kind == LLMC_MATRIX_INT4) return scale * (q - 8.0f);
  return scale * q + half_to_float(read_half(scales + 64 + 2 * slot));
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
  if (!packs_into(source, task.layout)) return LLMC_UNSUPPORTED;
  const BlockShape shape = block_shape(source);
  if (info.inputs % shape.inputs != 0 || row_bytes < info.inputs / shape.inputs * shape.bytes) return LLMC_BAD_SHAPE;
  task.data = static_cast<uint8_t*>(packed) + kHeaderBytes;
  task.first = first;
  task.count = count;
  task.source = source;
  task.rows = static_cast<const uint8_t*>(rows);
  task.row_bytes = row_bytes;
  if (count == 0) return LLMC_OK;
  const int64_t panel = first / kPanel, panels = (first + count - 1) / kPanel - panel + 1;
  std::atomic<bool> good{true};
  parallel_for(panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = panel + begin; p < panel + end; ++p) {
      const int64_t from = p * kPanel < first ? first : p * kPanel;
      const int64_t to = (p + 1) * kPanel < first + count ? (p + 1) * kPanel : first + count;
      uint8_t* target = task.data + p * task.layout.panel_bytes;
      if (!task.layout.integer()) {
        set_dense(task, target, from, to);
      } else if (!(task.layout.grouped() ? set_grouped : set_rowwise)(task, target, from, to)) {
        good.store(false, std::memory_order_relaxed);
      }
    }
  });
  return good.load() ? LLMC_OK : LLMC_BAD_DATA;
}

int32_t llmc_matrix_describe(const void* packed, int64_t bytes, llmc_matrix_info* info) {
  if (!packed || !info) return LLMC_BAD_ARGUMENT;
  Layout m;
  if (bytes < kHeaderBytes || !read_layout(packed, &m)) return LLMC_BAD_DATA;
  if (bytes != kHeaderBytes + m.panels * m.panel_bytes) return LLMC_BAD_DATA;
  *info = {m.kind, m.group, m.outputs, m.inputs, bytes};
  return LLMC_OK;
}

namespace llmc {
namespace {

// Numbers [column, column + count) of a row.
void unpack_part(const Layout& m, int64_t row, int64_t column, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = weight_at(m, row, column + i);
}

}  // namespace

void unpack_row(const Layout& m, int64_t row, float* out) { unpack_part(m, row, 0, m.inputs, out); }

}  // namespace llmc

int32_t llmc_matrix_gather(const void* packed, const int64_t* indices, int64_t count, int32_t type, void* out,
                           int64_t out_stride) {
  if (!packed || count < 0 || (count > 0 && (!indices || !out)) || (type != LLMC_FP32 && type != LLMC_BF16))
    return LLMC_BAD_ARGUMENT;
  Layout m;
  if (!read_layout(packed, &m)) return LLMC_BAD_DATA;
  if (count > 0 && out_stride < m.inputs) return LLMC_BAD_SHAPE;
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || indices[i] >= m.outputs) return LLMC_BAD_ARGUMENT;
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    constexpr int64_t kPart = 1024;
    float part[kPart];
    for (int64_t i = begin; i < end; ++i) {
      if (type == LLMC_FP32) {
        unpack_row(m, indices[i], static_cast<float*>(out) + i * out_stride);
        continue;
      }
      uint16_t* row = static_cast<uint16_t*>(out) + i * out_stride;
      for (int64_t column = 0; column < m.inputs; column += kPart) {
        const int64_t numbers = m.inputs - column < kPart ? m.inputs - column : kPart;
        unpack_part(m, indices[i], column, numbers, part);
        for (int64_t e = 0; e < numbers; ++e) row[column + e] = float_to_bf16(part[e]);
      }
    }
  });
  return LLMC_OK;
}
