// Histories with real threads: the engine's and the device's, and users who each play a script of their own against one
// engine. Not the same every time; meant for the thread sanitizer.
#include <gtest/gtest.h>

#include <atomic>
#include <iostream>
#include <thread>

#include "history.h"
#include "history_guide.h"

namespace warpjet::history {
namespace {

using namespace std::chrono_literals;

constexpr int kUsers = 4;

Settings shared_settings() {
  Settings s;
  s.block_size = 4;
  s.blocks = 40;
  s.host_blocks = 10;
  s.seqs = 6;
  s.batch = 24;
  s.depth = 2;
  s.policy = 2;
  s.quantile = 50;
  s.unread = 6;
  s.events = 1000;
  s.queued = 60;
  s.queued_tenant = 40;
  s.model_len = 40;
  return s;
}

struct Engine {
  explicit Engine(const Settings& settings) {
    StepLoop::Config config = loop_config(settings);
    config.manual = false;
    config.check = true;
    auto bell = std::make_shared<Doorbell>();
    auto device =
        std::make_unique<DeviceThread>(std::make_unique<ToyDevice>(device_config(settings)), settings.depth, bell);
    loop = std::make_unique<StepLoop>(config, std::move(device), std::move(bell));
  }
  std::unique_ptr<StepLoop> loop;
};

// One thread with a queue of its own.
class User {
 public:
  User(StepLoop& loop, const Settings& settings, std::uint64_t seed)
      : loop_(loop),
        history_(make_history(seed, settings)),
        ledger_(ledger_config(settings, false)),
        rules_(device_config(settings).rules) {}

  void play() {
    try {
      for (Command& command : history_.commands) obey(command);
    } catch (const Error& error) {
      // The engine may have been closed under a command that waits for an answer.
      if (error.code() != ErrorCode::closed) failure_ = error.what();
    }
  }

  void finish() {
    for (const auto& [label, id] : ids_) loop_.resume(id);
    const auto end = Clock::now() + 300s;
    while (failure_.empty() && !ledger_.complete() && Clock::now() < end) read(10ms);
    if (failure_.empty() && !ledger_.complete())
      failure_ = cat(ledger_.num_live(), " samples have had no final output");
  }

  // After the engine was closed.
  void read_rest() {
    ledger_.closed();
    read(0ms);
    if (failure_.empty() && !ledger_.complete())
      failure_ = cat(ledger_.num_live(), " samples have had no final output");
  }

  const std::string& failure() const { return failure_; }
  int num_finals() const { return ledger_.num_finals(); }
  std::int64_t num_stopped() const { return ledger_.count(FinishReason::stop) + ledger_.count(FinishReason::length); }
  void expect_end() { ledger_.closed(); }

 private:
  void obey(Command& command) {
    switch (command.kind) {
      case Command::Kind::submit:
        return submit(command);
      case Command::Kind::cancel: {
        const auto sample = command.b < 0 ? std::nullopt : std::optional(command.b);
        ledger_.canceled(id_of(command.a), sample);
        return loop_.cancel(id_of(command.a), sample);
      }
      case Command::Kind::pause:
        return loop_.pause(id_of(command.a));
      case Command::Kind::resume:
        return loop_.resume(id_of(command.a));
      case Command::Kind::read:
        return read(0ms);
      case Command::Kind::reset:
        return loop_.reset_prefix_cache();
      case Command::Kind::events:
        loop_.kv_events(0);
        [[fallthrough]];
      case Command::Kind::clock:
        loop_.metrics();
        return;
      case Command::Kind::guide:
      case Command::Kind::turn:
      case Command::Kind::complete:
      case Command::Kind::step:
      case Command::Kind::close:
        return read(20us);
    }
  }

  void submit(Command& command) {
    command.submission.deadline = -1;
    const Request request = make_request(command.submission, rules_, 0);
    const auto guides = request.mask.empty() ? nullptr : guide_.queue();
    try {
      const RequestId id = loop_.submit(request, queue_, guides);
      ids_[command.a] = id;
      ledger_.accepted(request, id);
      if (guides) guide_.accepted(request, id);
    } catch (const Error& error) {
      const bool known = error.code() == ErrorCode::invalid_argument || error.code() == ErrorCode::overloaded ||
                         error.code() == ErrorCode::closed;
      if (!known) throw;
    }
  }

  void read(std::chrono::nanoseconds timeout) {
    if (!failure_.empty()) return;  // what follows from it would hide it
    try {
      ledger_.take(queue_->poll(timeout));
      if (std::vector<Guidance> answers = guide_.answer(100); !answers.empty()) loop_.guide(std::move(answers));
    } catch (const Error& error) {
      failure_ = error.what();
    }
  }

  RequestId id_of(int label) const {
    const auto found = ids_.find(label);
    return found == ids_.end() ? 1'000'000'000 : found->second;
  }

  StepLoop& loop_;
  History history_;
  Ledger ledger_;
  const Rules rules_;
  ToyGuide guide_{rules_};
  std::shared_ptr<OutputQueue::State> queue_ = std::make_shared<OutputQueue::State>();
  std::map<int, RequestId> ids_;
  std::string failure_;
};

std::vector<std::unique_ptr<User>> make_users(Engine& engine, std::uint64_t seed) {
  std::vector<std::unique_ptr<User>> users;
  for (int i = 0; i < kUsers; ++i) {
    users.push_back(std::make_unique<User>(*engine.loop, shared_settings(), seed * kUsers + i));
  }
  return users;
}

TEST(Stress, UsersWhoDoAsTheyPleaseGetWhatTheyWerePromised) {
  std::int64_t stopped = 0;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Engine engine(shared_settings());
    const auto users = make_users(engine, seed);
    std::vector<std::thread> threads;
    for (const auto& user : users) {
      threads.emplace_back([&user] {
        user->play();
        user->finish();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& user : users) {
      ASSERT_EQ(user->failure(), "") << "seed " << seed;
      stopped += user->num_stopped();
    }
    EXPECT_EQ(engine.loop->health(), Health::serving);
    engine.loop->close();
    const Stats stats = engine.loop->stats();
    EXPECT_EQ(stats.kv_blocks_used, 0);
  }
  EXPECT_GT(stopped, 500);
}

TEST(Stress, AnEngineThatIsClosedUnderItsUsersAnswersThemAll) {
  for (std::uint64_t seed = 101; seed <= 112; ++seed) {
    Engine engine(shared_settings());
    const auto users = make_users(engine, seed);
    for (const auto& user : users) user->expect_end();
    std::vector<std::thread> threads;
    for (const auto& user : users) threads.emplace_back([&user] { user->play(); });
    for (std::uint64_t turn = 0; turn < seed % 12 * 20; ++turn) engine.loop->metrics();
    engine.loop->close();
    for (std::thread& thread : threads) thread.join();
    for (const auto& user : users) {
      user->read_rest();
      ASSERT_EQ(user->failure(), "") << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace warpjet::history
