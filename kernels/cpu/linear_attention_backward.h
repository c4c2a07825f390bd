// The backward loops of linear attention.
//
// Keys lie across the register: the cotangents of q, k and their decays sum over values, one after
// another, and only those of v are sums inside a register.
#pragma once

#include <utility>

#include "linear_attention_common.h"

namespace fastscan::attention {
namespace {

// The states between the steps of a chunk are computed again for so many values at once that they
// stay in the second-level cache.
constexpr int64_t kStateBytes = 1 << 18;

template <class E>
int64_t BlockValues(int64_t padded_keys, int64_t values) {
  const int64_t fit = kStateBytes / (kChunk * padded_keys * int64_t{sizeof(Scalar<E>)});
  return Min(fit < 4 ? 4 : fit / 4 * 4, values);
}

template <int distance, class V, int... I>
inline V Across(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ distance)...);
}
// The sum over lanes, in all of them, always in the same order.
template <class E, int distance = kWidth<E> / 2>
inline Register<E> SumAcross(Register<E> v) {
  if constexpr (distance == 0) {
    return v;
  } else {
    constexpr auto index = std::make_integer_sequence<int, kWidth<E>>();
    return SumAcross<E, distance / 2>(v + Across<distance>(v, index));
  }
}

// What the passes over one step share. Rows of keys are padded with zeros to `stride`.
template <class E>
struct Step {
  const Scalar<E>*q, *k, *decay;  // decay: one, or a row
  const Scalar<E>* zeros;         // a row, in place of the states that are forgotten
  int64_t stride;
  bool reset;
  Scalar<E> beta;
};

// The state after a step from that before it, for R values. Leaves v - k Z in `error`.
template <class E, Decay kind, bool delta, int R>
void Recompute(const Step<E>& step, const Scalar<E>* before, const Scalar<E>* v, Scalar<E>* after,
               Scalar<E>* error) {
  constexpr int W = kWidth<E>;
  using V = Register<E>;
  const int64_t stride = step.stride, row = step.reset ? 0 : stride;
  if (step.reset) before = step.zeros;
  // Copies, which the compiler knows that no store changes; so in what follows.
  const Scalar<E>*k_row = step.k, *decay_row = step.decay;
  const Scalar<E> step_decay = kind == Decay::kStep ? *decay_row : Scalar<E>{1};
  V u[R];
  Unroll<R>([&](auto r) __attribute__((always_inline)) { u[r] = V{} + v[r]; });
  if constexpr (delta) {
    V read[R] = {};
    for (int64_t i = 0; i < stride; i += W) {
      V k = LoadRaw<V>(k_row + i);
      if constexpr (kind == Decay::kKey) k *= LoadRaw<V>(decay_row + i);
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        read[r] += k * LoadRaw<V>(before + r * row + i);
      });
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      u[r] -= step_decay * SumAcross<E>(read[r]);
      error[r] = u[r][0];
      u[r] *= step.beta;
    });
  }
  for (int64_t i = 0; i < stride; i += W) {
    const V k = LoadRaw<V>(k_row + i);
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      V s = LoadRaw<V>(before + r * row + i);
      if constexpr (kind == Decay::kStep) s *= step_decay;
      if constexpr (kind == Decay::kKey) s *= LoadRaw<V>(decay_row + i);
      StoreRaw(after + r * stride + i, V(s + k * u[r]));
    });
  }
}

// Where the cotangents of a step go. Those of q, k and the decays are rows of keys, or for one
// decay a register, to which the values add.
template <class E>
struct StepCotangents {
  Scalar<E>*dq, *dk, *ddecay;
  Scalar<E>* dbeta;
};

