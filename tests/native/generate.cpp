// Generates text natively: generate MODEL [TOKENS]
#include <warpjet/warpjet.h>

#include <cstdlib>
#include <iostream>

int main(int argc, char** argv) try {
  const std::string model = argc > 1 ? argv[1] : ".";
  const auto engine = warpjet::Engine::open(model, {});
  const auto vocabulary = warpjet::Vocabulary::load(model);
  warpjet::OutputQueue queue;
  engine->submit({.prompt = {engine->model().bos_token_id},
                  .sampling = {.temperature = 0.0, .max_tokens = argc > 2 ? std::atoi(argv[2]) : 32}},
                 queue);
  for (bool running = true; running;) {
    for (const warpjet::Output& output : queue.poll(std::chrono::seconds(10))) {
      std::cout << vocabulary.text(output.tokens) << std::flush;
      running = !output.is_final();
    }
  }
  std::cout << '\n';
} catch (const warpjet::Error& error) {
  std::cerr << error.what() << '\n';
  return 2;
}
