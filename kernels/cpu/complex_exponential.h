// exp(a b) of a register of real a and complex b. Included once per instruction set, after
// exponential.h and as it is: inside an unnamed namespace.
//
// exp(a b) = exp(a Re b) (cos(a Im b) + i sin(a Im b)), of which the first factor is PowerOfTwo's.
// With Im b / pi = c + rest, a number and what rounding it has left, a c + a rest = k + f where k, the
// half turns, is whole and |f| <= 1/2: whether k is odd gives the sign, and sin(pi f) and cos(pi f)
// are polynomials. As there, f is what remains of the exact product a c: many turns cost no digits.
//
// Errors of either part stay within 4 units in the last place of |exp(a b)|.
// exp(0) is 1, exp(-inf + i x) is 0; NaN and infinite angles make both parts NaN. Where a c exceeds
// kHalfTurns, a rest takes f out of its range: the C library takes over, lane by lane.

#include <cmath>

namespace fastscan {
namespace {

template <class S>
struct TurnConstants;

template <>
struct TurnConstants<float> {
  static constexpr float kHalfTurns = 0x1p13f;
  // sin(pi f) / f - 2 and (cos(pi f) - 1) / f^2 + 4, of f^2.
  static constexpr float kSine[] = {1.1415926069021225f, -5.167707920074463f, 2.550044059753418f,
                                    -0.5981061458587646f, 0.07732110470533371f};
  static constexpr float kCosine[] = {-0.9348021745681763f, 4.058710098266602f,
                                      -1.3352208137512207f, 0.23497268557548523f,
                                      -0.024447588250041008f};
};

template <>
struct TurnConstants<double> {
  static constexpr double kHalfTurns = 0x1p42;
  static constexpr double kSine[] = {
      1.1415926535897932,  -5.167712780049969,     2.5501640398773007,
      -0.5992645293189447,  0.0821458865731029,     -0.007370430505916944,
      0.0004662998161898394, -2.190349707462602e-05, 7.697826768224192e-07,
  };
  static constexpr double kCosine[] = {
      -0.9348022005446793,  4.058712126416736,    -1.3352627688518803,    0.2353306302721577,
      -0.02580689002587539, 0.001929562652479866, -0.00010458286368326583, 4.166399462726948e-06,
  };
};

// b / pi, and what is left of it.
inline void SplitTurns(float b, float& turns, float& rest) {
  const double exact = b * 0.3183098861837907;
  turns = static_cast<float>(exact);
  rest = static_cast<float>(exact - turns);
  if (rest - rest != 0) rest = 0;
}
inline void SplitTurns(double b, double& turns, double& rest) {
  constexpr double inverse_pi = 0.3183098861837907, left = -1.9678676675182486e-17;
  turns = b * inverse_pi;
  rest = __builtin_fma(b, inverse_pi, -turns) + b * left;
  if (rest - rest != 0) rest = 0;
}

template <class S>
struct Angle {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V cosine, sine;
  V cosine_less_1;  // with all its digits next to 0
};

// The angle a b of the lanes that are too large for `AngleOf`, from the exact product.
template <class S>
[[gnu::noinline, gnu::cold]] void ReplaceLargeAngles(const S* a, const S* b, S* cosine, S* sine) {
  for (int i = 0; i < kVectorBytes / static_cast<int>(sizeof(S)); ++i) {
    const double x = a[i], y = b[i], angle = x * y;
    if (std::fabs(angle) < double{TurnConstants<S>::kHalfTurns}) continue;
    const double left = __builtin_fma(x, y, -angle);
    const double c = std::cos(angle), s = std::sin(angle);
    cosine[i] = static_cast<S>(c * std::cos(left) - s * std::sin(left));
    sine[i] = static_cast<S>(s * std::cos(left) + c * std::sin(left));
  }
}

// The angle a b, of which (turns, rest) is SplitTurns: up to kHalfTurns unless `any` is asked for.
template <class S, bool any, class V>
[[gnu::always_inline]] inline Angle<S> AngleOf(V a, V b, V turns, V rest) {
  using X = TurnConstants<S>;
  constexpr int sign_bit = 8 * sizeof(S) - 1;
  const V rounded = a * turns + PowerConstants<S>::kRounder;
  const V k = rounded - PowerConstants<S>::kRounder;
  const V f = MultiplySubtract<S>(a, turns, k) + a * rest, square = f * f;
  // Odd numbers of half turns change the signs.
  const PowerBits<S> sign = BitCast<PowerBits<S>>(rounded) << sign_bit;
  const auto signed_by = [&](V v) __attribute__((always_inline)) {
    return BitCast<V>(PowerBits<S>(BitCast<PowerBits<S>>(v) ^ sign));
  };
  Angle<S> angle;
  // The largest terms apart: 2 f and 1 - 4 f^2 are exact where they are large.
  const V rest_of_cosine = Horner(X::kCosine, square);
  const V sine = f * Horner(X::kSine, square) + f * S{2};
  const V cosine = square * rest_of_cosine + (S{1} - square * S{4});
  angle.sine = signed_by(sine);
  angle.cosine = signed_by(cosine);
  angle.cosine_less_1 =
      k == 0 ? V(square * (rest_of_cosine - S{4})) : V(angle.cosine - S{1});
  if constexpr (any) {
    constexpr int n = kVectorBytes / static_cast<int>(sizeof(S));
    using Words = Vector<int64_t, kVectorBytes / 8>;
    const V half_turns = a * turns;
    const Words beyond =
        BitCast<Words>((half_turns > X::kHalfTurns) | (half_turns < -X::kHalfTurns));
    int64_t large = 0;
    for (int i = 0; i < kVectorBytes / 8; ++i) large |= beyond[i];
    if (__builtin_expect(large != 0, false)) {
      S lanes[4][n];
      StoreRaw(lanes[0], a);
      StoreRaw(lanes[1], b);
      StoreRaw(lanes[2], angle.cosine);
      StoreRaw(lanes[3], angle.sine);
      ReplaceLargeAngles(lanes[0], lanes[1], lanes[2], lanes[3]);
      angle.cosine = LoadRaw<V>(lanes[2]);
      angle.sine = LoadRaw<V>(lanes[3]);
      angle.cosine_less_1 = angle.cosine - S{1};
    }
  }
  return angle;
}

// Complex numbers: one, and one in each lane.
template <class S>
struct ComplexNumber {
  S re, im;
};
template <class S>
struct Complex {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V re, im;
};
template <class S, template <class> class Other>
[[gnu::always_inline]] inline Complex<S> operator*(Complex<S> a, Other<S> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class S>
[[gnu::always_inline]] inline Complex<S> operator*(Complex<S> a, typename Complex<S>::V b) {
  return {a.re * b, a.im * b};
}
// a b + c, each part in two fused operations.
template <class S, template <class> class Other>
[[gnu::always_inline]] inline Complex<S> MultiplyAdd(Complex<S> a, Other<S> b, Complex<S> c) {
  return {(c.re + a.re * b.re) - a.im * b.im, (c.im + a.re * b.im) + a.im * b.re};
}
template <class S>
[[gnu::always_inline]] inline Complex<S> MultiplyAdd(Complex<S> a, typename Complex<S>::V b,
                                                     Complex<S> c) {
  return {c.re + a.re * b, c.im + a.im * b};
}

// A register of complex b, as exp(a b) needs them.
template <class S>
struct ComplexFactor {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V exponent, rest;     // SplitExponent of the real part
  V turns, turns_rest;  // and SplitTurns of
  V imaginary;          // the imaginary one
};

template <class S>
struct ComplexPower {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  Complex<S> value;
  V re_less_1;  // of the real part, with all its digits next to 0; if asked for
};

// exp(a b), for a b in the range of PowerOfTwo and AngleOf unless `any` is asked for.
template <class S, bool any, bool less_1, class V>
[[gnu::always_inline]] inline ComplexPower<S> ComplexExponential(V a, ComplexFactor<S> b) {
  const Angle<S> angle = AngleOf<S, any>(a, b.imaginary, b.turns, b.turns_rest);
  ComplexPower<S> power;
  V size;
  if constexpr (less_1) {
    const Power<S> real = PowerOfTwo<S, any>(a, b.exponent, b.rest);
    size = real.value;
    const V size_less_1 = real.k == 0 ? V(real.f * real.twice_w * S(0.5)) : V(size - S{1});
    power.re_less_1 = size_less_1 * angle.cosine + angle.cosine_less_1;
  } else {
    size = ValueOfPower<S, any>(a, b.exponent, b.rest);
  }
  power.value = {size * angle.cosine, size * angle.sine};
  // What is real stays real where it overflows.
  if constexpr (any) power.value.im = angle.sine == 0 ? angle.sine : power.value.im;
  return power;
}

}  // namespace
}  // namespace fastscan
