// The exponential of a register of floats or doubles. Included once per instruction set, after
// vector.h and as it is: inside an unnamed namespace.
//
// With z = k ln 2 + r, |r| <= ln(2) / 2: exp(z) = 2^k (1 + r (1 + r Q(r))), Q a polynomial that is
// next to (exp(r) - 1 - r) / r^2. The product k ln 2 is subtracted in two parts, of which the first
// is exact. Errors stay within 2 units in the last place. exp(0) is 1, NaN stays NaN, what exceeds
// the largest number is infinite, and below 2^-125.5 (in double 2^-1021.5) the result is 0.
//
// The power of two is made by adding k to a large number, and shifting what this leaves in the last
// bits into the exponent. It is half of what is wanted, and the polynomial twice: 2^128, which is not
// a number, is needed where the result still is.

namespace fastscan {
namespace {

template <class S>
struct ExponentialOf;

template <>
struct ExponentialOf<float> {
  using Bits = uint32_t;
  static constexpr float kRound = 0x1.8p23f + 126;  // added, rounds to a whole number
  static constexpr int kMantissa = 23;
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kLeast = -87.33655f, kMost = 89.0f;
  // Within +-kSafe neither end is reached.
  static constexpr float kSafe = 86.0f;
  // 2 Q, and (P) the derivative of (exp(r) - 1) / r.
  static constexpr float kQ[] = {1.0f, 0.33333153687987967f, 0.08333310887537188f,
                                 0.01672640595315156f, 0.002785242693266466f};
  static constexpr float kP[] = {0.5000000094541345f,   0.333333334533226f,
                                 0.12499858476760943f,  0.033333153712444455f,
                                 0.006975815796030223f, 0.0011944582797181076f};
};

template <>
struct ExponentialOf<double> {
  using Bits = uint64_t;
  static constexpr double kRound = 0x1.8p52 + 1022;
  static constexpr int kMantissa = 52;
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLeast = -708.3964185322641, kMost = 710.4;
  static constexpr double kSafe = 707.0;
  static constexpr double kQ[] = {
      1.0,
      0.33333333333333337,
      0.08333333333324798,
      0.016666666666660102,
      0.0027777777834563586,
      0.00039682539726211937,
      4.960304238043545e-05,
      5.511453675736838e-06,
      5.524027743946974e-07,
      5.020084831401379e-08,
  };
  static constexpr double kP[] = {
      0.5,
      0.3333333333333333,
      0.12500000000000014,
      0.03333333333333334,
      0.006944444444431641,
      0.0011904761904752714,
      0.00017361111156541105,
      2.2045855411798547e-05,
      2.480151444279164e-06,
      2.5052056086019697e-07,
      2.3018278524220364e-08,
      1.9309505872200964e-09,
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
  V e;     // exp(z)
  V k, r;  // z = k ln 2 + r
  V phi2;  // 2 (exp(r) - 1) / r
};

// exp(z), for z within +-kSafe unless `any` range is asked for.
template <class S, bool any>
[[gnu::always_inline]] inline Power<S> PowerOf(typename Power<S>::V z) {
  using X = ExponentialOf<S>;
  using V = typename Power<S>::V;
  using Bits = Vector<typename X::Bits, kVectorBytes / static_cast<int>(sizeof(S))>;
  if constexpr (any) {
    const V least = V{} + X::kLeast, most = V{} + X::kMost;
    z = z < least ? least : z;  // NaN is not, and stays
    z = z > most ? most : z;
  }
  Power<S> power;
  const V rounded = z * X::kLog2E + X::kRound;
  power.k = rounded - X::kRound;
  power.r = z - power.k * X::kLn2High;
  power.r = power.r - power.k * X::kLn2Low;
  power.phi2 = Horner(X::kQ, power.r) * power.r + S{2};
  const V half = BitCast<V>(Bits(BitCast<Bits>(rounded) << X::kMantissa));
  power.e = (power.phi2 * power.r + S{2}) * half;
  return power;
}

}  // namespace
}  // namespace fastscan
