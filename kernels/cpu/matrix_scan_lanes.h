// What lies across the lanes of a vector, columns or systems, and how it gets there, for
// `matrix_scan_isa.cc`. Included once per instruction set, after matrix_scan_number.h and as it is:
// inside an unnamed namespace.
//
// A matrix in lanes has rows of groups, one number of N lanes each, its parts one after the other.

namespace fastscan::matrix {
namespace {

// Columns `first` to `first + count` of a row-major matrix whose rows have `width` elements.
struct Window {
  int64_t rows, width, first, count;
};

// Lanes are N columns, and each further group the N behind them. Coefficients are the same in all
// lanes and read where they are.
template <class E_, int N_>
struct Columns {
  using E = E_;
  using S = typename E::Scalar;
  static constexpr int N = N_, P = E::kParts;
  static constexpr int64_t kSize = N * P, kStep = P;  // of a number, and of a coefficient
  static constexpr bool kOwnCoefficients = false;
  using Num = Number<E, N>;
  using Plain = std::conditional_t<sizeof(S) == 4, F32, F64>;

  static int64_t Groups(const Sizes&, int64_t count) { return (count + N - 1) / N; }

  // Whether a matrix in memory is one in lanes already.
  static bool InPlace(const Window& window) {
    return P == 1 ? window.count % N == 0 : N == 1;
  }

  [[gnu::always_inline]] static Num Coefficient(const S* p, int64_t i) {
    Num x;
    Unroll<P>([&](auto part) __attribute__((always_inline)) {
      x.part[part] = Splat<Plain, N>(p + i * P + part);
    });
    return x;
  }

  // Lanes beyond the last column become zero.
  static void Gather(const Window& window, const char* data, S* to) {
    const int64_t count = window.count, whole = P == 1 ? count / N * N : 0;
    const S* base = reinterpret_cast<const S*>(data) + window.first * P;
    for (int64_t i = 0; i < window.rows; ++i, base += window.width * P) {
      int64_t lane = 0;
      for (; lane < whole; lane += N, to += N) StoreRaw(to, LoadRaw<Vector<S, N>>(base + lane));
      for (; lane < count; lane += N, to += kSize) {
        for (int l = 0; l < N; ++l) {
          for (int q = 0; q < P; ++q) {
            to[q * N + l] = lane + l < count ? base[(lane + l) * P + q] : S{0};
          }
        }
      }
    }
  }
  static void Scatter(const Window& window, const S* from, char* data) {
    const int64_t count = window.count, whole = P == 1 ? count / N * N : 0;
    S* base = reinterpret_cast<S*>(data) + window.first * P;
    for (int64_t i = 0; i < window.rows; ++i, base += window.width * P) {
      int64_t lane = 0;
      for (; lane < whole; lane += N, from += N) {
        StoreRaw(base + lane, LoadRaw<Vector<S, N>>(from));
      }
      for (; lane < count; lane += N, from += kSize) {
        for (int l = 0; l < N && lane + l < count; ++l) {
          for (int q = 0; q < P; ++q) base[(lane + l) * P + q] = from[q * N + l];
        }
      }
    }
  }
  // The transpose of all columns: lanes are rows.
  static void GatherTransposed(const Window& window, const char* data, S* to) {
    const auto* base = reinterpret_cast<const S*>(data);
    const int64_t rows = window.rows, width = window.width, groups = (rows + N - 1) / N;
    for (int64_t column = 0; column < width; column += N) {
      for (int64_t row = 0; row < rows; row += N) {
        S* at = to + (column * groups + row / N) * kSize;
        if (P == 1 && row + N <= rows && column + N <= width) {
          Vector<S, N> block[N];
          Unroll<N>([&](auto i) __attribute__((always_inline)) {
            block[i] = LoadRaw<Vector<S, N>>(base + (row + i) * width + column);
          });
          Transpose<N, N / 2>(block);
          Unroll<N>([&](auto i) __attribute__((always_inline)) {
            StoreRaw(at + i * groups * N, block[i]);
          });
          continue;
        }
        for (int64_t i = 0; i < N && column + i < width; ++i, at += groups * kSize) {
          for (int l = 0; l < N; ++l) {
            for (int q = 0; q < P; ++q) {
              const int64_t from = ((row + l) * width + column + i) * P + q;
              at[q * N + l] = row + l < rows ? base[from] : S{0};
            }
          }
        }
      }
    }
  }
  static void Gather(const Window& window, char* const* from, int64_t offset, S* to) {
    Gather(window, from[0] + offset * static_cast<int64_t>(sizeof(S)), to);
  }
  static void Scatter(const Window& window, const Part&, const S* from, char* const* to,
                      int64_t offset) {
    Scatter(window, from, to[0] + offset * static_cast<int64_t>(sizeof(S)));
  }

