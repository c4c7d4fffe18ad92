// Fused element-wise passes: GELU, residual addition with layer normalisation, softmax cross-entropy.
#include "vec.h"

namespace {
// GELU (tanh form) is x * s with s = sigmoid(2 c (x + a x^3)).
constexpr float kC = 2.f * 0.7978845608028654f * kLog2e, kA = 0.044715f;

inline __m512 gelu_gate(__m512 x, __m512 x2) {
  __m512 inner = _mm512_fmadd_ps(x2, _mm512_set1_ps(-kC * kA), _mm512_set1_ps(-kC));
  __m512 e = exp2_ps(_mm512_min_ps(_mm512_mul_ps(inner, x), _mm512_set1_ps(126.f)));
  return reciprocal(_mm512_add_ps(e, _mm512_set1_ps(1.f)));
}
inline __m512 gelu(__m512 x) { return _mm512_mul_ps(x, gelu_gate(x, _mm512_mul_ps(x, x))); }
inline __m512 gelu_slope(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.f), x2 = _mm512_mul_ps(x, x), s = gelu_gate(x, x2);
  const float c = 2.f * 0.7978845608028654f;
  __m512 inner = _mm512_mul_ps(x, _mm512_fmadd_ps(x2, _mm512_set1_ps(3 * c * kA), _mm512_set1_ps(c)));
  return _mm512_mul_ps(s, _mm512_fmadd_ps(inner, _mm512_sub_ps(one, s), one));
}

inline float sum(__m512 v) { return _mm512_reduce_add_ps(v); }

template <class R>
void norm_forward(const R* x, const bf16* delta, const float* weight, const float* bias, R* total, bf16* y,
                  float* stats, i64 width, float eps, float* row) {
  __m512 s = _mm512_setzero_ps();
  for (i64 j = 0; j < width; j += 16) {
    const __mmask16 m = mask16(width - j);
    __m512 v = load(x + j, m);
    if (delta) {
      v = _mm512_add_ps(v, load(delta + j, m));
      if (sizeof(R) == 2) v = _mm512_maskz_mov_ps(m, widen(narrow(v)));  // normalise what is stored
      store(total + j, m, v);
    }
    _mm512_store_ps(row + j, v);
    s = _mm512_add_ps(s, v);
  }
  const float mean = sum(s) / width;
  s = _mm512_setzero_ps();
  for (i64 j = 0; j < width; j += 16) {
    __m512 v = _mm512_maskz_sub_ps(mask16(width - j), _mm512_load_ps(row + j), _mm512_set1_ps(mean));
    s = _mm512_fmadd_ps(v, v, s);
  }
  const float rstd = 1.f / std::sqrt(sum(s) / width + eps);
  stats[0] = mean, stats[1] = rstd;
  for (i64 j = 0; j < width; j += 16) {
    const __mmask16 m = mask16(width - j);
    __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(row + j), _mm512_set1_ps(mean)), _mm512_set1_ps(rstd));
    store(y + j, m, _mm512_fmadd_ps(v, load(weight + j, m), load(bias + j, m)));
  }
}

// dx = (gradient of the sum, if any) + gradient through the normalisation; adds to dw and db.
template <class R>
void norm_backward(const R* x, const float* stats, const float* weight, const bf16* dy, const R* carried, R* dx,
                   bf16* dx_half, float* dw, float* db, i64 width) {
  const __m512 mean = _mm512_set1_ps(stats[0]), rstd = _mm512_set1_ps(stats[1]);
  __m512 s1 = _mm512_setzero_ps(), s2 = s1;
  for (i64 j = 0; j < width; j += 16) {
    const __mmask16 m = mask16(width - j);
    const __m512 g = load(dy + j, m), xhat = _mm512_mul_ps(_mm512_sub_ps(load(x + j, m), mean), rstd);
    const __m512 gw = _mm512_mul_ps(g, load(weight + j, m));
    s1 = _mm512_add_ps(s1, gw);
    s2 = _mm512_fmadd_ps(gw, xhat, s2);
    store(dw + j, m, _mm512_fmadd_ps(g, xhat, load(dw + j, m)));
    store(db + j, m, _mm512_add_ps(g, load(db + j, m)));
  }
  const __m512 a = _mm512_set1_ps(sum(s1) / width), b = _mm512_set1_ps(sum(s2) / width);
  for (i64 j = 0; j < width; j += 16) {
    const __mmask16 m = mask16(width - j);
    const __m512 xhat = _mm512_mul_ps(_mm512_sub_ps(load(x + j, m), mean), rstd);
    __m512 v = _mm512_sub_ps(_mm512_mul_ps(load(dy + j, m), load(weight + j, m)), _mm512_fmadd_ps(xhat, b, a));
    v = _mm512_mul_ps(v, rstd);
    if (carried) v = _mm512_add_ps(v, load(carried + j, m));
    store(dx + j, m, v);
    if (dx_half) store(dx_half + j, m, v);
  }
}

