// The loops of the selective scan over a chunk of time and a block of channels, for
// `selective_scan_isa.cc`. Included as `selective_scan_rows.h` is, and after it.

namespace fastscan {
namespace selective {
namespace {

// ---- one block, one chunk --------------------------------------------------------------------

// What does not change over time, of one block: of real states, and of complex ones in
// `selective_scan_complex.h`.
template <class S, int parts>
struct Channels;

template <class S>
struct Channels<S, 1> {
  static constexpr int kRows = 4;
  S* a;          // (n, lane)
  S* exponent;   // A log2(e), which makes dt A the exponent of a power of two,
  S* rest;       // and what rounding has left of it
  S* inverse_a;  // 1 / A, for zoh
  S* d;          // (lane)
  S* limit;      // (lane): up to this |dt| no exponent leaves the range of PowerOfTwo

  // Of kRows rows and two of lanes.
  Channels(S* at, int64_t row)
      : a(at),
        exponent(at + row),
        rest(at + 2 * row),
        inverse_a(at + 3 * row),
        d(at + 4 * row),
        limit(d + kBlock<S>) {}

  // All but d, from a.
  void Prepare(int64_t states) {
    for (int64_t i = 0; i < kBlock<S>; ++i) {
      // Not 0, so that the limit is finite; what is not finite itself makes it NaN.
      S largest = S(1e-30), strange = 0;
      for (int64_t n = 0; n < states; ++n) {
        const int64_t at = n * kBlock<S> + i;
        const S size = a[at] < 0 ? -a[at] : a[at];
        SplitExponent(a[at], exponent[at], rest[at]);
        inverse_a[at] = S{1} / a[at];
        largest = size > largest ? size : largest;
        strange += a[at] - a[at];
      }
      limit[i] = PowerConstants<S>::kSafe * PowerConstants<S>::kLn2 / largest + strange;
    }
  }
};

// The operands of one chunk: rows of lanes, `pitch` apart, and of states.
template <class S>
struct Steps {
  const S *u, *dt;
  int64_t pitch;
  const S *b, *c;
  const uint8_t* cut;
  bool has_cut;
  int64_t count, states;
};

// Whether an exponent may leave the range of PowerOfTwo, or there is a reset: then the loops have
// more to do.
template <class S, int parts>
bool NeedsCare(const Steps<S>& steps, const Channels<S, parts>& channels) {
  using Bits = Vector<std::conditional_t<sizeof(S) == 4, int32_t, int64_t>, kLanes<S>>;
  const Block<S> limit = Block<S>::Load(channels.limit);
  Bits within = ~Bits{};
  for (int64_t t = 0; t < steps.count; ++t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      // False of NaN.
      within &= (dt.part[i] <= limit.part[i]) & (-dt.part[i] <= limit.part[i]);
    });
  }
  bool all = !steps.has_cut;
  for (int i = 0; i < kLanes<S>; ++i) all = all && within[i];
  return !all;
}

// exp(dt A), the weight of B u, and (`slope`) the derivative of this weight with respect to A.
template <class S, bool zoh, bool care, bool with_slope>
[[gnu::always_inline]] inline void Discretize(Register<S> dt, const Channels<S, 1>& channels,
                                              int64_t at, Register<S>& e, Register<S>& weight,
                                              Register<S>& slope) {
  using V = Register<S>;
  const V exponent = LoadRaw<V>(channels.exponent + at), rest = LoadRaw<V>(channels.rest + at);
  if constexpr (!zoh) {
    e = ValueOfPower<S, care>(dt, exponent, rest);
    weight = dt;
  } else {
    // Next to A = 0 by the polynomials, elsewhere by what they mean.
    using X = PowerConstants<S>;
    const Power<S> power = PowerOfTwo<S, care>(dt, exponent, rest);
    e = power.value;
    const V inverse = LoadRaw<V>(channels.inverse_a + at);
    const auto near = power.k == 0;
    weight = near ? V(dt * (power.twice_w * (X::kLog2E / 2))) : V((e - S{1}) * inverse);
    if constexpr (with_slope) {
      const V by_series = dt * dt * Horner(X::kSlope, power.f);
      slope = near ? by_series : V((dt * e - weight) * inverse);
    }
  }
}

// Runs over the chunk from the states `h` (n, lane), which it updates.
template <class S, bool zoh, bool care>
void ForwardBlock(Channels<S, 1> channels, Steps<S> steps, S* h, S* y) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const Block<S> d = Block<S>::Load(channels.d);
  const int64_t states = steps.states;
  for (int64_t t = 0; t < steps.count; ++t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    const Block<S> u = Block<S>::Load(steps.u + t * steps.pitch);
    const S *b = steps.b + t * states, *c = steps.c + t * states;
    const bool cut = care && steps.cut[t];
    Block<S> sum, x;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      sum.part[i] = d.part[i] * u.part[i];
      x.part[i] = dt.part[i] * u.part[i];
    });
    for (int64_t n = 0; n < states; ++n) {
      const S b_n = b[n], c_n = c[n];
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        const int64_t at = n * kBlock<S> + i * N;
        V e, weight, slope;
        Discretize<S, zoh, care, false>(dt.part[i], channels, at, e, weight, slope);
        const V drive = zoh ? V(weight * u.part[i]) : x.part[i];
        V past = e * LoadRaw<V>(h + at);
        if constexpr (care) past = cut ? V{} : past;
        const V state = past + drive * b_n;
        StoreRaw(h + at, state);
        sum.part[i] += state * c_n;
      });
    }
    sum.Store(y + t * steps.pitch);
  }
}

