// The loops of `selective_scan_blocks.h` for complex states, whose real and imaginary parts lie in
// registers of their own (planes). Included once per instruction set, after that header and as it
// is: inside an unnamed namespace.

namespace fastscan {
namespace selective {
namespace {

template <class S>
struct Channels<S, 2> {
  static constexpr int kRows = 9;
  // Below that, (exp(dt A) - 1) / A is dt for every dt up to 10^7, while dt A may be subnormal.
  static constexpr S kNextToZero = sizeof(S) == 4 ? 1e-15 : 1e-30;
  S* a;                   // (n, part, lane)
  S* inverse_a;           // 1 / A, and 0 where
  S* is_zero;             // (n, lane): A is next to 0, which is marked by a 1
  S *exponent, *rest;     // SplitExponent of the real part
  S *turns, *turns_rest;  // SplitTurns of the imaginary part
  S* d;                   // (lane)
  S* limit;               // (lane): up to this |dt|, dt A is in the range of its exponential

  Channels(S* at, int64_t row)
      : a(at),
        inverse_a(at + 2 * row),
        is_zero(at + 4 * row),
        exponent(at + 5 * row),
        rest(at + 6 * row),
        turns(at + 7 * row),
        turns_rest(at + 8 * row),
        d(at + 9 * row),
        limit(d + kBlock<S>) {}

