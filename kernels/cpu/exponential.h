// exp(a b), of registers of floats or doubles. Included once per instruction set, after vector.h and
// as it is: inside an unnamed namespace.
//
// With b log2(e) = c + rest, a number and what rounding it has left, and a c + a rest = k + f where k
// is whole and |f| <= 1/2: exp(a b) = 2^k (1 + f W(f)), W a polynomial that is next to
// (2^f - 1) / f. f is what remains of the exact product a c, so that the size of the exponent costs no
// digits. Errors stay within 2 units in the last place of the exact exp(a b), down to the subnormal
// numbers and 0. exp(0) is 1, exp(-inf) is 0, NaN stays NaN, what exceeds the largest number is
// infinite. This holds where b log2(e) does not overflow and `rest` does not underflow.
//
// To a large number k is added, and what this leaves in the last bits is shifted into the exponent:
// that of the polynomial, where nothing can go wrong there, or that of a factor. The polynomial is
// twice what is wanted, and the factor half of it: 2^128, which is not a number, is needed where the
// result still is. Where k is negative the factor is 2^64 times as large and taken back at the end, so
// that a subnormal result is rounded once.

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
  // Added, they round to a whole number. What is left in the last bits, as a float's exponent, is
  // 2^(k - 1) of the first one, and k - 1 of the second.
  static constexpr float kFactor = 0x1.8p23f + 126, kExponent = 0x1.8p23f - 1;
  static constexpr int kMantissa = 23;
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
  static constexpr double kFactor = 0x1.8p52 + 1022, kExponent = 0x1.8p52 - 1;
  static constexpr int kMantissa = 52;
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

// a b - c, where c is next to a b: rounded once. The compiler may contract a * b - c to that, but not
// where it has another use for a * b.
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
struct Power {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V value;     // 2^(k + f)
  V k, f;
  V twice_w;   // 2 W(f)
};

// 2^(a (b + rest)), for a b within +-kSafe unless `any` is asked for.
template <class S, bool any>
[[gnu::always_inline]] inline Power<S> PowerOfTwo(typename Power<S>::V a, typename Power<S>::V b,
                                                  typename Power<S>::V rest) {
  using X = PowerConstants<S>;
  using V = typename Power<S>::V;
  using Bits = Vector<typename X::Bits, kVectorBytes / static_cast<int>(sizeof(S))>;
  Power<S> power;
  if constexpr (any) {
    const V least = V{} + X::kLeast, most = V{} + X::kMost;
    const V x = a * b;
    V within = x < least ? least : x;  // NaN is not, and stays
    within = within > most ? most : within;
    const V rounded = within + X::kFactor;
    power.k = rounded - X::kFactor;
    const V f = MultiplySubtract<S>(a, b, power.k) + a * rest;
    power.f = within == x ? f : V(within - power.k);
    power.twice_w = Horner(X::kW, power.f);
    const Bits lifted = MaskOf<Bits>(power.k < 0) & (typename X::Bits{64} << X::kMantissa);
    const V half = BitCast<V>(Bits((BitCast<Bits>(rounded) << X::kMantissa) + lifted));
    const V lower = power.k < 0 ? V{} + S(0x1p-64) : V{} + S{1};
    power.value = (power.twice_w * power.f + S{2}) * half * lower;
  } else {
    const V rounded = a * b + X::kExponent;
    power.k = rounded - X::kExponent;
    power.f = MultiplySubtract<S>(a, b, power.k) + a * rest;
    power.twice_w = Horner(X::kW, power.f);
    const V twice = power.twice_w * power.f + S{2};
    power.value =
        BitCast<V>(Bits(BitCast<Bits>(twice) + (BitCast<Bits>(rounded) << X::kMantissa)));
  }
  return power;
}

}  // namespace
}  // namespace fastscan
