// The matrix scan and its adjoint for dense matrices of few rows, one vector a system, for
// `matrix_scan_isa.cc`. Included once per instruction set, after matrix_scan_lanes.h and as it is:
// inside an unnamed namespace.
//
// Lanes are systems. The state stays in registers. A few steps at a time are brought into lanes,
// gone through, and brought back, so that transposing fills whole registers whatever n is.

namespace fastscan::matrix {
namespace {

template <class E, int N, int n>
struct Small {
  using M = Systems<E, N>;
  using S = typename E::Scalar;
  using Num = Number<E, N>;
  static constexpr int64_t kSteps = 8, kState = n * M::kSize, kMatrix = n * kState;

  // The state, which is kept between calls, and the steps that are in lanes.
  struct Memory {
    S state[kState];
    S start[kState];
    S x[kSteps * kState], past[kSteps * kState];
    S A[kSteps * kMatrix];
  };

  // An array of all systems: where it begins in each, and what a step is in Scalars.
  struct Bundle {
    char* data[N];
    int64_t step;
  };
  // Steps in lanes.
  struct Steps {
    S* first;
    int64_t stride;

    S* At(int64_t i) const { return first + i * stride; }
  };

  const Part& part;
  Memory& memory;

  template <class Of>
  Bundle All(Of of) const {
    Bundle all;
    for (int l = 0; l < N; ++l) {
      const Stream& stream = of(part.systems[l < part.count ? l : 0]);
      all.data[l] = stream.data;
      all.step = stream.step * M::P;
    }
    return all;
  }

  // move(count, offset, at) for each stretch of `steps` steps that lies together in memory, `core`
  // Scalars each: its length, where it begins, and where that is in lanes.
  template <class Move>
  static Steps Stretches(const Bundle& of, int64_t core, int64_t begin, int64_t steps, S* lanes,
                         Move move) {
    if (of.step == -core) {
      move(steps * core, (begin + steps - 1) * of.step, lanes);
      return {lanes + (steps - 1) * core * N, -core * N};
    }
    if (of.step == core) {
      move(steps * core, begin * of.step, lanes);
    } else {
      for (int64_t i = 0; i < steps; ++i) move(core, (begin + i) * of.step, lanes + i * core * N);
    }
    return {lanes, core * N};
  }
  static Steps Gather(const Bundle& from, int64_t core, int64_t begin, int64_t steps, S* to) {
    return Stretches(from, core, begin, steps, to, [&](int64_t count, int64_t offset, S* at) {
      M::GatherElements(count / M::P, from.data, offset, at);
    });
  }
  void Scatter(const Bundle& to, int64_t core, int64_t begin, int64_t steps, S* from) const {
    Stretches(to, core, begin, steps, from, [&](int64_t count, int64_t offset, S* at) {
      M::ScatterElements(count / M::P, part, at, to.data, offset, false);
    });
  }

  bool AnyReset(int64_t begin, int64_t steps) const {
    if (part.systems[0].reset.data == nullptr) return false;
    char any = 0;
    for (int l = 0; l < part.count; ++l) {
      const Stream& reset = part.systems[l].reset;
      for (int64_t i = 0; i < steps; ++i) any |= reset.data[(begin + i) * reset.step];
    }
    return any != 0;
  }

  static void LoadState(const S* from, Num (&h)[n]) {
    Unroll<n>([&](auto i) __attribute__((always_inline)) {
      h[i] = LoadNumber<E, N>(from + i * M::kSize);
    });
  }
  static void StoreState(S* to, const Num (&h)[n]) {
    Unroll<n>([&](auto i) __attribute__((always_inline)) {
      StoreNumber(to + i * M::kSize, h[i]);
    });
  }

  void Forward(int64_t begin, int64_t end) const {
    constexpr int64_t core = n * M::P;
    const Bundle A = All([](const System& system) { return system.coefficients[0]; });
    const Bundle X = All([](const System& system) { return system.in; });
    const Bundle H = All([](const System& system) { return system.out; });
    for (int64_t t = begin; t < end; t += kSteps) {
      const int64_t steps = end - t < kSteps ? end - t : kSteps;
      const Steps matrices = Gather(A, n * core, t, steps, memory.A);
      const Steps x = Gather(X, core, t, steps, memory.x);
      if (AnyReset(t, steps)) {
        Advance<true>(t, steps, matrices, x);
      } else {
        Advance<false>(t, steps, matrices, x);
      }
      Scatter(H, core, t, steps, memory.x);
    }
  }

