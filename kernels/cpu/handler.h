// What the XLA FFI handlers of all families share.
//
// A handler schedules its tasks and returns a future: no thread of the pool ever waits for a task
// that has not started.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "job.h"
#include "xla/ffi/api/ffi.h"

namespace fastscan {

namespace ffi = xla::ffi;

inline std::optional<Dtype> DtypeOf(ffi::DataType dtype) {
  switch (dtype) {
    case ffi::DataType::F16:
      return Dtype::kF16;
    case ffi::DataType::BF16:
      return Dtype::kBF16;
    case ffi::DataType::F32:
      return Dtype::kF32;
    case ffi::DataType::F64:
      return Dtype::kF64;
    case ffi::DataType::C64:
      return Dtype::kC64;
    case ffi::DataType::C128:
      return Dtype::kC128;
    default:
      return std::nullopt;
  }
}

inline Array ArrayOf(const ffi::AnyBuffer& buffer) {
  return {buffer.untyped_data(), buffer.dimensions().begin()};
}

// The one array that may be left out, or none.
inline Array ArrayOf(const ffi::RemainingArgs& optional) {
  if (optional.size() == 0) return {};
  return ArrayOf(optional.get<ffi::AnyBuffer>(0).value());
}

// The threads that work on a job. The last one to find no more tasks finishes it.
class Crew {
 public:
  Crew(std::unique_ptr<Job> job, int64_t threads) : job_(std::move(job)), active_(threads) {}

  void Work() {
    for (int64_t i = next_++; i < job_->tasks(); i = next_++) job_->Run(i);
    if (--active_ == 0) {
      job_->Finish();
      done_.SetAvailable();
    }
  }
  ffi::Future done() { return ffi::Future(done_); }

 private:
  std::unique_ptr<Job> job_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> active_;
  ffi::Promise done_;
};

// Asks for large pages under an array that is about to be written. Arrays of this size come fresh
// from the system on every call (unless memory is kept, see fastscan.keep_freed_memory), and a fault
// for every 4 KiB of them costs several times what the scan does.
inline void AskForLargePages(const ffi::AnyBuffer& result) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 1 << 21;
  const auto begin = reinterpret_cast<uintptr_t>(result.untyped_data());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last = (begin + result.size_bytes()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  static_cast<void>(result);
#endif
}

inline Array ResultOf(const ffi::AnyBuffer& result) {
  AskForLargePages(result);
  return ArrayOf(result);
}

inline ffi::Future Refuse(const std::string& why) {
  ffi::Promise promise;
  promise.SetError(ffi::Error::InvalidArgument("fastscan: " + why));
  return ffi::Future(promise);
}

// Runs the job that `make(threads)` makes.
template <class Make>
ffi::Future Start(ffi::ThreadPool pool, Make make) {
  std::unique_ptr<Job> job;
  try {
    job = make(pool.num_threads());
  } catch (const std::bad_alloc&) {
    return Refuse("out of memory");
  }
  const int64_t threads =
      std::max<int64_t>(1, std::min<int64_t>(pool.num_threads(), job->tasks()));
  if (threads == 1) {
    for (int64_t i = 0; i < job->tasks(); ++i) job->Run(i);
    job->Finish();
    ffi::Promise done;
    done.SetAvailable();
    return ffi::Future(done);
  }
  auto crew = std::make_shared<Crew>(std::move(job), threads);
  ffi::Future done = crew->done();
  for (int64_t i = 1; i < threads; ++i) pool.Schedule([crew] { crew->Work(); });
  crew->Work();
  return done;
}

}  // namespace fastscan
