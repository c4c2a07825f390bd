// The loops of `linear_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA. Time runs in sequence and channels lie across vector lanes.
#include "linear_scan_loops.h"

#include "linear_scan.h"
#include "vector.h"

namespace fastscan {
namespace {

// A row of several tiles is worked through in blocks of steps, so that a tile finds the memory
// pages and the cache lines that the one before it has opened.
constexpr int64_t kBlockBytes = 32768;

template <class E>
int64_t BlockSteps(int64_t lanes) {
  const int64_t row_bytes = lanes * static_cast<int64_t>(sizeof(typename E::Storage)) * E::kParts;
  const int64_t steps = kBlockBytes / (row_bytes > 0 ? row_bytes : 1);
  return steps < 16 ? 16 : steps;
}

template <class E>
using StorageOf = typename E::Storage;

// The element of `s` at `step` and `lane`, which may be broadcast.
template <class T>
inline T* At(const Stream& s, int64_t step, int64_t lane, int64_t parts) {
  return reinterpret_cast<T*>(s.data) + (step * s.step + lane * s.lane) * parts;
}

// Calls tile.template Run<N, K>(lane) for K registers of N channels at a time, until all channels
// are covered: first wide tiles, then single registers, then halves of them.
template <int N, class Tile>
inline void ForTail(int64_t lane, int64_t lanes, const Tile& tile) {
  if constexpr (N >= 1) {
    if (lane + N <= lanes) {
      tile.template Run<N, 1>(lane);
      lane += N;
    }
    ForTail<N / 2>(lane, lanes, tile);
  }
}
template <class E, int K, class Tile>
inline void ForTiles(int64_t lanes, const Tile& tile) {
  constexpr int W = kWidth<E>;
  int64_t lane = 0;
  for (; lane + K * W <= lanes; lane += K * W) tile.template Run<W, K>(lane);
  for (; lane + W <= lanes; lane += W) tile.template Run<W, 1>(lane);
  ForTail<W / 2>(lane, lanes, tile);
}

// ---- forward ---------------------------------------------------------------------------------

// K registers of N channels each, from step `begin` to step `end`.
template <class E>
struct ForwardTile {
  const ForwardRow& row;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    const Storage* a = At<Storage>(row.a, begin, lane, P);
    const Storage* x = At<Storage>(row.x, begin, lane, P);
    const uint8_t* reset = At<uint8_t>(row.reset, begin, lane, 1);
    Storage* h = At<Storage>(row.h, begin, lane, P);
    const int64_t a_lane = row.a.lane, x_lane = row.x.lane;

    Lanes<E, N> state[K];
    for (int k = 0; k < K; ++k) state[k] = LoadState<E, N>(row.state, lane + k * N);
    for (int64_t t = begin; t < end; ++t) {
      if (row.reset.lane != 0) {
        for (int k = 0; k < K; ++k) {
          const auto past = Multiply<E, N>(Load<E, N>(a + k * N * P * a_lane, a_lane), state[k]);
          state[k] = ZeroWhere<E, N>(reset + k * N, past) +
                     Load<E, N>(x + k * N * P * x_lane, x_lane);
        }
      } else if (*reset) {
        for (int k = 0; k < K; ++k) state[k] = Load<E, N>(x + k * N * P * x_lane, x_lane);
      } else {
        for (int k = 0; k < K; ++k) {
          state[k] = MultiplyAdd<E, N>(Load<E, N>(a + k * N * P * a_lane, a_lane), state[k],
                                       Load<E, N>(x + k * N * P * x_lane, x_lane));
        }
      }
      for (int k = 0; k < K; ++k) Store<E, N>(h + k * N * P, state[k]);
      a += row.a.step * P;
      x += row.x.step * P;
      h += row.h.step * P;
      reset += row.reset.step;
    }
    for (int k = 0; k < K; ++k) StoreState<E, N>(row.state, lane + k * N, state[k]);
  }
};

template <class E>
void Forward(const ForwardRow& row) {
  const int64_t block = BlockSteps<E>(row.lanes);
  for (int64_t begin = 0; begin < row.steps; begin += block) {
    const int64_t end = begin + block < row.steps ? begin + block : row.steps;
    ForTiles<E, 4>(row.lanes, ForwardTile<E>{row, begin, end});
  }
}

// The same N channels of R rows.
template <class E, int R>
struct ForwardManyTile {
  const ForwardRow* rows;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane) const {
    static_assert(K == 1);
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    const Stream &a_0 = rows[0].a, &x_0 = rows[0].x, &h_0 = rows[0].h, &reset_0 = rows[0].reset;
    const Storage *a[R], *x[R];
    const uint8_t* reset[R];
    Storage* h[R];
    Lanes<E, N> state[R];
    for (int r = 0; r < R; ++r) {
      a[r] = At<Storage>(rows[r].a, begin, lane, P);
      x[r] = At<Storage>(rows[r].x, begin, lane, P);
      h[r] = At<Storage>(rows[r].h, begin, lane, P);
      reset[r] = At<uint8_t>(rows[r].reset, begin, lane, 1);
      state[r] = LoadState<E, N>(rows[r].state, lane);
    }
    int64_t a_at = 0, x_at = 0, h_at = 0, reset_at = 0;
    for (int64_t t = begin; t < end; ++t) {
      for (int r = 0; r < R; ++r) {
        auto past = Multiply<E, N>(Load<E, N>(a[r] + a_at, a_0.lane), state[r]);
        if (reset_0.lane != 0) {
          past = ZeroWhere<E, N>(reset[r] + reset_at, past);
        } else if (reset[r][reset_at]) {
          past = Lanes<E, N>{};
        }
        state[r] = past + Load<E, N>(x[r] + x_at, x_0.lane);
        Store<E, N>(h[r] + h_at, state[r]);
      }
      a_at += a_0.step * P;
      x_at += x_0.step * P;
      h_at += h_0.step * P;
      reset_at += reset_0.step;
    }
    for (int r = 0; r < R; ++r) StoreState<E, N>(rows[r].state, lane, state[r]);
  }
};

