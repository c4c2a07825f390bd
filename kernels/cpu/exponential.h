// exp(a b), of registers of floats or doubles. Included once per instruction set, after vector.h
// and as it is: inside an unnamed namespace.
//
// With b log2(e) = c + rest, a number and what rounding it has left, and a c + a rest = k + f where
// k is whole and |f| <= 1/2: exp(a b) = 2^k (1 + f W(f)), where W is a polynomial that is next to
// (2^f - 1) / f. f is what remains of the exact product a c, so that the size of the exponent costs
// no digits. Where a register of floats can be permuted, and W is not wanted, k is a multiple of
// 1/8, and the fractions of 2^k are in a register: half of the polynomial is saved.
//
// Errors stay within 2 units in the last place of the exact exp(a b), down to the subnormal numbers
// and 0. exp(0) is 1, exp(-inf) is 0, NaN stays NaN, what exceeds the largest number is infinite.
// This holds where c does not overflow and `rest` is no subnormal number.
//
// To a large number k is added, and what this leaves in the last bits is shifted into the exponent:
// that of the polynomial, where nothing can go wrong there, or that of a factor. The polynomial is
// twice what is wanted, and the factor half of it: 2^128, which is not a number, is needed where
// the result still is. Where k is negative the factor is 2^64 times as large and taken back at the
// end, so that a subnormal result is rounded once.

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace fastscan {
namespace {

template <class S>
struct PowerConstants;

template <>
struct PowerConstants<float> {
  using Bits = uint32_t;
  // Added, rounds to a whole number.
  static constexpr float kRounder = 0x1.8p23f;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr Bits kHighDigits = 0xfffff000;
  // From these on the result is 0, or infinite.
  static constexpr float kLeast = -151, kMost = 129;
  // Up to this size of the exponent neither end is reached.
  static constexpr float kSafe = 125;
  static constexpr float kLn2 = 0.6931471805599453f, kLog2E = 1.4426950408889634f;
  // 2 W, and the derivative of (exp(r) - 1) / r at r = f ln 2.
  static constexpr float kW[] = {1.3862943760973487f,  0.48045301521524947f,
                                 0.11100714013008153f, 0.0192361649280347f,
                                 0.0026781841583872886f, 0.0003090642532944074f};
  static constexpr float kSlope[] = {0.5000000094541345f,    0.23104906101835065f,
                                     0.06005594678710773f,   0.011100761914780306f,
                                     0.0016102631269740673f, 0.00019111654711325134f};
};

template <>
struct PowerConstants<double> {
  using Bits = uint64_t;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr Bits kHighDigits = 0xfffffffff8000000;
  static constexpr double kLeast = -1076, kMost = 1025;
  static constexpr double kSafe = 1021;
  static constexpr double kLn2 = 0.6931471805599453, kLog2E = 1.4426950408889634;
  static constexpr double kW[] = {
      1.3862943611198906,    0.48045301391820194,   0.1110082173296432,
      0.019236258215213603,  0.002666711629283378,  0.0003080706088376275,
      3.0505467659827164e-05, 2.6430884998766605e-06, 2.035612479730478e-07,
      1.414520729692028e-08, 8.909940064627796e-10,
  };
  static constexpr double kSlope[] = {
      0.5,
      0.23104906018664845,
      0.06005662673977524,
      0.01110082173296432,
      0.001603021517935124,
      0.00019047940209168787,
      1.925441304211134e-05,
      1.6947482029579345e-06,
      1.321544796744962e-07,
      9.252786146551912e-09,
      5.892878016596521e-10,
      3.4265039111705094e-11,
  };
};

// b log2(e), and what is left of it.
inline void SplitExponent(float b, float& exponent, float& rest) {
  const double exact = b * 1.4426950408889634;
  exponent = static_cast<float>(exact);
  rest = static_cast<float>(exact - exponent);
  if (rest - rest != 0) rest = 0;
}
inline void SplitExponent(double b, double& exponent, double& rest) {
  constexpr double log2_e = 1.4426950408889634, left = 2.0355273740931033e-17;
  exponent = b * log2_e;
  rest = __builtin_fma(b, log2_e, -exponent) + b * left;
  if (rest - rest != 0) rest = 0;
}

template <class S, int n, class V>
[[gnu::always_inline]] inline V Horner(const S (&coefficients)[n], V r) {
  V sum = V{} + coefficients[n - 1];
  Unroll<n - 1>([&](auto i) __attribute__((always_inline)) {
    sum = sum * r + coefficients[n - 2 - i];
  });
  return sum;
}

// a b - c, where c is next to a b: rounded once. The compiler may contract a * b - c to that, but
// not where it has another use for a * b.
template <class S, class V>
[[gnu::always_inline]] inline V MultiplySubtract(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4) {
    return BitCast<V>(_mm512_fmsub_ps(BitCast<__m512>(a), BitCast<__m512>(b), BitCast<__m512>(c)));
  } else {
    return BitCast<V>(
        _mm512_fmsub_pd(BitCast<__m512d>(a), BitCast<__m512d>(b), BitCast<__m512d>(c)));
  }
#elif defined(__FMA__)
  if constexpr (sizeof(S) == 4) {
    return BitCast<V>(_mm256_fmsub_ps(BitCast<__m256>(a), BitCast<__m256>(b), BitCast<__m256>(c)));
  } else {
    return BitCast<V>(
        _mm256_fmsub_pd(BitCast<__m256d>(a), BitCast<__m256d>(b), BitCast<__m256d>(c)));
  }
#else
  // Products of half the digits are exact.
  using X = PowerConstants<S>;
  using Bits = Vector<typename X::Bits, kVectorBytes / static_cast<int>(sizeof(S))>;
  const V a1 = BitCast<V>(Bits(BitCast<Bits>(a) & X::kHighDigits)), a2 = a - a1;
  const V b1 = BitCast<V>(Bits(BitCast<Bits>(b) & X::kHighDigits)), b2 = b - b1;
  const V product = a * b;
  return (product - c) + (((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2);
#endif
}

template <class S>
using PowerBits =
    Vector<typename PowerConstants<S>::Bits, kVectorBytes / static_cast<int>(sizeof(S))>;

template <class S>
struct Exponent {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V k, f;
  // In the last bits `parts` (k - 1), or with `any` `parts` (k - 1 + the bias of exponents).
  PowerBits<S> last;
};

// a (b + rest) = k + f where `parts` k is whole, for a b within +-kSafe unless `any` is asked for.
template <class S, bool any, int parts, class V>
[[gnu::always_inline]] inline Exponent<S> SplitProduct(V a, V b, V rest) {
  using X = PowerConstants<S>;
  constexpr S rounder = X::kRounder / parts + (any ? X::kBias - 1 : -1);
  Exponent<S> exponent;
  if constexpr (any) {
    const V least = V{} + X::kLeast, most = V{} + X::kMost;
    const V x = a * b;
    V within = x < least ? least : x;  // NaN is not, and stays
    within = within > most ? most : within;
    const V rounded = within + rounder;
    exponent.k = rounded - rounder;
    const V f = MultiplySubtract<S>(a, b, exponent.k) + a * rest;
    // What is outside has its f from the nearest end: that of x may be infinite.
    exponent.f = within == x ? f : V(within - exponent.k);
    exponent.last = BitCast<PowerBits<S>>(rounded);
  } else {
    const V rounded = a * b + rounder;
    exponent.k = rounded - rounder;
    exponent.f = MultiplySubtract<S>(a, b, exponent.k) + a * rest;
    exponent.last = BitCast<PowerBits<S>>(rounded);
  }
  return exponent;
}

// `twice` times half of 2^k, of which `factor` has the exponent.
template <class S, class V>
[[gnu::always_inline]] inline V Scale(V twice, V k, PowerBits<S> factor) {
  using X = PowerConstants<S>;
  const PowerBits<S> lift = MaskOf<PowerBits<S>>(k < 0) & (typename X::Bits{64} << X::kMantissa);
  const V lower = k < 0 ? V{} + S(0x1p-64) : V{} + S{1};
  return twice * BitCast<V>(PowerBits<S>((factor << X::kMantissa) + lift)) * lower;
}

template <class S>
struct Power {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V value;     // 2^(k + f)
  V k, f;
  V twice_w;   // 2 W(f)
};

// 2^(a (b + rest)), for a b within +-kSafe unless `any` is asked for.
template <class S, bool any, class V>
[[gnu::always_inline]] inline Power<S> PowerOfTwo(V a, V b, V rest) {
  using X = PowerConstants<S>;
  const Exponent<S> exponent = SplitProduct<S, any, 1>(a, b, rest);
  Power<S> power{{}, exponent.k, exponent.f, Horner(X::kW, exponent.f)};
  const V twice = power.twice_w * power.f + S{2};
  if constexpr (any) {
    power.value = Scale<S>(twice, power.k, exponent.last);
  } else {
    power.value = BitCast<V>(
        PowerBits<S>(BitCast<PowerBits<S>>(twice) + (exponent.last << X::kMantissa)));
  }
  return power;
}

#if defined(__AVX2__)
// W for |f| <= 1/16, and the bits of 2^(1 + i / 8), less i in the place where `last` puts it.
constexpr float kNearW[] = {0.6931471824645996f, 0.2402576357126236f, 0.055511474609375f};
constexpr uint32_t kEighths[] = {0x40000000, 0x3ffb95c2, 0x3ff837f0, 0x3ff5fed7,
                                 0x3ff504f3, 0x3ff5672a, 0x3ff744fd, 0x3ffac0c7};

template <int... I>
[[gnu::always_inline]] inline PowerBits<float> Eighth(PowerBits<float> last,
                                                      std::integer_sequence<int, I...>) {
  const PowerBits<float> table{kEighths[I % 8]...};
#if defined(__AVX512F__)
  return BitCast<PowerBits<float>>(
      _mm512_permutexvar_epi32(BitCast<__m512i>(last), BitCast<__m512i>(table)));
#else
  return BitCast<PowerBits<float>>(
      _mm256_permutevar8x32_epi32(BitCast<__m256i>(table), BitCast<__m256i>(last)));
#endif
}
#endif

// The value of PowerOfTwo alone, in fewer instructions where there is a way.
template <class S, bool any, class V>
[[gnu::always_inline]] inline V ValueOfPower(V a, V b, V rest) {
#if defined(__AVX2__)
  if constexpr (sizeof(S) == 4) {
    constexpr int mantissa = PowerConstants<S>::kMantissa;
    constexpr auto lanes = std::make_integer_sequence<int, kVectorBytes / 4>();
    const Exponent<S> exponent = SplitProduct<S, any, 8>(a, b, rest);
    const PowerBits<S> last = exponent.last, part = any ? PowerBits<S>(last & 7) : last;
    const V whole = BitCast<V>(PowerBits<S>(Eighth(last, lanes) + (part << (mantissa - 3))));
    // Times f first, `whole` could become a subnormal number, which XLA's threads take for 0.
    const V value = exponent.f * Horner(kNearW, exponent.f) * whole + whole;
    return any ? Scale<S>(value, exponent.k, last >> 3) : value;
  }
#endif
  return PowerOfTwo<S, any>(a, b, rest).value;
}

}  // namespace
}  // namespace fastscan
