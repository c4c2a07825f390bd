// The summaries of some steps of the linear scan as a map of states.
#pragma once

#include <cstdint>

#include "linear_scan_along_time.h"
#include "linear_scan_half.h"
#include "linear_scan_tiles.h"

namespace fastscan {
namespace {

// The same K registers of N channels each in R rows, from step `begin` to step `end`, or against
// time. Continues with the maps that it finds.
template <class E, int R, bool adjoint>
struct SummaryTile {
  const SummaryRow* rows;
  int64_t begin, end;

  template <int N, int K>
  void Run(int64_t lane, int64_t count, int64_t hop) const {
    for (; count > 0; --count, lane += hop) RunTile<N, K>(lane);
  }

  template <int N, int K>
  void RunTile(int64_t lane) const {
    using Storage = typename E::Storage;
    using Product = Lanes<Wide<E>, N>;
    constexpr int P = E::kParts;
    constexpr int64_t direction = adjoint ? -1 : 1;
    const int64_t first = adjoint ? end - 1 : begin;
    Cursor<const Storage, R> a, x;
    Cursor<const uint8_t, R> reset;
    Lanes<E, N> state[R][K];
    Product product[R][K];
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      a.start[r] = At<Storage>(rows[r].a, first, lane, P);
      x.start[r] = At<Storage>(rows[r].x, first, lane, P);
      reset.start[r] = At<uint8_t>(rows[r].reset, first, lane, 1);
      LoadStates<E, N, K>(rows[r].state, lane, state[r]);
      LoadStates<Wide<E>, N, K>(rows[r].product, lane, product[r]);
    });
    const int64_t a_step = direction * rows[0].a.step * P;
    const int64_t x_step = direction * rows[0].x.step * P;
    const int64_t reset_step = direction * rows[0].reset.step;
    const int64_t a_lane = rows[0].a.lane, x_lane = rows[0].x.lane;
    const int64_t reset_lane = rows[0].reset.lane;
    for (int64_t t = begin; t < end; ++t) {
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        Lanes<E, N> a_t[K], x_t[K];
        const uint8_t* flags = reset[r];
        LoadTile<E, N, K>(a[r], a_lane, a_t);
        LoadTile<E, N, K>(x[r], x_lane, x_t);
        Unroll<K>([&](auto k) __attribute__((always_inline)) {
          if constexpr (adjoint) state[r][k] += x_t[k];
          product[r][k] = Multiply<Wide<E>, N>(Convert<Product>(a_t[k]), product[r][k]);
        });
        if (reset_lane != 0) {
          Unroll<K>([&](auto k) __attribute__((always_inline)) {
            product[r][k] = ZeroWhere<Wide<E>, N>(flags + k * N, product[r][k]);
            const auto past = Multiply<E, N>(a_t[k], state[r][k]);
            state[r][k] = ZeroWhere<E, N>(flags + k * N, past);
            if constexpr (!adjoint) state[r][k] += x_t[k];
          });
          for (int i = 0; i < N * K; ++i) rows[r].cut[lane + i] |= flags[i];
        } else if (*flags) {
          Unroll<K>([&](auto k) __attribute__((always_inline)) {
            product[r][k] = Product{};
            state[r][k] = adjoint ? Lanes<E, N>{} : x_t[k];
          });
          for (int i = 0; i < N * K; ++i) rows[r].cut[lane + i] = 1;
        } else {
          Unroll<K>([&](auto k) __attribute__((always_inline)) {
            if constexpr (adjoint) {
              state[r][k] = Multiply<E, N>(a_t[k], state[r][k]);
            } else {
              state[r][k] = MultiplyAdd<E, N>(a_t[k], state[r][k], x_t[k]);
            }
          });
        }
      });
      a.Move(a_step);
      x.Move(x_step);
      reset.Move(reset_step);
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      StoreStates<E, N, K>(rows[r].state, lane, state[r]);
      StoreStates<Wide<E>, N, K>(rows[r].product, lane, product[r]);
    });
  }
};

