// What the CPU kernels of all families share: arrays, dtypes, and work that threads run in tasks.
//
// Nothing here knows of XLA.
#pragma once

#include <cstdint>

namespace fastscan {

enum class Dtype { kF16, kBF16, kF32, kF64, kC64, kC128 };

constexpr int kMaxRank = 16;

// A row-major array. Its rank is that of the problem's shape, and each of its axes has the shape's
// extent or is 1 and broadcasts. `data` is null where the array is left out. `dims` is read while
// the job is made and not kept.
struct Array {
  void* data = nullptr;
  const int64_t* dims = nullptr;
};

// Work in tasks that may run at once, on any threads, as long as they are started in order: a task
// may wait for one with a smaller number. After the last of them, one call of Finish.
class Job {
 public:
  virtual ~Job() = default;
  virtual void Run(int64_t task) = 0;
  virtual void Finish() {}
  int64_t tasks() const { return tasks_; }

 protected:
  int64_t tasks_ = 0;
};

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The instruction set that this processor runs, and its name: "avx512", "avx2" or "baseline".
Isa ChosenIsa();
const char* InstructionSet();

}  // namespace fastscan
