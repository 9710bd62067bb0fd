// The words of the table's expressions for one thread; tests/ptx/words.py says the same for arrays of them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

using u8 = uint8_t;
using s8 = int8_t;
using u16 = uint16_t;
using s16 = int16_t;
using u32 = uint32_t;
using s32 = int32_t;
using u64 = uint64_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

namespace words {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
constexpr int bits = 8 * sizeof(T);

template <class A, class B>
auto select(bool condition, A one, B other) {
  return condition ? one : other;
}
inline bool negated(bool a) { return !a; }
template <class T>
T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T greatest(T a, T b) {
  return a < b ? b : a;
}

template <class T>
T upper_product(T a, T b) {
  using Wide = std::conditional_t<sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                                  std::conditional_t<std::is_signed_v<T>, s64, u64>>;
  return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> bits<T>);
}
template <class T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return static_cast<T>(-a);  // of the least number, which has no opposite, the machine would trap
  return a / b;
}
template <class T>
T remainder(T a, T b) {
  return b == 0 ? a : static_cast<T>(a - quotient(a, b) * b);
}

template <class T>
u32 ones(T a) {
  return __builtin_popcountll(static_cast<Unsigned<T>>(a));
}
template <class T>
u32 leading_zeros(T a) {
  return a == 0 ? bits<T> : __builtin_clzll(static_cast<Unsigned<T>>(a)) - (64 - bits<T>);
}
template <class T>
T reversed_bits(T a) {
  Unsigned<T> found = 0;
  for (int i = 0; i < bits<T>; ++i) found |= (static_cast<Unsigned<T>>(a) >> i & 1) << (bits<T> - 1 - i);
  return found;
}
template <class T>
T shifted_left(T a, u32 b) {
  return b < u32(bits<T>) ? static_cast<T>(a << b) : 0;
}
template <class T>
T shifted_right(T a, u32 b) {
  if (b < u32(bits<T>)) return a >> b;
  return std::is_signed_v<T> ? a >> (bits<T> - 1) : 0;
}
template <class T>
T mask_of(u32 length) {
  return length >= u32(bits<T>) ? static_cast<T>(-1) : static_cast<T>((T{1} << length) - 1);
}
template <class T>
T extracted(T a, u32 position, u32 length) {
  using U = Unsigned<T>;
  position &= 255;
  length &= 255;
  U field = shifted_right<U>(a, position) & mask_of<U>(length);
  if constexpr (std::is_signed_v<T>) {
    const u32 last = least<u32>(position + length - (length == 0 ? 0 : 1), bits<T> - 1);
    if (length > 0 && (shifted_right<U>(a, last) & 1)) {
      const u32 left = position < u32(bits<T>) ? bits<T> - position : 0;
      field |= ~mask_of<U>(least(length, left));
    }
  }
  return field;
}
template <class T>
T inserted(T a, T b, u32 position, u32 length) {
  position &= 255;
  length &= 255;
  const T mask = shifted_left(mask_of<T>(length), position);
  return (b & ~mask) | (shifted_left(a, position) & mask);
}
inline u32 funnel(u32 a, u32 b, u32 shift, int left) {
  const u64 joined = u64{b} << 32 | a;
  return left ? static_cast<u32>((joined << shift) >> 32) : static_cast<u32>(joined >> shift);
}
inline u32 by_truth_table(u32 a, u32 b, u32 c, u32 table) {
  u32 found = 0;
  for (int place = 0; place < 8; ++place)
    if (table >> place & 1) found |= (place & 4 ? a : ~a) & (place & 2 ? b : ~b) & (place & 1 ? c : ~c);
  return found;
}
inline u32 bytes_chosen(u32 a, u32 b, u32 selector) {
  const u64 joined = u64{b} << 32 | a;
  u32 found = 0;
  for (int place = 0; place < 4; ++place) {
    const u32 choice = selector >> (4 * place) & 15;
    u32 byte = joined >> (8 * (choice & 7)) & 255;
    if (choice & 8) byte = byte & 128 ? 255 : 0;
    found |= byte << (8 * place);
  }
  return found;
}

template <class T>
bool unordered(T a, T b) {
  return a != a || b != b;
}
template <class T>
T lesser_number(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  return a < b ? a : b < a ? b : std::signbit(a) ? a : b;
}
template <class T>
T greater_number(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  return a > b ? a : b > a ? b : std::signbit(a) ? b : a;
}
template <class T>
T lesser_or_nan(T a, T b) {
  return unordered(a, b) ? std::numeric_limits<T>::quiet_NaN() : lesser_number(a, b);
}
template <class T>
T greater_or_nan(T a, T b) {
  return unordered(a, b) ? std::numeric_limits<T>::quiet_NaN() : greater_number(a, b);
}
template <class T>
T magnitude(T a) {
  return std::fabs(a);
}
template <class T>
T divided(T a, T b) {
  return a / b;
}
inline f32 divided_quickly(f32 a, f32 b) {
  if (std::fabs(b) > 0x1p126f && std::isfinite(b)) return std::isinf(a) ? NAN : 0.0f;
  return a / b;
}
template <class T>
T square_root(T a) {
  return std::sqrt(a);
}
inline f64 two_to(f64 a) { return std::exp2(a); }
inline f64 log_two(f64 a) { return std::log2(a); }
inline f64 sine(f64 a) { return std::sin(a); }
inline f64 cosine(f64 a) { return std::cos(a); }
inline f64 hyperbolic_tangent(f64 a) { return std::tanh(a); }
template <class T>
T nearest(T a) {
  return std::nearbyint(a);
}
template <class T>
T toward_zero(T a) {
  return std::trunc(a);
}
template <class T>
T downward(T a) {
  return std::floor(a);
}
template <class T>
T upward(T a) {
  return std::ceil(a);
}
template <class T>
f64 ulp(T r) {
  const T size = std::fabs(r);
  return f64(std::nextafter(size, std::numeric_limits<T>::infinity())) - f64(size);
}

