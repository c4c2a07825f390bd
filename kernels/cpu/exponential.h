// Powers of two, of registers of floats or doubles. Included once per instruction set, after vector.h
// and as it is: inside an unnamed namespace.
//
// With x = k + f, |f| <= 1/2: 2^x = 2^k (1 + f W(f)), W a polynomial that is next to (2^f - 1) / f.
// Errors stay within 2 units in the last place. 2^0 is 1, NaN stays NaN, what exceeds the largest
// number is infinite, and below 2^-125.5 (in double 2^-1021.5) the result is 0.
//
// To a large number k is added, and what this leaves in the last bits is shifted into the exponent:
// that of the polynomial, where nothing can go wrong there, or that of a factor. The polynomial is
// twice what is wanted, and the factor half of it: 2^128, which is not a number, is needed where the
// result still is.

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
  static constexpr float kLeast = -126, kMost = 129;
  // Up to this size of x neither end is reached.
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
  static constexpr double kLeast = -1022, kMost = 1025;
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

template <class S, int n, class V>
[[gnu::always_inline]] inline V Horner(const S (&coefficients)[n], V r) {
  V sum = V{} + coefficients[n - 1];
  Unroll<n - 1>([&](auto i) __attribute__((always_inline)) {
    sum = sum * r + coefficients[n - 2 - i];
  });
  return sum;
}

template <class S>
struct Power {
  using V = Vector<S, kVectorBytes / static_cast<int>(sizeof(S))>;
  V value;     // 2^x
  V k, f;      // x = k + f
  V twice_w;   // 2 W(f)
};

// 2^(a b), for a b within +-kSafe unless `any` is asked for.
template <class S, bool any>
[[gnu::always_inline]] inline Power<S> PowerOfTwo(typename Power<S>::V a, typename Power<S>::V b) {
  using X = PowerConstants<S>;
  using V = typename Power<S>::V;
  using Bits = Vector<typename X::Bits, kVectorBytes / static_cast<int>(sizeof(S))>;
  Power<S> power;
  if constexpr (any) {
    const V least = V{} + X::kLeast, most = V{} + X::kMost;
    V x = a * b;
    x = x < least ? least : x;  // NaN is not, and stays
    x = x > most ? most : x;
    const V rounded = x + X::kFactor;
    power.k = rounded - X::kFactor;
    power.f = x - power.k;
    power.twice_w = Horner(X::kW, power.f);
    const V half = BitCast<V>(Bits(BitCast<Bits>(rounded) << X::kMantissa));
    power.value = (power.twice_w * power.f + S{2}) * half;
  } else {
    // Fused, the product is not even rounded.
    const V rounded = a * b + X::kExponent;
    power.k = rounded - X::kExponent;
    power.f = a * b - power.k;
    power.twice_w = Horner(X::kW, power.f);
    const V twice = power.twice_w * power.f + S{2};
    power.value =
        BitCast<V>(Bits(BitCast<Bits>(twice) + (BitCast<Bits>(rounded) << X::kMantissa)));
  }
  return power;
}

}  // namespace
}  // namespace fastscan
