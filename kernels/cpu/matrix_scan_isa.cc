// The loops of `matrix_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA.
#include "matrix_scan_loops.h"
#include "vector.h"

namespace fastscan::matrix {
namespace {

// A number in each of N lanes: one vector, or two for the real and the imaginary parts.
template <class E, int N>
struct Number {
  using S = typename E::Scalar;
  using V = Vector<S, N>;
  static constexpr int P = E::kParts;
  V part[P];
};

template <class E, int N>
[[gnu::always_inline]] inline Number<E, N> LoadNumber(const typename E::Scalar* p) {
  Number<E, N> x;
  Unroll<E::kParts>([&](auto i) __attribute__((always_inline)) {
    x.part[i] = LoadRaw<typename Number<E, N>::V>(p + i * N);
  });
  return x;
}
template <class E, int N>
[[gnu::always_inline]] inline void StoreNumber(typename E::Scalar* p, const Number<E, N>& x) {
  Unroll<E::kParts>([&](auto i) __attribute__((always_inline)) { StoreRaw(p + i * N, x.part[i]); });
}
template <class E, int N>
[[gnu::always_inline]] inline void Add(Number<E, N>& x, const Number<E, N>& y) {
  Unroll<E::kParts>([&](auto i) __attribute__((always_inline)) { x.part[i] += y.part[i]; });
}
// x += a y and x -= a y.
template <class E, int N>
[[gnu::always_inline]] inline void AddProduct(Number<E, N>& x, const Number<E, N>& a,
                                              const Number<E, N>& y) {
  x.part[0] += a.part[0] * y.part[0];
  if constexpr (E::kParts == 2) {
    x.part[0] -= a.part[1] * y.part[1];
    x.part[1] += a.part[0] * y.part[1];
    x.part[1] += a.part[1] * y.part[0];
  }
}
template <class E, int N>
[[gnu::always_inline]] inline void SubtractProduct(Number<E, N>& x, const Number<E, N>& a,
                                                   const Number<E, N>& y) {
  x.part[0] -= a.part[0] * y.part[0];
  if constexpr (E::kParts == 2) {
    x.part[0] += a.part[1] * y.part[1];
    x.part[1] -= a.part[0] * y.part[1];
    x.part[1] -= a.part[1] * y.part[0];
  }
}

// Which lanes keep their state at a step: all, none, or some.
template <class E, int N>
struct Keep {
  using Bits = Vector<std::conditional_t<sizeof(typename E::Scalar) == 4, int32_t, int64_t>, N>;
  bool all = true, none = false;
  Bits bits{};

  [[gnu::always_inline]] void Select(Number<E, N>& x) const {
    Unroll<E::kParts>([&](auto i) __attribute__((always_inline)) {
      using V = typename Number<E, N>::V;
      x.part[i] = BitCast<V>(Bits(BitCast<Bits>(x.part[i]) & bits));
    });
  }
};

// ---- exchanges between lanes -------------------------------------------------------------------

// Lane l of row i and lane i of row l change places, in exchanges of blocks of `by` lanes.
template <int by, class V, int... I>
[[gnu::always_inline]] inline void Exchange(V& upper, V& lower, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const V first = __builtin_shufflevector(upper, lower, (I & by ? n + I - by : I)...);
  lower = __builtin_shufflevector(upper, lower, (I & by ? n + I : I + by)...);
  upper = first;
}
template <int W, int by, class V>
[[gnu::always_inline]] inline void Transpose(V (&rows)[W]) {
  if constexpr (by >= 1) {
    Unroll<W>([&](auto i) __attribute__((always_inline)) {
      constexpr int row = decltype(i)::value;
      if constexpr ((row & by) == 0) {
        Exchange<by>(rows[row], rows[row + by], std::make_integer_sequence<int, W>());
      }
    });
    Transpose<W, by / 2>(rows);
  }
}

// The sums of neighbours: of those of `a` in the first half of each block of `block` lanes, of those
// of `b` in the second half.
template <int unit, int block, class V, int... I>
[[gnu::always_inline]] inline V AddNeighbours(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I), half = block / 2;
  constexpr auto even = [](int i) {
    const int within = i % block, from = within % half;
    return (within < half ? 0 : n) + i / block * block + from / unit * 2 * unit + from % unit;
  };
  return __builtin_shufflevector(a, b, even(I)...) + __builtin_shufflevector(a, b, (even(I) + unit)...);
}

// Lane l is the sum over the lanes of v[l]. Lanes of 16 bytes are added first, which costs less.
template <int N, int count, class V>
[[gnu::always_inline]] inline V SumEach(V (&v)[count]) {
  if constexpr (count == 1) {
    return v[0];
  } else {
    constexpr int lane = sizeof(V) > 16 ? 16 * N / static_cast<int>(sizeof(V)) : N;
    constexpr bool within = N / count < lane;
    V half[count / 2];
    Unroll<count / 2>([&](auto i) __attribute__((always_inline)) {
      half[i] = AddNeighbours<within ? 1 : lane, within ? lane : N>(
          v[2 * i], v[2 * i + 1], std::make_integer_sequence<int, N>());
    });
    return SumEach<N>(half);
  }
}

// ---- lanes -----------------------------------------------------------------------------------

// A state in registers' order: element i of it in N lanes, its parts one after the other.

// Lanes are N columns, and further ones behind them: element i * groups + k is row i of group k.
// Coefficients are the same in all lanes and read where they are.
template <class E_, int N_>
struct Columns {
  using E = E_;
  using S = typename E::Scalar;
  static constexpr int N = N_, P = E::kParts;
  static constexpr bool kOwnCoefficients = false;
  using Num = Number<E, N>;
  using Plain = std::conditional_t<sizeof(S) == 4, F32, F64>;