template <class To, class From>
To to_integer(From x) {
  const f64 wide = x;
  constexpr f64 low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
  if (wide != wide) return sizeof(To) == 8 || sizeof(From) == 8 ? static_cast<To>(u64{1} << (bits<To> - 1)) : 0;
  if (wide >= high) return std::numeric_limits<To>::max();
  if (wide <= low) return std::numeric_limits<To>::min();
  return static_cast<To>(wide);
}
#define WORD(type)                       \
  template <class T>                     \
  type to_##type(T x) {                  \
    return to_integer<type>(x);          \
  }
WORD(u8) WORD(s8) WORD(u16) WORD(s16) WORD(u32) WORD(s32) WORD(u64) WORD(s64)
#undef WORD

// What is not exact goes to the neighbour whose last bit is 1: rounding it once more then rounds the exact number.
inline f64 to_odd(f64 rounded, f64 error) {
  if (error == 0 || !std::isfinite(rounded) || !std::isfinite(error) || (std::bit_cast<u64>(rounded) & 1)) return rounded;
  return std::nextafter(rounded, error > 0 ? HUGE_VAL : -HUGE_VAL);
}
inline f64 sum_to_odd(f32 a, f32 b) {
  const f64 x = a, y = b, total = x + y, part = total - x;
  return to_odd(total, (x - (total - part)) + (y - part));
}
inline f32 downward_f32(f64 x) {
  const f32 rounded = static_cast<f32>(x);
  return f64(rounded) > x ? std::nextafterf(rounded, -HUGE_VALF) : rounded;
}
inline f32 upward_f32(f64 x) {
  const f32 rounded = static_cast<f32>(x);
  return f64(rounded) < x ? std::nextafterf(rounded, HUGE_VALF) : rounded;
}
template <class T>
f32 zero_downward(f32 r, T a, T b) {
  return r == 0 && (std::signbit(a) || std::signbit(b)) ? -0.0f : r;
}
inline f32 toward_zero_f32(f64 x) { return x > 0 ? downward_f32(x) : upward_f32(x); }
inline f64 fma_to_odd(f32 a, f32 b, f32 c) {
  const f64 product = f64(a) * f64(b), total = product + f64(c), part = total - product;
  return to_odd(total, (product - (total - part)) + (f64(c) - part));
}
template <class T>
T fma(T a, T b, T c) {
  return std::fma(a, b, c);
}

inline u32 rounded_to_tf32(f32 a) {
  const u32 raw = std::bit_cast<u32>(a);
  if (a != a) return 0x7FFFFFFF;
  return std::isfinite(a) ? (raw + 0x1000u) & 0xFFFFE000u : raw;
}

// To nearest even, once.
inline u16 f16_bits(f64 x) {
  const u64 raw = std::bit_cast<u64>(x);
  const u16 sign = raw >> 48 & 0x8000;
  if (x != x) return 0x7FFF;
  const f64 size = std::fabs(x);
  if (size >= 65520.0) return sign | 0x7C00;
  if (size < 0x1p-14) return sign | static_cast<u16>(std::nearbyint(size * 0x1p24));
  const int exponent = static_cast<int>(raw >> 52 & 0x7FF) - 1023;
  const u32 fraction = static_cast<u32>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 1024 … 2048
  return sign | static_cast<u16>(((exponent + 14) << 10) + fraction);
}
inline u16 bf16_of(f32 x) {
  const u32 raw = std::bit_cast<u32>(x);
  if (x != x) return 0x7FFF;
  return static_cast<u16>((raw + 0x7FFFu + (raw >> 16 & 1)) >> 16);
}
inline u16 bf16_bits(f32 x) { return bf16_of(x); }
inline u16 bf16_bits(f64 x) {
  const f32 rounded = static_cast<f32>(x);
  const f64 error = x - f64(rounded);
  if (error == 0 || !std::isfinite(rounded) || (std::bit_cast<u32>(rounded) & 1)) return bf16_of(rounded);
  return bf16_of(std::nextafterf(rounded, error > 0 ? HUGE_VALF : -HUGE_VALF));
}
inline f32 of_bf16(u16 x) { return std::bit_cast<f32>(u32{x} << 16); }
inline f32 of_f16(u16 x) {
  const u32 sign = u32{x & 0x8000u} << 16, exponent = x >> 10 & 31, fraction = x & 1023;
  if (exponent == 31) return std::bit_cast<f32>(sign | 0x7F800000u | fraction << 13);
  if (exponent != 0) return std::bit_cast<f32>(sign | (exponent + 112) << 23 | fraction << 13);
  const f32 size = static_cast<f32>(fraction) * 0x1p-24f;
  return sign ? -size : size;
}
inline u32 paired(u16 upper, u16 lower) { return u32{upper} << 16 | lower; }

inline f32 flushed(f32 x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
template <class T>
T saturated(T x) {
  return x > 0 ? (x < 1 ? x : T{1}) : T{0};
}
// mode: 1 up, -1 down, 2 up or down by the bits of the operand, 0 not at all.
inline f32 off(f32 r, f64 error, f32 a, int mode) {
  const f64 direction = mode != 2 ? mode : ones(std::bit_cast<u32>(a)) & 1 ? -1.0 : 1.0;
  const f32 moved = static_cast<f32>(f64(r) + direction * error);
  return std::isfinite(r) && std::isfinite(moved) ? moved : r;
}

}  // namespace words
