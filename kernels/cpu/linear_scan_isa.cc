// The loops of `linear_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA. Time runs in sequence and channels lie across vector lanes.
#include "linear_scan_loops.h"

#include "linear_scan_backward.h"
#include "linear_scan_forward.h"
#include "linear_scan_summary.h"

namespace fastscan {
namespace {

template <class E>
void Accumulate(void* sum, const void* term, int64_t count) {
  constexpr int N = kWidth<E>;
  int64_t i = 0;
  for (; i + N <= count; i += N) {
    StoreState<E, N>(sum, i, LoadState<E, N>(sum, i) + LoadState<E, N>(term, i));
  }
  for (; i < count; ++i) {
    StoreState<E, 1>(sum, i, LoadState<E, 1>(sum, i) + LoadState<E, 1>(term, i));
  }
}

template <class E>
void StatesToElements(void* elements, const void* states, int64_t count) {
  auto* into = static_cast<typename E::Storage*>(elements);
  for (int64_t i = 0; i < count; ++i) {
    Store<E, 1>(into + i * E::kParts, LoadState<E, 1>(states, i));
  }
}

template <class E>
constexpr Loops kLoops = {
    ForwardRows<E>,
    BackwardRows<E>,
    Summarize<E>,
    Apply<E>,
    Accumulate<E>,
    StatesToElements<E>,
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