  static int64_t Groups(const Sizes&, int64_t count) { return (count + N - 1) / N; }

  [[gnu::always_inline]] static Num Coefficient(const S* p, int64_t i) {
    Num x;
    Unroll<P>([&](auto part) __attribute__((always_inline)) {
      x.part[part] = Splat<Plain, N>(p + i * P + part);
    });
    return x;
  }

  static void Gather(const Sizes& sizes, const Part& part, char* const* from, int64_t offset,
                     S* to) {
    // Copies, which the compiler knows that no store changes.
    const int64_t n = sizes.n, row = sizes.m * P, count = part.count;
    const int64_t whole = P == 1 ? count / N * N : 0;
    const auto* base = reinterpret_cast<const S*>(from[0]) + offset + part.first * P;
    for (int64_t i = 0; i < n; ++i, base += row) {
      int64_t lane = 0;
      for (; lane < whole; lane += N, to += N) StoreRaw(to, LoadRaw<Vector<S, N>>(base + lane));
      for (; lane < count; lane += N, to += N * P) {
        for (int l = 0; l < N; ++l) {
          for (int q = 0; q < P; ++q) {
            to[q * N + l] = lane + l < count ? base[(lane + l) * P + q] : S{0};
          }
        }
      }
    }
  }

  static void Scatter(const Sizes& sizes, const Part& part, const S* from, char* const* to,
                      int64_t offset) {
    const int64_t n = sizes.n, row = sizes.m * P, count = part.count;
    const int64_t whole = P == 1 ? count / N * N : 0;
    auto* base = reinterpret_cast<S*>(to[0]) + offset + part.first * P;
    for (int64_t i = 0; i < n; ++i, base += row) {
      int64_t lane = 0;
      for (; lane < whole; lane += N, from += N) {
        StoreRaw(base + lane, LoadRaw<Vector<S, N>>(from));
      }
      for (; lane < count; lane += N, from += N * P) {
        for (int l = 0; l < N && lane + l < count; ++l) {
          for (int q = 0; q < P; ++q) base[(lane + l) * P + q] = from[q * N + l];
        }
      }
    }
  }

  static Keep<E, N> KeepAt(const Part& part, int64_t t) {
    const Stream& reset = part.systems[0].reset;
    const bool forget = reset.data != nullptr && reset.data[t * reset.step] != 0;
    Keep<E, N> keep;
    keep.all = !forget;
    keep.none = forget;
    return keep;
  }

