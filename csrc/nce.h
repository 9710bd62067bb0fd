// One score's part of the NCE loss, and its derivative.
//
// With P = exp(score / T) / Z, c = negatives / rows and a = c + 1e-7,
//   positive: -log(P / (P + a)),  d/dscore = -a / (P + a) / T
//   negative: -log(c / (P + a)),  d/dscore =  P / (P + a) / T
// both still to be divided by the batch. P is small against c at first (1 / rows against negatives / rows): the
// logarithm is taken of 1 + t, with t = (P + 1e-7) / c, so that float32 loses nothing over thousands of terms.
#pragma once

#include "portable.h"

namespace fastkd {

constexpr float NCE_EPS = 1e-7f;
constexpr float SMALLEST_NORM = 1e-12f;  // an embedding is divided by no less
constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

// 2^x, right to 1e-7 of the result; on a CPU x is clamped to ±126.
FASTKD_INLINE float two_to(float x) {
#ifdef __CUDA_ARCH__
  return exp2f(x);
#else
  x = x < -126.0f ? -126.0f : x;
  x = x > 126.0f ? 126.0f : x;
  const float shifted = x + 12582912.0f;  // 1.5 2^23: the whole part ends up in the lowest bits
  const float fraction = x - (shifted - 12582912.0f);
  float power = 1.52527338e-5f;  // ln(2)^7 / 7!
  power = power * fraction + 1.54035304e-4f;
  power = power * fraction + 1.33335581e-3f;
  power = power * fraction + 9.61812911e-3f;
  power = power * fraction + 5.55041087e-2f;
  power = power * fraction + 2.40226507e-1f;
  power = power * fraction + 6.93147181e-1f;
  power = power * fraction + 1.0f;
  return float_of(bits_of(power) + (bits_of(shifted) << 23));
#endif
}

FASTKD_INLINE float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

// log(1 + t) for t >= 0, right to 1e-7 of the result also if t is small.
FASTKD_INLINE float log_one_plus(float t) {
  const float u = 1.0f + t;
  // u = 2^e m, with m from sqrt(1/2) to sqrt(2)
  const uint32_t lifted = bits_of(u) + (0x3F800000u - 0x3F3504F3u);
  const int32_t e = static_cast<int32_t>(lifted >> 23) - 127;
  const float m = float_of((lifted & 0x007FFFFFu) + 0x3F3504F3u);
  const float f = e == 0 ? t : m - 1.0f;
  const float s = quotient(f, 2.0f + f), s2 = s * s;
  const float series = 2.0f + s2 * (0.666666667f + s2 * (0.4f + s2 * (0.285714286f + s2 * 0.222222222f)));
  return static_cast<float>(e) * LN_2 + s * series;
}

struct Nce {
  float to_power;        // log2(e) / T
  float inverse_z;
  float inverse_c;       // rows / negatives
  float positive_slope;  // a / c
  float log_zc;          // log(Z c)
  float slope;           // 1 / (T batch), on every derivative

  FASTKD_INLINE Nce(float temperature, float z, int64_t negatives, int64_t rows, int64_t batch)
      : to_power(LOG2_E / temperature),
        inverse_z(1.0f / z),
        inverse_c(static_cast<float>(rows) / static_cast<float>(negatives)),
        positive_slope(1.0f + NCE_EPS * inverse_c),
        log_zc(logf(z / inverse_c)),
        slope(1.0f / (temperature * static_cast<float>(batch))) {}

  // exp(score / T), before Z.
  FASTKD_INLINE float power(float score) const { return two_to(score * to_power); }

  FASTKD_INLINE float share(float score) const { return power(score) * inverse_z; }

  FASTKD_INLINE float negative(float score, float& derivative) const {
    const float p = share(score), t = (p + NCE_EPS) * inverse_c;
    derivative = slope * quotient(p * inverse_c, 1.0f + t);
    return log_one_plus(t);
  }

  FASTKD_INLINE float positive(float score, float& derivative) const {
    const float p = share(score), t = (p + NCE_EPS) * inverse_c;
    derivative = -slope * quotient(positive_slope, 1.0f + t);
    return log_one_plus(t) + log_zc - score * to_power * LN_2;
  }
};

}  // namespace fastkd
