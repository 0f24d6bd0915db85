// linf_step for floats with AVX-512, whose additions can round down or up: each edge of the ball then takes
// one instruction.

inline __m512 load_some(__mmask16 some, const float* from) { return _mm512_maskz_loadu_ps(some, from); }
inline __m512 load_some(__mmask16 some, const bf16* from) {
  const __m512i bits = _mm512_maskz_cvtepu16_epi32(some, _mm256_maskz_loadu_epi16(some, from));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(some, bits, 16));
}

template <class G>
void linf_step_of_floats(float* out, const float* x_adv, const G* grad, const float* x, int64_t from,
                         int64_t to, double radius, double step_size, Box box) {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC,
                kUp = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
  // masked forms with every lane on: gcc 12 warns that the plain ones use an uninitialized value
  constexpr __mmask16 kAll = 0xFFFF;
  const __m512 limit = _mm512_set1_ps(rounded_down(radius)),
               step = _mm512_set1_ps(static_cast<float>(step_size)), zero = _mm512_setzero_ps(),
               infinity = _mm512_set1_ps(HUGE_VALF);
  const __m512 lo = _mm512_set1_ps(static_cast<float>(box.lo)),
               hi = _mm512_set1_ps(static_cast<float>(box.hi));
  for (int64_t i = from; i < to; i += 16) {
    const __mmask16 some = to - i >= 16 ? kAll : static_cast<__mmask16>((1u << (to - i)) - 1);
    const __m512 center = load_some(some, x + i), gradient = load_some(some, grad + i);
    __m512 moved = load_some(some, x_adv + i);
    const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(gradient), infinity, _CMP_LT_OQ);
    const __mmask16 up = _mm512_mask_cmp_ps_mask(finite, gradient, zero, _CMP_GT_OQ),
                    down = _mm512_mask_cmp_ps_mask(finite, gradient, zero, _CMP_LT_OQ);
    moved = _mm512_mask_add_ps(moved, up, moved, step);
    moved = _mm512_mask_sub_ps(moved, down, moved, step);
    const __m512 lower = _mm512_maskz_max_ps(kAll, _mm512_maskz_sub_round_ps(kAll, center, limit, kUp), lo);
    const __m512 upper = _mm512_maskz_min_ps(kAll, _mm512_maskz_add_round_ps(kAll, center, limit, kDown), hi);
    // max and min return their second argument where either is NaN, so a NaN stays
    moved = _mm512_maskz_min_ps(kAll, upper, _mm512_maskz_max_ps(kAll, lower, moved));
    _mm512_mask_storeu_ps(out + i, some, moved);
  }
}

template <>
inline void linf_step(float* out, const float* x_adv, const float* grad, const float* x, int64_t from,
                      int64_t to, double radius, double step_size, Box box) {
  linf_step_of_floats(out, x_adv, grad, x, from, to, radius, step_size, box);
}
template <>
inline void linf_step(float* out, const float* x_adv, const bf16* grad, const float* x, int64_t from,
                      int64_t to, double radius, double step_size, Box box) {
  linf_step_of_floats(out, x_adv, grad, x, from, to, radius, step_size, box);
}
