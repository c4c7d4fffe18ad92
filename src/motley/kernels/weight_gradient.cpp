// Weight gradient: c[p, q] = sum over n of a[n, p] * b[n, q], bf16 in, float out.
#include "vec.h"

namespace {
constexpr i64 kDepth = 256;  // rows of one pass: a packed left panel stays in the L1 cache
constexpr i64 kGroup = 12;   // left-hand panels (of 32 columns) packed together

// Packs rows [0, rows) x 32 columns as left tiles (the transpose), and sums the columns.
void pack_left(const bf16* a, i64 stride, i64 rows, i64 cols, bf16* out, float* sums) {
  const __m512i z0 = zip_index(0), z1 = zip_index(1);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __mmask32 m = mask32(cols);
  __m512 s0 = _mm512_setzero_ps(), s1 = s0;
  for (i64 k = 0; k < rows; k += 32, out += 1024) {
    __m512i lo[16], hi[16];
    for (int j = 0; j < 16; ++j) {
      const bf16* p = a + (k + 2 * j) * stride;
      __m512i x = _mm512_maskz_loadu_epi16(k + 2 * j < rows ? m : 0, p);
      __m512i y = _mm512_maskz_loadu_epi16(k + 2 * j + 1 < rows ? m : 0, p + stride);
      lo[j] = _mm512_permutex2var_epi16(x, z0, y);
      hi[j] = _mm512_permutex2var_epi16(x, z1, y);
      s0 = _mm512_dpbf16_ps(s0, (__m512bh)lo[j], ones);
      s1 = _mm512_dpbf16_ps(s1, (__m512bh)hi[j], ones);
    }
    transpose16(lo);
    for (int j = 0; j < 16; ++j) _mm512_store_si512(out + 32 * j, lo[j]);
    transpose16(hi);
    for (int j = 0; j < 16; ++j) _mm512_store_si512(out + 512 + 32 * j, hi[j]);
  }
  if (sums) {
    _mm512_mask_storeu_ps(sums, mask16(cols), _mm512_add_ps(s0, _mm512_maskz_loadu_ps(mask16(cols), sums)));
    _mm512_mask_storeu_ps(sums + 16, mask16(cols - 16),
                          _mm512_add_ps(s1, _mm512_maskz_loadu_ps(mask16(cols - 16), sums + 16)));
  }
}

// Packs rows x 32 columns as right tiles (pairs of rows side by side), and sums the columns.
void pack_right(const bf16* b, i64 stride, i64 rows, i64 cols, bf16* out, float* sums) {
  const __m512i z0 = zip_index(0), z1 = zip_index(1);
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  const __mmask32 m = mask32(cols);
  __m512 s0 = _mm512_setzero_ps(), s1 = s0;
  for (i64 k = 0; k < rows; k += 32, out += 1024) {
    for (int j = 0; j < 16; ++j) {
      const bf16* p = b + (k + 2 * j) * stride;
      __m512i x = _mm512_maskz_loadu_epi16(k + 2 * j < rows ? m : 0, p);
      __m512i y = _mm512_maskz_loadu_epi16(k + 2 * j + 1 < rows ? m : 0, p + stride);
      __m512i lo = _mm512_permutex2var_epi16(x, z0, y), hi = _mm512_permutex2var_epi16(x, z1, y);
      _mm512_store_si512(out + 32 * j, lo);
      _mm512_store_si512(out + 512 + 32 * j, hi);
      if (sums) {
        s0 = _mm512_dpbf16_ps(s0, (__m512bh)lo, ones);
        s1 = _mm512_dpbf16_ps(s1, (__m512bh)hi, ones);
      }
    }
  }
  if (sums) {
    _mm512_mask_storeu_ps(sums, mask16(cols), _mm512_add_ps(s0, _mm512_maskz_loadu_ps(mask16(cols), sums)));
    _mm512_mask_storeu_ps(sums + 16, mask16(cols - 16),
                          _mm512_add_ps(s1, _mm512_maskz_loadu_ps(mask16(cols - 16), sums + 16)));
  }
}

// Writes one finished 32 x 32 block to the result, as it stands or transposed.
void write_block(const float* block, float* c, i64 stride, i64 rows, i64 cols, bool transposed, bool add) {
  alignas(64) float turned[1024];
  if (transposed) {
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        __m512i r[16];
        for (int k = 0; k < 16; ++k) r[k] = _mm512_load_si512(block + (16 * i + k) * 32 + 16 * j);
        transpose16(r);
        for (int k = 0; k < 16; ++k) _mm512_store_si512(turned + (16 * j + k) * 32 + 16 * i, r[k]);
      }
    block = turned;
    std::swap(rows, cols);
  }
  for (i64 i = 0; i < rows; ++i)
    for (i64 j = 0; j < cols; j += 16) {
      __m512 v = _mm512_load_ps(block + 32 * i + j);
      const __mmask16 m = mask16(cols - j);
      if (add) v = _mm512_add_ps(v, load(c + i * stride + j, m));
      store(c + i * stride + j, m, v);
    }
}

