// What the kernels of rows of logits have in common, in vectors of LANES: rows in and out of float32, sums, divergences.

// Numbers of float32 that start where a vector does.
struct Room {
  std::vector<float> numbers;
  float* aligned;

  explicit Room(int64_t count) : numbers(static_cast<size_t>(count + LANES)) {
    const uintptr_t off = reinterpret_cast<uintptr_t>(numbers.data()) / sizeof(float) % LANES;
    aligned = numbers.data() + (LANES - off) % LANES;
  }
};

// A sum in two steps, so that the rounding of a long row does not add up where a vector is short.
struct Total {
  Floats recent = {}, before = {};
  int64_t count = 0;

  FASTKD_INLINE void add(const Floats& values) {
    recent += values;
    if (++count % 16 != 0) return;
    before += recent;
    recent = Floats{};
  }
  FASTKD_INLINE float whole() const { return sum(before + recent); }
};

FASTKD_INLINE Floats widened(const float* from, Type) { return load(from); }

FASTKD_INLINE Floats widened(const uint16_t* from, Type type) {
  const Bits bits = __builtin_convertvector(*reinterpret_cast<const Shorts*>(from), Bits);
  if (type == Type::BFLOAT16) return (Floats)(bits << 16);
  const Bits magnitude = (bits & 0x7FFFu) << 13, sign = (bits & 0x8000u) << 16;
  const Floats value = (Floats)magnitude * 5.192296858534828e33f;  // 2^112: the difference of the exponents' offsets
  const Bits special = (Bits)((Ints)magnitude >= 0x0F800000) & 0x7F800000u;  // infinite, or no number
  return (Floats)((Bits)value | special | sign);
}

template <typename T>
FASTKD_INLINE void widen_of(float* to, const Matrix& from, int64_t row, int64_t classes) {
  const T* source = static_cast<const T*>(from.data) + row * from.row_stride;
  int64_t k = 0;
  if (from.column_stride == 1)
    for (; k + LANES <= classes; k += LANES) store(to + k, widened(source + k, from.type));
  for (; k < classes; k += LANES) {
    T rest[LANES] = {};
    const int64_t count = classes - k < LANES ? classes - k : LANES;
    for (int64_t i = 0; i < count; ++i) rest[i] = source[(k + i) * from.column_stride];
    store(to + k, widened(rest, from.type));
    for (int64_t i = count; i < LANES; ++i) to[k + i] = -INFINITY;
  }
}

// A row in float32, -inf behind its last class up to a whole vector.
FASTKD_INLINE void widen(float* to, const Matrix& from, int64_t row, int64_t classes) {
  if (from.type == Type::FLOAT32)
    widen_of<float>(to, from, row, classes);
  else
    widen_of<uint16_t>(to, from, row, classes);
}

// To the nearest, ties to even; NaN stays NaN.
FASTKD_INLINE Shorts narrowed(const Floats& values) {
  const Bits bits = (Bits)values, even = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const Bits rounded = values != values ? Bits{} + 0x7FC00000u : even;
  return __builtin_convertvector(rounded >> 16, Shorts);
}

// The same in float16. What has no exponent there is rounded by the addition of 0.5, whose last digit is its.
FASTKD_INLINE Shorts narrowed_to_half(const Floats& values) {
  const Bits bits = (Bits)values, sign = bits & 0x80000000u, magnitude = bits ^ sign;
  const Bits even = magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1u);
  const Bits denormal = (Bits)((Floats)magnitude + 0.5f) - 0x3F000000u;
  const Bits finite = (Ints)magnitude < 0x38800000 ? denormal : even >> 13;
  const Bits special = (Ints)magnitude > 0x7F800000 ? Bits{} + 0x7E00u : Bits{} + 0x7C00u;
  const Bits half = (Ints)magnitude >= 0x47800000 ? special : finite;
  return __builtin_convertvector(half | (sign >> 16), Shorts);
}

FASTKD_INLINE void put(float* to, const Floats& values, Type) { store(to, values); }

FASTKD_INLINE void put(uint16_t* to, const Floats& values, Type type) {
  *reinterpret_cast<Shorts*>(to) = type == Type::FLOAT16 ? narrowed_to_half(values) : narrowed(values);
}

template <typename T>
FASTKD_INLINE void narrow_of(const Target& to, int64_t row, const float* from, int64_t classes) {
  T* target = static_cast<T*>(to.data) + row * to.row_stride;
  int64_t k = 0;
  if (to.column_stride == 1)
    for (; k + LANES <= classes; k += LANES) put(target + k, load(from + k), to.type);
  for (; k < classes; k += LANES) {
    T rest[LANES];
    put(rest, load(from + k), to.type);
    for (int64_t i = 0; i < LANES && k + i < classes; ++i) target[(k + i) * to.column_stride] = rest[i];
  }
}

// Writes a row; whole vectors are read.
FASTKD_INLINE void narrow(const Target& to, int64_t row, const float* from, int64_t classes) {
  if (to.type == Type::FLOAT32)
    narrow_of<float>(to, row, from, classes);
  else
    narrow_of<uint16_t>(to, row, from, classes);
}

// log(p / m) and log(q / m) where m = β p + (1 - β) q.
struct OverMixture {
  Floats p, q;
};

// The same from d = log q - log p, finite where a probability is 0. With t the smaller of p/q and q/p no quotient is too
// great.
FASTKD_INLINE OverMixture over_mixture(const Floats& d, float beta) {
  const Floats least = all(-3.4028234663852886e38f), t = exponential(d > 0.0f ? -d : d);
  const Floats near = -logarithm(d > 0.0f ? (1.0f - beta) + beta * t : beta + (1.0f - beta) * t);
  return {greater(d > 0.0f ? near - d : near, least), greater(d > 0.0f ? near : near + d, least)};
}

constexpr float FAR = 4.0f;  // reference_parts.py has it

// e^u - 1 - u for |u| <= FAR: near 0 by its series, where the difference would lose its digits.
FASTKD_INLINE Floats beyond_linear(const Floats& u) {
  Floats series = all(1.0f);
  for (int power = 9; power > 2; --power) series = series * u * (1.0f / power) + 1.0f;
  const Exponential e = taken_apart(u);
  const Ints small = (Ints)(u < 0.5f) & (Ints)(u > -0.5f);
  return small ? u * u * 0.5f * series : e.rise * e.power + (e.power - 1.0f) - u;
}
