// A single channel, with its steps across the lanes of a register.
//
// For linear_scan_isa.cc only, as vector.h is.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <utility>

#include "linear_scan_loops.h"
#include "vector.h"

namespace fastscan {
namespace {

// A row against time: step 0 is its last one.
inline Stream Backwards(const Stream& s, int64_t steps, int64_t bytes) {
  return {s.data + (steps - 1) * s.step * bytes, -s.step, s.lane};
}

// A single channel of a real dtype that lies densely in time: its steps lie across the lanes of a
// register, which a scan in log2 N doubling steps turns into states. N steps then wait for each
// other once, not N times.
//
// The scan is c = a c + x, or with `adjoint` c = a (c + x). `down` says that memory is walked
// downwards; a lane is then reversed after it is loaded ("ordered") and before it is stored.
template <class E, bool down, bool adjoint>
class AlongTime {
 public:
  static constexpr int N = kWidth<E>;
  static constexpr auto kIndex = std::make_integer_sequence<int, N>();
  using Storage = typename E::Storage;
  using Scalar = typename E::Scalar;
  using V = Lanes<E, N>;

  // N steps, in the order of memory.
  struct Now {
    V decay;  // zero at a reset
    V State() const { return Ordered(state); }
    // c + x, with c from before the step.
    V Sum() const { return Ordered(ShiftLanes<1>(state, carry, kIndex) + drive); }

    V state, carry, drive;  // ordered
  };

  AlongTime(const Stream& a, const Stream& x, const Stream& reset)
      : a_(reinterpret_cast<const Storage*>(a.data)),
        x_(reinterpret_cast<const Storage*>(x.data)),
        reset_(reinterpret_cast<const uint8_t*>(reset.data)),
        one_a_(a.step == 0),
        one_x_(x.step == 0),
        one_reset_(reset.step == 0),
        first_a_(Load<E, 1>(a_)),
        first_x_(Load<E, 1>(x_)) {
    if (!one_a_) return;
    V product = Splat<E, N>(&first_a_), state = {};
    Double<1>(product, state);
    double power = 1;
    for (int i = 0; i < N; ++i) {
      power *= first_a_;
      lost_[i] = static_cast<Scalar>(power - product[i]);
    }
  }

  // Whether `like` lies densely, and the others too unless they are the same at all steps.
  static bool Fits(const Stream& like, std::initializer_list<Stream> others) {
    constexpr int64_t step = down ? -1 : 1;
    bool fits = like.step == step;
    for (const Stream& s : others) fits = fits && (s.step == 0 || s.step == step);
    return fits;
  }

  // Where the N elements from step t on begin.
  template <class T>
  static T* First(T* p, int64_t t) {
    return down ? p - t - (N - 1) : p + t;
  }

  // Steps `begin` to `end`, a multiple of N, from `state` on; visit(t, now) for N of them at once.
  // False where a state is not finite: products of decays may have overflowed, or a NaN have met a
  // decay that a reset has zeroed. `state` is then as it was.
  template <class Visit>
  [[gnu::always_inline]] bool Scan(int64_t begin, int64_t end, Scalar& state,
                                   const Visit& visit) const {
    V carry = Splat<E, N>(&state), residue = {};
    for (int64_t t = begin; t < end; t += N) {
      V decay = one_a_ ? Splat<E, N>(&first_a_) : Load<E, N>(First(a_, t));
      const V drive = one_x_ ? Splat<E, N>(&first_x_) : Load<E, N>(First(x_, t));
      V local = adjoint ? decay * drive : drive;
      if (!one_reset_) {
        decay = ZeroWhere<E, N>(First(reset_, t), decay);
        if (adjoint) local = ZeroWhere<E, N>(First(reset_, t), local);
      } else if (*reset_) {
        decay = V{};
        if (adjoint) local = V{};
      }
      V product = Ordered(decay);
      local = Ordered(local);
      Double<1>(product, local);
      if (one_a_) local += (product != V{} ? lost_ : V{}) * carry;
      const V value = product * carry + local;
      residue += value - value;
      visit(t, Now{decay, value, carry, Ordered(drive)});
      carry = RepeatLast(value, kIndex);
    }
    const bool finite = SumLanes<E, N>(residue) == 0;
    if (finite) state = carry[0];
    return finite;
  }

 private:
  static constexpr Scalar kOne = 1;

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
  bool one_a_, one_x_, one_reset_;  // the same for all steps
  Scalar first_a_, first_x_;
  // What rounding takes from the powers of a decay that is the same at all steps. It would take it
  // from every register alike, and thus make the decay another one.
  V lost_ = {};
};

}  // namespace
}  // namespace fastscan
