// The loops of `linear_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA. Time runs in sequence and channels lie across vector lanes.
#include "linear_scan_loops.h"

#include <initializer_list>

#include "linear_scan.h"
#include "vector.h"

namespace fastscan {
namespace {

// A row of one tile is worked through with its states in registers. So are wider ones, tile by
// tile, as long as they stay in the core's cache meanwhile. Any others are read and written a step
// at a time (or a few, where steps are short, or where the states would not stay in the first-level
// cache), all channels of it: memory then sees sequential streams only, which is worth more than
// the registers.
constexpr int kTileRegisters = 4;
constexpr int kForwardRegisters = 8;  // the forward pass needs few others
constexpr int64_t kCachedBytes = 1 << 16;
constexpr int64_t kStreamBytes = 512;
constexpr int64_t kStateBytes = 1 << 12;
constexpr int64_t kWideSteps = 4;
// The least that a row is worked through before another one's turn.
constexpr int64_t kForwardTurnBytes = 256;
constexpr int64_t kBackwardTurnBytes = 2048;

template <class E, int kRegisters = kTileRegisters>
int64_t BlockSteps(int64_t steps, int64_t lanes, int64_t rows = 1, int64_t turn_bytes = 0) {
  constexpr int64_t bytes = static_cast<int64_t>(sizeof(typename E::Storage)) * E::kParts;
  const bool one_tile = rows == 1 && lanes <= kRegisters * kWidth<E> && (lanes & (lanes - 1)) == 0;
  const int64_t step_bytes = rows * lanes * bytes;
  if (one_tile || steps * step_bytes <= kCachedBytes) return steps;
  const int64_t block = step_bytes > kStateBytes ? kWideSteps : kStreamBytes / step_bytes;
  const int64_t turn = rows > 1 ? turn_bytes / (lanes * bytes) : 1;
  return block > turn ? block : turn > 0 ? turn : 1;
}

// The element of `s` at `step` and `lane`, which may be broadcast.
template <class T>
inline T* At(const Stream& s, int64_t step, int64_t lane, int64_t parts) {
  return reinterpret_cast<T*>(s.data) + (step * s.step + lane * s.lane) * parts;
}

// Calls tile.template Run<N, K>(lane) for K registers of N channels each, until all channels are
// covered: wide tiles, single registers, then halves of them; `down` from the last channel to the
// first, so that a scan against the order of memory runs against it within a step too.
template <int N, class Tile>
inline void ForTail(int64_t lane, int64_t lanes, bool down, const Tile& tile) {
  if constexpr (N >= 1) {
    const int64_t next = lanes & N ? lane + N : lane;
    if (down) ForTail<N / 2>(next, lanes, down, tile);
    if (lanes & N) tile.template Run<N, 1>(lane);
    if (!down) ForTail<N / 2>(next, lanes, down, tile);
  }
}
template <int N, int K, class Tile>
inline void ForWhole(int64_t lane, int64_t lanes, bool down, const Tile& tile) {
  if constexpr (K >= 1) {
    const int64_t count = (lanes - lane) / (N * K), next = lane + count * (N * K);
    if (down) ForWhole<N, K / 2>(next, lanes, down, tile);
    for (int64_t i = 0; i < count; ++i) {
      tile.template Run<N, K>(lane + (down ? count - 1 - i : i) * (N * K));
    }
    if (!down) ForWhole<N, K / 2>(next, lanes, down, tile);
  }
}
template <class E, int K, class Tile>
inline void ForTiles(int64_t lanes, bool down, const Tile& tile) {
  constexpr int W = kWidth<E>;
  const int64_t whole = lanes / W * W;
  if (down) ForTail<W / 2>(whole, lanes, down, tile);
  ForWhole<W, K>(0, whole, down, tile);
  if (!down) ForTail<W / 2>(whole, lanes, down, tile);
}

// The same for the few channels of a narrow row.
template <class E, class Tile>
inline void ForNarrow(int64_t lanes, const Tile& tile) {
  constexpr int64_t bytes = static_cast<int64_t>(sizeof(typename E::Storage)) * E::kParts;
  constexpr int kMost = (kNarrowBytes - 1) / bytes;
  ForTail<kMost >= 4 ? 4 : kMost >= 2 ? 2 : kMost>(0, lanes, false, tile);
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
    // Copies, which the compiler knows that no store to h changes.
    const int64_t a_step = row.a.step * P, x_step = row.x.step * P, h_step = row.h.step * P;
    const int64_t reset_step = row.reset.step;
    const int64_t a_lane = row.a.lane, x_lane = row.x.lane, reset_lane = row.reset.lane;

    Lanes<E, N> state[K], a_t[K], x_t[K];
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      state[k] = LoadState<E, N>(row.state, lane + k * N);
    });
    for (int64_t t = begin; t < end; ++t) {
      LoadTile<E, N, K>(x, x_lane, x_t);
      if (reset_lane == 0 && *reset) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) { state[k] = x_t[k]; });
      } else {
        LoadTile<E, N, K>(a, a_lane, a_t);
        if (reset_lane == 0) {
          Unroll<K>([&](auto k) __attribute__((always_inline)) {
            state[k] = MultiplyAdd<E, N>(a_t[k], state[k], x_t[k]);
          });
        } else {
          Unroll<K>([&](auto k) __attribute__((always_inline)) {
            const auto past = Multiply<E, N>(a_t[k], state[k]);
            state[k] = ZeroWhere<E, N>(reset + k * N, past) + x_t[k];
          });
        }
      }
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        Store<E, N>(h + k * N * P, state[k]);
      });
      a += a_step;
      x += x_step;
      h += h_step;
      reset += reset_step;
    }
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      StoreState<E, N>(row.state, lane + k * N, state[k]);
    });
  }
};

