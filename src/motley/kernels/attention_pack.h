// The views attention works on, and the packing of their rows into AMX tiles.
#pragma once
#include "vec.h"

// A [batch, heads, seq, width] view whose last dimension is contiguous; strides in elements.
struct View {
  bf16* data;
  i64 batch, head, row;
  bf16* at(i64 b, i64 h) const { return data + b * batch + h * head; }
};

struct Shape {
  i64 batch, heads, kv_heads, seq, width;  // true sizes
  i64 t, d;                                // seq and width rounded up to 32
  float scale;
};

// Copies [seq, width] rows into dense, zero-padded [t, d].
inline void copy_in(const Shape& s, const bf16* from, i64 stride, bf16* to) {
  for (i64 i = 0; i < s.t; ++i)
    for (i64 j = 0; j < s.d; j += 32) {
      fetch(from + (i + 16) * stride + j);
      _mm512_store_si512(to + i * s.d + j, _mm512_maskz_loadu_epi16(i < s.seq ? mask32(s.width - j) : 0,
                                                                     from + i * stride + j));
    }
}

// Right tiles of the transpose (depth = width): tile (row block of 16, chunk of 32 columns).
inline void pack_transposed(const Shape& s, const bf16* x, bf16* out) {
  for (i64 i = 0; i < s.t; i += 16)
    for (i64 j = 0; j < s.d; j += 32, out += 512) {
      __m512i r[16];
      for (int k = 0; k < 16; ++k) r[k] = _mm512_load_si512(x + (i + k) * s.d + j);
      transpose16(r);
      for (int k = 0; k < 16; ++k) _mm512_store_si512(out + 32 * k, r[k]);
    }
}

// Right tiles with depth = rows: tile (row block of 32, chunk of 16 columns).
inline void pack_rows(const Shape& s, const bf16* x, bf16* out) {
  const __m512i z0 = zip_index(0), z1 = zip_index(1);
  for (i64 i = 0; i < s.t; i += 32)
    for (i64 j = 0; j < s.d; j += 32, out += 1024)
      for (int k = 0; k < 16; ++k) {
        __m512i a = _mm512_load_si512(x + (i + 2 * k) * s.d + j);
        __m512i b = _mm512_load_si512(x + (i + 2 * k + 1) * s.d + j);
        _mm512_store_si512(out + 32 * k, _mm512_permutex2var_epi16(a, z0, b));
        _mm512_store_si512(out + 512 + 32 * k, _mm512_permutex2var_epi16(a, z1, b));
      }
}

// Left tiles of the transpose, from pack_transposed's output: tile (chunk of 16 columns, rows of 32).
inline void pack_left_transposed(const Shape& s, const bf16* packed, bf16* out) {
  const __m512i even = even_words(), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
  const i64 chunks = s.d / 32, blocks = s.t / 32;
  for (i64 i = 0; i < blocks; ++i)
    for (i64 j = 0; j < chunks; ++j) {
      const bf16 *a = packed + (2 * i * chunks + j) * 512, *b = packed + ((2 * i + 1) * chunks + j) * 512;
      for (int k = 0; k < 16; ++k) {
        __m512i x = _mm512_load_si512(a + 32 * k), y = _mm512_load_si512(b + 32 * k);
        bf16* to = out + ((2 * j + k / 8) * blocks + i) * 512 + (k % 8) * 64;
        _mm512_store_si512(to, _mm512_permutex2var_epi16(x, even, y));
        _mm512_store_si512(to + 32, _mm512_permutex2var_epi16(x, odd, y));
      }
    }
}
