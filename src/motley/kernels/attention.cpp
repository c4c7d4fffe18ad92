// Causal attention, forward and backward, for one (batch, key head) at a time with AMX.
#include "attention_pack.h"

namespace {
// Turns one row of scores into probabilities times their sum; `valid` is the number of keys seen.
float softmax_row(const float* score, i64 valid, i64 columns, float scale, bf16* p, float* lse) {
  __m512 top = _mm512_set1_ps(-INFINITY);
  i64 at = 0;
  for (; at + 16 <= valid; at += 16) top = _mm512_max_ps(top, _mm512_load_ps(score + at));
  top = _mm512_mask_max_ps(top, mask16(valid - at), top, _mm512_load_ps(score + at));
  const float peak = _mm512_reduce_max_ps(top);
  const __m512 c = _mm512_set1_ps(scale * kLog2e), m = _mm512_set1_ps(peak * scale * kLog2e);
  __m512 sum = _mm512_setzero_ps();
  for (i64 j = 0; j < columns; j += 32) {
    __m512 a = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(score + j), c, m));
    __m512 b = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(score + j + 16), c, m));
    if (j + 32 > valid) {
      a = _mm512_maskz_mov_ps(mask16(valid - j), a);
      b = _mm512_maskz_mov_ps(mask16(valid - j - 16), b);
    }
    sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
    _mm512_store_si512(p + j, narrow2(a, b));
  }
  const float total = _mm512_reduce_add_ps(sum);
  *lse = peak * scale + std::log(total);
  return 1.f / total;
}

void forward_head(const Shape& s, const bf16* q, const bf16* k_packed, const bf16* v_packed, float* score, bf16* prob,
                  float* sum_out, bf16* out, i64 out_row, float* lse) {
  const i64 ss = s.t + 16, ps = s.t + 32, chunks = s.d / 32;
  for (i64 q0 = 0; q0 < s.t; q0 += 32) {
    const i64 keys = q0 + 32;
    for (i64 k = 0; k < keys; k += 32) {
      const bf16* b = k_packed + k / 16 * chunks * 512;
      tiles_zero();
      for (i64 j = 0; j < chunks; ++j)
        tiles_step(q + q0 * s.d + 32 * j, q + (q0 + 16) * s.d + 32 * j, s.d, b + j * 512, b + (chunks + j) * 512);
      tiles_store(score + k, ss);
    }
    float factor[32];
    for (i64 i = 0; i < 32; ++i) {
      float row_lse;
      factor[i] = softmax_row(score + i * ss, q0 + i + 1, keys, s.scale, prob + i * ps, &row_lse);
      if (q0 + i < s.seq) lse[q0 + i] = row_lse;
    }
    for (i64 j = 0; j < chunks; ++j) {
      tiles_zero();
      for (i64 k = 0; k < keys; k += 32) {
        const bf16* b = v_packed + (k / 32 * chunks + j) * 1024;
        tiles_step(prob + k, prob + 16 * ps + k, ps, b, b + 512);
      }
      tiles_store(sum_out + 32 * j, s.d);
    }
    for (i64 i = 0; i < std::min<i64>(32, s.seq - q0); ++i)
      for (i64 j = 0; j < s.width; j += 16)
        store(out + (q0 + i) * out_row + j, mask16(s.width - j),
              _mm512_mul_ps(_mm512_load_ps(sum_out + i * s.d + j), _mm512_set1_ps(factor[i])));
  }
}

// What the backward pass of one query head keeps; see backward_head.
struct Work {
  bf16 *q, *k, *v, *g, *q_cols, *g_cols, *q_rows, *g_rows, *k_left, *temp, *prob, *slope, *slope_tiles;
  float *score, *gain, *lse, *delta, *dq, *dk, *dv;
};

constexpr i64 kQueries = 128;          // queries whose float scores exist at one time (L1 cache)
constexpr i64 kStrip = kQueries + 16;  // their row length
constexpr i64 kSuper = 256;            // keys whose score gradients are kept to form the query gradient

