// What host operations may know of CUDA: is it there, which device is current, which stream waits for which.
//
// Free of CUDA's own headers. A build without CUDA answers from absent.cpp: not available, and every use throws.
#pragma once

#include <cstdint>
#include <string>

namespace scorefusion::cuda {

// A driver that this build can use and at least one device. Asked once; never throws.
bool available();

// "" when available, else the reason: built without CUDA, no driver, no device, ...
std::string why_not();

// What the kernels were compiled for, such as "90-real;80-virtual"; "" in a build without CUDA.
const char* architectures();

// 13000 for CUDA 13.0; 0 where there is none. runtime: the one linked in; driver: the newest the driver serves.
int runtime_version();
int driver_version();

int device_count();  // 0 when not available

// Makes a device current, and the former one again at the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int former_ = -1;  // -1: nothing to restore
};

// What is put into `stream` from now on starts after what `other` holds now; the host waits for nothing. Both
// belong to the current device. May be captured into a graph together with both streams.
void order_after(void* stream, void* other);

// Zero bytes, put into the stream like a kernel.
void fill_zero(void* data, int64_t bytes, void* stream);

// Waits for all that the stream holds: only where a framework gives no other way to order its own work after ours.
void wait(void* stream);

}  // namespace scorefusion::cuda
