// The backward loops of linear attention: chunks against time, each from the state before it.
#pragma once

#include <type_traits>

#include "linear_attention_backward_delta.h"
#include "linear_attention_backward_tile.h"
#include "linear_attention_backward_rows.h"
#include "linear_attention_common.h"

namespace fastscan::attention {
namespace {

// The registers of values of a wide tile.
constexpr int kWide = kTile<true> / 2;

// The memory of a backward pass. Rows of keys and values are cut into those of tiles, one tile
// after another, and end in zeros.
template <class E>
struct Workspace {
  Scalar<E>*dS, *S, *past;  // (tiles, values, keys), of one tile, of its steps
  Scalar<E>*q, *k, *decay, *dq, *dk, *ddecay;       // of keys
  Scalar<E>*u, *g, *dv;                             // of values
  Scalar<E>* dbeta;
  // With the delta rule, of tiles of many values: dS; and of one such tile
  Scalar<E>*wide_dS, *wide_S, *wide_v, *wide_g, *wide_u, *wide_dv, *weights;

  // Returns how many elements it takes.
  int64_t Place(Scalar<E>* base, int64_t keys, int64_t values, bool delta) {
    constexpr int64_t W = kWidth<E>, R = kTileValues<E>, kLanes = kWide * W;
    const int64_t padded_keys = RoundUp(keys, kTileKeys * W), padded_values = RoundUp(values, R);
    int64_t used = 0;
    const auto take = [&](int64_t count) {
      Scalar<E>* p = base == nullptr ? nullptr : base + used;
      used += RoundUp(count, 64);
      return p;
    };
    dS = take(padded_keys * padded_values);
    S = take(kTileKeys * W * R);
    past = take(kChunk * kTileKeys * W * R);
    for (Scalar<E>** rows : {&q, &k, &dq, &dk}) *rows = take(kChunk * padded_keys);
    for (Scalar<E>** rows : {&decay, &ddecay}) *rows = take(kChunk * padded_keys);
    for (Scalar<E>** rows : {&u, &g, &dv}) *rows = take(kChunk * padded_values);
    if (delta) {
      dbeta = take(kChunk * W);
      wide_dS = take(keys * RoundUp(values, kLanes));
      wide_S = take(keys * kLanes);
      for (Scalar<E>** rows : {&wide_v, &wide_g, &wide_u, &wide_dv}) *rows = take(kChunk * kLanes);
      weights = take(keys);
    }
    return used;
  }
};

template <class E>
int64_t BackwardScratch(int64_t keys, int64_t values) {
  return Workspace<E>().Place(nullptr, keys, values, true) * sizeof(Scalar<E>);
}

// What does not depend on the form: how the values `begin` to `end` of a sequence lie in tiles.
template <class E>
class BackwardLayout {
 protected:
  using T = Scalar<E>;
  using V = Register<E>;
  static constexpr int W = kWidth<E>, R = kTileValues<E>;
  // Doubles, which are rare, have fewer sizes of tiles: compiling each takes time.
  static constexpr bool kOneSize = std::is_same_v<T, double>;
  static constexpr int64_t kKeyUnit = kOneSize ? kTileKeys * W : W;

  BackwardLayout(const BackwardPart& part, bool delta)
      : part_(part), in_(part.in), keys_(in_.keys), count_(part.end - part.begin) {
    work_.Place(As<T>(part.scratch), keys_, count_, delta);
  }

  // body(first key, keys of the tile)
  template <class Body>
  void ForEachKeys(const Body& body) const {
    for (int64_t i = 0; i < keys_; i += kTileKeys * W) {
      body(i, Min(kTileKeys * W, RoundUp(keys_ - i, kKeyUnit)));
    }
  }
  // body(first key, keys of the tile, first value)
  template <class Body>
  void ForEachTile(const Body& body) const {
    ForEachKeys([&](int64_t i, int64_t size) {
      for (int64_t j = 0; j < count_; j += R) body(i, size, j);
    });
  }
  T* DState(int64_t i, int64_t size, int64_t j) const {
    return work_.dS + i * RoundUp(count_, R) + j * size;
  }
  // The tile of a state at keys i and values j, where `from` is its first element.
  void TurnTile(const T* from, int64_t stride, int64_t i, int64_t size, int64_t j, T* to) const {
    Turn<E, R>(from, Min(size, keys_ - i), Min(R, count_ - j), stride, size, to);
  }
  void CutKeys(const T* rows, int64_t steps, T* tiles) const {
    CutRows<E, kTileKeys * W>(rows, steps, keys_, keys_, LastKeys(), tiles);
  }
  void JoinKeys(const T* tiles, int64_t steps, T* rows) const {
    JoinRows<E, kTileKeys * W>(tiles, steps, keys_, keys_, LastKeys(), rows);
  }
  // The size of the last tile, if it is not whole.
  int64_t LastKeys() const { return RoundUp(keys_ % (kTileKeys * W), kKeyUnit); }
  static T SumRegister(const T* p) { return SumLanes<E, W>(LoadRaw<V>(p)); }