Work layout(const Shape& s, Scratch& scratch) {
  const size_t n = s.t * s.d, strip = 32 * (s.t + 32);
  Arena a{scratch.get<char>(n * 40 + strip * 8 + kStrip * 256 + s.t * kSuper * 2 + s.t * 16 + 65536)};
  Work w;
  for (bf16** p : {&w.q, &w.k, &w.v, &w.g, &w.q_cols, &w.g_cols, &w.q_rows, &w.g_rows, &w.k_left, &w.temp})
    *p = a.take<bf16>(n);
  w.prob = a.take<bf16>(strip), w.slope = a.take<bf16>(strip), w.slope_tiles = a.take<bf16>(s.t * kSuper);
  w.score = a.take<float>(32 * kStrip), w.gain = a.take<float>(32 * kStrip);
  w.lse = a.take<float>(s.t), w.delta = a.take<float>(s.t);
  w.dq = a.take<float>((s.t + 16) * s.d), w.dk = a.take<float>(n), w.dv = a.take<float>(n);
  return w;
}

// From the scores of 32 keys x queries [from, to): probabilities and score gradients, both as left
// tiles, and the gradients as right tiles of depth 32.
void score_gradients(const Shape& s, const Work& w, i64 k0, i64 from, i64 to, bf16* tiles) {
  const i64 ps = s.t + 32;
  const __m512i z0 = zip_index(0), z1 = zip_index(1);
  const __m512 c = _mm512_set1_ps(s.scale * kLog2e), scale = _mm512_set1_ps(s.scale);
  for (i64 i = 0; i < 32; i += 2)
    for (i64 q = from; q < to; q += 32) {
      const __m512 l0 = _mm512_load_ps(w.lse + q), l1 = _mm512_load_ps(w.lse + q + 16);
      const __m512 d0 = _mm512_load_ps(w.delta + q), d1 = _mm512_load_ps(w.delta + q + 16);
      __m512i ds[2];
      for (int r = 0; r < 2; ++r) {
        const float *x = w.score + (i + r) * kStrip + q - from, *g = w.gain + (i + r) * kStrip + q - from;
        __m512 p0 = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(x), c, l0));
        __m512 p1 = exp2_ps(_mm512_fmsub_ps(_mm512_load_ps(x + 16), c, l1));
        if (q == k0) {  // a query sees the keys up to its own place
          p0 = _mm512_maskz_mov_ps((__mmask16)~mask16(i + r), p0);
          p1 = _mm512_maskz_mov_ps((__mmask16)~mask16(i + r - 16), p1);
        }
        __m512 g0 = _mm512_mul_ps(_mm512_mul_ps(p0, scale), _mm512_sub_ps(_mm512_load_ps(g), d0));
        __m512 g1 = _mm512_mul_ps(_mm512_mul_ps(p1, scale), _mm512_sub_ps(_mm512_load_ps(g + 16), d1));
        ds[r] = narrow2(g0, g1);
        _mm512_store_si512(w.prob + (i + r) * ps + q, narrow2(p0, p1));
        _mm512_store_si512(w.slope + (i + r) * ps + q, ds[r]);
      }
      bf16* to = tiles + q / 16 * 512 + i * 16;
      _mm512_store_si512(to, _mm512_permutex2var_epi16(ds[0], z0, ds[1]));
      _mm512_store_si512(to + 512, _mm512_permutex2var_epi16(ds[0], z1, ds[1]));
    }
}

// out[32 keys, d] (+)= left[32, queries k0..t) times the packed rows.
void key_product(const Shape& s, const bf16* left, const bf16* rows, i64 k0, float* out, bool add) {
  const i64 ps = s.t + 32, chunks = s.d / 32;
  for (i64 j = 0; j < chunks; ++j) {
    if (add) tiles_load(out + 32 * j, s.d); else tiles_zero();
    for (i64 q = k0; q < s.t; q += 32) {
      const bf16* b = rows + (q / 32 * chunks + j) * 1024;
      tiles_step(left + q, left + 16 * ps + q, ps, b, b + 512);
    }
    tiles_store(out + 32 * j, s.d);
  }
}

