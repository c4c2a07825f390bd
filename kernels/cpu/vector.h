// Vectors of array elements, for the compiler's vector extensions (GCC and Clang).
//
// Included once per instruction set, with kVectorBytes set to its register width, and only inside
// an unnamed namespace: two translation units built with different instruction sets must not share
// an inline function, or the linker keeps whichever it likes.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__GNUC__) && !defined(__clang__)
// Vectors wider than a register are passed between functions of this file only.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined vectors in its own header for a mistake of the caller's.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#endif

namespace fastscan {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int n>
struct VectorOf {
  typedef T type __attribute__((vector_size(n * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T>
struct VectorOf<T, 1> {
  typedef T type __attribute__((may_alias));
};
template <class T, int n>
using Vector = typename VectorOf<T, n>::type;

// body(0), ..., body(n - 1) with constants for arguments. A plain loop over an array of registers is
// unrolled too late for the compiler to keep them out of memory.
template <class Body, int... I>
[[gnu::always_inline]] inline void UnrollOver(std::integer_sequence<int, I...>, const Body& body) {
  (body(std::integral_constant<int, I>()), ...);
}
template <int n, class Body>
[[gnu::always_inline]] inline void Unroll(const Body& body) {
  UnrollOver(std::make_integer_sequence<int, n>(), body);
}

template <class To, class From>
inline To BitCast(From from) {
  return __builtin_bit_cast(To, from);
}

template <class To, class From>
inline To Convert(From from) {
  if constexpr (std::is_arithmetic_v<From>) {
    return static_cast<To>(from);
  } else {
    return __builtin_convertvector(from, To);
  }
}

// Bits that are all one where `condition` holds and zero elsewhere, as vector comparisons give.
template <class Mask, class Condition>
inline Mask MaskOf(Condition condition) {
  if constexpr (std::is_arithmetic_v<Condition>) {
    return condition ? ~Mask{0} : Mask{0};
  } else {
    return BitCast<Mask>(condition);
  }
}

// What an array holds (Storage), what the recurrence computes in (Scalar), and how many scalars an
// element is made of: two for a complex number, real part first.
struct F32 {
  using Storage = float;
  using Scalar = float;
  static constexpr int kParts = 1;
};
struct F64 {
  using Storage = double;
  using Scalar = double;
  static constexpr int kParts = 1;
};
struct C64 {
  using Storage = float;
  using Scalar = float;
  static constexpr int kParts = 2;
};
struct C128 {
  using Storage = double;
  using Scalar = double;
  static constexpr int kParts = 2;
};
struct BF16 {
  using Storage = uint16_t;
  using Scalar = float;
  static constexpr int kParts = 1;
  template <int n>
  static Vector<float, n> Widen(Vector<uint16_t, n> v) {
    return BitCast<Vector<float, n>>(Convert<Vector<uint32_t, n>>(v) << 16);
  }
  // To nearest, ties to even; a NaN stays one, with its sign.
  template <int n>
  static Vector<uint16_t, n> Narrow(Vector<float, n> v) {
    using Bits = Vector<uint32_t, n>;
    const Bits bits = BitCast<Bits>(v);
    const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits quiet = (bits >> 16) | 0x40u;
    const Bits nan = MaskOf<Bits>(v != v);
    return Convert<Vector<uint16_t, n>>(Bits((quiet & nan) | (rounded & ~nan)));
  }
};
struct F16 {
  using Storage = uint16_t;
  using Scalar = float;
  static constexpr int kParts = 1;
  template <int n>
  static Vector<float, n> Widen(Vector<uint16_t, n> v) {
#if defined(__AVX512F__)
    if constexpr (n == 16) return BitCast<Vector<float, n>>(_mm512_cvtph_ps(BitCast<__m256i>(v)));
#endif
#if defined(__F16C__)
    if constexpr (n == 8) return BitCast<Vector<float, n>>(_mm256_cvtph_ps(BitCast<__m128i>(v)));
#endif
    // Moves exponent and mantissa into place and rescales by 2^112, which also normalises
    // subnormals; an exponent that was all ones is made so again.
    using Bits = Vector<uint32_t, n>;
    const Bits wide = Convert<Bits>(v);
    const Bits magnitude = (wide & 0x7fffu) << 13;
    const Bits finite = BitCast<Bits>(Vector<float, n>(BitCast<Vector<float, n>>(magnitude) *
                                                       BitCast<float>(uint32_t{239} << 23)));
    const Bits special = MaskOf<Bits>((wide & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    return BitCast<Vector<float, n>>(Bits(((wide & 0x8000u) << 16) | finite | special));
  }
  template <int n>
  static Vector<uint16_t, n> Narrow(Vector<float, n> v) {
#if defined(__AVX512F__)
    if constexpr (n == 16) {
      return BitCast<Vector<uint16_t, n>>(
          _mm512_cvtps_ph(BitCast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
#if defined(__F16C__)
    if constexpr (n == 8) {
      return BitCast<Vector<uint16_t, n>>(
          _mm256_cvtps_ph(BitCast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    using Bits = Vector<uint32_t, n>;
    const Bits bits = BitCast<Bits>(v);
    const Bits sign = bits & 0x80000000u;
    const Bits magnitude = bits ^ sign;
    // Below 2^-14 the result is subnormal: adding one half aligns its last bit with the float's,
    // and the addition rounds. From there on the mantissa is rounded by hand, ties to even.
    const float half = 0.5f;
    const Bits subnormal =
        BitCast<Bits>(Vector<float, n>(BitCast<Vector<float, n>>(magnitude) + half)) -
        BitCast<uint32_t>(half);
    const Bits normal =
        (magnitude + ((15u - 127u) << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const Bits is_small = MaskOf<Bits>(magnitude < (113u << 23));
    const Bits is_large = MaskOf<Bits>(magnitude >= (143u << 23));
    const Bits is_nan = MaskOf<Bits>(magnitude > (255u << 23));
    const Bits special = 0x7c00u | (is_nan & 0x200u);
    const Bits finite = (subnormal & is_small) | (normal & ~is_small);
    return Convert<Vector<uint16_t, n>>(
        Bits((special & is_large) | (finite & ~is_large) | (sign >> 16)));
  }
};

// The registers' view of N elements: N scalars, or N (real, imaginary) pairs.
template <class E, int N>
using Lanes = Vector<typename E::Scalar, N * E::kParts>;

// What products of many decays are kept in: in float their rounding errors, which are alike where the
// decays are, would add up to more than all others.
template <class E>
using Wide = std::conditional_t<E::kParts == 2, C128, F64>;

// The number of elements in one register.
template <class E>
constexpr int kWidth = kVectorBytes / (sizeof(typename E::Scalar) * E::kParts);

// Memory at any address, of any type: a cast to V itself would lose the attributes of V, and the
// compiler takes a memcpy of a register to pieces.
template <class V>
struct [[gnu::packed, gnu::may_alias]] Unaligned {
  V value;
};
template <class V>
inline V LoadRaw(const void* p) {
  return static_cast<const Unaligned<V>*>(p)->value;
}
template <class V>
inline void StoreRaw(void* p, V v) {
  static_cast<Unaligned<V>*>(p)->value = v;
}

// The same to an address that is a multiple of the size of V, past the caches. FinishStores has to
// follow before another thread may read what was written.
template <class V>
inline void StoreRawPastCaches(void* p, V v) {
  auto* to = static_cast<float*>(p);
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_ps(to, BitCast<__m512>(v));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_ps(to, BitCast<__m256>(v));
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(V) == 16) return _mm_stream_ps(to, BitCast<__m128>(v));
#endif
  StoreRaw(to, v);
}
inline void FinishStores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Asks for some bytes that will be read.
template <int bytes>
[[gnu::always_inline]] inline void Prefetch(const void* p) {
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i);
}

// N states, which are kept in Scalar.
template <class E, int N>
inline Lanes<E, N> LoadState(const void* p, int64_t index) {
  return LoadRaw<Lanes<E, N>>(static_cast<const typename E::Scalar*>(p) + index * E::kParts);
}
template <class E, int N>
inline void StoreState(void* p, int64_t index, Lanes<E, N> v) {
  StoreRaw(static_cast<typename E::Scalar*>(p) + index * E::kParts, v);
}

// One state in all lanes, copied as bits.
template <class V, class T, int... I>
inline V Repeat(const T* p, std::integer_sequence<int, I...>) {
  return V{p[I & 1]...};
}
template <class E, int N>
inline Lanes<E, N> Splat(const typename E::Scalar* p) {
  constexpr int64_t bytes = sizeof(typename E::Scalar) * E::kParts;
  if constexpr (bytes == 16) {
    return Repeat<Lanes<E, N>>(p, std::make_integer_sequence<int, 2 * N>());
  } else {
    using Bits = std::conditional_t<bytes == 4, int32_t, int64_t>;
    return BitCast<Lanes<E, N>>(Vector<Bits, N>(LoadRaw<Bits>(p) + Vector<Bits, N>{}));
  }
}

// N elements of an array.
template <class E, int N>
inline Lanes<E, N> Load(const typename E::Storage* p) {
  if constexpr (std::is_same_v<typename E::Storage, typename E::Scalar>) {
    return LoadRaw<Lanes<E, N>>(p);
  } else {
    return E::template Widen<N>(LoadRaw<Vector<typename E::Storage, N>>(p));
  }
}
template <class E, int N>
inline void Store(typename E::Storage* p, Lanes<E, N> v) {
  if constexpr (std::is_same_v<typename E::Storage, typename E::Scalar>) {
    StoreRaw(p, v);
  } else {
    StoreRaw(p, E::template Narrow<N>(v));
  }
}
template <class E, int N>
inline void StorePastCaches(typename E::Storage* p, Lanes<E, N> v) {
  if constexpr (std::is_same_v<typename E::Storage, typename E::Scalar>) {
    StoreRawPastCaches(p, v);
  } else {
    StoreRawPastCaches(p, E::template Narrow<N>(v));
  }
}

// K registers of N elements of an array each, or with stride 0 one element in all lanes.
template <class E, int N, int K>
[[gnu::always_inline]] inline void LoadTile(const typename E::Storage* p, int64_t stride,
                                            Lanes<E, N> (&tile)[K]) {
  if (stride != 0) {
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      tile[k] = Load<E, N>(p + k * N * E::kParts);
    });
  } else {
    typename E::Scalar one[E::kParts];
    StoreRaw(one, Load<E, 1>(p));
    const Lanes<E, N> all = Splat<E, N>(one);
    Unroll<K>([&](auto k) __attribute__((always_inline)) { tile[k] = all; });
  }
}

// K registers of N elements each to an array; only whole registers go past the caches.
template <class E, int N, int K>
[[gnu::always_inline]] inline void StoreTile(typename E::Storage* p, const Lanes<E, N> (&tile)[K],
                                             bool past_caches) {
  if (N == kWidth<E> && past_caches) {
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      StorePastCaches<E, N>(p + k * N * E::kParts, tile[k]);
    });
  } else {
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      Store<E, N>(p + k * N * E::kParts, tile[k]);
    });
  }
}

template <class V, int... I>
inline V RealParts(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I & ~1)...);
}
template <class V, int... I>
inline V ImaginaryParts(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I | 1)...);
}
template <class V, int... I>
inline V SwapParts(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ 1)...);
}
template <class V, class T, int... I>
inline V AlternateSigns(std::integer_sequence<int, I...>) {
  return V{((I & 1) ? T{1} : T{-1})...};
}

// a * h + x, elementwise over N elements.
template <class E, int N>
inline Lanes<E, N> MultiplyAdd(Lanes<E, N> a, Lanes<E, N> h, Lanes<E, N> x) {
  if constexpr (E::kParts == 1) {
    return a * h + x;
  } else {
    constexpr auto index = std::make_integer_sequence<int, 2 * N>();
    const auto signs = AlternateSigns<Lanes<E, N>, typename E::Scalar>(index);
    return RealParts(a, index) * h +
           (ImaginaryParts(a, index) * signs * SwapParts(h, index) + x);
  }
}
template <class E, int N>
inline Lanes<E, N> Multiply(Lanes<E, N> a, Lanes<E, N> h) {
  if constexpr (E::kParts == 1) {
    return a * h;
  } else {
    constexpr auto index = std::make_integer_sequence<int, 2 * N>();
    const auto signs = AlternateSigns<Lanes<E, N>, typename E::Scalar>(index);
    return RealParts(a, index) * h + ImaginaryParts(a, index) * signs * SwapParts(h, index);
  }
}

// The sum over lanes, always in the same order.
template <class E, int N>
inline Lanes<E, 1> SumLanes(Lanes<E, N> v) {
  if constexpr (N == 1) {
    return v;
  } else {
    using Half = Lanes<E, N / 2>;
    typename E::Scalar parts[N * E::kParts];
    StoreRaw(parts, v);
    return SumLanes<E, N / 2>(LoadRaw<Half>(parts) + LoadRaw<Half>(parts + N / 2 * E::kParts));
  }
}

// `v`, and zero in the lanes whose flag is set: bits are cleared, so that NaN goes too.
template <class E, int N>
inline Lanes<E, N> ZeroWhere(const uint8_t* flags, Lanes<E, N> v) {
  constexpr int n = N * E::kParts;
  using Bits = Vector<std::conditional_t<sizeof(typename E::Scalar) == 4, int32_t, int64_t>, n>;
  Bits keep;
  if constexpr (n == 1) {
    keep = *flags ? 0 : -1;
  } else if constexpr (E::kParts == 1) {
    keep = MaskOf<Bits>(Convert<Bits>(LoadRaw<Vector<uint8_t, N>>(flags)) == 0);
  } else {
    for (int i = 0; i < n; ++i) keep[i] = flags[i / 2] ? 0 : -1;
  }
  return BitCast<Lanes<E, N>>(Bits(BitCast<Bits>(v) & keep));
}

// Lanes from last to first.
template <class V, int... I>
inline V ReverseLanes(V v, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(v, v, (n - 1 - I)...);
}

// Lane i takes lane i - by of `v`, and of `fill` where there is none.
template <int by, class V, int... I>
inline V ShiftLanes(V v, V fill, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(v, fill, (I < by ? n + I : I - by)...);
}

// The last lane in all of them.
template <class V, int... I>
inline V RepeatLast(V v, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  return __builtin_shufflevector(v, v, (I - I + n - 1)...);
}

}  // namespace
}  // namespace fastscan
