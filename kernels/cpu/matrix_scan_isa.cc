// The loops of `matrix_scan_loops.h` for the instruction set that this file is compiled for, under
// the namespace FASTSCAN_ISA.
#include "matrix_scan_loops.h"
#include "vector.h"

#include "matrix_scan_number.h"
#include "matrix_scan_lanes.h"
#include "matrix_scan_product.h"
#include "matrix_scan_step.h"
#include "matrix_scan_pass.h"
#include "matrix_scan_small.h"

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

template <class S>
int64_t SmallBytes(const Sizes&, int64_t) {
  return sizeof(typename S::Memory);
}
template <class S>
void LoadSmall(const Sizes& sizes, const Part&, char* const* edges, void* memory) {
  S::M::GatherElements(sizes.n, edges, 0, static_cast<typename S::Memory*>(memory)->state);
}
template <class S>
void StoreSmall(const Sizes& sizes, const Part& part, char* const* edges, const void* memory) {
  const auto* from = static_cast<const typename S::Memory*>(memory);
  S::M::ScatterElements(sizes.n, part, from->state, edges, 0, false);
}
template <class S>
void ForwardSmall(const Sizes&, const Part& part, int64_t begin, int64_t end, void* memory) {
  S{part, *static_cast<typename S::Memory*>(memory)}.Forward(begin, end);
}
template <class S>
void AdjointSmall(const Sizes&, const Part& part, int64_t begin, int64_t end, void* memory) {
  S{part, *static_cast<typename S::Memory*>(memory)}.Adjoint(begin, end);
}

template <class E, int n, class S = Small<E, kLanes<E>, n>>
constexpr Kernel kSmall = {SmallBytes<S>,   LoadSmall<S>, StoreSmall<S>, ForwardSmall<S>,
                           AdjointSmall<S>, nullptr,      kLanes<E>};

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
    {kSmall<E, 2>, kSmall<E, 3>, kSmall<E, 4>},
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
