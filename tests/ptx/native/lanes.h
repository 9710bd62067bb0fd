// A lane form over all threads of a block at once. Registers are arrays with an element a thread.
#pragma once

#include "words.h"

struct Call {
  void* target;
  const void* sources[4];
  int threads;
  const u8* active;  // one byte a thread, or null: all of them
  int approximation;
};
using LaneFunction = void (*)(const Call&);

// How the numbers of a type lie in a register, and what an expression sees of them.
template <class B, class T>
struct Plain {
  using Bits = B;
  static T load(B x) { return static_cast<T>(x); }
  static B store(T x) { return static_cast<B>(x); }
};
template <class B, class T>
struct Floating {
  using Bits = B;
  static T load(B x) { return std::bit_cast<T>(x); }
  static B store(T x) {  // a NaN that is computed is the canonical one
    return x != x ? static_cast<B>(~B{0} >> 1) : std::bit_cast<B>(x);
  }
};
namespace types {
struct u8_ {
  using Bits = u16;
  static u8 load(u16 x) { return static_cast<u8>(x); }
  static u16 store(u8 x) { return x; }
};
struct s8_ {
  using Bits = u16;
  static s8 load(u16 x) { return static_cast<s8>(x); }
  static u16 store(s8 x) { return static_cast<u16>(static_cast<s16>(x)); }
};
using pred = Plain<u8, bool>;
using b16 = Plain<u16, u16>;
using b32 = Plain<u32, u32>;
using b64 = Plain<u64, u64>;
using u16_ = Plain<u16, u16>;
using u32_ = Plain<u32, u32>;
using u64_ = Plain<u64, u64>;
using s16_ = Plain<u16, s16>;
using s32_ = Plain<u32, s32>;
using s64_ = Plain<u64, s64>;
using f32_ = Floating<u32, f32>;
using f64_ = Floating<u64, f64>;
struct f32_ftz {
  using Bits = u32;
  static f32 load(u32 x) { return words::flushed(std::bit_cast<f32>(x)); }
  static u32 store(f32 x) { return f32_::store(words::flushed(x)); }
};
struct f16_ {
  using Bits = u16;
  static f32 load(u16 x) { return words::of_f16(x); }
  static u16 store(f64 x) { return words::f16_bits(x); }
};
struct bf16_ {
  using Bits = u16;
  static f32 load(u16 x) { return words::of_bf16(x); }
  template <class T>
  static u16 store(T x) {
    return words::bf16_bits(x);
  }
};
}  // namespace types

template <class R, int PER, class... Sources, class Meaning, std::size_t... I>
void each(const Call& call, Meaning meaning, std::index_sequence<I...>) {
  const int count = call.threads * PER;
  const u8* const active = call.active;
  auto* const target = static_cast<typename R::Bits*>(call.target);
  if (active == nullptr) {
#pragma GCC ivdep
    for (int i = 0; i < count; ++i)
      target[i] = R::store(meaning(Sources::load(static_cast<const typename Sources::Bits*>(call.sources[I])[i])...));
  } else {
#pragma GCC ivdep
    for (int i = 0; i < count; ++i) {
      const auto value =
          R::store(meaning(Sources::load(static_cast<const typename Sources::Bits*>(call.sources[I])[i])...));
      target[i] = active[i / PER] ? value : target[i];
    }
  }
}
template <class R, int PER, class... Sources, class Meaning>
void each(const Call& call, Meaning meaning) {
  each<R, PER, Sources...>(call, meaning, std::index_sequence_for<Sources...>());
}
