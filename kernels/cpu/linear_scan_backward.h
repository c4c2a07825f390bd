// The backward loops of the linear scan.
#pragma once

#include <cstdint>

#include "linear_scan_along_time.h"
#include "linear_scan_half.h"
#include "linear_scan_tiles.h"

namespace fastscan {
namespace {

constexpr int kBackwardRegisters = 4;
constexpr int64_t kBackwardTurnBytes = 2048;

// What a tile does with the cotangent of a.
enum class Gradient {
  kNone,
  kEach,   // stores it at each step, or adds it to what is there
  kTotal,  // adds it up over its steps
};

// K registers of N channels each, from step `end` down to step `begin`, all tiles of `block` steps
// before those of the next.
template <class E, Gradient gradient>
struct BackwardTile {
  const BackwardRow& row;
  int64_t begin, end, block;

  template <int N, int K>
  void Run(int64_t lane, int64_t count, int64_t hop) const {
    using Storage = typename E::Storage;
    using Scalar = typename E::Scalar;
    constexpr int P = E::kParts;
    constexpr bool kWithDecay = gradient != Gradient::kNone;

    const int64_t last = end - 1;
    const Storage* first_g = At<Storage>(row.g, last, lane, P);
    const Storage* first_a = At<Storage>(row.a, last, lane, P);
    const Storage* first_past = kWithDecay ? At<Storage>(row.h, last - 1, lane, P) : nullptr;
    const uint8_t* first_reset = At<uint8_t>(row.reset, last, lane, 1);
    Storage* first_dx = At<Storage>(row.dx, last, lane, P);
    // An element of the array or a sum.
    const bool stored = row.decay_gradient == DecayGradient::kStore;
    const int64_t da_bytes = P * (stored ? sizeof(Storage) : sizeof(Scalar));
    char* first_da = row.da.data + (last * row.da.step + lane * row.da.lane) * da_bytes;
    // Copies, which the compiler knows that no store to dx or da changes.
    const int64_t g_step = row.g.step * P, a_step = row.a.step * P, past_step = row.h.step * P;
    const int64_t reset_step = row.reset.step, dx_step = row.dx.step * P;
    const int64_t da_step = row.da.step * da_bytes;
    const int64_t g_lane = row.g.lane, a_lane = row.a.lane, past_lane = row.h.lane;
    const int64_t reset_lane = row.reset.lane, da_lane = row.da.lane;
    const bool past_caches = row.past_caches, overwrite = row.overwrite;
    // Of a sum over the channels, only the first tile finds nothing.
    const int64_t first_lane = row.dx.step > 0 ? row.lanes - N * K : 0;

    for (int64_t to = end; to > begin; to -= block) {
      const int64_t from = to - block > begin ? to - block : begin;
      const bool from_start = from == 0 && row.before != nullptr;
      const int64_t steps = to - from - from_start;
      const Storage *tile_g = first_g, *tile_a = first_a, *tile_past = first_past;
      const uint8_t* tile_reset = first_reset;
      Storage* tile_dx = first_dx;
      char* tile_da = first_da;
      int64_t tile_lane = lane;
      for (int64_t tiles = count; tiles > 0; --tiles) {
        const Storage *g = tile_g, *a = tile_a, *past = tile_past;
        const uint8_t* reset = tile_reset;
        Storage* dx = tile_dx;
        char* da = tile_da;
        const bool add = !(overwrite && (da_lane != 0 || tile_lane == first_lane));
        Lanes<E, N> state[K], total[K] = {};
        LoadStates<E, N, K>(row.state, tile_lane, state);

        // One step; `h` is the state before it.
        const auto step = [&](const Lanes<E, N>(&h)[K]) __attribute__((always_inline)) {
          Lanes<E, N> lambda[K], now[K];
          LoadTile<E, N, K>(g, g_lane, lambda);
          Unroll<K>([&](auto k) __attribute__((always_inline)) { lambda[k] += state[k]; });
          StoreTile<E, N, K>(dx, lambda, past_caches);
          if (reset_lane == 0 && *reset) {
            Unroll<K>([&](auto k) __attribute__((always_inline)) {
              state[k] = now[k] = Lanes<E, N>{};
            });
          } else {
            LoadTile<E, N, K>(a, a_lane, state);
            Unroll<K>([&](auto k) __attribute__((always_inline)) {
              state[k] = Multiply<E, N>(state[k], lambda[k]);
              if constexpr (kWithDecay) now[k] = Multiply<E, N>(lambda[k], h[k]);
              if (reset_lane != 0) {
                state[k] = ZeroWhere<E, N>(reset + k * N, state[k]);
                if constexpr (kWithDecay) now[k] = ZeroWhere<E, N>(reset + k * N, now[k]);
              }
            });
          }
          if constexpr (gradient == Gradient::kTotal) {
            Unroll<K>([&](auto k) __attribute__((always_inline)) { total[k] += now[k]; });
          } else if constexpr (gradient == Gradient::kEach) {
            if (stored) {
              StoreTile<E, N, K>(reinterpret_cast<Storage*>(da), now, past_caches);
            } else if (da_lane != 0) {
              Unroll<K>([&](auto k) __attribute__((always_inline)) {
                if (add) now[k] += LoadState<E, N>(da, k * N);
                StoreState<E, N>(da, k * N, now[k]);
              });
            } else {
              auto over_lanes = SumTile<E, N, K>(now);
              if (add) over_lanes += LoadState<E, 1>(da, 0);
              StoreState<E, 1>(da, 0, over_lanes);
            }
            da -= da_step;
          }
          g -= g_step;
          a -= a_step;
          dx -= dx_step;
          reset -= reset_step;
        };

        Lanes<E, N> h[K] = {};
        for (int64_t t = 0; t < steps; ++t) {
          if constexpr (kWithDecay) {
            LoadTile<E, N, K>(past, past_lane, h);
            past -= past_step;
          }
          step(h);
        }
        if (from_start) {
          const auto* before = static_cast<const Scalar*>(row.before);
          Unroll<K>([&](auto k) __attribute__((always_inline)) {
            h[k] = row.before_lane != 0 ? LoadState<E, N>(before, tile_lane + k * N)
                                        : Splat<E, N>(before);
          });
          step(h);
        }

        StoreStates<E, N, K>(row.state, tile_lane, state);
        if constexpr (gradient == Gradient::kTotal) {
          if (da_lane != 0) {
            Unroll<K>([&](auto k) __attribute__((always_inline)) {
              StoreState<E, N>(da, k * N, LoadState<E, N>(da, k * N) + total[k]);
            });
          } else {
            StoreState<E, 1>(da, 0, LoadState<E, 1>(da, 0) + SumTile<E, N, K>(total));
          }
        }
        tile_g += hop * g_lane * P;
        tile_a += hop * a_lane * P;
        if constexpr (kWithDecay) tile_past += hop * past_lane * P;
        tile_dx += hop * P;
        tile_reset += hop * reset_lane;
        tile_da += hop * da_lane * da_bytes;
        tile_lane += hop;
      }
      first_g -= (to - from) * g_step;
      first_a -= (to - from) * a_step;
      if constexpr (kWithDecay) first_past -= (to - from) * past_step;
      first_dx -= (to - from) * dx_step;
      first_reset -= (to - from) * reset_step;
      first_da -= (to - from) * da_step;
    }
  }
};

// The cotangent of a at N steps of a single channel, which lie densely and have been gone through.
template <class E, Gradient gradient, bool down>
void GradientAlongTime(const BackwardRow& row, int64_t begin, int64_t end) {
  using Along = AlongTime<E, down, true>;
  constexpr int N = Along::N;
  using Storage = typename E::Storage;
  using V = typename Along::V;
  const auto* dx = reinterpret_cast<const Storage*>(row.dx.data);
  const auto* h = reinterpret_cast<const Storage*>(row.h.data);
  const auto* reset = reinterpret_cast<const uint8_t*>(row.reset.data);
  auto* da = reinterpret_cast<typename E::Scalar*>(row.da.data);
  const bool add = row.decay_gradient == DecayGradient::kAdd && !row.overwrite;
  const bool one_reset = row.reset.step == 0;
  V total = {};
  for (int64_t t = begin; t < end; t += N) {
    V now = Load<E, N>(Along::First(dx, t)) * Load<E, N>(Along::First(h, t - 1));
    if (!one_reset) {
      now = ZeroWhere<E, N>(Along::First(reset, t), now);
    } else if (*reset) {
      now = V{};
    }
    if constexpr (gradient == Gradient::kTotal) {
      total += now;
    } else {
      if (add) now += LoadRaw<V>(Along::First(da, t));
      StoreRaw(Along::First(da, t), now);
    }
  }
  if constexpr (gradient == Gradient::kTotal) *da += SumLanes<E, N>(total);
}

// Steps `begin` to `end` of a single channel. False where it does not lie densely in time.
template <class E, Gradient gradient, bool down>
bool BackwardAlongTime(const BackwardRow& row, int64_t begin, int64_t end) {
  using Along = AlongTime<E, down, true>;
  using Forwards = AlongTime<E, !down, true>;
  if (!Forwards::Fits(row.dx, {row.a, row.g, row.reset})) return false;
  if (gradient != Gradient::kNone && !Forwards::Fits(row.h, {row.da})) return false;
  const Along along(Backwards(row.a, end, kBytes<E>), Backwards(row.g, end, kBytes<E>),
                    Backwards(row.reset, end, 1));
  auto* dx =
      reinterpret_cast<typename E::Storage*>(Backwards(row.dx, end, kBytes<E>).data);
  auto& state = *static_cast<typename E::Scalar*>(row.state);
  const bool from_start = begin == 0 && row.before != nullptr;
  constexpr int64_t kSteps = 64 * Along::N;
  const int64_t whole = (end - begin - from_start) / Along::N * Along::N;
  for (int64_t done = 0; done < whole; done += kSteps) {
    const int64_t to = done + kSteps < whole ? done + kSteps : whole;
    const bool finite =
        along.Scan(done, to, state,
                   [dx](int64_t t, const auto& now) __attribute__((always_inline)) {
                     Store<E, Along::N>(Along::First(dx, t), now.Sum());
                   });
    if (!finite) {
      BackwardTile<E, gradient>{row, end - to, end - done, kSteps}.template Run<1, 1>(0, 1, 1);
    } else if constexpr (gradient != Gradient::kNone) {
      GradientAlongTime<E, gradient, !down>(row, end - to, end - done);
    }
  }
  if (begin + whole < end) {
    BackwardTile<E, gradient>{row, begin, end - whole, kSteps}.template Run<1, 1>(0, 1, 1);
  }
  return true;
}

template <class E, Gradient gradient>
void BackwardOfCopies(const BackwardRow* rows, int count, int64_t begin, int64_t end);

// Steps `begin` to `end`.
template <class E, Gradient gradient>
void BackwardByTurns(const BackwardRow* rows, int count, int64_t begin, int64_t end) {
  const int64_t lanes = rows[0].lanes;
  if constexpr (kIsHalf<E>) {
    if (IsCopied<E>(lanes)) return BackwardOfCopies<E, gradient>(rows, count, begin, end);
  } else if constexpr (E::kParts == 1) {
    if (lanes == 1 && count == 1 &&
        (BackwardAlongTime<E, gradient, false>(rows[0], begin, end) ||
         BackwardAlongTime<E, gradient, true>(rows[0], begin, end))) {
      return;
    }
  }
  const bool down = rows[0].dx.step > 0;
  // A block of sums over time reads and writes the sums too.
  constexpr int64_t kShortBytes = gradient == Gradient::kTotal ? 1024 : 512;
  const int64_t block = BlockSteps<E, kBackwardRegisters, kShortBytes>(
      end - begin, lanes, count, kBackwardTurnBytes);
  // All blocks at once, if there is a tile that fits everywhere.
  if (count == 1 && ForEqualTiles<E, kBackwardRegisters>(
                        lanes, down, BackwardTile<E, gradient>{rows[0], begin, end, block})) {
    return;
  }
  for (int64_t to = end; to > begin; to -= block) {
    const int64_t from = to - block > begin ? to - block : begin;
    for (int r = 0; r < count; ++r) {
      ForTiles<E, kBackwardRegisters>(lanes, down,
                                      BackwardTile<E, gradient>{rows[r], from, to, block});
    }
  }
}

// 16-bit floats, through copies.
template <class E, Gradient gradient>
void BackwardOfCopies(const BackwardRow* rows, int count, int64_t begin, int64_t end) {
  Copied g, a, h, dx, da;
  const Blocks blocks(end - begin, rows[0].lanes, 1);
  blocks.For(count, true, [&](int r, Block block) {
    const BackwardRow& row = rows[r];
    block.begin += begin;
    const bool from_start = block.begin == 0 && row.before != nullptr;
    BackwardRow part = row;
    part.g = Widened<E>(row.g, block, g.elements);
    part.a = Widened<E>(row.a, block, a.elements);
    part.reset = From<uint8_t>(row.reset, block);
    part.dx = Dense(row.dx, block, dx.elements);
    part.state = static_cast<float*>(row.state) + block.lane;
    part.steps = block.steps;
    part.lanes = block.lanes;
    part.before = nullptr;
    if constexpr (gradient != Gradient::kNone) {
      // The states before the steps; that before the first is not an element of h.
      Block past = block;
      past.begin -= !from_start;
      past.steps -= from_start;
      part.h = Widened<E>(row.h, past, h.elements);
      if (from_start) {
        part.before = static_cast<const float*>(row.before) + block.lane * row.before_lane;
      } else {
        part.h.data += part.h.step * static_cast<int64_t>(sizeof(float));
      }
      const bool stored = row.decay_gradient == DecayGradient::kStore;
      part.da = stored ? Dense(row.da, block, da.elements) : From<float>(row.da, block);
      part.overwrite = row.overwrite && (row.da.lane != 0 || block.lane == 0);
      BackwardByTurns<F32, gradient>(&part, 1, 0, block.steps);
      if (stored) Narrow<E>(part.da, row.da, block);
    } else {
      BackwardByTurns<F32, gradient>(&part, 1, 0, block.steps);
    }
    Narrow<E>(part.dx, row.dx, block);
  });
}

// Sums over time are taken over this many steps first, which keeps their rounding error small, and
// for this many channels at a time. Rows that take turns have shorter ones.
constexpr int64_t kSumSteps = 256;
constexpr int64_t kSumTurn = 16;
constexpr int64_t kSumBytes = 1 << 14;

template <class E>
void BackwardOverTime(const BackwardRow* rows, int count) {
  constexpr int P = E::kParts;
  using Scalar = typename E::Scalar;
  constexpr int64_t kSumLanes = kSumBytes / (P * sizeof(Scalar));
  Scalar partial[kSumLanes * P];
  const int64_t turn = count == 1 ? kSumSteps : kSumTurn, steps = rows[0].steps;
  for (int64_t lane = 0; lane < rows[0].lanes; lane += kSumLanes) {
    for (int64_t end = steps; end > 0; end -= turn) {
      for (int r = 0; r < count; ++r) {
        const BackwardRow& row = rows[r];
        BackwardRow part = row;
        part.lanes = row.lanes - lane < kSumLanes ? row.lanes - lane : kSumLanes;
        for (Stream* s : {&part.g, &part.a, &part.h, &part.dx}) {
          s->data += lane * s->lane * kBytes<E>;
        }
        part.reset.data += lane * row.reset.lane;
        part.state = static_cast<Scalar*>(row.state) + lane * P;
        if (row.before != nullptr) {
          part.before = static_cast<const Scalar*>(row.before) + lane * row.before_lane * P;
        }
        part.da.data = reinterpret_cast<char*>(partial);
        auto* sum = reinterpret_cast<Scalar*>(row.da.data) + lane * row.da.lane * P;
        const int64_t sums = (row.da.lane == 0 ? 1 : part.lanes) * P;
        for (int64_t i = 0; i < sums; ++i) partial[i] = 0;
        BackwardByTurns<E, Gradient::kTotal>(&part, 1, end > turn ? end - turn : 0, end);
        for (int64_t i = 0; i < sums; ++i) sum[i] += partial[i];
      }
    }
  }
}

template <class E>
void BackwardRows(const BackwardRow* rows, int count) {
  switch (rows[0].decay_gradient) {
    case DecayGradient::kNone:
      BackwardByTurns<E, Gradient::kNone>(rows, count, 0, rows[0].steps);
      break;
    case DecayGradient::kStore:
    case DecayGradient::kAdd:
      BackwardByTurns<E, Gradient::kEach>(rows, count, 0, rows[0].steps);
      break;
    case DecayGradient::kTime:
      BackwardOverTime<E>(rows, count);
      break;
  }
  if (rows[0].past_caches) FinishStores();
}

}  // namespace
}  // namespace fastscan
