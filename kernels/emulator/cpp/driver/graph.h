// Graphs: work recorded in the order of capture, done in that order at each launch.
#pragma once

#include <memory>
#include <vector>

#include "stream.h"

namespace driver {

struct Graph {
    std::vector<Work> nodes;
    bool valid = true; // false: something happened during capture that may not
};

// The graph a stream is recorded into; null if it is not.
std::shared_ptr<Graph> capture_of(void* stream);
// The stream's work becomes part of a capture that began elsewhere.
void join_capture(void* stream, std::shared_ptr<Graph> graph);

} // namespace driver