  // Element i + j of the gradient is the sum over lanes of x[j].
  static constexpr int kTile = N > 1 ? N : 8;
  [[gnu::always_inline]] static void Emit(const Keep<E, N>&, S* to, int64_t i, Num (&x)[kTile],
                                          int64_t count, bool add) {
    S* at = to + i * P;
    S sums[P][kTile];
    Unroll<P>([&](auto part) __attribute__((always_inline)) {
      using V = Vector<S, kTile>;
      V sum;
      if constexpr (N > 1) {
        V each[N];
        Unroll<N>([&](auto j) __attribute__((always_inline)) { each[j] = x[j].part[part]; });
        sum = SumEach<N>(each);
      } else {
        Unroll<kTile>([&](auto j) __attribute__((always_inline)) {
          sum[decltype(j)::value] = x[j].part[part];
        });
      }
      if (P == 1 && count == kTile) {
        StoreRaw(at, add ? LoadRaw<V>(at) + sum : sum);
      } else {
        StoreRaw(sums[part], sum);
      }
    });
    if (P == 1 && count == kTile) return;
    for (int64_t j = 0; j < count; ++j) {
      for (int part = 0; part < P; ++part) {
        at[j * P + part] = add ? at[j * P + part] + sums[part][j] : sums[part][j];
      }
    }
  }
};

// Lanes are systems: element i of all of them lies together, of coefficients too.
template <class E_, int N_>
struct Systems {
  using E = E_;
  using S = typename E::Scalar;
  static constexpr int N = N_, P = E::kParts;
  static constexpr bool kOwnCoefficients = true;
  using Num = Number<E, N>;

  static int64_t Groups(const Sizes& sizes, int64_t) { return sizes.m; }

  [[gnu::always_inline]] static Num Coefficient(const S* p, int64_t i) {
    return LoadNumber<E, N>(p + i * N * P);
  }

  // W elements of all systems, by transposing W of these at a time.
  template <int W>
  static void GatherSome(int64_t& i, int64_t count, char* const* from, int64_t offset, S* to) {
    for (; i + W <= count; i += W) {
      for (int l = 0; l < N; l += W) {
        Vector<S, W> rows[W];
        Unroll<W>([&](auto j) __attribute__((always_inline)) {
          rows[j] = LoadRaw<Vector<S, W>>(reinterpret_cast<const S*>(from[l + j]) + offset + i);
        });
        Transpose<W, W / 2>(rows);
        Unroll<W>([&](auto j) __attribute__((always_inline)) {
          StoreRaw(to + (i + j) * N + l, rows[j]);
        });
      }
    }
    if constexpr (W > 1) GatherSome<W / 2>(i, count, from, offset, to);
  }
  template <int W>
  static void ScatterSome(int64_t& i, int64_t count, const S* from, char* const* to,
                          int64_t offset) {
    for (; i + W <= count; i += W) {
      for (int l = 0; l < N; l += W) {
        Vector<S, W> rows[W];
        Unroll<W>([&](auto j) __attribute__((always_inline)) {
          rows[j] = LoadRaw<Vector<S, W>>(from + (i + j) * N + l);
        });
        Transpose<W, W / 2>(rows);
        Unroll<W>([&](auto j) __attribute__((always_inline)) {
          StoreRaw(reinterpret_cast<S*>(to[l + j]) + offset + i, rows[j]);
        });
      }
    }
    if constexpr (W > 1) ScatterSome<W / 2>(i, count, from, to, offset);
  }

  static void GatherElements(int64_t count, char* const* from, int64_t offset, S* to) {
    int64_t i = 0;
    GatherSome<N>(i, count * P, from, offset, to);
  }
  static void ScatterElements(int64_t count, const Part& part, const S* from, char* const* to,
                              int64_t offset, bool add) {
    if (!add && part.count == N) {
      int64_t i = 0;
      return ScatterSome<N>(i, count * P, from, to, offset);
    }
    for (int l = 0; l < part.count; ++l) {
      auto* p = reinterpret_cast<S*>(to[l]) + offset;
      for (int64_t i = 0; i < count * P; ++i) p[i] = add ? p[i] + from[i * N + l] : from[i * N + l];
    }
  }
  static void Gather(const Sizes& sizes, const Part&, char* const* from, int64_t offset, S* to) {
    GatherElements(sizes.n * sizes.m, from, offset, to);
  }
  static void Scatter(const Sizes& sizes, const Part& part, const S* from, char* const* to,
                      int64_t offset) {
    ScatterElements(sizes.n * sizes.m, part, from, to, offset, false);
  }

  static Keep<E, N> KeepAt(const Part& part, int64_t t) {
    Keep<E, N> keep;
    if (part.systems[0].reset.data == nullptr) return keep;
    keep.none = true;
    for (int l = 0; l < N; ++l) {
      const Stream& reset = part.systems[l < part.count ? l : 0].reset;
      const bool forget = reset.data[t * reset.step] != 0;
      keep.bits[l] = forget ? 0 : -1;
      keep.all = keep.all && !forget;
      keep.none = keep.none && forget;
    }
    return keep;
  }

