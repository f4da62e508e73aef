//! `deploy`, the flat keys for limits, `restart`, and rules for updates.

use crate::spec::diagnostics::Span;
use crate::spec::fields::Fields;
use crate::spec::lower::{Context, process};
use crate::spec::stack::*;
use crate::spec::tree::Node;
use crate::spec::units;

/// What `deploy` says, before it is folded into the container.
#[derive(Default)]
pub struct Read {
    pub deploy: Deploy,
    pub replicas: Option<u32>,
    pub restart: Option<Restart>,
    pub resources: Resources,
}

pub fn deploy(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Read> {
    let mut fields = Fields::open(node, path, cx)?;
    let modes = [
        ("replicated", DeployMode::Replicated),
        ("global", DeployMode::Global),
        ("replicated-job", DeployMode::ReplicatedJob),
        ("global-job", DeployMode::GlobalJob),
    ];
    let mut read = Read { replicas: fields.number("replicas", cx), ..Read::default() };
    read.deploy = Deploy {
        mode: fields.choice("mode", &modes, cx).unwrap_or_default(),
        endpoint_mode: fields.word("endpoint_mode", cx),
        labels: fields.map("labels", cx),
        update_config: fields.take("update_config").and_then(|node| update(node, &format!("{path}.update_config"), cx)),
        rollback_config: fields
            .take("rollback_config")
            .and_then(|node| update(node, &format!("{path}.rollback_config"), cx)),
        placement: fields
            .take("placement")
            .and_then(|node| placement(node, &format!("{path}.placement"), cx))
            .unwrap_or_default(),
        reserved_devices: Vec::new(),
    };
    read.restart =
        fields.take("restart_policy").and_then(|node| restart_policy(node, &format!("{path}.restart_policy"), cx));
    if let Some(node) = fields.take("resources") {
        resources(node, &format!("{path}.resources"), &mut read, cx);
    }
    fields.finish(cx);
    Some(read)
}

/// `deploy.update_config`, `deploy.rollback_config` and our `update`.
pub fn update(node: Node, path: &str, cx: &mut Context<'_>) -> Option<UpdateConfig> {
    let mut fields = Fields::open(node, path, cx)?;
    let orders = [("stop-first", UpdateOrder::StopFirst), ("start-first", UpdateOrder::StartFirst)];
    let actions =
        [("pause", FailureAction::Pause), ("continue", FailureAction::Continue), ("rollback", FailureAction::Rollback)];
    let ratio = fields.take("max_failure_ratio");
    let config = UpdateConfig {
        order: fields.choice("order", &orders, cx).unwrap_or_default(),
        parallelism: fields.number("parallelism", cx),
        delay_ms: fields.duration("delay", cx),
        failure_action: fields.choice("failure_action", &actions, cx).unwrap_or_default(),
        monitor_ms: fields.duration("monitor", cx),
        max_failure_ratio_millionths: ratio.and_then(|node| {
            cx.parsed(&node, "a number from 0 to 1", |text| units::millionths(text).filter(|ratio| *ratio <= 1_000_000))
        }),
    };
    fields.finish(cx);
    Some(config)
}

fn placement(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Placement> {
    let mut fields = Fields::open(node, path, cx)?;
    let mut preferences = Vec::new();
    for (index, node) in fields.items("preferences", cx).into_iter().enumerate() {
        let Some(mut inner) = Fields::open(node, &format!("{path}.preferences.{index}"), cx) else { continue };
        preferences.extend(inner.word("spread", cx));
        inner.finish(cx);
    }
    let constraints = fields.list("constraints", cx);
    let placement =
        Placement { constraints, preferences, max_replicas_per_node: fields.number("max_replicas_per_node", cx) };
    fields.finish(cx);
    Some(placement)
}

/// Docker's reading: `any` (and nothing) is `always`.
fn restart_policy(node: Node, path: &str, cx: &mut Context<'_>) -> Option<Restart> {
    #[derive(Clone, Copy)]
    enum When {
        Never,
        OnFailure,
        Any,
        UnlessStopped,
    }
    let mut fields = Fields::open(node, path, cx)?;
    let words = [
        ("none", When::Never),
        ("on-failure", When::OnFailure),
        ("any", When::Any),
        ("no", When::Never),
        ("always", When::Any),
        ("unless-stopped", When::UnlessStopped),
    ];
    let when = fields.choice("condition", &words, cx).unwrap_or(When::Any);
    let max_retries = fields.number("max_attempts", cx).filter(|count| *count > 0);
    let policy = match when {
        When::Never => RestartPolicy::No,
        When::OnFailure => RestartPolicy::OnFailure { max_retries },
        When::Any => RestartPolicy::Always,
        When::UnlessStopped => RestartPolicy::UnlessStopped,
    };
    let restart = Restart { policy, delay_ms: fields.duration("delay", cx), window_ms: fields.duration("window", cx) };
    fields.finish(cx);
    Some(restart)
}

/// `restart`.
pub fn restart(node: &Node, cx: &mut Context<'_>) -> Option<Restart> {
    let text = cx.text(node)?;
    let policy = match text.split_once(':').map_or((text.as_str(), None), |(word, count)| (word, Some(count))) {
        ("" | "no", None) => RestartPolicy::No,
        ("always", None) => RestartPolicy::Always,
        ("unless-stopped", None) => RestartPolicy::UnlessStopped,
        ("on-failure", None) => RestartPolicy::OnFailure { max_retries: None },
        ("on-failure", Some(count)) => {
            let count: u32 =
                cx.parsed(&Node::scalar(node.span, count), "a number of attempts", |text| text.parse().ok())?;
            RestartPolicy::OnFailure { max_retries: Some(count).filter(|count| *count > 0) }
        }
        _ => {
            let help = crate::spec::diagnostics::did_you_mean(&text, ["no", "always", "unless-stopped", "on-failure"]);
            let help = help.unwrap_or("write \"no\", always, unless-stopped or on-failure[:N]".into());
            cx.error_help(format!("`{text}` is not a restart policy"), node.span, help);
            return None;
        }
    };
    Some(Restart { policy, delay_ms: None, window_ms: None })
}

fn resources(node: Node, path: &str, read: &mut Read, cx: &mut Context<'_>) {
    let Some(mut fields) = Fields::open(node, path, cx) else { return };
    if let Some(mut limits) = fields.take("limits").and_then(|node| Fields::open(node, &format!("{path}.limits"), cx)) {
        read.resources.nano_cpus = limits.take("cpus").and_then(|node| cpus(&node, cx));
        read.resources.memory_bytes = limits.bytes("memory", cx);
        read.resources.pids = limits.take("pids").and_then(|node| pids(&node, cx));
        limits.finish(cx);
    }
    if let Some(mut reserved) =
        fields.take("reservations").and_then(|node| Fields::open(node, &format!("{path}.reservations"), cx))
    {
        read.resources.nano_cpus_reservation = reserved.take("cpus").and_then(|node| cpus(&node, cx));
        read.resources.memory_reservation_bytes = reserved.bytes("memory", cx);
        let devices = reserved.take("devices");
        read.deploy.reserved_devices =
            devices.map(|node| device_requests(node, &format!("{path}.reservations.devices"), cx)).unwrap_or_default();
        reserved.not_honoured("generic_resources", "generic resources are Swarm's", cx);
        reserved.finish(cx);
    }
    fields.finish(cx);
}

/// `gpus`: `all`, or a list of requests.
pub fn gpus(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<DeviceRequest> {
    match node.text() {
        Some("all") => vec![DeviceRequest { capabilities: vec!["gpu".into()], ..DeviceRequest::default() }],
        _ => device_requests(node, path, cx),
    }
}

fn device_requests(node: Node, path: &str, cx: &mut Context<'_>) -> Vec<DeviceRequest> {
    let items = cx.items(node).into_iter().enumerate();
    items.filter_map(|(index, item)| device_request(item, &format!("{path}.{index}"), cx)).collect()
}

fn device_request(node: Node, path: &str, cx: &mut Context<'_>) -> Option<DeviceRequest> {
    let span = node.span;
    let mut fields = Fields::open(node, path, cx)?;
    let count = fields.take("count").filter(|node| node.text() != Some("all"));
    let request = DeviceRequest {
        driver: fields.word("driver", cx),
        count: count.and_then(|node| cx.number(&node)),
        device_ids: fields.list("device_ids", cx),
        capabilities: fields.list("capabilities", cx),
        options: fields.map("options", cx),
    };
    fields.finish(cx);
    if request.count.is_some() && !request.device_ids.is_empty() {
        cx.error("`count` and `device_ids` exclude each other", span);
    }
    Some(request)
}

fn cpus(node: &Node, cx: &mut Context<'_>) -> Option<u64> {
    cx.parsed(node, "a number of CPUs such as 0.5", units::nanos).filter(|nanos| *nanos > 0)
}

/// 0 and -1 are no limit.
fn pids(node: &Node, cx: &mut Context<'_>) -> Option<Limit> {
    process::limit(node, cx).map(|limit| if limit == Limit::Of(0) { Limit::Unlimited } else { limit })
}

/// Two keys for one thing say different things.
pub fn differ(key: &str, other: &str, span: Span, cx: &mut Context<'_>) {
    cx.error_help(format!("`{key}` and `{other}` say different things"), span, "write one of them");
}

/// The value of a flat key, or what `deploy.resources` says; both, where they say the same.
fn flat_or<T: PartialEq>(
    fields: &mut Fields,
    (key, other): (&'static str, &str),
    over: Option<T>,
    cx: &mut Context<'_>,
    read: impl FnOnce(&Node, &mut Context<'_>) -> Option<T>,
) -> Option<T> {
    let Some(node) = fields.take(key) else { return over };
    let own = read(&node, cx);
    if own.is_some() && over.is_some() && own != over {
        differ(key, &format!("deploy.resources.{other}"), node.span, cx);
    }
    over.or(own)
}

fn flat_bytes(node: &Node, cx: &mut Context<'_>) -> Option<u64> {
    cx.bytes(node).filter(|bytes| *bytes > 0)
}

/// The flat keys, over which `deploy.resources` wins.
pub fn flat(fields: &mut Fields, over: Resources, cx: &mut Context<'_>) -> Resources {
    let memory = flat_or(fields, ("mem_limit", "limits.memory"), over.memory_bytes, cx, flat_bytes);
    let reservation =
        flat_or(fields, ("mem_reservation", "reservations.memory"), over.memory_reservation_bytes, cx, flat_bytes);
    let nano_cpus = flat_or(fields, ("cpus", "limits.cpus"), over.nano_cpus, cx, cpus);
    let pids = flat_or(fields, ("pids_limit", "limits.pids"), over.pids, cx, pids);
    let swap = fields.take("memswap_limit");
    let swap_span = swap.as_ref().map(|node| node.span);
    let resources = Resources {
        memory_bytes: memory,
        memory_reservation_bytes: reservation,
        memory_swap_bytes: swap.and_then(|node| swap_limit(&node, cx)),
        memory_swappiness: fields.take("mem_swappiness").and_then(|node| {
            cx.parsed(&node, "a number from 0 to 100", |text| text.parse().ok().filter(|value: &u8| *value <= 100))
        }),
        nano_cpus,
        nano_cpus_reservation: over.nano_cpus_reservation,
        cpu_shares: fields.number("cpu_shares", cx).filter(|shares| *shares > 0),
        cpu_quota_us: fields
            .take("cpu_quota")
            .and_then(|node| microseconds(&node, cx))
            .and_then(|us| i64::try_from(us).ok()),
        cpu_period_us: fields.take("cpu_period").and_then(|node| microseconds(&node, cx)),
        cpuset: fields.take("cpuset").and_then(|node| cx.parsed(&node, "a list of CPUs such as 0-3,5", cpuset)),
        pids,
        oom_score_adj: fields.take("oom_score_adj").and_then(|node| {
            cx.parsed(&node, "a number from -1000 to 1000", |text| {
                text.parse().ok().filter(|value| (-1000..=1000).contains(value))
            })
        }),
        oom_kill_disable: fields.flag("oom_kill_disable", cx).unwrap_or_default(),
    };
    check(&resources, swap_span.unwrap_or(fields.span), cx);
    resources
}

fn check(resources: &Resources, span: Span, cx: &mut Context<'_>) {
    let Some(memory) = resources.memory_bytes else { return };
    if let Some(Limit::Of(swap)) = resources.memory_swap_bytes
        && swap < memory
    {
        cx.error_help(
            "`memswap_limit` is below the memory limit",
            span,
            "it is memory and swap together; -1 is no limit",
        );
    }
    if resources.memory_reservation_bytes.is_some_and(|reserved| reserved > memory) {
        cx.error("the memory reservation is above the memory limit", span);
    }
}

fn swap_limit(node: &Node, cx: &mut Context<'_>) -> Option<Limit> {
    cx.parsed(node, "a size such as 1g, or -1 for no limit", |text| match text.trim() {
        "-1" => Some(Some(Limit::Unlimited)),
        text => units::bytes(text).map(|bytes| (bytes > 0).then_some(Limit::Of(bytes))),
    })
    .flatten()
}

/// A bare number is in microseconds.
fn microseconds(node: &Node, cx: &mut Context<'_>) -> Option<u64> {
    let parse = |text: &str| text.parse().ok().or_else(|| units::duration_ms(text).and_then(|ms| ms.checked_mul(1000)));
    cx.parsed(node, "a time such as 50ms, or a number of microseconds", parse).filter(|us| *us > 0)
}

fn cpuset(text: &str) -> Option<String> {
    let number = |text: &str| text.parse::<u16>().ok();
    let good = |part: &str| match part.split_once('-') {
        Some((start, end)) => number(start).zip(number(end)).is_some_and(|(start, end)| start <= end),
        None => number(part).is_some(),
    };
    text.split(',').all(|part| good(part.trim())).then(|| text.replace(' ', ""))
}
