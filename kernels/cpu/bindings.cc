// The CPU kernels as XLA FFI handlers.
//
// Operands and results are described in ../../fastscan/primitives.py. A handler schedules its tasks
// and returns a future: no thread of the pool ever waits for a task that has not started.
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

#include "linear_scan.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace fastscan {
namespace {

std::optional<Dtype> DtypeOf(ffi::DataType dtype) {
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

Array ArrayOf(const ffi::AnyBuffer& buffer) {
  return {buffer.untyped_data(), buffer.dimensions().begin()};
}

Shape ShapeOf(const ffi::AnyBuffer& full, int64_t axis) {
  const auto dims = full.dimensions();
  return {dims.begin(), static_cast<int>(dims.size()), static_cast<int>(axis)};
}

// The one array that may be left out, or none.
Array ArrayOf(const ffi::RemainingArgs& optional) {
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
void AskForLargePages(const ffi::AnyBuffer& result) {
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

Array ResultOf(const ffi::AnyBuffer& result) {
  AskForLargePages(result);
  return ArrayOf(result);
}

ffi::Future Refuse(const std::string& why) {
  ffi::Promise promise;
  promise.SetError(ffi::Error::InvalidArgument("fastscan: " + why));
  return ffi::Future(promise);
}

template <class Problem>
ffi::Future Start(ffi::ThreadPool pool, ffi::DataType dtype, Problem problem) {
  const std::optional<Dtype> known = DtypeOf(dtype);
  if (!known.has_value()) return Refuse("the native kernels have no such dtype");
  if (problem.shape.rank > kMaxRank) return Refuse("the native kernels have no such rank");
  problem.dtype = *known;
  std::unique_ptr<Job> job;
  try {
    job = MakeJob(problem, pool.num_threads());
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

ffi::Future LinearScan(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer x, ffi::AnyBuffer h0,
                       ffi::RemainingArgs reset, ffi::Result<ffi::AnyBuffer> h_last,
                       ffi::Result<ffi::AnyBuffer> h, int64_t axis, bool reverse) {
  Scan scan;
  scan.shape = ShapeOf(*h, axis);
  scan.reverse = reverse;
  scan.a = ArrayOf(a);
  scan.x = ArrayOf(x);
  scan.h0 = ArrayOf(h0);
  scan.reset = ArrayOf(reset);
  scan.h_last = ArrayOf(*h_last);
  scan.h = ResultOf(*h);
  return Start(pool, x.element_type(), std::move(scan));
}

Backward Adjoint(const ffi::AnyBuffer& g_last, const ffi::AnyBuffer& g, const ffi::AnyBuffer& a,
                 const ffi::RemainingArgs& reset, const ffi::AnyBuffer& dx,
                 const ffi::AnyBuffer& dh0, int64_t axis, bool reverse) {
  Backward backward;
  backward.shape = ShapeOf(dx, axis);
  backward.reverse = reverse;
  backward.g_last = ArrayOf(g_last);
  backward.g = ArrayOf(g);
  backward.a = ArrayOf(a);
  backward.reset = ArrayOf(reset);
  backward.dx = ResultOf(dx);
  backward.dh0 = ArrayOf(dh0);
  return backward;
}

ffi::Future LinearBackward(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::AnyBuffer g,
                           ffi::AnyBuffer a, ffi::AnyBuffer h, ffi::AnyBuffer h0,
                           ffi::RemainingArgs reset, ffi::Result<ffi::AnyBuffer> da,
                           ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> dh0,
                           int64_t axis, bool reverse) {
  Backward backward = Adjoint(g_last, g, a, reset, *dx, *dh0, axis, reverse);
  backward.h = ArrayOf(h);
  backward.h0 = ArrayOf(h0);
  backward.da = ResultOf(*da);
  return Start(pool, g.element_type(), std::move(backward));
}

ffi::Future LinearAdjoint(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::AnyBuffer g,
                          ffi::AnyBuffer a, ffi::RemainingArgs reset,
                          ffi::Result<ffi::AnyBuffer> dx, ffi::Result<ffi::AnyBuffer> dh0,
                          int64_t axis, bool reverse) {
  return Start(pool, g.element_type(), Adjoint(g_last, g, a, reset, *dx, *dh0, axis, reverse));
}

}  // namespace
}  // namespace fastscan

// What Python looks up by name; all else is hidden.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_linear_scan, fastscan::LinearScan,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("axis")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_linear_backward, fastscan::LinearBackward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("axis")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_linear_adjoint, fastscan::LinearAdjoint,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("axis")
                                  .Attr<bool>("reverse"));

extern "C" const char* fastscan_instruction_set() { return fastscan::InstructionSet(); }

#pragma GCC visibility pop
