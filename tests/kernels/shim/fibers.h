// Runs a GPU kernel's source on a CPU: one fiber per GPU thread of a group, groups one after another.
//
// Fibers run in turns. One that reaches a barrier or a SIMD operation stops there; after each sweep
// over the fibers, a SIMD group whose 32 lanes all stopped at the same operation goes on, and a
// thread group whose threads all stopped at a barrier goes on. If nothing can go on, threads parted
// ways around a barrier or a SIMD operation, and the launch fails. It proves arithmetic, indexing
// and barriers; not speed, and nothing about a GPU's memory order.

#pragma once

#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

namespace shim {

constexpr unsigned LANES = 32;
constexpr unsigned MOST_THREADS = 1024;
constexpr size_t STACK = 32 << 10;

enum State { READY, AT_BARRIER, AT_SIMD, DONE };
enum Result { OK = 0, BAD_LAUNCH = 1, DIVERGED = 2 };

struct Fiber {
  ucontext_t context;  // how it starts; from then on it switches by jumps, which make no system call
  jmp_buf place;
  bool started;
  State state;
  int operation;  // which SIMD operation it waits at
  unsigned step;  // how many it has passed
};

typedef void (*Body)(void*);

static jmp_buf scheduler;
static Fiber fibers[MOST_THREADS];
static char* stacks = nullptr;
static unsigned current, threads, group, groups;
// What each lane brought; in turns, so that a lane may run ahead while others still read.
static uint32_t slots[MOST_THREADS / LANES][2][LANES];
static Body body;
static void* arguments;

static void enter() {
  body(arguments);
  fibers[current].state = DONE;
  _longjmp(scheduler, 1);
}

static void stop(State state) {
  Fiber& self = fibers[current];
  self.state = state;
  if (!_setjmp(self.place)) {
    _longjmp(scheduler, 1);
  }
}

static void go_on() {
  Fiber& fiber = fibers[current];
  if (_setjmp(scheduler)) {
    return;
  }
  if (fiber.started) {
    _longjmp(fiber.place, 1);
  }
  fiber.started = true;
  setcontext(&fiber.context);
}

static void barrier() {
  stop(AT_BARRIER);
}

// All 32 values that the lanes of this SIMD group brought to the same operation.
static const uint32_t* exchange(uint32_t value, int operation) {
  Fiber& self = fibers[current];
  uint32_t* mine = slots[current / LANES][self.step++ % 2];
  mine[current % LANES] = value;
  self.operation = operation;
  stop(AT_SIMD);
  return mine;
}

static uint32_t bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

static float number(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

static bool stopped_together(unsigned first, unsigned count, State state) {
  for (unsigned i = first; i < first + count; i++) {
    if (fibers[i].state != state || fibers[i].operation != fibers[first].operation) {
      return false;
    }
  }
  return true;
}

// Lets go on who may; false if nobody may.
static bool release() {
  bool any = false;
  for (unsigned first = 0; first < threads; first += LANES) {
    if (stopped_together(first, LANES, AT_SIMD)) {
      any = true;
      for (unsigned i = first; i < first + LANES; i++) {
        fibers[i].state = READY;
        fibers[i].operation = 0;
      }
    }
  }
  if (!any && stopped_together(0, threads, AT_BARRIER)) {
    any = true;
    for (unsigned i = 0; i < threads; i++) {
      fibers[i].state = READY;
    }
  }
  return any;
}

static void start() {
  for (unsigned i = 0; i < threads; i++) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks + i * STACK;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    fiber.started = false;
    fiber.state = READY;
    fiber.operation = 0;
    fiber.step = 0;
    makecontext(&fiber.context, enter, 0);
  }
}

static void sweep(bool descending) {
  for (unsigned n = 0; n < threads; n++) {
    current = descending ? threads - 1 - n : n;
    if (fibers[current].state == READY) {
      go_on();
    }
  }
}

// Runs `body(arguments)` for every thread of every group; `descending` sweeps from the last thread.
static int launch(Body b, void* a, unsigned n_groups, unsigned n_threads, bool descending) {
  if (n_threads == 0 || n_threads % LANES || n_threads > MOST_THREADS) {
    return BAD_LAUNCH;
  }
  if (!stacks) {
    stacks = static_cast<char*>(malloc(MOST_THREADS * STACK));
  }
  body = b;
  arguments = a;
  threads = n_threads;
  groups = n_groups;
  for (group = 0; group < groups; group++) {
    start();
    do {
      sweep(descending);
    } while (release());
    if (!stopped_together(0, threads, DONE)) {
      return DIVERGED;
    }
  }
  return OK;
}

// The 16-bit types: float arithmetic, rounded to nearest even when stored.
struct bfloat16 {
  uint16_t raw;
  bfloat16() = default;
  explicit bfloat16(float x) {
    const uint32_t u = bits(x);
    raw = uint16_t(x != x ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
  operator float() const { return number(uint32_t(raw) << 16); }
};

struct float16 {
#ifdef __FLT16_MANT_DIG__
  _Float16 raw;
  explicit float16(float x) : raw(static_cast<_Float16>(x)) {}
#else
  __fp16 raw;
  explicit float16(float x) : raw(static_cast<__fp16>(x)) {}
#endif
  float16() = default;
  operator float() const { return static_cast<float>(raw); }
};

}  // namespace shim