  static constexpr int kTile = 4;
  [[gnu::always_inline]] static void Emit(const Keep<E, N>& keep, S* to, int64_t i, Num (&x)[kTile],
                                          int64_t count, bool add) {
    S* at = to + i * N * P;
    for (int64_t j = 0; j < count; ++j, at += N * P) {
      if (!keep.all) keep.Select(x[j]);
      if (add) Add(x[j], LoadNumber<E, N>(at));
      StoreNumber(at, x[j]);
    }
  }
};

// ---- one step --------------------------------------------------------------------------------

template <class M>
struct StepOf {
  using E = typename M::E;
  using S = typename M::S;
  using Num = typename M::Num;
  static constexpr int N = M::N, P = M::P;
  static constexpr int64_t kSize = N * P;

  const Sizes& sizes;
  int64_t groups;
  const S* coefficients[kCoefficients];

  static Num At(const S* p, int64_t i) { return LoadNumber<E, N>(p + i * kSize); }
  static void Put(S* p, int64_t i, const Num& x) { StoreNumber(p + i * kSize, x); }

  // out += A in, for R rows of K groups.
  template <bool transposed, int R, int K>
  [[gnu::always_inline]] void Tile(const S* in, S* out, int64_t row, int64_t group) const {
    const int64_t n = sizes.n;
    const S* A = coefficients[0];
    const int64_t over = transposed ? n : 1, down = transposed ? 1 : n;
    Num sum[R][K];
    Unroll<R>([&](auto i) __attribute__((always_inline)) {
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        sum[i][k] = At(out, (row + i) * groups + group + k);
      });
    });
    for (int64_t j = 0; j < n; ++j) {
      Num x[K];
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        x[k] = At(in, j * groups + group + k);
      });
      Unroll<R>([&](auto i) __attribute__((always_inline)) {
        const Num a = M::Coefficient(A, j * over + (row + i) * down);
        Unroll<K>([&](auto k) __attribute__((always_inline)) { AddProduct(sum[i][k], a, x[k]); });
      });
    }
    Unroll<R>([&](auto i) __attribute__((always_inline)) {
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        Put(out, (row + i) * groups + group + k, sum[i][k]);
      });
    });
  }

  template <bool transposed, int K>
  void Rows(const S* in, S* out, int64_t group) const {
    constexpr int R = 8 / (K * P);
    int64_t row = 0;
    for (; row + R <= sizes.n; row += R) Tile<transposed, R, K>(in, out, row, group);
    for (; row < sizes.n; ++row) Tile<transposed, 1, K>(in, out, row, group);
  }

  template <bool transposed>
  void Dense(const S* in, S* out) const {
    int64_t group = 0;
    for (; group + 2 <= groups; group += 2) Rows<transposed, 2>(in, out, group);
    if (group < groups) Rows<transposed, 1>(in, out, group);
  }

  // inner = v_i^T x, over the rows, for every group.
  void Inner(const S* v, int64_t term, const S* x, S* inner) const {
    for (int64_t k = 0; k < groups; ++k) {
      Num sum{};
      for (int64_t j = 0; j < sizes.n; ++j) {
        AddProduct(sum, M::Coefficient(v, term * sizes.n + j), At(x, j * groups + k));
      }
      Put(inner, k, sum);
    }
  }

  // x -= v_i inner, for every row.
  void SubtractOuter(const S* v, int64_t term, const S* inner, S* x) const {
    for (int64_t j = 0; j < sizes.n; ++j) {
      const Num a = M::Coefficient(v, term * sizes.n + j);
      for (int64_t k = 0; k < groups; ++k) {
        Num at = At(x, j * groups + k);
        SubtractProduct(at, a, At(inner, k));
        Put(x, j * groups + k, at);
      }
    }
  }

  // out += d * in.
  void AddScaled(const S* in, S* out) const {
    const bool one = sizes.counts[1] == 1;
    for (int64_t j = 0; j < sizes.n; ++j) {
      const Num d = M::Coefficient(coefficients[1], one ? 0 : j);
      for (int64_t k = 0; k < groups; ++k) {
        Num at = At(out, j * groups + k);
        AddProduct(at, d, At(in, j * groups + k));
        Put(out, j * groups + k, at);
      }
    }
  }

  void Zero(S* x, int64_t count) const {
    for (int64_t i = 0; i < count * kSize; ++i) x[i] = 0;
  }
  void Copy(const S* from, S* to, int64_t count) const {
    for (int64_t i = 0; i < count * kSize; ++i) to[i] = from[i];
  }
  int64_t state() const { return sizes.n * groups; }

  // out += A in, or the transpose. `work` has room for a state and r rows of one.
  template <bool transposed>
  void Apply(const S* in, S* out, S* work) const {
    if (coefficients[0] != nullptr) return Dense<transposed>(in, out);
    const S* u = coefficients[transposed ? 3 : 2];
    const S* w = coefficients[transposed ? 2 : 3];
    if (!sizes.product) {
      AddScaled(in, out);
      for (int64_t i = 0; i < sizes.r; ++i) {
        Inner(w, i, in, work);
        SubtractOuter(u, i, work, out);
      }
      return;
    }
    S* x = work + sizes.r * groups * kSize;
    if (transposed) {
      Copy(in, x, state());
    } else {
      Zero(x, state());
      AddScaled(in, x);
    }
    for (int64_t i = 0; i < sizes.r; ++i) {
      const int64_t term = transposed ? sizes.r - 1 - i : i;
      Inner(w, term, x, work);
      SubtractOuter(u, term, work, x);
    }
    if (transposed) return AddScaled(x, out);
    for (int64_t i = 0; i < state(); ++i) {
      Num sum = At(out, i);
      Add(sum, At(x, i));
      Put(out, i, sum);
    }
  }

  // Where the gradients of a step go, and whether they are added to what is there.
  struct Gradients {
    S* to[kCoefficients];
    bool add[kCoefficients];
    Keep<E, N> keep;
  };

  // Element `to` + j of a gradient is the sum over lanes and groups of a x[j], or its negative.
  template <bool negative>
  void RowGradient(const Gradients& out, int which, int64_t to, const S* a, const S* x) const {
    if (out.to[which] == nullptr) return;
    constexpr int C = M::kTile;
    const int64_t n = sizes.n, row = groups * kSize;
    for (int64_t column = 0; column < n; column += C) {
      const int64_t count = column + C <= n ? C : n - column;
      const S* rows = x + column * row;
      Num sum[C] = {};
      for (int64_t k = 0; k < groups; ++k) {
        const Num a_k = At(a, k);
        Unroll<C>([&](auto j) __attribute__((always_inline)) {
          // What lies beyond the last column is computed from it again, and dropped.
          const S* x_j = rows + (count == C || j < count ? int64_t{j} : count - 1) * row;
          if constexpr (negative) {
            SubtractProduct(sum[j], a_k, At(x_j, k));
          } else {
            AddProduct(sum[j], a_k, At(x_j, k));
          }
        });
      }
      M::Emit(out.keep, out.to[which], to + column, sum, count, out.add[which]);
    }
  }

  void DenseGradients(const Gradients& out, const S* adjoint, const S* H) const {
    for (int64_t i = 0; i < sizes.n; ++i) {
      RowGradient<false>(out, 0, i * sizes.n, adjoint + i * groups * kSize, H);
    }
  }

  // -(x inner^T) summed over lanes and groups goes to the term's row of a gradient.
  void OuterGradient(const Gradients& out, int which, int64_t term, const S* x,
                     const S* inner) const {
    RowGradient<true>(out, which, term * sizes.n, inner, x);
  }

  void ScaleGradient(const Gradients& out, const S* adjoint, const S* H) const {
    if (out.to[1] == nullptr) return;
    constexpr int C = M::kTile;
    const bool one = sizes.counts[1] == 1;
    Num sum[C] = {};
    int64_t count = 0;
    for (int64_t j = 0; j < sizes.n; ++j) {
      for (int64_t k = 0; k < groups; ++k) {
        AddProduct(sum[count], At(adjoint, j * groups + k), At(H, j * groups + k));
      }
      if (one || (++count < C && j + 1 < sizes.n)) continue;
      M::Emit(out.keep, out.to[1], j + 1 - count, sum, count, out.add[1]);
      for (Num& x : sum) x = Num{};
      count = 0;
    }
    if (one) M::Emit(out.keep, out.to[1], 0, sum, 1, out.add[1]);
  }

  // `work` has room for r + 1 states and r + 1 rows of one.
  void AllGradients(const Gradients& out, const S* adjoint, const S* H, S* work) const {
    if (coefficients[0] != nullptr) return DenseGradients(out, adjoint, H);
    const S *u = coefficients[2], *w = coefficients[3];
    S* q = work;
    S* s = q + groups * kSize;
    if (!sizes.product) {
      for (int64_t i = 0; i < sizes.r; ++i) {
        Inner(w, i, H, s);
        Inner(u, i, adjoint, q);
        OuterGradient(out, 2, i, adjoint, s);
        OuterGradient(out, 3, i, H, q);
      }
      return ScaleGradient(out, adjoint, H);
    }
    // The state before each factor, and its inner product with w_i.
    S* past = s + sizes.r * groups * kSize;
    const int64_t row = groups * kSize, size = state() * kSize;
    Zero(past, state());
    AddScaled(H, past);
    for (int64_t i = 0; i < sizes.r; ++i) {
      Inner(w, i, past + i * size, s + i * row);
      if (i + 1 == sizes.r) break;
      Copy(past + i * size, past + (i + 1) * size, state());
      SubtractOuter(u, i, s + i * row, past + (i + 1) * size);
    }
    S* mu = past + sizes.r * size;
    Copy(adjoint, mu, state());
    for (int64_t i = sizes.r - 1; i >= 0; --i) {
      Inner(u, i, mu, q);
      OuterGradient(out, 2, i, mu, s + i * row);
      OuterGradient(out, 3, i, past + i * size, q);
      SubtractOuter(w, i, q, mu);
    }
    ScaleGradient(out, mu, H);
  }
};

