// Streams: work in order, on a thread of its own, while the host goes on.
//
// The null stream's work is done before the call returns, after that of all streams that are not "non-blocking".
#pragma once

#include <functional>

#include "device.h"

namespace driver {

using Work = std::function<void()>;

// Hands work to the stream, or to the graph the stream is recorded into.
Status enqueue(void* stream, Work work);
// Waits until the stream has done what it was given.
Status wait_for(void* stream);
void wait_for_streams(const Device& device, bool only_blocking);

bool is_stream(void* stream);
bool is_capturing(void* stream);
bool is_capturing(); // any stream
// A call that would disturb a capture in this thread's mode makes that capture invalid.
bool allowed_while_capturing();

} // namespace driver