  // dS after the last step, and before the first.
  [[gnu::noinline]] void LoadLast(bool delta) {
    const T* g_last = As<T>(part_.g_last) + part_.begin;
    ForEachTile([&](int64_t i, int64_t size, int64_t j) {
      TurnTile(g_last + i * in_.values + j, in_.values, i, size, j, DState(i, size, j));
    });
    if (!delta) return;
    constexpr int64_t kLanes = kWide * W;
    for (int64_t j = 0; j < count_; j += kLanes) {
      Pad(g_last + j, keys_, Min(kLanes, count_ - j), in_.values, work_.wide_dS + j * keys_,
          kLanes);
    }
  }
  [[gnu::noinline]] void StoreFirst() const {
    T* dS0 = As<T>(part_.dS0) + part_.begin;
    ForEachTile([&](int64_t i, int64_t size, int64_t j) {
      const T* tile = DState(i, size, j);
      for (int64_t a = 0; a < Min(size, keys_ - i); ++a) {
        for (int64_t b = 0; b < Min(R, count_ - j); ++b) {
          dS0[(i + a) * in_.values + j + b] = tile[b * size + a];
        }
      }
    });
  }
  // At a reset a decay is not looked at: it may be NaN, and what it meets is zero.
  [[gnu::noinline]] void CutDecays(const T* decay, const uint8_t* reset, int64_t steps) const {
    CutKeys(decay, steps, work_.decay);
    ForEachKeys([&](int64_t i, int64_t size) {
      for (int64_t t = NextReset(reset, 0, steps); t < steps; t = NextReset(reset, t + 1, steps)) {
        T* row = work_.decay + i * kChunk + t * size;
        for (int64_t a = 0; a < size; ++a) row[a] = T{1};
      }
    });
  }

  const BackwardPart& part_;
  const Sequence& in_;
  const int64_t keys_, count_;
  Workspace<E> work_;
};

template <class E, Decay kind, bool delta>
class BackwardSteps : BackwardLayout<E> {
  using Layout = BackwardLayout<E>;
  using typename Layout::T;
  using Layout::W, Layout::R, Layout::part_, Layout::in_, Layout::keys_, Layout::count_;
  using Layout::work_;

 public:
  explicit BackwardSteps(const BackwardPart& part) : Layout(part, delta) {}

  void Run() {
    this->LoadLast(delta);
    for (int64_t first = RoundUp(in_.steps, kChunk) - kChunk; first >= 0; first -= kChunk) {
      RunChunk(first, Min(kChunk, in_.steps - first));
    }
    this->StoreFirst();
  }

 private:
  void RunChunk(int64_t first, int64_t steps) {
    const uint8_t* reset = in_.reset == nullptr ? nullptr : in_.reset + first;
    const T *q = As<T>(in_.q) + first * keys_, *k = As<T>(in_.k) + first * keys_;
    const T* decay = As<T>(in_.decay) + first * in_.decays;
    const T* starts = As<T>(part_.starts) + first / kChunk * keys_ * in_.values + part_.begin;
    const T* v = As<T>(in_.v) + first * in_.values + part_.begin;
    const T* g = As<T>(part_.g) + first * in_.values + part_.begin;
    T* dv = As<T>(part_.dv) + first * in_.values + part_.begin;

    // Rows of as many keys as a tile has lie as its own do.
    const bool one = keys_ == kTileKeys * W || keys_ == Layout::kKeyUnit;
    T *dq = As<T>(part_.dq) + first * keys_, *dk = As<T>(part_.dk) + first * keys_;
    const T *q_tiles = one ? q : work_.q, *k_tiles = one ? k : work_.k;
    T *dq_tiles = one ? dq : work_.dq, *dk_tiles = one ? dk : work_.dk;
    if (!one) {
      this->CutKeys(q, steps, work_.q);
      this->CutKeys(k, steps, work_.k);
    }
    if constexpr (kind == Decay::kKey) this->CutDecays(decay, reset, steps);
    if constexpr (kind == Decay::kStep) {
      for (int64_t t = 0; t < steps; ++t) {
        work_.decay[t] = reset != nullptr && reset[t] ? T{1} : decay[t];
      }
      Zero(work_.ddecay, steps * W);
    }
    const int64_t padded_keys = RoundUp(keys_, Layout::kKeyUnit);
    Zero(dq_tiles, (one ? steps : kChunk) * padded_keys);
    Zero(dk_tiles, (one ? steps : kChunk) * padded_keys);
    if constexpr (kind == Decay::kKey) Zero(work_.ddecay, kChunk * padded_keys);
    if constexpr (delta) {
      RunDelta(first, steps, q, k, v, g, starts, reset, dv);
    } else {
      CutRows<E, R>(v, steps, count_, in_.values, R, work_.u);
      CutRows<E, R>(g, steps, count_, in_.values, R, work_.g);
      Zero(work_.dv, RoundUp(count_, R) * kChunk);
    }

    this->ForEachTile([&](int64_t i, int64_t size, int64_t j) {
      this->TurnTile(starts + i * in_.values + j, in_.values, i, size, j, work_.S);
      const int64_t a = i * kChunk, b = j * kChunk;
      const bool by_key = kind == Decay::kKey;
      BackwardTile<E> tile;
      tile.q = q_tiles + a;
      tile.k = k_tiles + a;
      tile.decay = work_.decay + (by_key ? a : 0);
      tile.u = work_.u + b;
      tile.g = work_.g + b;
      tile.dq = dq_tiles + a;
      tile.dk = dk_tiles + a;
      tile.ddecay = work_.ddecay + (by_key ? a : 0);
      tile.dv = work_.dv + b;
      tile.S = work_.S;
      tile.dS = this->DState(i, size, j);
      tile.past = work_.past;
      tile.reset = reset;
      tile.steps = steps;
      if (size == kTileKeys * W) return RunTile<E, kind, delta, kTileKeys>(tile);
      if constexpr (!Layout::kOneSize) RunTile<E, kind, delta, 1>(tile);
    });

    if constexpr (!delta) {
      JoinRows<E, R>(work_.dv, steps, count_, in_.values, R, dv);
    }
    if (!one) {
      this->JoinKeys(work_.dq, steps, dq);
      this->JoinKeys(work_.dk, steps, dk);
    }
    if constexpr (kind == Decay::kKey) {
      this->JoinKeys(work_.ddecay, steps, As<T>(part_.dlog_decay) + first * keys_);
    }
    for (int64_t t = 0; t < steps; ++t) {
      const bool forgets = reset != nullptr && reset[t];
      if constexpr (delta) {
        As<T>(part_.dbeta)[first + t] = this->SumRegister(work_.dbeta + t * W);
      }
      if constexpr (kind == Decay::kStep) {
        const T sum = this->SumRegister(work_.ddecay + t * W);
        As<T>(part_.dlog_decay)[first + t] = forgets ? T{0} : decay[t] * sum;
      }
      if constexpr (kind == Decay::kKey) {
        T* to = As<T>(part_.dlog_decay) + (first + t) * keys_;
        for (int64_t i = 0; i < keys_; ++i) to[i] = forgets ? T{0} : decay[t * keys_ + i] * to[i];
      }
    }
  }

