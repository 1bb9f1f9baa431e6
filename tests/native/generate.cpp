// Continues a prompt greedily: generate MODEL [TOKENS [ID ...]]. The ids are the prompt; without them it is the token
// that begins a text.
#include <warpjet/warpjet.h>

#include <cstdlib>
#include <iostream>

int main(int argc, char** argv) try {
  const std::string model = argc > 1 ? argv[1] : ".";
  const auto engine = warpjet::Engine::open(model, {});
  const auto vocabulary = warpjet::Vocabulary::load(model);
  warpjet::OutputQueue queue;
  std::vector<std::int32_t> prompt;
  for (int i = 3; i < argc; ++i) prompt.push_back(std::atoi(argv[i]));
  if (prompt.empty()) prompt.push_back(engine->model().bos_token_id);
  const int tokens = argc > 2 ? std::atoi(argv[2]) : 32;
  engine->submit({.prompt = prompt, .sampling = {.temperature = 0.0, .max_tokens = tokens}}, queue);
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