template <class E>
void ForwardMany(const ForwardRow* rows, int count) {
  if (count != kOverlap) {
    for (int r = 0; r < count; ++r) Forward<E>(rows[r]);
    return;
  }
  const int64_t block = BlockSteps<E>(rows[0].lanes * kOverlap);
  for (int64_t begin = 0; begin < rows[0].steps; begin += block) {
    const int64_t end = begin + block < rows[0].steps ? begin + block : rows[0].steps;
    ForTiles<E, 1>(rows[0].lanes, ForwardManyTile<E, kOverlap>{rows, begin, end});
  }
}

// ---- backward --------------------------------------------------------------------------------

template <class E, DecayGradient kind>
struct BackwardTile {
  const BackwardRow& row;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane) const {
    using Storage = typename E::Storage;
    using Scalar = typename E::Scalar;
    constexpr int P = E::kParts;
    constexpr bool with_decay = kind != DecayGradient::kNone;
    constexpr bool over_time =
        kind == DecayGradient::kTime || kind == DecayGradient::kTimeLanes;

    const int64_t last = end - 1;
    const Storage* g = At<Storage>(row.g, last, lane, P);
    const Storage* a = At<Storage>(row.a, last, lane, P);
    const Storage* past = with_decay ? At<Storage>(row.h, last - 1, lane, P) : nullptr;
    const uint8_t* reset = At<uint8_t>(row.reset, last, lane, 1);
    Storage* dx = At<Storage>(row.dx, last, lane, P);
    Storage* da_element =
        kind == DecayGradient::kStore ? At<Storage>(row.da, last, lane, P) : nullptr;
    Scalar* da = with_decay && kind != DecayGradient::kStore
                     ? At<Scalar>(row.da, last, lane, P)
                     : nullptr;
    const int64_t g_lane = row.g.lane, a_lane = row.a.lane, past_lane = row.h.lane;
    const bool overwrite = kind == DecayGradient::kAddLanes
                               ? row.overwrite && lane == 0
                               : row.overwrite;

    Lanes<E, N> state[K], total[K] = {};
    for (int k = 0; k < K; ++k) state[k] = LoadState<E, N>(row.state, lane + k * N);
    for (int64_t t = last; t >= begin; --t) {
      const bool cut = row.reset.lane == 0 && *reset;
      Lanes<E, N> over_lanes = {};
      for (int k = 0; k < K; ++k) {
        const auto lambda = Load<E, N>(g + k * N * P * g_lane, g_lane) + state[k];
        Store<E, N>(dx + k * N * P, lambda);
        auto carried = Multiply<E, N>(Load<E, N>(a + k * N * P * a_lane, a_lane), lambda);
        if (cut) carried = Lanes<E, N>{};
        if (row.reset.lane != 0) carried = ZeroWhere<E, N>(reset + k * N, carried);
        state[k] = carried;
        if constexpr (with_decay) {
          Lanes<E, N> h;
          if (t == 0 && row.before != nullptr) {
            const auto* before = static_cast<const Scalar*>(row.before);
            h = row.before_lane != 0 ? LoadState<E, N>(before, lane + k * N)
                                     : Splat<E, N>(before);
          } else {
            h = Load<E, N>(past + k * N * P * past_lane, past_lane);
          }
          auto gradient = Multiply<E, N>(lambda, h);
          if (cut) gradient = Lanes<E, N>{};
          if (row.reset.lane != 0) gradient = ZeroWhere<E, N>(reset + k * N, gradient);
          if constexpr (kind == DecayGradient::kStore) {
            Store<E, N>(da_element + k * N * P, gradient);
          } else if constexpr (kind == DecayGradient::kAdd) {
            if (!overwrite) gradient += LoadState<E, N>(da, k * N);
            StoreState<E, N>(da, k * N, gradient);
          } else if constexpr (over_time) {
            total[k] += gradient;
          } else {
            over_lanes += gradient;
          }
        }
      }
      if constexpr (kind == DecayGradient::kAddLanes) {
        auto sum = SumLanes<E, N>(over_lanes);
        if (!overwrite) sum += LoadState<E, 1>(da, 0);
        StoreState<E, 1>(da, 0, sum);
      }
      g -= row.g.step * P;
      a -= row.a.step * P;
      dx -= row.dx.step * P;
      reset -= row.reset.step;
      if constexpr (with_decay) past -= row.h.step * P;
      if constexpr (kind == DecayGradient::kStore) da_element -= row.da.step * P;
      if constexpr (kind == DecayGradient::kAdd || kind == DecayGradient::kAddLanes) {
        da -= row.da.step * P;
      }
    }
    for (int k = 0; k < K; ++k) {
      StoreState<E, N>(row.state, lane + k * N, state[k]);
      if constexpr (kind == DecayGradient::kTime) {
        StoreState<E, N>(da, k * N, LoadState<E, N>(da, k * N) + total[k]);
      } else if constexpr (kind == DecayGradient::kTimeLanes) {
        StoreState<E, 1>(da, 0, LoadState<E, 1>(da, 0) + SumLanes<E, N>(total[k]));
      }
    }
  }
};

