// linf_step for floats with AVX-512, whose additions can round down or up: the ball's edges then take one
// instruction each.

template <>
inline void linf_step<float>(float* out, const float* x_adv, const float* grad, const float* x, int64_t from,
                             int64_t to, double radius, double step, Box box) {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC,
                kUp = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
  const __m512 reach = _mm512_set1_ps(rounded_down(radius)),
               stride = _mm512_set1_ps(static_cast<float>(step)), zero = _mm512_setzero_ps();
  const __m512 lo = _mm512_set1_ps(static_cast<float>(box.lo)),
               hi = _mm512_set1_ps(static_cast<float>(box.hi));
  for (int64_t i = from; i < to; i += 16) {
    const __mmask16 some = to - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (to - i)) - 1);
    const __m512 center = _mm512_maskz_loadu_ps(some, x + i), slope = _mm512_maskz_loadu_ps(some, grad + i);
    __m512 moved = _mm512_maskz_loadu_ps(some, x_adv + i);
    moved = _mm512_mask_add_ps(moved, _mm512_cmp_ps_mask(slope, zero, _CMP_GT_OQ), moved, stride);
    moved = _mm512_mask_sub_ps(moved, _mm512_cmp_ps_mask(slope, zero, _CMP_LT_OQ), moved, stride);
    // max and min give their second argument for a NaN, which so stays
    moved = _mm512_max_ps(_mm512_max_ps(_mm512_sub_round_ps(center, reach, kUp), lo), moved);
    moved = _mm512_min_ps(_mm512_min_ps(_mm512_add_round_ps(center, reach, kDown), hi), moved);
    _mm512_mask_storeu_ps(out + i, some, moved);
  }
}