// A single channel. False where it does not lie densely in time.
template <class E, bool adjoint, bool down>
bool SummarizeAlongTime(const SummaryRow& row) {
  using Along = AlongTime<E, down, adjoint>;
  using Products = Lanes<Wide<E>, Along::N>;
  const auto turned = [&row](const Stream& s, int64_t bytes) {
    return adjoint ? Backwards(s, row.steps, bytes) : s;
  };
  const Stream a = turned(row.a, kBytes<E>), x = turned(row.x, kBytes<E>);
  const Stream reset = turned(row.reset, 1);
  if (!Along::Fits(x, {a, reset})) return false;
  auto& product = *static_cast<double*>(row.product);
  const double unit = 1;
  Products products = Splat<Wide<E>, Along::N>(&unit);
  const int64_t whole = row.steps / Along::N * Along::N;
  const bool finite = Along(a, x, reset)
                          .Scan(0, whole, *static_cast<typename E::Scalar*>(row.state),
                                [&products](int64_t, const auto& now)
                                __attribute__((always_inline)) {
                                  products *= Convert<Products>(now.decay);
                                });
  if (finite) {
    for (int i = 0; i < Along::N; ++i) product *= products[i];
    const auto* flag = reinterpret_cast<const uint8_t*>(reset.data);
    for (int64_t t = 0; t < whole; ++t) *row.cut |= flag[t * reset.step];
  }
  const int64_t done = finite ? whole : 0;
  const SummaryTile<E, 1, adjoint> rest{&row, adjoint ? 0 : done,
                                        adjoint ? row.steps - done : row.steps};
  rest.template Run<1, 1>(0, 1, 1);
  return true;
}

template <class E, bool adjoint>
void SummarizeLoops(const SummaryRow* rows, int count) {
  const int64_t lanes = rows[0].lanes, steps = rows[0].steps;
  if (count == kOverlap && IsNarrow<E>(lanes) && (E::kParts > 1 || lanes > 1)) {
    return ForNarrow<E>(lanes, SummaryTile<E, kOverlap, adjoint>{rows, 0, steps});
  }
  const int64_t block = BlockSteps<E>(steps, lanes);
  for (int r = 0; r < count; ++r) {
    if constexpr (E::kParts == 1) {
      if (lanes == 1 && (SummarizeAlongTime<E, adjoint, false>(rows[r]) ||
                         SummarizeAlongTime<E, adjoint, true>(rows[r]))) {
        continue;
      }
    }
    const bool down = adjoint ? rows[r].x.step > 0 : rows[r].x.step < 0;
    for (int64_t done = 0; done < steps; done += block) {
      const int64_t n = done + block < steps ? block : steps - done;
      const int64_t begin = adjoint ? steps - done - n : done;
      // The products take a register each.
      ForTiles<E, kTileRegisters, kWidth<Wide<E>>>(lanes, down,
                                                   SummaryTile<E, 1, adjoint>{rows + r, begin, begin + n});
    }
  }
}

// 16-bit floats, through copies.
template <class E, bool adjoint>
void SummarizeCopies(const SummaryRow* rows, int count) {
  Copied a, x;
  const Blocks blocks(rows[0].steps, rows[0].lanes, IsNarrow<E>(rows[0].lanes) ? count : 1);
  blocks.For(count, adjoint, [&](int first, const Block& block) {
    SummaryRow parts[kOverlap];
    for (int i = 0; i < blocks.together; ++i) {
      const SummaryRow& row = rows[first + i];
      parts[i] = {Widened<E>(row.a, block, a.elements + i * blocks.room),
                  Widened<E>(row.x, block, x.elements + i * blocks.room),
                  From<uint8_t>(row.reset, block),
                  static_cast<double*>(row.product) + block.lane,
                  static_cast<float*>(row.state) + block.lane,
                  row.cut + block.lane,
                  block.steps,
                  block.lanes};
    }
    SummarizeLoops<F32, adjoint>(parts, blocks.together);
  });
}

template <class E, bool adjoint>
void SummarizeOf(const SummaryRow* rows, int count) {
  if constexpr (kIsHalf<E>) {
    SummarizeCopies<E, adjoint>(rows, count);
  } else {
    SummarizeLoops<E, adjoint>(rows, count);
  }
}

template <class E>
void Summarize(const SummaryRow* rows, int count, bool adjoint) {
  const double unit[2] = {1, 0};
  for (int r = 0; r < count; ++r) {
    for (int64_t d = 0; d < rows[r].lanes; ++d) {
      StoreState<Wide<E>, 1>(rows[r].product, d, Splat<Wide<E>, 1>(unit));
      StoreState<E, 1>(rows[r].state, d, Lanes<E, 1>{});
      rows[r].cut[d] = 0;
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

}  // namespace
}  // namespace fastscan