// A single channel of a real dtype that lies densely in time: its steps lie across the lanes of a
// register, which a scan in log2 N doubling steps turns into states. N steps then wait for each
// other once, not N times.
template <class E, bool down>
class AlongTime {
 public:
  static constexpr int N = kWidth<E>;
  static constexpr auto kIndex = std::make_integer_sequence<int, N>();
  using Storage = typename E::Storage;
  using Scalar = typename E::Scalar;
  using V = Lanes<E, N>;

  AlongTime(const Stream& a, const Stream& x, const Stream& reset, const Stream& h)
      : a_(reinterpret_cast<const Storage*>(a.data)),
        x_(reinterpret_cast<const Storage*>(x.data)),
        reset_(reinterpret_cast<const uint8_t*>(reset.data)),
        h_(reinterpret_cast<Storage*>(h.data)),
        one_a_(a.step == 0),
        one_x_(x.step == 0),
        one_reset_(reset.step == 0),
        first_a_(Load<E, 1>(a_)),
        first_x_(Load<E, 1>(x_)) {}

  static bool Fits(const Stream& a, const Stream& x, const Stream& reset, const Stream& like) {
    const int64_t step = down ? -1 : 1;
    const auto dense = [step](const Stream& s) { return s.step == 0 || s.step == step; };
    return like.step == step && dense(a) && dense(x) && dense(reset);
  }

  // Steps `begin` to `end`, a multiple of N, from `state` on. False where a state is not finite:
  // products of decays may have overflowed, or a NaN have met a decay that a reset has zeroed.
  bool Run(int64_t begin, int64_t end, Scalar& state) const {
    return Scan(begin, end, state, [this](int64_t t, V value, V) __attribute__((always_inline)) {
      Store<E, N>(First(h_, t), Ordered(value));
    });
  }

  // The same without storing the states, and with the product of the decays.
  bool Summarize(int64_t begin, int64_t end, Scalar& state, double& product) const {
    using Products = Lanes<Wide<E>, N>;
    Products products = Splat<Wide<E>, N>(&product);
    const bool finite =
        Scan(begin, end, state, [&products](int64_t, V, V decay) __attribute__((always_inline)) {
          products *= Convert<Products>(decay);
        });
    for (int i = 0; i < N; ++i) product *= products[i];
    return finite;
  }

