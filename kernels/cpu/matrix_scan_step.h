// One step of the matrix scan, and the gradients of its coefficients, for `matrix_scan_isa.cc`.
// Included once per instruction set, after matrix_scan_product.h and as it is: inside an unnamed
// namespace.

namespace fastscan::matrix {
namespace {

template <class M>
struct StepOf {
  using E = typename M::E;
  using S = typename M::S;
  using Num = typename M::Num;
  static constexpr int64_t kSize = M::kSize;

  const Sizes& sizes;
  int64_t groups;
  Keep<E, M::N> used;  // lanes of the last group
  const S* coefficients[kCoefficients];

  static Num At(Rows<S> x, int64_t row, int64_t group) {
    return LoadNumber<E, M::N>(x.data + row * x.stride + group * kSize);
  }
  static void Put(Rows<S> x, int64_t row, int64_t group, const Num& value) {
    StoreNumber<E, M::N>(x.data + row * x.stride + group * kSize, value);
  }
  Rows<S> Dense(S* data) const { return {data, groups * kSize}; }

  // to = body(i, k) for group k of every row i.
  template <class Body>
  [[gnu::always_inline]] void ForEach(Rows<S> to, Body body) const {
    for (int64_t i = 0; i < sizes.n; ++i) {
      for (int64_t k = 0; k < groups; ++k) Put(to, i, k, body(i, k));
    }
  }
  void Zero(Rows<S> to) const {
    ForEach(to, [](int64_t, int64_t) { return Num{}; });
  }
  void Copy(Rows<S> from, Rows<S> to) const {
    ForEach(to, [&](int64_t i, int64_t k) { return At(from, i, k); });
  }
  void Sum(Rows<S> x, Rows<S> y, Rows<S> to) const {
    ForEach(to, [&](int64_t i, int64_t k) {
      Num sum = At(x, i, k);
      Add(sum, At(y, i, k));
      return sum;
    });
  }
  // to = add + x in the lanes that `keep` names, and add alone in the others.
  void SumWhere(const Keep<E, M::N>& keep, Rows<S> add, Rows<S> x, Rows<S> to) const {
    ForEach(to, [&](int64_t i, int64_t k) {
      Num sum = At(x, i, k);
      keep.Select(sum);
      if (add.data != nullptr) Add(sum, At(add, i, k));
      return sum;
    });
  }
  // to = add + d in.
  void Scale(Rows<S> in, Rows<S> add, Rows<S> to) const {
    const int64_t step = sizes.counts[1] == 1 ? 0 : 1;
    for (int64_t i = 0; i < sizes.n; ++i) {
      const Num d = M::Coefficient(coefficients[1], i * step);
      for (int64_t k = 0; k < groups; ++k) {
        Num sum{};
        if (add.data != nullptr) sum = At(add, i, k);
        AddProduct(sum, d, At(in, i, k));
        Put(to, i, k, sum);
      }
    }
  }

  // inner = -v x, for `count` rows of v from `term` on.
  void MinusInner(const S* v, int64_t term, int64_t count, Rows<S> x, S* inner) const {
    Product<M>{v, term * sizes.n, sizes.n, 1, count, sizes.n, groups, x, {}, Dense(inner)}.Run();
    for (int64_t i = 0; i < count * groups; ++i) {
      Num value = LoadNumber<E, M::N>(inner + i * kSize);
      Negate(value);
      StoreNumber<E, M::N>(inner + i * kSize, value);
    }
  }
  // x += v^T inner, for `count` rows of v from `term` on.
  void AddOuter(const S* v, int64_t term, int64_t count, S* inner, Rows<S> x) const {
    Product<M>{v, term * sizes.n, 1, sizes.n, sizes.n, count, groups, Dense(inner), x, x}.Run();
  }

  // out = add + A in, or with the transpose of A. `out` may be `add`, which may be left out; `work`
  // has room for a state and r rows of one.
  void Apply(bool transposed, Rows<S> in, Rows<S> add, Rows<S> out, S* work) const {
    const int64_t n = sizes.n;
    if (coefficients[0] != nullptr) {
      const int64_t down = transposed ? 1 : n, across = transposed ? n : 1;
      return Product<M>{coefficients[0], 0, down, across, n, n, groups, in, add, out}.Run();
    }
    const S* u = coefficients[transposed ? 3 : 2];
    const S* w = coefficients[transposed ? 2 : 3];
    if (!sizes.product) {
      Scale(in, add, out);
      MinusInner(w, 0, sizes.r, in, work);
      return AddOuter(u, 0, sizes.r, work, out);
    }
    const Rows<S> x = Dense(work + sizes.r * groups * kSize);
    if (transposed) {
      Copy(in, x);
    } else {
      Scale(in, {}, x);
    }
    for (int64_t i = 0; i < sizes.r; ++i) {
      const int64_t term = transposed ? sizes.r - 1 - i : i;
      MinusInner(w, term, 1, x, work);
      AddOuter(u, term, 1, work, x);
    }
    if (transposed) return Scale(x, add, out);
    if (add.data != nullptr) return Sum(add, x, out);
    Copy(x, out);
  }