template <class E, DecayGradient kind>
void BackwardOf(const BackwardRow& row) {
  // Sums over time are taken block by block, which keeps their rounding error small.
  const int64_t block = BlockSteps<E>(row.lanes);
  for (int64_t end = row.steps; end > 0; end -= block) {
    ForTiles<E, 2>(row.lanes, BackwardTile<E, kind>{row, end > block ? end - block : 0, end});
  }
}

template <class E>
void BackwardLoops(const BackwardRow& row) {
  switch (row.decay_gradient) {
    case DecayGradient::kNone:
      return BackwardOf<E, DecayGradient::kNone>(row);
    case DecayGradient::kStore:
      return BackwardOf<E, DecayGradient::kStore>(row);
    case DecayGradient::kAdd:
      return BackwardOf<E, DecayGradient::kAdd>(row);
    case DecayGradient::kAddLanes:
      return BackwardOf<E, DecayGradient::kAddLanes>(row);
    case DecayGradient::kTime:
      return BackwardOf<E, DecayGradient::kTime>(row);
    case DecayGradient::kTimeLanes:
      return BackwardOf<E, DecayGradient::kTimeLanes>(row);
  }
}

// ---- summaries -------------------------------------------------------------------------------

template <class E, int R, bool adjoint>
struct SummaryTile {
  const SummaryRow* rows;