// From dS after a step to dS before it, for R values.
template <class E, Decay kind, bool delta, int R>
void Retreat(const Step<E>& step, const Scalar<E>* before, const Scalar<E>* after,
             const Scalar<E>* g, const Scalar<E>* v, const Scalar<E>* error, Scalar<E>* dS,
             Scalar<E>* dv, const StepCotangents<E>& out) {
  constexpr int W = kWidth<E>;
  using V = Register<E>;
  const int64_t stride = step.stride, row = step.reset ? 0 : stride;
  if (step.reset) before = step.zeros;
  const Scalar<E>*q_row = step.q, *k_row = step.k, *decay_row = step.decay;
  Scalar<E>*dq_row = out.dq, *dk_row = out.dk, *ddecay_row = out.ddecay;
  const Scalar<E> step_decay = kind == Decay::kStep ? *decay_row : Scalar<E>{1};
  V du[R] = {}, u[R], g_t[R], minus_dread[R], ddecay = V{};
  Unroll<R>([&](auto r) __attribute__((always_inline)) {
    g_t[r] = V{} + g[r];
    u[r] = V{} + (delta ? step.beta * error[r] : v[r]);
  });
  if constexpr (delta) {
    for (int64_t i = 0; i < stride; i += W) {
      const V q = LoadRaw<V>(q_row + i), k = LoadRaw<V>(k_row + i);
      Unroll<R>([&](auto r) __attribute__((always_inline)) {
        const V G = LoadRaw<V>(dS + r * stride + i) + g_t[r] * q;
        StoreRaw(dS + r * stride + i, G);
        du[r] += k * G;
      });
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      du[r] = SumAcross<E>(du[r]);
      *out.dbeta += du[r][0] * error[r];
      minus_dread[r] = step.beta * du[r];
      dv[r] = minus_dread[r][0];
    });
  }
  for (int64_t i = 0; i < stride; i += W) {
    const V q = LoadRaw<V>(q_row + i), k = LoadRaw<V>(k_row + i);
    V dq = LoadRaw<V>(dq_row + i), dk = LoadRaw<V>(dk_row + i);
    V decay = V{} + step_decay, key_ddecay = V{};
    if constexpr (kind == Decay::kKey) {
      decay = LoadRaw<V>(decay_row + i);
      key_ddecay = LoadRaw<V>(ddecay_row + i);
    }
    Unroll<R>([&](auto r) __attribute__((always_inline)) {
      V dZ = LoadRaw<V>(dS + r * stride + i);
      if constexpr (!delta) dZ += g_t[r] * q;
      dq += g_t[r] * LoadRaw<V>(after + r * stride + i);
      dk += u[r] * dZ;
      if constexpr (delta) {
        V Z = LoadRaw<V>(before + r * row + i);
        if constexpr (kind != Decay::kNone) Z *= decay;
        dk -= minus_dread[r] * Z;
        dZ -= minus_dread[r] * k;
      } else {
        du[r] += k * dZ;
      }
      if constexpr (kind != Decay::kNone) {
        const V past = LoadRaw<V>(before + r * row + i);
        if constexpr (kind == Decay::kKey) key_ddecay += dZ * past;
        if constexpr (kind == Decay::kStep) ddecay += dZ * past;
        dZ *= decay;
      }
      StoreRaw(dS + r * stride + i, dZ);
    });
    StoreRaw(dq_row + i, dq);
    StoreRaw(dk_row + i, dk);
    if constexpr (kind == Decay::kKey) StoreRaw(ddecay_row + i, key_ddecay);
  }
  if constexpr (kind == Decay::kStep) {
    StoreRaw(out.ddecay, V(LoadRaw<V>(out.ddecay) + ddecay));
  }
  if constexpr (!delta) {
    Unroll<R>([&](auto r) __attribute__((always_inline)) { dv[r] = SumAcross<E>(du[r])[0]; });
  }
}

// The memory of a backward pass.
template <class E>
struct Workspace {
  Scalar<E>*dS, *states, *errors, *zeros, *q, *k, *decay, *dq, *dk, *ddecay, *dbeta;

  // Returns how many elements it takes.
  int64_t Place(Scalar<E>* base, int64_t padded_keys, int64_t values) {
    const int64_t chunk = kChunk * padded_keys, block = BlockValues<E>(padded_keys, values);
    int64_t used = 0;
    const auto take = [&](int64_t count) {
      Scalar<E>* p = base == nullptr ? nullptr : base + used;
      used += RoundUp(count, kWidth<E>);
      return p;
    };
    dS = take(values * padded_keys);
    states = take((kChunk + 1) * block * padded_keys);
    errors = take(kChunk * block);
    zeros = take(padded_keys);
    q = take(chunk);
    k = take(chunk);
    decay = take(chunk);
    dq = take(chunk);
    dk = take(chunk);
    ddecay = take(chunk);
    dbeta = take(kChunk);
    return used;
  }
};

template <class E>
int64_t BackwardScratch(int64_t keys, int64_t values) {
  Workspace<E> none;
  return none.Place(nullptr, RoundUp(keys, kWidth<E>), values) * sizeof(Scalar<E>);
}

