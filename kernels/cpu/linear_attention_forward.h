// The forward loops of linear attention.
//
// Values lie across the register: y sums over the keys, one after another, and nothing is summed
// inside a register.
#pragma once

#include "linear_attention_common.h"

namespace fastscan::attention {
namespace {

// The registers of values that are worked on at once, where there are so many; half of them for the
// rest. The delta rule takes a step at a time, and more of them; otherwise two steps share their
// loads and stores of the state.
template <bool delta>
constexpr int kTile = delta ? 4 : 2;

// The sums over keys of the delta rule wait for each other. With few registers of values, those of
// every other key are apart.
template <int N>
constexpr int kApart = N < kTile<true> ? 2 : 1;

// Calls body(key, which of the sums it joins).
template <int apart, class Body>
[[gnu::always_inline]] inline void ForEachKey(int64_t keys, const Body& body) {
  int64_t i = 0;
  for (; i + apart <= keys; i += apart) {
    Unroll<apart>([&](auto a) __attribute__((always_inline)) { body(i + a, a); });
  }
  for (; i < keys; ++i) body(i, std::integral_constant<int, 0>());
}
// The sum of what is apart, in its place.
template <class V, int apart, int N>
[[gnu::always_inline]] inline void Join(V (&sums)[apart][N]) {
  if constexpr (apart == 2) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) { sums[0][n] += sums[1][n]; });
  }
}

// Some registers of values of a sequence. `state` is (keys, registers).
template <class E>
struct Tile {
  Scalar<E>* state;
  const Scalar<E>*q, *k, *v, *decay, *beta;
  Scalar<E>* y;
  int64_t keys, v_stride, y_stride;
  Scalar<E>* weights;  // room for as many as keys
};

// Steps t to t + R: S = decay * S + k v^T, y = q S.
template <class E, Decay kind, int N, int R>
void Advance(const Tile<E>& tile, int64_t t) {
  constexpr int W = kWidth<E>;
  using V = Register<E>;
  const int64_t keys = tile.keys;
  const Scalar<E>*q = tile.q + t * keys, *k = tile.k + t * keys;
  const Scalar<E>* decay = tile.decay + t * (kind == Decay::kKey ? keys : 1);
  Scalar<E> step_decay[R];
  V v[R][N], y[R][N];
  Unroll<R>([&](auto r) __attribute__((always_inline)) {
    if constexpr (kind == Decay::kStep) step_decay[r] = decay[r];
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      v[r][n] = LoadRaw<V>(tile.v + (t + r) * tile.v_stride + n * W);
      y[r][n] = V{};
    });
  });
  Scalar<E>* state = tile.state;
  for (int64_t i = 0; i < keys; ++i, state += N * W) {
    V s[N];
    Unroll<N>([&](auto n) __attribute__((always_inline)) { s[n] = LoadRaw<V>(state + n * W); });
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      const Scalar<E> q_i = q[r * keys + i], k_i = k[r * keys + i];
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        if constexpr (kind == Decay::kStep) s[n] *= step_decay[r];
        if constexpr (kind == Decay::kKey) s[n] *= decay[r * keys + i];
        s[n] += k_i * v[r][n];
        y[r][n] += q_i * s[n];
      });
    });
    Unroll<N>([&](auto n) __attribute__((always_inline)) { StoreRaw(state + n * W, s[n]); });
  }
  Unroll<R>([&](auto r) __attribute__((always_inline)) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      StoreRaw(tile.y + (t + r) * tile.y_stride + n * W, y[r][n]);
    });
  });
}

// The keys of step t, times the decays that each has of its own.
template <class E, Decay kind>
const Scalar<E>* DecayedKeys(const Tile<E>& tile, int64_t t) {
  const Scalar<E>* k = tile.k + t * tile.keys;
  if constexpr (kind != Decay::kKey) return k;
  const Scalar<E>* decay = tile.decay + t * tile.keys;
  for (int64_t i = 0; i < tile.keys; ++i) tile.weights[i] = decay[i] * k[i];
  return tile.weights;
}