template <class R>
void norm_forward_all(const R* x, const bf16* delta, const float* weight, const float* bias, R* total, bf16* y,
                      float* stats, i64 rows, i64 width, float eps, int threads) {
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch scratch;
    float* row = scratch.get<float>(width + 16);
#pragma omp for schedule(static)
    for (i64 i = 0; i < rows; ++i) {
      const i64 next = (i + 3) * width;
      fetch_row(x + next, width);
      if (delta) fetch_row(delta + next, width), fetch_row_to_write(total + next, width);
      fetch_row_to_write(y + next, width);
      norm_forward<R>(x + i * width, delta ? delta + i * width : nullptr, weight, bias,
                      total ? total + i * width : nullptr, y + i * width, stats + 2 * i, width, eps, row);
    }
  }
}

template <class R>
void norm_backward_all(const R* x, const float* stats, const float* weight, const bf16* dy, const R* carried, R* dx,
                       bf16* dx_half, float* dw, float* db, i64 rows, i64 width, int threads) {
  static thread_local Scratch scratch;
  const i64 size = round_up(2 * width, 16);
  float* sums = scratch.get<float>(size * threads);
  i64 parts = 1;
#pragma omp parallel num_threads(threads)
  {
    float* mine = sums + size * omp_get_thread_num();
    std::memset(mine, 0, size * sizeof(float));
#pragma omp single nowait
    parts = omp_get_num_threads();
#pragma omp for schedule(static)
    for (i64 i = 0; i < rows; ++i) {
      const i64 next = (i + 3) * width;
      fetch_row(x + next, width), fetch_row(dy + next, width), fetch_row_to_write(dx + next, width);
      if (carried) fetch_row(carried + next, width);
      if (dx_half) fetch_row_to_write(dx_half + next, width);
      norm_backward<R>(x + i * width, stats + 2 * i, weight, dy + i * width, carried ? carried + i * width : nullptr,
                       dx + i * width, dx_half ? dx_half + i * width : nullptr, mine, mine + width, width);
    }
  }
  for (i64 j = 0; j < width; ++j) {  // in the threads' order, so that the result does not depend on timing
    dw[j] = db[j] = 0;
    for (i64 t = 0; t < parts; ++t) dw[j] += sums[t * size + j], db[j] += sums[t * size + width + j];
  }
}

// Replaces one row of logits by its gradient times `factor`; returns the row's loss.
float cross_entropy_row(bf16* logits, i64 target, i64 width, float factor, float* row) {
  __m512 top = _mm512_set1_ps(-INFINITY);
  for (i64 j = 0; j < width; j += 16) {
    const __mmask16 m = mask16(width - j);
    top = _mm512_mask_max_ps(top, m, top, load(logits + j, m));
  }
  const float peak = _mm512_reduce_max_ps(top), c = kLog2e;
  const __m512 vc = _mm512_set1_ps(c), vm = _mm512_set1_ps(peak * c);
  __m512 s = _mm512_setzero_ps();
  for (i64 j = 0; j < width; j += 16) {
    const __mmask16 m = mask16(width - j);
    const __m512 e = _mm512_maskz_mov_ps(m, exp2_ps(_mm512_fmsub_ps(load(logits + j, m), vc, vm)));
    _mm512_store_ps(row + j, e);
    s = _mm512_add_ps(s, e);
  }
  const float total = sum(s), goal = _mm512_cvtss_f32(load(logits + target, 1));
  const __m512 f = _mm512_set1_ps(factor / total);
  for (i64 j = 0; j < width; j += 16)
    store(logits + j, mask16(width - j), _mm512_mul_ps(f, _mm512_load_ps(row + j)));
  store(logits + target, 1, _mm512_set1_ps(factor * (row[target] / total - 1.f)));
  return std::log(total) + peak - goal;
}
}  // namespace