 private:
  template <class Visit>
  [[gnu::always_inline]] bool Scan(int64_t begin, int64_t end, Scalar& state,
                                   const Visit& visit) const {
    V carry = Splat<E, N>(&state), residue = {};
    for (int64_t t = begin; t < end; t += N) {
      V product = one_a_ ? Splat<E, N>(&first_a_) : Load<E, N>(First(a_, t));
      V local = one_x_ ? Splat<E, N>(&first_x_) : Load<E, N>(First(x_, t));
      if (!one_reset_) {
        product = ZeroWhere<E, N>(First(reset_, t), product);
      } else if (*reset_) {
        product = V{};
      }
      const V decay = product;
      product = Ordered(product);
      local = Ordered(local);
      Double<1>(product, local);
      const V value = product * carry + local;
      residue += value - value;
      visit(t, value, decay);
      carry = RepeatLast(value, kIndex);
    }
    state = carry[0];
    return SumLanes<E, N>(residue) == 0;
  }

  static constexpr Scalar kOne = 1;

  // The N elements from step t on, in the order of memory.
  template <class T>
  static T* First(T* p, int64_t t) {
    return down ? p - t - (N - 1) : p + t;
  }
  static V Ordered(V v) { return down ? ReverseLanes(v, kIndex) : v; }

  template <int by>
  static void Double(V& product, V& state) {
    if constexpr (by < N) {
      state = product * ShiftLanes<by>(state, V{}, kIndex) + state;
      product = product * ShiftLanes<by>(product, Splat<E, N>(&kOne), kIndex);
      Double<2 * by>(product, state);
    }
  }

  const Storage* a_;
  const Storage* x_;
  const uint8_t* reset_;
  Storage* h_;
  bool one_a_, one_x_, one_reset_;  // the same for all steps
  Scalar first_a_, first_x_;
};

template <class E, bool down>
bool ForwardAlongTime(const ForwardRow& row) {
  using Along = AlongTime<E, down>;
  if (!Along::Fits(row.a, row.x, row.reset, row.h)) return false;
  const Along along(row.a, row.x, row.reset, row.h);
  constexpr int64_t kSteps = 64 * Along::N;
  auto& state = *static_cast<typename E::Scalar*>(row.state);
  for (int64_t begin = 0; begin < row.steps; begin += kSteps) {
    const int64_t end = begin + kSteps < row.steps ? begin + kSteps : row.steps;
    const int64_t whole = begin + (end - begin) / Along::N * Along::N;
    const auto before = state;
    const bool finite = along.Run(begin, whole, state);
    if (!finite) state = before;
    ForwardTile<E>{row, finite ? whole : begin, end}.template Run<1, 1>(0);
  }
  return true;
}

template <class E>
void ForwardByTurns(const ForwardRow* rows, int count) {
  const int64_t steps = rows[0].steps, lanes = rows[0].lanes;
  const bool down = rows[0].h.step < 0;
  const int64_t block = BlockSteps<E, kForwardRegisters>(steps, lanes, count, kForwardTurnBytes);
  for (int64_t begin = 0; begin < steps; begin += block) {
    const int64_t end = begin + block < steps ? begin + block : steps;
    for (int r = 0; r < count; ++r) {
      ForTiles<E, kForwardRegisters>(lanes, down, ForwardTile<E>{rows[r], begin, end});
    }
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
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      a[r] = At<Storage>(rows[r].a, begin, lane, P);
      x[r] = At<Storage>(rows[r].x, begin, lane, P);
      h[r] = At<Storage>(rows[r].h, begin, lane, P);
      reset[r] = At<uint8_t>(rows[r].reset, begin, lane, 1);
      state[r] = LoadState<E, N>(rows[r].state, lane);
    });
    const int64_t a_step = a_0.step * P, x_step = x_0.step * P, h_step = h_0.step * P;
    const int64_t reset_step = reset_0.step;
    const int64_t a_lane = a_0.lane, x_lane = x_0.lane, reset_lane = reset_0.lane;
    int64_t a_at = 0, x_at = 0, h_at = 0, reset_at = 0;
    for (int64_t t = begin; t < end; ++t) {
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        Lanes<E, N> a_t[1], x_t[1];
        LoadTile<E, N, 1>(a[r] + a_at, a_lane, a_t);
        LoadTile<E, N, 1>(x[r] + x_at, x_lane, x_t);
        if (reset_lane != 0) {
          const auto past = Multiply<E, N>(a_t[0], state[r]);
          state[r] = ZeroWhere<E, N>(reset[r] + reset_at, past) + x_t[0];
        } else if (reset[r][reset_at]) {
          state[r] = x_t[0];
        } else {
          state[r] = MultiplyAdd<E, N>(a_t[0], state[r], x_t[0]);
        }
        Store<E, N>(h[r] + h_at, state[r]);
      });
      a_at += a_step;
      x_at += x_step;
      h_at += h_step;
      reset_at += reset_step;
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      StoreState<E, N>(rows[r].state, lane, state[r]);
    });
  }
};

