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

// exp(x) for x <= 0, right to one unit in the last place; 0 where a float would have fewer digits. NaN stays NaN.
FASTKD_INLINE Floats exponential(const Floats& x) {
  constexpr float LEAST = -87.336544f;  // ln(2^-126)
  const Floats shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 2^23: the whole part is in the lowest bits
  const Floats whole = shifted - 12582912.0f;
  const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts, the first one short
  Floats series = all(1.9875691500e-4f);
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  const Floats power = (Floats)(((Bits)shifted << 23) + 0x3F800000u);
  const Floats result = (series * rest * rest + rest + 1.0f) * power;
  return x < LEAST ? Floats{} : result;
}