// Scores of 32 keys and 32 queries.
void key_scores(const Shape& s, const bf16* keys, const bf16* query_tiles, i64 q, float* out) {
  const i64 chunks = s.d / 32;
  const bf16* b = query_tiles + q / 16 * chunks * 512;
  tiles_zero();
  for (i64 j = 0; j < chunks; ++j)
    tiles_step(keys + 32 * j, keys + 16 * s.d + 32 * j, s.d, b + j * 512, b + (chunks + j) * 512);
  tiles_store(out, kStrip);
}

// One query head: adds to w.dk and w.dv, sets w.dq (transposed, [d, t + 16]).
void backward_head(const Shape& s, const Work& w, bool add) {
  const i64 ss = s.t + 16, chunks = s.d / 32, blocks = s.t / 32;
  for (i64 sup = 0; sup < s.t; sup += kSuper) {
    const i64 sup_end = std::min(s.t, sup + kSuper);
    for (i64 k0 = sup; k0 < sup_end; k0 += 32) {
      for (i64 from = k0; from < s.t; from += kQueries) {
        const i64 to = std::min(s.t, from + kQueries);
        for (i64 q = from; q < to; q += 32) {
          key_scores(s, w.k + k0 * s.d, w.q_cols, q, w.score + q - from);
          key_scores(s, w.v + k0 * s.d, w.g_cols, q, w.gain + q - from);
        }
        score_gradients(s, w, k0, from, to, w.slope_tiles + (k0 - sup) / 32 * (s.t / 16) * 512);
      }
      key_product(s, w.prob, w.g_rows, k0, w.dv + k0 * s.d, add);
      key_product(s, w.slope, w.q_rows, k0, w.dk + k0 * s.d, add);
    }
    for (i64 q = sup; q < s.t; q += 32)
      for (i64 j = 0; j < chunks; ++j) {
        float* out = w.dq + 32 * j * ss + q;
        if (sup) tiles_load(out, ss); else tiles_zero();
        for (i64 k0 = sup; k0 < std::min(sup_end, q + 32); k0 += 32) {
          const bf16* a = w.k_left + (2 * j * blocks + k0 / 32) * 512;
          const bf16* b = w.slope_tiles + ((k0 - sup) / 32 * (s.t / 16) + q / 16) * 512;
          tiles_step(a, a + blocks * 512, 32, b, b + 512);
        }
        tiles_store(out, ss);
      }
  }
}

// delta = sum of gradient times output for each query; lse in base 2, infinite for padding.
void prepare_rows(const Shape& s, const Work& w, const bf16* out, i64 out_row, const float* lse) {
  for (i64 i = 0; i < s.t; ++i) {
    __m512 sum = _mm512_setzero_ps();
    for (i64 j = 0; i < s.seq && j < s.width; j += 16)
      sum = _mm512_fmadd_ps(load(out + i * out_row + j, mask16(s.width - j)), load(w.g + i * s.d + j, 0xffff), sum);
    w.delta[i] = _mm512_reduce_add_ps(sum);
    w.lse[i] = i < s.seq ? lse[i] * kLog2e : INFINITY;
  }
}

void write_rows(const Shape& s, const float* from, bf16* to, i64 stride) {
  for (i64 i = 0; i < s.seq; ++i)
    for (i64 j = 0; j < s.width; j += 16)
      store(to + i * stride + j, mask16(s.width - j), _mm512_load_ps(from + i * s.d + j));
}

void write_transposed(const Shape& s, const float* from, bf16* to, i64 stride) {
  for (i64 i = 0; i < s.seq; i += 16)
    for (i64 j = 0; j < s.width; j += 16) {
      __m512i r[16];
      for (int k = 0; k < 16; ++k) r[k] = _mm512_load_si512(from + (j + k) * (s.t + 16) + i);
      transpose16(r);
      for (i64 k = 0; k < std::min<i64>(16, s.seq - i); ++k)
        store(to + (i + k) * stride + j, mask16(s.width - j), _mm512_castsi512_ps(r[k]));
    }
}