  void Prepare(int64_t states) {
    for (int64_t i = 0; i < kBlock<S>; ++i) {
      // The largest part of the ranges that a step of 1 takes.
      S largest = S(1e-30), strange = 0;
      for (int64_t n = 0; n < states; ++n) {
        const int64_t at = n * kBlock<S> + i, re = at + n * kBlock<S>, im = re + kBlock<S>;
        SplitExponent(a[re], exponent[at], rest[at]);
        SplitTurns(a[im], turns[at], turns_rest[at]);
        const S x = a[re] < 0 ? -a[re] : a[re], y = a[im] < 0 ? -a[im] : a[im];
        // By this size, squares neither overflow nor vanish.
        const S size = x > y ? x : y, unit_re = a[re] / size, unit_im = a[im] / size;
        const S square = size * (unit_re * unit_re + unit_im * unit_im);
        is_zero[at] = size < kNextToZero;
        const bool has_inverse = is_zero[at] == 0 && size - size == 0;
        inverse_a[re] = has_inverse ? unit_re / square : S{0};
        inverse_a[im] = has_inverse ? -unit_im / square : S{0};
        const S shares[] = {exponent[at] / PowerConstants<S>::kSafe,
                            turns[at] / TurnConstants<S>::kHalfTurns};
        for (const S share : shares) {
          const S part = share < 0 ? -share : share;
          largest = part > largest ? part : largest;
          strange += share - share;
        }
      }
      limit[i] = 1 / largest + strange;
    }
  }
};

template <class S>
[[gnu::always_inline]] inline Complex<S> LoadPair(const S* p, int64_t distance) {
  return {LoadRaw<Register<S>>(p), LoadRaw<Register<S>>(p + distance)};
}
template <class S>
[[gnu::always_inline]] inline void StorePair(S* p, int64_t distance, Complex<S> v) {
  StoreRaw(p, v.re);
  StoreRaw(p + distance, v.im);
}

// phi'(z) = sum_k (k + 1) / (k + 2)! z^k, where phi(z) = (exp(z) - 1) / z, up to |z| = 1/2.
template <class S>
struct PhiSlope {
  static constexpr int kTerms = sizeof(S) == 4 ? 9 : 15;
  S coefficients[kTerms];
  constexpr PhiSlope() : coefficients() {
    double c = 0.5;
    for (int k = 0; k < kTerms; ++k) {
      coefficients[k] = static_cast<S>(c);
      c *= (k + 2.0) / ((k + 1.0) * (k + 3.0));
    }
  }
};
template <class S>
constexpr PhiSlope<S> kPhiSlope;

// exp(dt A), the weight of B u, and (`slope`) the derivative of this weight with respect to A: of
// register i of state n.
template <class S, bool zoh, bool care, bool with_slope>
[[gnu::always_inline]] inline void Discretize(Register<S> dt, const Channels<S, 2>& channels,
                                              int64_t n, int64_t i, Complex<S>& e,
                                              Complex<S>& weight, Complex<S>& slope) {
  using V = Register<S>;
  const int64_t at = n * kBlock<S> + i * kLanes<S>, pair = at + n * kBlock<S>;
  const ComplexFactor<S> factor{LoadRaw<V>(channels.exponent + at), LoadRaw<V>(channels.rest + at),
                                LoadRaw<V>(channels.turns + at),
                                LoadRaw<V>(channels.turns_rest + at),
                                LoadRaw<V>(channels.a + pair + kBlock<S>)};
  const ComplexPower<S> power = ComplexExponential<S, care, zoh>(dt, factor);
  e = power.value;
  if constexpr (zoh) {
    const Complex<S> inverse = LoadPair(channels.inverse_a + pair, kBlock<S>);
    const Complex<S> at_zero{dt * LoadRaw<V>(channels.is_zero + at), V{}};
    weight = MultiplyAdd(Complex<S>{power.re_less_1, e.im}, inverse, at_zero);
    if constexpr (with_slope) {
      const Complex<S> z = LoadPair(channels.a + pair, kBlock<S>) * dt;
      constexpr int terms = PhiSlope<S>::kTerms;
      Complex<S> series{V{} + kPhiSlope<S>.coefficients[terms - 1], V{}};
      Unroll<terms - 1>([&](auto k) __attribute__((always_inline)) {
        const Complex<S> next{V{} + kPhiSlope<S>.coefficients[terms - 2 - k], V{}};
        series = MultiplyAdd(series, z, next);
      });
      const Complex<S> quotient =
          Complex<S>{dt * e.re - weight.re, dt * e.im - weight.im} * inverse;
      const auto near = z.re * z.re + z.im * z.im < S(0.25);
      slope.re = near ? V(dt * dt * series.re) : quotient.re;
      slope.im = near ? V(dt * dt * series.im) : quotient.im;
    }
  }
}

// The state after a step, from that before it.
template <class S, bool zoh, bool care>
[[gnu::always_inline]] inline Complex<S> Advance(Register<S> u, Register<S> x, Complex<S> e,
                                                 Complex<S> weight, ComplexNumber<S> b, bool cut,
                                                 Complex<S> h) {
  Complex<S> past = e * h;
  if constexpr (care) past = cut ? Complex<S>{} : past;
  if constexpr (zoh) return MultiplyAdd(weight * u, b, past);
  return {past.re + x * b.re, past.im + x * b.im};
}

// Runs over the chunk from the states `h` (n, part, lane), which it updates; y is (t, part, lane).
template <class S, bool zoh, bool care>
void ForwardBlock(Channels<S, 2> channels, Steps<S> steps, S* h, S* y) {
  using V = Register<S>;
  for (int64_t t = 0; t < steps.count; ++t) {
    const S *b = steps.b + t * 2 * steps.states, *c = steps.c + t * 2 * steps.states;
    const bool cut = care && steps.cut[t];
    for (int64_t i = 0; i < kRegisters; ++i) {
      const int64_t lane = i * kLanes<S>;
      const V dt = LoadRaw<V>(steps.dt + t * steps.pitch + lane);
      const V u = LoadRaw<V>(steps.u + t * steps.pitch + lane), x = dt * u;
      Complex<S> sum{LoadRaw<V>(channels.d + lane) * u, V{}};
      for (int64_t n = 0; n < steps.states; ++n) {
        S* h_n = h + n * 2 * kBlock<S> + lane;
        Complex<S> e, weight, slope;
        Discretize<S, zoh, care, false>(dt, channels, n, i, e, weight, slope);
        const Complex<S> state = Advance<S, zoh, care>(u, x, e, weight, {b[2 * n], b[2 * n + 1]},
                                                       cut, LoadPair(h_n, kBlock<S>));
        StorePair(h_n, kBlock<S>, state);
        sum = MultiplyAdd(state, ComplexNumber<S>{c[2 * n], c[2 * n + 1]}, sum);
      }
      StorePair(y + t * 2 * kBlock<S> + lane, kBlock<S>, sum);
    }
  }
}

// The tape is (t, n, part, lane).
template <class S, bool zoh, bool care>
void Record(Channels<S, 2> channels, Steps<S> steps, Tape<S> tape) {
  using V = Register<S>;
  const int64_t row = steps.states * 2 * kBlock<S>;
  for (int64_t t = 0; t < steps.count; ++t) {
    const S* b = steps.b + t * 2 * steps.states;
    const bool cut = care && steps.cut[t];
    for (int64_t i = 0; i < kRegisters; ++i) {
      const int64_t lane = i * kLanes<S>;
      const V dt = LoadRaw<V>(steps.dt + t * steps.pitch + lane);
      const V u = LoadRaw<V>(steps.u + t * steps.pitch + lane), x = dt * u;
      for (int64_t n = 0; n < steps.states; ++n) {
        const int64_t at = t * row + n * 2 * kBlock<S> + lane;
        Complex<S> e, weight, slope;
        Discretize<S, zoh, care, true>(dt, channels, n, i, e, weight, slope);
        const Complex<S> state = Advance<S, zoh, care>(u, x, e, weight, {b[2 * n], b[2 * n + 1]},
                                                       cut, LoadPair(tape.h + at, kBlock<S>));
        StorePair(tape.h + row + at, kBlock<S>, state);
        StorePair(tape.e + at, kBlock<S>, e);
        if constexpr (zoh) {
          StorePair(tape.weight + at, kBlock<S>, weight);
          StorePair(tape.slope + at, kBlock<S>, slope);
        }
      }
    }
  }
}

// Of the cotangents, those of the states and da are (n, part, lane), g_y is (t, part, lane), and db
// and dc are (t, n, part) and kLanes numbers each. Those of what is real are real parts.
template <class S, bool zoh, bool care>
void BackwardBlock(Channels<S, 2> channels, Steps<S> steps, Tape<S> tape, Cotangents<S> g) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const int64_t row = steps.states * 2 * kBlock<S>;
  for (int64_t t = steps.count - 1; t >= 0; --t) {
    const S *b = steps.b + t * 2 * steps.states, *c = steps.c + t * 2 * steps.states;
    S *db = g.db + t * 2 * steps.states * N, *dc = g.dc + t * 2 * steps.states * N;
    const bool cut = care && steps.cut[t];
    for (int64_t i = 0; i < kRegisters; ++i) {
      const int64_t lane = i * N, step = t * steps.pitch + lane;
      const V dt = LoadRaw<V>(steps.dt + step), u = LoadRaw<V>(steps.u + step), x = dt * u;
      const Complex<S> g_y = LoadPair(g.g_y + t * 2 * kBlock<S> + lane, kBlock<S>);
      V through_b{}, through_z{};
      for (int64_t n = 0; n < steps.states; ++n) {
        const int64_t state = n * 2 * kBlock<S> + lane, at = t * row + state;
        const ComplexNumber<S> b_n{b[2 * n], b[2 * n + 1]}, c_n{c[2 * n], c[2 * n + 1]};
        const Complex<S> lambda = MultiplyAdd(g_y, c_n, LoadPair(g.state + state, kBlock<S>));
        const Complex<S> h = LoadPair(tape.h + row + at, kBlock<S>);
        StorePair(dc + 2 * n * N, N, MultiplyAdd(g_y, h, LoadPair(dc + 2 * n * N, N)));
        const Complex<S> e = LoadPair(tape.e + at, kBlock<S>);
        Complex<S> carried = lambda * e;
        Complex<S> exponent = carried * LoadPair(tape.h + at, kBlock<S>);
        if constexpr (care) {
          carried = cut ? Complex<S>{} : carried;
          exponent = cut ? Complex<S>{} : exponent;
        }
        StorePair(g.state + state, kBlock<S>, carried);
        Complex<S> da = MultiplyAdd(exponent, dt, LoadPair(g.da + state, kBlock<S>));
        const Complex<S> a = LoadPair(channels.a + state, kBlock<S>);
        through_z += exponent.re * a.re;
        through_z -= exponent.im * a.im;
        Complex<S> db_n = LoadPair(db + 2 * n * N, N);
        if constexpr (zoh) {
          const Complex<S> weighted = LoadPair(tape.weight + at, kBlock<S>) * lambda;
          const Complex<S> of_weight = lambda * b_n * u;
          db_n = MultiplyAdd(weighted, u, db_n);
          through_b += weighted.re * b_n.re - weighted.im * b_n.im;
          through_z += of_weight.re * e.re - of_weight.im * e.im;
          da = MultiplyAdd(of_weight, LoadPair(tape.slope + at, kBlock<S>), da);
        } else {
          db_n = MultiplyAdd(lambda, x, db_n);
          through_b += lambda.re * b_n.re;
          through_b -= lambda.im * b_n.im;
        }
        StorePair(g.da + state, kBlock<S>, da);
        StorePair(db + 2 * n * N, N, db_n);
      }
      const V scale = zoh ? V(V{} + S{1}) : dt;
      if constexpr (!zoh) through_z += through_b * u;
      StoreRaw(g.du + step, V(g_y.re * LoadRaw<V>(channels.d + lane) + through_b * scale));
      StoreRaw(g.ddt + step, through_z);
      StoreRaw(g.dd + lane, V(LoadRaw<V>(g.dd + lane) + g_y.re * u));
    }
  }
}

}  // namespace
}  // namespace selective
}  // namespace fastscan