template <class E>
void Forward(const ForwardRow* rows, int count) {
  constexpr int64_t bytes = static_cast<int64_t>(sizeof(typename E::Storage)) * E::kParts;
  if (rows[0].lanes * bytes >= kNarrowBytes) return ForwardByTurns<E>(rows, count);
  if (count == kOverlap && (E::kParts > 1 || rows[0].lanes > 1)) {
    return ForNarrow<E>(rows[0].lanes, ForwardManyTile<E, kOverlap>{rows, 0, rows[0].steps});
  }
  for (int r = 0; r < count; ++r) {
    if constexpr (E::kParts == 1) {
      const bool one = rows[r].lanes == 1;
      if (one && (ForwardAlongTime<E, false>(rows[r]) || ForwardAlongTime<E, true>(rows[r]))) {
        continue;
      }
    }
    ForwardByTurns<E>(rows + r, 1);
  }
}

// ---- backward --------------------------------------------------------------------------------

// K registers of N channels each, from step `end` down to step `begin`.
template <class E, DecayGradient kind>
struct BackwardTile {
  const BackwardRow& row;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane) const {
    using Storage = typename E::Storage;
    using Scalar = typename E::Scalar;
    constexpr int P = E::kParts;
    constexpr bool kWithDecay = kind != DecayGradient::kNone;
    constexpr bool kStored = kind == DecayGradient::kStore;
    constexpr bool kOverTime = kind == DecayGradient::kTime || kind == DecayGradient::kTimeLanes;

    const int64_t last = end - 1;
    const Storage* g = At<Storage>(row.g, last, lane, P);
    const Storage* a = At<Storage>(row.a, last, lane, P);
    const Storage* past = kWithDecay ? At<Storage>(row.h, last - 1, lane, P) : nullptr;
    const uint8_t* reset = At<uint8_t>(row.reset, last, lane, 1);
    Storage* dx = At<Storage>(row.dx, last, lane, P);
    Storage* da = kStored ? At<Storage>(row.da, last, lane, P) : nullptr;
    Scalar* sum = kWithDecay && !kStored ? At<Scalar>(row.da, last, lane, P) : nullptr;
    // Copies, which the compiler knows that no store to dx or da changes.
    const int64_t g_step = row.g.step * P, a_step = row.a.step * P, past_step = row.h.step * P;
    const int64_t reset_step = row.reset.step, dx_step = row.dx.step * P;
    const int64_t da_step = row.da.step * P;
    const int64_t g_lane = row.g.lane, a_lane = row.a.lane, past_lane = row.h.lane;
    const int64_t reset_lane = row.reset.lane;
    const bool first_tile = row.dx.step > 0 ? lane + N * K == row.lanes : lane == 0;
    const bool overwrite = row.overwrite && (kind == DecayGradient::kAdd || first_tile);

    Lanes<E, N> state[K], total[K] = {};
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      state[k] = LoadState<E, N>(row.state, lane + k * N);
    });

    // One step; `h` is the state before it.
    const auto step = [&](const Lanes<E, N>(&h)[K]) __attribute__((always_inline)) {
      Lanes<E, N> lambda[K], gradient[K];
      LoadTile<E, N, K>(g, g_lane, lambda);
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        lambda[k] += state[k];
        Store<E, N>(dx + k * N * P, lambda[k]);
      });
      if (reset_lane == 0 && *reset) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          state[k] = gradient[k] = Lanes<E, N>{};
        });
      } else {
        LoadTile<E, N, K>(a, a_lane, state);
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          state[k] = Multiply<E, N>(state[k], lambda[k]);
          if constexpr (kWithDecay) gradient[k] = Multiply<E, N>(lambda[k], h[k]);
          if (reset_lane != 0) {
            state[k] = ZeroWhere<E, N>(reset + k * N, state[k]);
            if constexpr (kWithDecay) gradient[k] = ZeroWhere<E, N>(reset + k * N, gradient[k]);
          }
        });
      }
      if constexpr (kStored) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          Store<E, N>(da + k * N * P, gradient[k]);
        });
        da -= da_step;
      } else if constexpr (kOverTime) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) { total[k] += gradient[k]; });
      } else if constexpr (kind == DecayGradient::kAdd) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          if (!overwrite) gradient[k] += LoadState<E, N>(sum, k * N);
          StoreState<E, N>(sum, k * N, gradient[k]);
        });
        sum -= da_step;
      } else if constexpr (kind == DecayGradient::kAddLanes) {
        Unroll<K - 1>([&](auto k) __attribute__((always_inline)) {
          gradient[0] += gradient[k + 1];
        });
        auto over_lanes = SumLanes<E, N>(gradient[0]);
        if (!overwrite) over_lanes += LoadState<E, 1>(sum, 0);
        StoreState<E, 1>(sum, 0, over_lanes);
        sum -= da_step;
      }
      g -= g_step;
      a -= a_step;
      dx -= dx_step;
      reset -= reset_step;
    };

    const bool from_start = begin == 0 && row.before != nullptr;
    Lanes<E, N> h[K] = {};
    for (int64_t t = last; t >= begin + from_start; --t) {
      if constexpr (kWithDecay) {
        LoadTile<E, N, K>(past, past_lane, h);
        past -= past_step;
      }
      step(h);
    }
    if (from_start) {
      const auto* before = static_cast<const Scalar*>(row.before);
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        h[k] = row.before_lane != 0 ? LoadState<E, N>(before, lane + k * N) : Splat<E, N>(before);
      });
      step(h);
    }

    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      StoreState<E, N>(row.state, lane + k * N, state[k]);
      if constexpr (kind == DecayGradient::kTime) {
        StoreState<E, N>(sum, k * N, LoadState<E, N>(sum, k * N) + total[k]);
      } else if constexpr (kind == DecayGradient::kTimeLanes) {
        StoreState<E, 1>(sum, 0, LoadState<E, 1>(sum, 0) + SumLanes<E, N>(total[k]));
      }
    });
  }
};