// ---- over time -------------------------------------------------------------------------------

// The arrays that a part works in. Without `memory`, only their size is told.
template <class M>
struct Scratch {
  using S = typename M::S;
  static constexpr int64_t kSize = M::N * M::P;

  Scratch(const Sizes& sizes, int64_t count, void* memory)
      : groups(M::Groups(sizes, count)), memory(static_cast<S*>(memory)) {
    const int64_t state = sizes.n * groups * kSize;
    for (S*& p : states) p = Take(state);
    work = Take((sizes.r + 1) * (state + groups * kSize));
    for (int c = 0; c < kCoefficients; ++c) {
      coefficients[c] = Take(M::kOwnCoefficients ? sizes.counts[c] * kSize : 0);
      gradients[c] = Take(M::kOwnCoefficients ? sizes.counts[c] * kSize : 0);
    }
  }

  S* Take(int64_t count) {
    S* p = memory == nullptr ? nullptr : memory + used;
    used += count;
    return p;
  }

  int64_t groups, used = 0;
  S* memory;
  S* states[3];  // the running state first
  S* work;
  S* coefficients[kCoefficients];
  S* gradients[kCoefficients];
};

template <class M>
int64_t ScratchBytes(const Sizes& sizes, int64_t count) {
  return Scratch<M>(sizes, count, nullptr).used * static_cast<int64_t>(sizeof(typename M::S));
}