extern "C" void motley_gelu_forward(const bf16* x, bf16* y, i64 count, int threads) {
  const i64 whole = count / 32 * 32;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 i = 0; i < whole; i += 32) {
    fetch(x + i + kAhead);
    fetch_to_write(y + i + kAhead);
    _mm512_storeu_si512(y + i, narrow2(gelu(load(x + i, 0xffff)), gelu(load(x + i + 16, 0xffff))));
  }
  for (i64 i = whole; i < count; i += 16) store(y + i, mask16(count - i), gelu(load(x + i, mask16(count - i))));
}

extern "C" void motley_gelu_backward(const bf16* x, const bf16* dy, bf16* dx, i64 count, int threads) {
  const i64 whole = count / 32 * 32;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 i = 0; i < whole; i += 32) {
    fetch(x + i + kAhead);
    fetch(dy + i + kAhead);
    fetch_to_write(dx + i + kAhead);
    const __m512 a = _mm512_mul_ps(load(dy + i, 0xffff), gelu_slope(load(x + i, 0xffff)));
    const __m512 b = _mm512_mul_ps(load(dy + i + 16, 0xffff), gelu_slope(load(x + i + 16, 0xffff)));
    _mm512_storeu_si512(dx + i, narrow2(a, b));
  }
  for (i64 i = whole; i < count; i += 16) {
    const __mmask16 m = mask16(count - i);
    store(dx + i, m, _mm512_mul_ps(load(dy + i, m), gelu_slope(load(x + i, m))));
  }
}

// total = x + delta (delta and total may be null), y = layer norm of it. wide: x and total are float.
extern "C" void motley_norm_forward(int wide, const void* x, const bf16* delta, const float* weight, const float* bias,
                                    void* total, bf16* y, float* stats, i64 rows, i64 width, float eps, int threads) {
  if (wide)
    norm_forward_all<float>(static_cast<const float*>(x), delta, weight, bias, static_cast<float*>(total), y, stats,
                            rows, width, eps, threads);
  else
    norm_forward_all<bf16>(static_cast<const bf16*>(x), delta, weight, bias, static_cast<bf16*>(total), y, stats, rows,
                           width, eps, threads);
}

extern "C" void motley_norm_backward(int wide, const void* x, const float* stats, const float* weight, const bf16* dy,
                                     const void* carried, void* dx, bf16* dx_half, float* dw, float* db, i64 rows,
                                     i64 width, int threads) {
  if (wide)
    norm_backward_all<float>(static_cast<const float*>(x), stats, weight, dy, static_cast<const float*>(carried),
                             static_cast<float*>(dx), dx_half, dw, db, rows, width, threads);
  else
    norm_backward_all<bf16>(static_cast<const bf16*>(x), stats, weight, dy, static_cast<const bf16*>(carried),
                            static_cast<bf16*>(dx), dx_half, dw, db, rows, width, threads);
}

// Replaces logits [rows, width] by the gradient of factor * (summed loss); a negative target counts nothing.
extern "C" void motley_cross_entropy(bf16* logits, const i64* targets, float* losses, i64 rows, i64 width, float factor,
                                     int threads) {
#pragma omp parallel num_threads(threads)
  {
    static thread_local Scratch scratch;
    float* row = scratch.get<float>(width + 16);
#pragma omp for schedule(static)
    for (i64 i = 0; i < rows; ++i) {
      if (targets[i] < 0) {
        std::memset(logits + i * width, 0, width * sizeof(bf16));
        losses[i] = 0;
      } else {
        losses[i] = cross_entropy_row(logits + i * width, targets[i], width, factor, row);
      }
    }
  }
}
