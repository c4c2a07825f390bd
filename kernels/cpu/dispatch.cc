// The instruction set that this processor runs, chosen once. The environment variable
// FASTSCAN_INSTRUCTION_SET names a smaller one, to test the code for older processors.
#include <cstdlib>
#include <cstring>

#include "job.h"

namespace fastscan {
namespace {

bool Allowed(Isa isa) {
  const char* limit = std::getenv("FASTSCAN_INSTRUCTION_SET");
  if (limit == nullptr) return true;
  if (std::strcmp(limit, "baseline") == 0) return isa == Isa::kBaseline;
  return std::strcmp(limit, "avx2") != 0 || isa != Isa::kAvx512;
}

Isa Detect() {
#if defined(FASTSCAN_HAVE_AVX512)
  if (Allowed(Isa::kAvx512) && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("fma")) {
    return Isa::kAvx512;
  }
#endif
#if defined(FASTSCAN_HAVE_AVX2)
  if (Allowed(Isa::kAvx2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return Isa::kAvx2;
  }
#endif
  return Isa::kBaseline;
}

const Isa kIsa = Detect();

}  // namespace

Isa ChosenIsa() { return kIsa; }

const char* InstructionSet() {
  return kIsa == Isa::kAvx512 ? "avx512" : kIsa == Isa::kAvx2 ? "avx2" : "baseline";
}

}  // namespace fastscan
