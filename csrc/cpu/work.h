// How a CPU launcher may use the machine, told by the host operation that calls it.
#pragma once

namespace scorefusion {

struct Work {
  // Asked between chunks on the calling thread, at most every 50 ms or so; true gives the work up. May be null.
  bool (*interrupted)(void*) = nullptr;
  void* context = nullptr;
};

// Thrown by a launcher whose work was given up; the host operation turns it into the pending Python exception.
struct Interrupted {};

}  // namespace scorefusion