constexpr int64_t kPrefetchBytes = 1024;

template <class M>
struct Pass {
  using S = typename M::S;
  using Step = StepOf<M>;
  using Num = typename M::Num;

  const Sizes& sizes;
  const Part& part;
  Scratch<M> scratch;
  Step step;

  Pass(const Sizes& sizes, const Part& part, void* memory)
      : sizes(sizes),
        part(part),
        scratch(sizes, part.count, memory),
        step{sizes, scratch.groups, {}} {
    for (int l = 0; l < kSystems; ++l) {
      const System& system = part.systems[l < part.count ? l : 0];
      Take(in, l, system.in);
      Take(out, l, system.out);
      Take(H, l, system.H);
      for (int c = 0; c < kCoefficients; ++c) {
        Take(coefficients[c], l, system.coefficients[c]);
        Take(gradients[c], l, system.gradients[c]);
      }
    }
  }

  // An array of all systems in the lanes: where it begins in each, and what a step is in Scalars.
  static constexpr int kSystems = M::kOwnCoefficients ? M::N : 1;
  struct Bundle {
    char* data[kSystems];
    int64_t step;
  };
  Bundle in, out, H, coefficients[kCoefficients], gradients[kCoefficients];

  static void Take(Bundle& bundle, int lane, const Stream& stream) {
    bundle.data[lane] = stream.data;
    bundle.step = stream.step * M::P;
  }

  void LoadCoefficients(int64_t t, bool first) {
    for (int c = 0; c < kCoefficients; ++c) {
      if (sizes.counts[c] == 0) continue;
      const Bundle& from = coefficients[c];
      if constexpr (M::kOwnCoefficients) {
        step.coefficients[c] = scratch.coefficients[c];
        if (from.step == 0 && !first) continue;
        M::GatherElements(sizes.counts[c], from.data, t * from.step, scratch.coefficients[c]);
      } else {
        step.coefficients[c] = reinterpret_cast<const S*>(from.data[0]) + t * from.step;
      }
    }
  }

