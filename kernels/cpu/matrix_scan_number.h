// Numbers that have a value in each vector lane, and exchanges between lanes, for
// `matrix_scan_isa.cc`. Included once per instruction set, after vector.h and as it is: inside an
// unnamed namespace.

namespace fastscan::matrix {
namespace {

// What the recurrence is written for: E tells the dtype, N the number of lanes.

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

template <class E, int N>
[[gnu::always_inline]] inline void Negate(Number<E, N>& x) {
  Unroll<E::kParts>([&](auto i) __attribute__((always_inline)) { x.part[i] = -x.part[i]; });
}

// Which lanes are kept: all, none, or those with ones in `bits`.
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

// Lane l of row i and lane i of row l change places, in exchanges of blocks of `by` lanes.
template <int by, class V, int... I>
[[gnu::always_inline]] inline void Exchange(V& upper, V& lower, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const V first = __builtin_shufflevector(upper, lower, (I & by ? n + I - by : I)...);
  lower = __builtin_shufflevector(upper, lower, (I & by ? n + I : I + by)...);
  upper = first;
}
// Lanes of `upper` and `lower` by turns: of the first halves of each block of four, and of the second.
template <class V, int... I>
[[gnu::always_inline]] inline void Zip(V& upper, V& lower, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I);
  const V first = __builtin_shufflevector(upper, lower, (I / 4 * 4 + I % 4 / 2 + I % 2 * n)...);
  lower = __builtin_shufflevector(upper, lower, (I / 4 * 4 + I % 4 / 2 + 2 + I % 2 * n)...);
  upper = first;
}
template <int W, int by, class V>
[[gnu::always_inline]] inline void Transpose(V (&rows)[W]) {
  constexpr auto lanes = std::make_integer_sequence<int, W>();
  if constexpr (by == 2 && sizeof(V) == 4 * W) {
    // In place of exchanges by 2 and by 1: each of these is one instruction, and an exchange of
    // single floats two.
    Unroll<W / 4>([&](auto block) __attribute__((always_inline)) {
      V* row = rows + 4 * decltype(block)::value;
      Zip(row[0], row[1], lanes);
      Zip(row[2], row[3], lanes);
      Exchange<2>(row[0], row[2], lanes);
      Exchange<2>(row[1], row[3], lanes);
      std::swap(row[1], row[2]);
    });
  } else if constexpr (by >= 1) {
    Unroll<W>([&](auto i) __attribute__((always_inline)) {
      constexpr int row = decltype(i)::value;
      if constexpr ((row & by) == 0) Exchange<by>(rows[row], rows[row + by], lanes);
    });
    Transpose<W, by / 2>(rows);
  }
}

// The sums of neighbours: of those of `a` in the first half of each block of `block` lanes, of
// those of `b` in the second half.
template <int unit, int block, class V, int... I>
[[gnu::always_inline]] inline V AddNeighbours(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int n = sizeof...(I), half = block / 2;
  constexpr auto even = [](int i) {
    const int within = i % block, from = within % half;
    return (within < half ? 0 : n) + i / block * block + from / unit * 2 * unit + from % unit;
  };
  return __builtin_shufflevector(a, b, even(I)...) +
         __builtin_shufflevector(a, b, (even(I) + unit)...);
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

}  // namespace
}  // namespace fastscan::matrix