// Steps `begin` to `end` with the delta rule. The pass over the state that takes a step already
// sums what the next step reads: k Z. With `errors` y is v - k Z.
template <class E, Decay kind, int N, bool errors>
void AdvanceDelta(const Tile<E>& tile, int64_t begin, int64_t end) {
  constexpr int W = kWidth<E>;
  using V = Register<E>;
  const int64_t keys = tile.keys;
  constexpr int apart = kApart<N>;
  V read[apart][N] = {};
  const Scalar<E>* weights = DecayedKeys<E, kind>(tile, begin);
  ForEachKey<apart>(keys, [&](int64_t i, auto a) __attribute__((always_inline)) {
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      read[a][n] += weights[i] * LoadRaw<V>(tile.state + (i * N + n) * W);
    });
  });
  for (int64_t t = begin; t < end; ++t) {
    const Scalar<E>*q = tile.q + t * keys, *k = tile.k + t * keys;
    const Scalar<E>* decay = tile.decay + t * (kind == Decay::kKey ? keys : 1);
    const Scalar<E> step_decay = kind == Decay::kStep ? *decay : Scalar<E>{1};
    const Scalar<E> beta = tile.beta[t];
    V u[N], y[apart][N] = {};
    Join(read);
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      const V v = LoadRaw<V>(tile.v + t * tile.v_stride + n * W);
      const V error = v - step_decay * read[0][n];
      u[n] = beta * error;
      if constexpr (errors) y[0][n] = error;
      Unroll<apart>([&](auto a) __attribute__((always_inline)) { read[a][n] = V{}; });
    });
    weights = DecayedKeys<E, kind>(tile, t + 1 < end ? t + 1 : t);
    Scalar<E>* state = tile.state;
    ForEachKey<apart>(keys, [&](int64_t i, auto a) __attribute__((always_inline)) {
      const Scalar<E> q_i = q[i], k_i = k[i], next_i = weights[i];
      Unroll<N>([&](auto n) __attribute__((always_inline)) {
        V s = LoadRaw<V>(state + (i * N + n) * W);
        if constexpr (kind == Decay::kStep) s *= step_decay;
        if constexpr (kind == Decay::kKey) s *= decay[i];
        s += k_i * u[n];
        if constexpr (!errors) y[a][n] += q_i * s;
        read[a][n] += next_i * s;
        StoreRaw(state + (i * N + n) * W, s);
      });
    });
    Join(y);
    Unroll<N>([&](auto n) __attribute__((always_inline)) {
      StoreRaw(tile.y + t * tile.y_stride + n * W, y[0][n]);
    });
  }
}

template <class E, Decay kind, bool delta, int N, bool errors>
void AdvanceSteps(const Tile<E>& tile, int64_t begin, int64_t end) {
  if (begin == end) return;
  if constexpr (delta) {
    AdvanceDelta<E, kind, N, errors>(tile, begin, end);
  } else {
    int64_t t = begin;
    for (; t + 2 <= end; t += 2) Advance<E, kind, N, 2>(tile, t);
    if (t < end) Advance<E, kind, N, 1>(tile, t);
  }
}

template <class E, Decay kind, bool delta, int N, bool errors = false>
void AdvanceChunk(const Tile<E>& tile, const uint8_t* reset, int64_t steps) {
  for (int64_t t = 0; t < steps;) {
    if (reset != nullptr && reset[t]) {
      // What is forgotten is not multiplied by a decay either, which might be NaN.
      Zero(tile.state, tile.keys * N * kWidth<E>);
      AdvanceSteps<E, Decay::kNone, delta, N, errors>(tile, t, t + 1);
      ++t;
    }
    const int64_t end = NextReset(reset, t, steps);
    AdvanceSteps<E, kind, delta, N, errors>(tile, t, end);
    t = end;
  }
}