  // Asks for the lines of a step that will be read or written soon. The processor does so itself
  // where addresses ascend, and seldom where they descend, as they do in the adjoint.
  void Prefetch(int64_t t, const Bundle& of, int64_t count) const {
    if (of.step == 0) return;
    for (const char* data : of.data) {
      const char* p = data + t * of.step * static_cast<int64_t>(sizeof(S));
      const int64_t bytes = count * M::P * static_cast<int64_t>(sizeof(S));
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
    }
  }
  void PrefetchCoefficients(int64_t t) const {
    for (int c = 0; c < kCoefficients; ++c) {
      if (sizes.counts[c] > 0) Prefetch(t, coefficients[c], sizes.counts[c]);
    }
  }
  int64_t Ahead() const {
    const int64_t bytes = sizes.n * sizes.m * M::P * static_cast<int64_t>(sizeof(S));
    return 1 + kPrefetchBytes / (bytes + 1);
  }

  void Gather(int64_t t, const Bundle& from, S* to) const {
    M::Gather(sizes, part, from.data, t * from.step, to);
  }
  void Scatter(int64_t t, const S* from, const Bundle& to) const {
    M::Scatter(sizes, part, from, to.data, t * to.step);
  }

  void Forward(int64_t begin, int64_t end) {
    S *H = scratch.states[0], *next = scratch.states[1], *past = scratch.states[2];
    for (int64_t t = begin; t < end; ++t) {
      LoadCoefficients(t, t == begin);
      Gather(t, in, next);
      const auto keep = M::KeepAt(part, t);
      if (keep.all) {
        step.template Apply<false>(H, next, scratch.work);
      } else if (!keep.none) {
        step.Zero(past, step.state());
        step.template Apply<false>(H, past, scratch.work);
        for (int64_t i = 0; i < step.state(); ++i) {
          Num kept = Step::At(past, i);
          keep.Select(kept);
          Add(kept, Step::At(next, i));
          Step::Put(next, i, kept);
        }
      }
      Scatter(t, next, out);
      S* other = H;
      H = next;
      next = other;
    }
    if (H != scratch.states[0]) step.Copy(H, scratch.states[0], step.state());
  }

  void Adjoint(int64_t begin, int64_t end) {
    S *c = scratch.states[0], *adjoint = scratch.states[1];
    const int64_t ahead = Ahead();
    for (int64_t t = end - 1; t >= begin; --t) {
      if (t >= ahead) {
        Prefetch(t - ahead, in, sizes.n * sizes.m);
        Prefetch(t - ahead, out, sizes.n * sizes.m);
        PrefetchCoefficients(t - ahead);
      }
      LoadCoefficients(t, t == end - 1);
      Gather(t, in, adjoint);
      for (int64_t i = 0; i < step.state(); ++i) {
        Num sum = Step::At(adjoint, i);
        Add(sum, Step::At(c, i));
        Step::Put(adjoint, i, sum);
      }
      Scatter(t, adjoint, out);
      const auto keep = M::KeepAt(part, t);
      step.Zero(c, step.state());
      if (keep.none) continue;
      step.template Apply<true>(adjoint, c, scratch.work);
      if (keep.all) continue;
      for (int64_t i = 0; i < step.state(); ++i) {
        Num kept = Step::At(c, i);
        keep.Select(kept);
        Step::Put(c, i, kept);
      }
    }
  }

  void LoadPast(int64_t t, S* to) const {
    if (t > 0) return Gather(t - 1, H, to);
    char* from[kSystems];
    for (int l = 0; l < kSystems; ++l) {
      from[l] = part.systems[l < part.count ? l : 0].H0;
    }
    M::Gather(sizes, part, from, 0, to);
  }

