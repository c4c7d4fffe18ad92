// Small AVX-512 and AMX helpers shared by the training kernels.
#pragma once
#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

using bf16 = uint16_t;
using i64 = int64_t;
constexpr float kLog2e = 1.44269504088896340736f;

inline i64 round_up(i64 n, i64 m) { return (n + m - 1) / m * m; }

// ---- scratch memory: one growing, aligned buffer for each thread and slot ----
struct Scratch {
  char* data = nullptr;
  size_t size = 0;
  ~Scratch() { free(data); }
  template <class T>
  T* get(size_t count) {
    size_t bytes = round_up(count * sizeof(T) + 64, 4096);
    if (bytes > size) {
      free(data);
      data = static_cast<char*>(aligned_alloc(4096, bytes));
      size = bytes;
    }
    return reinterpret_cast<T*>(data);
  }
};

// Hands out 64-byte aligned pieces of one scratch block, in order.
struct Arena {
  char* at;
  template <class T>
  T* take(size_t count) {
    char* here = at;
    at += round_up(count * sizeof(T), 64);
    return reinterpret_cast<T*>(here);
  }
};

// ---- vectors ----
inline __mmask16 mask16(i64 left) { return _bzhi_u32(0xffff, std::clamp<i64>(left, 0, 16)); }
inline __mmask32 mask32(i64 left) { return _bzhi_u32(0xffffffffu, std::clamp<i64>(left, 0, 32)); }

inline __m512 widen(__m256i half) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline __m512 load(const bf16* p, __mmask16 m) { return widen(_mm256_maskz_loadu_epi16(m, p)); }
inline __m512 load(const float* p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
inline __m256i narrow(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }
inline __m512i narrow2(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }
inline void store(bf16* p, __mmask16 m, __m512 v) { _mm256_mask_storeu_epi16(p, m, narrow(v)); }
inline void store(float* p, __mmask16 m, __m512 v) { _mm512_mask_storeu_ps(p, m, v); }

// Software prefetch: the hardware's alone leaves half of the memory's speed unused on large tensors.
constexpr i64 kAhead = 1024;  // elements between a pass and what it fetches
inline void fetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void fetch_to_write(void* p) { __builtin_prefetch(p, 1); }
template <class T>
void fetch_row(const T* row, i64 width) {
  for (i64 j = 0; j < width; j += 64 / sizeof(T)) fetch(row + j);
}
template <class T>
void fetch_row_to_write(T* row, i64 width) {
  for (i64 j = 0; j < width; j += 64 / sizeof(T)) fetch_to_write(row + j);
}

// 2^x with a relative error of about 3e-7, for x of -inf to 127.
inline __m512 exp2_ps(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-150.f), x);  // in this order a NaN stays one
  __m512 n = _mm512_roundscale_ps(x, 8);
  __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.3397388e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6184373e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5503406e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022652e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(p, n);
}

// 1/x to float accuracy: the 14-bit estimate and one Newton step.
inline __m512 reciprocal(__m512 x) {
  __m512 r = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(x, r, _mm512_set1_ps(2.f)));
}

inline __m512i even_words() {
  alignas(64) static const auto table = [] {
    struct { uint16_t v[32]; } t;
    for (int i = 0; i < 32; ++i) t.v[i] = 2 * i;
    return t;
  }();
  return _mm512_load_si512(&table);
}
// Index that takes words (a0,b0,a1,b1,...) of the first or second half of two vectors.
inline __m512i zip_index(int half) {
  alignas(64) static const auto table = [] {
    struct { uint16_t v[64]; } t;
    for (int i = 0; i < 64; ++i) t.v[i] = i / 2 % 16 + (i / 32) * 16 + (i % 2) * 32;
    return t;
  }();
  return _mm512_load_si512(table.v + 32 * half);
}

// Transposes a 16 x 16 matrix of 32-bit words held in 16 registers.
inline void transpose16(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// ---- AMX tiles: 0-3 hold a 32 x 32 result, 4-5 the left and 6-7 the right operand ----
struct TileScope {
  TileScope() {
    struct { uint8_t palette = 1, start = 0, zero[14] = {}; uint16_t colsb[16] = {}; uint8_t rows[16] = {}; } c;
    for (int i = 0; i < 8; ++i) c.colsb[i] = 64, c.rows[i] = 16;
    _tile_loadconfig(&c);
  }
  ~TileScope() { _tile_release(); }
};

inline void tiles_zero() { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
// c: 32 x 32 floats with `stride` floats from row to row.
inline void tiles_load(const float* c, i64 stride) {
  _tile_loadd(0, c, stride * 4);
  _tile_loadd(1, c + 16, stride * 4);
  _tile_loadd(2, c + 16 * stride, stride * 4);
  _tile_loadd(3, c + 16 * stride + 16, stride * 4);
}
inline void tiles_store(float* c, i64 stride) {
  _tile_stored(0, c, stride * 4);
  _tile_stored(1, c + 16, stride * 4);
  _tile_stored(2, c + 16 * stride, stride * 4);
  _tile_stored(3, c + 16 * stride + 16, stride * 4);
}
// One step of depth 32. a0, a1: 16 rows of 32 bf16; b0, b1: 16 row pairs of 16 columns.
inline void tiles_step(const bf16* a0, const bf16* a1, i64 a_stride, const bf16* b0, const bf16* b1) {
  _tile_loadd(4, a0, a_stride * 2);
  _tile_loadd(6, b0, 64);
  _tile_loadd(7, b1, 64);
  _tile_loadd(5, a1, a_stride * 2);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}