// Steps `begin` to `end`.
template <class E, DecayGradient kind>
void BackwardByTurns(const BackwardRow* rows, int count, int64_t begin, int64_t end) {
  const int64_t lanes = rows[0].lanes;
  const bool down = rows[0].dx.step > 0;
  const int64_t block = BlockSteps<E>(end - begin, lanes, count, kBackwardTurnBytes);
  for (int64_t to = end; to > begin; to -= block) {
    const int64_t from = to - block > begin ? to - block : begin;
    for (int r = 0; r < count; ++r) {
      ForTiles<E, kTileRegisters>(lanes, down, BackwardTile<E, kind>{rows[r], from, to});
    }
  }
}

// Sums over time are taken over this many steps first, which keeps their rounding error small, and
// for this many channels at a time. Rows that take turns have shorter ones.
constexpr int64_t kSumSteps = 256;
constexpr int64_t kSumTurn = 16;
constexpr int64_t kSumLanes = 512;

template <class E, DecayGradient kind>
void BackwardOverTime(const BackwardRow* rows, int count) {
  constexpr int P = E::kParts;
  constexpr bool kLanes = kind == DecayGradient::kTimeLanes;
  typename E::Scalar partial[kSumLanes * P];
  const int64_t turn = count == 1 ? kSumSteps : kSumTurn, steps = rows[0].steps;
  for (int64_t lane = 0; lane < rows[0].lanes; lane += kSumLanes) {
    for (int64_t end = steps; end > 0; end -= turn) {
      for (int r = 0; r < count; ++r) {
        const BackwardRow& row = rows[r];
        BackwardRow part = row;
        part.lanes = row.lanes - lane < kSumLanes ? row.lanes - lane : kSumLanes;
        for (Stream* s : {&part.g, &part.a, &part.h, &part.dx}) {
          s->data += lane * s->lane * P * static_cast<int64_t>(sizeof(typename E::Storage));
        }
        part.reset.data += lane * row.reset.lane;
        part.state = static_cast<typename E::Scalar*>(row.state) + lane * P;
        if (row.before != nullptr) {
          part.before =
              static_cast<const typename E::Scalar*>(row.before) + lane * row.before_lane * P;
        }
        part.da.data = reinterpret_cast<char*>(partial);
        auto* sum = reinterpret_cast<typename E::Scalar*>(row.da.data) + lane * row.da.lane * P;
        const int64_t sums = (kLanes ? 1 : part.lanes) * P;
        for (int64_t i = 0; i < sums; ++i) partial[i] = 0;
        BackwardByTurns<E, kind>(&part, 1, end > turn ? end - turn : 0, end);
        for (int64_t i = 0; i < sums; ++i) sum[i] += partial[i];
      }
    }
  }
}