Shape make_shape(const i64* n, float scale) {
  return {n[0], n[1], n[2], n[3], n[4], round_up(n[3], 32), round_up(n[4], 32), scale};
}
View make_view(void* const* p, const i64* strides, int i) {
  return {static_cast<bf16*>(p[i]), strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]};
}
thread_local Scratch scratch;
}  // namespace

// sizes: batch, heads, kv_heads, seq, width. tensors: q, k, v, out, each with batch, head and row stride.
extern "C" void motley_attention_forward(const i64* sizes, float scale, void* const* tensors, const i64* strides,
                                         float* lse, int threads) {
  const Shape s = make_shape(sizes, scale);
  const View q = make_view(tensors, strides, 0), k = make_view(tensors, strides, 1), v = make_view(tensors, strides, 2),
             out = make_view(tensors, strides, 3);
  const i64 group = s.heads / s.kv_heads;
#pragma omp parallel num_threads(threads)
  {
    TileScope tiles;
    const size_t n = s.t * s.d;
    Arena a{scratch.get<char>(n * 8 + 32 * (s.t + 32) * 6 + 128 * s.d + 65536)};
    bf16 *dense = a.take<bf16>(n), *k_packed = a.take<bf16>(n), *v_packed = a.take<bf16>(n);
    bf16* prob = a.take<bf16>(32 * (s.t + 32));
    float *score = a.take<float>(32 * (s.t + 16)), *sums = a.take<float>(32 * s.d);
#pragma omp for schedule(dynamic)
    for (i64 job = 0; job < s.batch * s.kv_heads; ++job) {
      const i64 b = job / s.kv_heads, kh = job % s.kv_heads;
      copy_in(s, k.at(b, kh), k.row, dense);
      pack_transposed(s, dense, k_packed);
      copy_in(s, v.at(b, kh), v.row, dense);
      pack_rows(s, dense, v_packed);
      for (i64 h = kh * group; h < (kh + 1) * group; ++h) {
        copy_in(s, q.at(b, h), q.row, dense);
        forward_head(s, dense, k_packed, v_packed, score, prob, sums, out.at(b, h), out.row,
                     lse + (b * s.heads + h) * s.seq);
      }
    }
  }
}

// tensors: q, k, v, out, gradient of out, then the gradients of q, k and v to write.
extern "C" void motley_attention_backward(const i64* sizes, float scale, void* const* tensors, const i64* strides,
                                          const float* lse, int threads) {
  const Shape s = make_shape(sizes, scale);
  View x[8];
  for (int i = 0; i < 8; ++i) x[i] = make_view(tensors, strides, i);
  const i64 group = s.heads / s.kv_heads;
#pragma omp parallel num_threads(threads)
  {
    TileScope tiles;
    const Work w = layout(s, scratch);
#pragma omp for schedule(dynamic)
    for (i64 job = 0; job < s.batch * s.kv_heads; ++job) {
      const i64 b = job / s.kv_heads, kh = job % s.kv_heads;
      copy_in(s, x[1].at(b, kh), x[1].row, w.k);
      pack_transposed(s, w.k, w.temp);
      pack_left_transposed(s, w.temp, w.k_left);
      copy_in(s, x[2].at(b, kh), x[2].row, w.v);
      for (i64 h = kh * group; h < (kh + 1) * group; ++h) {
        copy_in(s, x[0].at(b, h), x[0].row, w.q);
        copy_in(s, x[4].at(b, h), x[4].row, w.g);
        pack_transposed(s, w.q, w.q_cols);
        pack_transposed(s, w.g, w.g_cols);
        pack_rows(s, w.q, w.q_rows);
        pack_rows(s, w.g, w.g_rows);
        prepare_rows(s, w, x[3].at(b, h), x[3].row, lse + (b * s.heads + h) * s.seq);
        backward_head(s, w, h > kh * group);
        write_transposed(s, w.dq, x[5].at(b, h), x[5].row);
      }
      write_rows(s, w.dk, x[6].at(b, kh), x[6].row);
      write_rows(s, w.dv, x[7].at(b, kh), x[7].row);
    }
  }
}
