//! What a container uses, in the words of runc's `events --stats`.

use serde_json::{Value, json};

use super::State;

/// One event of the kind `stats`.
pub fn statistics(state: &State) -> Value {
    let stats = state.group().stats();
    json!({"type": "stats", "id": state.id, "data": {
        "cpu": {"usage": {"total": stats.cpu_ns}},
        "memory": {"usage": {"usage": stats.memory_bytes, "limit": stats.memory_limit.unwrap_or(u64::MAX)}},
        "pids": {"current": stats.processes},
        "blkio": {"ioServiceBytesRecursive": [
            {"op": "Read", "value": stats.read_bytes}, {"op": "Write", "value": stats.written_bytes}]},
    }})
}