template <class E, Decay kind, bool delta>
void BackwardSteps(const BackwardPart& part) {
  using T = Scalar<E>;
  // The values that share the loads and stores of dq and dk, as many as registers hold.
  constexpr int W = kWidth<E>, R = kind == Decay::kNone ? 4 : 2;
  const Sequence& in = part.in;
  const int64_t keys = in.keys, values = in.values, count = part.end - part.begin;
  const int64_t stride = RoundUp(keys, W), block = BlockValues<E>(stride, count);
  Workspace<E> work;
  work.Place(As<T>(part.scratch), stride, count);
  Zero(work.zeros, stride);

  const T* g_last = As<T>(part.g_last) + part.begin;
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = 0; i < keys; ++i) work.dS[j * stride + i] = g_last[i * values + j];
    Zero(work.dS + j * stride + keys, stride - keys);
  }

  const int64_t chunks = (in.steps + kChunk - 1) / kChunk;
  for (int64_t c = chunks - 1; c >= 0; --c) {
    const int64_t first = c * kChunk, steps = Min(kChunk, in.steps - first);
    const auto staged = [&](const char* rows, T* room) -> const T* {
      const T* from = As<T>(rows) + first * keys;
      if (stride == keys) return from;
      Pad(from, steps, keys, keys, room, stride);
      return room;
    };
    const T *q = staged(in.q, work.q), *k = staged(in.k, work.k);
    const T* decay = kind == Decay::kKey ? staged(in.decay, work.decay) : As<T>(in.decay) + first;
    const int64_t decay_stride = kind == Decay::kKey ? stride : 1;
    const int64_t ddecay_stride = kind == Decay::kKey ? stride : W;
    Zero(work.dq, steps * stride);
    Zero(work.dk, steps * stride);
    if (kind != Decay::kNone) Zero(work.ddecay, steps * ddecay_stride);
    Zero(work.dbeta, steps);

    const auto step_at = [&](int64_t t) {
      return Step<E>{q + t * stride,
                     k + t * stride,
                     decay + t * decay_stride,
                     work.zeros,
                     stride,
                     in.reset != nullptr && in.reset[first + t] != 0,
                     delta ? As<T>(in.beta)[first + t] : T{1}};
    };
    for (int64_t begin = 0; begin < count; begin += block) {
      const int64_t rows = Min(block, count - begin), size = rows * stride;
      const int64_t value = first * values + part.begin + begin;
      const T *v = As<T>(in.v) + value, *g = As<T>(part.g) + value;
      T* dv = As<T>(part.dv) + value;
      const T* start = As<T>(part.starts) + c * keys * values + part.begin + begin;
      for (int64_t j = 0; j < rows; ++j) {
        for (int64_t i = 0; i < keys; ++i) work.states[j * stride + i] = start[i * values + j];
        Zero(work.states + j * stride + keys, stride - keys);
      }
      for (int64_t t = 0; t < steps; ++t) {
        const Step<E> step = step_at(t);
        const T *before = work.states + t * size, *v_t = v + t * values;
        T *after = work.states + (t + 1) * size, *error = work.errors + t * rows;
        const auto run = [&](auto together, int64_t j) {
          constexpr int R = decltype(together)::value;
          const int64_t at = j * stride;
          if (step.reset) {
            Recompute<E, Decay::kNone, delta, R>(step, before, v_t + j, after + at, error + j);
          } else {
            Recompute<E, kind, delta, R>(step, before + at, v_t + j, after + at, error + j);
          }
        };
        int64_t j = 0;
        for (; j + 4 <= rows; j += 4) run(std::integral_constant<int, 4>(), j);
        for (; j < rows; ++j) run(std::integral_constant<int, 1>(), j);
      }
      for (int64_t t = steps - 1; t >= 0; --t) {
        const Step<E> step = step_at(t);
        const T *before = work.states + t * size, *after = before + size;
        const T *v_t = v + t * values, *g_t = g + t * values, *error = work.errors + t * rows;
        T *dS = work.dS + begin * stride, *dv_t = dv + t * values;
        const StepCotangents<E> out = {work.dq + t * stride, work.dk + t * stride,
                                       work.ddecay + t * ddecay_stride, work.dbeta + t};
        const auto run = [&](auto together, int64_t j) {
          constexpr int R = decltype(together)::value;
          const int64_t at = j * stride;
          if (step.reset) {
            Retreat<E, Decay::kNone, delta, R>(step, before, after + at, g_t + j, v_t + j,
                                               error + j, dS + at, dv_t + j, out);
          } else {
            Retreat<E, kind, delta, R>(step, before + at, after + at, g_t + j, v_t + j, error + j,
                                       dS + at, dv_t + j, out);
          }
        };
        int64_t j = 0;
        for (; j + R <= rows; j += R) run(std::integral_constant<int, R>(), j);
        for (; j < rows; ++j) run(std::integral_constant<int, 1>(), j);
        if (step.reset) Zero(dS, size);
      }
    }

    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = (first + t) * keys;
      Copy(work.dq + t * stride, keys, As<T>(part.dq) + at);
      Copy(work.dk + t * stride, keys, As<T>(part.dk) + at);
      if (delta) As<T>(part.dbeta)[first + t] = work.dbeta[t];
      const bool reset = in.reset != nullptr && in.reset[first + t];
      if constexpr (kind == Decay::kKey) {
        T* to = As<T>(part.dlog_decay) + at;
        const T *from = work.ddecay + t * stride, *by = decay + t * stride;
        for (int64_t i = 0; i < keys; ++i) to[i] = reset ? T{0} : by[i] * from[i];
      }
      if constexpr (kind == Decay::kStep) {
        const T sum = SumAcross<E>(LoadRaw<Register<E>>(work.ddecay + t * W))[0];
        As<T>(part.dlog_decay)[first + t] = reset ? T{0} : decay[t] * sum;
      }
    }
  }
  T* dS0 = As<T>(part.dS0) + part.begin;
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = 0; i < keys; ++i) dS0[i * values + j] = work.dS[j * stride + i];
  }
}

}  // namespace
}  // namespace fastscan::attention