  template <int N, int K>
  void Run(int64_t lane) const {
    static_assert(K == 1);
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    const Stream &a_0 = rows[0].a, &x_0 = rows[0].x, &reset_0 = rows[0].reset;
    const int64_t steps = rows[0].steps, first = adjoint ? steps - 1 : 0;
    const int64_t direction = adjoint ? -1 : 1;
    const typename E::Scalar unit[2] = {1, 0};
    const Storage *a[R], *x[R];
    const uint8_t* reset[R];
    Lanes<E, N> product[R], state[R];
    for (int r = 0; r < R; ++r) {
      a[r] = At<Storage>(rows[r].a, first, lane, P);
      x[r] = At<Storage>(rows[r].x, first, lane, P);
      reset[r] = At<uint8_t>(rows[r].reset, first, lane, 1);
      product[r] = Splat<E, N>(unit);
      state[r] = Lanes<E, N>{};
      std::memset(rows[r].cut + lane, 0, N);
    }
    int64_t a_at = 0, x_at = 0, reset_at = 0;
    for (int64_t t = 0; t < steps; ++t) {
      for (int r = 0; r < R; ++r) {
        const auto a_t = Load<E, N>(a[r] + a_at, a_0.lane);
        const auto x_t = Load<E, N>(x[r] + x_at, x_0.lane);
        product[r] = Multiply<E, N>(a_t, product[r]);
        auto past = Multiply<E, N>(a_t, adjoint ? Lanes<E, N>(state[r] + x_t) : state[r]);
        const uint8_t* flags = reset[r] + reset_at;
        if (reset_0.lane != 0) {
          past = ZeroWhere<E, N>(flags, past);
          product[r] = ZeroWhere<E, N>(flags, product[r]);
          for (int i = 0; i < N; ++i) rows[r].cut[lane + i] |= flags[i];
        } else if (*flags) {
          past = product[r] = Lanes<E, N>{};
          std::memset(rows[r].cut + lane, 1, N);
        }
        state[r] = adjoint ? past : Lanes<E, N>(past + x_t);
      }
      a_at += direction * a_0.step * P;
      x_at += direction * x_0.step * P;
      reset_at += direction * reset_0.step;
    }
    for (int r = 0; r < R; ++r) {
      StoreState<E, N>(rows[r].product, lane, product[r]);
      StoreState<E, N>(rows[r].state, lane, state[r]);
    }
  }
};

template <class E, bool adjoint>
void SummarizeOf(const SummaryRow* rows, int count) {
  if (count == kOverlap) {
    ForTiles<E, 1>(rows[0].lanes, SummaryTile<E, kOverlap, adjoint>{rows});
    return;
  }
  for (int r = 0; r < count; ++r) {
    ForTiles<E, 1>(rows[r].lanes, SummaryTile<E, 1, adjoint>{rows + r});
  }
}

template <class E>
void Summarize(const SummaryRow* rows, int count, bool adjoint) {
  adjoint ? SummarizeOf<E, true>(rows, count) : SummarizeOf<E, false>(rows, count);
}

template <class E>
bool Apply(const SummaryRow& row, const void* before, void* after) {
  bool finite = true;
  for (int64_t d = 0; d < row.lanes; ++d) {
    const auto product = LoadState<E, 1>(row.product, d);
    auto state = LoadState<E, 1>(row.state, d);
    typename E::Scalar parts[2 * E::kParts];
    std::memcpy(parts, &product, sizeof(product));
    std::memcpy(parts + E::kParts, &state, sizeof(state));
    for (const auto part : parts) finite = finite && part - part == 0;
    if (!row.cut[d]) state = MultiplyAdd<E, 1>(product, LoadState<E, 1>(before, d), state);
    StoreState<E, 1>(after, d, state);
  }
  return finite;
}

template <class E>
void Accumulate(void* sum, const void* term, int64_t count) {
  auto* into = static_cast<typename E::Scalar*>(sum);
  const auto* from = static_cast<const typename E::Scalar*>(term);
  for (int64_t i = 0; i < count * E::kParts; ++i) into[i] += from[i];
}

template <class E>
void Narrow(void* elements, const void* states, int64_t count) {
  auto* into = static_cast<typename E::Storage*>(elements);
  for (int64_t i = 0; i < count; ++i) {
    Store<E, 1>(into + i * E::kParts, LoadState<E, 1>(states, i));
  }
}

template <class E>
constexpr Loops kLoops = {
    Forward<E>,
    ForwardMany<E>,
    BackwardLoops<E>,
    Summarize<E>,
    Apply<E>,
    Accumulate<E>,
    Narrow<E>,
    sizeof(typename E::Storage) * E::kParts,
    sizeof(typename E::Scalar) * E::kParts,
};

}  // namespace

namespace FASTSCAN_ISA {

const Loops& LoopsOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF16:
      return kLoops<F16>;
    case Dtype::kBF16:
      return kLoops<BF16>;
    case Dtype::kF32:
      return kLoops<F32>;
    case Dtype::kF64:
      return kLoops<F64>;
    case Dtype::kC64:
      return kLoops<C64>;
    case Dtype::kC128:
      break;
  }
  return kLoops<C128>;
}

}  // namespace FASTSCAN_ISA
}  // namespace fastscan
