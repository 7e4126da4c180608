// Work beside the caller's: it is done in order on one thread for the process, while the caller does other things.
#pragma once

#include <functional>
#include <memory>

namespace scorefusion {

class Aside {
 public:
  Aside();
  // Waits: the work's memory may go with its owner.
  ~Aside();
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

  // Begins when all that was added before is done.
  void add(std::function<void()> work);
  // Until all is done; what nobody has begun is done here. Throws what the work threw first.
  void wait();

 private:
  struct Line;
  std::shared_ptr<Line> line_;
};

}  // namespace scorefusion