  void Gradients(int64_t begin, int64_t end) {
    S *adjoint = scratch.states[1], *past = scratch.states[2];
    typename Step::Gradients to{};
    for (int c = 0; c < kCoefficients; ++c) {
      const bool over_time = gradients[c].step == 0;
      to.add[c] = over_time || (sizes.add[c] && !M::kOwnCoefficients);
      if (!M::kOwnCoefficients || gradients[c].data[0] == nullptr) continue;
      to.to[c] = scratch.gradients[c];
      if (over_time) step.Zero(scratch.gradients[c], sizes.counts[c]);
    }
    const int64_t ahead = Ahead();
    for (int64_t t = end - 1; t >= begin; --t) {
      if (t > ahead) Prefetch(t - 1 - ahead, H, sizes.n * sizes.m);
      for (int c = 0; c < kCoefficients && t >= ahead; ++c) {
        if (gradients[c].data[0] != nullptr) Prefetch(t - ahead, gradients[c], sizes.counts[c]);
      }
      to.keep = M::KeepAt(part, t);
      if constexpr (!M::kOwnCoefficients) {
        for (int c = 0; c < kCoefficients; ++c) {
          if (gradients[c].data[0] == nullptr) continue;
          to.to[c] = reinterpret_cast<S*>(gradients[c].data[0]) + t * gradients[c].step;
        }
        if (to.keep.none) {
          ZeroGradients(to);
          continue;
        }
      }
      LoadCoefficients(t, t == end - 1);
      Gather(t, this->out, adjoint);
      LoadPast(t, past);
      step.AllGradients(to, adjoint, past, scratch.work);
      ScatterGradients(t, false);
    }
    if (begin < end) ScatterGradients(begin, true);
  }

  void ZeroGradients(const typename Step::Gradients& to) const {
    for (int c = 0; c < kCoefficients; ++c) {
      if (to.to[c] == nullptr || to.add[c]) continue;
      for (int64_t i = 0; i < sizes.counts[c] * M::P; ++i) to.to[c][i] = 0;
    }
  }

  // Those of step t, or those that were added up over time.
  void ScatterGradients(int64_t t, bool over_time) const {
    if constexpr (M::kOwnCoefficients) {
      for (int c = 0; c < kCoefficients; ++c) {
        const Bundle& to = gradients[c];
        if (to.data[0] == nullptr || (to.step == 0) != over_time) continue;
        M::ScatterElements(sizes.counts[c], part, scratch.gradients[c], to.data, t * to.step,
                           sizes.add[c] || over_time);
      }
    }
  }
};

template <class M>
void Load(const Sizes& sizes, const Part& part, char* const* edges, void* memory) {
  M::Gather(sizes, part, edges, 0, Scratch<M>(sizes, part.count, memory).states[0]);
}
template <class M>
void Store(const Sizes& sizes, const Part& part, char* const* edges, const void* memory) {
  const Scratch<M> scratch(sizes, part.count, const_cast<void*>(memory));
  M::Scatter(sizes, part, scratch.states[0], edges, 0);
}
template <class M>
void Forward(const Sizes& sizes, const Part& part, int64_t begin, int64_t end, void* memory) {
  Pass<M>(sizes, part, memory).Forward(begin, end);
}
template <class M>
void Adjoint(const Sizes& sizes, const Part& part, int64_t begin, int64_t end, void* memory) {
  Pass<M>(sizes, part, memory).Adjoint(begin, end);
}
template <class M>
void Gradients(const Sizes& sizes, const Part& part, int64_t begin, int64_t end, void* memory) {
  Pass<M>(sizes, part, memory).Gradients(begin, end);
}

template <class M>
constexpr Kernel kKernel = {ScratchBytes<M>, Load<M>,    Store<M>, Forward<M>,
                            Adjoint<M>,      Gradients<M>, M::N};

template <class E>
void Accumulate(void* sum, const void* more, int64_t count) {
  auto* into = static_cast<typename E::Scalar*>(sum);
  const auto* from = static_cast<const typename E::Scalar*>(more);
  for (int64_t i = 0; i < count * E::kParts; ++i) into[i] += from[i];
}

template <class E>
constexpr int kLanes = kVectorBytes / sizeof(typename E::Scalar);

template <class E>
constexpr Loops kLoops = {
    kKernel<Columns<E, kLanes<E>>>,
    kKernel<Columns<E, 1>>,
    kKernel<Systems<E, kLanes<E>>>,
    Accumulate<E>,
    sizeof(typename E::Scalar) * E::kParts,
};

}  // namespace

namespace FASTSCAN_ISA {

const Loops& LoopsOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return kLoops<F32>;
    case Dtype::kF64:
      return kLoops<F64>;
    case Dtype::kC64:
      return kLoops<C64>;
    default:
      return kLoops<C128>;
  }
}

}  // namespace FASTSCAN_ISA
}  // namespace fastscan::matrix
