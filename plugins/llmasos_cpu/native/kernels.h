// The table of kernels that each instruction set fills in.
#pragma once

#include <stdint.h>

#include "llmasos_cpu.h"
#include "matrix.h"

namespace llmc {

// Rows of activations, `type` LLMC_FP32 or LLMC_BF16.
struct Rows {
  const void* data;
  int64_t stride;
  int32_t type;
};

// How one kind of matrix is multiplied. Activations are first packed in blocks of at most `rows` rows, chunk by
// chunk, into the form the kernel reads; a kernel then adds, for one block, one panel and some chunks, into `sums`
// [rows][32]. Sums start at zero with chunk 0.
struct Method {
  int32_t rows;                // most rows of a block when planes is 1
  int32_t rows_two_planes;     // when planes is 2
  int32_t chunks;              // chunks of a panel to multiply with all blocks of rows before the next
  // Bytes of one chunk of a packed block.
  int64_t (*chunk_bytes)(const Layout& m, int rows, int planes);
  void (*pack)(const Layout& m, const Rows& x, int64_t first, int rows, int planes, int64_t chunk, uint8_t* out);
  void (*multiply)(const Layout& m, const uint8_t* block, int rows, int planes, const uint8_t* panel,
                   int64_t begin, int64_t end, float* sums);
  // Called by each thread before and after multiplying; null where nothing is to be done.
  void (*enter)(int rows);
  void (*leave)();
  int64_t chunk_words = kChunk;  // words of activations in a chunk
  // In place of `multiply`, for kernels that prepare weights once for all blocks: full ones of `rows` rows and the rest, one
  // every `stride` bytes.
  void (*multiply_all)(const Layout& m, const uint8_t* blocks, int64_t stride, int64_t rows, const uint8_t* panel,
                       int64_t begin, int64_t end, float* sums) = nullptr;
};

struct Kernels {
  Method fp32;
  Method bf16;
  Method rowwise;   // int8, a scale per output
  Method grouped;   // int8 and 4 bits, a scale per group
  Method grouped_few;  // the same for very few rows, with the same results
  // Writes rows [first, first + count) x outputs [column, column + columns) of y from sums [count][32].
  void (*finish)(const llmc_linear_call& call, const float* sums, int64_t first, int count, int64_t column,
                 int columns);
  // out[step][32] = words [row][step] of up to 32 rows: packs a panel.
  void (*transpose)(const float* words, int64_t stride, int rows, int64_t steps, float* out, int64_t out_stride);
  void (*to_bf16)(const void* in, int32_t source, int64_t count, uint16_t* out);
};

// Fills every entry with portable code; the others replace what their instructions do better.
void fill_portable(Kernels* table);
void fill_avx2(Kernels* table);
void fill_avx512(Kernels* table);
void fill_avx512_vnni(Kernels* table);
void fill_avx512_bf16(Kernels* table);
void fill_amx(Kernels* table);
void fill_split_amx(Kernels* table);

// The table for the features in use.
const Kernels& kernels();

}  // namespace llmc
