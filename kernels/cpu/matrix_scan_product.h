// Products of matrices in lanes, tile by tile, for `matrix_scan_isa.cc`. Included once per
// instruction set, after matrix_scan_lanes.h and as it is: inside an unnamed namespace.

namespace fastscan::matrix {
namespace {

// A matrix in lanes: where it begins, and how many Scalars lie between its rows.
template <class S>
struct Rows {
  S* data = nullptr;
  int64_t stride = 0;
};

// out = add + A in, where `out` may be `add`, which may be left out. A's element (i, j) is
// coefficient first + i * down + j * across.
template <class M>
struct Product {
  using E = typename M::E;
  using S = typename M::S;
  using Num = typename M::Num;
  static constexpr int P = M::P;

  const S* A;
  int64_t first, down, across;
  int64_t rows, inner, groups;
  Rows<S> in, add, out;

  void Run() const {
    int64_t group = 0;
    // Sums that wait for each other only if they are the same: eight at a time keep all units busy.
    if (rows < 4) group = Sweep<8 / P>(group);
    group = Sweep<2>(group);
    Sweep<1>(group);
  }

 private:
  template <int K>
  int64_t Sweep(int64_t group) const {
    constexpr int R = 8 / (K * P);
    for (; group + K <= groups; group += K) {
      int64_t row = 0;
      if constexpr (R > 1) {
        for (; row + R <= rows; row += R) Tile<R, K>(row, group);
      }
      for (; row < rows; ++row) Tile<1, K>(row, group);
    }
    return group;
  }

  static Num At(const S* p, int k) { return LoadNumber<E, M::N>(p + k * M::kSize); }

  template <int R, int K>
  void Tile(int64_t row, int64_t group) const {
    // Copies, which the compiler knows that no store changes.
    const int64_t count = inner, step = in.stride, over = across, under = down;
    const S* a = A + (first + row * under) * M::kStep;
    const S* x = in.data + group * M::kSize;
    Num sum[R][K] = {};
    if (add.data != nullptr) {
      const int64_t stride = add.stride;
      const S* from = add.data + row * stride + group * M::kSize;
      Unroll<R>([&](auto i) __attribute__((always_inline)) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          sum[i][k] = At(from + i * stride, k);
        });
      });
    }
    for (int64_t j = 0; j < count; ++j, x += step, a += over * M::kStep) {
      Num x_j[K];
      Unroll<K>([&](auto k) __attribute__((always_inline)) { x_j[k] = At(x, k); });
      Unroll<R>([&](auto i) __attribute__((always_inline)) {
        const Num a_ij = M::Coefficient(a, i * under);
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          AddProduct(sum[i][k], a_ij, x_j[k]);
        });
      });
    }
    const int64_t stride = out.stride;
    S* to = out.data + row * stride + group * M::kSize;
    Unroll<R>([&](auto i) __attribute__((always_inline)) {
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        StoreNumber<E, M::N>(to + i * stride + k * M::kSize, sum[i][k]);
      });
    });
  }
};

}  // namespace
}  // namespace fastscan::matrix
