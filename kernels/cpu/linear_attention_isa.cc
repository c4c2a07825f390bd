// The loops of `linear_attention_loops.h` for the instruction set that this file is compiled for,
// under the namespace FASTSCAN_ISA.
#include "linear_attention_loops.h"

#include "linear_attention_backward.h"
#include "linear_attention_forward.h"

namespace fastscan::attention {
namespace {

Decay DecayOf(const Sequence& in) {
  if (in.decay == nullptr) return Decay::kNone;
  return in.decays == 1 ? Decay::kStep : Decay::kKey;
}

template <class E, bool delta>
void ForwardByDecay(const ForwardPart& part) {
  switch (DecayOf(part.in)) {
    case Decay::kNone:
      return ForwardSteps<E, Decay::kNone, delta>(part);
    case Decay::kStep:
      return ForwardSteps<E, Decay::kStep, delta>(part);
    case Decay::kKey:
      return ForwardSteps<E, Decay::kKey, delta>(part);
  }
}
template <class E>
void ForwardLoops(const ForwardPart& part) {
  part.in.beta == nullptr ? ForwardByDecay<E, false>(part) : ForwardByDecay<E, true>(part);
}

template <class E, bool delta>
void BackwardByDecay(const BackwardPart& part) {
  switch (DecayOf(part.in)) {
    case Decay::kNone:
      return BackwardSteps<E, Decay::kNone, delta>(part).Run();
    case Decay::kStep:
      return BackwardSteps<E, Decay::kStep, delta>(part).Run();
    case Decay::kKey:
      return BackwardSteps<E, Decay::kKey, delta>(part).Run();
  }
}
template <class E>
void BackwardLoops(const BackwardPart& part) {
  part.in.beta == nullptr ? BackwardByDecay<E, false>(part) : BackwardByDecay<E, true>(part);
}

template <class E>
void Add(char* sum, const char* term, int64_t count) {
  auto* into = As<Scalar<E>>(sum);
  const auto* from = As<Scalar<E>>(term);
  for (int64_t i = 0; i < count; ++i) into[i] += from[i];
}

template <class E>
constexpr Loops kLoops = {
    ForwardLoops<E>,       BackwardLoops<E>, ForwardScratch<E>,
    BackwardScratch<E>,    Add<E>,           sizeof(Scalar<E>),
    kWidth<E>,
};

}  // namespace

namespace FASTSCAN_ISA {

const Loops& LoopsOf(Dtype dtype) { return dtype == Dtype::kF32 ? kLoops<F32> : kLoops<F64>; }

}  // namespace FASTSCAN_ISA
}  // namespace fastscan::attention
