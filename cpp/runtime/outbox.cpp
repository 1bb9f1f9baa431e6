#include "runtime/outbox.h"

#include <new>

namespace warpjet {

void Outbox::push(const Reader& reader, Speech& speech, OutputEvent& event) {
  OutputQueue::State& queue = *reader.queue;
  if (!queue.in_delivery) {
    delivery_.push_back(reader.queue);
    queue.in_delivery = true;
  }
  const bool begins = speech.step != step_;
  event.sequence = begins ? speech.outputs : speech.outputs - 1;
  queue.push(std::move(event));
  speech.outputs += begins;
  speech.step = step_;
}

void Outbox::push_final(const Reader& reader, Speech& speech, RequestId id, std::int32_t sample) {
  OutputEvent event = {.id = id, .credit = reader.credit, .sample = sample, .details = std::move(speech.final)};
  try {
    push(reader, speech, event);
  } catch (const std::bad_alloc&) {  // it will be tried again
    speech.final = std::move(event.details);
    throw;
  }
}

void Outbox::deliver() {
  for (const auto& queue : delivery_) {
    queue->in_delivery = false;
    queue->publish();
  }
  delivery_.clear();
  begin_step();
}

}  // namespace warpjet
