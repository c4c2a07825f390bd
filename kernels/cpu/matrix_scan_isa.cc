// The loops of `matrix_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA.
#include "matrix_scan_loops.h"
#include "vector.h"

#include "matrix_scan_number.h"
#include "matrix_scan_lanes.h"
#include "matrix_scan_product.h"
#include "matrix_scan_step.h"
#include "matrix_scan_pass.h"

namespace fastscan::matrix {
namespace {

template <class M>
int64_t ScratchBytes(const Sizes& sizes, int64_t count) {
  return Scratch<M>(sizes, count, nullptr).used * static_cast<int64_t>(sizeof(typename M::S));
}

template <class M>
void Load(const Sizes& sizes, const Part& part, char* const* edges, void* memory) {
  const Window window{sizes.n, sizes.m, part.first, part.count};
  M::Gather(window, edges, 0, Scratch<M>(sizes, part.count, memory).states[0]);
}
template <class M>
void Store(const Sizes& sizes, const Part& part, char* const* edges, const void* memory) {
  const Scratch<M> scratch(sizes, part.count, const_cast<void*>(memory));
  const Window window{sizes.n, sizes.m, part.first, part.count};
  M::Scatter(window, part, scratch.states[0], edges, 0);
}
template <class M>
void Forward(const Sizes& sizes, const Part& part, int64_t begin, int64_t end, void* memory) {
  Pass<M>(sizes, part, memory).Forward(begin, end);
}
template <class M>
void Adjoint(const Sizes& sizes, const Part& part, int64_t begin, int64_t end, void* memory) {
  Pass<M>(sizes, part, memory).Adjoint(begin, end);
}
template <class M>
void Gradients(const Sizes& sizes, const Part& part, int64_t begin, int64_t end, void* memory) {
  Pass<M>(sizes, part, memory).Gradients(begin, end);
}

template <class M>
constexpr Kernel kKernel = {ScratchBytes<M>, Load<M>,    Store<M>, Forward<M>,
                            Adjoint<M>,      Gradients<M>, M::N};

template <class E>
void Accumulate(void* sum, const void* more, int64_t count) {
  auto* into = static_cast<typename E::Scalar*>(sum);
  const auto* from = static_cast<const typename E::Scalar*>(more);
  for (int64_t i = 0; i < count * E::kParts; ++i) into[i] += from[i];
}

template <class E>
constexpr Loops kLoops = {
    kKernel<Columns<E, kLanes<E>>>,
    kKernel<Columns<E, 1>>,
    kKernel<Systems<E, kLanes<E>>>,
    Accumulate<E>,
    sizeof(typename E::Scalar) * E::kParts,
};

}  // namespace

namespace FASTSCAN_ISA {

const Loops& LoopsOf(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return kLoops<F32>;
    case Dtype::kF64:
      return kLoops<F64>;
    case Dtype::kC64:
      return kLoops<C64>;
    default:
      return kLoops<C128>;
  }
}

}  // namespace FASTSCAN_ISA
}  // namespace fastscan::matrix