struct Job {
  const bf16 *a, *b;
  i64 a_stride, b_stride, p, q, pp, qp;  // widths in columns and in panels of 32 columns
  bool sum_a, sum_b;
};

// Adds rows [from, to) of the product to `partial` (blocks of 32 x 32), in passes of kDepth rows.
void multiply(const Job& w, i64 from, i64 to, bf16* left, bf16* right, float* partial, float* sums) {
  constexpr i64 steps = kDepth / 32;
  for (i64 k = from; k < to; k += kDepth) {
    const i64 used = (std::min(kDepth, to - k) + 31) / 32;
    for (i64 s = 0; s < used; ++s)
      for (i64 j = 0; j < w.qp; ++j)
        pack_right(w.b + (k + 32 * s) * w.b_stride + 32 * j, w.b_stride, std::min<i64>(32, to - k - 32 * s),
                   w.q - 32 * j, right + (j * steps + s) * 1024, w.sum_b ? sums + 32 * j : nullptr);
    for (i64 group = 0; group < w.pp; group += kGroup) {
      const i64 end = std::min(w.pp, group + kGroup);
      for (i64 s = 0; s < used; ++s)
        for (i64 i = group; i < end; ++i)
          pack_left(w.a + (k + 32 * s) * w.a_stride + 32 * i, w.a_stride, std::min<i64>(32, to - k - 32 * s),
                    w.p - 32 * i, left + ((i - group) * steps + s) * 1024, w.sum_a ? sums + 32 * i : nullptr);
      for (i64 i = group; i < end; ++i)
        for (i64 j = 0; j < w.qp; ++j) {
          float* block = partial + (i * w.qp + j) * 1024;
          const bf16 *l = left + (i - group) * steps * 1024, *r = right + j * steps * 1024;
          if (k > from) tiles_load(block, 32); else tiles_zero();
          for (i64 s = 0; s < used; ++s)
            tiles_step(l + s * 1024, l + s * 1024 + 512, 32, r + s * 1024, r + s * 1024 + 512);
          tiles_store(block, 32);
        }
    }
  }
}

// Sums the threads' blocks [from, to) and writes them to the result.
void finish(const Job& w, const float* partial, i64 size, i64 parts, i64 from, i64 to, float* c, bool transposed,
            bool add) {
  alignas(64) float total[1024];
  for (i64 at = from; at < to; ++at) {
    const float* block = partial + at * 1024;
    if (parts > 1) {
      for (i64 x = 0; x < 1024; x += 16) {
        __m512 v = _mm512_load_ps(block + x);
        for (i64 t = 1; t < parts; ++t) v = _mm512_add_ps(v, _mm512_load_ps(block + t * size + x));
        _mm512_store_ps(total + x, v);
      }
      block = total;
    }
    const i64 i = at / w.qp * 32, j = at % w.qp * 32;
    write_block(block, transposed ? c + j * w.p + i : c + i * w.q + j, transposed ? w.p : w.q,
                std::min<i64>(32, w.p - i), std::min<i64>(32, w.q - j), transposed, add);
  }
}

thread_local Scratch pack_scratch, part_scratch;
}  // namespace

// c is [p, q], or [q, p] when `transposed`. With `add` the result is added to c and the sums.
// sums: the column sums of a (`sum_side` 1) or of b (2), or none (0).
extern "C" void motley_weight_gradient(const bf16* a, i64 a_stride, i64 p, const bf16* b, i64 b_stride, i64 q, i64 n,
                                       float* c, float* sums, int sum_side, int transposed, int add, int threads) {
  const Job w{a, b, a_stride, b_stride, p, q, (p + 31) / 32, (q + 31) / 32, sum_side == 1, sum_side == 2};
  const i64 wanted = std::max<i64>(1, std::min<i64>(threads, n / 256));
  const i64 packed = (kGroup + w.qp) * 32 * kDepth, blocks = w.pp * w.qp, width = 32 * std::max(w.pp, w.qp);
  bf16* pack = pack_scratch.get<bf16>(packed * wanted);
  const i64 size = blocks * 1024 + width;
  float* partial = part_scratch.get<float>(size * wanted);
#pragma omp parallel num_threads(wanted)
  {
    const i64 me = omp_get_thread_num(), parts = omp_get_num_threads();  // OpenMP may give fewer
    float *mine = partial + me * size, *my_sums = mine + blocks * 1024;
    std::memset(my_sums, 0, width * sizeof(float));
    {
      TileScope tiles;
      multiply(w, n * me / parts, n * (me + 1) / parts, pack + me * packed, pack + me * packed + kGroup * 32 * kDepth,
               mine, my_sums);
    }
#pragma omp barrier
    finish(w, partial, size, parts, blocks * me / parts, blocks * (me + 1) / parts, c, transposed, add);
#pragma omp single
    for (i64 x = 0; sum_side && x < (sum_side == 1 ? p : q); ++x) {
      float total = add ? sums[x] : 0;
      for (i64 t = 0; t < parts; ++t) total += partial[t * size + blocks * 1024 + x];
      sums[x] = total;
    }
  }
}

extern "C" int motley_enable_amx() {
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
}
