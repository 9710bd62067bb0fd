// Vectors of LANES numbers; each_target.h includes this once for each instruction set.

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint64_t Wide __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

FASTKD_INLINE Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
FASTKD_INLINE void store(float* to, const Floats& values) { *reinterpret_cast<Floats*>(to) = values; }
FASTKD_INLINE Floats all(float value) { return Floats{} + value; }

FASTKD_INLINE Ints lanes() {
  Ints numbers = {};
  for (int64_t i = 0; i < LANES; ++i) numbers[i] = static_cast<int32_t>(i);
  return numbers;
}

// The 64-bit products of the lower halves of numbers of 64 bits.
FASTKD_INLINE Wide multiplied(const Wide& a, const Wide& b) {
#ifdef FASTKD_MULTIPLY
  return (Wide)FASTKD_MULTIPLY(a, b);  // else a compiler that does not know the instruction takes ten
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

// The upper halves of the products: maps random words to 0 … b-1.
FASTKD_INLINE Bits scaled_all(const Bits& a, uint32_t b) {
  const Wide words = (Wide)a, by = Wide{} + b;
  return (Bits)((multiplied(words, by) >> 32) | (multiplied(words >> 32, by) & 0xFFFFFFFF00000000u));
}

// The sum over the lanes, always in the same order.
FASTKD_INLINE float sum(const Floats& values) {
  float halves[LANES];
  store(halves, values);
  for (int64_t half = LANES / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) halves[i] += halves[half + i];
  return halves[0];
}

FASTKD_INLINE Floats greater(const Floats& a, const Floats& b) { return a > b ? a : b; }  // b where a is NaN

FASTKD_INLINE float greatest(const Floats& values) {
  float most = values[0];
  for (int64_t i = 1; i < LANES; ++i) most = values[i] > most ? values[i] : most;
  return most;
}

// exp(x) is power · (1 + rise), with a power of two and a rise of at most 0.42; for |x| < 88.
struct Exponential {
  Floats power, rise;
};

FASTKD_INLINE Exponential taken_apart(const Floats& x) {
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 2^23: the whole part is in the lowest bits
  const Floats whole = shifted - 12582912.0f;
  const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts, the first one short
  Floats series = all(1.9875691500e-4f);
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  return {(Floats)(((Bits)shifted << 23) + 0x3F800000u), series * rest * rest + rest};
}

constexpr float LEAST = -87.336544f;  // ln(2^-126)

// exp(x) for x <= 0, right to one unit in the last place; 0 where a float would have fewer digits. NaN stays NaN.
FASTKD_INLINE Floats exponential(const Floats& x) {
  const Exponential e = taken_apart(x);
  return x < LEAST ? Floats{} : (e.rise + 1.0f) * e.power;
}

// The same for any x: infinite where the greatest float is near.
FASTKD_INLINE Floats any_exponential(const Floats& x) { return x > 88.0f ? all(INFINITY) : exponential(x); }

// exp(x) - 1 for x <= 0, with all of its digits near 0.
FASTKD_INLINE Floats exponential_minus_1(const Floats& x) {
  const Exponential e = taken_apart(x);
  return x < LEAST ? all(-1.0f) : e.rise * e.power + (e.power - 1.0f);
}

// The logarithm of a normal x > 0, right to one unit in the last place of it, or of 1 where that is greater.
FASTKD_INLINE Floats logarithm(const Floats& x) {
  const Floats half = (Floats)(((Bits)x & 0x007FFFFFu) | 0x3F000000u);  // 0.5 <= half < 1
  const Ints small = (Ints)(half < 0.70710678118654752f);
  const Floats whole = __builtin_convertvector((Ints)((Bits)x >> 23) - 126 + small, Floats);
  const Floats rest = (small ? half + half : half) - 1.0f, square = rest * rest;
  Floats series = all(7.0376836292e-2f);
  series = series * rest - 1.1514610310e-1f;
  series = series * rest + 1.1676998740e-1f;
  series = series * rest - 1.2420140846e-1f;
  series = series * rest + 1.4249322787e-1f;
  series = series * rest - 1.6668057665e-1f;
  series = series * rest + 2.0000714765e-1f;
  series = series * rest - 2.4999993993e-1f;
  series = series * rest + 3.3333331174e-1f;
  const Floats fine = series * rest * square - 2.12194440e-4f * whole - 0.5f * square;
  return rest + fine + 0.693359375f * whole;
}

// p (e^d - 1 - d) for q = p e^d: what each class adds to KL(p ‖ q) where both sum to 1, with all of its digits near
// d = 0. 0 where p and q are, and d is a number.
FASTKD_INLINE Floats kl_terms(const Floats& p, const Floats& q, const Floats& d) {
  Floats series = all(2.772283096e-6f);  // (e^d - 1 - d) / d², right to 1e-8 of it up to |d| = 1
  series = series * d + 2.535482963e-5f;
  series = series * d + 1.984402334e-4f;
  series = series * d + 1.388545148e-3f;
  series = series * d + 8.333310485e-3f;
  series = series * d + 4.166673496e-2f;
  series = series * d + 1.666666716e-1f;
  series = series * d + 0.5f;
  return d * d < 1.0f ? p * d * d * series : q - p - p * d;
}