  static Keep<E, N> KeepAt(const Part& part, int64_t t) {
    const Stream& reset = part.systems[0].reset;
    const bool forget = reset.data != nullptr && reset.data[t * reset.step] != 0;
    Keep<E, N> keep;
    keep.all = !forget;
    keep.none = forget;
    return keep;
  }

  // The lanes of the last group that are columns. What the others hold, which may be NaN where a
  // coefficient is infinite, must not get into a sum over lanes.
  static Keep<E, N> Used(const Part& part) {
    Keep<E, N> used;
    used.all = part.count % N == 0;
    if (used.all) return used;
    int64_t bits[N];
    for (int l = 0; l < N; ++l) bits[l] = l < part.count % N ? -1 : 0;
    used.bits = Convert<typename Keep<E, N>::Bits>(LoadRaw<Vector<int64_t, N>>(bits));
    return used;
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

// Element i of each of N arrays into N lanes, and back, by transposing W of them at a time.
template <class S, int N, int W>
void Interleave(int64_t& i, int64_t count, char* const* from, int64_t offset, S* to) {
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
  if constexpr (W > 1) Interleave<S, N, W / 2>(i, count, from, offset, to);
}
template <class S, int N, int W>
void Separate(int64_t& i, int64_t count, const S* from, char* const* to, int64_t offset) {
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
  if constexpr (W > 1) Separate<S, N, W / 2>(i, count, from, to, offset);
}

// Lanes are systems: element i of all of them lies together, of coefficients too.
template <class E_, int N_>
struct Systems {
  using E = E_;
  using S = typename E::Scalar;
  static constexpr int N = N_, P = E::kParts;
  static constexpr int64_t kSize = N * P, kStep = kSize;
  static constexpr bool kOwnCoefficients = true;
  using Num = Number<E, N>;

  static int64_t Groups(const Sizes& sizes, int64_t) { return sizes.m; }
  static bool InPlace(const Window&) { return false; }

  [[gnu::always_inline]] static Num Coefficient(const S* p, int64_t i) {
    return LoadNumber<E, N>(p + i * kSize);
  }

  static void GatherElements(int64_t count, char* const* from, int64_t offset, S* to) {
    int64_t i = 0;
    Interleave<S, N, N>(i, count * P, from, offset, to);
  }
  static void ScatterElements(int64_t count, const Part& part, const S* from, char* const* to,
                              int64_t offset, bool add) {
    if (!add && part.count == N) {
      int64_t i = 0;
      return Separate<S, N, N>(i, count * P, from, to, offset);
    }
    for (int l = 0; l < part.count; ++l) {
      auto* p = reinterpret_cast<S*>(to[l]) + offset;
      for (int64_t i = 0; i < count * P; ++i) p[i] = add ? p[i] + from[i * N + l] : from[i * N + l];
    }
  }
  static void Gather(const Window& window, char* const* from, int64_t offset, S* to) {
    GatherElements(window.rows * window.width, from, offset, to);
  }
  static void Scatter(const Window& window, const Part& part, const S* from, char* const* to,
                      int64_t offset) {
    ScatterElements(window.rows * window.width, part, from, to, offset, false);
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

  // Gradients are sums over groups only: nothing is left out.
  static Keep<E, N> Used(const Part&) { return {}; }

  static constexpr int kTile = 4;
  [[gnu::always_inline]] static void Emit(const Keep<E, N>& keep, S* to, int64_t i, Num (&x)[kTile],
                                          int64_t count, bool add) {
    S* at = to + i * kSize;
    for (int64_t j = 0; j < count; ++j, at += kSize) {
      if (!keep.all) keep.Select(x[j]);
      if (add) Add(x[j], LoadNumber<E, N>(at));
      StoreNumber(at, x[j]);
    }
  }
};

}  // namespace
}  // namespace fastscan::matrix
