// The shapes of AMX tiles: 16 rows of activations by 16 outputs, two of each.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int kTileRows = 16, kRows = 32;

struct alignas(64) TileConfiguration {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t column_bytes[16];
  uint8_t rows[16];
};

// Tiles 0-3: sums; 4, 5: activations; 6, 7: weights, `depth` words of activations deep.
inline void configure_tiles(int rows, int depth) {
  const uint8_t first = static_cast<uint8_t>(rows < kTileRows ? rows : kTileRows);
  const uint8_t second = static_cast<uint8_t>(rows > kTileRows ? rows - kTileRows : 1);
  TileConfiguration c{};
  c.palette = 1;
  for (int i = 0; i < 8; ++i) c.column_bytes[i] = 64;
  c.rows[0] = c.rows[1] = c.rows[4] = first;
  c.rows[2] = c.rows[3] = c.rows[5] = second;
  c.rows[6] = c.rows[7] = static_cast<uint8_t>(depth);
  c.column_bytes[4] = c.column_bytes[5] = static_cast<uint16_t>(depth * 4);
  // The compiler knows of no more than eight bytes that the instruction reads.
  __asm__ volatile("" : : "r"(&c) : "memory");
  _tile_loadconfig(&c);
}

}  // namespace