template <class E, DecayGradient kind>
void BackwardOf(const BackwardRow* rows, int count) {
  if constexpr (kind == DecayGradient::kTime || kind == DecayGradient::kTimeLanes) {
    BackwardOverTime<E, kind>(rows, count);
  } else {
    BackwardByTurns<E, kind>(rows, count, 0, rows[0].steps);
  }
}

template <class E>
void BackwardLoops(const BackwardRow* rows, int count) {
  switch (rows[0].decay_gradient) {
    case DecayGradient::kNone:
      return BackwardOf<E, DecayGradient::kNone>(rows, count);
    case DecayGradient::kStore:
      return BackwardOf<E, DecayGradient::kStore>(rows, count);
    case DecayGradient::kAdd:
      return BackwardOf<E, DecayGradient::kAdd>(rows, count);
    case DecayGradient::kAddLanes:
      return BackwardOf<E, DecayGradient::kAddLanes>(rows, count);
    case DecayGradient::kTime:
      return BackwardOf<E, DecayGradient::kTime>(rows, count);
    case DecayGradient::kTimeLanes:
      return BackwardOf<E, DecayGradient::kTimeLanes>(rows, count);
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
    using Product = Lanes<Wide<E>, N>;
    const double unit[2] = {1, 0};
    const Storage *a[R], *x[R];
    const uint8_t* reset[R];
    Lanes<E, N> state[R];
    Product product[R];
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      a[r] = At<Storage>(rows[r].a, first, lane, P);
      x[r] = At<Storage>(rows[r].x, first, lane, P);
      reset[r] = At<uint8_t>(rows[r].reset, first, lane, 1);
      product[r] = Splat<Wide<E>, N>(unit);
      state[r] = Lanes<E, N>{};
      for (int i = 0; i < N; ++i) rows[r].cut[lane + i] = 0;
    });
    const int64_t a_step = direction * a_0.step * P, x_step = direction * x_0.step * P;
    const int64_t reset_step = direction * reset_0.step;
    const int64_t a_lane = a_0.lane, x_lane = x_0.lane, reset_lane = reset_0.lane;
    int64_t a_at = 0, x_at = 0, reset_at = 0;
    for (int64_t t = 0; t < steps; ++t) {
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        Lanes<E, N> a_t[1], x_t[1];
        LoadTile<E, N, 1>(a[r] + a_at, a_lane, a_t);
        LoadTile<E, N, 1>(x[r] + x_at, x_lane, x_t);
        const uint8_t* flags = reset[r] + reset_at;
        product[r] = Multiply<Wide<E>, N>(Convert<Product>(a_t[0]), product[r]);
        if constexpr (adjoint) state[r] += x_t[0];
        if (reset_lane != 0) {
          product[r] = ZeroWhere<Wide<E>, N>(flags, product[r]);
          state[r] = ZeroWhere<E, N>(flags, Multiply<E, N>(a_t[0], state[r]));
          if constexpr (!adjoint) state[r] += x_t[0];
          for (int i = 0; i < N; ++i) rows[r].cut[lane + i] |= flags[i];
        } else if (*flags) {
          product[r] = Product{};
          state[r] = adjoint ? Lanes<E, N>{} : x_t[0];
          for (int i = 0; i < N; ++i) rows[r].cut[lane + i] = 1;
        } else if constexpr (adjoint) {
          state[r] = Multiply<E, N>(a_t[0], state[r]);
        } else {
          state[r] = MultiplyAdd<E, N>(a_t[0], state[r], x_t[0]);
        }
      });
      a_at += a_step;
      x_at += x_step;
      reset_at += reset_step;
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      StoreState<Wide<E>, N>(rows[r].product, lane, product[r]);
      StoreState<E, N>(rows[r].state, lane, state[r]);
    });
  }
};