  // The states of some steps take the place of their x.
  template <bool with_reset>
  void Advance(int64_t t, int64_t steps, Steps A, Steps x) const {
    Num h[n];
    LoadState(memory.state, h);
    for (int64_t s = 0; s < steps; ++s) {
      const S* a = A.At(s);
      Num next[n] = {}, x_t[n];
      Unroll<n>([&](auto i) __attribute__((always_inline)) {
        Unroll<n>([&](auto j) __attribute__((always_inline)) {
          AddProduct(next[i], M::Coefficient(a, i * n + j), h[j]);
        });
      });
      if constexpr (with_reset) {
        const Keep<E, N> keep = M::KeepAt(part, t + s);
        if (!keep.all) {
          for (Num& value : next) keep.Select(value);
        }
      }
      LoadState(x.At(s), x_t);
      Unroll<n>([&](auto i) __attribute__((always_inline)) {
        h[i] = next[i];
        Add(h[i], x_t[i]);
      });
      StoreState(x.At(s), h);
    }
    StoreState(memory.state, h);
  }

  void Adjoint(int64_t begin, int64_t end) const {
    constexpr int64_t core = n * M::P;
    const Bundle A = All([](const System& system) { return system.coefficients[0]; });
    const Bundle g = All([](const System& system) { return system.in; });
    const Bundle dX = All([](const System& system) { return system.out; });
    const Bundle H = All([](const System& system) { return system.H; });
    const Bundle dA = All([](const System& system) { return system.gradients[0]; });
    const bool gradient = dA.data[0] != nullptr;
    if (gradient && begin == 0) {
      const Bundle H0 = All([](const System& system) { return Stream{system.H0, 0}; });
      M::GatherElements(n, H0.data, 0, memory.start);
    }
    for (int64_t top = end; top > begin; top -= kSteps) {
      const int64_t steps = top - begin < kSteps ? top - begin : kSteps, t = top - steps;
      const Steps matrices = Gather(A, n * core, t, steps, memory.A);
      const Steps lambda = Gather(g, core, t, steps, memory.x);
      const bool any = AnyReset(t, steps);
      if (!gradient) {
        any ? Retreat<true, false>(t, steps, matrices, lambda, {})
            : Retreat<false, false>(t, steps, matrices, lambda, {});
      } else {
        const int64_t first = t > 0 ? 0 : 1;  // whose past is not the initial state
        Steps past = Gather(H, core, t + first - 1, steps - first, memory.past);
        past.first -= first * past.stride;
        any ? Retreat<true, true>(t, steps, matrices, lambda, past)
            : Retreat<false, true>(t, steps, matrices, lambda, past);
        Scatter(dA, n * core, t, steps, memory.A);
      }
      Scatter(dX, core, t, steps, memory.x);
    }
  }

  // lambda takes the place of g, and the gradient of a matrix that of the matrix.
  template <bool with_reset, bool gradient>
  void Retreat(int64_t t, int64_t steps, Steps A, Steps g, Steps past) const {
    Num c[n];
    LoadState(memory.state, c);
    for (int64_t s = steps - 1; s >= 0; --s) {
      S* a = A.At(s);
      Num lambda[n], h[n];
      LoadState(g.At(s), lambda);
      Unroll<n>([&](auto i) __attribute__((always_inline)) {
        Add(lambda[i], c[i]);
        c[i] = Num{};
      });
      StoreState(g.At(s), lambda);
      Keep<E, N> keep;
      if constexpr (with_reset) keep = M::KeepAt(part, t + s);
      if constexpr (gradient) LoadState(t + s > 0 ? past.At(s) : memory.start, h);
      Unroll<n>([&](auto i) __attribute__((always_inline)) {
        Unroll<n>([&](auto j) __attribute__((always_inline)) {
          AddProduct(c[j], M::Coefficient(a, i * n + j), lambda[i]);
          if constexpr (gradient) {
            Num product{};
            AddProduct(product, lambda[i], h[j]);
            if (with_reset && !keep.all) keep.Select(product);
            StoreNumber(a + (i * n + j) * M::kSize, product);
          }
        });
      });
      if (with_reset && !keep.all) {
        for (Num& value : c) keep.Select(value);
      }
    }
    StoreState(memory.state, c);
  }
};

}  // namespace
}  // namespace fastscan::matrix
