// Up to N objects in place, none constructed before it is added: no heap, and no cost for what is not used.
#pragma once

#include <new>
#include <utility>

namespace scorefusion {

template <class T, int N>
class FixedList {
 public:
  FixedList() {}
  ~FixedList() {
    for (int i = size_; i-- > 0;) (*this)[i].~T();
  }
  FixedList(const FixedList&) = delete;
  FixedList& operator=(const FixedList&) = delete;

  // The caller sees to it that there is room.
  template <class... Arguments>
  T& add(Arguments&&... arguments) {
    T* const added = new (at(size_)) T(std::forward<Arguments>(arguments)...);
    ++size_;
    return *added;
  }

  int size() const { return size_; }
  T& operator[](int i) { return *std::launder(reinterpret_cast<T*>(at(i))); }
  const T& operator[](int i) const { return const_cast<FixedList&>(*this)[i]; }
  T* begin() { return &(*this)[0]; }
  T* end() { return begin() + size_; }
  const T* begin() const { return &(*this)[0]; }
  const T* end() const { return begin() + size_; }

 private:
  void* at(int i) { return storage_ + i * sizeof(T); }

  int size_ = 0;
  alignas(T) unsigned char storage_[N * sizeof(T)];
};

}  // namespace scorefusion