// K registers of N channels of one row, from step `begin` to step `end`, or against time.
template <class E, bool adjoint>
struct SummaryRowTile {
  const SummaryRow& row;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane) const {
    using Storage = typename E::Storage;
    constexpr int P = E::kParts;
    constexpr int64_t direction = adjoint ? -1 : 1;
    const int64_t first = adjoint ? end - 1 : begin;
    const Storage* a = At<Storage>(row.a, first, lane, P);
    const Storage* x = At<Storage>(row.x, first, lane, P);
    const uint8_t* reset = At<uint8_t>(row.reset, first, lane, 1);
    const int64_t a_step = direction * row.a.step * P, x_step = direction * row.x.step * P;
    const int64_t reset_step = direction * row.reset.step;
    const int64_t a_lane = row.a.lane, x_lane = row.x.lane, reset_lane = row.reset.lane;

    using Product = Lanes<Wide<E>, N>;
    Lanes<E, N> state[K], a_t[K], x_t[K];
    Product product[K];
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      product[k] = LoadState<Wide<E>, N>(row.product, lane + k * N);
      state[k] = LoadState<E, N>(row.state, lane + k * N);
    });
    for (int64_t t = begin; t < end; ++t) {
      LoadTile<E, N, K>(a, a_lane, a_t);
      LoadTile<E, N, K>(x, x_lane, x_t);
      Unroll<K>([&](auto k) __attribute__((always_inline)) {
        if constexpr (adjoint) state[k] += x_t[k];
        product[k] = Multiply<Wide<E>, N>(Convert<Product>(a_t[k]), product[k]);
      });
      if (reset_lane != 0) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          product[k] = ZeroWhere<Wide<E>, N>(reset + k * N, product[k]);
          state[k] = ZeroWhere<E, N>(reset + k * N, Multiply<E, N>(a_t[k], state[k]));
          if constexpr (!adjoint) state[k] += x_t[k];
        });
        for (int i = 0; i < N * K; ++i) row.cut[lane + i] |= reset[i];
      } else if (*reset) {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          product[k] = Product{};
          state[k] = adjoint ? Lanes<E, N>{} : x_t[k];
        });
        for (int i = 0; i < N * K; ++i) row.cut[lane + i] = 1;
      } else {
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          if constexpr (adjoint) {
            state[k] = Multiply<E, N>(a_t[k], state[k]);
          } else {
            state[k] = MultiplyAdd<E, N>(a_t[k], state[k], x_t[k]);
          }
        });
      }
      a += a_step;
      x += x_step;
      reset += reset_step;
    }
    Unroll<K>([&](auto k) __attribute__((always_inline)) {
      StoreState<Wide<E>, N>(row.product, lane + k * N, product[k]);
      StoreState<E, N>(row.state, lane + k * N, state[k]);
    });
  }
};