  // Where the gradients of a step go, and whether they are added to what is there.
  struct Gradients {
    S* to[kCoefficients];
    bool add[kCoefficients];
    Keep<E, M::N> keep;
  };

  // Element `to` + j of a gradient is the sum over lanes and groups of a x[j].
  void RowGradient(const Gradients& out, int which, int64_t to, const S* a, Rows<S> x) const {
    constexpr int C = M::kTile;
    const int64_t n = sizes.n, whole = used.all ? groups : groups - 1;
    for (int64_t column = 0; column < n; column += C) {
      const int64_t count = column + C <= n ? C : n - column;
      Num sum[C] = {};
      const auto add = [&](int64_t k, auto select) __attribute__((always_inline)) {
        Num a_k = LoadNumber<E, M::N>(a + k * kSize);
        select(a_k);
        Unroll<C>([&](auto j) __attribute__((always_inline)) {
          // What lies beyond the last column is computed from it again, and dropped.
          Num x_j = At(x, column + (count == C || j < count ? int64_t{j} : count - 1), k);
          select(x_j);
          AddProduct(sum[j], a_k, x_j);
        });
      };
      for (int64_t k = 0; k < whole; ++k) add(k, [](Num&) {});
      if (whole < groups) add(whole, [&](Num& v) { used.Select(v); });
      M::Emit(out.keep, out.to[which], to + column, sum, count, out.add[which]);
    }
  }

  void DenseGradients(const Gradients& out, Rows<S> adjoint, Rows<S> H) const {
    for (int64_t i = 0; i < sizes.n; ++i) {
      RowGradient(out, 0, i * sizes.n, adjoint.data + i * adjoint.stride, H);
    }
  }

  void ScaleGradient(const Gradients& out, Rows<S> adjoint, Rows<S> H) const {
    if (out.to[1] == nullptr) return;
    constexpr int C = M::kTile;
    const bool one = sizes.counts[1] == 1;
    Num sum[C] = {};
    int64_t count = 0;
    for (int64_t j = 0; j < sizes.n; ++j) {
      for (int64_t k = 0; k < groups; ++k) {
        Num lambda = At(adjoint, j, k), past = At(H, j, k);
        if (!used.all && k + 1 == groups) {
          used.Select(lambda);
          used.Select(past);
        }
        AddProduct(sum[count], lambda, past);
      }
      if (one || (++count < C && j + 1 < sizes.n)) continue;
      M::Emit(out.keep, out.to[1], j + 1 - count, sum, count, out.add[1]);
      for (Num& x : sum) x = Num{};
      count = 0;
    }
    if (one) M::Emit(out.keep, out.to[1], 0, sum, 1, out.add[1]);
  }

  // Of d, u and w. `work` has room for r + 1 states and r + 1 rows of one.
  void FactorGradients(const Gradients& out, Rows<S> adjoint, Rows<S> H, S* work) const {
    const S *u = coefficients[2], *w = coefficients[3];
    const int64_t r = sizes.r, row = groups * kSize;
    // The negatives of w_i^T H and u_i^T lambda.
    S *s = work, *q = work + r * row;
    const auto gradients = [&](int64_t i, Rows<S> lambda, Rows<S> past, const S* q_i) {
      if (out.to[2] != nullptr) RowGradient(out, 2, i * sizes.n, s + i * row, lambda);
      if (out.to[3] != nullptr) RowGradient(out, 3, i * sizes.n, q_i, past);
    };
    if (!sizes.product) {
      MinusInner(w, 0, r, H, s);
      MinusInner(u, 0, r, adjoint, q);
      for (int64_t i = 0; i < r; ++i) gradients(i, adjoint, H, q + i * row);
      return ScaleGradient(out, adjoint, H);
    }
    // The state before each factor, and lambda behind it.
    const auto past = [&](int64_t i) { return Dense(q + row + i * sizes.n * row); };
    const Rows<S> mu = past(r);
    Scale(H, {}, past(0));
    for (int64_t i = 0; i < r; ++i) {
      MinusInner(w, i, 1, past(i), s + i * row);
      if (i + 1 == r) break;
      Copy(past(i), past(i + 1));
      AddOuter(u, i, 1, s + i * row, past(i + 1));
    }
    Copy(adjoint, mu);
    for (int64_t i = r - 1; i >= 0; --i) {
      MinusInner(u, i, 1, mu, q);
      gradients(i, mu, past(i), q);
      AddOuter(w, i, 1, q, mu);
    }
    ScaleGradient(out, mu, H);
  }
};

}  // namespace
}  // namespace fastscan::matrix