// What the backward pass needs of every step and state: (t, n, lane).
template <class S>
struct Tape {
  S* h;  // of t + 1: h[0] is the state before the chunk
  S* e;
  S *weight, *slope;  // with zoh
};

template <class S, bool zoh, bool care>
void Record(Channels<S, 1> channels, Steps<S> steps, Tape<S> tape) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const int64_t states = steps.states, row = states * kBlock<S>;
  for (int64_t t = 0; t < steps.count; ++t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    const Block<S> u = Block<S>::Load(steps.u + t * steps.pitch);
    const S* b = steps.b + t * states;
    const bool cut = care && steps.cut[t];
    const S* h = tape.h + t * row;
    Block<S> x;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      x.part[i] = dt.part[i] * u.part[i];
    });
    for (int64_t n = 0; n < states; ++n) {
      const S b_n = b[n];
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        const int64_t at = n * kBlock<S> + i * N;
        V e, weight, slope;
        Discretize<S, zoh, care, true>(dt.part[i], channels, at, e, weight, slope);
        const V drive = zoh ? V(weight * u.part[i]) : x.part[i];
        V past = e * LoadRaw<V>(h + at);
        if constexpr (care) past = cut ? V{} : past;
        StoreRaw(tape.h + (t + 1) * row + at, V(past + drive * b_n));
        StoreRaw(tape.e + t * row + at, e);
        if constexpr (zoh) {
          StoreRaw(tape.weight + t * row + at, weight);
          StoreRaw(tape.slope + t * row + at, slope);
        }
      });
    }
  }
}

// The cotangents of one block: of the state (n, lane), which comes from the chunk behind and goes to
// the one in front; sums over time (da, dd); and of the chunk's steps. db and dc are sums over the
// blocks, (t, n) and kLanes numbers each, which the caller adds up.
template <class S>
struct Cotangents {
  S *state, *da, *dd;
  const S* g_y;
  S *du, *ddt;
  S *db, *dc;
};

template <class S, bool zoh, bool care>
void BackwardBlock(Channels<S, 1> channels, Steps<S> steps, Tape<S> tape,
                   Cotangents<S> g) {
  constexpr int N = kLanes<S>;
  using V = Register<S>;
  const Block<S> d = Block<S>::Load(channels.d);
  Block<S> dd = Block<S>::Load(g.dd);
  const int64_t states = steps.states, row = states * kBlock<S>;
  for (int64_t t = steps.count - 1; t >= 0; --t) {
    const Block<S> dt = Block<S>::Load(steps.dt + t * steps.pitch);
    const Block<S> u = Block<S>::Load(steps.u + t * steps.pitch);
    const Block<S> g_y = Block<S>::Load(g.g_y + t * steps.pitch);
    const S *b = steps.b + t * states, *c = steps.c + t * states;
    S *db = g.db + t * states * N, *dc = g.dc + t * states * N;
    const S *h = tape.h + t * row, *e = tape.e + t * row;
    const bool cut = care && steps.cut[t];
    Block<S> x, through_b{}, through_z{};
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      x.part[i] = dt.part[i] * u.part[i];
    });
    for (int64_t n = 0; n < states; ++n) {
      const S b_n = b[n], c_n = c[n];
      V db_n = LoadRaw<V>(db + n * N), dc_n = LoadRaw<V>(dc + n * N);
      Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
        const int64_t at = n * kBlock<S> + i * N;
        const V lambda = LoadRaw<V>(g.state + at) + g_y.part[i] * c_n;
        dc_n += g_y.part[i] * LoadRaw<V>(h + row + at);
        const V e_n = LoadRaw<V>(e + at);
        V carried = lambda * e_n;
        V exponent = carried * LoadRaw<V>(h + at);
        if constexpr (care) {
          carried = cut ? V{} : carried;
          exponent = cut ? V{} : exponent;
        }
        StoreRaw(g.state + at, carried);
        V da = LoadRaw<V>(g.da + at) + exponent * dt.part[i];
        through_z.part[i] += exponent * LoadRaw<V>(channels.a + at);
        if constexpr (zoh) {
          const V weighted = LoadRaw<V>(tape.weight + t * row + at) * lambda;
          const V of_weight = lambda * u.part[i] * b_n;
          db_n += weighted * u.part[i];
          through_b.part[i] += weighted * b_n;
          through_z.part[i] += of_weight * e_n;
          da += of_weight * LoadRaw<V>(tape.slope + t * row + at);
        } else {
          db_n += lambda * x.part[i];
          through_b.part[i] += lambda * b_n;
        }
        StoreRaw(g.da + at, da);
      });
      StoreRaw(db + n * N, db_n);
      StoreRaw(dc + n * N, dc_n);
    }
    Block<S> du, ddt;
    Unroll<kRegisters>([&](auto i) __attribute__((always_inline)) {
      const V scale = zoh ? V(V{} + S{1}) : dt.part[i];
      du.part[i] = g_y.part[i] * d.part[i] + through_b.part[i] * scale;
      ddt.part[i] = through_z.part[i];
      if constexpr (!zoh) ddt.part[i] += through_b.part[i] * u.part[i];
      dd.part[i] += g_y.part[i] * u.part[i];
    });
    du.Store(g.du + t * steps.pitch);
    ddt.Store(g.ddt + t * steps.pitch);
  }
  dd.Store(g.dd);
}

}  // namespace
}  // namespace selective
}  // namespace fastscan