  // Fills u, g and dv of all tiles.
  void RunDelta(int64_t first, int64_t steps, const T* q, const T* k, const T* v, const T* g,
                const T* starts, const uint8_t* reset, T* dv) {
    const T *beta = As<T>(in_.beta) + first, *decay = As<T>(in_.decay) + first * in_.decays;
    Zero(work_.dbeta, steps * W);
    constexpr int64_t kLanes = kWide * W;
    for (int64_t j = 0; j < count_; j += kLanes) {
      const int64_t values = Min(kLanes, count_ - j);
      T* dS = work_.wide_dS + j * keys_;
      // Both dS begin a chunk alike: this one's errors shrink by the delta rule, the other's not.
      this->ForEachKeys([&](int64_t i, int64_t size) {
        for (int64_t b = 0; b < values; b += R) {
          this->TurnTile(dS + i * kLanes + b, kLanes, i, size, j + b, this->DState(i, size, j + b));
        }
      });
      const bool whole = values == kLanes;
      if (!whole) {
        Pad(v + j, steps, values, in_.values, work_.wide_v, kLanes);
        Pad(g + j, steps, values, in_.values, work_.wide_g, kLanes);
      }
      Pad(starts + j, keys_, values, in_.values, work_.wide_S, kLanes);
      const int64_t stride = whole ? in_.values : kLanes;
      Tile<E> tile;
      tile.state = work_.wide_S;
      tile.q = q;
      tile.k = k;
      tile.v = whole ? v + j : work_.wide_v;
      tile.decay = decay;
      tile.beta = beta;
      tile.y = work_.wide_u;
      tile.keys = keys_;
      tile.v_stride = stride;
      tile.y_stride = kLanes;
      tile.weights = work_.weights;
      AdvanceChunk<E, kind, true, kWide, true>(tile, reset, steps);
      DeltaTile<E> back;
      back.dS = dS;
      back.q = q;
      back.k = k;
      back.decay = decay;
      back.beta = beta;
      back.g = whole ? g + j : work_.wide_g;
      back.u = work_.wide_u;
      back.dv = whole ? dv + j : work_.wide_dv;
      back.dbeta = work_.dbeta;
      back.keys = keys_;
      back.g_stride = back.dv_stride = stride;
      back.u_stride = kLanes;
      RetreatDelta<E, kind, kWide>(back, reset, steps);
      CutRows<E, R>(work_.wide_u, steps, values, kLanes, R, work_.u + j * kChunk);
      CutRows<E, R>(back.g, steps, values, stride, R, work_.g + j * kChunk);
      CutRows<E, R>(back.dv, steps, values, stride, R, work_.dv + j * kChunk);
      for (int64_t t = 0; !whole && t < steps; ++t) {
        Copy(work_.wide_dv + t * kLanes, values, dv + t * in_.values + j);
      }
    }
  }
};

}  // namespace
}  // namespace fastscan::attention