// Values `begin` to `begin + count` over the steps of a chunk. `state` is (keys, N registers).
template <class E, Decay kind, bool delta, int N>
void ForwardTile(const ForwardPart& part, int64_t begin, int64_t count, int64_t first,
                 int64_t last, Scalar<E>* state, Scalar<E>* scratch) {
  using T = Scalar<E>;
  constexpr int64_t kLanes = N * kWidth<E>;
  const Sequence& in = part.in;
  const int64_t keys = in.keys, values = in.values;

  T* starts = As<T>(part.starts) + first / kChunk * keys * values + begin;
  for (int64_t i = 0; i < keys; ++i) Copy(state + i * kLanes, count, starts + i * values);

  Tile<E> tile;
  tile.state = state;
  tile.q = As<T>(in.q) + first * keys;
  tile.k = As<T>(in.k) + first * keys;
  tile.decay = As<T>(in.decay) + first * in.decays;
  tile.beta = As<T>(in.beta) + first;
  tile.keys = keys;
  tile.weights = scratch;
  const T* v = As<T>(in.v) + first * values + begin;
  T* y = As<T>(part.y) + first * values + begin;
  T *padded_v = scratch + RoundUp(keys, kLanes), *padded_y = padded_v + kChunk * kLanes;
  const bool whole = count == kLanes;
  tile.v = whole ? v : padded_v;
  tile.y = whole ? y : padded_y;
  tile.v_stride = tile.y_stride = whole ? values : kLanes;
  const int64_t steps = last - first;
  if (!whole) Pad(v, steps, count, values, padded_v, kLanes);

  AdvanceChunk<E, kind, delta, N>(tile, in.reset == nullptr ? nullptr : in.reset + first, steps);
  if (!whole) {
    for (int64_t t = 0; t < steps; ++t) Copy(padded_y + t * kLanes, count, y + t * values);
  }
}

template <class E, Decay kind, bool delta>
void ForwardSteps(const ForwardPart& part) {
  using T = Scalar<E>;
  constexpr int W = kWidth<E>, N = kTile<delta>, M = N / 2;
  const int64_t keys = part.in.keys, values = part.in.values, count = part.end - part.begin;
  const int64_t wide = RoundUp(count, M * W) / (N * W) * (N * W);
  T* states = As<T>(part.scratch);
  T* scratch = states + keys * RoundUp(count, M * W);

  // The state of the values from `lane` on, and how many there are in one tile.
  const auto state = [&](int64_t lane) { return states + keys * lane; };
  const auto lanes = [&](int64_t lane) { return lane < wide ? N * W : M * W; };
  const T* S0 = As<T>(part.S0) + part.begin;
  for (int64_t lane = 0; lane < count; lane += lanes(lane)) {
    Pad(S0 + lane, keys, Min(count - lane, lanes(lane)), values, state(lane), lanes(lane));
  }
  for (int64_t first = 0; first < part.in.steps; first += kChunk) {
    const int64_t last = Min(first + kChunk, part.in.steps);
    for (int64_t lane = 0; lane < count; lane += lanes(lane)) {
      const int64_t some = Min(count - lane, lanes(lane)), begin = part.begin + lane;
      if (lane < wide) {
        ForwardTile<E, kind, delta, N>(part, begin, some, first, last, state(lane), scratch);
      } else {
        ForwardTile<E, kind, delta, M>(part, begin, some, first, last, state(lane), scratch);
      }
    }
  }
  T* S_last = As<T>(part.S_last) + part.begin;
  for (int64_t lane = 0; lane < count; lane += lanes(lane)) {
    for (int64_t i = 0; i < keys; ++i) {
      Copy(state(lane) + i * lanes(lane), Min(count - lane, lanes(lane)),
           S_last + i * values + lane);
    }
  }
}

template <class E>
int64_t ForwardScratch(int64_t keys, int64_t values) {
  constexpr int64_t kLanes = kTile<true> * kWidth<E>;
  const int64_t state = keys * RoundUp(values, kLanes / 2);
  return (state + RoundUp(keys, kLanes) + 2 * kChunk * kLanes) * sizeof(Scalar<E>);
}

}  // namespace
}  // namespace fastscan::attention
