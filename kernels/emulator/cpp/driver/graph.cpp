#include "graph.h"

#include "control.h"

using namespace driver;

API cuGraphInstantiateWithFlags(void** out, void* graph, u64) {
    IN_CONTEXT(now);
    if (graph == nullptr) return INVALID_VALUE;
    *out = new std::shared_ptr<Graph>(new Graph(*static_cast<Graph*>(graph)));
    return SUCCESS;
}

API cuGraphUpload(void*, void*) { return SUCCESS; }

API cuGraphLaunch(void* executable, void* stream) {
    IN_CONTEXT(now);
    if (executable == nullptr) return INVALID_VALUE;
    counters.graph_launches++;
    auto graph = *static_cast<std::shared_ptr<Graph>*>(executable);
    return enqueue(stream, [graph] {
        for (const Work& node : graph->nodes) node();
    });
}

API cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
    if (graph == nullptr || nodes != nullptr) return INVALID_VALUE; // only the count is known
    *count = static_cast<Graph*>(graph)->nodes.size();
    return SUCCESS;
}

API cuGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return SUCCESS;
}

API cuGraphExecDestroy(void* executable) {
    delete static_cast<std::shared_ptr<Graph>*>(executable);
    return SUCCESS;
}
