// The loops of the linear scan over one row (a batch entry, all or some of its channels), as plain
// functions of pointers. `linear_scan_isa.cc` compiles them once per instruction set.
#pragma once

#include <cstdint>

#include "linear_scan.h"

namespace fastscan {

// One array along a row. `data` is its element at the first step in the order of the scan (which
// with `reverse` is the last in time), `step` the distance to the next step, in elements, and
// `lane` that to the next channel: 1, or 0 where the array is the same for all channels.
struct Stream {
  char* data = nullptr;
  int64_t step = 0;
  int64_t lane = 0;
};

struct ForwardRow {
  Stream a, x, reset, h;
  void* state;  // h before the first step; on return after the last
  int64_t steps, lanes;
  // The results are too large for the caches: they are written past them. The places of whole
  // registers are then aligned.
  bool past_caches = false;
};

// What becomes of lambda[t] h[t-1], the cotangent of a[t].
enum class DecayGradient {
  kNone,
  kStore,  // written to `da`, an element of the array's dtype for each step and channel
  // Added to `da`, in the dtype of the state, for each channel or where da.lane is 0 over them,
  kAdd,   // at each step,
  kTime,  // summed over time.
};

struct BackwardRow {
  Stream g, a, h, reset, dx, da;
  const void* before;   // the state before the first step, or null: then it is at h's step -1
  int64_t before_lane;  // 1 or 0, as Stream::lane
  void* state;  // the cotangent that comes from the steps behind; on return that of `before`
  int64_t steps, lanes;
  DecayGradient decay_gradient;
  bool overwrite;  // kAdd: `da` holds nothing yet
  bool past_caches = false;  // dx, and `da` where it is stored
};

// The map from the state before some steps to the one after them, h -> product h + state, in each
// channel. Where `cut` is set there was a reset and the map ignores what came before. With
// `adjoint`, x is g and the map is c -> a (g + c) from the last step to the first.
struct SummaryRow {
  Stream a, x, reset;
  void* product;  // in double precision
  void* state;
  uint8_t* cut;
  int64_t steps, lanes;
};

struct Loops {
  // `count` rows of equal steps and lanes at once. Narrow ones overlap their chains of dependent
  // operations; wider ones take turns, a few steps each, so that rows which lie between the steps of
  // each other make one stream of memory.
  void (*forward)(const ForwardRow* rows, int count);
  void (*backward)(const BackwardRow* rows, int count);
  void (*summarize)(const SummaryRow* rows, int count, bool adjoint);
  // after = the map of `row` applied to `before`, both states. False where a product or a state is
  // not finite: then the map is not to be trusted (infinity times zero), only a scan of the steps.
  bool (*apply)(const SummaryRow& row, const void* before, void* after);
  // sum += term, over states.
  void (*accumulate)(void* sum, const void* term, int64_t count);
  // States to elements of the array's dtype.
  void (*narrow)(void* elements, const void* states, int64_t count);
  int64_t element_bytes, state_bytes, product_bytes;
};

// How many rows `forward` and `summarize` overlap, if their channels take less than kNarrowBytes.
constexpr int kOverlap = 8;
constexpr int64_t kNarrowBytes = 16;

namespace avx512 {
const Loops& LoopsOf(Dtype dtype);
}
namespace avx2 {
const Loops& LoopsOf(Dtype dtype);
}
namespace baseline {
const Loops& LoopsOf(Dtype dtype);
}

}  // namespace fastscan
