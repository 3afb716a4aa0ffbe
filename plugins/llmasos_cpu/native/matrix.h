// Packed weight matrices: where every number of a panel lies.
//
// A panel holds 32 outputs. Its data are "steps" of 128 bytes: one 32-bit word per output, and a word is one fp32,
// two bf16 or four int8 weights of consecutive inputs. So every kind is multiplied by the same loop: broadcast a
// word of activations, multiply it with two 64-byte vectors of weights. A 4-bit step holds two such steps, the
// first in the low halves of its bytes. Inputs are walked in chunks of 256 words of activations, in order.
//
//   fp32   [inputs] steps
//   bf16   [inputs / 2, padded to 16] steps
//   int8   one scale per output: [inputs / 4, padded to 16] steps, then 32 fp32 scales
//   int8   groups of 32: per group 8 steps, 32 fp16 scales
//   int4   per group 4 steps, 32 fp16 scales
//   Q4_1   per group 4 steps, 32 fp16 scales, 32 fp16 minima
//   Q4_K   per block of 8 groups 32 fp16 scales, 32 fp16 minima; per group 4 steps, 32 bytes of 6-bit scales, 32 of minima
//
// int8 weights are stored with 128 added, 4-bit ones as they are (0..15): the dot products of VNNI and AMX take an
// unsigned and a signed factor, and with the unsigned one on this side the correction is a sum over activations.
#pragma once

#include <stdint.h>

namespace llmc {

constexpr int kPanel = 32;             // outputs of a panel
constexpr int64_t kStepBytes = 128;    // 32 words
constexpr int64_t kChunk = 256;        // words of activations in a chunk
constexpr int64_t kHeaderBytes = 128;
constexpr int64_t kGroup = 32;         // inputs that share a scale
constexpr int64_t kGroupWords = kGroup / 4;
constexpr int64_t kChunkGroups = kChunk / kGroupWords;
constexpr int64_t kBlockGroups = 8;    // groups of a Q4_K block
constexpr int64_t kBlockHeader = 128;

struct Header {
  char magic[8];
  int32_t version;
  int32_t kind;
  int32_t group;
  int32_t panel_size;
  int64_t outputs, inputs;
  int64_t panel_bytes, total_bytes;
  uint8_t unused[kHeaderBytes - 56];
};

struct Layout {
  int32_t kind;
  int32_t group;        // 0 or 32
  int64_t outputs, inputs;
  int64_t words;        // words of activations per row, padding included
  int64_t panels;
  int64_t group_bytes;  // grouped kinds
  int64_t panel_bytes;
  const uint8_t* data;  // first panel

  bool grouped() const { return group != 0; }
  bool integer() const { return kind >= 2; }
  int64_t chunks() const { return (words + kChunk - 1) / kChunk; }
};

// Where group g of a panel begins.
static inline const uint8_t* group_at(const Layout& m, const uint8_t* panel, int64_t g) {
  const int64_t header = m.kind == 5 ? (g / kBlockGroups + 1) * kBlockHeader : 0;
  return panel + header + g * m.group_bytes;
}

// Inputs per word of activations.
static inline int64_t inputs_per_word(int32_t kind) { return kind == 0 ? 1 : kind == 1 ? 2 : 4; }

// The layout of a kind and shape; false when there is none.
bool make_layout(int32_t kind, int32_t group, int64_t outputs, int64_t inputs, Layout* layout);

// Row `row` of a matrix of any kind as numbers.
void unpack_row(const Layout& m, int64_t row, float* out);

// The layout of a packed matrix; false when the header is wrong. Does not know how many bytes there are.
bool read_layout(const void* packed, Layout* layout);

}  // namespace llmc