template <class E, bool adjoint>
void SummarizeRow(const SummaryRow& row) {
  const double unit[2] = {1, 0};
  for (int64_t d = 0; d < row.lanes; ++d) {
    StoreState<Wide<E>, 1>(row.product, d, Splat<Wide<E>, 1>(unit));
    StoreState<E, 1>(row.state, d, Lanes<E, 1>{});
    row.cut[d] = 0;
  }
  const int64_t block = BlockSteps<E>(row.steps, row.lanes);
  const bool down = adjoint ? row.x.step > 0 : row.x.step < 0;
  for (int64_t done = 0; done < row.steps; done += block) {
    const int64_t to = done + block < row.steps ? done + block : row.steps;
    const int64_t begin = adjoint ? row.steps - to : done;
    ForTiles<E, kTileRegisters>(row.lanes, down,
                                SummaryRowTile<E, adjoint>{row, begin, begin + to - done});
  }
}

template <class E, bool adjoint>
void SummarizeOf(const SummaryRow* rows, int count) {
  if (count == kOverlap) {
    ForNarrow<E>(rows[0].lanes, SummaryTile<E, kOverlap, adjoint>{rows});
    return;
  }
  for (int r = 0; r < count; ++r) SummarizeRow<E, adjoint>(rows[r]);
}

// False where the steps of the channel have to be summarised one by one.
template <class E, bool down>
bool SummarizeAlongTime(const SummaryRow& row) {
  using Along = AlongTime<E, down>;
  if (!Along::Fits(row.a, row.x, row.reset, row.x)) return false;
  const Along along(row.a, row.x, row.reset, Stream{});
  auto& state = *static_cast<typename E::Scalar*>(row.state);
  auto& product = *static_cast<double*>(row.product);
  state = 0;
  product = 1;
  const auto* flag = reinterpret_cast<const uint8_t*>(row.reset.data);
  *row.cut = *flag;
  for (int64_t t = 1; t < row.steps && row.reset.step != 0; ++t) *row.cut |= flag[t * row.reset.step];
  return row.steps % Along::N == 0 && along.Summarize(0, row.steps, state, product);
}

template <class E>
void Summarize(const SummaryRow* rows, int count, bool adjoint) {
  if constexpr (E::kParts == 1) {
    if (rows[0].lanes == 1 && !adjoint) {
      for (int r = 0; r < count; ++r) {
        if (!SummarizeAlongTime<E, false>(rows[r]) && !SummarizeAlongTime<E, true>(rows[r])) {
          SummarizeOf<E, false>(rows + r, 1);
        }
      }
      return;
    }
  }
  adjoint ? SummarizeOf<E, true>(rows, count) : SummarizeOf<E, false>(rows, count);
}

template <class E>
bool Apply(const SummaryRow& row, const void* before, void* after) {
  using W = Wide<E>;
  using Value = Lanes<W, 1>;
  bool finite = true;
  for (int64_t d = 0; d < row.lanes; ++d) {
    const Value product = LoadState<W, 1>(row.product, d);
    Value state = Convert<Value>(LoadState<E, 1>(row.state, d));
    double parts[2 * E::kParts];
    StoreRaw(parts, product);
    StoreRaw(parts + E::kParts, state);
    for (const double part : parts) finite = finite && part - part == 0;
    if (!row.cut[d]) {
      state = MultiplyAdd<W, 1>(product, Convert<Value>(LoadState<E, 1>(before, d)), state);
    }
    StoreState<E, 1>(after, d, Convert<Lanes<E, 1>>(state));
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
    BackwardLoops<E>,
    Summarize<E>,
    Apply<E>,
    Accumulate<E>,
    Narrow<E>,
    sizeof(typename E::Storage) * E::kParts,
    sizeof(typename E::Scalar) * E::kParts,
    sizeof(double) * E::kParts,
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
