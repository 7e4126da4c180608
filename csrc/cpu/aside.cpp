// The line of waiting work, and the one thread that does it; whoever waits for the line may do it instead.
#include "aside.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "threads.h"

namespace scorefusion {

// Whoever holds `running` does what waits, the process's thread or one that waits for it.
struct Aside::Line {
  std::mutex running;
  std::mutex mutex;  // guards what follows
  std::deque<std::function<void()>> waiting;
  bool announced = false;  // will the thread come, and find what is added now, too?
  std::exception_ptr failure;
  const bool made_in_child = in_forked_child();

  // A child has neither the thread nor a lock that it could take.
  bool is_of_parent() const { return in_forked_child() && !made_in_child; }

  void run() {
    std::lock_guard alone(running);
    for (;;) {
      std::function<void()> work;
      {
        std::lock_guard lock(mutex);
        if (waiting.empty()) {
          announced = false;
          return;
        }
        work = std::move(waiting.front());
        waiting.pop_front();
      }
      try {
        work();
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  }
};

namespace {

// The thread: it lives as long as the process, and is detached, so that no destructor waits for it at exit.
class Server {
 public:
  void add(std::function<void()> run) {
    {
      std::lock_guard lock(mutex_);
      lines_.push_back(std::move(run));
      if (!std::exchange(begun_, true)) std::thread([this] { serve(); }).detach();
    }
    wake_.notify_one();
  }

 private:
  void serve() {
    give_way();
    const WithoutThreads alone;  // the others belong to the caller
    for (;;) {
      std::function<void()> run;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return !lines_.empty(); });
        run = std::move(lines_.front());
        lines_.pop_front();
      }
      run();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> lines_;
  bool begun_ = false;
};

Server& server() {
  static Server* const instance = new Server;
  return *instance;
}

}  // namespace

Aside::Aside() : line_(std::make_shared<Line>()) {}

Aside::~Aside() {
  if (!line_->is_of_parent()) line_->run();
}

void Aside::add(std::function<void()> work) {
  {
    std::lock_guard lock(line_->mutex);
    line_->waiting.push_back(std::move(work));
    if (line_->announced || num_threads() == 1) return;
    line_->announced = true;
  }
  server().add([line = line_] { line->run(); });
}

void Aside::wait() {
  if (line_->is_of_parent()) throw std::runtime_error("a forked child cannot go on with what its parent had begun");
  line_->run();
  std::lock_guard lock(line_->mutex);
  if (std::exception_ptr failure = std::exchange(line_->failure, nullptr)) std::rethrow_exception(failure);
}

}  // namespace scorefusion
