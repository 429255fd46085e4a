// The CUDA runtime, for real.
#include "cuda/runtime.h"

#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <cuda_runtime.h>

#include "base/error.h"
#include "base/forks.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kOldest = 80;                              // compute capability, major and minor
constexpr std::size_t kStaging = std::size_t{64} << 10;  // pinned bytes for small copies out

// A forked process cannot use what its parent had made of CUDA, nor make anything anew, and must leave its parent's
// memory alone. What is made keeps the fork_count of then.
[[noreturn]] void fail_forked() {
  throw Error(
      "CUDA: this process was forked after a GPU was used, and cannot use it: expected a process that is started anew "
      "(multiprocessing's \"spawn\"), or a fork before the first model is loaded");
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that was reported here is not reported again
  const std::string message =
      concat("CUDA: ", what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  if (error == cudaErrorMemoryAllocation) throw OutOfMemory(message);
  throw Error(message);
}

// More than 48 KB of shared memory must be asked for. What a kernel may have is the process's for each device, and
// several engines may share one: so it only ever grows, and nobody's launch meets a smaller number than it asked for.
void prepare(const Command& command, int device) {
  if (command.kernel == nullptr || command.shared_bytes <= (std::size_t{48} << 10)) return;
  static auto& mutex = *new std::mutex;  // threads may still work when static objects go
  static auto& allowed = *new std::map<std::pair<int, const void*>, std::size_t>;
  const std::scoped_lock lock(mutex);
  std::size_t& most = allowed[{device, command.kernel}];
  if (command.shared_bytes <= most) return;
  check(cudaFuncSetAttribute(command.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(command.shared_bytes)),
        command.name);
  most = command.shared_bytes;
}

using Points = std::array<cudaEvent_t, kTimePoints>;

class DriverGraph final : public Graph {
 public:
  DriverGraph(std::span<Command> commands, const Points& points, int device) : device_(device) {
    check(cudaGraphCreate(&graph_, 0), "making a graph");
    try {
      add_nodes(commands, points);
      check(cudaGraphInstantiate(&executable_, graph_, 0), "instantiating a graph");
    } catch (...) {
      destroy();
      throw;
    }
  }
  ~DriverGraph() override { destroy(); }

  void update(std::size_t i, Command& command) override {
    prepare(command, device_);
    void* arguments[Arguments::kMost];
    const cudaKernelNodeParams values = node_values(command, arguments);
    check(cudaGraphExecKernelNodeSetParams(executable_, nodes_[i], &values), command.name);
  }
  void launch(cudaStream_t stream) { check(cudaGraphLaunch(executable_, stream), "launching a graph"); }

 private:
  void add_nodes(std::span<Command> commands, const Points& points) {
    for (Command& command : commands) {
      cudaGraphNode_t node = nullptr;
      const cudaGraphNode_t* before = nodes_.empty() ? nullptr : &nodes_.back();
      const std::size_t count = nodes_.empty() ? 0 : 1;
      if (command.kernel == nullptr) {
        check(
            cudaGraphAddEventRecordNode(&node, graph_, before, count, points[static_cast<std::size_t>(command.point)]),
            "adding a time to a graph");
      } else {
        prepare(command, device_);
        void* arguments[Arguments::kMost];
        const cudaKernelNodeParams values = node_values(command, arguments);
        check(cudaGraphAddKernelNode(&node, graph_, before, count, &values), command.name);
      }
      nodes_.push_back(node);
    }
  }
  static cudaKernelNodeParams node_values(Command& command, void** arguments) {
    command.arguments.pointers(arguments);
    cudaKernelNodeParams values = {};
    values.func = const_cast<void*>(command.kernel);
    values.gridDim = dim3(static_cast<unsigned>(command.grid.x), static_cast<unsigned>(command.grid.y),
                          static_cast<unsigned>(command.grid.z));
    values.blockDim = dim3(static_cast<unsigned>(command.threads));
    values.sharedMemBytes = static_cast<unsigned>(command.shared_bytes);
    values.kernelParams = arguments;
    return values;
  }
  void destroy() noexcept {
    if (forks_ != fork_count()) return;
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }

  int device_;
  std::uint32_t forks_ = fork_count();
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  std::vector<cudaGraphNode_t> nodes_;
};

class DriverRuntime final : public Runtime {
 public:
  explicit DriverRuntime(int index) : index_(index) {
    use();
    cudaDeviceProp properties = {};
    check(cudaGetDeviceProperties(&properties, index), "reading a device's properties");
    device_ = {.name = properties.name,
               .major = properties.major,
               .minor = properties.minor,
               .multiprocessors = properties.multiProcessorCount,
               .shared_bytes = properties.sharedMemPerBlockOptin,
               .total_bytes = properties.totalGlobalMem};
    if (10 * device_.major + device_.minor < kOldest) {
      fail("device: found ", device_.name, " with compute capability ", device_.major, ".", device_.minor,
           ", expected 8.0 or newer");
    }
    int reads_pageable = 0;
    check(cudaDeviceGetAttribute(&reads_pageable, cudaDevAttrPageableMemoryAccess, index),
          "reading a device's properties");
    reads_pageable_ = reads_pageable != 0;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaMallocHost(&staging_, kStaging), "allocating pinned host memory");
    for (cudaEvent_t& point : points_) check(cudaEventCreate(&point), "making an event");
    for (Post& post : posts_) {
      check(cudaMallocHost(&post.memory, kStaging), "allocating pinned host memory");
      check(cudaEventCreateWithFlags(&post.arrived, cudaEventDisableTiming), "making an event");
    }
  }
  ~DriverRuntime() override {
    if (forks_ != fork_count()) return;
    cudaSetDevice(index_);
    cudaStreamSynchronize(stream_);
    for (const cudaEvent_t point : points_) cudaEventDestroy(point);
    for (const Post& post : posts_) {
      cudaFreeHost(post.memory);
      cudaEventDestroy(post.arrived);
    }
    cudaFreeHost(staging_);
    cudaStreamDestroy(stream_);
  }

  const DeviceInfo& device() const override { return device_; }
  std::size_t free_bytes() override {
    use();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    return free;
  }

  void* allocate(std::size_t bytes) override {
    use();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes > 0 ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw OutOfMemory(concat("CUDA device ", index_, " (", device_.name, "): found ", free_bytes(),
                               " bytes free, expected ", bytes));
    }
    check(error, "allocating memory");  // that of a kernel before, perhaps
    return memory;
  }
  void release(void* memory) noexcept override {
    if (forks_ != fork_count()) return;
    cudaSetDevice(index_);
    cudaFree(memory);
  }
  void* allocate_pinned(std::size_t bytes) override {
    use();
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes > 0 ? bytes : 1, cudaHostAllocMapped | cudaHostAllocPortable),
          "allocating pinned host memory");
    return memory;
  }
  void release_pinned(void* memory) noexcept override {
    if (forks_ != fork_count()) return;
    cudaSetDevice(index_);
    cudaFreeHost(memory);
  }

  void fill_zero(void* memory, std::size_t bytes) override {
    use();
    check(cudaMemsetAsync(memory, 0, bytes, stream_), "filling memory");
  }
  void copy_in(void* to, const void* from_host, std::size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from_host, bytes, cudaMemcpyDefault, stream_), "copying to the device");
    // Pageable memory is read before this returns, into memory of the driver's; but not where the device can read it.
    if (reads_pageable_) wait();
  }
  void copy_out(void* to_host, const void* from, std::size_t bytes) override {
    use();
    void* to = bytes <= kStaging ? staging_ : to_host;
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the device");
    wait();
    if (to != to_host) std::memcpy(to_host, to, bytes);
  }

  void post(int slot, const void* from, std::size_t bytes) override {
    use();
    if (bytes > kStaging) throw Error(concat("CUDA: a post of ", bytes, " bytes, expected at most ", kStaging));
    Post& post = posts_[static_cast<std::size_t>(slot)];
    check(cudaMemcpyAsync(post.memory, from, bytes, cudaMemcpyDeviceToHost, stream_), "copying from the device");
    check(cudaEventRecord(post.arrived, stream_), "noting a time");
  }
  void collect(int slot, void* to_host, std::size_t bytes) override {
    use();
    const Post& post = posts_[static_cast<std::size_t>(slot)];
    check(cudaEventSynchronize(post.arrived), "running kernels");
    std::memcpy(to_host, post.memory, bytes);
  }

  void run(std::span<Command> commands) override {
    use();
    for (Command& command : commands) {
      prepare(command, index_);
      if (command.kernel == nullptr) {
        check(cudaEventRecord(points_[static_cast<std::size_t>(command.point)], stream_), "noting a time");
        continue;
      }
      void* arguments[Arguments::kMost];
      command.arguments.pointers(arguments);
      check(cudaLaunchKernel(command.kernel,
                             dim3(static_cast<unsigned>(command.grid.x), static_cast<unsigned>(command.grid.y),
                                  static_cast<unsigned>(command.grid.z)),
                             dim3(static_cast<unsigned>(command.threads)), arguments, command.shared_bytes, stream_),
            command.name);
    }
  }
  std::unique_ptr<Graph> make_graph(std::span<Command> commands) override {
    use();
    return std::make_unique<DriverGraph>(commands, points_, index_);
  }
  void run(Graph& graph) override {
    use();
    static_cast<DriverGraph&>(graph).launch(stream_);
  }
  void wait() override {
    use();
    check(cudaStreamSynchronize(stream_), "running kernels");
  }
  double seconds_between(int first_point, int second_point) override {
    use();
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, points_[static_cast<std::size_t>(first_point)],
                               points_[static_cast<std::size_t>(second_point)]),
          "reading a time");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  // First in everything: a thread that has chosen no device would get a context on device 0.
  void use() const {
    if (forks_ != fork_count()) fail_forked();
    check(cudaSetDevice(index_), "choosing a device");
  }
  int index_;
  std::uint32_t forks_ = fork_count();
  DeviceInfo device_;
  bool reads_pageable_ = false;  // the host's ordinary memory
  cudaStream_t stream_ = nullptr;
  void* staging_ = nullptr;
  std::array<cudaEvent_t, kTimePoints> points_ = {};
  struct Post {
    void* memory = nullptr;  // pinned
    cudaEvent_t arrived = nullptr;
  };
  std::array<Post, kPosts> posts_ = {};
};

}  // namespace

std::unique_ptr<Runtime> make_runtime(int index) {
  static const std::uint32_t first_forks = fork_count();
  if (first_forks != fork_count()) fail_forked();
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    fail("device: found 'cuda', but this machine has no NVIDIA driver; use device 'cpu'");
  }
  int runtime = 0;
  check(cudaRuntimeGetVersion(&runtime), "reading the runtime's version");
  if (driver / 1000 < runtime / 1000) {
    fail("device: found an NVIDIA driver for CUDA ", driver / 1000, ".", driver % 1000 / 10, ", expected one for CUDA ",
         runtime / 1000, " or newer, which this build of frspec was made with");
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    fail("device: found no CUDA device (", cudaGetErrorString(error), "); use device 'cpu'");
  }
  if (index < 0 || index >= count) {
    fail("device: found 'cuda:", index, "', expected 0 to ", count - 1, ", the devices of this machine");
  }
  return std::make_unique<DriverRuntime>(index);
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE
